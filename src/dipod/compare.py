"""Several algorithms, settings and seeds on one recipe: shared pre-trained bases, cells in parallel, restartable.

Every cell is an ordinary run folder, ``OUT/LABEL/seed-S``, brought to its end by ``dipod train --resume`` in a
process of its own with one thread. A label is the algorithm, or the algorithm and the settings that are swept,
``fpo+dipod beta=0.05``. The base of seed S is the run ``OUT/bases/seed-S`` with no updates; a swept setting that
changes what a base is gets bases of its own, ``OUT/bases/model.width=32/seed-S``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from dipod import __version__, runs, stopping
from dipod.config import RunConfig
from dipod.errors import UserError, require
from dipod.files import make_folder, sweep, write_json
from dipod.locks import Lock, hold
from dipod.recipes import AnyConfig, check, counted, overlay, settle
from dipod.report import read_runs, write_report
from dipod.report.data import FINAL_KEYS, labelled, middle
from dipod.report.labels import Label, flat, path_of, value_text
from dipod.report.panels import at_equal_cost, cost_panels
from dipod.report.wording import kinds
from dipod.stopping import Interrupted, Lifeline, stop_requests

POLL_SECONDS = 0.5
DISK_FULL = 1 << 16
"""Bytes: with less room a cell may not have been able to say what is wrong."""
NOT_VARIED = {
    "algorithm": "give --algorithms A,B,...",
    "seed": "give --seeds N,N,...",
    "base": "a comparison makes its own bases; --base DIR gives one to all",
    "out": "a comparison has one folder; give --out DIR",
    "threads": "every cell has one thread; --jobs says how many run at a time",
    "recipe": "a comparison has one recipe",
    "task.arguments": "name one of them: --vary task.arguments.NAME=V,V",
}
Combination = tuple[tuple[str, Any], ...]
"""One value for each setting that is swept, in the order in which they were given."""


@dataclass
class Cell:
    """One run of a comparison.

    Attributes:
        name: for people.
        config: its settings.
        folder: its run folder, made when it starts.
        base: the cell that must be finished first, if any.
        is_base: whether it only makes a base model for others.
        process: while it runs.
    """

    name: str
    config: AnyConfig
    folder: Path
    base: Cell | None = None
    is_base: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def done(self) -> bool:
        """Whether the run has reached its last step."""
        return runs.finished(self.folder, self.config)


def plan(
    config: AnyConfig,
    algorithms: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    vary: Mapping[str, Sequence[str]] | None = None,
) -> list[Cell]:
    """List every cell, bases first, and see that they can run; nothing is written.

    Args:
        config: the settings that all cells start from.
        algorithms: as in ``algorithm``.
        seeds: as in ``seed``.
        out: the folder of the comparison.
        vary: values, as they are typed, of further settings by name; cells are the product of all.

    Raises:
        UserError: an unknown algorithm or setting, a value that is refused, a repeated algorithm, seed or value, or a
            folder whose runs have other settings.
    """
    require(len(algorithms) > 0, "algorithms", algorithms, "name at least one")
    require(len(seeds) > 0, "seeds", seeds, "name at least one")
    require(len(set(algorithms)) == len(algorithms), "algorithms", ",".join(algorithms), "name each once")
    require(len(set(seeds)) == len(seeds), "seeds", ",".join(map(str, seeds)), "name each once")
    swept = _swept(config, vary or {})
    combinations: list[Combination] = list(product(*([(name, v) for v in values] for name, values in swept.items())))
    counting = [name for name, values in swept.items() if _changes_base(config, name, values)]
    bases: dict[Path, Cell] = {}
    cells: list[Cell] = []
    for algorithm, combination, seed in product(algorithms, combinations, seeds):
        label = Label(algorithm, combination)
        settings = {"threads": 1, "algorithm": algorithm, "seed": seed, **dict(combination)}
        made = overlay(config, settings)
        base = None
        if _wants_base(made):
            base = _base(config, tuple(pair for pair in combination if pair[0] in counting), seed, out)
            base = bases.setdefault(base.folder, base)
            made = overlay(made, {"base": str(base.folder / runs.BASE)})
        made = counted(made)
        cells.append(Cell(f"{label.text}, seed {seed}", made, out.resolve() / label.folder / f"seed-{seed}", base))
    cells = [*bases.values(), *cells]
    for cell in cells:
        check(overlay(cell.config, {"base": ""}) if cell.base else cell.config)  # its base is yet to be made
        if (cell.folder / runs.CONFIG).exists() and not _agree(runs.read_config(cell.folder), cell):
            raise UserError("out", str(cell.folder), "it holds a run with other settings; choose another --out")
    return cells


def _swept(config: AnyConfig, vary: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    """The values of each setting that is swept, of the setting's own type."""
    found: dict[str, list[Any]] = {}
    paths: dict[str, str] = {}
    for name, given in vary.items():
        if name in NOT_VARIED:
            raise UserError("vary", name, NOT_VARIED[name])
        require(len(given) > 0, "vary", f"{name}=", "give values: --vary FIELD=V,V,...")
        values = []
        for text in given:
            made = overlay(config, {name: text})
            path = path_of(name, made)
            values.append(flat(made)[path])
        same = paths.setdefault(path, name)
        require(same == name, "vary", name, f"{same} is the same setting; give each once")
        once = len({value_text(value) for value in values}) == len(values)
        require(once, "vary", f"{name}={','.join(given)}", "name each value once")
        found[name] = values
    return found


