"""``dipod drift``."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from dipod import runs
from dipod.config import RunConfig
from dipod.control.build import build_control_trainer
from dipod.control.config import ControlConfig
from dipod.drift import Alignment, Gap
from dipod.drift.gap import RANDOM_ORDER, bracket_rows, exact_rows
from dipod.errors import UserError, require
from dipod.likelihood.exact import MAX_EXACT_TOKENS
from dipod.meter import decoding_of
from dipod.noise import Noise, keyed_generator
from dipod.parallel import start
from dipod.policies.sampling import SamplerConfig
from dipod.recipes import build_policy, build_task, build_trainer
from dipod.rollouts import Rollouts
from dipod.saving import restore
from dipod.trainer import Trainer

NAME = "drift"
HELP = "measure the drift of a run's checkpoints"
INTERVAL = 1.96
OF_ORDERS = {"paths": 16, "exact_tokens": 10, "decoding": "random", "sketch": 0}
"""Defaults of what only a masked model is asked."""
DESCRIPTION = """Measure how far the bound is from log π, checkpoint by checkpoint: gap = log π − ELBO on own actions;
with --gradient also how far the update points away from the policy gradient.

  dipod drift runs/sudoku-spg-seed0 --actions 256 --gradient 32
  dipod drift runs/gsm8k-llada-spg-spg-seed0 --last --paths 32
  dipod drift runs/track-fpopp+initial-seed0 --json

