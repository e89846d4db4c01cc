"""The gradient cosine against autograd on the whole computation, and at the two ends of its scale."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from dipod.drift import cosine, gradient_cosine
from dipod.errors import UserError
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score
from dipod.likelihood.exact import all_corruptions, exact_table, log_prob_from_table
from dipod.likelihood.masked import elbo_proxy, sandwich
from dipod.policies.masked import MaskedPolicy
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, prompts


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
) -> float:
    def score(rows: Tensor) -> Score:
        return policy.score(observation[rows], action[rows])

    parameters = list(policy.network.parameters())

    def objective(evidence: MaskedEvidence, weight: Tensor) -> Tensor:
        return weight * proxy(evidence, weight)  # type: ignore[no-any-return, operator]

    return gradient_cosine(score, action.valid, advantage, objective, parameters, corruption)


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
    assert measure(policy, observation, action, advantage, proxy) == pytest.approx(expected, abs=1e-9)
    assert expected < 0.995


def test_is_one_for_the_likelihood_itself() -> None:
    def log_likelihood(evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
        del advantage
        return log_prob_from_table(evidence.token_log_probs)

    assert measure(*batch(), log_likelihood) == pytest.approx(1.0)


def test_is_not_a_number_without_advantages() -> None:
    policy, observation, action, advantage = batch()
    assert math.isnan(measure(policy, observation, action, 0 * advantage, elbo_proxy))


def test_cosine_of_plain_vectors() -> None:
    first = torch.tensor([1.0, 0.0])
    assert cosine(first, torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert cosine(first, torch.tensor([-2.0, 0.0])) == -1.0


def test_every_action_needs_an_advantage() -> None:
    policy, observation, action, advantage = batch()
    with pytest.raises(UserError, match="one advantage for each action"):
        measure(policy, observation, action, advantage[:2], elbo_proxy)
