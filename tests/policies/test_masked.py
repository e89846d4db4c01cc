"""The masked policy: its score is a conditional distribution, and padding changes nothing."""

from __future__ import annotations

import pytest
import torch

from dipod.errors import UserError
from dipod.likelihood.evidence import sample_corruption
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import EncodedPrompts, MaskedTransformer
from tests.conftest import blank, build_policy, every_completion, prompts


def test_score_is_a_distribution_over_the_allowed_tokens() -> None:
    policy = build_policy(2)
    completions = every_completion(2)
    score = policy.score(prompts(9), Tokens.full(completions))
    masked = torch.tensor([[True, False]]).expand(9, -1)
    first = score(torch.arange(9), masked)
    assert (first[:, 1] == 0).all()
    for second in range(3):
        rows = completions[:, 1] == second
        torch.testing.assert_close(first[rows, 0].exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_barred_tokens_have_probability_zero(generator: torch.Generator) -> None:
    policy = build_policy(3)
    barred = MaskedPolicy(policy.network, policy.mask_id, barred=(0,))
    valid = torch.ones(200, 3, dtype=torch.bool)

    assert (barred.sample(prompts(200), blank(valid), SamplerConfig(), generator).ids != 0).all()
    logits = barred.completion_logits(prompts(1), Tokens.full(torch.zeros(1, 3, dtype=torch.long)), valid[:1], None)
    assert torch.isneginf(logits[..., [0, 3]]).all()


def test_prompt_and_completion_padding_change_nothing(generator: torch.Generator) -> None:
    policy = build_policy(6, prompt=4)
    ids = every_completion(3)[[5, 20]]
    short = Tokens.full(ids)
    observation = prompts(2, prompt=2)
    corruption = sample_corruption(short.valid, 4, generator)
    alone = policy.evidence(observation, short, corruption).elbo()

    padded_action = Tokens(torch.cat([ids, torch.full((2, 2), 3)], 1), torch.arange(5).expand(2, -1) < 3)
    left = Tokens(
        torch.cat([torch.full((2, 2), 1), observation.ids], 1), torch.tensor([[False, False, True, True]]).expand(2, -1)
    )
    wide = torch.cat([corruption.masked, torch.zeros(2, 4, 2, dtype=torch.bool)], -1)
    padded = policy.evidence(left, padded_action, type(corruption)(wide, corruption.weights)).elbo()
    torch.testing.assert_close(padded, alone)


def test_equal_prompts_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = build_policy(3)
    action = Tokens.full(every_completion(3)[:4])
    observation = Tokens.full(torch.tensor([[0, 1], [2, 2], [0, 1], [2, 2]]))
    masked = torch.ones_like(action.valid)
    rows = [slice(r, r + 1) for r in range(4)]
    expected = torch.cat([policy.completion_logits(observation[r], action[r], masked[r], None) for r in rows])
    network, sizes = policy.network, []
    assert isinstance(network, MaskedTransformer)
    encode = network.encode

    def counting(prompts: Tokens) -> EncodedPrompts:
        sizes.append(len(prompts))
        return encode(prompts)

    monkeypatch.setattr(network, "encode", counting)
    torch.testing.assert_close(policy.completion_logits(observation, action, masked, None), expected)
    assert sizes == [2]


def test_padding_gives_no_gradient_that_is_not_a_number(generator: torch.Generator) -> None:
    policy = MaskedPolicy(build_policy(4).network, 3, barred=(0,))
    valid = torch.arange(4) < torch.tensor([4, 2])[:, None]
    action = Tokens(torch.tensor([[1, 2, 1, 2], [2, 1, 0, 0]]), valid)
    policy.evidence(prompts(2), action, sample_corruption(valid, 2, generator)).elbo().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.network.parameters())


def test_observations_and_actions_must_pair_up(generator: torch.Generator) -> None:
    action = Tokens.full(every_completion(4)[:3])
    with pytest.raises(UserError, match="one action for each observation"):
        build_policy(4).evidence(prompts(2), action, sample_corruption(action.valid, 1, generator))
