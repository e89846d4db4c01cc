"""A run folder: settings, metrics, checkpoints, base model and samples; started, interrupted, resumed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from dipod.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.evaluation import Metrics
from dipod.files import make_folder, write_json, write_text
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import GREEDY, SamplerConfig
from dipod.recipes import build_policy, build_pretrainer, build_task, build_trainer, check, read_run_config, to_yaml
from dipod.tasks.sudoku import SudokuTask

CONFIG, METRICS, SAMPLES, BASE, CHECKPOINTS = "config.yaml", "metrics.jsonl", "samples.json", "base", "checkpoints"
SHOWN = 4
"""Puzzles that a run keeps, decoded before and after."""


class Interrupted(Exception):  # noqa: N818 - an order obeyed, not an error
    """The run was asked to stop and has saved its state."""


class Listener(Protocol):
    """Told what a run does as it does it."""

    def pretrained(self, step: int, steps: int, elbo: float) -> None:
        """A step of pre-training is done."""
        ...

    def trained(self, metrics: Metrics, steps: int) -> None:
        """A step of training is done (step 0: the base model's evaluation)."""
        ...


class Silent:
    """A listener that does nothing."""

    def pretrained(self, step: int, steps: int, elbo: float) -> None:
        """Ignored."""

    def trained(self, metrics: Metrics, steps: int) -> None:
        """Ignored."""


def create(folder: Path, config: RunConfig) -> None:
    """Make a new run folder.

    Raises:
        UserError: settings that do not go together, a folder that holds a run already or cannot be written. Nothing
            is written then.
    """
    check(config)
    if (folder / CONFIG).exists():
        raise UserError(
            "out", str(folder), f"it holds a run already; choose another or `dipod train --resume {folder}`"
        )
    make_folder(folder)
    write_text(folder / CONFIG, to_yaml(config))


def read_config(folder: Path) -> RunConfig:
    """The settings of a run folder.

    Raises:
        UserError: it is not a run folder.
    """
    if not (folder / CONFIG).is_file():
        raise UserError("run", str(folder), f"no {CONFIG} there; give the folder of a run")
    return read_run_config(folder / CONFIG)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one object a step; a line cut off by a crash is left out."""
    path = folder / METRICS
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def finished(folder: Path, config: RunConfig) -> bool:
    """Whether the run with these settings has done all its steps."""
    latest = latest_checkpoint(folder / CHECKPOINTS)
    return latest is not None and int(latest.name[5:]) >= config.trainer.steps


def train(folder: Path, listener: Listener) -> None:
    """Bring the run in ``folder`` to its end from wherever it stands: the same for a new and for a resumed run.

    Raises:
        Interrupted: on SIGINT or SIGTERM, after the state has been saved.
        UserError: a checkpoint that cannot be read.
    """
    config = read_config(folder)
    if config.threads:
        torch.set_num_threads(config.threads)
    task = build_task(config)
    policy = build_policy(config, task)
    with _stop_requests() as stop:
        if not config.base:
            make_base(folder, config, policy, task, listener, stop)
        improve(folder, config, policy, task, listener, stop)


def make_base(
    folder: Path, config: RunConfig, policy: MaskedPolicy, task: SudokuTask, listener: Listener, stop: list[int]
) -> None:
    """Pre-train ``policy`` into ``folder/base``, or load it from there when that is done."""
    if (folder / BASE).exists():
        load_checkpoint(folder / BASE, policy.network, {}, {})
        return
    pretrainer = build_pretrainer(config, policy, task)
    optimisers, generators = {"pretraining": pretrainer.optimiser}, {"pretraining": pretrainer.generator}
    partial = folder / CHECKPOINTS / "pretraining"
    if partial.exists():
        pretrainer.step = int(load_checkpoint(partial, policy.network, optimisers, generators)["step"])
    for step, elbo in pretrainer.run():
        listener.pretrained(step, config.pretrain.steps, elbo)
        if stop:
            save_checkpoint(partial, policy.network, optimisers, generators, {"step": step})
            raise Interrupted
    save_checkpoint(folder / BASE, policy.network, {}, {}, {"step": config.pretrain.steps})


def improve(
    folder: Path, config: RunConfig, policy: MaskedPolicy, task: SudokuTask, listener: Listener, stop: list[int]
) -> None:
    """Reinforcement learning from the last checkpoint, or from the base, to the last step."""
    trainer = build_trainer(config, policy, task)
    state, checkpoints = trainer.state, folder / CHECKPOINTS

    def save() -> None:
        scalars = {"step": state.step, "beta": state.beta, "gap": state.gap}
        save_checkpoint(checkpoints / f"step-{state.step}", policy.network, state.optimisers, state.generators, scalars)

    latest = latest_checkpoint(checkpoints)
    if latest is not None:
        scalars = load_checkpoint(latest, policy.network, state.optimisers, state.generators)
        state.step, state.beta, state.gap = int(scalars["step"]), scalars["beta"], scalars["gap"]
        kept = [row for row in read_metrics(folder) if row["step"] <= state.step]
        write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
    else:
        write_text(folder / METRICS, "")
        write_json(folder / SAMPLES, {"before": decode_samples(policy, task, config.sampler)})
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        for metrics in trainer.run():
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            listener.trained(metrics, config.trainer.steps)
            if stop or trainer.due(config.trainer.save_every, state.step):
                save()
            if stop and state.step < config.trainer.steps:
                raise Interrupted
    before = json.loads((folder / SAMPLES).read_text())["before"]
    write_json(folder / SAMPLES, {"before": before, "after": decode_samples(policy, task, config.sampler)})


def decode_samples(policy: MaskedPolicy, task: SudokuTask, sampler: SamplerConfig) -> list[dict[str, list[int]]]:
    """A few held-out puzzles with their solution and what the policy makes of them, sampled and greedy."""
    generator = torch.Generator().manual_seed(0)
    puzzles = task.held_out(SHOWN)[:SHOWN]
    fills = {
        name: task.decode(puzzles, policy.sample(task.observe(puzzles), task.blank(puzzles), how, generator).ids)
        for name, how in (("sampled", sampler), ("greedy", GREEDY))
    }
    return [
        {
            "puzzle": puzzles.grids[i].tolist(),
            "solution": puzzles.solutions[i].tolist(),
            **{name: fill[i].tolist() for name, fill in fills.items()},
        }
        for i in range(len(puzzles))
    ]


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second SIGINT interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
