"""Samplers: the ancestral one follows the exact π; the block-wise one reveals what it should, when it should."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2

from dipod.errors import UserError
from dipod.likelihood.exact import exact_likelihood
from dipod.policies.sampling import GREEDY, SamplerConfig, draw_tokens
from dipod.policies.tokens import Tokens
from tests.conftest import blank, build_policy, every_completion, prompts


def test_ancestral_samples_follow_the_exact_likelihood(generator: torch.Generator) -> None:
    """Chi-square of 20,000 samples against exact π over all 27 completions, at the 0.1 % level."""
    length, count = 3, 20_000
    policy = build_policy(length, sharpness=8.0)
    completions = every_completion(length)
    score = policy.score(prompts(len(completions)), Tokens.full(completions))
    exact = exact_likelihood(score, torch.ones_like(completions, dtype=torch.bool)).log_prob.exp().detach()
    valid = torch.ones(count, length, dtype=torch.bool)
    sample = policy.sample(prompts(count), blank(valid), SamplerConfig(), generator)
    observed = (sample.ids @ torch.tensor([9, 3, 1])).bincount(minlength=27)
    expected = exact * count
    assert expected.min() > 5
    statistic = float(((observed - expected).square() / expected).sum())
    assert statistic < chi2.ppf(0.999, 26)
    uniform = float(((observed - count / 27).square() / (count / 27)).sum())
    assert uniform > 10 * chi2.ppf(0.999, 26), "the test must be able to tell another distribution"


@pytest.mark.parametrize(
    "config",
    [
        SamplerConfig(),
        SamplerConfig(temperature=0.5, remasking="low_confidence"),
        SamplerConfig(block_length=2, remasking="random"),
        SamplerConfig(block_length=3, steps=4, remasking="low_confidence"),
        GREEDY,
    ],
)
def test_every_token_is_decoded_once_and_padding_never(config: SamplerConfig, generator: torch.Generator) -> None:
    valid = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    sample = build_policy(6).sample(prompts(3), blank(valid), config, generator)
    assert (sample.ids[valid] < 3).all(), "the mask token is never drawn"
    assert (sample.order[valid] >= 0).all()
    assert (sample.order[~valid] == -1).all()


def test_ancestral_order_is_a_uniform_permutation(generator: torch.Generator) -> None:
    valid = torch.ones(6000, 3, dtype=torch.bool)
    order = build_policy(3).sample(prompts(6000), blank(valid), SamplerConfig(), generator).order
    assert (order.sort(-1).values == torch.arange(3)).all()
    counts = (order @ torch.tensor([9, 3, 1])).bincount()
    counts = counts[counts > 0]
    assert len(counts) == 6
    statistic = float(((counts - 1000).square() / 1000).sum())
    assert statistic < chi2.ppf(0.999, 5)


def test_blocks_are_decoded_left_to_right_in_equal_steps(generator: torch.Generator) -> None:
    config = SamplerConfig(block_length=4, steps=4, remasking="low_confidence")
    valid = torch.ones(5, 8, dtype=torch.bool)
    order = build_policy(8).sample(prompts(5), blank(valid), config, generator).order
    assert (order[:, :4] < 2).all()
    assert (order[:, 4:] >= 2).all()
    for step in range(4):
        assert ((order == step).sum(-1) == 2).all()


def test_greedy_takes_the_most_confident_token_first() -> None:
    policy = build_policy(4)
    valid = torch.ones(1, 4, dtype=torch.bool)
    sample = policy.sample(prompts(1), blank(valid), GREEDY, torch.Generator())
    masked, ids = valid.clone(), torch.full((1, 4), 3)
    for step in range(4):
        probability = policy.completion_logits(prompts(1), Tokens(ids, valid), masked, None).softmax(-1)
        best = probability.max(-1).values.masked_fill(~masked, -1)
        position = int(best.argmax())
        token = int(probability[0, position].argmax())
        assert int(sample.order[0, position]) == step
        assert int(sample.ids[0, position]) == token
        ids[0, position], masked[0, position] = token, False


def test_greedy_does_not_depend_on_the_generator() -> None:
    valid = torch.ones(8, 4, dtype=torch.bool)
    first, second = (
        build_policy(4).sample(prompts(8), blank(valid), GREEDY, torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    assert torch.equal(first.ids, second.ids)


def test_same_generator_same_sample_and_batch_rows_do_not_mix() -> None:
    policy, valid = build_policy(5), torch.ones(4, 5, dtype=torch.bool)
    first, second = (
        policy.sample(prompts(4), blank(valid), SamplerConfig(), torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first.ids, second.ids)
    assert not first.ids.requires_grad


def test_drawn_tokens_have_tempered_softmax_frequencies(generator: torch.Generator) -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    token, probability = draw_tokens(logits.expand(40_000, 3), 0.7, generator)
    share = token.bincount(minlength=3) / 40_000
    expected = (logits / 0.7).softmax(-1)
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / 40_000).sqrt()).all()
    torch.testing.assert_close(probability, logits.softmax(-1)[token])


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"remasking": "best"}, "remasking"),
        ({"block_length": -2}, "block_length"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], field: str) -> None:
    with pytest.raises(UserError, match=field):
        SamplerConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (SamplerConfig(block_length=3), "block_length = 3: give a divisor of the completion length"),
        (SamplerConfig(block_length=4, steps=3), "steps = 3: give a multiple of the number of blocks"),
        (SamplerConfig(steps=9), "steps = 9"),
    ],
)
def test_blocks_and_steps_must_fit_the_completion(config: SamplerConfig, field: str) -> None:
    with pytest.raises(UserError, match=field):
        config.blocks_of(8)
