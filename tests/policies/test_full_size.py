"""LLaDA and Dream: the published computation, indifference to padding, the shift, and checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dipod.policies import layers
from dipod.policies.layers import BidirectionalModel
from dipod.policies.masked import MaskedPolicy
from dipod.policies.pretrained import load_pretrained
from dipod.policies.tokens import Tokens
from tests.checkpoints import dream_settings, llada_settings, write_tiny_dream, write_tiny_llada
from tests.policies.explicit import Array, dream_logits, llada_logits

PAD = -7  # no token: a network that reads it fails


@dataclass(frozen=True)
class Model:
    network: BidirectionalModel
    weights: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    explicit: Callable[[Mapping[str, Tensor], Mapping[str, Any], list[int]], Array]

    def logits(self, ids: list[int]) -> Tensor:
        """From the independent computation, [T, V]."""
        return torch.tensor(self.explicit(self.weights, self.settings, ids)).float()


@pytest.fixture(params=["llada", "llada, shared keys", "dream"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    if request.param == "dream":
        weights, settings, explicit = write_tiny_dream(tmp_path), dream_settings(), dream_logits
    else:
        kv_heads = 2 if "shared" in request.param else 4
        weights = write_tiny_llada(tmp_path, n_kv_heads=kv_heads)
        settings, explicit = llada_settings(n_kv_heads=kv_heads), llada_logits
    network = load_pretrained(tmp_path)
    assert isinstance(network, BidirectionalModel)
    return Model(network, weights, settings, explicit)


def random_ids(length: int, seed: int) -> list[int]:
    return [int(token) for token in torch.randint(264, (length,), generator=torch.Generator().manual_seed(seed))]


def padded(rows: list[list[int | None]]) -> Tokens:
    """Rows in which None is padding."""
    ids = torch.tensor([[PAD if token is None else token for token in row] for row in rows])
    return Tokens(ids, ids != PAD)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_logits_are_those_of_the_published_computation(model: Model) -> None:
    """A prompt and its completion are one sequence; the completion's rows come back."""
    prompt, completion = random_ids(5, 1), random_ids(4, 2)
    encoded = model.network.encode(Tokens.full(torch.tensor([prompt])))
    hidden = model.network(Tokens.full(torch.tensor([completion])), None, encoded, torch.tensor([0]))
    close(model.network.head(hidden)[0], model.logits(prompt + completion)[5:])


def test_without_a_prompt(model: Model) -> None:
    ids = random_ids(6, 3)
    hidden = model.network(Tokens.full(torch.tensor([ids])), None, None, torch.tensor([0]))
    close(model.network.head(hidden)[0], model.logits(ids))


def test_padding_changes_nothing(model: Model) -> None:
    """Left of prompts, inside and right of completions, for rows that share and do not share a prompt."""
    prompts, one, two = [random_ids(3, 4), random_ids(6, 5)], random_ids(4, 6), random_ids(2, 7)
    encoded = model.network.encode(padded([[None, None, None, *prompts[0]], [*prompts[1]]]))
    completions = padded([[one[0], None, *one[1:], None], [*one, None, None], [None, *two, None, None, None]])
    owner = torch.tensor([0, 1, 0])
    logits = model.network.head(model.network(completions, None, encoded, owner))
    close(logits[0, [0, 2, 3, 4]], model.logits(prompts[0] + one)[3:])
    close(logits[1, :4], model.logits(prompts[1] + one)[6:])
    close(logits[2, 1:3], model.logits(prompts[0] + two)[3:])


def test_padding_without_a_prompt(model: Model) -> None:
    ids = random_ids(3, 8)
    logits = model.network.head(model.network(padded([[None, ids[0], None, ids[1], ids[2]]]), None, None, None))
    close(logits[0, [1, 3, 4]], model.logits(ids))


def test_a_row_of_nothing_but_padding_is_finite(model: Model) -> None:
    hidden = model.network(padded([[None, None], [3, 4]]), None, None, None)
    hidden.sum().backward()
    assert hidden.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.network.parameters())


def test_only_the_places_asked_for(model: Model) -> None:
    encoded = model.network.encode(padded([[None, 1, 2], [3, 4, 5]]))
    completions, owner = padded([[5, 6, 7], [8, 9, None]]), torch.tensor([1, 0])
    at = torch.tensor([[2, 0], [0, 1]])
    every = model.network(completions, None, encoded, owner)
    torch.testing.assert_close(
        model.network(completions, at, encoded, owner), torch.stack([every[0, [2, 0]], every[1, [0, 1]]])
    )


def test_positions_may_be_given(model: Model) -> None:
    """Positions that only say again what counting says change nothing; others do."""
    ids = torch.tensor([random_ids(4, 9)])
    counted = model.network(Tokens.full(ids))
    line = torch.arange(4)[None]
    torch.testing.assert_close(model.network(Tokens(ids, ids >= 0, line)), counted)
    assert not torch.allclose(model.network(Tokens(ids, ids >= 0, line * 2)), counted)


