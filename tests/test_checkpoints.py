"""Checkpoints: what was saved comes back, and one that does not fit is said to be another's, not damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dipod.checkpoints import ENGINE, load_checkpoint, save_checkpoint
from dipod.errors import UserError
from dipod.policies.hf_masked import HFMasked
from dipod.policies.lora import LoraSettings, add_lora
from dipod.policies.pretrained import load_pretrained
from dipod.policies.transformer import MaskedTransformer, TransformerConfig
from dipod.sharding import read_engine, read_whole
from tests.checkpoints import write_tiny_llada


def small(width: int = 8) -> nn.Module:
    return MaskedTransformer(TransformerConfig(5, (4,), width, 2, 2), torch.Generator().manual_seed(0))


def bert() -> nn.Module:
    transformers: Any = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return HFMasked(transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=20, **sizes)))


def adapted(folder: Path, **changed: Any) -> nn.Module:
    write_tiny_llada(folder, **changed)
    return add_lora(load_pretrained(folder), LoraSettings(rank=2), torch.Generator().manual_seed(0))


def values(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("build", [small, bert])
def test_a_whole_network_and_its_optimiser_come_back(build: Any, tmp_path: Path) -> None:
    network = build()
    optimiser = torch.optim.AdamW(network.parameters())
    sum(p.sum() for p in network.parameters()).backward()
    optimiser.step()
    folder, saved = tmp_path / "step-1", values(network)
    save_checkpoint(folder, network, {"policy": optimiser}, {"step": 1})
    for parameter in network.parameters():
        parameter.data.add_(1.0)
    fresh = torch.optim.AdamW(network.parameters())
    assert load_checkpoint(folder, network, {"policy": fresh}) == {"step": 1}
    torch.testing.assert_close(values(network), saved, atol=0.0, rtol=0.0)
    torch.testing.assert_close(fresh.state_dict()["state"], optimiser.state_dict()["state"], atol=0.0, rtol=0.0)


def test_one_of_another_model_names_a_weight_and_both_shapes_and_changes_nothing(tmp_path: Path) -> None:
    """Nobody is told to delete a checkpoint because the model beside it was exchanged."""
    save_checkpoint(tmp_path / "small", small(), {}, {})
    save_checkpoint(tmp_path / "adapted", adapted(tmp_path / "one"), {}, {})
    for name, network in ("small", small(16)), ("adapted", adapted(tmp_path / "other", d_model=48)):
        before = values(network)
        with pytest.raises(UserError, match=r"another model \(.* has shape \[.*\], the network needs \[.*\]\)"):
            load_checkpoint(tmp_path / name, network, {})
        torch.testing.assert_close(values(network), before, atol=0.0, rtol=0.0)


def test_what_deepspeed_wrote_goes_on_under_deepspeed_and_can_be_read_by_all(tmp_path: Path) -> None:
    network, folder = small(), tmp_path / "run" / "checkpoints" / "step-4"
    optimisers = {"policy": torch.optim.AdamW(network.parameters())}
    save_checkpoint(folder, network, {}, {"step": 4})
    (folder / ENGINE).mkdir()
    for rank in range(2):
        (folder / ENGINE / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    how = rf"2 processes wrote it under DeepSpeed.*--num_processes 2 -m dipod train --resume {tmp_path / 'run'}`"
    with pytest.raises(UserError, match=how):
        load_checkpoint(folder, network, optimisers)
    with pytest.raises(UserError, match=how):
        read_whole(network, list(optimisers.values()), folder)
    assert load_checkpoint(folder, network, {}) == {"step": 4}


def test_deepspeed_does_not_go_on_from_what_others_wrote(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-1", small(), {}, {})
    with pytest.raises(UserError, match="it was not written under DeepSpeed"):
        read_engine(None, tmp_path / "step-1", 2)
