"""The gap: exact where it can be, and a bracket that says so where it cannot."""

from __future__ import annotations

import pytest
import torch

from dipod.drift import gap_lower_bound, measure_gap
from dipod.likelihood.exact import exact_likelihood
from dipod.likelihood.masked import path_log_weights
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, noise, prompts


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
