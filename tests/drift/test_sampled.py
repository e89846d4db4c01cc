"""Angles from decoding orders against exact ones, with the errors that they state."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dipod.drift import Alignment, Estimator, Parts, Products, exact_alignment, pooled, sampled_alignment
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.evidence import MaskedEvidence, Score
from dipod.noise import Noise
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from tests.conftest import blank, build_policy, noise, prompts


def plain(evidence: MaskedEvidence, advantage: Tensor, length: Tensor) -> Tensor:
    del length
    return advantage * evidence.elbo()


ESTIMATOR = Estimator(plain, CorruptionConfig("antithetic", 4), beta=0.5)


class Batch:
    """Own actions of a random policy, and both ways to measure on them."""

    def __init__(self, count: int, sharpness: float, tokens: int = 5) -> None:
        self.policy = build_policy(tokens, sharpness=sharpness)
        self.observation, self.valid = prompts(count), torch.ones(count, tokens, dtype=torch.bool)
        sample = self.policy.sample(self.observation, blank(self.valid), SamplerConfig(), noise(count))
        self.action, self.order = Tokens(sample.ids, self.valid), sample.order
        self.advantage = (sample.ids == 0).sum(-1).double() - tokens / 3
        self.parameters = list(self.policy.network.parameters())

    def score(self, rows: Tensor, hidden: Tensor | None) -> Score:
        return self.policy.score(self.policy.hide(self.observation[rows], hidden), self.action[rows])

    def exact(self, estimator: Estimator = ESTIMATOR) -> Alignment:
        streams = noise(len(self.valid))
        return exact_alignment(self.score, self.valid, self.advantage, estimator, self.parameters, streams)

    def sampled(self, streams: Noise, estimator: Estimator = ESTIMATOR, paths: int = 4, sketch: int = 0) -> Alignment:
        return sampled_alignment(
            self.score,
            self.valid,
            self.advantage,
            estimator,
            self.parameters,
            self.order,
            streams,
            self.observation.valid,
            paths,
            sketch,
            rows_per_pass=4096,
        )


@pytest.mark.parametrize("sharpness", [8.0, 60.0])
def test_the_estimate_agrees_with_enumeration_also_through_a_sketch(sharpness: float) -> None:
    batch = Batch(60, sharpness)
    exact = batch.exact()
    for sketch in (0, 4000) if sharpness > 10 else (0,):
        found = batch.sampled(noise(60, 1), paths=8, sketch=sketch)
        assert found.kind == "estimate"
        assert found.cosine == pytest.approx(exact.cosine, abs=0.06)
        assert found.update_cosine == pytest.approx(exact.update_cosine, abs=0.06)
        assert found.drift_share == pytest.approx(exact.drift_share, abs=0.15)


def test_the_stated_errors_are_those_that_are_made_and_pooling_takes_the_bias_out() -> None:
    """On one batch with a known angle: single looks err by what they say, and many looks come close to the truth."""
    batch = Batch(8, 40.0, tokens=4)
    estimator = replace(ESTIMATOR, corruption=CorruptionConfig("antithetic", 8))
    truth = batch.exact(estimator)
    looks = [batch.sampled(noise(8, 100 + i), estimator, paths=8) for i in range(20)]
    clear = [look for look in looks if not look.below_noise]
    assert len(clear) > 14
    scores = torch.tensor([(look.cosine - truth.cosine) / look.cosine_error for look in clear])
    assert 0.5 < float(scores.square().mean().sqrt()) < 1.7
    together = pooled([look.products for look in looks if look.products is not None])
    assert together.cosine_error < sum(look.cosine_error for look in clear) / len(clear) / 2
    assert abs(together.cosine - truth.cosine) < 3 * together.cosine_error
    assert abs(together.update_cosine - truth.update_cosine) < 3 * together.update_error
    assert abs(together.drift_share - truth.drift_share) < 3 * together.share_error


def test_products_of_two_estimates_are_free_of_noise_in_the_mean_and_say_how_noisy_they_are() -> None:
    generator = torch.Generator().manual_seed(0)

    def random() -> Tensor:
        return torch.randn(6, 300, dtype=torch.float64, generator=generator)

    first, second = random(), random()
    looks = []
    for _ in range(300):
        proxy, likelihood = (Parts(part + random(), part + random()) for part in (first, first + second))
        looks.append(Products.of(proxy, likelihood, proxy, "estimate"))
    whole = torch.stack([look.whole for look in looks])
    stated = torch.stack([look.covariance.diagonal() for look in looks]).mean(0).sqrt()
    g, h = first.sum(0), (first + second).sum(0)
    truth = torch.stack([g @ g, h @ h, g @ h, g @ g, g @ h])
    assert bool(((whole.mean(0) - truth).abs() < 4 * whole.std(0) / 300**0.5).all())
    assert bool((whole.std(0) / stated > 0.7).all() and (whole.std(0) / stated < 1.2).all())
    angles = torch.tensor([look.alignment().cosine for look in looks])
    errors = torch.tensor([look.alignment().cosine_error for look in looks])
    assert float(angles.mean()) == pytest.approx(float(g @ h / g.norm() / h.norm()), abs=0.01)
    assert 0.6 < float(angles.std() / errors.mean()) < 1.2


def test_an_angle_below_noise_is_not_told() -> None:
    """Advantages of opposite sign on the same action: the true gradients vanish, their estimates do not."""
    batch = Batch(4, 40.0)
    batch.action = batch.action[torch.zeros(4, dtype=torch.long)]
    batch.order = batch.order[torch.zeros(4, dtype=torch.long)]
    batch.advantage = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    found = batch.sampled(noise(4, 5))
    assert found.below_noise
    assert math.isnan(found.cosine)
    assert found.numbers() == {"cosine_kind": "below noise"}


def test_no_advantages_have_no_angle() -> None:
    batch = Batch(3, 8.0)
    batch.advantage = torch.zeros(3, dtype=torch.float64)
    found = batch.sampled(noise(3))
    assert math.isnan(found.cosine)
    assert not found.below_noise


def test_masks_over_prompt_tokens_are_part_of_the_estimator() -> None:
    """Where an estimator hides the prompt it learns of another conditional, and its gradient is another."""
    batch = Batch(40, 60.0)
    batch.observation = Tokens.full(torch.arange(80).reshape(40, 2) % 3)
    bare = replace(ESTIMATOR, beta=0.0)
    hiding = replace(bare, corruption=replace(bare.corruption, prompt_share=0.9))
    seen = pooled([batch.sampled(noise(40, i), bare).products for i in range(3)])  # type: ignore[misc]
    hidden = pooled([batch.sampled(noise(40, i), hiding).products for i in range(3)])  # type: ignore[misc]
    assert seen.cosine > hidden.cosine + 3 * math.hypot(seen.cosine_error, hidden.cosine_error)


def test_masks_of_their_own_for_the_beta_term() -> None:
    batch = Batch(60, 8.0)
    biased = replace(ESTIMATOR, corruption=CorruptionConfig("all-masked", 1), bound=CorruptionConfig("antithetic", 4))
    found, exact = batch.sampled(noise(60, 2), biased, paths=8), batch.exact(biased)
    assert found.update_cosine == pytest.approx(exact.update_cosine, abs=0.06)
    assert found.cosine == pytest.approx(exact.cosine, abs=0.06)
    assert abs(exact.update_cosine - exact.cosine) > 0.01
