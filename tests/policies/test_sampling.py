"""The sampler: the exact π where it claims it, the published algorithm elsewhere, and every row for itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from dipod.errors import UserError
from dipod.likelihood.exact import exact_likelihood
from dipod.meter import decoding_of
from dipod.noise import Noise
from dipod.policies.masked import MaskedPolicy
from dipod.policies.remasking import Remasking, nucleus
from dipod.policies.sampling import GREEDY, Sample, SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer
from tests.conftest import MASK, VOCAB, blank, build_policy, every_completion, noise, prompts

EOS = 0


class Joint(nn.Module):
    """A network that cannot split: prompt and completion see each other, as in LLaDA."""

    def __init__(self, inner: MaskedTransformer) -> None:
        super().__init__()
        self.inner = inner
        self.batches: list[int] = []

    def encode(self, prompt: Tokens) -> Tokens:
        return prompt

    def forward(self, tokens: Tokens, at: Tensor | None, prompt: Tokens, owner: Tensor) -> Tensor:
        self.batches.append(len(tokens))
        ids, valid = torch.cat([prompt.ids[owner], tokens.ids], 1), torch.cat([prompt.valid[owner], tokens.valid], 1)
        hidden: Tensor = self.inner(Tokens(ids, valid))[:, prompt.ids.shape[1] :]
        return hidden if at is None else hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))

    def head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.inner.head(hidden)
        return logits


def joint_policy(length: int, prompt: int = 4, seed: int = 0, sharpness: float = 20.0) -> MaskedPolicy:
    network = build_policy(length, prompt, seed, sharpness).network
    assert isinstance(network, MaskedTransformer)
    return MaskedPolicy(Joint(network), MASK)


def left_padded(lines: list[list[int]]) -> Tokens:
    width = max(map(len, lines))
    ids = torch.tensor([[0] * (width - len(line)) + line for line in lines])
    return Tokens(ids, torch.tensor([[i >= width - len(line) for i in range(width)] for line in lines]))


def published(policy: MaskedPolicy, prompt: list[int], length: int, config: SamplerConfig, row_noise: Noise) -> Tensor:
    """The released samplers on one prompt without padding: logits of all places, all of them ranked, a topk. [L]."""
    network = policy.network
    assert isinstance(network, Joint)
    start = len(prompt)
    x = torch.tensor([*prompt, *[MASK] * length])
    blocks, steps = config.blocks_of(length)
    size = length // blocks
    random_order = row_noise.uniform(length)[0].double() if config.remasking == "random" else torch.zeros(length)

    def full_logits(line: Tensor) -> Tensor:
        logits: Tensor = network.head(network.inner(Tokens.full(line[None])))[0]
        return logits

    for block in range(blocks):
        end = start + (block + 1) * size
        base, extra = divmod(size, steps)
        for step in range(steps):
            masked = x == MASK
            logits = full_logits(x)
            if config.cfg_scale:
                without = x.clone()
                without[:start] = MASK
                free = full_logits(without)
                logits = free + (config.cfg_scale + 1) * (logits - free)
            logits[:, MASK] = -torch.inf
            noisy = logits
            if config.temperature:
                here = masked & (torch.arange(len(x)) >= end - size) & (torch.arange(len(x)) < end)
                u = torch.full_like(logits, 0.5)
                u[here] = row_noise.uniform(int(here.sum()), VOCAB, dtype=torch.float64)[0]
                noisy = logits.exp() / (-u.log()) ** config.temperature
            drawn, p = noisy.argmax(-1), logits.softmax(-1)
            p_sorted = p.sort(-1).values
            confidence = {
                "random": torch.cat([torch.zeros(start), random_order]),
                "low_confidence": p[torch.arange(len(x)), drawn],
                "entropy": torch.special.xlogy(p, p).sum(-1),
                "margin": p_sorted[:, -1] - p_sorted[:, -2],
            }[config.remasking].masked_fill(~masked, -torch.inf)
            confidence[end:] = -torch.inf
            chosen = confidence.topk(base + (step < extra)).indices
            x[chosen] = drawn[chosen]
    return x[start:]


LINES = [[0, 1, 2, 2], [1], [2, 0], [1, 1, 0], [0, 2, 2, 1], [2, 1, 0]]
SHAPES = [(0, 0), (4, 0), (4, 6), (3, 8), (0, 5), (12, 12)]


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        *(SamplerConfig(0.0, how, *shape) for how in get_args(Remasking) for shape in SHAPES),
        *(SamplerConfig(0.9, how, 4, 6) for how in get_args(Remasking) if how != "random"),
        SamplerConfig(0.9, "low_confidence", 6, 4, cfg_scale=1.5),
        SamplerConfig(0.0, "margin", 4, 6, cfg_scale=0.5),
    ],
)
def test_samples_are_those_of_the_published_algorithm(config: SamplerConfig) -> None:
    """Prompts of several lengths in one batch, against each alone, without padding and without gathering."""
    length = 12
    policy = joint_policy(length)
    valid = torch.ones(len(LINES), length, dtype=torch.bool)
    sample = policy.sample(left_padded(LINES), blank(valid), config, noise(len(LINES)))
    fresh = noise(len(LINES))
    for row, line in enumerate(LINES):
        assert torch.equal(sample.ids[row], published(policy, line, length, config, fresh[row : row + 1]))


def test_default_samples_follow_the_exact_likelihood() -> None:
    """Chi-square of 20,000 samples against exact π over all 27 completions, at the 0.1 % level."""
    length, count = 3, 20_000
    policy = build_policy(length, sharpness=8.0)
    completions = every_completion(length)
    score = policy.score(prompts(len(completions)), Tokens.full(completions))
    exact = exact_likelihood(score, torch.ones_like(completions, dtype=torch.bool)).log_prob.exp().detach()
    valid = torch.ones(count, length, dtype=torch.bool)
    sample = policy.sample(prompts(count), blank(valid), SamplerConfig(), noise(count))
    observed = (sample.ids @ torch.tensor([9, 3, 1])).bincount(minlength=27)
    expected = exact * count
    assert expected.min() > 5
    statistic = float(((observed - expected).square() / expected).sum())
    assert statistic < chi2.ppf(0.999, 26)
    uniform = float(((observed - count / 27).square() / (count / 27)).sum())
    assert uniform > 10 * chi2.ppf(0.999, 26), "the test must be able to tell another distribution"


def kept(weights: list[float], share: float) -> list[float]:
    """A distribution cut to its nucleus and scaled up again, one token after the other."""
    total, held, cut = sum(weights), 0.0, [0.0] * len(weights)
    for token in sorted(range(len(weights)), key=lambda v: (-weights[v], v)):
        if held < share:
            cut[token] = weights[token]
        held += weights[token] / total
    return [weight / sum(cut) for weight in cut]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.8, 0.999, 1.0])
def test_the_nucleus_is_the_fewest_tokens_that_hold_the_share(share: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, 9, generator=generator)
    logits[:20, 4] = -torch.inf
    found = (nucleus(logits, temperature, share) / temperature).softmax(-1)
    for row, cut in zip(logits.double().tolist(), found, strict=True):
        wanted = kept([math.exp(x / temperature) for x in row], share)
        torch.testing.assert_close(cut.double(), torch.tensor(wanted).double(), atol=1e-5, rtol=1e-4)
    tied = nucleus(torch.zeros(1, 4), 1.0, 0.5)
    assert (tied == 0).tolist() == [[True, True, False, False]]


def conditional(policy: MaskedPolicy, seen: list[int | None], place: int, share: float) -> list[float]:
    """The truncated law of the token at a masked place, given the others (None: masked)."""
    ids = torch.tensor([[MASK if token is None else token for token in seen]])
    masked = torch.tensor([[token is None for token in seen]])
    logits = policy.completion_logits(prompts(1), Tokens.full(ids), masked, None)[0, place]
    return kept(logits.exp().tolist(), share)


@torch.no_grad()
def test_samples_with_top_p_follow_the_truncated_law() -> None:
    """Chi-square of 20,000 samples against all orders of truncated conditionals; the untruncated law is told apart."""
    length, count, share = 2, 20_000, 0.85
    policy = build_policy(length, sharpness=8.0)
    laws = {}
    for p in (share, 1.0):
        law = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
        for first in range(length):
            start = conditional(policy, [None, None], first, p)
            for token, weight in enumerate(start):
                seen: list[int | None] = [None, None]
                seen[first] = token
                rest = conditional(policy, seen, 1 - first, p) if weight else [0.0] * VOCAB
                for other, more in enumerate(rest):
                    at = (token, other) if first == 0 else (other, token)
                    law[at] += weight * more / length
        laws[p] = law.flatten()
    valid = torch.ones(count, length, dtype=torch.bool)
    sample = policy.sample(prompts(count), blank(valid), SamplerConfig(top_p=share), noise(count))
    observed = (sample.ids @ torch.tensor([VOCAB, 1])).bincount(minlength=VOCAB * VOCAB).double()
    support = laws[share] > 0
    assert observed[~support].sum() == 0
    assert not support.all(), "something must be cut"
    expected = laws[share][support] * count
    statistic = float(((observed[support] - expected).square() / expected).sum())
    assert statistic < chi2.ppf(0.999, int(support.sum()) - 1)
    whole = laws[1.0] * count
    assert float(((observed - whole).square() / whole.clamp_min(1e-9)).sum()) > 10 * chi2.ppf(0.999, VOCAB * VOCAB)


def test_a_truncated_sampler_claims_no_law() -> None:
    """Brackets and angles then fall back to what they say without a law, as for other temperatures."""
    assert decoding_of(SamplerConfig(), 4) is not None
    assert decoding_of(SamplerConfig(top_p=0.9), 4) is None
    assert decoding_of(SamplerConfig(temperature=0.9), 4) is None


def test_default_order_is_a_uniform_permutation() -> None:
    valid = torch.ones(6000, 3, dtype=torch.bool)
    order = build_policy(3).sample(prompts(6000), blank(valid), SamplerConfig(), noise(6000, 1)).order
    assert (order.sort(-1).values == torch.arange(3)).all()
    counts = (order @ torch.tensor([9, 3, 1])).bincount()
    counts = counts[counts > 0]
    assert len(counts) == 6
    statistic = float(((counts - 1000).square() / 1000).sum())
    assert statistic < chi2.ppf(0.999, 5)


CONFIGS = [
    SamplerConfig(),
    SamplerConfig(temperature=0.5, remasking="low_confidence"),
    SamplerConfig(block_length=2, remasking="random"),
    SamplerConfig(block_length=3, steps=4, remasking="entropy"),
    SamplerConfig(block_length=2, steps=3, remasking="margin", noise="released-bf16"),
    SamplerConfig(block_length=2, steps=3, remasking="random", noise="float64", eos_stop=True, cfg_scale=1.0),
    GREEDY,
]


def ragged(config: SamplerConfig) -> tuple[MaskedPolicy, Callable[[list[int]], Sample]]:
    """A policy and its samples of some of six rows, which have 6, 4, 1, 6, 3 and 5 tokens."""
    policy = joint_policy(6)
    observation, places = left_padded(LINES), blank(torch.arange(6) < torch.tensor([6, 4, 1, 6, 3, 5])[:, None])

    def sample(rows: list[int]) -> Sample:
        some = torch.tensor(rows)
        return policy.sample(observation[some], places[some], config, noise(6)[rows], EOS)

    return policy, sample


@pytest.mark.parametrize("config", CONFIGS)
def test_every_token_is_decoded_once_and_padding_never(config: SamplerConfig) -> None:
    sample = ragged(config)[1](list(range(6)))
    valid = torch.arange(6) < torch.tensor([6, 4, 1, 6, 3, 5])[:, None]
    assert (sample.ids[valid] < 3).all(), "the mask token is never drawn"
    assert config.eos_stop or (sample.order[valid] >= 0).all()
    assert (sample.ids[~valid] == MASK).all()
    assert (sample.order[~valid] == -1).all()
    assert not sample.ids.is_inference(), "usable in a graph"


@pytest.mark.parametrize("config", CONFIGS)
def test_a_row_does_not_depend_on_the_rows_beside_it(config: SamplerConfig) -> None:
    sample = ragged(config)[1]
    together = sample([0, 1, 2, 3, 4, 5])
    shuffled = [4, 0, 5, 2, 1, 3]
    permuted = sample(shuffled)
    alone = [sample([row]) for row in range(6)]
    assert torch.equal(permuted.ids, together.ids[shuffled])
    assert torch.equal(permuted.order, together.order[shuffled])
    assert torch.equal(torch.cat([one.ids for one in alone]), together.ids)
    assert torch.equal(torch.cat([one.order for one in alone]), together.order)


@pytest.mark.parametrize("config", [SamplerConfig(), SamplerConfig(0.7, "low_confidence")])
def test_padding_of_a_completion_does_not_matter_at_one_token_a_step(config: SamplerConfig) -> None:
    policy = joint_policy(7)
    short = policy.sample(prompts(3), blank(torch.ones(3, 4, dtype=torch.bool)), config, noise(3))
    wide = policy.sample(prompts(3), blank((torch.arange(7) < 4).expand(3, -1)), config, noise(3))
    assert torch.equal(wide.ids[:, :4], short.ids)


def test_fewer_rows_at_once_give_the_same_samples() -> None:
    valid = torch.ones(7, 6, dtype=torch.bool)
    whole, parts = (
        build_policy(6).sample(prompts(7), blank(valid), SamplerConfig(0.8, "margin", max_rows=rows), noise(7))
        for rows in (0, 3)
    )
    assert torch.equal(parts.ids, whole.ids)
    assert torch.equal(parts.order, whole.order)


def test_blocks_are_decoded_left_to_right_in_steps_that_are_as_even_as_can_be() -> None:
    config = SamplerConfig(block_length=8, steps=6, remasking="low_confidence")
    valid = torch.ones(5, 16, dtype=torch.bool)
    order = build_policy(16).sample(prompts(5), blank(valid), config, noise(5)).order
    assert (order[:, :8] < 3).all()
    for step, quota in enumerate([3, 3, 2, 3, 3, 2]):
        assert ((order == step).sum(-1) == quota).all()


@pytest.mark.parametrize(("remasking", "temperature"), list(product(["low_confidence", "random"], [0.0, 1.0])))
def test_stopping_at_the_end_of_text_changes_no_token_before_it(remasking: str, temperature: float) -> None:
    policy, count = joint_policy(12, sharpness=8.0), 24
    network = policy.network
    assert isinstance(network, Joint)
    observation = Tokens.full(torch.randint(3, (count, 4), generator=torch.Generator().manual_seed(1)))
    places = blank(torch.ones(count, 12, dtype=torch.bool))
    settings = {"temperature": temperature, "remasking": remasking, "block_length": 3}
    full = policy.sample(observation, places, SamplerConfig(**settings), noise(count), EOS)  # type: ignore[arg-type]
    network.batches.clear()
    stopping = SamplerConfig(**settings, eos_stop=True)  # type: ignore[arg-type]
    stopped = policy.sample(observation, places, stopping, noise(count), EOS)
    seen = torch.zeros(count)
    for row in range(count):
        ends = (full.ids[row] == EOS).nonzero()
        decoded = 12 if len(ends) == 0 else (int(ends[0]) // 3 + 1) * 3
        seen[row] = decoded
        assert torch.equal(stopped.ids[row, :decoded], full.ids[row, :decoded])
        assert torch.equal(stopped.order[row, :decoded], full.order[row, :decoded])
        assert (stopped.ids[row, decoded:] == EOS).all()
        assert (stopped.order[row, decoded:] == -1).all()
    assert len(seen.unique()) > 2, "rows must stop at several places"
    assert sum(network.batches) == seen.sum(), "a finished row is not computed"


@pytest.mark.parametrize(("remasking", "expected"), [("margin", [4, 2, 1, 4, 2, 1]), ("random", [2, 1, 1, 2, 1, 1])])
def test_logits_are_computed_only_where_a_token_is_drawn(remasking: Remasking, expected: list[int]) -> None:
    policy = build_policy(8)
    network, seen = policy.network, []
    assert isinstance(network, MaskedTransformer)
    network.head.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits.shape[1]))
    config = SamplerConfig(1.0, remasking, block_length=4, steps=6)
    policy.sample(prompts(5), blank(torch.ones(5, 8, dtype=torch.bool)), config, noise(5))
    assert seen == expected


def test_a_given_beginning_is_a_longer_prompt() -> None:
    """Two tokens given before four to decode, against a prompt that ends with them, with the same noise."""
    policy, count = joint_policy(6), 8
    ids = torch.randint(3, (count, 10), generator=torch.Generator().manual_seed(2))
    for config in (SamplerConfig(), SamplerConfig(0.7, "low_confidence"), SamplerConfig(0.0, "margin")):
        given = (torch.arange(6) < 2).expand(count, -1)
        filled = policy.sample(Tokens.full(ids[:, :4]), Tokens.full(ids[:, 4:]), config, noise(count), given=given)
        short = blank(torch.ones(count, 4, dtype=torch.bool))
        longer = policy.sample(Tokens.full(ids[:, :6]), short, config, noise(count))
        assert torch.equal(filled.ids, torch.cat([ids[:, 4:6], longer.ids], 1))
        assert torch.equal(filled.order[:, 2:], longer.order)


@pytest.mark.parametrize("config", CONFIGS)
def test_given_tokens_stay_and_the_rest_is_decoded_once(config: SamplerConfig) -> None:
    policy = joint_policy(6)
    valid = torch.arange(6) < torch.tensor([6, 4, 1, 6, 3, 5])[:, None]
    generator = torch.Generator().manual_seed(3)
    given = torch.rand(valid.shape, generator=generator) < 0.5
    places = Tokens(torch.randint(3, valid.shape, generator=generator), valid)
    sample = policy.sample(left_padded(LINES), places, config, noise(6), EOS, given)
    kept = given | ~valid
    assert torch.equal(sample.ids[kept], places.ids[kept])
    assert (sample.order[kept] == -1).all()
    assert config.eos_stop or (sample.order[~kept] >= 0).all()
    few = policy.sample(left_padded(LINES), places, replace(config, max_rows=2), noise(6), EOS, given)
    assert torch.equal(few.ids, sample.ids), "a row does not depend on the rows beside it"
    other = policy.sample(left_padded(LINES), places.with_ids(places.ids ^ ~kept), config, noise(6), EOS, given)
    assert torch.equal(other.ids, sample.ids), "the ids of places that are not given do not matter"


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_given_changes_nothing(config: SamplerConfig) -> None:
    policy, places = joint_policy(6), blank(torch.ones(6, 6, dtype=torch.bool))
    without = policy.sample(left_padded(LINES), places, config, noise(6), EOS)
    nothing = policy.sample(left_padded(LINES), places, config, noise(6), EOS, torch.zeros(6, 6, dtype=torch.bool))
    assert torch.equal(nothing.ids, without.ids)
    assert torch.equal(nothing.order, without.order)


def test_greedy_does_not_depend_on_the_noise() -> None:
    valid = torch.ones(8, 4, dtype=torch.bool)
    first, second = (build_policy(4).sample(prompts(8), blank(valid), GREEDY, noise(8, seed)) for seed in (1, 2))
    assert torch.equal(first.ids, second.ids)


def test_same_noise_same_sample() -> None:
    policy, valid = build_policy(5), torch.ones(4, 5, dtype=torch.bool)
    first, second, other = (
        policy.sample(prompts(4), blank(valid), SamplerConfig(), noise(4, seed)) for seed in (7, 7, 8)
    )
    assert torch.equal(first.ids, second.ids)
    assert not torch.equal(first.ids, other.ids)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"remasking": "best"}, "remasking"),
        ({"noise": "bf16"}, "noise"),
        ({"block_length": -2}, "block_length"),
        ({"cfg_scale": -0.5}, "cfg_scale"),
        ({"max_rows": -1}, "max_rows"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], field: str) -> None:
    with pytest.raises(UserError, match=rf"sampler\.{field}"):
        SamplerConfig(**settings)  # type: ignore[arg-type]


def test_stopping_needs_an_end_of_text_token() -> None:
    valid = torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(UserError, match=r"sampler\.eos_stop"):
        build_policy(4).sample(prompts(1), blank(valid), SamplerConfig(eos_stop=True), noise(1))


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