def _wants_base(config: AnyConfig) -> bool:
    """Whether a run would pre-train a base of its own."""
    return isinstance(config, RunConfig) and not (config.base or config.model.path)


def _pretrained(config: AnyConfig) -> object:
    """All that a base model depends on."""
    return (config.task, config.model, config.pretrain, config.seed) if isinstance(config, RunConfig) else None


def _changes_base(config: AnyConfig, name: str, values: Sequence[Any]) -> bool:
    """Whether bases differ between the values of a setting."""
    first, *others = (_pretrained(overlay(config, {name: value})) for value in values)
    return any(other != first for other in others)


def _base(config: AnyConfig, counting: Combination, seed: int, out: Path) -> Cell:
    """The run that makes the base of cells with these values of the settings that change a base."""
    folder = out.resolve() / "bases" / Label("", counting).folder.strip() / f"seed-{seed}"
    made = overlay(config, {"threads": 1, "seed": seed, "trainer.steps": 0, **dict(counting)})
    return Cell(f"{Label('base', counting).text}, seed {seed}", made, folder, is_base=True)


def _agree(found: AnyConfig, cell: Cell) -> bool:
    """Whether the run that a folder holds is the cell's; a base may differ in what no base depends on."""
    return settle(found) == settle(cell.config) or (cell.is_base and _pretrained(found) == _pretrained(cell.config))


def execute(cells: Sequence[Cell], jobs: int, watch: Callable[[Sequence[Cell]], None], out: Path) -> None:
    """Run every cell that is not done, ``jobs`` at a time, a cell's base before it.

    The cells' processes die with this one, however it ends, and share its lock of ``out``: whoever gets the lock next
    finds none alive.

    Args:
        cells: from `plan`.
        jobs: processes at a time.
        watch: called a few times a second with the cells that are running, and at the end with none.
        out: the folder of the comparison.

    Raises:
        UserError: another process works in ``out``, or a cell failed; the others have been brought to their end first.
        Interrupted: on SIGINT, SIGTERM or SIGHUP; the cells have saved their state, or on a second SIGINT have been
            stopped at once.
    """
    require(jobs >= 1, "jobs", jobs, "give at least one process")
    with hold(make_folder(out)) as lock, stop_requests() as stop:
        sweep(out, out / runs.FIGURES)
        _run(cells, jobs, watch, stop, lock)


def _run(
    cells: Sequence[Cell], jobs: int, watch: Callable[[Sequence[Cell]], None], stop: Sequence[int], lock: Lock
) -> None:
    """`execute`, once the folder is ours, until the end or a signal."""
    waiting = [cell for cell in cells if not cell.done]
    running: list[Cell] = []
    failures: list[tuple[Cell, str]] = []
    lifeline = Lifeline()
    descriptors = [lifeline.watched, *([] if lock.descriptor is None else [lock.descriptor])]
    try:
        try:
            while (waiting or running) and not stop:
                broken = [cell for cell, _ in failures]
                waiting = [cell for cell in waiting if cell.base not in broken]
                ready = [cell for cell in waiting if cell.base is None or cell.base.done]
                for cell in ready[: jobs - len(running)]:
                    waiting.remove(cell)
                    running.append(_start(cell, descriptors, lifeline.environment()))
                watch(running)
                time.sleep(POLL_SECONDS)
                for cell in [cell for cell in running if _ended(cell)]:
                    running.remove(cell)
                    if cell.process is not None and cell.process.returncode != 0:
                        failures.append((cell, _complaint(cell)))
            watch(running)
        finally:
            _stop(running)
    except KeyboardInterrupt:
        _stop(running, signal.SIGKILL)
        raise Interrupted(f"stopped at once; {_kept(cells)}; the same command goes on from there") from None
    finally:
        lifeline.close()
    if stop:
        raise Interrupted("saved; the same command goes on where it stopped")
    if failures:
        cell, complaint = failures[0]
        more = "" if "`dipod train --resume" in complaint else "; the same command goes on"
        raise UserError(cell.name, str(cell.folder), f"it failed ({complaint}){more}")


