"""The gradient cosine against autograd on the whole computation, and at the two ends of its scale."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from dipod.drift import Alignment, cosine, exact_alignment, sampled_alignment
from dipod.errors import UserError
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score
from dipod.likelihood.exact import all_corruptions, exact_likelihood, exact_table, log_prob_from_table
from dipod.likelihood.masked import elbo_proxy, sandwich
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from tests.conftest import blank, build_policy, every_completion, noise, prompts


def batch() -> tuple[MaskedPolicy, Tokens, Tokens, Tensor]:
    action = Tokens.full(every_completion(3)[[4, 11, 25, 0]])
    advantage = torch.tensor([1.0, -0.5, 0.0, 0.7], dtype=torch.float64)
    return build_policy(3, sharpness=80.0), prompts(4), action, advantage


def measure(
    policy: MaskedPolicy,
    observation: Tokens,
    action: Tokens,
    advantage: Tensor,
    proxy: object,
    corruption: CorruptionConfig | None = None,
) -> Alignment:
    def score(rows: Tensor) -> Score:
        return policy.score(observation[rows], action[rows])

    parameters = list(policy.network.parameters())

    def objective(evidence: MaskedEvidence, weight: Tensor) -> Tensor:
        return weight * proxy(evidence, weight)  # type: ignore[no-any-return, operator]

    return exact_alignment(score, action.valid, advantage, objective, parameters, corruption)


@pytest.mark.parametrize("proxy", [elbo_proxy, partial(sandwich, eubo_weight=0.5)])
def test_equals_autograd_on_the_whole_batch(proxy: object) -> None:
    policy, observation, action, advantage = batch()
    table = exact_table(policy.score(observation, action), action.valid)
    corruption: Corruption = all_corruptions(3, 4)
    evidence = MaskedEvidence(table, corruption.masked, corruption.weights)
    parameters = list(policy.network.parameters())
    flat = []
    for objective in ((advantage * proxy(evidence, advantage)).sum(), (advantage * log_prob_from_table(table)).sum()):  # type: ignore[operator]
        gradients = torch.autograd.grad(objective, parameters, retain_graph=True)
        flat.append(torch.cat([g.flatten() for g in gradients]))
    expected = float(flat[0] @ flat[1] / flat[0].norm() / flat[1].norm())
    found = measure(policy, observation, action, advantage, proxy)
    assert found.cosine == pytest.approx(expected, abs=1e-9)
    assert expected < 0.995
    assert found.drift_share == pytest.approx(float((flat[0] - flat[1]).norm() / flat[1].norm()), abs=1e-9)
    assert found.kind == "exact"


def test_is_one_for_the_likelihood_itself() -> None:
    def log_likelihood(evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
        del advantage
        return log_prob_from_table(evidence.token_log_probs)

    found = measure(*batch(), log_likelihood)
    assert found.cosine == pytest.approx(1.0)
    assert found.drift_share == pytest.approx(0.0, abs=1e-9)


def test_is_not_a_number_without_advantages() -> None:
    policy, observation, action, advantage = batch()
    found = measure(policy, observation, action, 0 * advantage, elbo_proxy)
    assert math.isnan(found.cosine)
    assert math.isnan(found.drift_share)


def test_cosine_of_plain_vectors() -> None:
    first = torch.tensor([1.0, 0.0])
    assert cosine(first, torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert cosine(first, torch.tensor([-2.0, 0.0])) == -1.0


def test_every_action_needs_an_advantage() -> None:
    policy, observation, action, advantage = batch()
    with pytest.raises(UserError, match="one advantage for each action"):
        measure(policy, observation, action, advantage[:2], elbo_proxy)


def test_the_gap_part_of_the_elbos_gradient_is_the_gaps_gradient() -> None:
    policy, observation, action, advantage = batch()
    likelihood = exact_likelihood(policy.score(observation, action), action.valid)
    parameters = list(policy.network.parameters())
    norms = []
    for value in ((advantage * likelihood.gap).sum(), (advantage * likelihood.log_prob).sum()):
        gradients = torch.autograd.grad(value, parameters, retain_graph=True)
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
    found = measure(policy, observation, action, advantage, elbo_proxy)
    assert found.drift_share == pytest.approx(norms[0] / norms[1])


@pytest.mark.parametrize("sharpness", [8.0, 60.0])
def test_the_estimate_agrees_with_enumeration_also_through_a_sketch(sharpness: float) -> None:
    count, policy = 60, build_policy(5, sharpness=sharpness)
    observation, valid = prompts(count), torch.ones(count, 5, dtype=torch.bool)
    sample = policy.sample(observation, blank(valid), SamplerConfig(), noise(count))
    action = Tokens(sample.ids, valid)
    advantage = (sample.ids == 0).sum(-1).double() - 1.7
    exact = measure(policy, observation, action, advantage, elbo_proxy)

    def score(rows: Tensor) -> Score:
        return policy.score(observation[rows], action[rows])

    def objective(evidence: MaskedEvidence, weight: Tensor) -> Tensor:
        return weight * evidence.elbo()

    corruption, parameters = CorruptionConfig("antithetic", 8), list(policy.network.parameters())
    for sketch in (0, 4000):
        found = sampled_alignment(
            score,
            valid,
            advantage,
            objective,
            parameters,
            corruption,
            sample.order,
            noise(count, 1),
            paths=8,
            sketch=sketch,
            rows_per_pass=4096,
        )
        assert found.kind == "estimate"
        assert found.cosine == pytest.approx(exact.cosine, abs=0.06)
        assert found.drift_share == pytest.approx(exact.drift_share, abs=0.15)
