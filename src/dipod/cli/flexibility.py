"""``dipod flexibility``."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dipod import runs
from dipod.checkpoints import load_checkpoint
from dipod.cli import terminal
from dipod.config import RunConfig
from dipod.decoders import NAMED, Decoder, Plan, parse_decoder, plan, usual_decoders
from dipod.errors import UserError, require
from dipod.files import make_folder, read_object, write_json
from dipod.flexibility import Flexibility, Row, measure
from dipod.parallel import start
from dipod.policies.masked import MaskedPolicy
from dipod.recipes import build_policy, build_task, language, overlay
from dipod.report import Run, read_runs
from dipod.report.data import by_label
from dipod.report.flexibility import as_json, sentence, text, write
from dipod.tasks import Task
from dipod.tasks.solutions import solutions

NAME = "flexibility"
HELP = "solved problems under decoders that a run was not trained with"
USUAL = "usual"
BEFORE = "before RL"
KEPT = "measured.json"
DESCRIPTION = f"""Solve held-out problems with other orders, blocks and tokens a step than in training, sampled and
greedily, and with half of a right completion given; before RL and after it, side by side for several runs.

  dipod flexibility runs/sudoku-spg+dipod-seed0
  dipod flexibility C --out flexibility                    (a comparison made by `dipod compare`)
  dipod flexibility runs/a runs/b --decoders random,left_to_right,random/block4/tokens2 --problems 1000

Decoders: {", ".join(list(NAMED)[:4])}, each also as NAME/blockN (blocks of N, left to right), NAME/tokensN
(N tokens a step) or NAME/blockN/tokensN; left_to_right, left_to_right/tokensN; infill_random and infill_suffix, where a
right completion is known and half of it is given. "{USUAL}" stands for a selection that fits the completion's length.

Started again with the same --out, it goes on where it stopped ({KEPT} there holds what was measured).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of comparisons")
    parser.add_argument("--decoders", default=USUAL, metavar="D,D,...", help="default: %(default)s")
    parser.add_argument("--problems", type=int, default=256, metavar="N", help="held out (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every checkpoint in place of the last")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write flexibility.json, .png and .html there")
    parser.add_argument("--json", action="store_true", help="print JSON")


@dataclass(frozen=True)
class Candidate:
    """A policy to be measured.

    Attributes:
        name: its label, or what came before.
        run: whose it is.
        step: updates done.
        folder: its checkpoint; None for the model that the run started from, as its settings build it.
    """

    name: str
    run: Run
    step: int
    folder: Path | None

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        config = _settings(self.run)
        return str(self.folder or config.model.path or config.base)

    @property
    def gap(self) -> float | None:
        """As the run measured it at this step."""
        return next((float(row["gap"]) for row in self.run.metrics if row["step"] == self.step and "gap" in row), None)

    def load(self, task: Task) -> MaskedPolicy:
        """The policy itself."""
        config = _settings(self.run)
        if self.folder is not None and config.base and not Path(config.base).is_dir():
            config = language(overlay(config, {"base": str(self.folder)}))
        policy = build_policy(config, task)
        if self.folder is not None:
            load_checkpoint(self.folder, policy.network, {})
        policy.network.to(start(config.model.mixed_precision).device)
        return policy


def run(arguments: argparse.Namespace) -> None:
    """Find the policies, say what it costs, measure, print and write."""
    require(arguments.problems >= 1, "--problems", arguments.problems, "give a whole number of at least 1")
    console = terminal.console(stderr=True)
    if arguments.out is not None:
        make_folder(arguments.out)
    found = read_runs(arguments.runs)
    candidates = _candidates(found, arguments.all)
    config = _settings(found[0])
    task = build_task(config)
    problems = task.held_out(arguments.problems)
    known = solutions(task, problems) is not None
    chosen = _chosen(arguments.decoders, task.completion_length, known)
    if not known and USUAL in arguments.decoders:
        console.print("infilling is left out: the task knows no right completions", highlight=False)
    if not any(one.name == BEFORE for one in candidates):
        console.print(f"{BEFORE} is left out: the models that the runs started from are gone", highlight=False)
    plans = [plan(_settings(one.run).sampler, chosen, task.completion_length) for one in candidates]
    total = sum(row.forward_rows(task.completion_length, len(problems)) for _, rows in plans for row in rows)
    cost = f"{len(candidates)} policies, {len(problems)} problems: at most {total:,} forward rows"
    console.print(cost, highlight=False)
    measured: list[Flexibility] = []
    kept = None if arguments.out is None else arguments.out / KEPT
    before = read_object(kept, "delete it to measure anew") if kept is not None and kept.exists() else {}
    with _bar(console) as bar:
        work = bar.add_task("", total=total)
        for one, (trained, rows) in zip(candidates, plans, strict=True):
            bar.update(work, description=f"{one.name}, seed {one.run.config.seed}")
            key = _key(one, rows, arguments)
            if key in before:
                try:
                    done = [Row(**row) for row in before[key]]
                except TypeError as error:
                    raise UserError(KEPT, str(kept), "it is damaged; delete it to measure anew") from error
                bar.advance(work, sum(row.forward_rows(task.completion_length, len(problems)) for row in rows))
            else:
                advance = partial(bar.advance, work)
                done = measure(one.load(task), task, problems, rows, arguments.seed, advance)
                before[key] = [asdict(row) for row in done]
                if kept is not None:
                    write_json(kept, before)
            about = (one.name, one.run.config.seed, one.step, one.source, one.gap, trained)
            measured.append(Flexibility(*about, tuple(done)))
    about_all = {"recipe": config.recipe, "problems": len(problems), "seed": arguments.seed, "forward_rows": total}
    _show(measured, about_all, arguments)


