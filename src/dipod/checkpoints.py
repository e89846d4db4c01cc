"""Exact training state on disk: safetensors and JSON only, written aside and renamed, so whole or absent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dipod.errors import UserError
from dipod.files import replacing_folder, resume_command, write_json
from dipod.guard import require_finite
from dipod.policies.hf_masked import HFMasked
from dipod.policies.hub import load_weights, save_weights
from dipod.policies.lora import ADAPTER_WEIGHTS, has_adapters, save_adapter
from dipod.policies.pretrained import SHARD_BYTES, save_pretrained

STATE_FILE = "state.json"
TENSORS_FILE = "tensors.safetensors"
ENGINE = "engine"
"""The folder of DeepSpeed's own files in a checkpoint."""
ENGINE_PARTS = "*_optim_states.pt"
"""Of these it holds one for each process."""


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
    scalars: Mapping[str, float | int | str | None],
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint as ``folder``, replacing one of the same name.

    Args:
        folder: ``.../checkpoints/step-N``.
        network: what `dipod.policies.pretrained` saves, or one with adapters, which alone are written.
        optimisers: their moments and step counts; learning rates are settings, not state.
        scalars: whatever else the loop needs; randomness is keyed by the step, so the step is all that it needs.
        tensors: of whatever else has a state, such as environments.

    Raises:
        NotFinite: a weight or a moment is not finite; nothing is written then.
    """
    require_finite(network, optimisers.values())
    with replacing_folder(folder) as aside, _writing():
        save_network(network, aside)
        for name, optimiser in optimisers.items():
            save_file(flat_optimiser(optimiser), aside / f"{name}.safetensors")
        if tensors:
            save_file({name: value.contiguous() for name, value in tensors.items()}, aside / TENSORS_FILE)
        write_json(aside / STATE_FILE, dict(scalars))


@contextmanager
def _writing() -> Iterator[None]:
    """Inside it, safetensors fails as the system does: with the number of the error, such as that of a full disk."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> dict[str, Any]:
    """Put the state of `save_checkpoint` back into the given objects; returns its scalars.

    Raises:
        UserError: a file that is missing, damaged, or does not fit; or DeepSpeed has the optimisers' states.
    """
    if optimisers:
        refuse_engine(folder)
    with reading(folder):
        load_network(network, folder)
        for name, optimiser in optimisers.items():
            restore_optimiser(optimiser, load_file(folder / f"{name}.safetensors"))
    return load_scalars(folder)


def load_scalars(folder: Path) -> dict[str, Any]:
    """The ``scalars`` of `save_checkpoint`.

    Raises:
        UserError: a damaged file, or one of another step than the folder's.
    """
    with reading(folder):
        scalars = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if not isinstance(scalars, dict):
            raise TypeError(f"{STATE_FILE} holds no object")
        step = folder.name.removeprefix("step-")
        if step.isdigit() and scalars.get("step") != int(step):
            raise ValueError(f"{STATE_FILE} is of step {scalars.get('step')}")
        return scalars


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """The ``tensors`` of `save_checkpoint`.

    Raises:
        UserError: a damaged file.
    """
    with reading(folder):
        return load_file(folder / TENSORS_FILE) if (folder / TENSORS_FILE).exists() else {}


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside it, whatever is wrong with the files of a checkpoint becomes a `UserError` that says how to go on."""
    try:
        yield
    except UserError as error:
        if error.field != "model":
            raise
        raise UserError("checkpoint", str(folder), f"{error.value}: {error.mend}; {_again(folder)}") from error
    except (OSError, KeyError, IndexError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        mend = f"the checkpoint cannot be read ({reason}); {_again(folder)}"
        raise UserError("checkpoint", str(folder), mend) from error


def _again(folder: Path) -> str:
    """How to go on without a checkpoint."""
    what = "to go on from the one before" if folder.name.startswith("step-") else "to have it made again"
    return f"delete this folder {what}"


def save_network(network: nn.Module, folder: Path) -> None:
    """Write adapters where the network has them, else a whole model in the layout that `load_pretrained` reads.

    Of several networks, as control has, the weights alone are written.
    """
    if has_adapters(network):
        save_adapter(network, folder)
    elif isinstance(network, nn.ModuleDict):
        save_weights(folder, network.state_dict(), SHARD_BYTES)
    else:
        save_pretrained(network, folder)


def load_network(network: nn.Module, folder: Path) -> None:
    """Put what `save_network` wrote back into a network of the same shape."""
    if has_adapters(network):
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        own = get_peft_model_state_dict(network, save_embedding_layers=False)
        saved = load_file(folder / ADAPTER_WEIGHTS)
        _check_fit(folder, saved, own)
        set_peft_model_state_dict(network, saved)
        return
    saved = network.saved_state(folder) if isinstance(network, HFMasked) else load_weights(folder)
    _check_fit(folder, saved, network.state_dict())
    network.load_state_dict(saved)


def _check_fit(folder: Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """See that a checkpoint is of this network before anything is changed."""
    shapes = [{name: list(tensor.shape) for name, tensor in tensors.items()} for tensors in (saved, wanted)]
    wrong = sorted(name for name in saved.keys() | wanted.keys() if shapes[0].get(name) != shapes[1].get(name))
    if wrong:
        sizes = f"{wrong[0]} has shape {shapes[0].get(wrong[0])}, the network needs {shapes[1].get(wrong[0])}"
        mend = f"it is of another model ({sizes}); give the model that the run began with"
        raise UserError("checkpoint", str(folder), mend)


def engine_parts(folder: Path) -> int:
    """How many processes wrote a checkpoint under DeepSpeed; 0 where none did."""
    return len(list((folder / ENGINE).glob(ENGINE_PARTS)))


def refuse_engine(folder: Path) -> None:
    """Raise `UserError` if DeepSpeed holds the optimisers' states of a checkpoint, in files of its own."""
    parts = engine_parts(folder)
    if parts:
        launch = f"accelerate launch --config_file $(dipod recipes --launch zero2) --num_processes {parts}"
        how = f"go on with `{launch} -m {resume_command(folder.parent.parent)}`"
        mend = f"{parts} processes wrote it under DeepSpeed, whose files alone hold the optimiser's state; {how}"
        raise UserError("checkpoint", str(folder), mend)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint ``step-N`` with the largest N in ``folder``, or None."""
    found = steps_of(folder)
    return found[max(found)] if found else None


def steps_of(folder: Path) -> dict[int, Path]:
    """The checkpoints ``step-N`` in ``folder`` by N, in order."""
    found = {int(path.name[5:]): path for path in folder.glob("step-*") if path.name[5:].isdigit()}
    return dict(sorted(found.items()))


def flat_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"index.entry": tensor} of an optimiser whose state holds tensors only; empty before its first step."""
    return {
        f"{index}.{entry}": value.contiguous()
        for index, entries in optimiser.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """Put what `flat_optimiser` gave back; learning rates stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for key, value in flat.items():
        index, entry = key.split(".", 1)
        if value.dim() and value.shape != parameters[int(index)].shape:
            raise ValueError(f"{key} has shape {list(value.shape)}, not {list(parameters[int(index)].shape)}")
        state.setdefault(int(index), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
