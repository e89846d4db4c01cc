"""Exact angles against autograd on the whole computation, with the masks and the K that a row is trained with."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from dipod.algorithms import ALGORITHMS, Algorithm
from dipod.drift import Alignment, Estimator, cosine, exact_alignment
from dipod.drift.alignment import Objective
from dipod.errors import UserError
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score
from dipod.likelihood.exact import exact_likelihood
from dipod.likelihood.masked import sandwich
from dipod.policies.masked import MaskedPolicy
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, noise, prompts

LENGTHS = torch.tensor([3, 2, 3, 1])
ADVANTAGE = torch.tensor([1.0, -0.5, 0.0, 0.7], dtype=torch.float64)
UNIFORM = CorruptionConfig("independent", 2)


def batch() -> tuple[MaskedPolicy, Tokens, Tokens]:
    """Four actions of unequal lengths."""
    valid = torch.arange(3) < LENGTHS[:, None]
    return build_policy(3, sharpness=80.0), prompts(4), Tokens(every_completion(3)[[4, 11, 25, 0]], valid)


def measure(estimator: Estimator, advantage: Tensor = ADVANTAGE, policy: MaskedPolicy | None = None) -> Alignment:
    usual, observation, action = batch()
    model = policy or usual

    def score(rows: Tensor, hidden: Tensor | None) -> Score:
        return model.score(model.hide(observation[rows], hidden), action[rows])

    parameters = list(model.network.parameters())
    return exact_alignment(score, action.valid, advantage, estimator, parameters, noise(4))


def times(proxy: object) -> Objective:
    """A·proxy."""

    def objective(evidence: MaskedEvidence, advantage: Tensor, length: Tensor) -> Tensor:
        del length
        return advantage * proxy(evidence, advantage)  # type: ignore[no-any-return, operator]

    return objective


def of_row(row: Algorithm, beta: float = 0.0) -> Estimator:
    return Estimator(row.on_policy, row.corruption, row.weight, beta)


def elbo(evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
    del advantage
    return evidence.elbo()


def flat(value: Tensor, policy: MaskedPolicy) -> Tensor:
    gradients = torch.autograd.grad(value, list(policy.network.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in gradients])


def test_equals_autograd_on_the_whole_batch() -> None:
    policy, observation, action = batch()
    likelihood = exact_likelihood(policy.score(observation, action), action.valid)
    proxy, true = (flat((ADVANTAGE * value).sum(), policy) for value in (likelihood.elbo, likelihood.log_prob))
    update = proxy + 0.8 * flat(likelihood.elbo[ADVANTAGE != 0].sum(), policy)
    found = measure(Estimator(times(elbo), UNIFORM, beta=0.8))
    assert found.cosine == pytest.approx(cosine(proxy, true), abs=1e-9)
    assert found.cosine < 0.995
    assert found.drift_share == pytest.approx(float((proxy - true).norm() / true.norm()), abs=1e-9)
    assert found.update_cosine == pytest.approx(cosine(update, true), abs=1e-9)
    assert abs(found.update_cosine - found.cosine) > 0.01
    assert (found.kind, found.cosine_error, found.share_error) == ("exact", 0.0, 0.0)


def test_the_gap_part_of_the_elbos_gradient_is_the_gaps_gradient() -> None:
    policy, observation, action = batch()
    likelihood = exact_likelihood(policy.score(observation, action), action.valid)
    norms = [float(flat((ADVANTAGE * v).sum(), policy).norm()) for v in (likelihood.gap, likelihood.log_prob)]
    assert measure(Estimator(times(elbo), UNIFORM)).drift_share == pytest.approx(norms[0] / norms[1])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_row_at_its_own_masks_and_k_agrees_with_many_draws(name: str) -> None:
    """The expected gradient against the mean over draws of what training does, in units of its standard error."""
    policy, observation, action = batch()
    row = ALGORITHMS[name]
    found = measure(of_row(row))
    assert found.kind == "exact"
    draws = 200
    rows = torch.arange(4).repeat_interleave(draws)
    masks: Corruption = draw(row.corruption, action.valid[rows], None, noise(4 * draws, 3))
    table = policy.evidence(observation[rows], action[rows], replace(masks, weights=masks.weights.double()))
    terms = row.on_policy(table, ADVANTAGE[rows], LENGTHS[rows].double()).reshape(4, draws)
    true = exact_likelihood(policy.score(observation, action), action.valid).log_prob
    likelihood = flat((ADVANTAGE * row.weight(LENGTHS.double()) * true).sum(), policy)
    groups = torch.stack([flat(part.sum() / 20, policy) for part in terms.split(20, dim=1)])
    angles = (groups @ likelihood) / likelihood.norm()
    expected = found.cosine * math.sqrt(_squared(found, 0))
    assert abs(float(angles.mean()) - expected) <= 4 * float(angles.std()) / math.sqrt(len(angles)) + 1e-9
    side = groups - angles[:, None] * likelihood / likelihood.norm()
    rest = math.sqrt(max(0.0, 1 - found.cosine**2) * _squared(found, 0))
    noisy = (side.mean(0).square().sum() - side.var(0).sum() / len(side)).clamp_min(0).sqrt()
    assert float(noisy) == pytest.approx(rest, abs=0.1 * math.sqrt(_squared(found, 0)))


def _squared(found: Alignment, which: int) -> float:
    assert found.products is not None
    return float(found.products.whole[which])


def tight(policy: MaskedPolicy) -> MaskedPolicy:
    """The same with independent tokens: a network whose head looks at nothing but the place."""
    with torch.no_grad():
        for name, parameter in policy.network.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                parameter.zero_()
    return policy


@pytest.mark.parametrize("name", [name for name, row in ALGORITHMS.items() if row.adequate])
def test_adequate_rows_have_no_drift_at_a_tight_model_whatever_the_lengths(name: str) -> None:
    policy = tight(build_policy(3, sharpness=80.0))
    observation, action = batch()[1:]
    likelihood = exact_likelihood(policy.score(observation, action), action.valid)
    assert float(likelihood.gap.detach().abs().max()) < 1e-9, "tight indeed"
    found = measure(of_row(ALGORITHMS[name], beta=0.3), policy=policy)
    assert found.cosine == pytest.approx(1.0)
    assert found.drift_share == pytest.approx(0.0, abs=1e-6)


def test_spgs_expectation_depends_on_its_number_of_masks() -> None:
    mixture = times(partial(sandwich, eubo_weight=0.5))
    configs = [CorruptionConfig("independent", k) for k in (1, 2, 3)]
    many = [measure(Estimator(mixture, config), -ADVANTAGE.abs()) for config in configs]
    assert {found.kind for found in many} == {"exact"}
    assert len({round(found.drift_share, 3) for found in many}) == 3


def test_an_expectation_that_cannot_be_enumerated_is_an_estimate_with_an_error() -> None:
    """Stratified masks depend on each other: three of them and SPG's moment have no law in two sums."""
    scheme = CorruptionConfig("stratified", 2)
    found = measure(Estimator(times(partial(sandwich, eubo_weight=0.5)), scheme))
    assert found.kind == "estimate"
    assert found.cosine_error > 0
    pairs = measure(Estimator(times(partial(sandwich, eubo_weight=0.5)), CorruptionConfig("antithetic", 2)))
    assert pairs.kind == "exact"
    linear = measure(Estimator(times(elbo), scheme))
    assert linear.kind == "exact"


def test_is_not_a_number_without_advantages() -> None:
    found = measure(Estimator(times(elbo), UNIFORM), 0 * ADVANTAGE)
    assert math.isnan(found.cosine)
    assert math.isnan(found.drift_share)
    assert not found.below_noise


def test_cosine_of_plain_vectors() -> None:
    first = torch.tensor([1.0, 0.0])
    assert cosine(first, torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert cosine(first, torch.tensor([-2.0, 0.0])) == -1.0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UserError, match="one advantage for each action"):
        measure(Estimator(times(elbo), UNIFORM), ADVANTAGE[:2])
    with pytest.raises(UserError, match="prompt_share"):
        measure(Estimator(times(elbo), replace(UNIFORM, prompt_share=0.1)))
