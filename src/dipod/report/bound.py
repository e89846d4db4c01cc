"""What is said of the bound: how the gap went, where estimator and update pointed, whether the policy still varies."""

from __future__ import annotations

from collections.abc import Sequence
from math import acos, degrees, exp, isfinite
from statistics import fmean, median
from typing import Literal

from dipod.config import RunConfig
from dipod.drift.monitor import INTERVAL
from dipod.report.data import Run, median_of, middle, number
from dipod.report.panels import smooth
from dipod.report.wording import kind_words, per_token

Movement = Literal["grew", "held", "fell", "swung", "unmeasured"]
FACTOR = 2.0
"""A gap that stays within this factor of its beginning has been held."""
TIGHT = 1.0
"""Nats below which a gap is held wherever it began."""
READABLE = 7.0
"""Nats above which e to the gap is left as a power."""
ONE = 1.5
"""Actions to a problem, in effect or of a group, below which a policy is said to give nearly one."""
MOVED = {
    "grew": "grew",
    "held": "was held",
    "fell": "fell",
    "swung": "left where it began and came back",
    "unmeasured": "went",
}


def movement(group: Sequence[Run], key: str = "gap") -> Movement:
    """What became of the gap, from all that was measured and not its ends alone.

    The median over seeds grew or fell by more than `FACTOR`; or every look of every run stayed within it or below
    `TIGHT`, and the gap was held; or it swung, and the ends do not show it.
    """
    both = ends(group, key)
    if both is None or not all(map(isfinite, both)):
        return "unmeasured"
    first, last = both
    if max(first, last) >= TIGHT:
        if last > FACTOR * max(first, 0):
            return "grew"
        if FACTOR * last < first:
            return "fell"
    return "swung" if any(_left(run, key) for run in group) else "held"


def _left(run: Run, key: str) -> bool:
    """Whether any look at a run, noise aside, found a gap far from its first one."""
    first = run.first(key)
    if first is None:
        return False
    most, least = max(TIGHT, FACTOR * first), first / FACTOR if first >= TIGHT else -TIGHT
    sure = [row["monitor_gap"] - INTERVAL * row.get("monitor_gap_error", 0.0) for row in run.with_number("monitor_gap")]
    values = sure if key == "monitor_gap" else [*run.curve(key)[1], *sure]
    return any(value > most for value in values) or any(value < least for value in run.curve(key)[1])


def ends(group: Sequence[Run], key: str) -> tuple[float, float] | None:
    """Medians over seeds of what was measured first and last."""
    first, last = median_of([run.first(key) for run in group]), middle(group, key)
    return None if first is None or last is None else (first, last)


def at_last(group: Sequence[Run], key: str) -> str:
    """When the last of a metric was measured: "at the end", or at which update before it."""
    lasts = [(run.curve(key)[0][-1], run.steps) for run in group if run.curve(key)[0]]
    if all(step >= steps for step, steps in lasts):
        return "at the end"
    return f"at the last look ({_updates([step for step, _ in lasts])})"


