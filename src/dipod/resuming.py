"""More updates for a run that has had all of its."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipod import runs
from dipod.checkpoints import latest_checkpoint
from dipod.control.config import ControlConfig
from dipod.errors import UserError, require
from dipod.files import write_text
from dipod.locks import hold
from dipod.recipes import AnyConfig, overlay, to_yaml
from dipod.report.labels import flat

STEPS = "trainer.steps"


def extend(folder: Path, settings: Mapping[str, Any]) -> str:
    """Give a run another number of updates, which is all that may change in it.

    Where the schedule of the learning rate is constant, the run ends with the bits of one that was to have so many
    updates from the start.

    Args:
        folder: of the run.
        settings: by name; those that say what the run's own say are let pass.

    Returns:
        What happens to the learning rate, in words; empty where it stays what it was.

    Raises:
        UserError: another setting, fewer updates than the run has done, or another process works in the folder.
    """
    before = runs.read_config(folder)
    after = overlay(before, settings)
    old, new = flat(before), flat(after)
    changed = [field for field in new if new[field] != old.get(field) and field != STEPS]
    if changed:
        mend = (
            f"a resumed run keeps the settings in its config.yaml, all but {STEPS} and learning rates; leave this out"
        )
        raise UserError(changed[0], new[changed[0]], mend)
    latest = latest_checkpoint(folder / runs.CHECKPOINTS)
    done = 0 if latest is None else int(latest.name[5:])
    steps = after.trainer.steps
    require(steps >= done, STEPS, steps, f"the run has done {done} updates; give at least as many")
    if steps == before.trainer.steps:
        return ""
    with hold(folder):
        write_text(folder / runs.CONFIG, to_yaml(after))
    return _rates(before, after, done)


def _rates(before: AnyConfig, after: AnyConfig, done: int) -> str:
    """How the learning rate goes on, where that depends on the number of updates."""
    if isinstance(before, ControlConfig) or isinstance(after, ControlConfig) or done in (0, after.trainer.steps):
        return ""
    last = before.optimiser.rate_at(done - 1, max(before.trainer.steps, 1))
    own = after.optimiser.rate_at(done - 1, after.trainer.steps)
    if last == own:
        return ""
    following = after.optimiser.rate_at(done, after.trainer.steps)
    return (
        f"the learning rate of update {done} was {last:.2g} and that of the next is {following:.2g}: "
        f"it falls from {after.optimiser.decay_from:.0%} of all updates on (optimiser.decay_from)"
    )
