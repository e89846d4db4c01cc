"""Gradient caching: the same gradient as the plain way, whatever the proxy, with one part in memory at a time."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor

from dipod.likelihood.caching import backward_in_parts
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.evidence import Corruption, MaskedEvidence
from dipod.likelihood.masked import elbo_proxy, sandwich, token_proxy
from dipod.objectives.surrogates import plain, ppo_clip
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, noise, prompts


@pytest.mark.parametrize("samples_per_pass", [1, 2, 3, 16])
@pytest.mark.parametrize("proxy", [elbo_proxy, partial(sandwich, eubo_weight=0.5), token_proxy])
@pytest.mark.parametrize("surrogate", [plain, partial(ppo_clip, clip=0.3)])
def test_gradients_equal_the_plain_ones(samples_per_pass: int, proxy: object, surrogate: object) -> None:
    policy = build_policy(5)
    action, observation = Tokens.full(every_completion(5)[::60]), prompts(5)
    advantage = torch.linspace(-1, 1, 5, dtype=torch.float64)
    corruption = draw(CorruptionConfig("independent", 16), action.valid, None, noise(5))
    parameters = list(policy.network.parameters())
    held: list[int] = []

    def evidence_of(part: Corruption) -> MaskedEvidence:
        held.append(part.samples)
        return policy.evidence(observation, action, part)

    def loss_of(evidence: MaskedEvidence) -> Tensor:
        new = proxy(evidence, advantage)  # type: ignore[operator]
        old = new.detach() + 0.1
        weight = advantage[:, None] if new.dim() == 2 else advantage
        return -(surrogate(new, old, weight).sum() + 0.3 * evidence.elbo().sum())  # type: ignore[operator, no-any-return]

    expected = torch.autograd.grad(loss_of(evidence_of(corruption)), parameters)
    held.clear()
    order: list[bool] = []
    for parameter in parameters:
        parameter.grad = None

    def backward(loss: Tensor, last: bool) -> None:
        order.append(last)
        loss.backward()

    backward_in_parts(evidence_of, corruption, loss_of, samples_per_pass, backward, nullcontext)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9)
    assert max(held) <= samples_per_pass
    assert order == [False] * (len(order) - 1) + [True]