def test_a_full_batch_takes_no_mask_and_asks_the_device_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor | None] = []
    attention = layers.attention

    def spy(query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None) -> Tensor:
        masks.append(attend)
        return attention(query, key, value, attend)

    for module in ("llada", "dream"):
        monkeypatch.setattr(f"dipod.policies.{module}.attention", spy)
    asked: list[int] = []
    every = Tensor.all

    def ask(mask: Tensor) -> Tensor:
        asked.append(1)
        return every(mask)

    monkeypatch.setattr(Tensor, "all", ask)
    encoded = model.network.encode(Tokens.full(torch.tensor([[1, 2]])))
    completion = Tokens.full(torch.tensor([[3, 4]]))
    for token in range(3):
        model.network(completion.with_ids(completion.ids + token), None, encoded, torch.tensor([0]))
    assert masks == [None] * 6
    assert len(asked) == 2


def test_gradients_are_the_same_with_checkpointing(model: Model) -> None:
    network, ids = model.network, torch.tensor([random_ids(5, 10)])

    def gradients() -> dict[str, Tensor]:
        network.zero_grad()
        network.head(network(Tokens.full(ids), torch.tensor([[1, 4]]))).square().sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    plain = gradients()
    network.gradient_checkpointing = True
    torch.testing.assert_close(gradients(), plain, atol=0.0, rtol=0.0)
    assert set(plain) == set(dict(network.named_parameters()))


def test_checkpointing_computes_blocks_twice(model: Model) -> None:
    calls: list[int] = []
    next(iter(model.network.stack())).register_forward_pre_hook(lambda *_: calls.append(1))
    model.network.gradient_checkpointing = True
    model.network(Tokens.full(torch.tensor([[1, 2, 3]]))).sum().backward()
    with torch.no_grad():
        model.network(Tokens.full(torch.tensor([[1, 2, 3]])))
    assert len(calls) == 3


def test_bfloat16_stays_close(model: Model) -> None:
    ids = random_ids(6, 11)
    network = model.network.bfloat16()
    logits = network.head(network(Tokens.full(torch.tensor([ids]))))[0].detach()
    assert logits.dtype == torch.bfloat16
    wanted = model.logits(ids)
    assert float((logits.float() - wanted).norm() / wanted.norm()) < 0.03


def test_a_policy_scores_completions_with_it(model: Model) -> None:
    """Log-probabilities of a completion's hidden tokens, the mask token itself having none."""
    mask_id, prompts, completion = 200, [random_ids(3, 12), random_ids(5, 13)], random_ids(4, 14)
    policy = MaskedPolicy(model.network, mask_id)
    observation = padded([[None, None, *prompts[0]], [*prompts[1]]])
    action = Tokens.full(torch.tensor([completion, completion]))
    masked = torch.tensor([[True, False, True, False], [False, True, True, True]])
    found = policy.score(observation, action)(torch.tensor([0, 1]), masked)
    for row, prompt in enumerate(prompts):
        hidden = [mask_id if gone else token for token, gone in zip(completion, masked[row].tolist(), strict=True)]
        logits = model.logits(prompt + hidden)[len(prompt) :]
        logits[:, mask_id] = -torch.inf
        wanted = logits.log_softmax(-1)[range(4), completion]
        close(found[row], torch.where(masked[row], wanted, 0.0))


def test_dream_is_qwen_attending_both_ways(tmp_path: Path) -> None:
    """The same weights by the same names in transformers' Qwen2 without its causal mask, logits shifted by one."""
    transformers = pytest.importorskip("transformers")
    weights = write_tiny_dream(tmp_path)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    shape = {name: dream_settings()[name] for name in (*names, "vocab_size", "rms_norm_eps")}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    config = transformers.Qwen2Config(**shape, rope_parameters=rope, attn_implementation="eager")
    qwen = transformers.Qwen2ForCausalLM(config).eval()
    qwen.load_state_dict(weights, strict=True)
    ids = torch.tensor([random_ids(30, 15), random_ids(30, 16)])
    logits = qwen(input_ids=ids, attention_mask=torch.zeros(2, 1, 30, 30)).logits
    network = load_pretrained(tmp_path)
    assert isinstance(network, BidirectionalModel)
    shifted = torch.cat([logits[:, :1], logits[:, :-1]], 1)
    torch.testing.assert_close(network.head(network(Tokens.full(ids))), shifted, atol=3e-5, rtol=1e-5)


def test_the_explicit_computation_turns_by_place() -> None:
    """The two halves of a head are the two coordinates; a quarter turn takes one to the other."""
    from tests.policies.explicit import turned

    head = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(turned(head, 2.0)[1], [np.cos(1.0), np.sin(1.0)])
