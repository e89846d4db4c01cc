"""Exact training state on disk: safetensors and JSON only, written aside and renamed, so whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dipod.errors import UserError
from dipod.files import write_json

STATE_FILE = "state.json"


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
    generators: Mapping[str, torch.Generator],
    scalars: Mapping[str, float | int | str | None],
) -> None:
    """Write a checkpoint as ``folder``, replacing one of the same name.

    Args:
        folder: ``.../checkpoints/step-N``.
        network: with ``save_pretrained(folder)``, or any module (then ``model.safetensors`` alone).
        optimisers: their moments and step counts; learning rates are settings, not state.
        generators: the position of every source of randomness, and so of the data.
        scalars: whatever else the loop needs.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save_network(network, aside)
        for name, optimiser in optimisers.items():
            save_file(_flat_optimiser(optimiser), aside / f"{name}.safetensors")
        states = {name: generator.get_state() for name, generator in generators.items()}
        save_file(states, aside / "generators.safetensors")
        write_json(aside / STATE_FILE, dict(scalars))
        os.chmod(aside, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
    generators: Mapping[str, torch.Generator],
) -> dict[str, Any]:
    """Put the state of `save_checkpoint` back into the given objects; returns its scalars.

    Raises:
        UserError: a file that is missing, damaged, or does not fit.
    """
    try:
        network.load_state_dict(load_file(folder / "model.safetensors"))
        for name, optimiser in optimisers.items():
            _restore_optimiser(optimiser, load_file(folder / f"{name}.safetensors"))
        states = load_file(folder / "generators.safetensors")
        for name, generator in generators.items():
            generator.set_state(states[name])
        scalars: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        mend = f"the checkpoint cannot be read ({reason}); delete this folder to go on from the one before"
        raise UserError("checkpoint", str(folder), mend) from error
    return scalars


def save_network(network: nn.Module, folder: Path) -> None:
    """``network.save_pretrained(folder)`` where it has one, else its state as ``model.safetensors``."""
    save = getattr(network, "save_pretrained", None)
    if callable(save):
        save(folder)
    else:
        save_file(network.state_dict(), folder / "model.safetensors")


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint ``step-N`` with the largest N in ``folder``, or None."""
    found = [(int(p.name[5:]), p) for p in folder.glob("step-*") if p.name[5:].isdigit()]
    return max(found)[1] if found else None


def _flat_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"index.entry": tensor} of an optimiser whose state holds tensors only; empty before its first step."""
    return {
        f"{index}.{entry}": value.contiguous()
        for index, entries in optimiser.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def _restore_optimiser(optimiser: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        index, entry = key.split(".", 1)
        state.setdefault(int(index), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
