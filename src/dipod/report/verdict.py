"""The verdict on a label's runs, from their numbers alone: how tight the bound stayed, where the update pointed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import acos, degrees, exp, isfinite
from statistics import fmean, median
from typing import Literal

from dipod.config import RunConfig
from dipod.report.data import Run, median_of, middle, number, percent
from dipod.report.panels import smooth
from dipod.report.wording import kind_words, per_token

Movement = Literal["grew", "held", "fell", "unmeasured"]
FACTOR = 2.0
"""A gap that ends within this factor of its beginning has been held."""
TIGHT = 1.0
"""Nats below which a gap is held wherever it began: an action's probability is off by less than a factor of e."""
BACK = 0.1
"""Share of held-out problems, or of the best return's gain, that is worth a sentence when it is lost again."""
READABLE = 7.0
"""Nats above which e to the gap is left as a power."""


@dataclass(frozen=True)
class Verdict:
    """What became of a label's runs.

    Attributes:
        label: whose they are.
        movement: of the gap.
        gap: the last one in nats, the median over seeds; None if none was measured.
        sentences: in the order in which they are read.
        warnings: seed, update and words of each that the monitor raised.
    """

    label: str
    movement: Movement
    gap: float | None
    sentences: tuple[str, ...]
    warnings: tuple[tuple[int, int, str], ...]


def judge(label: str, group: Sequence[Run]) -> Verdict:
    """The verdict on runs that differ in their seed."""
    key = "gap" if any(run.last("gap") is not None for run in group) else "monitor_gap"
    sentences = [_learned(group), _gap(group, key), _direction(group), *_troubles(group)]
    warnings = [(run.config.seed, step, text) for run in group for step, text in run.words("warning")]
    return Verdict(label, movement(group, key), middle(group, key), tuple(s for s in sentences if s), tuple(warnings))


def movement(group: Sequence[Run], key: str = "gap") -> Movement:
    """Whether the median gap grew or fell by more than `FACTOR`; a gap that stays below `TIGHT` has been held."""
    ends = _ends(group, key)
    if ends is None or not all(map(isfinite, ends)):
        return "unmeasured"
    first, last = ends
    if max(first, last) < TIGHT:
        return "held"
    return "grew" if last > FACTOR * max(first, 0) else "fell" if FACTOR * last < first else "held"


def _ends(group: Sequence[Run], key: str) -> tuple[float, float] | None:
    first, last = median_of([run.first(key) for run in group]), middle(group, key)
    return None if first is None or last is None else (first, last)


def _gap(group: Sequence[Run], key: str) -> str:
    """How the gap moved, what it comes to, and how far seeds disagree."""
    ends = _ends(group, key)
    if ends is None:
        return "The gap was not measured."
    kind = kind_words(group, key)
    first, last = ends
    what = f"gap ({kind}{', on the rollouts' if key != 'gap' else ''})"
    if not any(value for run in group for value in run.curve(key)[1]):
        return f"The {what} is zero throughout."
    if all(len(run.curve(key)[0]) < 2 for run in group):
        text = f"The {what} is {number(last)} nats"
    else:
        moved = {"grew": "grew", "fell": "fell", "held": "was held", "unmeasured": "went"}[movement(group, key)]
        times = f", {number(last / first)} times" if last > FACTOR * first > 0 else ""
        text = f"The {what} {moved}: {number(first)} nats at the beginning, {number(last)} at the end{times}"
    each = [v for run in group if (v := per_token(run, key)) is not None]
    text += f" ({number(median(each))} a token)" if each else ""
    low, high = middle(group, f"{key}_low"), middle(group, f"{key}_high")
    text += f", in a bracket from {number(low)} to {number(high)}" if low is not None and high is not None else ""
    finals = sorted(v for run in group if (v := run.last(key)) is not None)
    text += f"; seeds end between {number(finals[0])} and {number(finals[-1])}" if len(finals) > 1 else ""
    return f"{text}. {_meaning(last, kind)}".strip()


def _meaning(gap: float, kind: str) -> str:
    """A gap in nats as a factor of probability."""
    if not isfinite(gap) or gap <= 0:
        return ""
    if gap < TIGHT:
        return "The bound is tight: it puts an action's probability less than a tenth too low."
    factor = f"{number(exp(gap))}" if gap < READABLE else f"e^{gap:.1f}"
    least = " at least" if kind == "lower bound" else ""
    return f"The bound puts an action's probability too low by a factor of{least} {factor} (geometric mean)."


def _direction(group: Sequence[Run]) -> str:
    """Where the update pointed in the second half of the run."""
    key = "cosine" if any(run.last("cosine") is not None for run in group) else "monitor_cosine"
    late = [fmean(values[len(values) // 2 :]) for run in group if (values := run.curve(key)[1])]
    if not late:
        return ""
    cosine = median(late)
    angle = degrees(acos(min(max(cosine, -1.0), 1.0)))
    lowest = min(value for run in group for value in run.curve(key)[1])
    true = "the true policy gradient" if key == "cosine" else "the likelihood gradient (noise taken out)"
    words = f"In the second half of the run the proxy's gradient had a mean cosine of {number(cosine)} with {true}"
    return f"{words}, {angle:.0f}° off; the lowest measured was {number(lowest)}."


def _learned(group: Sequence[Run]) -> str:
    """What the policy gained, and what it lost again."""
    over = f" (medians over {len(group)} seeds)" if len(group) > 1 else ""
    solved = _ends(group, "solved_sampled")
    if solved is not None:
        greedy = _ends(group, "solved_greedy")
        text = f"Held-out problems solved by sampling: {percent(solved[0])} at the beginning, "
        text += f"{percent(solved[1])} at the end"
        text += f"; by greedy decoding {percent(greedy[0])} and {percent(greedy[1])}" if greedy else ""
        return f"{text}{over}.{_lost(group, 'solved_sampled')}"
    key = "reward_greedy" if any(run.last("reward_greedy") is not None for run in group) else "reward"
    ends = _ends(group, key)
    if ends is None:
        return ""
    control = not isinstance(group[0].config, RunConfig)
    what = "Return of an episode" if control else "Reward"
    how = ", actions without noise," if key == "reward_greedy" else ""
    return f"{what}{how} went from {number(ends[0])} to {number(ends[1])}{over}.{_lost(group, key)}"


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
