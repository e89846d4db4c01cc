"""``dipod eval``."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from dipod import runs
from dipod.checkpoints import load_checkpoint
from dipod.config import RunConfig
from dipod.control.build import build_control_trainer
from dipod.control.config import ControlConfig
from dipod.errors import UserError, require
from dipod.evaluation import evaluate
from dipod.files import read_object
from dipod.loop import Metrics
from dipod.parallel import start
from dipod.policies.hub import HUB_NAME, refuse_mistyped
from dipod.policies.transformer import CONFIG_FILE
from dipod.protocol import protocol_line
from dipod.recipes import build_policy, build_task, control, language, load, overlay
from dipod.recipes.settings import packaged
from dipod.saving import restore
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.rows import CUSTOM, TASKS
from dipod.tasks.text.task import TextTask

NAME = "eval"
HELP = "solved problems (or returns) and gap of a run or a model, held out or from a file"
DESCRIPTION = """Evaluate the last checkpoint of a run, or a saved model, by sampling and by greedy decoding.

  dipod eval runs/fpo
  dipod eval runs/fpo --task.test_csv puzzles.csv
  dipod eval runs/track-fpopp+initial-seed0 --episodes 256          (sampled and with zero noise)
  dipod eval runs/fpo/base --task sudoku --task.blanks 10 --problems 1000
  dipod eval GSAI-ML/LLaDA-8B-Instruct --task gsm8k --parser d1 --lengths 128,256,512

Settings are flags as in `dipod train`. What is not given comes

  for a run             from its config.yaml
  for a small model     from the recipe named by --task (default: sudoku)
  for any other model   from the recipe llada, with the task named by --task: `dipod recipes llada`;
                        or from the recipe or YAML file named by --task, whose model it takes the place of

A task of your own: --task my.yaml, or --task custom --task.test_source my_test.jsonl with what else it needs.
A model that `dipod merge` wrote brings no settings of its run, only weights and tokenizer. Length, steps, temperature,
precision and the rest are those of the recipe unless flags say otherwise; the model card lists the flags of the run.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command; other flags are settings."""
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model's folder, or a name on the hub")
    parser.add_argument("--task", metavar="T", help="a recipe, a YAML file, or gsm8k, math, countdown, sudoku, custom")
    parser.add_argument(
        "--problems",
        "--episodes",
        type=int,
        metavar="N",
        help="how many problems (or episodes, of a control run), unless a file gives them",
    )
    parser.add_argument(
        "--lengths", metavar="L,L,...", help="answers of these lengths, one after the other, two tokens a step"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the result to this JSONL file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Load, evaluate, print."""
    settings = dict(arguments.settings)
    if arguments.problems is not None:
        require(arguments.problems >= 1, "--problems", arguments.problems, "give a whole number of at least 1")
    folder = Path(arguments.model)
    if (folder / runs.CONFIG).is_file() and isinstance(runs.read_config(folder), ControlConfig):
        _evaluate_control(arguments, folder, settings)
        return
    if arguments.problems is not None:
        settings["trainer.evaluate_problems"] = str(arguments.problems)
    chosen = [settings] if arguments.lengths is None else [settings | own for own in _of_lengths(arguments.lengths)]
    for each in chosen:
        _evaluate(arguments, each)


def _evaluate_control(arguments: argparse.Namespace, folder: Path, settings: dict[str, str]) -> None:
    """Whole episodes of a control run's last checkpoint, with sampled and with zero-noise actions."""
    for name in ("task", "lengths"):
        given = getattr(arguments, name)
        require(not given, f"--{name}", given, "a control run is evaluated on its own task; leave it out")
    if arguments.problems is not None:
        settings["trainer.evaluate_episodes"] = str(arguments.problems)
    config, checkpoint = control(overlay(runs.read_config(folder), settings)), runs.last_checkpoint(folder)
    episodes = config.trainer.evaluate_episodes
    require(episodes > 0, "--episodes", episodes, "give a whole number of at least 1")
    processes = start()
    trainer = build_control_trainer(config, processes)
    restore(checkpoint, trainer)
    metrics = trainer.evaluate(arguments.seed)
    if not processes.main:
        return
    result = {"model": str(checkpoint), "episodes": episodes, **metrics}
    lines = [f"{checkpoint}: {episodes} episodes of {trainer.held_out.name}"]
    for how, label in (("sampled", "sampled"), ("greedy", "zero noise")):
        found = f"return {metrics[f'reward_{how}']:9.4f}   length {metrics[f'length_{how}']:7.1f}"
        if f"success_{how}" in metrics:
            ever, last = metrics[f"success_{how}"], metrics.get(f"success_end_{how}", math.nan)
            found += f"   success {ever:6.1%} ({last:.1%} at the last step)"
        lines.append(f"{label:<11} {found}")
    _tell(arguments, result, [*lines, *_gap_line(metrics, 11)])


