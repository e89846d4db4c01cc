"""Generalised advantage estimation against its definition, and what ends of episodes do to it."""

from __future__ import annotations

import pytest
import torch

from dipod.errors import UserError
from dipod.noise import keyed_generator
from dipod.objectives.returns import generalised_advantages, standardise


def by_definition(
    reward: list[float],
    value: list[float],
    following: list[float],
    terminated: list[bool],
    truncated: list[bool],
    discount: float = 0.9,
    trace: float = 0.8,
) -> list[float]:
    """The sum over l, one start at a time."""
    steps = len(reward)
    found = []
    for start in range(steps):
        total, weight = 0.0, 1.0
        for step in range(start, steps):
            bootstrap = 0.0 if terminated[step] else following[step]
            total += weight * (reward[step] + discount * bootstrap - value[step])
            if terminated[step] or truncated[step]:
                break
            weight *= discount * trace
        found.append(total)
    return found


def test_advantages_are_the_sum_of_their_definition() -> None:
    generator = keyed_generator(0)
    reward, value, following = torch.randn(3, 12, 5, generator=generator, dtype=torch.float64)
    terminated, truncated = torch.rand(2, 12, 5, generator=generator) < 0.15
    advantage, returns = generalised_advantages(reward, value, following, terminated, truncated, 0.9, 0.8)
    for column in range(5):
        numbers = [part[:, column].tolist() for part in (reward, value, following)]
        flags = [part[:, column].tolist() for part in (terminated, truncated)]
        expected = by_definition(*numbers, *flags)
        assert advantage[:, column].tolist() == pytest.approx(expected)
    torch.testing.assert_close(returns, advantage + value)


def test_with_trace_one_the_return_is_the_discounted_reward() -> None:
    reward, zero = torch.ones(4, 1), torch.zeros(4, 1)
    never = torch.zeros(4, 1, dtype=torch.bool)
    last = never.clone()
    last[-1] = True
    _, returns = generalised_advantages(reward, zero, zero, last, never, 0.5, 1.0)
    assert returns[:, 0].tolist() == [1.875, 1.75, 1.5, 1.0]
    _, cut = generalised_advantages(reward, zero, 8 * torch.ones(4, 1), never, last, 0.5, 0.0)
    assert cut[-1].item() == 5.0, "a time limit keeps the value of what was cut off"


def test_standardise_and_refusals() -> None:
    scaled = standardise(torch.tensor([1.0, 2.0, 9.0]), limit=1.0)
    assert float(scaled.max()) == 1.0
    assert standardise(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-0.70711, 0.70711], abs=1e-4)
    zero, never = torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    with pytest.raises(UserError, match=r"trainer\.discount = 1\.5"):
        generalised_advantages(zero, zero, zero, never, never, discount=1.5)
