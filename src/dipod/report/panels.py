"""What is drawn, before it is drawn: for each metric the runs' lines, their median, and the band of their seeds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

from dipod.config import RunConfig
from dipod.report.data import Run, value_of
from dipod.report.labels import Label, swept, without
from dipod.report.metrics import (
    CONTROL_TITLES,
    COSINES,
    COSTED,
    ENTROPIES,
    GAPS,
    IDLE,
    LANGUAGE_TITLES,
    NOISY,
    NOTES,
    RETURNS,
    ROWS,
    SWEEP,
    TITLES,
)
from dipod.report.wording import gap_note, kind_words

T = TypeVar("T")
SMOOTHING = 10
"""Noisy metrics of single steps are shown as a running mean over so many measurements."""
POINTS, LEAST_POINTS = 160, 24
"""Of a line at most; fewer where many runs share a page."""
QUARTILES_FROM = 5
"""Seeds from which on a band is that of the quartiles, not of all."""
FLOOR = 1e-3
"""Nats; a logarithmic axis of gaps goes down to this and, where gaps are smaller, on to zero by the value itself."""


@dataclass(frozen=True)
class Line:
    """Values over steps (or over the places of a sweep)."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def at(self, x: float) -> float:
        """The value at ``x``, linear between neighbours; ``x`` lies within the line."""
        right = min(bisect_right(self.x, x), len(self.x) - 1)
        left = max(right - 1, 0)
        span = self.x[right] - self.x[left]
        share = (x - self.x[left]) / span if span else 0.0
        return (1 - share) * self.y[left] + share * self.y[right]


