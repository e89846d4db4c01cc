"""The gap: exact where it can be, and a bracket that says so where it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dipod.drift.gap import (
    RANDOM_ORDER,
    Decoding,
    bounds,
    bracket_rows,
    exact_rows,
    gap_lower_bound,
    measure_gap,
)
from dipod.errors import UserError
from dipod.likelihood.evidence import Score
from dipod.likelihood.exact import exact_likelihood
from dipod.likelihood.paths import order_log_weights, path_log_weights, random_orders
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from tests.conftest import blank, build_policy, every_completion, noise, prompts


def test_short_completions_are_measured_exactly() -> None:
    action = Tokens.full(every_completion(4)[::9])
    score = build_policy(4).score(prompts(len(action)), action)
    measured = measure_gap(score, action.valid, noise(len(action)), exact_tokens=4)
    with torch.no_grad():
        expected = exact_likelihood(score, action.valid)
    assert measured.kind == "exact"
    assert measured.gap == pytest.approx(float(expected.gap.mean()))
    assert measured.elbo == pytest.approx(float(expected.elbo.mean()))


def test_long_completions_get_a_lower_bound_that_says_so() -> None:
    action = Tokens.full(every_completion(4)[::9])
    score = build_policy(4).score(prompts(len(action)), action)
    exact = float(exact_likelihood(score, action.valid).gap.mean().detach())
    few = measure_gap(score, action.valid, noise(len(action)), exact_tokens=3, paths=2)
    many = measure_gap(score, action.valid, noise(len(action)), exact_tokens=3, paths=64)
    assert few.kind == many.kind == "lower_bound"
    assert 0 < few.gap < many.gap < 1.1 * exact
    assert many.gap > 0.7 * exact


def test_lower_bound_is_below_the_gap_in_expectation_and_never_negative() -> None:
    action = Tokens.full(every_completion(5)[[100, 7]])
    score = build_policy(5).score(prompts(2), action)
    with torch.no_grad():
        weights = path_log_weights(score, action.valid, 4000, noise(2))
        exact = exact_likelihood(score, action.valid).gap
    bounds = gap_lower_bound(weights.reshape(2, 1000, 4))
    assert (bounds >= -1e-12).all()
    error = bounds.std(-1) / 1000**0.5
    assert (bounds.mean(-1) <= exact + 2 * error).all()
    assert (gap_lower_bound(weights) > bounds.mean(-1)).all()


def own_samples(length: int, count: int, sharpness: float) -> tuple[Score, Tensor, Tensor]:
    """A random policy on its own samples: score, valid, and the orders by which they came."""
    policy, valid = build_policy(length, sharpness=sharpness), torch.ones(count, length, dtype=torch.bool)
    sample = policy.sample(prompts(count), blank(valid), SamplerConfig(), noise(count))
    return policy.score(prompts(count), Tokens(sample.ids, valid)), valid, sample.order


@pytest.mark.parametrize("sharpness", [8.0, 60.0])
def test_the_bracket_of_own_samples_holds_the_exact_gap_and_closes_in(sharpness: float) -> None:
    score, valid, order = own_samples(8, 200, sharpness)
    exact = measure_gap(score, valid, noise(200))
    widths = []
    for paths in (2, 8, 32):
        found = measure_gap(score, valid, noise(200, seed=1), exact_tokens=0, paths=paths, own_order=order)
        assert found.kind == "bracket"
        assert found.high is not None
        assert found.low - 3 * found.low_error < exact.gap < found.high + 3 * found.high_error
        assert found.low <= found.gap <= found.high
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.15 * exact.gap


def test_another_decoding_is_held_against_the_same_elbo() -> None:
    """In blocks of one token the policy is autoregressive: its log π is one order's, known exactly."""
    score, valid, _ = own_samples(5, 40, 20.0)
    left_to_right = torch.arange(5).expand(40, 1, 5)
    with torch.no_grad():
        log_prob = order_log_weights(score, left_to_right)[:, 0]
        elbo = exact_likelihood(score, valid).elbo
    found = bounds(score, valid, noise(40), 600, left_to_right[:, 0], Decoding(blocks=5))
    torch.testing.assert_close(found.low, log_prob)
    torch.testing.assert_close(found.high, log_prob)
    assert abs(float((found.elbo - elbo).mean())) < 0.05


def test_the_cost_is_known_beforehand() -> None:
    score, valid, _ = own_samples(6, 3, 8.0)
    seen = []

    def counted(rows: Tensor, masked: Tensor) -> Tensor:
        seen.append(len(rows))
        return score(rows, masked)

    for decoding in (RANDOM_ORDER, Decoding(blocks=2, steps=1)):
        order = random_orders(valid, 1, noise(3), decoding.blocks, decoding.steps)[:, 0]
        for own in (None, order):
            seen.clear()
            bounds(counted, valid, noise(3), 4, own, decoding)
            assert sum(seen) == 3 * bracket_rows(6, 4, own is not None, decoding)
    seen.clear()
    measure_gap(counted, valid, noise(3))
    assert sum(seen) == 3 * exact_rows(6)


def test_one_path_says_nothing() -> None:
    score, valid, _ = own_samples(4, 2, 8.0)
    with pytest.raises(UserError, match="paths = 1"):
        measure_gap(score, valid, noise(2), exact_tokens=0, paths=1)
