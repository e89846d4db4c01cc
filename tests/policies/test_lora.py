"""Adapters: they start as nothing, are a low-rank sum, switch off to the base, merge, and go to files and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dipod.errors import UserError
from dipod.policies.lora import (
    LoraSettings,
    add_lora,
    base_network,
    block_layers,
    load_adapter,
    merge_adapter,
    reference,
    save_adapter,
    target_layers,
)
from dipod.policies.pretrained import load_pretrained, save_pretrained
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer, TransformerConfig
from tests.checkpoints import write_tiny_dream, write_tiny_llada

pytest.importorskip("peft")

LAYERS = {
    "llada": ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"],
    "dream": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "small": ["query", "key_value", "out", "up", "down"],
}
RELEASED = {
    "llada": ["q_proj", "k_proj", "v_proj", "up_proj"],
    "dream": ["q_proj", "k_proj", "v_proj", "up_proj"],
    "small": ["query", "key_value", "up"],
}


def build(kind: str, folder: Path, seed: int = 0) -> nn.Module:
    if kind == "small":
        config = TransformerConfig(264, (12,), width=16, layers=2, heads=2)
        return MaskedTransformer(config, torch.Generator().manual_seed(seed))
    write = {"llada": write_tiny_llada, "dream": write_tiny_dream}[kind]
    write(folder / f"{kind}-{seed}", seed=seed)
    return load_pretrained(folder / f"{kind}-{seed}")


def adapt(network: nn.Module, trained: bool = True, **changed: Any) -> nn.Module:
    """Adapters without dropout; ``trained`` ones have second halves that are not zero."""
    settings = LoraSettings(**({"rank": 3, "alpha": 6.0, "dropout": 0.0} | changed))
    generator = torch.Generator().manual_seed(1)
    adapted = add_lora(network, settings, generator)
    for name, parameter in adapted.named_parameters():
        if trained and "lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return adapted


def hidden(network: nn.Module) -> Tensor:
    encode: Any = network.encode
    prompts, completion = Tokens.full(torch.tensor([[1, 2, 3]])), Tokens.full(torch.tensor([[4, 5, 6], [7, 8, 9]]))
    found: Tensor = network(completion, None, encode(prompts), torch.tensor([0, 0]))
    return found.detach()


def logits(network: nn.Module) -> Tensor:
    """Called as a policy calls a network: `encode`, the call, `head`, through the adapters."""
    head: Any = network.head
    found: Tensor = head(hidden(network)).detach()
    return found


KINDS = pytest.mark.parametrize("kind", ["llada", "dream", "small"])


@KINDS
def test_new_adapters_change_nothing(kind: str, tmp_path: Path) -> None:
    network = build(kind, tmp_path)
    before = logits(network)
    adapted = adapt(network, trained=False)
    torch.testing.assert_close(logits(adapted), before, atol=0.0, rtol=0.0)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


@KINDS
def test_merged_equals_adapted(kind: str, tmp_path: Path) -> None:
    network = build(kind, tmp_path).double()
    names = list(network.state_dict())
    before = logits(network)
    adapted = adapt(network)
    found = logits(adapted)
    assert float((found - before).abs().max()) > 0.01
    merged = merge_adapter(adapted)
    torch.testing.assert_close(logits(merged), found, atol=1e-6, rtol=0.0)
    assert list(merged.state_dict()) == names


@KINDS
def test_an_adapter_is_a_low_rank_sum(kind: str, tmp_path: Path) -> None:
    """W + (alpha / rank) B A, for every layer of the blocks and for no other."""
    network = build(kind, tmp_path)
    base = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapted = adapt(network)
    parts = {name.removeprefix("base_model.model."): p.detach() for name, p in adapted.named_parameters()}
    halves = [name.split(".lora_A.")[0] for name in parts if ".lora_A." in name]
    wanted = {}
    for name in halves:
        sum_of_products = parts[f"{name}.lora_B.default.weight"] @ parts[f"{name}.lora_A.default.weight"]
        wanted[f"{name}.weight"] = base[f"{name}.weight"] + 2.0 * sum_of_products
    merged = merge_adapter(adapted).state_dict()
    torch.testing.assert_close(dict(merged), base | wanted, atol=1e-6, rtol=1e-5)
    assert sorted({name.rsplit(".", 1)[-1] for name in halves}) == sorted(LAYERS[kind])
    assert all(any(part.isdigit() for part in name.split(".")) for name in halves)
    assert len(halves) == 2 * len(LAYERS[kind])


@KINDS
def test_the_reference_is_the_base(kind: str, tmp_path: Path) -> None:
    network = build(kind, tmp_path)
    before = logits(network)
    adapted = adapt(network)
    found = logits(adapted)
    with reference(adapted) as base:
        torch.testing.assert_close(logits(base), before, atol=0.0, rtol=0.0)
    torch.testing.assert_close(logits(adapted), found, atol=0.0, rtol=0.0)
    assert any(parameter.requires_grad for parameter in adapted.parameters())


@KINDS
def test_released_targets(kind: str, tmp_path: Path) -> None:
    """The seven names of the published runs meet LLaDA's modules in four."""
    network = build(kind, tmp_path)
    assert sorted(target_layers(network, "released")) == sorted(RELEASED[kind])
    assert sorted(target_layers(network, "all")) == sorted(target_layers(network, "default")) == sorted(LAYERS[kind])
    adapted = adapt(network, targets="released")
    first_halves = [name.split(".lora_A.")[0] for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert sorted({name.rsplit(".", 1)[-1] for name in first_halves}) == sorted(RELEASED[kind])


def test_released_targets_at_full_size() -> None:
    """At rank 128 the published runs train 167.8 million parameters of LLaDA-8B; all seven would be 335.5 million."""
    from dipod.policies.llada import LLaDA, LLaDAConfig

    config = LLaDAConfig(d_model=4096, n_layers=32, n_heads=32, mlp_hidden_size=12288, vocab_size=126464)
    with torch.device("meta"):
        network = LLaDA(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_015_581_184
    sizes = {
        targets: sum(
            128 * (module.in_features + module.out_features)
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and ".blocks." in name and name.rsplit(".", 1)[-1] in layers
        )
        for targets in ("released", "all")
        for layers in [target_layers(network, targets)]
    }
    assert sizes == {"released": 167_772_160, "all": 335_544_320}


def test_names_may_be_given(tmp_path: Path) -> None:
    network = build("llada", tmp_path)
    assert target_layers(network, "q_proj, ff_out") == ("q_proj", "ff_out")
    adapted = adapt(network, targets="ff_out")
    halves = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert len(halves) == 2
    assert all(".blocks." in name for name in halves)
    with pytest.raises(UserError, match=r"lora\.targets = 'o_proj': choose from attn_out, "):
        target_layers(build("llada", tmp_path), "q_proj,o_proj")


def test_a_network_of_transformers_is_adapted_in_its_layers() -> None:
    transformers = pytest.importorskip("transformers")
    from dipod.policies.hf_masked import HFMasked

    config = transformers.BertConfig(
        vocab_size=264, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    network = HFMasked(transformers.BertForMaskedLM(config).eval())
    assert block_layers(network) == ("dense", "key", "query", "value")
    before = logits(network)
    adapted = adapt(network)
    found = logits(adapted)
    assert not torch.allclose(found, before)
    halves = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert len(halves) == 12
    assert all(".encoder.layer." in name for name in halves)
    with reference(adapted):
        torch.testing.assert_close(logits(adapted), before)
    torch.testing.assert_close(logits(merge_adapter(adapted)), found, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"lora\.targets = 'released': name layers of this network: dense, "):
        target_layers(HFMasked(transformers.BertForMaskedLM(config)), "released")


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_adapters_go_to_files_and_back(kind: str, tmp_path: Path) -> None:
    """Under the names that peft gives them on the hub's own modelling code."""
    adapted = adapt(build(kind, tmp_path))
    found = logits(adapted)
    save_adapter(adapted, tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    first = {"llada": "transformer.blocks.0.q_proj", "dream": "layers.0.self_attn.q_proj"}[kind]
    assert f"base_model.model.model.{first}.lora_A.weight" in names
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / f"{kind}-0"
    )
    again = load_adapter(build(kind, tmp_path), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), found, atol=0.0, rtol=0.0)
    assert {name for name, p in again.named_parameters() if p.requires_grad} == {
        name for name, p in adapted.named_parameters() if p.requires_grad
    }


def test_the_adapters_start_is_drawn_by_the_generator(tmp_path: Path) -> None:
    def first_halves(seed: int) -> dict[str, Tensor]:
        adapted = add_lora(build("small", tmp_path), LoraSettings(rank=2), torch.Generator().manual_seed(seed))
        return {name: p.detach() for name, p in adapted.named_parameters() if "lora_A" in name}

    one, same, other = first_halves(0), first_halves(0), first_halves(1)
    torch.testing.assert_close(one, same, atol=0.0, rtol=0.0)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_gradient_checkpointing_under_adapters(tmp_path: Path) -> None:
    adapted = adapt(build("llada", tmp_path))
    tokens = Tokens.full(torch.tensor([[1, 2, 3]]))

    def gradients() -> dict[str, Tensor]:
        adapted.zero_grad()
        adapted(tokens).square().sum().backward()
        return {name: p.grad.clone() for name, p in adapted.named_parameters() if p.grad is not None}

    plain = gradients()
    base_network(adapted).gradient_checkpointing = True  # type: ignore[assignment]
    torch.testing.assert_close(gradients(), plain, atol=0.0, rtol=0.0)
    assert all("lora_" in name for name in plain)


def test_adapters_of_another_base_are_refused(tmp_path: Path) -> None:
    save_adapter(adapt(build("llada", tmp_path)), tmp_path / "adapter")
    write_tiny_llada(tmp_path / "wide", mlp_hidden_size=64)
    wide = load_pretrained(tmp_path / "wide")
    before = logits(wide)
    with pytest.raises(UserError, match=r"another base: .*ff_out.lora_A.weight has shape \[3, 48\], .* \[3, 64\]"):
        load_adapter(wide, tmp_path / "adapter")
    torch.testing.assert_close(logits(wide), before)
    write_tiny_llada(tmp_path / "deep", n_layers=3)
    with pytest.raises(UserError, match=r"blocks\.2\..* is missing, this base needs"):
        load_adapter(load_pretrained(tmp_path / "deep"), tmp_path / "adapter")
    with pytest.raises(UserError, match="does not fit this base"):
        load_adapter(build("small", tmp_path), tmp_path / "adapter")


def test_adapters_of_another_hub_name_are_refused(tmp_path: Path) -> None:
    """Base and Instruct have the same shapes; their names tell them apart. A folder may hold either."""
    network = build("llada", tmp_path)
    network.name_or_path = "GSAI-ML/LLaDA-8B-Base"  # type: ignore[assignment]
    save_adapter(adapt(network), tmp_path / "adapter")
    other = build("llada", tmp_path)
    other.name_or_path = "GSAI-ML/LLaDA-8B-Instruct"  # type: ignore[assignment]
    with pytest.raises(UserError, match="'GSAI-ML/LLaDA-8B-Base': the base here is GSAI-ML/LLaDA-8B-Instruct"):
        load_adapter(other, tmp_path / "adapter")
    load_adapter(build("llada", tmp_path), tmp_path / "adapter")


def refuse(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_mistakes_are_named(tmp_path: Path) -> None:
    network = build("llada", tmp_path)
    refuse(lambda: LoraSettings(rank=0), r"lora\.rank = 0")
    refuse(lambda: LoraSettings(alpha=0), r"lora\.alpha = 0")
    refuse(lambda: LoraSettings(dropout=1.0), r"lora\.dropout = 1\.0")
    refuse(lambda: merge_adapter(network), "no adapters to merge")
    refuse(lambda: save_adapter(network, tmp_path), "no adapters; save the whole network")
    refuse(lambda: reference(network).__enter__(), "a reference needs adapters")
    refuse(lambda: load_adapter(network, tmp_path), "adapter_config.json")
    adapted = adapt(network)
    refuse(lambda: adapt(adapted), "it has adapters already")
    refuse(lambda: load_adapter(adapted, tmp_path), "it has adapters already")
    refuse(lambda: save_pretrained(adapted, tmp_path), "merge adapters first")
    save_adapter(adapted, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    refuse(lambda: load_adapter(build("llada", tmp_path), tmp_path / "adapter"), "pickled adapters are not loaded")
