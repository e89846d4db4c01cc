"""Low-rank adapters through peft: added, loaded, switched off for the reference, merged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import make_folder
from dipod.policies.dream import Dream
from dipod.policies.hf_masked import HFMasked
from dipod.policies.hub import HUB_NAME, first_few, read_json, tensor_shapes
from dipod.policies.layers import block_linears
from dipod.policies.llada import LLaDA
from dipod.policies.transformer import MaskedTransformer

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INSIDE, START = "base_model.model.", "start"
SUPPORTED = (
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
)
"""Settings of adapters that may have any value; others have peft's default."""
RELEASED: dict[type[nn.Module], tuple[str, ...]] = {
    LLaDA: ("q_proj", "k_proj", "v_proj", "up_proj"),
    Dream: ("q_proj", "k_proj", "v_proj", "up_proj"),
    MaskedTransformer: ("query", "key_value", "up"),
}
"""What the published runs adapted: they list seven names, of which LLaDA has these four."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters.

    Attributes:
        rank: of each adapter.
        alpha: an adapter is scaled by alpha / rank.
        dropout: on what an adapter reads, in training mode.
        targets: ``default`` or ``all`` for every linear layer inside the blocks (never the head), ``released`` for
            those that the published runs adapted, or names with commas between them.
    """

    rank: int = 128
    alpha: float = 64
    dropout: float = 0.05
    targets: str = "default"

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora.rank", self.rank, "give a whole number of at least 1")
        require(self.alpha > 0, "lora.alpha", self.alpha, "give a number above 0")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "give a number from 0 up to, not including, 1")


def base_network(network: nn.Module) -> nn.Module:
    """The network inside its adapters, or itself."""
    if not has_adapters(network):
        return network
    get: Any = network.get_base_model
    base: nn.Module = get()
    return base


def has_adapters(network: nn.Module) -> bool:
    """Whether `add_lora` or `load_adapter` gave this network."""
    return hasattr(network, "peft_config")


def block_layers(network: nn.Module) -> tuple[str, ...]:
    """Last names of the linear layers inside the blocks."""
    return tuple(sorted({name.rpartition(".")[2] for name, _ in block_linears(network)}))


def target_layers(network: nn.Module, targets: str) -> tuple[str, ...]:
    """The layers that ``targets`` names; see `LoraSettings`.

    Raises:
        UserError: an unknown name, or a preset that this network does not have.
    """
    known = block_layers(network)
    if targets in {"default", "all"}:
        return known
    if targets == "released":
        require(type(network) in RELEASED, "lora.targets", targets, f"name layers of this network: {', '.join(known)}")
        return RELEASED[type(network)]
    names = tuple(name.strip() for name in targets.split(","))
    unknown = [name for name in names if name not in known]
    require(not unknown, "lora.targets", ",".join(unknown), f"choose from {', '.join(known)}, released and all")
    return names


def add_lora(network: nn.Module, settings: LoraSettings, generator: torch.Generator) -> nn.Module:
    """Freeze a network and add adapters, which change nothing until they are trained.

    The result is called like the network (`encode`, the call, `head`) and holds its parameters; set
    ``gradient_checkpointing`` on `base_network`.

    Args:
        network: any masked model of this package.
        settings: rank and targets.
        generator: draws the adapters' first halves, on the CPU; the second halves are zero.

    Raises:
        UserError: adapters are there already, unknown targets, or peft is missing.
    """
    peft = load_extra("peft")
    require(not has_adapters(network), "network", "adapters", "it has adapters already; merge them first")
    layers = target_layers(network, settings.targets)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"(?:.*\.)?\d+\.(?:.*\.)?(?:{'|'.join(map(re.escape, layers))})",
        bias="none",
    )
    adapted: nn.Module = peft.get_peft_model(network, config)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:
            bound = (1 / parameter.shape[1]) ** 0.5
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(drawn)
    return adapted


def load_adapter(network: nn.Module, folder: Path | str, keep_start: bool = False) -> nn.Module:
    """A network with the adapters of ``folder``, ready to be trained on; also those that other programs trained.

    Args:
        network: the base that they were trained on.
        folder: ``adapter_config.json`` and ``adapter_model.safetensors``.
        keep_start: keep the adapters as they are beside those that are trained; they are then the `reference`.

    Raises:
        UserError: files missing, something beside adapters of linear layers, or adapters of another base: both are
            named on the hub and differ, or layers or shapes do not fit.
    """
    peft = load_extra("peft")
    adapted, config, names = _attached(network, Path(folder))
    with safe_open(Path(folder) / ADAPTER_WEIGHTS, framework="pt") as file:
        saved = {name: file.get_tensor(stored) for name, stored in names.items()}
    if keep_start:
        add: Any = adapted.add_adapter
        add(START, config)
        peft.set_peft_model_state_dict(adapted, saved, adapter_name=START)
        for name, parameter in adapted.named_parameters():
            if f".{START}." in name:
                parameter.requires_grad_(False)
    peft.set_peft_model_state_dict(adapted, saved)
    return adapted


