"""Baselines against their definitions, and the law that an exact baseline leaves no mean."""

from __future__ import annotations

import statistics

import pytest
import torch

from dipod.errors import UserError
from dipod.objectives.baselines import (
    Baseline,
    exact_expectation,
    group_mean,
    leave_one_out,
    scale_by_std,
    weigh_negatives,
)


def test_exact_expectation_has_mean_zero_under_the_policy() -> None:
    reward = torch.tensor([0.8, 1.0, 0.7, 1.0])
    policy = torch.tensor([0.1, 0.2, 0.3, 0.4])
    advantage = exact_expectation(reward, policy)
    assert float(policy @ advantage) == pytest.approx(0.0, abs=1e-7)
    torch.testing.assert_close(reward - advantage, torch.full((4,), 0.89))


def test_group_mean_and_leave_one_out_by_hand() -> None:
    reward = torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0]])
    torch.testing.assert_close(group_mean(reward), torch.tensor([[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(leave_one_out(reward)[0], torch.tensor([0.75, -0.75, 0.0]))


def test_scaled_advantages_have_unit_spread_and_keep_empty_groups_at_zero() -> None:
    reward = torch.tensor([[1.0, 0.0, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2]])
    advantage = scale_by_std(group_mean(reward), reward)
    assert float(advantage[0].std(unbiased=False)) == pytest.approx(1.0, abs=1e-3)
    assert advantage[1].tolist() == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("baseline", [group_mean, leave_one_out])
def test_the_sample_deviation_is_that_of_the_rewards_as_in_the_published_trainers(baseline: Baseline) -> None:
    """TRL, ESPO and DiffuCoder divide by the rewards' own deviation over G-1, whatever the baseline."""
    reward = [0.9, 0.0, 0.5, 0.1, 0.3]
    others = [(sum(reward) - r) / 4 if baseline is leave_one_out else sum(reward) / 5 for r in reward]
    by_hand = [(r - other) / (statistics.stdev(reward) + 1e-4) for r, other in zip(reward, others, strict=True)]
    found = scale_by_std(baseline(torch.tensor([reward])), torch.tensor([reward]), sample=True)
    assert found[0].tolist() == pytest.approx(by_hand, rel=1e-5)


def test_negative_advantages_weigh_what_they_are_told_to() -> None:
    advantage = torch.tensor([[0.5, -0.5, 0.0]])
    assert weigh_negatives(advantage, 0.25).tolist() == [[0.5, -0.125, 0.0]]
    assert weigh_negatives(advantage, 0.0).tolist() == [[0.5, 0.0, 0.0]]
    assert torch.equal(weigh_negatives(advantage, 1.0), advantage)


def test_leaving_one_out_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="group_size = 1"):
        leave_one_out(torch.zeros(3, 1))
