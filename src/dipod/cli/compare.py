"""``dipod compare``."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dipod import compare, runs
from dipod.cli import terminal
from dipod.cli.progress import facts
from dipod.errors import UserError, require
from dipod.recipes import load, overlay
from dipod.report import read_runs, sentence
from dipod.visible import visible

NAME = "compare"
HELP = "several algorithms, settings and seeds on one recipe, on one page"
REFRESH_SECONDS = 3.0
DESCRIPTION = """Train several algorithms on several seeds from shared base models, in parallel; put them on one page.

  dipod compare sudoku --algorithms fpo,fpo+dipod,spg,spg+dipod --seeds 0,1,2 --out C
  dipod compare countdown-tiny --algorithms fpo+dipod --vary beta=0,0.05,0.2 --out B
  dipod compare sudoku --algorithms fpo --vary beta=0,1.5 --vary trainer.group_size=4,8      (their product)

Each cell is a run folder OUT/ALGORITHM/seed-S, or "OUT/ALGORITHM beta=0.05/seed-S" where settings are swept. Started
again with the same folder, it goes on where it stopped; the cells' processes end with it, also where it is killed.
Settings for all cells are flags as in `dipod train`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command; other flags are settings."""
    parser.add_argument("recipe", help="a name from `dipod recipes`, or the path of a YAML file")
    parser.add_argument(
        "--algorithms", default="fpo,fpo+dipod,spg,spg+dipod", metavar="A,B,...", help="default: %(default)s"
    )
    parser.add_argument("--seeds", default="0,1,2", metavar="N,N,...", help="default: %(default)s")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="FIELD=V,V,...",
        help="sweep a setting; may be given several times",
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/compare-RECIPE")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Plan, execute, conclude."""
    console = terminal.console(stderr=arguments.json)
    config = overlay(load(arguments.recipe), arguments.settings)
    out: Path = arguments.out or Path("runs") / f"compare-{Path(config.recipe).stem}"
    algorithms = [name for name in arguments.algorithms.split(",") if name]
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",") if seed]
    except ValueError as error:
        raise UserError("--seeds", arguments.seeds, "give whole numbers separated by commas") from error
    started = time.perf_counter()
    cells = compare.plan(config, algorithms, seeds, out, parse_vary(arguments.vary))
    with _Board(console, cells) as board:
        compare.execute(cells, arguments.jobs, board.show, out)
    result = compare.conclude(cells, out, time.perf_counter() - started)
    if arguments.json:
        print(json.dumps(result))
        return
    text = sentence(read_runs([cell.folder for cell in cells if not cell.is_base]))
    console.print(f"{text}\nreport: {out / 'report.html'} ({result['seconds']:.0f} s)", highlight=False, soft_wrap=True)


def parse_vary(given: Sequence[str]) -> dict[str, list[str]]:
    """Names and values, as they are typed, of ``FIELD=V,V,...``.

    Raises:
        UserError: no name, no values, or a name given twice.
    """
    found: dict[str, list[str]] = {}
    for text in given:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        chosen = [value.strip() for value in values.split(",") if value.strip()]
        require(bool(name) and bool(chosen), "vary", text, "write --vary FIELD=V,V,...")
        require(name not in found, "vary", text, "give each setting once, with all its values")
        found[name] = chosen
    return found


def _rows(cell: compare.Cell) -> list[dict[str, Any]]:
    """A cell's metrics; none where they are damaged, of which the cell itself complains."""
    try:
        return runs.read_metrics(cell.folder)
    except UserError:
        return []


class _Board:
    """A bar for all updates of all cells, one for each running cell, and a line for each that is done."""

    def __init__(self, console: Console, cells: Sequence[compare.Cell]) -> None:
        self.console, self.cells = console, cells
        self.width = max(map(len, (cell.name for cell in cells)))
        self.progress = Progress(
            TextColumn(f"{{task.description:<{self.width}}}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[facts]}", markup=False),
            console=console,
            transient=True,
        )
        self.bars: dict[str, TaskID] = {}
        self.looked = 0.0

    def __enter__(self) -> _Board:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def show(self, running: Sequence[compare.Cell]) -> None:
        """A line for each cell that is no longer running, at once; the bars at most every `REFRESH_SECONDS`."""
        names = {cell.name for cell in running}
        for name in [name for name in self.bars if name not in names]:
            self.progress.remove_task(self.bars.pop(name))
            rows = _rows(next(cell for cell in self.cells if cell.name == name))
            line = f"{name:<{self.width}} {facts(rows[-1]) if rows else 'failed'}"
            self.console.print(line, highlight=False, soft_wrap=True)
        for cell in running:
            if cell.name not in self.bars:
                total = max(cell.config.trainer.steps, 1)
                self.bars[cell.name] = self.progress.add_task(visible(cell.name), total=total, facts="")
        if time.monotonic() - self.looked < REFRESH_SECONDS:
            return
        self.looked = time.monotonic()
        for cell in running:
            merged: dict[str, Any] = {}
            for row in _rows(cell):
                merged |= row
            self.progress.update(self.bars[cell.name], completed=merged.get("step", 0), facts=facts(merged))
