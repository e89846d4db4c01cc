"""The verdict on a label's runs, from their numbers alone: how tight the bound stayed, where the update pointed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from dipod.config import RunConfig
from dipod.report.bound import Movement, at_last, direction, ends, gap_sentence, looks_sentence, movement, variety
from dipod.report.data import Run, middle, number, percent
from dipod.report.panels import smooth

BACK = 0.1
"""Share of held-out problems, or of the best return's gain, that is worth a sentence when it is lost again."""


@dataclass(frozen=True)
class Verdict:
    """What became of a label's runs.

    Attributes:
        label: whose they are.
        movement: of the gap.
        gap: the last one in nats, the median over seeds; None if none was measured.
        when: it was measured: "at the end", or before.
        sentences: in the order in which they are read.
        warnings: seed, update and words of each that the monitor raised, or that idle groups did.
    """

    label: str
    movement: Movement
    gap: float | None
    when: str
    sentences: tuple[str, ...]
    warnings: tuple[tuple[int, int, str], ...]


def judge(label: str, group: Sequence[Run]) -> Verdict:
    """The verdict on runs that differ in their seed."""
    key = "gap" if any(run.last("gap") is not None for run in group) else "monitor_gap"
    bound = [gap_sentence(group, key), variety(group), *direction(group), looks_sentence(group)]
    sentences = [_learned(group), *bound, *_troubles(group)]
    said = [(run, words) for run in group for words in (*run.words("warning"), *run.words("idle_warning"))]
    warnings = [(run.config.seed, step, text) for run, (step, text) in said]
    told = tuple(s for s in sentences if s)
    return Verdict(label, movement(group, key), middle(group, key), at_last(group, key), told, tuple(warnings))


def _learned(group: Sequence[Run]) -> str:
    """What the policy gained, and what it lost again."""
    over = f" (medians over {len(group)} seeds)" if len(group) > 1 else ""
    solved = ends(group, "solved_sampled")
    if solved is not None:
        greedy = ends(group, "solved_greedy")
        text = f"Held-out problems solved by sampling: {percent(solved[0])} at the beginning, "
        text += f"{percent(solved[1])} at the end"
        text += f"; by greedy decoding {percent(greedy[0])} and {percent(greedy[1])}" if greedy else ""
        return f"{text}{over}.{_lost(group, 'solved_sampled')}"
    key = "reward_greedy" if any(run.last("reward_greedy") is not None for run in group) else "reward"
    both = ends(group, key)
    if both is None:
        return ""
    control = not isinstance(group[0].config, RunConfig)
    what = "Return of an episode" if control else "Reward"
    how = ", actions without noise," if key == "reward_greedy" else ""
    succeeded = ends(group, "success_greedy" if key == "reward_greedy" else "success")
    success = f", its success from {percent(succeeded[0])} to {percent(succeeded[1])}" if succeeded else ""
    return f"{what}{how} went from {number(both[0])} to {number(both[1])}{success}{over}.{_lost(group, key)}"


def _lost(group: Sequence[Run], key: str) -> str:
    """What was lost after the best evaluation, in the median run; empty if little."""
    curves = [curve for run in group if (curve := smooth(run, key))[0]]
    steps = sorted(set.intersection(*(set(at) for at, _ in curves))) if curves else []
    values = [median(dict(zip(*curve, strict=True))[step] for curve in curves) for step in steps]
    if not values:
        return ""
    best = max(values)
    lost = best - values[-1]
    when = steps[values.index(best)]
    if key == "solved_sampled":
        if lost <= BACK:
            return ""
        if when == steps[0]:
            return f" It was never better than at the beginning: {100 * lost:.0f} points were lost."
        return f" Its best was {percent(best)} at update {when}; {100 * lost:.0f} points were lost again."
    gain = best - values[0]
    return f" Its best was {number(best)} at update {when}." if gain > 0 and lost > 2 * BACK * gain else ""


def _troubles(group: Sequence[Run]) -> list[str]:
    """Runs that are not at their end, and numbers that are none."""
    found = []
    unfinished = [run for run in group if not run.finished]
    if unfinished:
        each = ", ".join(f"seed {run.config.seed}: {run.steps} of {run.config.trainer.steps}" for run in unfinished)
        found.append(f"Not finished yet (updates, {each}).")
    for run in group:
        bad = next(((row["step"], key) for row in run.metrics for key in row if _broken(key, row[key])), None)
        if bad is not None:
            found.append(f"Seed {run.config.seed}: from update {bad[0]} on, {bad[1]} is not a finite number.")
    return found


def _broken(key: str, value: object) -> bool:
    """Whether a number that training depends on is none; what the monitor cannot measure does no harm."""
    return isinstance(value, float) and not isfinite(value) and not key.startswith("monitor")
