"""Advantages of control: generalised advantage estimation with a critic's values."""

from __future__ import annotations

import torch
from torch import Tensor

from dipod.errors import require


def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    following: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    discount: float = 0.99,
    trace: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Â_t = Σ_l (γλ)^l δ_{t+l} within an episode, with δ_t = r_t + γ·V(s_{t+1})·[not terminated] - V(s_t).

    A time limit does not end the task: its δ keeps the value of the state that was cut off, and the sum stops there.

    Args:
        reward: [T, N].
        value: [T, N], V(s_t).
        following: [T, N], V of the state that the action led to, before any reset.
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        discount: γ.
        trace: λ.

    Returns:
        Advantages and returns (advantage + value), [T, N] each.
    """
    require(0 <= discount <= 1, "trainer.discount", discount, "give a number from 0 to 1")
    require(0 <= trace <= 1, "trainer.trace", trace, "give a number from 0 to 1")
    delta = reward + discount * following * ~terminated - value
    goes_on = (~(terminated | truncated)).to(reward.dtype)
    advantage = torch.zeros_like(reward)
    carried = torch.zeros_like(reward[0])
    for step in range(len(reward) - 1, -1, -1):
        carried = delta[step] + discount * trace * goes_on[step] * carried
        advantage[step] = carried
    return advantage, advantage + value


def standardise(advantage: Tensor, limit: float = 0.0) -> Tensor:
    """(Â - mean) / (std + 1e-8) over all entries, then within ±limit (0: no limit)."""
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    return scaled.clamp(-limit, limit) if limit else scaled