def _updates(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    return f"update {low}" if low == high else f"updates {low} to {high}"


def gap_sentence(group: Sequence[Run], key: str) -> str:
    """How the gap moved, what it comes to, how far seeds disagree and how high any look found it."""
    both = ends(group, key)
    if both is None:
        return "The gap was not measured."
    kind = kind_words(group, key)
    first, last = both
    what = f"gap ({kind}{', on the rollouts' if key != 'gap' else ''})"
    if not any(value for run in group for value in run.curve(key)[1]):
        return f"The {what} is zero throughout: what stands in for log π is log π."
    once = all(len(run.curve(key)[0]) < 2 for run in group)
    if once:
        steps = [step for run in group for step in run.curve(key)[0]]
        when = f" once, at {_updates(steps)}" if steps else ""
        text = f"The {what} was measured{when}: {number(last)} nats"
    else:
        times = f", {number(last / first)} times" if last > FACTOR * first > 0 else ""
        text = f"The {what} {MOVED[movement(group, key)]}: {number(first)} nats at the beginning, {number(last)} "
        text += f"{at_last(group, key)}{times}"
    each = [v for run in group if (v := per_token(run, key)) is not None]
    text += f" ({number(median(each))} a token)" if each else ""
    low, high = middle(group, f"{key}_low"), middle(group, f"{key}_high")
    text += f", in a bracket from {number(low)} to {number(high)}" if low is not None and high is not None else ""
    finals = sorted(v for run in group if (v := run.last(key)) is not None)
    text += f"; seeds end between {number(finals[0])} and {number(finals[-1])}" if len(finals) > 1 else ""
    text += "" if once else _highest(group, key, finals[-1])
    return f"{text}. {meaning(last, kind)}".strip()


def _highest(group: Sequence[Run], key: str, final: float) -> str:
    """The highest value that any look found, if it is worth a clause beside the last ones."""
    points = [(value, step, run.config.seed) for run in group for step, value in zip(*run.curve(key), strict=True)]
    value, step, seed = max(points)
    if value <= max(1.2 * final, 0.1) or step == min(run.curve(key)[0][0] for run in group if run.curve(key)[0]):
        return ""
    return f"; the highest measured was {number(value)} at update {step}" + (f", seed {seed}" if len(group) > 1 else "")


def meaning(gap: float, kind: str) -> str:
    """A gap in nats as what it does to a probability."""
    if not isfinite(gap) or gap <= 0:
        return ""
    least = "at least " if kind == "lower bound" else ""
    mean = "an action's probability (geometric mean)"
    if gap < TIGHT:
        return f"The bound puts {mean} {least}{100 * (1 - exp(-gap)):.2g} % too low."
    factor = f"{number(exp(gap))}" if gap < READABLE else f"e^{gap:.1f}"
    return f"The bound puts {mean} too low by a factor of {least}{factor}."


def direction(group: Sequence[Run]) -> list[str]:
    """Where the bare estimator and the update as made pointed, in the second half of the run or else when looked at."""
    found = []
    for keys, who in (
        (("cosine", "monitor_cosine"), "the estimator's gradient, β left out,"),
        (("update_cosine", "monitor_update_cosine"), "the update as made, β included,"),
    ):
        key = next((key for key in keys if any(run.curve(key)[0] for run in group)), None)
        if key is not None and not _repeats(group, key):
            found.append(_angle(group, key, who))
    return found


def _repeats(group: Sequence[Run], key: str) -> bool:
    """Whether an update's cosine is the estimator's everywhere, as without β."""
    alone = key.replace("update_", "")
    return alone != key and all(run.curve(key) == run.curve(alone) for run in group)


def _angle(group: Sequence[Run], key: str, who: str) -> str:
    late, steps = [], []
    for run in group:
        points = list(zip(*run.curve(key), strict=True))
        points = [point for point in points if 2 * point[0] >= run.steps] or points
        late += [fmean(value for _, value in points)] if points else []
        steps += [step for step, _ in points]
    cosine, lowest = median(late), min(value for run in group for value in run.curve(key)[1])
    angle = degrees(acos(min(max(cosine, -1.0), 1.0)))
    where = "in the loop" if key.startswith("monitor") else "at evaluations"
    return (
        f"Measured {where}, {_updates(steps)}, {who} had a mean cosine of {number(cosine)} with the policy gradient, "
        f"{angle:.0f}° off; the lowest in all was {number(lowest)}."
    )


def variety(group: Sequence[Run]) -> str:
    """Entropy and the share of unique actions, and whether a small gap is that of a policy which hardly varies."""
    key = next((key for key in ("entropy", "monitor_entropy") if middle(group, key) is not None), "")
    both = ends(group, key) if key else None
    parts = []
    if both is not None:
        per = "a token" if isinstance(group[0].config, RunConfig) else "an action"
        text = f"Its entropy ({kind_words(group, key)}) went from {number(both[0])} to {number(both[1])} nats {per}"
        parts.append(text if at_last(group, key) == "at the end" else f"{text} {at_last(group, key)}")
    unique = median_of([smooth(run, "unique_share")[1][-1] for run in group if run.curve("unique_share")[0]])
    size = group[0].config.trainer.group_size if isinstance(group[0].config, RunConfig) else 0
    if unique is not None and size:
        parts.append(f"{number(unique * size)} of the {size} actions of a group differ")
    if not parts:
        return ""
    return f"{'; '.join(parts)}. {_collapse(group, None if unique is None else unique * size)}".strip()


def _collapse(group: Sequence[Run], differing: float | None) -> str:
    """Whether a tight bound goes with a policy that gives nearly one action to a problem; empty for loose bounds."""
    gap = next((value for key in ("gap", "monitor_gap") if (value := middle(group, key)) is not None), None)
    if gap is None or gap >= TIGHT or not isinstance(group[0].config, RunConfig):
        return ""
    entropies = [
        value * run.tokens
        for run in group
        if run.tokens and (value := _latest(run, ("entropy", "monitor_entropy"))) is not None
    ]
    effective = exp(min(median(entropies), READABLE)) if entropies else None
    counts = [count for count in (effective, differing) if count is not None]
    if not counts:
        return ""
    if min(counts) < ONE:
        return (
            "The policy gives nearly one action to a problem: over a single action every bound is tight, so this gap "
            "shows a hardened policy and not that anything was tightened."
        )
    return "The policy still varies, so the gap is not small for want of actions."


def _latest(run: Run, keys: Sequence[str]) -> float | None:
    return next((value for key in keys if (value := run.last(key)) is not None), None)


def looks_sentence(group: Sequence[Run]) -> str:
    """When the monitor looked last, where it left looks out for its budget."""
    late: list[tuple[int, int, int]] = []
    for run in group:
        every, steps = run.config.monitor.every, run.curve("monitor_gap")[0]
        if every and steps and steps[-1] + every <= run.steps:
            late.append((steps[-1], len(steps), -(-run.steps // every)))
    if not late:
        return ""
    budget = f"{100 * group[0].config.monitor.budget:g} % of the time (monitor.budget)"
    last, taken, due = (_range(column) for column in zip(*late, strict=True))
    return f"The monitor took {taken} of {due} looks, the last at update {last}: more would have cost over {budget}."


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"
