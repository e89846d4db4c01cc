"""The transformer: padding changes nothing, requested positions are those of the full pass, files round-trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dipod.errors import UserError
from dipod.policies.transformer import MaskedTransformer, TransformerConfig


def build_network(seed: int = 0) -> MaskedTransformer:
    shape = TransformerConfig(vocab_size=7, axes=(12,), width=16, layers=3, heads=2)
    return MaskedTransformer(shape, torch.Generator().manual_seed(seed)).double()


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(7, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("left", [0, 3])
def test_padding_on_either_side_changes_no_logit(left: int) -> None:
    network, ids = build_network(), tokens(2, 6)
    alone = network(ids)
    padded = torch.full((2, 10), 6)
    padded[:, left : left + 6] = ids
    valid = torch.zeros(2, 10, dtype=torch.bool)
    valid[:, left : left + 6] = True
    torch.testing.assert_close(network(padded, valid)[:, left : left + 6], alone)


def test_attention_is_bidirectional() -> None:
    network, ids = build_network(), tokens(1, 6)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 7
    assert (network(ids)[0, 0] != network(changed)[0, 0]).any()


def test_requested_positions_are_those_of_the_full_pass() -> None:
    network, ids = build_network(), tokens(3, 8)
    at = torch.tensor([[7, 0], [3, 3], [5, 1]])
    valid = torch.arange(8) < torch.tensor([8, 4, 6])[:, None]
    full = network(ids, valid)
    torch.testing.assert_close(network(ids, valid, at), full.gather(1, at[..., None].expand(-1, -1, 7)))


def test_positions_can_be_given() -> None:
    network, ids = build_network(), tokens(2, 4)
    line = torch.arange(4).expand(2, -1)
    torch.testing.assert_close(network(ids, positions=line), network(ids))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = network(ids[:, order], positions=line[:, order])
    torch.testing.assert_close(shuffled, network(ids)[:, order])


def test_logits_against_an_independent_computation() -> None:
    """The whole network in plain tensor algebra: norms, attention per head, SiLU, residuals."""
    network, ids = build_network(), tokens(1, 5)
    weights = dict(network.named_parameters())

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[name]

    x = weights["token.weight"][ids[0]] + weights["positions.0.weight"][:5]
    for i in range(3):
        block = f"blocks.{i}."
        y = norm(x, f"{block}attention_norm.weight")
        query = y @ weights[f"{block}query.weight"].T
        key, value = (y @ weights[f"{block}key_value.weight"].T).split(16, -1)
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            attention = (query[:, h] @ key[:, h].T / 8**0.5).softmax(-1)
            heads.append(attention @ value[:, h])
        x = x + torch.cat(heads, -1) @ weights[f"{block}out.weight"].T
        y = norm(x, f"{block}feed_forward_norm.weight")
        up = y @ weights[f"{block}up.weight"].T
        x = x + (up / (1 + (-up).exp())) @ weights[f"{block}down.weight"].T
    expected = norm(x, "norm.weight") @ weights["head.weight"].T
    torch.testing.assert_close(network(ids)[0], expected)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    network = build_network().float()
    network.save_pretrained(tmp_path / "model")
    loaded = MaskedTransformer.from_pretrained(tmp_path / "model")
    assert loaded.config == network.config
    torch.testing.assert_close(loaded(tokens(2, 5)), network(tokens(2, 5)), rtol=0, atol=0)


def test_same_seed_same_weights() -> None:
    for first, second in zip(build_network(4).parameters(), build_network(4).parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("damage", ["missing", "truncated", "shape", "config"])
def test_unreadable_checkpoints_are_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    if damage != "missing":
        build_network().float().save_pretrained(folder)
    if damage == "truncated":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:200])
    if damage in ("shape", "config"):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "width": 32 if damage == "shape" else 0}))
    with pytest.raises(UserError, match="model"):
        MaskedTransformer.from_pretrained(folder)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.width = 10: give a multiple of heads"):
        TransformerConfig(vocab_size=7, axes=(12,), width=10, heads=4)
    with pytest.raises(UserError, match=r"model\.layers = 0"):
        TransformerConfig(vocab_size=7, axes=(12,), layers=0)
