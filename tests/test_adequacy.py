"""`Algorithm.adequate`, row by row, under the masks that the row uses, at a tight model of several blocks.

The model is tight by construction: tokens are drawn from one of two coins, so p(x_i | what is visible) follows from how
many of the visible tokens are ones, and every order of decoding gives a completion the same probability. The policy
gradient is a sum over these counts, without masks; the estimators' expectation is taken over many draws.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dipod.algorithms import ALGORITHMS, Algorithm
from dipod.likelihood.corruption import CorruptionConfig, InnerStep, Scheme, draw
from dipod.likelihood.exact import exact_table, log_prob_from_table
from tests.conftest import noise

COINS = torch.tensor([0.25, 0.7], dtype=torch.float64)
INDEPENDENT = torch.tensor([0.4, 0.4], dtype=torch.float64)
DRAWS = 1000
LENGTH = 40
"""Two blocks of 32 and 8."""


def chance_of_a_one(ones: Tensor, visible: Tensor, coins: Tensor = COINS) -> Tensor:
    """p(x_i = 1 | so many ones among so many visible tokens)."""
    log_odds = ones[..., None] * coins.log() + (visible - ones)[..., None] * (1 - coins).log()
    return (log_odds.softmax(-1) * coins).sum(-1)


def directions(token: Tensor, ones: Tensor, visible: Tensor, length: int) -> Tensor:
    """Four ways in which the logit of x_i = 1 may move."""
    return torch.stack(
        torch.broadcast_tensors(
            torch.ones(1).double(), visible / length, (2 * ones - visible) / length, token / length - 0.5
        ),
        -1,
    )


def completions(length: int) -> list[tuple[Tensor, float]]:
    """Two completions of the model's own with their advantages."""
    generator = torch.Generator().manual_seed(0)
    return [((torch.rand(length, generator=generator) < p).double(), a) for p, a in ((0.25, 1.0), (0.7, -1.0))]


def policy_gradient(length: int, share: Tensor | None = None, coins: Tensor = COINS) -> Tensor:
    """Σ A·∇log π along the four directions, or that of an ELBO in which v visible tokens have another share than 1/n.

    A token is revealed with v others visible once in n orders, and of these a are ones by a hypergeometric law.
    """
    total = torch.zeros(4, dtype=torch.float64)
    for x, advantage in completions(length):
        for token, value in enumerate(x.tolist()):
            others = int(x.sum() - value)
            for visible in range(length):
                count = torch.arange(max(0, visible - (length - 1 - others)), min(others, visible) + 1).double()
                ways = [math.comb(others, int(a)) * math.comb(length - 1 - others, visible - int(a)) for a in count]
                law = torch.tensor([way / math.comb(length - 1, visible) for way in ways], dtype=torch.float64)
                seen, place = torch.tensor(float(visible)).double(), torch.tensor(float(token)).double()
                weight = law * (1 / length if share is None else share[visible])
                slope = (value - chance_of_a_one(count, seen.expand_as(count), coins)) * weight
                total += advantage * (slope[:, None] * directions(place, count, seen, length)).sum(0)
    return total


def estimates(row: Algorithm, length: int, step: InnerStep, draws: int = DRAWS, coins: Tensor = COINS) -> Tensor:
    """Draws of Σ A·∇proxy along the four directions, [draws, 4], freed of a division by the length."""
    total = torch.zeros(draws, 4, dtype=torch.float64)
    for x, advantage in completions(length):
        masks = draw(row.corruption, torch.ones(draws, length, dtype=torch.bool), None, noise(draws), step)
        seen = ~masks.masked
        ones, visible = (seen * x).sum(-1).double(), seen.sum(-1).double()
        one = chance_of_a_one(ones, visible, coins)[..., None]
        log_probs = (torch.where(x > 0, one, 1 - one).log() * masks.masked).requires_grad_()
        value = row.on_policy(
            masks.evidence(log_probs), torch.full((draws,), advantage).double(), torch.full((draws,), length)
        )
        (upstream,) = torch.autograd.grad(value.sum(), log_probs)
        slope = upstream * masks.masked * (x - one)
        place = torch.arange(length).double()
        along = directions(place, ones[..., None], visible[..., None], length)
        total += (slope[..., None] * along).sum((1, 2)) * (length if row.normaliser == "lengths" else 1)
    return total


