"""Corruption samples: unbiased in every scheme, and shaped as they say."""

from __future__ import annotations

import pytest
import torch

from dipod.errors import UserError
from dipod.likelihood.evidence import Scheme, evaluate, sample_corruption
from dipod.likelihood.exact import exact_likelihood
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, prompts

SCHEMES: list[Scheme] = ["independent", "antithetic", "stratified"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_monte_carlo_elbo_is_unbiased(scheme: Scheme, generator: torch.Generator) -> None:
    """Mean of many estimates within four standard errors of the exact ELBO, for rows of several lengths."""
    policy = build_policy(5)
    valid = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    action = Tokens(every_completion(5)[[200, 31, 99]], valid)
    score = policy.score(prompts(3), action)
    with torch.no_grad():
        exact = exact_likelihood(score, valid).elbo
        draws = torch.stack(
            [evaluate(score, sample_corruption(valid, 4, generator, scheme)).elbo() for _ in range(800)]
        )
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_masks_are_subsets_of_the_completion_with_their_weights(scheme: Scheme, generator: torch.Generator) -> None:
    valid = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    corruption = sample_corruption(valid, 6, generator, scheme)
    size = corruption.masked.sum(-1)
    assert not (corruption.masked & ~valid[:, None]).any()
    assert (size >= 1).all()
    torch.testing.assert_close(corruption.weights, valid.sum(-1, keepdim=True) / size)


def test_antithetic_pairs_cover_every_token(generator: torch.Generator) -> None:
    valid = torch.arange(7) < torch.tensor([7, 2])[:, None]
    masked = sample_corruption(valid, 8, generator, "antithetic").masked
    pairs = masked.unflatten(1, (4, 2)).any(2)
    assert (pairs == valid[:, None]).all()


def test_stratified_draws_one_size_from_each_stratum(generator: torch.Generator) -> None:
    size = sample_corruption(torch.ones(50, 8, dtype=torch.bool), 4, generator, "stratified").masked.sum(-1)
    assert ((size - 1) // 2 == torch.arange(4)).all()


def test_number_of_masked_tokens_is_uniform(generator: torch.Generator) -> None:
    size = sample_corruption(torch.ones(1, 4, dtype=torch.bool), 8000, generator).masked.sum(-1)
    share = size.flatten().bincount(minlength=5)[1:] / 8000
    assert ((share - 0.25).abs() < 4 * (0.25 * 0.75 / 8000) ** 0.5).all()


def test_passes_and_gradients_agree(generator: torch.Generator) -> None:
    policy = build_policy(4)
    action = Tokens.full(every_completion(4)[:6])
    corruption = sample_corruption(action.valid, 3, generator)
    whole = policy.evidence(prompts(6), action, corruption)
    parts = policy.evidence(prompts(6), action, corruption, rows_per_pass=5)
    torch.testing.assert_close(whole.token_log_probs, parts.token_log_probs)
    torch.testing.assert_close(whole.elbo(), whole.elbo(per_sample=True).mean(-1))
    assert whole.elbo().requires_grad


def test_bad_requests_are_named(generator: torch.Generator) -> None:
    valid = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UserError, match="samples = 0"):
        sample_corruption(valid, 0, generator)
    with pytest.raises(UserError, match="even number"):
        sample_corruption(valid, 3, generator, "antithetic")
    with pytest.raises(UserError, match="without tokens"):
        sample_corruption(torch.zeros(1, 3, dtype=torch.bool), 1, generator)