@dataclass(frozen=True)
class Series:
    """One label in one panel.

    Attributes:
        label: whose it is.
        place: of the label among all of the page, which says the colour.
        runs: a line for each run.
        middle: their median.
        low: lower edge of the band at the median's places; empty where there is no band.
        high: its upper edge.
    """

    label: str
    place: int
    runs: tuple[Line, ...]
    middle: Line
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One figure.

    Attributes:
        key: of the metric.
        title: for people.
        unit: of the vertical axis.
        note: what must be known to read it; empty if nothing.
        series: what is drawn.
        log: whether the vertical axis is logarithmic.
        limits: ends of the vertical axis, None where the values decide.
        ticks: places and texts of the horizontal axis; empty for steps.
        across: name of the horizontal axis.
    """

    key: str
    title: str
    unit: str
    note: str
    series: tuple[Series, ...]
    log: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    ticks: tuple[tuple[float, str], ...] = ()
    across: str = "update"


def panels(groups: Mapping[Label, Sequence[Run]]) -> dict[str, Panel]:
    """A panel for each metric that at least one run measured more than once."""
    every = [run for group in groups.values() for run in group]
    found = {}
    for key in TITLES:
        if not any(len(run.curve(key)[0]) > 1 for run in every) or _idle(key, every):
            continue
        points = max(min(POINTS, 4000 // len(every)), LEAST_POINTS)
        series = [
            _series(label.text, place, key, group, points)
            for place, (label, group) in enumerate(groups.items())
            if any(run.curve(key)[0] for run in group)
        ]
        found[key] = _panel(key, series, every)
    return found


def cost_panels(groups: Mapping[Label, Sequence[Run]]) -> dict[str, Panel]:
    """What is learned, and the gap, over what it cost, where updates do not cost all labels the same; else nothing.

    The cost of a masked model is its forward rows, a backward pass for two; that of a control policy, whose steps a
    robot would have to make, its transitions. Both count stages of self-distillation and what steers β.
    """
    every = [run for group in groups.values() for run in group]
    spent = {run.folder: _spent(run) for run in every}
    rates = {round(max(cost.values()) / max(cost), 3) for cost in spent.values() if cost and max(cost)}
    if len(rates) < 2 or not all(spent.values()):
        return {}
    points = max(min(POINTS, 4000 // len(every)), LEAST_POINTS)
    found: dict[str, Panel] = {}
    for key in COSTED:
        if sum(len(run.curve(key)[0]) > 1 for run in every) < len(every):
            continue
        if key in RETURNS and {f"{k}_over_cost" for k in ("solved_sampled", *RETURNS)} & found.keys():
            continue
        series = [
            _series(label.text, place, key, group, points, spent) for place, (label, group) in enumerate(groups.items())
        ]
        panel, name = _panel(key, series, every), f"{key}_over_cost"
        masked = isinstance(every[0].config, RunConfig)
        across, unit = ("forward rows, millions", ROWS) if masked else ("transitions, thousands", "")
        found[name] = replace(panel, key=name, across=across, note=f"{unit} {panel.note}".strip())
    return found


def at_equal_cost(costed: Mapping[str, Panel]) -> dict[str, Any]:
    """What had been reached when as much was spent as the cheapest run spent in all; empty where ``costed`` is.

    Args:
        costed: from `cost_panels`.

    Returns:
        ``across``, the unit; ``at``, how much; and for each metric and label a value for every run, between
        evaluations on the straight line that the figure shows.
    """
    if not costed:
        return {}
    at = min(line.x[-1] for panel in costed.values() for series in panel.series for line in series.runs)
    reached = {
        name.removesuffix("_over_cost"): {s.label: [line.at(at) for line in s.runs] for s in panel.series}
        for name, panel in costed.items()
    }
    return {"across": next(iter(costed.values())).across, "at": at, **reached}


def _spent(run: Run) -> dict[int, float]:
    """What a run has cost by each of its steps; empty where it does not say."""
    if not isinstance(run.config, RunConfig):
        return {step: value / 1e3 for step, value in zip(*run.curve("transitions"), strict=True)}
    steps, rows = run.curve("forward_rows")
    return {0: 0.0, **dict(zip(steps, (total / 1e6 for total in accumulate(rows)), strict=True))} if steps else {}


def sweep_panels(groups: Mapping[Label, Sequence[Run]]) -> dict[str, Panel]:
    """For runs that differ in one number besides algorithm and seed: final values over it; else nothing.

    Runs that are still going are left out.
    """
    name = swept(groups)
    if name is None:
        return {}
    values = sorted({value_of(label, name) for label in groups}, key=float)
    every = [run for group in groups.values() for run in group]
    found: dict[str, Panel] = {}
    for key in SWEEP:
        if key in RETURNS and {"solved_sampled", *RETURNS} & found.keys():
            continue
        series: list[Series] = []
        for same in dict.fromkeys(without(label, name) for label in groups):
            finals = {
                float(values.index(value_of(label, name))): [v for run in group if (v := _final(run, key)) is not None]
                for label, group in groups.items()
                if without(label, name) == same
            }
            there = {x: at for x, at in sorted(finals.items()) if at}
            if there:
                dots = [Line(tuple([x] * len(at)), tuple(at)) for x, at in there.items()]
                centre = Line(tuple(there), tuple(median(at) for at in there.values()))
                series.append(Series(same.text, len(series), tuple(dots), centre))
        if series:
            base = _panel(key, series, every)
            ticks = tuple((float(i), value) for i, value in enumerate(values))
            found[key] = replace(
                base,
                unit=f"{base.unit}, at the end",
                limits=(None, None),
                ticks=ticks,
                across=f"{name}, evenly spaced",
            )
    return found


def _idle(key: str, every: Sequence[Run]) -> bool:
    """Whether nothing is ever clipped, nothing ever weighed, or every episode is as long: not worth a figure."""
    values = {value for run in every for value in run.curve(key)[1]}
    return (key in IDLE and values <= {0.0}) or (key == "episode_length" and len(values) == 1)


def _final(run: Run, key: str) -> float | None:
    values = smooth(run, key)[1] if run.finished else []
    return values[-1] if values else None


def _panel(key: str, series: Sequence[Series], every: Sequence[Run]) -> Panel:
    titles = LANGUAGE_TITLES if isinstance(every[0].config, RunConfig) else CONTROL_TITLES
    title, unit = titles.get(key) or TITLES[key]
    notes = [NOTES[key]] if key in NOTES else []
    if key in GAPS:
        measured = [run for run in every if run.last(key) is not None]
        unit = f"{unit}, {kind_words(measured, key)}"
        notes.append(gap_note(measured, key))
    if key in ENTROPIES:
        measured = [run for run in every if run.last(key) is not None]
        per = "a token" if isinstance(every[0].config, RunConfig) else "an action"
        unit = f"{unit} {per}, {kind_words(measured, key)}"
    if key in NOISY:
        notes.append(f"Running mean over {SMOOTHING} updates.")
    top = [value for s in series for line in s.runs for value in line.y]
    limits = (None, 1.0) if key in COSINES and max(top) <= 1 else (None, None)
    log = key in GAPS and max(top) > 10 * FLOOR
    if log and min(top) < FLOOR:
        notes.append("Logarithmic above the tick next to zero, straight from there through zero.")
    return Panel(key, title, unit, " ".join(notes), tuple(series), log, limits)


def _series(
    label: str,
    place: int,
    key: str,
    group: Sequence[Run],
    points: int,
    spent: Mapping[Path, Mapping[int, float]] | None = None,
) -> Series:
    """Lines, median and band of one label's runs; a bracket's ends count as edges of the band.

    With ``spent``, by run and step, the lines stand over what was spent and not over steps.
    """

    def line(run: Run, x: Sequence[int], y: Sequence[float]) -> Line:
        if spent is None:
            return Line(tuple(map(float, x)), tuple(y))
        cost = spent[run.folder]
        there = [(cost[step], value) for step, value in zip(x, y, strict=True) if step in cost]
        return Line(tuple(x for x, _ in there), tuple(y for _, y in there))

    lines = [line(run, x, y) for run in group for x, y in (smooth(run, key),) if x]
    ends = [[line(run, x, y) for run in group for x, y in (run.curve(f"{key}_{end}"),) if x] for end in ("low", "high")]
    grid = _grid(lines, points)
    at = [[line.at(x) for line in lines] for x in grid]
    centre = Line(tuple(grid), tuple(median(values) for values in at))
    low, high = zip(*(_band(values) for values in at), strict=True) if len(lines) > 1 else ((), ())
    if all(len(side) == len(lines) for side in ends):
        low = tuple(_band([side.at(x) for side in ends[0]])[0] for x in grid)
        high = tuple(_band([side.at(x) for side in ends[1]])[1] for x in grid)
    return Series(label, place, tuple(_thinned(line, points) for line in lines), centre, low, high)


def _band(values: Sequence[float]) -> tuple[float, float]:
    """Quartiles where there are seeds enough, else the least and the greatest."""
    if len(values) < QUARTILES_FROM:
        return min(values), max(values)
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def smooth(run: Run, key: str) -> tuple[list[int], list[float]]:
    """A run's curve; noisy metrics as a running mean."""
    steps, values = run.curve(key)
    if key not in NOISY:
        return steps, values
    return steps, [sum(values[max(0, i + 1 - SMOOTHING) : i + 1]) / min(SMOOTHING, i + 1) for i in range(len(values))]


def _grid(lines: Sequence[Line], points: int) -> list[float]:
    """Steps that all lines cover; those of the shortest line if there are none."""
    first, last = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    steps = sorted({x for line in lines for x in line.x if first <= x <= last})
    return _every(steps, points) if steps else []


def _thinned(line: Line, points: int) -> Line:
    kept = _every(range(len(line.x)), points)
    return Line(tuple(line.x[i] for i in kept), tuple(line.y[i] for i in kept))


def _every(items: Sequence[T], points: int) -> list[T]:
    """About ``points`` of the items, evenly, with both ends."""
    if len(items) <= points:
        return list(items)
    return [items[round(i * (len(items) - 1) / (points - 1))] for i in range(points)]
