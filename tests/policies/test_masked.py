"""The masked policy: its score is a conditional distribution, and padding changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dipod.errors import UserError
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.evidence import Corruption
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import EncodedPrompts, MaskedTransformer
from tests.conftest import MASK, blank, build_policy, every_completion, noise, prompts


def corrupted(valid: Tensor, samples: int) -> Corruption:
    return draw(CorruptionConfig(scheme="independent", samples=samples), valid, None, noise(len(valid)))


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


def test_barred_tokens_have_probability_zero() -> None:
    policy = build_policy(3)
    barred = MaskedPolicy(policy.network, policy.mask_id, barred=(0,))
    valid = torch.ones(200, 3, dtype=torch.bool)

    assert (barred.sample(prompts(200), blank(valid), SamplerConfig(), noise(200)).ids != 0).all()
    logits = barred.completion_logits(prompts(1), Tokens.full(torch.zeros(1, 3, dtype=torch.long)), valid[:1], None)
    assert torch.isneginf(logits[..., [0, 3]]).all()


def test_prompt_and_completion_padding_change_nothing() -> None:
    policy = build_policy(6, prompt=4)
    ids = every_completion(3)[[5, 20]]
    short = Tokens.full(ids)
    observation = prompts(2, prompt=2)
    corruption = corrupted(short.valid, 4)
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


def test_padding_gives_no_gradient_that_is_not_a_number() -> None:
    policy = MaskedPolicy(build_policy(4).network, 3, barred=(0,))
    valid = torch.arange(4) < torch.tensor([4, 2])[:, None]
    action = Tokens(torch.tensor([[1, 2, 1, 2], [2, 1, 0, 0]]), valid)
    policy.evidence(prompts(2), action, corrupted(valid, 2)).elbo().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.network.parameters())


class Wrapped(nn.Module):
    """As DistributedDataParallel wraps: the forward pass goes through, attributes do not."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.passes = 0

    def forward(self, *inputs: object) -> Tensor:
        self.passes += 1
        hidden: Tensor = self.module(*inputs)
        return hidden


def test_a_wrapped_network_is_the_same_policy() -> None:
    policy = build_policy(4)
    network = Wrapped(policy.network)
    wrapped = MaskedPolicy(network, policy.mask_id)
    action = Tokens.full(every_completion(4)[:5])
    corruption = corrupted(action.valid, 2)
    ours, theirs = (p.evidence(prompts(5), action, corruption).elbo() for p in (wrapped, policy))
    assert torch.equal(ours, theirs)
    assert network.passes == 1, "gradients must go through the wrapper"
    places = blank(action.valid)
    ours_ids, theirs_ids = (p.sample(prompts(5), places, SamplerConfig(), noise(5)).ids for p in (wrapped, policy))
    assert torch.equal(ours_ids, theirs_ids)


def test_logits_are_computed_at_masked_places_only(generator: torch.Generator) -> None:
    policy, seen = build_policy(6), []
    network = policy.network
    assert isinstance(network, MaskedTransformer)
    valid = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    action = Tokens(torch.randint(3, (3, 6), generator=generator), valid)
    masked = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    everywhere = policy.completion_logits(prompts(3), action, masked, None).log_softmax(-1)
    expected = everywhere.gather(-1, action.ids[..., None])[..., 0].masked_fill(~masked, 0.0)
    network.head.register_forward_hook(lambda _module, _inputs, logits: seen.append(len(logits)))
    found = policy.score(prompts(3), action)(torch.arange(3), masked)
    torch.testing.assert_close(found, expected)
    assert max(seen) == 6


def test_every_module_is_back_in_its_own_mode_after_sampling() -> None:
    policy = build_policy(3)
    network = policy.network.train()
    assert isinstance(network, MaskedTransformer)
    network.blocks[0].eval()
    modes = []
    network.norm.register_forward_hook(lambda module, _inputs, _output: modes.append(module.training))
    policy.sample(prompts(1), blank(torch.ones(1, 3, dtype=torch.bool)), SamplerConfig(), noise(1))
    assert not any(modes)
    assert network.training
    assert network.norm.training
    assert not network.blocks[0].training


def test_prompt_tokens_are_hidden_sample_by_sample(generator: torch.Generator) -> None:
    policy, action = build_policy(4, prompt=3), Tokens.full(every_completion(4)[[5, 50]])
    observation = Tokens(torch.tensor([[0, 1, 2], [0, 2, 1]]), torch.tensor([[1, 1, 1], [0, 1, 1]]).bool())
    plain = corrupted(action.valid, 3)
    hidden = torch.rand(2, 3, 3, generator=generator) < 0.4
    corruption = Corruption(plain.masked, plain.weights, hidden & observation.valid[:, None])
    found = policy.evidence(observation, action, corruption, rows_per_pass=4)
    assert found.token_log_probs.shape == (2, 3, 4)
    for row in range(2):
        for sample in range(3):
            line, one = slice(row, row + 1), slice(sample, sample + 1)
            seen = observation[line]
            seen = seen.with_ids(torch.where(corruption.prompt[row, sample], MASK, seen.ids))  # type: ignore[index]
            alone = policy.evidence(seen, action[line], Corruption(plain.masked[line, one], plain.weights[line, one]))
            torch.testing.assert_close(found.token_log_probs[row, sample], alone.token_log_probs[0, 0])
    assert not torch.equal(found.elbo(), policy.evidence(observation, action, plain).elbo())


def test_an_adapter_is_reached_through_its_base() -> None:
    peft = pytest.importorskip("peft")
    policy = build_policy(4)
    network = peft.get_peft_model(policy.network.float(), peft.LoraConfig(target_modules=["query"], r=2))
    adapted = MaskedPolicy(network, policy.mask_id)
    places = blank(torch.ones(3, 4, dtype=torch.bool))
    ours, theirs = (p.sample(prompts(3), places, SamplerConfig(), noise(3)).ids for p in (adapted, policy))
    assert torch.equal(ours, theirs)


def test_observations_and_actions_must_pair_up() -> None:
    action = Tokens.full(every_completion(4)[:3])
    with pytest.raises(UserError, match="one action for each observation"):
        build_policy(4).evidence(prompts(2), action, corrupted(action.valid, 1))