def distance(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Relative distance of a mean from what is expected, and how surely it is one: Hotelling's T², 4 degrees."""
    off, spread = found.mean(0) - expected, torch.cov(found.T) / len(found) + 1e-12 * torch.eye(4)
    return float(off.norm() / expected.norm()), float(off @ torch.linalg.solve(spread, off))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "gdpo"])
def test_the_flag_is_what_the_row_s_own_masks_give_at_a_tight_model_of_two_blocks(name: str) -> None:
    row = ALGORITHMS[name]
    step = InnerStep(1, 2) if name == "unigrpo" else InnerStep()
    error, surely = distance(estimates(row, LENGTH, step), policy_gradient(LENGTH))
    if row.adequate:
        assert surely < 30
        assert error < 0.3
    else:
        assert surely > 60
        assert error > 0.5


def test_within_one_block_spg_s_elbo_is_adequate_and_its_bounds_are_not() -> None:
    expected = policy_gradient(8)
    for name, adequate in (("spg-elbo", True), ("spg", False), ("spg-eubo", False)):
        error, surely = distance(estimates(ALGORITHMS[name], 8, InnerStep(), 6 * DRAWS), expected)
        assert (surely < 30) == adequate
        assert adequate or error > 0.02


@pytest.mark.parametrize(("length", "error"), [(6, 0.0), (16, 2e-3), (32, 1e-2)])
def test_gdpo_s_quadrature_is_exact_up_to_six_tokens_and_not_beyond(length: int, error: float) -> None:
    """Its three nodes' shares of every number of visible tokens, from the binomial law of the hidden ones."""
    assert not ALGORITHMS["gdpo"].adequate
    nodes, weights = np.polynomial.legendre.leggauss(ALGORITHMS["gdpo"].corruption.samples)
    share = torch.zeros(length, dtype=torch.float64)
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        for hidden in range(1, length + 1):
            law = math.comb(length, hidden) * t**hidden * (1 - t) ** (length - hidden)
            share[length - hidden] += w / t * law * hidden / length
    expected = policy_gradient(length)
    found = float((policy_gradient(length, share) - expected).norm() / expected.norm())
    assert found < 1e-12 if error == 0 else error / 2 < found < 3 * error


def test_the_two_coins_are_a_tight_model_and_its_gradient_is_the_sum_over_all_orders() -> None:
    """Against the recursion over all sets, with the logits moved along the four directions."""
    length = 4
    move = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for x, advantage in completions(length):

        def score(rows: Tensor, masked: Tensor, x: Tensor = x) -> Tensor:
            del rows
            ones, visible = (~masked * x).sum(-1)[:, None].double(), (~masked).sum(-1)[:, None].double()
            along = directions(torch.arange(length).double(), ones, visible, length)
            logit = chance_of_a_one(ones, visible).logit() + along @ move
            found: Tensor = torch.where(x > 0, logit, -logit).sigmoid().log() * masked
            return found

        table = exact_table(score, torch.ones(1, length, dtype=torch.bool))
        log_prob = log_prob_from_table(table).sum()
        count = x.sum()
        direct = 0.5 * (COINS**count * (1 - COINS) ** (length - count)).sum()
        assert float(log_prob.detach().exp()) == pytest.approx(float(direct))
        total = total + advantage * log_prob
    (gradient,) = torch.autograd.grad(total, move)
    torch.testing.assert_close(gradient, policy_gradient(length))


@pytest.mark.parametrize(("scheme", "error"), [("block-random", 0.08), ("antithetic", 0.15)])
def test_two_masks_of_eq_21_err_even_where_tokens_are_independent(scheme: Scheme, error: float) -> None:
    """The logarithm of a mean over two masks weighs them by their sizes; with all masks the error is 0."""
    row = replace(ALGORITHMS["spg-eubo"], corruption=CorruptionConfig(scheme, 2))
    expected = policy_gradient(8, coins=INDEPENDENT)
    found, surely = distance(estimates(row, 8, InnerStep(), 4 * DRAWS, INDEPENDENT), expected)
    assert found == pytest.approx(error, abs=0.03)
    assert surely > 60
