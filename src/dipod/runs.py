"""A run folder: settings, metrics, checkpoints, base model and samples; started, interrupted, resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from dipod import locks
from dipod.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    steps_of,
)
from dipod.config import RunConfig
from dipod.control.build import build_control_trainer
from dipod.control.config import ControlConfig
from dipod.control.trainer import ControlTrainer
from dipod.errors import RewardFailed, UserError, require
from dipod.files import make_folder, remove_folder, resume_command, sweep, write_text
from dipod.guard import largest
from dipod.locks import hold
from dipod.loop import Metrics
from dipod.parallel import Processes, by_first, start
from dipod.policies.masked import MaskedPolicy
from dipod.recipes import (
    AnyConfig,
    build_policy,
    build_pretrainer,
    build_task,
    build_trainer,
    check,
    counted,
    read_run_config,
    record,
    relocate,
    settle,
    to_yaml,
    verify,
)
from dipod.recipes.paths import INPUTS
from dipod.records import read_lines
from dipod.saving import restore, save
from dipod.stopping import Interrupted, stop_requests
from dipod.tasks import Task
from dipod.trainer import Trainer

CONFIG, METRICS, COMPLETIONS, BASE = "config.yaml", "metrics.jsonl", "completions.jsonl", "base"
LAST_SETTINGS = "logging"
"""The group of settings that a run writes last."""
CHECKPOINTS, PRETRAINING, FIGURES = "checkpoints", "pretraining", "figures"


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


def create(folder: Path, config: AnyConfig) -> None:
    """Make a new run folder.

    Raises:
        UserError: settings that do not go together, a folder that holds a run already or cannot be written. Nothing
            is written then.
    """
    check(config)
    refuse_old(folder)
    with hold(make_folder(folder)):
        refuse_old(folder)
        settled = settle(counted(config))
        record(folder, settled)
        write_text(folder / CONFIG, to_yaml(settled))


def refuse_old(folder: Path) -> None:
    """Raise `UserError` if a folder holds a run."""
    if (folder / CONFIG).exists():
        mend = f"it holds a run already; choose another or `{resume_command(folder)}`"
        raise UserError("out", str(folder), mend)


def read_config(folder: Path) -> AnyConfig:
    """The settings of a run folder.

    Raises:
        UserError: it is not a run folder, or its settings are damaged or cut off.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError("run", str(folder), f"no {CONFIG} there; give the folder of a run")
    try:
        config = read_run_config(path)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error.field}", error.value, error.mend) from error
    mend = "it is cut off: its last settings are missing; write them anew (`dipod recipes --fields` lists them)"
    require(f"\n{LAST_SETTINGS}:\n" in path.read_text(encoding="utf-8"), "run", str(path), mend)
    return relocate(folder, config)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one object a step; a line cut off by a crash is left out."""
    return read_lines(folder / METRICS)


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run by step, in order.

    Raises:
        UserError: it has none yet.
    """
    last_checkpoint(folder)
    return steps_of(folder / CHECKPOINTS)


def last_checkpoint(folder: Path) -> Path:
    """The last checkpoint of the run in ``folder``.

    Raises:
        UserError: it has none.
    """
    found = latest_checkpoint(folder / CHECKPOINTS)
    if found is None:
        raise UserError("run", str(folder), f"it has no checkpoint yet; go on with `{resume_command(folder)}`")
    return found


def finished(folder: Path, config: AnyConfig) -> bool:
    """Whether the run with these settings has done all its steps."""
    latest = latest_checkpoint(folder / CHECKPOINTS)
    return latest is not None and int(latest.name[5:]) >= config.trainer.steps


def kept(folder: Path) -> str:
    """What of a run that was broken off can be gone on from, in words."""
    rows = read_metrics(folder)
    last, done = latest_checkpoint(folder / CHECKPOINTS), int(rows[-1]["step"]) if rows else 0
    if last is None:
        partial = latest_checkpoint(folder / CHECKPOINTS / PRETRAINING)
        if partial is not None:
            return f"step {partial.name[5:]} of pre-training is saved"
        return "the base model is saved, no update is" if (folder / BASE).exists() else "nothing was saved yet"
    step = int(last.name[5:])
    of = f" of {done}" if done > step else ""
    return f"update {step}{of} is saved"


@dataclass(frozen=True)
class Session:
    """A run on its way to its end.

    Attributes:
        folder: the run folder.
        config: its settings.
        processes: those that it runs on.
        listener: told what it does.
        stop: the signals that have asked this process to stop.
    """

    folder: Path
    config: AnyConfig
    processes: Processes
    listener: Listener
    stop: list[int]


def train(folder: Path, listener: Listener) -> None:
    """Bring the run in ``folder`` to its end from wherever it stands: the same for a new and for a resumed run.

    Started by ``accelerate launch`` or ``torchrun``, every process calls it; the first one writes the files and holds
    the folder's lock.

    Raises:
        Interrupted: on SIGINT, SIGTERM or SIGHUP, after the state has been saved.
        UserError: a checkpoint that cannot be read, problems or adapters that have changed since the run began, or
            another process works in the folder.
    """
    config = read_config(folder)
    verify(folder)
    if config.threads:
        torch.set_num_threads(config.threads)
    tracker = None if config.logging.tracker == "none" else config.logging.tracker
    precision = "no" if isinstance(config, ControlConfig) else config.model.mixed_precision
    processes = start(precision, tracker=tracker, folder=folder)
    with ExitStack() as held:
        by_first(lambda: _enter(folder, held))
        stop = held.enter_context(stop_requests())
        session = Session(folder, config, processes, listener, stop)
        if isinstance(config, ControlConfig):
            improve(session, build_control_trainer(config, processes))
            return
        task = build_task(config)
        policy = build_policy(config, task)
        if not (config.base or config.model.path):
            make_base(session, config, policy, task)
        improve(session, build_trainer(config, policy, task, processes))


