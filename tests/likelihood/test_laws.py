"""The laws of corruption processes against what the processes draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.exact import all_corruptions
from dipod.likelihood.laws import expected_weights, tuples, units_of
from tests.conftest import noise

COUNTED = torch.tensor([True, True, False, True, True])  # blocks of 2: the first full, the second half, the third one
CONFIGS = [
    CorruptionConfig("independent", 2),
    CorruptionConfig("antithetic", 2),
    CorruptionConfig("stratified", 3),
    CorruptionConfig("complement", 2),
    CorruptionConfig("quadrature", 2),
    CorruptionConfig("released-fpo", 2),
    CorruptionConfig("all-masked", 1),
    CorruptionConfig("coupled", 3),
    CorruptionConfig("structured", 1),
    CorruptionConfig("block-all", 2, block_length=2),
    CorruptionConfig("block-random", 2, block_length=2),
    CorruptionConfig("block-random", 2),
]
DRAWS = 6000


def drawn(config: CorruptionConfig) -> tuple[Tensor, Tensor]:
    """Sets [DRAWS, K] of the counted tokens, and weights."""
    found = draw(config, COUNTED.expand(DRAWS, -1), None, noise(DRAWS))
    assert not found.masked[:, :, ~COUNTED].any()
    return (found.masked[:, :, COUNTED] * 2 ** torch.arange(4)).sum(-1), found.weights.double()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.scheme}-{c.block_length}")
def test_the_expected_weights_are_those_of_many_draws(config: CorruptionConfig) -> None:
    sets, weights = drawn(config)
    each = torch.zeros(DRAWS, 16, dtype=torch.float64)
    each.scatter_add_(1, sets, weights / config.samples)
    mean, error = each.mean(0)[1:], each.std(0)[1:] / DRAWS**0.5
    expected = expected_weights(config, COUNTED)
    assert bool(((mean - expected).abs() <= 4 * error + 1e-6).all())


@pytest.mark.parametrize("config", [c for c in CONFIGS if units_of(c, COUNTED)], ids=lambda c: f"{c.scheme}")
def test_sets_of_masks_come_as_often_as_they_are_drawn(config: CorruptionConfig) -> None:
    sets, weights = drawn(config)
    parts = tuples(config, COUNTED, at_a_time=7)
    assert parts is not None
    chances: dict[tuple[int, ...], float] = {}
    for part in parts:
        for row, weight, chance in zip(part.sets, part.weights, part.probability.tolist(), strict=True):
            key = tuple(sorted(row.tolist()))
            chances[key] = chances.get(key, 0.0) + chance
            same = (sets == row).all(-1)
            if bool(same.any()):
                assert torch.allclose(weights[same] * (row > 0), (weight * (row > 0)).expand(int(same.sum()), -1))
    assert sum(chances.values()) == pytest.approx(1.0)
    for key, chance in chances.items():
        share = float((sets.sort(-1).values == torch.tensor(key)).all(-1).double().mean())
        assert abs(share - chance) <= 4.5 * (chance * (1 - chance) / DRAWS) ** 0.5 + 1e-9


def test_triples_count_their_repetitions() -> None:
    config, one = CorruptionConfig("independent", 3), torch.ones(2, dtype=torch.bool)
    units, parts = units_of(config, one), tuples(config, one)
    assert units is not None
    assert parts is not None
    found = next(parts)
    chance = dict(zip(map(tuple, found.sets.tolist()), found.probability.tolist(), strict=True))
    assert sum(chance.values()) == pytest.approx(1.0)
    assert chance[(1, 1, 1)] == pytest.approx(0.25**3)
    assert chance[(1, 1, 2)] == pytest.approx(3 * 0.25**3)
    assert chance[(1, 2, 3)] == pytest.approx(6 * 0.25 * 0.25 * 0.5)


@pytest.mark.parametrize("scheme", ["independent", "antithetic", "stratified", "complement", "structured"])
def test_processes_that_bound_weigh_every_mask_as_the_elbo_does(scheme: str) -> None:
    config = replace(CorruptionConfig("independent", 2), scheme=scheme)  # type: ignore[arg-type]
    exact = all_corruptions(4, 1).weights[0] / 15
    assert torch.allclose(expected_weights(config, COUNTED), exact)


def test_too_many_sets_are_not_enumerated() -> None:
    many = torch.ones(10, dtype=torch.bool)
    assert tuples(CorruptionConfig("independent", 4), many) is None
    assert tuples(CorruptionConfig("antithetic", 2), many) is not None
    assert tuples(CorruptionConfig("stratified", 2), COUNTED) is None
