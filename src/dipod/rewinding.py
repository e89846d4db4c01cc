"""Going back in a run: to its last healthy checkpoint after numbers that were not finite, or to any other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from dipod import runs
from dipod.checkpoints import STATE_FILE, steps_of
from dipod.errors import UserError, require
from dipod.files import resume_command, write_text
from dipod.guard import RATE, NotFinite
from dipod.locks import hold
from dipod.recipes import AnyConfig, load, overlay, to_yaml
from dipod.records import read_lines
from dipod.report.labels import flat, path_of

HUGE = 10.0
"""A checkpoint is healthy while its largest weight is at most so many times that of the untrained model, or of 1."""
ASIDE, CHANGES = "set-aside", "changes.jsonl"
PRETRAINING_RATE = "pretrain.learning_rate"
RATES = (
    RATE,
    "optimiser.max_grad_norm",
    PRETRAINING_RATE,
    "interleave.learning_rate",
    "distillation.learning_rate",
)
"""Settings that a run may go on with at another value: what was done stays as it was."""


def rewind(folder: Path, step: int) -> Path | None:
    """Let a run go on from its checkpoint of ``step``, or from its beginning (0); what came after is kept aside.

    Returns:
        The folder in the run folder that holds what came after; None where nothing did.

    Raises:
        UserError: no such checkpoint, or another process works in the folder.
    """
    with hold(folder):
        found = steps_of(folder / runs.CHECKPOINTS)
        mend = f"choose one of its checkpoints: {', '.join(map(str, sorted({0, *found})))}"
        require(step == 0 or step in found, "--from", step, mend)
        partial = folder / runs.CHECKPOINTS / runs.PRETRAINING
        later = [path for number, path in found.items() if number > step] + ([partial] if partial.exists() else [])
        if not later:
            return None
        aside = next(path for i in range(1, 10**6) if not (path := folder / f"{ASIDE}-{i}").exists())
        aside.mkdir()
        for name in (runs.METRICS, runs.COMPLETIONS):
            if (folder / name).exists():
                shutil.copyfile(folder / name, aside / name)
        for path in reversed(later):  # the latest first: cut off in between, the rest is still a run
            os.replace(path, aside / path.name)
        return aside


def retune(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give a run other values of `RATES` from where it stands on, and write down in ``changes.jsonl`` since when.

    Returns:
        The settings that are none of these.

    Raises:
        UserError: a value that is refused or comes too late, or another process works in the folder.
    """
    config = runs.read_config(folder)
    own = {name: value for name, value in settings.items() if path_of(name, config) in RATES}
    if own:
        with hold(folder):
            changed = overlay(config, own)
            before, after = flat(config), flat(changed)
            late = (folder / runs.BASE).exists() and before.get(PRETRAINING_RATE) != after.get(PRETRAINING_RATE)
            require(not late, PRETRAINING_RATE, after.get(PRETRAINING_RATE), "the base is made already; leave it out")
            step = max(steps_of(folder / runs.CHECKPOINTS), default=0)
            rows = [
                {"step": step, "setting": name, "before": before[name], "after": after[name]}
                for name in after
                if after[name] != before[name]
            ]
            with (folder / CHANGES).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            write_text(folder / runs.CONFIG, to_yaml(changed))
    return {name: value for name, value in settings.items() if name not in own}


def advice(folder: Path, config: AnyConfig, error: NotFinite) -> str:
    """What to do after `NotFinite`: the last healthy checkpoint, and a command that goes on from it.

    The state that the bad step began with is not healthy: at any learning rate it would come to the same numbers.
    Nor is one that was gone on from before, at a rate that did not help.
    """
    found = steps_of(folder / runs.CHECKPOINTS)
    states = {step: _state(path) for step, path in found.items()}
    rows = runs.read_metrics(folder)
    limit = HUGE * max(1.0, rows[0].get("largest_weight", 1.0) if rows else 1.0)
    done, tried = int(rows[-1]["step"]) if rows else 0, _tried(folder, error.rate)
    before = done if tried is None or max(found, default=0) > tried else min(done, tried)
    step = max((step for step, state in states.items() if step < before and _healthy(state, limit)), default=0)
    partial = steps_of(folder / runs.CHECKPOINTS / runs.PRETRAINING)
    sick = any(number > step for number in found) or any(not _healthy(_state(p), limit) for p in partial.values())
    back = f" --from {step}" if sick else ""
    command = f"{resume_command(folder)}{back} --{error.rate} {_lower(config, error.rate):g}"
    if not step:
        return f"no later state is healthy; begin again with `{command}`" if sick else f"go on with `{command}`"
    state = states[step]
    numbers = f"largest weight {state['largest_weight']:.3g}, loss {state['loss'] + 0.0:.3g}"
    return f"update {step} is healthy ({numbers}); go on from there with `{command}`"


def _tried(folder: Path, rate: str) -> int | None:
    """From which step the run has gone on at another rate, the last time that it did."""
    steps = [int(row["step"]) for row in read_lines(folder / CHANGES) if row.get("setting") == rate]
    return steps[-1] if steps else None


def _state(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / STATE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _healthy(state: Mapping[str, Any], limit: float) -> bool:
    """Whether a checkpoint's loss is a number and its weights are not much larger than they were."""
    loss, weight = state.get("loss"), state.get("largest_weight")
    if not (isinstance(loss, int | float) and isinstance(weight, int | float)):
        return False
    return isfinite(loss) and weight <= limit


def _lower(config: AnyConfig, field: str) -> float:
    """The recipe's value of a setting, if that is much lower, else a tenth of the run's."""
    tenth = float(flat(config)[field]) / 10
    try:
        usual = float(flat(load(config.recipe))[field])
    except UserError:
        return tenth
    return usual if usual <= tenth else tenth