def _start(cell: Cell, descriptors: Sequence[int], environment: Mapping[str, str]) -> Cell:
    """Start a cell's process, in a session of its own so that only we pass interruptions on to it."""
    if not (cell.folder / runs.CONFIG).exists():
        runs.create(cell.folder, cell.config)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **environment}
    with (cell.folder / "log.txt").open("wb") as log:
        cell.process = subprocess.Popen(
            command(cell),
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
        )
    return cell


def command(cell: Cell) -> list[str]:
    """What brings a cell to its end."""
    return [sys.executable, "-P", stopping.__file__, "train", "--resume", str(cell.folder), "--json"]


def _ended(cell: Cell) -> bool:
    """Whether a cell's process has ended; what it started ends then too."""
    process = cell.process
    if process is None or process.returncode is not None:
        return True
    if not hasattr(os, "waitid"):  # macOS, with Python older than 3.13
        return process.poll() is not None
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # before it is reaped: until then the number is nobody else's
    process.wait()
    return True


def _stop(running: Sequence[Cell], number: signal.Signals = signal.SIGTERM) -> None:
    """Have cells save, or die, and wait for their end."""
    for cell in running:
        if cell.process is not None and not _ended(cell):
            cell.process.send_signal(number)
    while not all(_ended(cell) for cell in running):
        time.sleep(POLL_SECONDS)


def _kept(cells: Sequence[Cell]) -> str:
    """What the cells that are not done have saved."""
    parts = [f"{cell.name}: {runs.kept(cell.folder)}" for cell in cells if not cell.done and cell.folder.exists()]
    return "; ".join([f"{sum(cell.done for cell in cells)} of {len(cells)} runs are done", *parts])


def _complaint(cell: Cell) -> str:
    status = cell.process.returncode if cell.process is not None else 0
    if status < 0:
        return f"killed by {signal.Signals(-status).name}" + (
            "; was memory short?" if status == -signal.SIGKILL else ""
        )
    lines = (cell.folder / "log.txt").read_text(errors="replace").strip().splitlines()
    if not lines:
        full = shutil.disk_usage(cell.folder).free < DISK_FULL
        return "without a word" + ("; the disk is full" if full else "")
    return lines[-1].removeprefix("dipod: error: ")


def conclude(cells: Sequence[Cell], out: Path, seconds: float) -> dict[str, Any]:
    """Write ``compare.json``, ``report.html`` and the figures of finished cells; returns what the JSON holds.

    Args:
        cells: from `plan`.
        out: the folder of the comparison.
        seconds: how long the comparison took in this call.
    """
    groups = labelled(read_runs([cell.folder for cell in cells if not cell.is_base]))
    first = next(cell.config for cell in cells if not cell.is_base)
    result = {
        "recipe": first.recipe,
        "seconds": round(seconds, 1),
        "version": __version__,
        "cells": [
            {
                "label": label.text,
                "algorithm": run.config.algorithm,
                **({"settings": dict(label.settings)} if label.settings else {}),
                "seed": run.config.seed,
                "run": str(run.folder.relative_to(out.resolve())),
                **run.summary(),
                **({"monitor_step": steps[-1]} if (steps := run.curve("monitor_gap")[0]) else {}),
                **{f"{key}_kind": found[-1] for key in ("gap", "entropy") if (found := kinds([run], key))},
            }
            for label, group in groups.items()
            for run in group
        ],
        "medians": {
            label.text: {key: middle(group, key) for key in FINAL_KEYS if middle(group, key) is not None}
            for label, group in groups.items()
        },
        **({"equal_cost": reached} if (reached := at_equal_cost(cost_panels(groups))) else {}),
    }
    write_json(out / "compare.json", result)
    write_report([run.folder for group in groups.values() for run in group], out)
    return result
