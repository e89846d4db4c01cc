"""``dipod eval``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dipod import runs
from dipod.checkpoints import latest_checkpoint
from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.evaluation import evaluate
from dipod.policies.transformer import CONFIG_FILE
from dipod.recipes import build_policy, build_task, load, overlay

NAME = "eval"
HELP = "solved problems and gap of a run or a model, on held-out problems or a file"
DESCRIPTION = """Evaluate the last checkpoint of a run, or a saved model, by sampling and by greedy decoding.

  dipod eval runs/fpo
  dipod eval runs/fpo --task.test_csv puzzles.csv
  dipod eval runs/fpo/base --task sudoku --task.blanks 10 --puzzles 1000

Settings are flags as in `dipod train`; a run brings its own, a model those of the recipe named by --task.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command; other flags are settings."""
    parser.add_argument(
        "model", type=Path, metavar="RUN_OR_MODEL", help="a run folder, or one with config.json and weights"
    )
    parser.add_argument(
        "--task", default="sudoku", metavar="RECIPE", help="the task, for a bare model (default: sudoku)"
    )
    parser.add_argument("--puzzles", type=int, metavar="N", help="how many problems, unless a file gives them")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Load, evaluate, print."""
    config, model = _locate(arguments.model, arguments.task)
    settings = dict(arguments.settings)
    if arguments.puzzles is not None:
        settings["trainer.evaluate_puzzles"] = str(arguments.puzzles)
    config = overlay(config, {**settings, "base": str(model)})
    task = build_task(config)
    policy = build_policy(config, task)
    problems = task.held_out(config.trainer.evaluate_puzzles)
    trainer = config.trainer
    metrics = evaluate(
        policy, task, problems, config.sampler, trainer.gap_puzzles, trainer.exact_tokens, arguments.seed
    )
    if arguments.json:
        print(json.dumps({"model": str(model), "problems": len(problems), **metrics}))
        return
    print(f"{model}: {len(problems)} held-out problems")
    for how in ("sampled", "greedy"):
        print(f"{how:<8} cells {metrics[f'cells_{how}']:6.1%}   solved {metrics[f'solved_{how}']:6.1%}")
    kind = str(metrics["gap_kind"]).replace("_", " ")
    print(f"gap      {metrics['gap']:.4f} nats ({kind})   ELBO {metrics['elbo']:.3f} nats")


def _locate(folder: Path, recipe: str) -> tuple[RunConfig, Path]:
    """The settings and the model's folder for what was given."""
    if (folder / runs.CONFIG).is_file():
        config = runs.read_config(folder)
        latest = latest_checkpoint(folder / runs.CHECKPOINTS)
        if latest is None:
            raise UserError("run", str(folder), "it has no checkpoint yet; go on with dipod train --resume")
        return config, latest
    if (folder / CONFIG_FILE).is_file():
        return load(recipe), folder
    raise UserError("model", str(folder), f"neither a run ({runs.CONFIG}) nor a model ({CONFIG_FILE}) there")