def _enter(folder: Path, held: ExitStack) -> None:
    """Take the folder's lock until ``held`` is left."""
    held.enter_context(hold(folder))
    sweep_all(folder)


def sweep_all(folder: Path) -> None:
    """Delete what killed processes have left half written in a run folder whose lock is held."""
    sweep(folder, folder / CHECKPOINTS, folder / CHECKPOINTS / PRETRAINING, folder / FIGURES)
    for path in (folder / CHECKPOINTS).glob(".step-*"):  # whose processes shared a name, or ran on another machine
        shutil.rmtree(path, ignore_errors=True)


def make_base(session: Session, config: RunConfig, policy: MaskedPolicy, task: Task) -> None:
    """Pre-train ``policy`` into the run's ``base`` on the first process, and load it from there on all."""
    by_first(lambda: None if (session.folder / BASE).exists() else _pretrain(session, config, policy, task))
    session.processes.wait()
    load_checkpoint(session.folder / BASE, policy.network, {})


def _pretrain(session: Session, config: RunConfig, policy: MaskedPolicy, task: Task) -> None:
    folder, every = session.folder, config.pretrain.save_every
    pretrainer = build_pretrainer(config, policy, task)
    optimisers = {"pretraining": pretrainer.optimiser}
    partial = folder / CHECKPOINTS / PRETRAINING
    latest = latest_checkpoint(partial)
    if latest is not None:
        pretrainer.step = int(load_checkpoint(latest, policy.network, optimisers)["step"])
    for step, elbo in pretrainer.run():
        session.listener.pretrained(step, config.pretrain.steps, elbo)
        if session.stop or (every and step % every == 0):
            scalars = {"step": step, "loss": -elbo, "largest_weight": float(largest(pretrainer.parameters))}
            save_checkpoint(partial / f"step-{step}", policy.network, optimisers, scalars)
            if latest is not None:
                remove_folder(latest)
            latest = partial / f"step-{step}"
        if session.stop:
            raise Interrupted
    save_checkpoint(folder / BASE, policy.network, {}, {"step": config.pretrain.steps})
    remove_folder(partial)


def improve(session: Session, trainer: Trainer | ControlTrainer) -> None:
    """Reinforcement learning from the last checkpoint, or from the base, to the last step."""
    folder, config, processes = session.folder, session.config, session.processes
    state = trainer.state
    latest = by_first(lambda: latest_checkpoint(folder / CHECKPOINTS))
    if latest is not None:
        restore(latest, trainer)
    if processes.main:
        for name in (METRICS, *([COMPLETIONS] if isinstance(config, RunConfig) else [])):
            kept = [row for row in read_lines(folder / name) if latest is not None and row["step"] <= state.step]
            write_text(folder / name, "".join(json.dumps(row) + "\n" for row in kept))
    processes.wait()
    processes.begin_tracking(config.logging.project, config)
    for metrics in _kept_if_rewards_fail(trainer, folder):
        if processes.main:
            _append(folder / METRICS, metrics)
            if state.evaluated == state.step and trainer.shown:
                _append(folder / COMPLETIONS, {"step": state.step, "rows": trainer.shown})
        processes.track(metrics, state.step)
        session.listener.trained(metrics, config.trainer.steps)
        stopping = float(processes.total(torch.tensor(float(len(session.stop))))) > 0
        due = trainer.due(config.trainer.save_every, state.step) and (state.step > 0 or config.trainer.steps == 0)
        if stopping or due:
            save(folder / CHECKPOINTS / f"step-{state.step}", trainer)
        if stopping and state.step < config.trainer.steps:
            raise Interrupted
    processes.end_tracking()


def _kept_if_rewards_fail(trainer: Trainer | ControlTrainer, folder: Path) -> Iterator[Metrics]:
    """What the loop yields; where a reward function fails, the state from before the step is saved first."""
    try:
        yield from trainer.run()
    except RewardFailed as error:
        if not (isinstance(trainer, Trainer) and trainer.intact):
            raise
        save(folder / CHECKPOINTS / f"step-{trainer.state.step}", trainer)
        mend = f"{error.mend}; step {trainer.state.step} is saved, go on with `{resume_command(folder)}`"
        raise RewardFailed(error.field, error.value, mend) from error


def discard_start(folder: Path) -> None:
    """Remove a run folder that `create` made and in which nothing was reached, so that it is free again."""
    with suppress(UserError), hold(folder):  # unless another process goes on with it
        if (folder / BASE).exists() or any((folder / CHECKPOINTS).glob("*")):
            return
        for name in (CONFIG, INPUTS, METRICS, COMPLETIONS, "report.html", locks.NAME):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / CHECKPOINTS, folder):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _append(path: Path, row: Metrics | dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