def _tell(arguments: argparse.Namespace, result: dict[str, Any], lines: list[str]) -> None:
    """Append the result where ``--out`` says, and print it: as JSON, or as lines for people."""
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    print(json.dumps(result) if arguments.json else "\n".join(lines))


def _gap_line(metrics: Metrics, width: int) -> list[str]:
    """A line on the gap, if it was measured."""
    if "gap" not in metrics:
        return []
    kind = str(metrics["gap_kind"]).replace("_", " ")
    return [f"{'gap':<{width}} {metrics['gap']:.4f} nats ({kind})   ELBO {metrics['elbo']:.3f} nats"]


def _of_lengths(text: str) -> list[dict[str, str]]:
    """Settings of the published evaluations for answers of some lengths: half as many steps as tokens."""
    lengths = [word.strip() for word in text.split(",")]
    good = all(length.isdecimal() and int(length) >= 2 for length in lengths)
    require(good, "--lengths", text, "give whole numbers of at least 2, separated by commas, such as 128,256")
    return [{"task.completion_length": length, "sampler.steps": str(int(length) // 2)} for length in lengths]


def _evaluate(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """One evaluation."""
    config, checkpoint = _locate(arguments.model, arguments.task, settings)
    require(config.trainer.evaluate_problems > 0, "problems", config.trainer.evaluate_problems, "give at least 1")
    task = build_task(config)
    policy = build_policy(config, task)
    if checkpoint is not None:
        load_checkpoint(checkpoint, policy.network, {})
    processes = start(config.model.mixed_precision)
    policy.network.to(processes.device)
    problems = task.held_out(config.trainer.evaluate_problems)
    found = evaluate(policy, task, problems, config.sampler, config.trainer, processes, arguments.seed)
    protocol = protocol_line(config, str(processes.device), arguments.seed)
    result = {"model": str(checkpoint or arguments.model), "problems": len(problems), **found.metrics, **protocol}
    if isinstance(task, TextTask) and "test" in task.notes:
        result["note"] = task.notes["test"]
    if not processes.main:
        return
    metrics = found.metrics
    lines = [f"{result['model']}: {len(problems)} held-out problems", str(protocol["protocol"])]
    for how in ("sampled", "greedy"):
        for key in (key for key in metrics if key == f"reward_{how}" or key.startswith(f"reward_{how}/")):
            solved = metrics[key.replace("reward", "solved", 1)]
            lines.append(
                f"{how:<8} reward {metrics[key]:8.4f}   solved {solved:6.1%}  {key.partition('/')[2]}".rstrip()
            )
    _tell(arguments, result, [*lines, *_gap_line(metrics, 8)])


def _locate(name: str, task: str | None, settings: dict[str, str]) -> tuple[RunConfig, Path | None]:
    """The settings for what was given, and the checkpoint if it is a run."""
    folder = Path(name)
    if (folder / runs.CONFIG).is_file():
        config, latest = language(runs.read_config(folder)), runs.last_checkpoint(folder)
        chosen = settings if task is None else {"task.name": task, **settings}
        own = {} if config.model.path else {"base": str(latest)}
        return language(overlay(config, {**chosen, **own})), latest
    if (folder / CONFIG_FILE).is_file() and "axes" in read_object(folder / CONFIG_FILE, "give another model"):
        return language(overlay(load(task or "sudoku"), {**settings, "base": name})), None
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise UserError("model", name, f"neither a run ({runs.CONFIG}) nor a model ({CONFIG_FILE}) there")
    if not folder.exists() and not settings.get("model.revision"):
        refuse_mistyped("model", name, "for the hub's model of that name give --model.revision too")
    known = folder.exists() or HUB_NAME.fullmatch(name) is not None
    require(known, "model", name, "give the folder of a run or of a model, or a name on the hub such as owner/model")
    given: dict[str, object] = {"model.lora_rank": 0, "model.adapter": "", **settings, "base": "", "model.path": name}
    if task in (*TASKS, CUSTOM):
        config = language(overlay(load("llada"), {"task.name": task, **given}))
    elif task is not None and (packaged(task) or Path(task).is_file()):
        config = language(overlay(load(task), given))
    else:
        raise UserError("task", task, f"choose one of {', '.join(TASKS)}, {CUSTOM}, a recipe, or a YAML file")
    if isinstance(config.task, TextConfig) and not config.task.train_source:  # nobody trains here
        config = replace(config, task=replace(config.task, train_source=config.task.test_source))
    return config, None