def _key(one: Candidate, rows: Sequence[Plan], arguments: argparse.Namespace) -> str:
    """What a policy's measurement depends on; another when its files have been written again."""
    config, folder = _settings(one.run), Path(one.source)
    written = [file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.is_file()]
    parts = (str(folder.resolve()), written, one.step, arguments.problems, arguments.seed, rows, config.task)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _show(measured: Sequence[Flexibility], about: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print and write what was measured."""
    written = [] if arguments.out is None else write(measured, about, arguments.out)
    if arguments.json:
        print(json.dumps({**about, **as_json(measured)}))
        return
    print(f"{text(measured)}\n\n{sentence(measured)}")
    if written:
        print(f"written: {', '.join(map(str, written))}")


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


def _settings(of: Run) -> RunConfig:
    """The settings of a run that decodes tokens.

    Raises:
        UserError: it is a control run.
    """
    if not isinstance(of.config, RunConfig):
        mend = "a control run acts step by step and decodes no tokens; give runs of a text or board task"
        raise UserError("run", str(of.folder), mend)
    return of.config


def _candidates(found: Sequence[Run], every: bool) -> list[Candidate]:
    """What came before, each model once, then the checkpoints of each group of runs.

    Raises:
        UserError: a control run, a run of another task than the first, or one without checkpoints.
    """
    first = _settings(found[0])
    before: dict[str, Candidate] = {}
    after: list[Candidate] = []
    for label, group in by_label(found).items():
        for one in group:
            config = _settings(one)
            same = (config.task, config.model.path) == (first.task, first.model.path)
            mend = f"its task is not that of {found[0].folder}; compare runs of one task"
            require(same, "run", str(one.folder), mend)
            checkpoints = runs.checkpoints(one.folder)
            base = _before(one, config)
            if base is not None:
                before.setdefault(base.source, base)
            steps = [step for step in checkpoints if step > 0]
            for step in steps if every else steps[-1:]:
                name = f"{label}, step {step}" if every else label
                after.append(Candidate(name, one, step, checkpoints[step]))
    return [*before.values(), *after]


def _before(one: Run, config: RunConfig) -> Candidate | None:
    """The model that a run started from, if it is still there."""
    if config.model.path or (config.base and Path(config.base).is_dir()):
        return Candidate(BEFORE, one, 0, None)
    shared = one.folder.parent.parent / "bases" / f"seed-{config.seed}" / runs.BASE  # of a comparison that was moved
    there = [folder for folder in (one.folder / runs.BASE, shared) if folder.is_dir()]
    return Candidate(BEFORE, one, 0, there[0]) if there else None


def _chosen(names: str, length: int, known: bool) -> list[Decoder]:
    """The decoders that were asked for, each once, those that are given a part last.

    Raises:
        UserError: an unknown one, one that does not fit, or infilling where no right completion is known.
    """
    chosen: list[Decoder] = []
    for name in names.split(","):
        usual = name.strip() == USUAL
        chosen += usual_decoders(length, known) if usual else [parse_decoder(name, length)]
    for decoder in chosen:
        mend = "the task knows no right completions of which a part could be given; leave it out"
        require(known or decoder.given == "nothing", "decoders", decoder.name, mend)
    return sorted(dict.fromkeys(chosen), key=lambda decoder: decoder.given != "nothing")
