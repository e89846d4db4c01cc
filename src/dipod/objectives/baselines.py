"""Baselines: what is taken from the reward to make the advantage. ``reward`` is [groups, G]; so is the result."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dipod.errors import require

Baseline = Callable[[Tensor], Tensor]
"""``baseline(reward [groups, G]) -> advantage [groups, G]``."""


def exact_expectation(reward: Tensor, probabilities: Tensor) -> Tensor:
    """A(a) = r(a) - Σ_a' π(a') r(a'): the advantage when every action can be enumerated, [..., actions]."""
    return reward - (probabilities * reward).sum(-1, keepdim=True)


def group_mean(reward: Tensor) -> Tensor:
    """A_i = r_i - mean of the group: GRPO without its division (what d1 and SPG use)."""
    return reward - reward.mean(-1, keepdim=True)


def leave_one_out(reward: Tensor) -> Tensor:
    """A_i = r_i - mean of the others in the group: unbiased, G/(G-1) times `group_mean`.

    Raises:
        UserError: groups of one.
    """
    size = reward.shape[-1]
    require(size >= 2, "group_size", size, "leaving one out needs groups of at least two rollouts")
    return group_mean(reward) * (size / (size - 1))


def scale_by_std(advantage: Tensor, reward: Tensor, sample: bool = False, epsilon: float = 1e-4) -> Tensor:
    """A_i / (standard deviation of the group's rewards + ε), GRPO (paper B.1).

    A group whose rewards are all equal has advantages of zero and keeps them.

    Args:
        advantage: [groups, G].
        reward: [groups, G].
        sample: divide the squared deviations by G-1, as TRL does, in place of G.
        epsilon: keeps groups of equal rewards finite.
    """
    return advantage / (group_mean(reward).std(-1, unbiased=sample, keepdim=True) + epsilon)


def weigh_negatives(advantage: Tensor, weight: float) -> Tensor:
    """A_i where it is positive, ω·A_i where it is negative.

    A negative advantage pushes a bound down, which the policy can also do by loosening it; with ω < 1 less is asked of
    that, and the baseline is no longer what makes the mean advantage zero.
    """
    return advantage.where(advantage > 0, weight * advantage)


def contrast(reward: Tensor, negative: float = 1.0) -> Tensor:
    """wd1's weights: G·(softmax(A) - ω·softmax(-A)) over the group, with A = r - mean of the group.

    With ω = ``negative`` = 1, a group whose rewards are all equal weighs nothing and small advantages weigh about 2A;
    ω = 0 keeps the positive weights only (they sum to G whatever the rewards). The factor G makes the mean over
    rollouts of weight x log-probability wd1's loss, which sums over a group.
    """
    advantage = group_mean(reward)
    weight: Tensor = advantage.softmax(-1) - negative * (-advantage).softmax(-1)
    return reward.shape[-1] * weight
