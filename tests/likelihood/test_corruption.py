"""Corruption processes: unbiased where they claim to be, shaped as they say, and independent of the batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.likelihood.corruption import CorruptionConfig, InnerStep, Scheme, bounds, draw
from dipod.likelihood.evidence import Corruption, evaluate
from dipod.likelihood.exact import exact_likelihood
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, noise, prompts

UNIFORM: list[Scheme] = ["independent", "antithetic", "stratified", "complement"]
SCHEMES: list[Scheme] = [scheme for scheme in get_args(Scheme) if scheme != "own"]
RAGGED = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]


def sample(
    scheme: Scheme, counted: Tensor, samples: int = 6, seed: int = 0, block_length: int = 32, prompt_share: float = 0.0
) -> Corruption:
    config = CorruptionConfig(scheme, samples, prompt_share, block_length)
    return draw(config, counted, None, noise(len(counted), seed))


@pytest.mark.parametrize("scheme", [*UNIFORM, "quadrature"])
def test_monte_carlo_elbo_is_unbiased(scheme: Scheme) -> None:
    """Mean of many estimates within four standard errors of the exact ELBO, for rows of several lengths."""
    policy = build_policy(5)
    valid = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    action = Tokens(every_completion(5)[[200, 31, 99]], valid)
    score = policy.score(prompts(3), action)
    with torch.no_grad():
        exact = exact_likelihood(score, valid).elbo
        draws = torch.stack([evaluate(score, sample(scheme, valid, 4, seed)).elbo() for seed in range(800)])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 4 * error + 1e-9).all()


def test_the_released_count_rule_is_biased_by_as_much_as_it_says() -> None:
    """E = (1/n) [0 + Σ_{k=1}^{n-1} (n/k) f_k], f_k the mean log-probability sum over masks of k tokens."""
    policy = build_policy(3)
    action = Tokens.full(every_completion(3)[[11]])
    score = policy.score(prompts(1), action)
    with torch.no_grad():
        sizes: dict[int, list[list[int]]] = {1: [[0], [1], [2]], 2: [[0, 1], [0, 2], [1, 2]]}
        sums = {}
        for k, sets in sizes.items():
            masks = torch.stack([torch.zeros(3, dtype=torch.bool).index_fill(0, torch.tensor(s), True) for s in sets])
            sums[k] = score(torch.zeros(3, dtype=torch.long), masks).sum(-1).mean()
        expected = sum(3 / k * sums[k] for k in sums) / 3
        exact = exact_likelihood(score, action.valid).elbo
        draws = torch.stack([evaluate(score, sample("released-fpo", action.valid, 40, s)).elbo() for s in range(200)])
    error = float(draws.std() / len(draws) ** 0.5)
    assert float(draws.mean()) == pytest.approx(float(expected), abs=4 * error)
    assert abs(float(expected) - float(exact)) > 8 * error


@pytest.mark.parametrize("scheme", SCHEMES)
def test_masks_are_subsets_of_the_counted_tokens(scheme: Scheme) -> None:
    corruption = sample(scheme, RAGGED, block_length=2, prompt_share=0.3)
    assert corruption.masked.shape == (3, 6, 6)
    assert corruption.weights.shape == (3, 6)
    assert not (corruption.masked & ~RAGGED[:, None]).any()
    assert (corruption.weights >= 0).all()


@pytest.mark.parametrize("scheme", ["independent", "antithetic", "stratified", "structured"])
def test_weights_of_uniform_counts_are_length_over_count(scheme: Scheme) -> None:
    corruption = sample(scheme, RAGGED)
    size = corruption.masked.sum(-1)
    assert (size >= 1).all()
    torch.testing.assert_close(corruption.weights, RAGGED.sum(-1, keepdim=True) / size)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_row_does_not_depend_on_the_batch_around_it(scheme: Scheme) -> None:
    config = CorruptionConfig(scheme, 6, 0.2, block_length=2)
    prompt = torch.ones(3, 4, dtype=torch.bool)
    whole = draw(config, RAGGED, prompt, noise(3))
    for row in range(3):
        alone = draw(config, RAGGED[[row]], prompt[[row]], noise(3)[[row]])
        assert torch.equal(alone.masked[0], whole.masked[row])
        assert alone.prompt is not None
        assert whole.prompt is not None
        assert torch.equal(alone.prompt[0], whole.prompt[row])
        torch.testing.assert_close(alone.weights[0], whole.weights[row])


def test_antithetic_pairs_cover_every_token() -> None:
    valid = torch.arange(7) < torch.tensor([7, 2])[:, None]
    pairs = sample("antithetic", valid, 8).masked.unflatten(1, (4, 2)).any(2)
    assert (pairs == valid[:, None]).all()


def test_complements_share_no_token_and_leave_none_out() -> None:
    first, second = sample("complement", RAGGED).masked.unflatten(1, (3, 2)).unbind(2)
    assert not (first & second).any()
    assert ((first | second) == RAGGED[:, None]).all()


def test_stratified_draws_one_size_from_each_stratum() -> None:
    size = sample("stratified", torch.ones(50, 8, dtype=torch.bool), 4).masked.sum(-1)
    assert ((size - 1) // 2 == torch.arange(4)).all()


def test_number_of_masked_tokens_is_uniform() -> None:
    size = sample("independent", torch.ones(1, 4, dtype=torch.bool), 8000).masked.sum(-1)
    share = size.flatten().bincount(minlength=5)[1:] / 8000
    assert ((share - 0.25).abs() < 4 * (0.25 * 0.75 / 8000) ** 0.5).all()


def test_everything_is_hidden_for_the_mean_field() -> None:
    corruption = sample("all-masked", RAGGED, 2)
    assert (corruption.masked == RAGGED[:, None]).all()
    assert (corruption.weights == 1).all()


def test_blocks_hide_all_that_follows_and_take_turns() -> None:
    counted = torch.arange(8) < torch.tensor([8, 5])[:, None]
    schemes: list[Scheme] = ["block-all", "block-random"]
    for scheme in schemes:
        corruption = sample(scheme, counted, 4, block_length=2)
        for row, blocks in ((0, 4), (1, 3)):
            first = corruption.masked[row].int().argmax(-1) // 2
            assert sorted(first[:blocks].tolist()) == list(range(blocks)), "every block has its turn"
            for masked, block in zip(corruption.masked[row], first.tolist(), strict=True):
                after = torch.arange(8) // 2 > block
                assert (masked[after] == counted[row][after]).all()
                if scheme == "block-all":
                    assert (masked[2 * block : 2 * block + 2] == counted[row][2 * block : 2 * block + 2]).all()
        n = counted.sum(-1, keepdim=True)
        torch.testing.assert_close(corruption.weights, n / corruption.masked.sum(-1))


def test_blocks_disturb_earlier_tokens_where_prompts_are_disturbed() -> None:
    counted = torch.ones(200, 8, dtype=torch.bool)
    corruption = draw(CorruptionConfig("block-all", 1, 0.25, 4), counted, counted[:, :5], noise(200))
    late = ~corruption.masked[:, 0, :4].all(-1)
    share = corruption.masked[late][:, 0, :4].float().mean()
    assert float(share) == pytest.approx(0.25, abs=0.06)
    assert corruption.prompt is not None
    assert float(corruption.prompt.float().mean()) == pytest.approx(0.25, abs=0.06)


def test_coupled_threes_weigh_every_token_half_and_half() -> None:
    corruption = sample("coupled", RAGGED, 3)
    every, hidden, rest = corruption.masked.unbind(1)
    assert (every == RAGGED).all()
    assert ((hidden ^ rest) == RAGGED).all()
    w = corruption.weights
    assert (w[:, 0] == 1.5).all()
    torch.testing.assert_close(1 / w[:, 1] + 1 / w[:, 2], torch.full((3,), 2 / 3))
    assert ((w[:, 1] >= 1.5 / 0.8 - 1e-5) & (w[:, 1] <= 1.5 / 0.2 + 1e-4)).all()


def test_structured_noise_grows_from_a_random_ratio_to_everything() -> None:
    counted = torch.ones(20, 50, dtype=torch.bool)
    config = CorruptionConfig("structured", 1)
    sizes = torch.stack(
        [draw(config, counted, None, noise(20), InnerStep(i, 4)).masked.sum(-1)[:, 0] for i in range(4)]
    )
    assert (sizes[3] == 50).all()
    steps = sizes.diff(dim=0)
    assert ((steps - steps[:1]).abs() <= 2).all(), "evenly spaced up to rounding"
    assert sizes[0].unique().numel() > 10


def test_quadrature_is_the_exact_integral_for_short_actions() -> None:
    """2 nodes integrate a polynomial of degree 3: the expectation over masks is the exact ELBO for 4 tokens."""
    policy = build_policy(4)
    action = Tokens.full(every_completion(4)[[50]])
    score = policy.score(prompts(1), action)
    corruption = sample("quadrature", action.valid, 2)
    weights = corruption.weights[0].double() / 2
    nodes = torch.tensor([0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5], dtype=torch.float64)
    torch.testing.assert_close(weights, 0.5 / nodes, rtol=1e-5, atol=1e-6)
    masks = torch.tensor([[m >> i & 1 for i in range(4)] for m in range(16)]).bool()
    with torch.no_grad():
        sums = score(torch.zeros(16, dtype=torch.long), masks).sum(-1)
        size = masks.sum(-1)
        chance = nodes[:, None] ** size * (1 - nodes[:, None]) ** (4 - size)
        expected = float((0.5 / nodes * (chance * sums).sum(-1)).sum())
        exact = float(exact_likelihood(score, action.valid).elbo[0])
    assert expected == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_padding_changes_neither_a_row_s_masks_nor_its_later_ones(scheme: Scheme) -> None:
    """Of completion and prompt, for every process; what a stream gives afterwards is the same too."""
    config = CorruptionConfig(scheme, 6, 0.3, block_length=2)
    prompt = torch.arange(5) >= torch.tensor([0, 2, 4])[:, None]
    more = torch.zeros(3, 4, dtype=torch.bool)
    narrow, wide = noise(3), noise(3)
    for _ in range(2):
        own = draw(config, RAGGED, prompt, narrow, InnerStep(1, 2))
        padded = draw(config, torch.cat([RAGGED, more], 1), torch.cat([more, prompt], 1), wide, InnerStep(1, 2))
        assert torch.equal(padded.masked[..., :6], own.masked)
        assert torch.equal(padded.weights, own.weights)
        assert own.prompt is not None
        assert padded.prompt is not None
        assert torch.equal(padded.prompt[..., 4:], own.prompt)
        assert not padded.masked[..., 6:].any()
        assert not padded.prompt[..., :4].any()


PROCESSES = [
    (CorruptionConfig("independent", 1), 4, True),
    (CorruptionConfig("antithetic", 2), 4, True),
    (CorruptionConfig("stratified", 3), 4, True),
    (CorruptionConfig("complement", 2), 4, True),
    (CorruptionConfig("quadrature", 2), 4, True),
    (CorruptionConfig("quadrature", 1), 4, False),
    (CorruptionConfig("released-fpo", 2), 4, False),
    (CorruptionConfig("all-masked", 1), 4, False),
    (CorruptionConfig("block-all", 2), 4, False),
    (CorruptionConfig("block-all", 2, block_length=1), 4, False),
    (CorruptionConfig("block-random", 2), 4, True),
    (CorruptionConfig("block-random", 2, block_length=4), 4, True),
    (CorruptionConfig("block-random", 2, block_length=2), 4, False),
    (CorruptionConfig("block-random", 4, block_length=2), 4, False),
    (CorruptionConfig("block-random", 2, block_length=3), 4, False),
    (CorruptionConfig("coupled", 3), 4, False),
    (CorruptionConfig("structured", 1), 4, False),
]


@pytest.mark.parametrize(("config", "n", "bounding"), PROCESSES, ids=lambda value: str(getattr(value, "scheme", value)))
def test_a_process_bounds_where_every_set_of_tokens_weighs_what_it_weighs_in_the_elbo(
    config: CorruptionConfig, n: int, bounding: bool
) -> None:
    """E[weight · 1{these tokens are hidden}] = 1/(|m|·C(n,|m|)) for all 2^n - 1 sets m, over many draws."""
    rows = 3000
    found = draw(config, torch.ones(rows, n, dtype=torch.bool), None, noise(rows), InnerStep(1, 2))
    place = (found.masked * 2 ** torch.arange(n)).sum(-1)
    weight = torch.zeros(rows, 2**n).scatter_add_(1, place, found.weights / config.samples)[:, 1:].double()
    size = torch.tensor([m.bit_count() for m in range(1, 2**n)])
    elbo = torch.tensor([1 / (s * math.comb(n, s)) for s in size.tolist()], dtype=torch.float64)
    distance = (weight.mean(0) - elbo).abs() / (weight.std(0) / rows**0.5 + 1e-9)
    assert bounds(config, n) == bounding
    assert bool((distance < 4.5).all()) == bounding
    assert bounding or float(distance.max()) > 10
    assert not bounds(replace(config, prompt_share=0.1), n), "hidden prompt tokens are another observation"


def test_block_random_weighs_the_tokens_of_later_blocks_more() -> None:
    """Two blocks of two, every mask enumerated: .417 and 1.583 where a bound has 1."""
    weight, n = [0.0] * 4, 4
    for first, later in ((0, [2, 3]), (2, [])):
        for inside in ([first], [first + 1], [first, first + 1]):
            hidden = [*inside, *later]
            for token in hidden:
                weight[token] += 0.5 * (0.25 if len(inside) == 1 else 0.5) * n / len(hidden)
    assert weight == pytest.approx([0.417, 0.417, 1.583, 1.583], abs=5e-4)
    rows = 6000
    found = draw(CorruptionConfig("block-random", 1, block_length=2), torch.ones(rows, 4).bool(), None, noise(rows))
    each = (found.weights[..., None] * found.masked)[:, 0]
    assert ((each.mean(0) - torch.tensor(weight)).abs() < 4 * each.std(0) / rows**0.5).all()


def test_bad_requests_are_named() -> None:
    valid = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UserError, match=r"corruption\.samples = -1"):
        CorruptionConfig("independent", -1)
    with pytest.raises(UserError, match="K >= 1"):
        draw(CorruptionConfig("independent", 0), valid, None, noise(2))
    with pytest.raises(UserError, match="even number"):
        CorruptionConfig("antithetic", 3)
    with pytest.raises(UserError, match="threes"):
        CorruptionConfig("coupled", 4)
    with pytest.raises(UserError, match="name the process"):
        draw(CorruptionConfig(), valid, None, noise(2))
    with pytest.raises(UserError, match="choose one of own, independent"):
        CorruptionConfig("sideways")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="without tokens"):
        sample("independent", torch.zeros(1, 3, dtype=torch.bool))
