"""``dipod drift``."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dipod import runs
from dipod.control.build import build_control_trainer
from dipod.control.config import ControlConfig
from dipod.errors import UserError, require
from dipod.loop import Metrics
from dipod.parallel import start
from dipod.recipes import AnyConfig, build_policy, build_task, build_trainer

NAME = "drift"
HELP = "measure the gap of a run's checkpoints"
DESCRIPTION = """Measure how far the bound is from log π, checkpoint by checkpoint: gap = log π − ELBO on own actions.

  dipod drift runs/track-fpopp+initial-seed0
  dipod drift runs/sudoku-spg-seed0 --actions 256 --json

For flow policies the log-density of the sampler is exact, and so it is for short completions; where completions are
too long, the gap is a lower bound and says so. Gaussians have none, and of noisy chains it cannot be had.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--actions", type=int, default=0, metavar="N", help="actions measured (default: the run's)")
    parser.add_argument("--last", action="store_true", help="only the last checkpoint")
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object a checkpoint")


def run(arguments: argparse.Namespace) -> None:
    """Restore every checkpoint and measure it."""
    config, found = runs.read_config(arguments.folder), runs.checkpoints(arguments.folder)
    require(arguments.actions >= 0, "--actions", arguments.actions, "give a whole number of at least 1")
    steps = list(found)[-1:] if arguments.last else list(found)
    rows = []
    for step in steps:
        metrics = _measure(config, found[step], arguments.actions)
        if "gap" not in metrics:
            mend = "this policy's likelihood cannot be measured, or the run measures on nothing; give --actions N"
            raise UserError("gap", config.algorithm, mend)
        rows.append({"step": step, **{name: metrics[name] for name in _shown(metrics)}})
        if not arguments.json:
            print(_line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps(rows))


def _measure(config: AnyConfig, checkpoint: Path, actions: int) -> Metrics:
    """The evaluation of one checkpoint, on so many actions if not 0."""
    processes = start()
    if isinstance(config, ControlConfig):
        chosen = replace(config.trainer, evaluate_episodes=0, gap_actions=actions or config.trainer.gap_actions)
        control = build_control_trainer(replace(config, trainer=chosen), processes)
        runs.restore(checkpoint, control)
        return control.evaluate()
    count = actions or config.trainer.gap_problems
    problems = max(config.trainer.evaluate_problems, count)
    language = replace(config, trainer=replace(config.trainer, gap_problems=count, evaluate_problems=problems))
    task = build_task(language)
    trainer = build_trainer(language, build_policy(language, task), task, processes)
    runs.restore(checkpoint, trainer)
    return trainer.evaluate()


def _shown(metrics: Metrics) -> list[str]:
    return [name for name in ("log_prob", "elbo", "gap", "gap_error", "gap_kind", "gap_valid") if name in metrics]


def _line(row: dict[str, Any]) -> str:
    error = f" ± {row['gap_error']:.3f}" if "gap_error" in row else ""
    kind = str(row["gap_kind"]).replace("_", " ")
    return f"step {row['step']:>6}   gap {row['gap']:9.3f}{error} nats ({kind})   ELBO {row['elbo']:9.3f} nats"
