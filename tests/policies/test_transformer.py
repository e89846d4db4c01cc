"""The transformer: padding changes nothing, prompts are encoded once and exactly, files round-trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dipod.errors import UserError
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer, TransformerConfig


def build_network(seed: int = 0, axes: tuple[int, ...] = (12,)) -> MaskedTransformer:
    shape = TransformerConfig(vocab_size=7, axes=axes, width=16, layers=3, heads=2)
    return MaskedTransformer(shape, torch.Generator().manual_seed(seed)).double()


def tokens(batch: int, length: int, seed: int = 1) -> Tokens:
    return Tokens.full(torch.randint(7, (batch, length), generator=torch.Generator().manual_seed(seed)))


def pad(line: Tokens, left: int, right: int) -> Tokens:
    """The same sequences between padding tokens."""
    batch, length = line.ids.shape
    ids = torch.full((batch, left + length + right), 6)
    ids[:, left : left + length] = line.ids
    valid = torch.zeros_like(ids, dtype=torch.bool)
    valid[:, left : left + length] = line.valid
    return Tokens(ids, valid)


@pytest.mark.parametrize("left", [0, 3])
def test_padding_on_either_side_changes_no_hidden_state(left: int) -> None:
    network, line = build_network(), tokens(2, 6)
    torch.testing.assert_close(network(pad(line, left, 2))[:, left : left + 6], network(line))


@pytest.mark.parametrize("left", [0, 2])
def test_padding_of_prompts_and_completions_changes_no_hidden_state(left: int) -> None:
    network, prompt, completion = build_network(), tokens(2, 4), tokens(2, 5, seed=2)
    owner = torch.tensor([1, 0])
    alone = network(completion, None, network.encode(prompt), owner)
    padded = network(pad(completion, 0, 3), None, network.encode(pad(prompt, left, 1)), owner)
    torch.testing.assert_close(padded[:, :5], alone)


def test_completions_see_each_other_and_their_own_prompt_only() -> None:
    network, prompt, completion = build_network(), tokens(2, 4), tokens(1, 5, seed=2)
    before = network(completion, None, network.encode(prompt), torch.tensor([0]))
    other = completion.ids.clone()
    other[0, 4] = (other[0, 4] + 1) % 7
    after = network(completion.with_ids(other), None, network.encode(prompt), torch.tensor([0]))
    assert (before[0, 0] != after[0, 0]).any()
    changed = prompt.ids.clone()
    changed[1] = (changed[1] + 1) % 7
    unchanged = network(completion, None, network.encode(prompt.with_ids(changed)), torch.tensor([0]))
    torch.testing.assert_close(unchanged, before)
    assert (network(completion, None, network.encode(prompt), torch.tensor([1])) != before).any()


def test_requested_places_are_those_of_the_full_pass() -> None:
    network, line = build_network(), tokens(3, 8)
    at = torch.tensor([[7, 0], [3, 3], [5, 1]])
    ragged = Tokens(line.ids, torch.arange(8) < torch.tensor([8, 4, 6])[:, None])
    full = network(ragged)
    torch.testing.assert_close(network(ragged, at), full.gather(1, at[..., None].expand(-1, -1, 16)))


def test_gradients_are_the_same_with_checkpointing_and_every_block_is_computed_twice() -> None:
    network, prompt, completion = build_network(), tokens(2, 4), tokens(3, 5, seed=2)
    calls: list[int] = []
    for block in network.blocks:
        block.get_submodule("up").register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> dict[str, torch.Tensor]:
        network.zero_grad()
        encoded = network.encode(prompt)
        hidden = network(completion, torch.tensor([[0, 3]] * 3), encoded, torch.tensor([1, 0, 1]))
        network.head(hidden).square().sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    plain = gradients()
    once = len(calls)
    assert once == 3 + 2, "the prompt's last block gives keys and values only"
    network.gradient_checkpointing = True
    torch.testing.assert_close(gradients(), plain, atol=0.0, rtol=0.0)
    assert len(calls) == 3 * once
    with torch.no_grad():
        network(completion)
    assert len(calls) == 3 * once + 3


def test_positions_can_be_given() -> None:
    network, line = build_network(), tokens(2, 4)
    positions = torch.arange(4).expand(2, -1)
    torch.testing.assert_close(network(Tokens(line.ids, line.valid, positions)), network(line))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = network(Tokens(line.ids[:, order], line.valid, positions[:, order]))
    torch.testing.assert_close(shuffled, network(line)[:, order])


def test_positions_on_a_board_add_the_embeddings_of_their_coordinates() -> None:
    network, line = build_network(axes=(3, 4)), tokens(1, 12)
    weights = dict(network.named_parameters())
    expected = (
        weights["token.weight"][line.ids[0, 7]] + weights["positions.0.weight"][1] + weights["positions.1.weight"][3]
    )
    torch.testing.assert_close(network._embed(line, None)[0, 7], expected)
    with pytest.raises(IndexError):
        network(tokens(1, 13))


def test_logits_against_an_independent_computation() -> None:
    """The whole network in plain tensor algebra, a prompt of 3 and a completion of 4: mask, norms, heads, residuals."""
    network, prompt, completion = build_network(), tokens(1, 3), tokens(1, 4, seed=2)
    weights = dict(network.named_parameters())

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[name]

    x = weights["token.weight"][torch.cat([prompt.ids, completion.ids], 1)[0]] + weights["positions.0.weight"][:7]
    hidden_from_prompt = torch.zeros(7, 7, dtype=torch.float64)
    hidden_from_prompt[:3, 3:] = -torch.inf
    for i in range(3):
        block = f"blocks.{i}."
        y = norm(x, f"{block}attention_norm.weight")
        query = y @ weights[f"{block}query.weight"].T
        key, value = (y @ weights[f"{block}key_value.weight"].T).split(16, -1)
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            attention = (query[:, h] @ key[:, h].T / 8**0.5 + hidden_from_prompt).softmax(-1)
            heads.append(attention @ value[:, h])
        x = x + torch.cat(heads, -1) @ weights[f"{block}out.weight"].T
        up = norm(x, f"{block}feed_forward_norm.weight") @ weights[f"{block}up.weight"].T
        x = x + (up / (1 + (-up).exp())) @ weights[f"{block}down.weight"].T
    expected = (norm(x, "norm.weight") @ weights["head.weight"].T)[3:]
    computed = network.head(network(completion, None, network.encode(prompt), torch.tensor([0])))
    torch.testing.assert_close(computed[0], expected)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    network = build_network(axes=(3, 4)).float()
    network.save_pretrained(tmp_path / "model")
    loaded = MaskedTransformer.from_pretrained(tmp_path / "model")
    assert loaded.config == network.config
    torch.testing.assert_close(loaded(tokens(2, 5)), network(tokens(2, 5)), rtol=0, atol=0)


def test_same_seed_same_weights() -> None:
    for first, second in zip(build_network(4).parameters(), build_network(4).parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("damage", ["missing", "truncated", "shape", "config", "key"])
def test_unreadable_checkpoints_are_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    if damage != "missing":
        build_network().float().save_pretrained(folder)
    if damage == "truncated":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:200])
    if damage in ("shape", "config", "key"):
        content = json.loads((folder / "config.json").read_text())
        change = {"shape": {"width": 32}, "config": {"width": 0}, "key": {"depth": 3}}[damage]
        (folder / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match="model"):
        MaskedTransformer.from_pretrained(folder)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.width = 10: give a multiple of heads"):
        TransformerConfig(vocab_size=7, axes=(12,), width=10, heads=4)
    with pytest.raises(UserError, match=r"model\.layers = 0"):
        TransformerConfig(vocab_size=7, axes=(12,), layers=0)