Exact where completions have at most --exact-tokens tokens, and in control (an estimate beyond 64 dimensions of an
action). Elsewhere the gap is bracketed from both sides by K' decoding orders (--paths), one of which is the sample's
own; both ends close in as K' grows. log π is that of one token a step in random order, which the ELBO bounds, or with
--decoding run that of the run's own blocks and steps, whose gap may be negative. Every number says what it is;
± and [ ] are 95 % intervals over actions.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--actions", type=int, metavar="N", help="actions measured (default: the run's)")
    parser.add_argument("--paths", type=int, metavar="K'", help="decoding orders (default: %(default)s)")
    parser.add_argument("--exact-tokens", type=int, metavar="N", help="longest exact (default: %(default)s)")
    parser.add_argument("--decoding", choices=("random", "run"), help="whose log π is measured")
    parser.add_argument(
        "--gradient",
        type=int,
        default=0,
        metavar="N",
        help="compare gradients on N training rollouts or transitions",
    )
    parser.add_argument("--sketch", type=int, metavar="D", help="project gradients to D numbers (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the actions and orders (default: %(default)s)")
    parser.add_argument("--last", action="store_true", help="only the last checkpoint")
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object a checkpoint")
    parser.set_defaults(**OF_ORDERS)


def run(arguments: argparse.Namespace) -> None:
    """Restore every checkpoint and measure it."""
    config, found = runs.read_config(arguments.folder), runs.checkpoints(arguments.folder)
    if arguments.actions is not None:
        require(arguments.actions >= 1, "--actions", arguments.actions, "give a whole number of at least 1")
    require(arguments.paths >= 2, "--paths", arguments.paths, "give at least 2: one order says nothing about the gap")
    require(arguments.gradient >= 0, "--gradient", arguments.gradient, "give a number of rollouts, or 0 for none")
    require(arguments.sketch >= 0, "--sketch", arguments.sketch, "give how many numbers, or 0 for all")
    fits = 0 <= arguments.exact_tokens <= MAX_EXACT_TOKENS
    mend = f"give 0 to {MAX_EXACT_TOKENS}; longer completions are bracketed, ever more closely with --paths"
    require(fits, "--exact-tokens", arguments.exact_tokens, mend)
    for name, default in OF_ORDERS.items() if isinstance(config, ControlConfig) else ():
        given, flag = getattr(arguments, name), f"--{name.replace('_', '-')}"
        require(
            given == default,
            flag,
            given,
            "a control policy decodes no tokens, and its gradients are compared whole; leave it out",
        )
    steps = list(found)[-1:] if arguments.last else list(found)
    asked = _Asked(**{field.name: getattr(arguments, field.name) for field in fields(_Asked)})
    rows = []
    for step in steps:
        if isinstance(config, ControlConfig):
            row = _of_control(config, found[step], asked)
        else:
            row = _of_language(config, found[step], asked, announce=step == steps[0] and not arguments.json)
        rows.append({"step": step, **row})
        if not arguments.json:
            print(_line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps(rows))


@dataclass(frozen=True)
class _Asked:
    """The numbers on the command line."""

    actions: int | None
    paths: int
    exact_tokens: int
    decoding: str
    gradient: int
    sketch: int
    seed: int


def _of_control(config: ControlConfig, checkpoint: Path, asked: _Asked) -> dict[str, Any]:
    """What a control policy's own actions say."""
    chosen = replace(config.trainer, evaluate_episodes=0, gap_actions=asked.actions or config.trainer.gap_actions)
    trainer = build_control_trainer(replace(config, trainer=chosen), start())
    restore(checkpoint, trainer)
    metrics = trainer.evaluate(asked.seed)
    if "gap" not in metrics:
        mend = "this policy's likelihood cannot be measured, or the run measures on nothing; give --actions N"
        raise UserError("gap", config.algorithm, mend)
    names = ("log_prob", "elbo", "gap", "gap_error", "gap_kind", "gap_valid")
    row = {name: metrics[name] for name in names if name in metrics}
    if asked.gradient:
        generator = keyed_generator(asked.seed, "drift", device=trainer.processes.device)
        rollouts = trainer.collector.collect(trainer.policy, trainer.config.horizon, generator)
        mend = "no action has an advantage and a likelihood, or the policy acts by noisy chains or on several processes"
        row |= _angle(trainer.alignment(rollouts, asked.gradient), mend)
    return row


def _of_language(config: RunConfig, checkpoint: Path, asked: _Asked, announce: bool) -> dict[str, Any]:
    """What a masked model's own completions of held-out problems say, and its rollouts on training problems."""
    free = config.sampler if asked.decoding == "run" else SamplerConfig(max_rows=config.sampler.max_rows)
    count = asked.actions or config.trainer.gap_problems or config.trainer.evaluate_problems
    require(count > 0, "--actions", count, "the run measures on nothing; give a number of actions")
    group = config.trainer.group_size
    sizes = replace(
        config.trainer,
        exact_tokens=asked.exact_tokens,
        prompts=max(1, -(-asked.gradient // group)),
    )
    config = replace(config, trainer=sizes, sampler=free, seed=config.seed)
    task = build_task(config)
    decoding = decoding_of(free, task.completion_length)
    if decoding is None:
        mend = "the run's sampler gives its completions no law that could be had from orders; use --decoding random"
        raise UserError("--decoding", asked.decoding, mend)
    trainer = build_trainer(config, build_policy(config, task), task, start())
    restore(checkpoint, trainer)
    rollouts = _own_actions(trainer, count, asked.seed)
    longest = int(rollouts.length.max())
    exact = decoding == RANDOM_ORDER and longest <= asked.exact_tokens
    rows = exact_rows(longest) if exact else bracket_rows(longest, asked.paths, True, decoding)
    if announce:
        how = "every mask" if exact else f"{asked.paths} decoding orders"
        total = len(rollouts) * rows
        print(f"{len(rollouts)} completions of up to {longest} tokens, {how}: {total:,} forward rows a checkpoint")
    meter = replace(trainer.meter, seed=asked.seed)
    gap = meter.gap(rollouts, len(rollouts), asked.paths, 0)
    per_token = float(rollouts.length.double().mean())
    row = {**_numbers(gap), "tokens": per_token, "gap_per_token": gap.gap / per_token, "decoding": asked.decoding}
    if asked.gradient:
        rollouts = trainer.collect("drift")
        beta = trainer.state.beta or 0.0
        found = meter.alignment(rollouts, asked.gradient, asked.paths, 0, asked.sketch, beta)
        row |= _angle(found, meter.obstacle(rollouts) or "a gradient vanishes")
    return row


def _own_actions(trainer: Trainer, count: int, seed: int) -> Rollouts:
    """One completion for each held-out problem, from the noise of the run's evaluations if ``seed`` is 0."""
    task, device = trainer.task, trainer.processes.device
    problems = task.held_out(max(count, trainer.config.evaluate_problems))[:count]
    observation, blank = task.observe(problems).to(device), task.blank(problems).to(device)
    index = torch.arange(len(problems))
    noise = Noise.keyed(seed, "evaluation", "sampled", examples=index.tolist(), device=device)
    sample = trainer.policy.sample(observation, blank, trainer.settings.sampler, noise, task.eos_id)
    action, counted = task.complete(problems, sample.ids.cpu())
    nothing = torch.zeros(len(problems), device=device)
    return Rollouts(observation, action.to(device), counted.to(device), nothing, nothing, index, sample.order)


def _numbers(gap: Gap) -> dict[str, Any]:
    found = {"elbo": gap.elbo, "gap": gap.gap, "gap_kind": gap.kind, "gap_error": gap.error}
    if gap.kind == "exact":
        return {"log_prob": gap.elbo + gap.gap, **found}
    low, high = gap.low - INTERVAL * gap.low_error, None if gap.high is None else gap.high + INTERVAL * gap.high_error
    return {**found, "gap_low": gap.low, "gap_high": gap.high, "gap_interval": [low, high]}


def _angle(found: Alignment | None, obstacle: str) -> dict[str, Any]:
    """What there is to say of the update's direction, or why there is nothing."""
    return {"cosine_kind": "none", "cosine_missing": obstacle} if found is None else dict(found.numbers())


def _of_angle(row: dict[str, Any]) -> str:
    """The same in words."""
    if "cosine_missing" in row:
        return f"   no cosine: {row['cosine_missing']}"
    if row["cosine_kind"] == "below noise":
        return "   cosine below noise: compare more rollouts (--gradient)"

    def number(name: str, digits: int) -> str:
        error = f" ± {INTERVAL * row[f'{name}_error']:.{digits}f}" if f"{name}_error" in row else ""
        return f"{row[name]:.{digits}f}{error}"

    text = f"   cosine {number('cosine', 3)}"
    if "update_cosine" in row and row["update_cosine"] != row["cosine"]:
        text += f", with β {number('update_cosine', 3)}"
    if "drift_share" in row:
        text += f", gap's part {number('drift_share', 2)} of the likelihood's"
    return f"{text} ({row['cosine_kind']})"


def _line(row: dict[str, Any]) -> str:
    kind = str(row["gap_kind"]).replace("_", " ")
    if "gap_interval" in row:
        low, high = row["gap_interval"]
        width = f" [{low:.3f}, {'∞' if high is None else f'{high:.3f}'}]"
    else:
        width = f" ± {INTERVAL * row['gap_error']:.3f}"
    per_token = f" ({row['gap_per_token']:.4f} a token)" if "gap_per_token" in row else ""
    text = f"step {row['step']:>6}   gap {row['gap']:9.3f}{width} nats{per_token}, {kind}   ELBO {row['elbo']:9.3f}"
    if "cosine_kind" in row:
        text += _of_angle(row)
    return text