def check_adapter(network: nn.Module, folder: Path | str) -> int:
    """See that the adapters of ``folder`` can be loaded, from their settings and the shapes in their file.

    Args:
        network: the base, which may be without memory; left without adapters.
        folder: as in `load_adapter`.

    Returns:
        How many parameters they have.

    Raises:
        UserError: as `load_adapter`.
    """
    adapted, _, names = _attached(network, Path(folder))
    unload: Any = adapted.unload
    unload()
    with safe_open(Path(folder) / ADAPTER_WEIGHTS, framework="pt") as file:
        return sum(prod(file.get_slice(stored).get_shape()) for stored in names.values())


def _attached(network: nn.Module, folder: Path) -> tuple[nn.Module, Any, dict[str, str]]:
    """The network with adapters of the right shapes, their settings, and each tensor's name in the file."""
    peft = load_extra("peft")
    require(not has_adapters(network), "network", "adapters", "it has adapters already; merge them first")
    settings = read_json(folder / ADAPTER_CONFIG, "adapter")
    _check_kind(settings)
    _check_base(network, str(settings.get("base_model_name_or_path") or ""))
    weights = folder / ADAPTER_WEIGHTS
    require(weights.is_file(), "adapter", str(weights), "the file is missing; pickled adapters are not loaded")
    stored = tensor_shapes(weights)
    try:
        config = peft.PeftConfig.from_pretrained(folder)
        config.inference_mode = False
        config.base_model_name_or_path = getattr(network, "name_or_path", None) or None
        if isinstance(network, HFMasked) and isinstance(config.target_modules, str):
            config.target_modules = rf"(?:model\.)?(?:{config.target_modules})"  # one module further down, here
        adapted: nn.Module = peft.get_peft_model(network, config)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError("adapter", str(folder), f"does not fit this base ({str(error).splitlines()[0]})") from error
    own = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    wanted = {name: list(tensor.shape) for name, tensor in own.items()}
    names = {name: name for name in stored}
    if isinstance(network, HFMasked) and not names.keys() & wanted.keys():
        names = {name.replace(INSIDE, f"{INSIDE}model.", 1): name for name in stored}
    found = {name: stored[there] for name, there in names.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        unload: Any = adapted.unload
        unload()
        has = f"has shape {found[wrong[0]]}" if wrong[0] in found else "is missing"
        needs = f"this base needs {wanted[wrong[0]]}" if wrong[0] in wanted else "this base has no such adapted layer"
        mend = f"trained on another base: {wrong[0]} {has}, {needs} ({first_few(wrong)})"
        raise UserError("adapter", str(folder), mend)
    return adapted, config, names


def _check_kind(settings: dict[str, Any]) -> None:
    """Refuse what is more than adapters beside linear layers, or changes the base."""
    kind = settings.get("peft_type")
    require(
        kind == "LORA", f"{ADAPTER_CONFIG} peft_type", kind, "give LoRA adapters, or merge the others into the base"
    )
    usual = load_extra("peft").LoraConfig().to_dict() | {"init_lora_weights": True}
    for name, value in settings.items():
        allowed = name in SUPPORTED or not value or value == usual.get(name)
        allowed |= name == "init_lora_weights" and value in ("gaussian", "orthogonal")
        mend = "only adapters beside linear layers are loaded; merge this one into its base with peft, and start there"
        require(allowed, f"{ADAPTER_CONFIG} {name}", value, mend)


def _check_base(network: nn.Module, trained_on: str) -> None:
    """Two different names on the hub are two different bases; folders may be copies of anything."""
    name = str(getattr(network, "name_or_path", ""))
    on_hub = [bool(HUB_NAME.fullmatch(one)) and not Path(one).exists() for one in (name, trained_on)]
    same = not all(on_hub) or name == trained_on
    require(same, "adapter base_model_name_or_path", trained_on, f"the base here is {name}; load its own adapter")


def save_adapter(network: nn.Module, folder: Path | str) -> None:
    """Write the adapters alone, as peft does.

    Raises:
        UserError: there are none, or the folder cannot be written.
    """
    require(has_adapters(network), "network", type(network).__name__, "it has no adapters; save the whole network")
    save: Any = network.save_pretrained
    save(make_folder(Path(folder)), save_embedding_layers=False, selected_adapters=["default"])


def merge_adapter(network: nn.Module) -> nn.Module:
    """The base with its adapters added into the weights; the same function without them."""
    require(has_adapters(network), "network", type(network).__name__, "it has no adapters to merge")
    merge: Any = network.merge_and_unload
    merged: nn.Module = merge()
    return merged


@contextmanager
def reference(network: nn.Module) -> Iterator[nn.Module]:
    """What training is kept near to: the base with the adapters that it started from, or without any.

    Inside the context the adapters in training are off.

    Raises:
        UserError: there are no adapters, so that the base is no longer to be had.
    """
    require(has_adapters(network), "network", type(network).__name__, "a reference needs adapters over a frozen base")
    if START not in network.peft_config:  # type: ignore[operator]
        disable: Any = network.disable_adapter
        with disable():
            yield network
        return
    choose: Any = network.set_adapter
    choose(START)
    try:
        yield network
    finally:
        choose("default")
        for name, parameter in network.named_parameters():
            if f".{START}." in name:
                parameter.requires_grad_(False)
