"""The state of a training loop of either family, as a checkpoint."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from dipod.checkpoints import (
    STATE_FILE,
    load_checkpoint,
    load_scalars,
    load_tensors,
    reading,
    save_checkpoint,
)
from dipod.control.trainer import ControlTrainer
from dipod.drift.monitor import Watch
from dipod.files import write_json
from dipod.trainer import Trainer


def save(folder: Path, trainer: Trainer | ControlTrainer) -> None:
    """Write a checkpoint of a trainer, on the first process; all of them where the state is sharded."""
    processes, rate = trainer.processes, trainer.settings.optimiser.learning_rate
    scalars = {**asdict(trainer.state), "learning_rate": rate}
    if processes.sharded:
        processes.save_sharded(folder.with_name(f".{folder.name}"))
        if processes.main:
            write_json(folder.with_name(f".{folder.name}") / STATE_FILE, scalars)
            os.replace(folder.with_name(f".{folder.name}"), folder)
    else:
        tensors = trainer.tensors()
        if processes.main:
            save_checkpoint(folder, trainer.network, trainer.optimisers, scalars, tensors)
    processes.wait()


def restore(folder: Path, trainer: Trainer | ControlTrainer) -> None:
    """Put the state of `save` back, on another number of processes if need be."""
    if trainer.processes.sharded:
        trainer.processes.load_sharded(folder)
        scalars = load_scalars(folder)
    else:
        scalars = load_checkpoint(folder, trainer.network, trainer.optimisers)
        with reading(folder):
            trainer.load_tensors(load_tensors(folder))
    rate = trainer.settings.optimiser.learning_rate
    if isinstance(trainer, ControlTrainer) and scalars.get("learning_rate", rate) != rate:
        trainer.learner.learning_rate = rate  # it was changed since: the one that was reached is no more
    state = trainer.state
    with reading(folder):
        for name in ("beta", "gap", "gap_before", "loss", "largest_weight"):
            value = scalars.get(name)
            if not isinstance(value, int | float | None):
                raise TypeError(f"{name} in {STATE_FILE} is no number")
            setattr(state, name, value)
        state.step, state.evaluated = int(scalars["step"]), int(scalars["evaluated"])
        state.idle = int(scalars.get("idle", 0))
        state.watch = Watch.of(scalars.get("watch", {}))
