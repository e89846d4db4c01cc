"""Low-rank adapters through peft: added, loaded, switched off for the reference, merged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import make_folder
from dipod.policies.dream import Dream
from dipod.policies.hub import HUB_NAME, first_few, read_json
from dipod.policies.layers import block_linears
from dipod.policies.llada import LLaDA
from dipod.policies.transformer import MaskedTransformer

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
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


def load_adapter(network: nn.Module, folder: Path | str) -> nn.Module:
    """A network with the adapters of ``folder``, ready to be trained on; also those that other programs trained.

    Args:
        network: the base that they were trained on.
        folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        UserError: files missing, or adapters of another base: both are named on the hub and differ, or layers or
            shapes do not fit.
    """
    peft, folder = load_extra("peft"), Path(folder)
    require(not has_adapters(network), "network", "adapters", "it has adapters already; merge them first")
    _check_base(network, str(read_json(folder / ADAPTER_CONFIG, "adapter").get("base_model_name_or_path") or ""))
    weights = folder / ADAPTER_WEIGHTS
    require(weights.is_file(), "adapter", str(weights), "the file is missing; pickled adapters are not loaded")
    config = peft.PeftConfig.from_pretrained(folder)
    config.inference_mode = False
    config.base_model_name_or_path = getattr(network, "name_or_path", None)
    try:
        adapted: nn.Module = peft.get_peft_model(network, config)
    except ValueError as error:
        raise UserError("adapter", str(folder), f"does not fit this base ({str(error).splitlines()[0]})") from error
    own = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    wanted = {name: list(tensor.shape) for name, tensor in own.items()}
    with safe_open(weights, framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    found = {name: list(tensor.shape) for name, tensor in saved.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        unload: Any = adapted.unload
        unload()
        shapes = f"{wrong[0]} has shape {found.get(wrong[0])}, this base needs {wanted.get(wrong[0])}"
        raise UserError("adapter", str(folder), f"trained on another base: {shapes} ({first_few(wrong)})")
    peft.set_peft_model_state_dict(adapted, saved)
    return adapted


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
    save(make_folder(Path(folder)), save_embedding_layers=False)


def merge_adapter(network: nn.Module) -> nn.Module:
    """The base with its adapters added into the weights; the same function without them."""
    require(has_adapters(network), "network", type(network).__name__, "it has no adapters to merge")
    merge: Any = network.merge_and_unload
    merged: nn.Module = merge()
    return merged


@contextmanager
def reference(network: nn.Module) -> Iterator[nn.Module]:
    """The base alone: adapters are off inside the context, which is what a reference model is here.

    Raises:
        UserError: there are no adapters, so that the base is no longer to be had.
    """
    require(has_adapters(network), "network", type(network).__name__, "a reference needs adapters over a frozen base")
    disable: Any = network.disable_adapter
    with disable():
        yield network
