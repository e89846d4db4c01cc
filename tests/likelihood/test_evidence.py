"""Evidence: passes, samples and gradients agree."""

from __future__ import annotations

import torch

from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, noise, prompts


def test_passes_and_gradients_agree() -> None:
    policy = build_policy(4)
    action = Tokens.full(every_completion(4)[:6])
    corruption = draw(CorruptionConfig("independent", 3), action.valid, None, noise(6))
    whole = policy.evidence(prompts(6), action, corruption)
    parts = policy.evidence(prompts(6), action, corruption, rows_per_pass=5)
    torch.testing.assert_close(whole.token_log_probs, parts.token_log_probs)
    torch.testing.assert_close(whole.elbo(), whole.elbo(per_sample=True).mean(-1))
    assert whole.elbo().requires_grad


def test_samples_can_be_picked_and_put_beside_each_other() -> None:
    policy = build_policy(4)
    action, observation = Tokens.full(every_completion(4)[:6]), prompts(6)
    hidden = draw(CorruptionConfig("independent", 2, 0.5), action.valid, observation.valid, noise(6))
    plain = draw(CorruptionConfig("stratified", 3), action.valid, None, noise(6, 1))
    both = policy.evidence(observation, action, hidden.beside(plain))
    first, second = policy.evidence(observation, action, hidden), policy.evidence(observation, action, plain)
    torch.testing.assert_close(both.pick(slice(0, 2)).elbo(), first.elbo())
    torch.testing.assert_close(both.pick(slice(2, None)).elbo(), second.elbo())
    torch.testing.assert_close(
        policy.evidence(observation, action, plain.pick(slice(1, 2))).elbo(), second.pick(slice(1, 2)).elbo()
    )
