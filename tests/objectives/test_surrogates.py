"""Surrogates against PyTorch-free formulas and against their law at ratio one."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dipod.errors import UserError
from dipod.objectives.surrogates import (
    Surrogate,
    aspo,
    bounded_weight,
    clip_fractions,
    plain,
    ppo_clip,
    spo,
)

SURROGATES: dict[str, Surrogate] = {
    "plain": plain,
    "ppo": partial(ppo_clip, clip=0.2),
    "spo": partial(spo, clip=0.2),
    "aspo": partial(aspo, clip=0.2),
    "bounded": partial(bounded_weight, clip=0.2),
}


def gradient(surrogate: Surrogate, ratio: float, advantage: float) -> float:
    """D objective / d new at a ratio."""
    new = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    surrogate(new, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage])).sum().backward()
    assert new.grad is not None
    return float(new.grad)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("advantage", [-2.0, 0.5])
def test_gradient_at_ratio_one_is_the_advantage(name: str, advantage: float) -> None:
    assert gradient(SURROGATES[name], 1.0, advantage) == pytest.approx(advantage)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.3, 1.0, 0.0), (0.7, 1.0, 0.7), (1.3, -1.0, -1.3), (0.7, -1.0, 0.0)],
)
def test_ppo_stops_only_where_the_update_has_gone_far_enough(ratio: float, advantage: float, expected: float) -> None:
    assert gradient(SURROGATES["ppo"], ratio, advantage) == pytest.approx(expected)


@pytest.mark.parametrize(("ratio", "weight"), [(0.1, 0.8), (0.9, 0.9), (1.3, 1.2), (50.0, 1.2)])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_bounded_weight_keeps_every_action_and_outweighs_none(ratio: float, weight: float, advantage: float) -> None:
    assert gradient(SURROGATES["bounded"], ratio, advantage) == pytest.approx(weight * advantage)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 2.0), (0.6, -2.0), (0.8, -1.0)])
def test_spo_gradient_is_the_papers(ratio: float, advantage: float) -> None:
    """[ρA - |A|/ε·ρ(ρ-1)] (paper B.1); for A < 0 it vanishes at ρ = 1 - ε."""
    expected = ratio * advantage - abs(advantage) / 0.2 * ratio * (ratio - 1)
    assert gradient(SURROGATES["spo"], ratio, advantage) == pytest.approx(expected)
    assert gradient(SURROGATES["spo"], 0.8, -1.0) == pytest.approx(0.0)


def test_aspo_is_ppo_above_and_spo_below() -> None:
    new = torch.tensor([0.3, 0.3, -0.5, -0.5])
    old, advantage = torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0])
    mixed = aspo(new, old, advantage, 0.2)
    torch.testing.assert_close(mixed[[0, 2]], ppo_clip(new, old, advantage, 0.2)[[0, 2]])
    torch.testing.assert_close(mixed[[1, 3]], spo(new, old, advantage, 0.2)[[1, 3]])


def test_further_axes_broadcast() -> None:
    new = torch.zeros(3, 5)
    assert ppo_clip(new, new, torch.ones(3, 1)).shape == (3, 5)


def test_clip_fractions_by_sign() -> None:
    new = torch.tensor([1.5, 1.0, 0.5, 1.0, 1.0]).log()
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0])
    assert clip_fractions(new, torch.zeros(5), advantage, 0.2) == (0.5, 0.5)
    assert clip_fractions(new, torch.zeros(5), torch.ones(5), 0.2)[1] == 0.0


def test_clip_range_must_be_positive() -> None:
    with pytest.raises(UserError, match="clip = 0"):
        ppo_clip(torch.zeros(1), torch.zeros(1), torch.ones(1), clip=0.0)
