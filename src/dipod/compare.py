"""Several algorithms and seeds on one recipe: one pre-trained base per seed, cells in parallel, restartable.

Every cell is an ordinary run folder, ``OUT/ALGORITHM/seed-S``, brought to its end by ``dipod train --resume`` in a
process of its own with one thread; the base of seed S is the run ``OUT/bases/seed-S`` with no updates.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dipod import runs
from dipod.config import RunConfig
from dipod.errors import UserError, require
from dipod.files import write_json
from dipod.recipes import AnyConfig, check, overlay
from dipod.report import read_runs, write_report
from dipod.report.data import FINAL_KEYS, by_algorithm, middle

POLL_SECONDS = 0.5


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


def plan(config: AnyConfig, algorithms: Sequence[str], seeds: Sequence[int], out: Path) -> list[Cell]:
    """List every cell, bases first, and see that they can run; nothing is written.

    Raises:
        UserError: an unknown algorithm, a repeated one or seed, or a folder whose runs have other settings.
    """
    require(len(algorithms) > 0, "algorithms", algorithms, "name at least one")
    require(len(seeds) > 0, "seeds", seeds, "name at least one")
    require(len(set(algorithms)) == len(algorithms), "algorithms", ",".join(algorithms), "name each once")
    require(len(set(seeds)) == len(seeds), "seeds", ",".join(map(str, seeds)), "name each once")
    cells: list[Cell] = []
    bases: dict[int, Cell] = {}
    if isinstance(config, RunConfig):
        for seed in seeds:
            untrained = {"threads": 1, "seed": seed, "trainer.steps": 0}
            folder = out.resolve() / "bases" / f"seed-{seed}"
            bases[seed] = Cell(f"base, seed {seed}", overlay(config, untrained), folder, is_base=True)
        cells += bases.values()
    for algorithm in algorithms:
        for seed in seeds:
            folder = out.resolve() / algorithm / f"seed-{seed}"
            settings: dict[str, Any] = {"threads": 1, "algorithm": algorithm, "seed": seed}
            if isinstance(config, RunConfig):
                settings["base"] = config.base or str(bases[seed].folder / runs.BASE)
            cells.append(Cell(f"{algorithm}, seed {seed}", overlay(config, settings), folder, bases.get(seed)))
    for cell in cells:
        if cell.base is not None and isinstance(config, RunConfig):
            check(overlay(cell.config, {"base": config.base}))  # its own base is yet to be made
        else:
            check(cell.config)
        if (cell.folder / runs.CONFIG).exists() and runs.read_config(cell.folder) != cell.config:
            raise UserError("out", str(cell.folder), "it holds a run with other settings; choose another --out")
    return cells


def execute(cells: Sequence[Cell], jobs: int, watch: Callable[[Sequence[Cell]], None]) -> None:
    """Run every cell that is not done, ``jobs`` at a time, a cell's base before it.

    Args:
        cells: from `plan`.
        jobs: processes at a time.
        watch: called a few times a second with the cells that are running.

    Raises:
        UserError: a cell failed; the others have been brought to their end first.
    """
    require(jobs >= 1, "jobs", jobs, "give at least one process")
    waiting = [cell for cell in cells if not cell.done]
    running: list[Cell] = []
    failures: list[tuple[Cell, str]] = []
    try:
        while waiting or running:
            broken = [cell for cell, _ in failures]
            waiting = [cell for cell in waiting if cell.base not in broken]
            ready = [cell for cell in waiting if cell.base is None or cell.base.done]
            for cell in ready[: jobs - len(running)]:
                waiting.remove(cell)
                running.append(_start(cell))
            watch(running)
            time.sleep(POLL_SECONDS)
            for cell in list(running):
                if cell.process is not None and cell.process.poll() is not None:
                    running.remove(cell)
                    if cell.process.returncode != 0:
                        failures.append((cell, _complaint(cell)))
    finally:
        for cell in running:
            if cell.process is not None:
                cell.process.terminate()
        for cell in running:
            if cell.process is not None:
                cell.process.wait()
    if failures:
        cell, complaint = failures[0]
        raise UserError(cell.name, str(cell.folder), f"it failed ({complaint}); the same command goes on")


def _start(cell: Cell) -> Cell:
    """Start a cell's process, in a session of its own so that only we pass interruptions on to it."""
    if not (cell.folder / runs.CONFIG).exists():
        runs.create(cell.folder, cell.config)
    command = [sys.executable, "-m", "dipod", "train", "--resume", str(cell.folder), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (cell.folder / "log.txt").open("wb") as log:
        cell.process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
        )
    return cell


def _complaint(cell: Cell) -> str:
    lines = (cell.folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"


def conclude(cells: Sequence[Cell], out: Path, seconds: float) -> dict[str, Any]:
    """Write ``compare.json``, ``report.html`` and the figures of finished cells; returns what the JSON holds.

    Args:
        cells: from `plan`.
        out: the folder of the comparison.
        seconds: how long the comparison took in this call.
    """
    found = read_runs([cell.folder for cell in cells if not cell.is_base])
    result = {
        "seconds": round(seconds, 1),
        "cells": [
            {
                "algorithm": run.config.algorithm,
                "seed": run.config.seed,
                "run": str(run.folder.relative_to(out.resolve())),
                **{key: run.last(key) for key in FINAL_KEYS if run.last(key) is not None},
            }
            for run in found
        ],
        "medians": {
            name: {key: middle(group, key) for key in FINAL_KEYS if middle(group, key) is not None}
            for name, group in by_algorithm(found).items()
        },
    }
    write_json(out / "compare.json", result)
    write_report([run.folder for run in found], out)
    return result
