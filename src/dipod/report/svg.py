"""A panel as an SVG element that follows the page's colours, with its values beside it for pointers and readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

from dipod.report.data import number
from dipod.report.palette import Look
from dipod.report.panels import Line, Panel, Series

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 34
SCALE = 2000
"""Units of the plot's own coordinates, from edge to edge."""
MARGIN = 0.04
LEAST_SHARE = 1e-12
"""Of the largest value: what a logarithmic axis shows at least."""
FEW = 16
"""So many points of a median at most are marked."""


@dataclass(frozen=True)
class Axis:
    """From values to places, 0 to `SCALE`.

    Attributes:
        low: value at place 0.
        high: value at the other end.
        log: whether places go with the logarithm.
    """

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> int:
        """Where a value stands; values outside stand at the edge."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = log10(low), log10(high), log10(at)
        return round(SCALE * (at - low) / (high - low))

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the axis, about ``count``."""
        if self.log and self.high / self.low > 5:
            decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            skipped = ceil(len(decades) / (count + 1))
            parts = (1, 2, 5) if self.high / self.low < 300 else (1,)
            at = [part * 10.0**d for d in decades if d % skipped == 0 for part in parts]
        else:
            rough = (self.high - self.low) / count
            unit = 10.0 ** floor(log10(rough))
            step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
            first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
            at = [i * step for i in range(first, last + 1)]
        return [value for value in at if self.low * (1 - 1e-12) <= value <= self.high or value == 0]


def vertical(panel: Panel) -> Axis:
    """The vertical axis of a panel: all its lines, medians and bands, with a margin."""
    series = panel.series
    values = [v for s in series for line in (*s.runs, s.middle) for v in line.y]
    values += [v for s in series for v in (*s.low, *s.high)]
    if panel.log:
        positive = [value for value in values if value > 0]
        low, high = max(min(positive), LEAST_SHARE * max(positive)), max(positive)
        factor = max(high / low, 2.0) ** MARGIN
        return Axis(low / factor, high * factor, log=True)
    low, high = min(values), max(values)
    low, high = (low if edge is None else edge for edge, low in zip(panel.limits, (low, high), strict=True))
    span = high - low or 10 * abs(high) or 1.0
    return Axis(low - MARGIN * span, high + MARGIN * span)


def horizontal(panel: Panel) -> Axis:
    """The horizontal axis of a panel: the steps of all lines, or the places of a sweep."""
    if panel.ticks:
        return Axis(-0.5, len(panel.ticks) - 0.5)
    steps = [x for s in panel.series for line in s.runs for x in line.x]
    return Axis(min(steps), max(*steps, min(steps) + 1))


def element(panel: Panel, looks: Sequence[Look], colours: str) -> str:
    """The panel as ``<svg>`` and the values of its medians and bands as JSON.

    Args:
        panel: what is drawn.
        looks: of the series, by place.
        colours: what the page's variables of their colours begin with: ``c`` for ``--c0``, ``--c1`` and so on.
    """
    across, up = horizontal(panel), vertical(panel)
    drawn = "".join(_series(s, looks[s.place].dash, f"{colours}{s.place}", panel, across, up) for s in panel.series)
    name = f"chart-{panel.key}{'-sweep' if panel.ticks else ''}"
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(panel.title)}, {escape(panel.unit)}</title>'
        f'<desc id="{name}-desc">{escape(describe(panel))}</desc>'
        f'<g class="axes">{_axes(panel, across, up)}</g>'
        f'<text class="across" x="{(LEFT + right) / 2:g}" y="{HEIGHT - 4}">{escape(panel.across)}</text>'
        f'<svg class="area" x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" '
        f'viewBox="0 0 {SCALE} {SCALE}" preserveAspectRatio="none">{drawn}</svg></svg>'
        f'<script type="application/json" class="values">{as_json(panel, across, up, colours)}</script>'
    )


def _series(series: Series, dash: str, name: str, panel: Panel, across: Axis, up: Axis) -> str:
    """Band, lines of single runs, median; of a sweep, a dot for each run."""
    sweep, centre = bool(panel.ticks), series.middle
    dashed = f' stroke-dasharray="{dash}"' if dash and not sweep else ""
    single = series.runs if len(series.runs) > 1 or not centre.x else ()
    parts = [_band(centre.x, series.low, series.high, across, up)] if series.low else []
    parts += [
        f'<path class="{"dots" if sweep else "thin"}" d="{_path(run, across, up, dots=sweep)}"/>' for run in single
    ]
    if centre.x:
        parts.append(f'<path class="middle"{dashed} d="{_path(centre, across, up)}"/>')
    if 0 < len(centre.x) <= FEW and not sweep:
        parts.append(f'<path class="marks" d="{_path(centre, across, up, dots=True)}"/>')
    return f'<g class="series" data-name="{name}" style="--c:var(--{name})">{"".join(parts)}</g>'


def describe(panel: Panel) -> str:
    """Where each median begins and ends, in words."""
    told = []
    for s in panel.series:
        ends = list(zip(s.middle.x, s.middle.y, strict=True))
        ends = ends if panel.ticks else ends[:1] + ends[1:][-1:]
        places = [panel.ticks[int(x)][1] if panel.ticks else f"{panel.across} {x:.6g}" for x, _ in ends]
        words = [f"{number(y)} at {place}" for (_, y), place in zip(ends, places, strict=True)]
        told.append(f"{s.label}: {', '.join(words)}")
    return f"{panel.title}. {'; '.join(told)}."


def as_json(panel: Panel, across: Axis, up: Axis, colours: str) -> str:
    """Axes, medians and bands for the page's script, safe inside ``<script>``."""
    content: dict[str, Any] = {
        "x": [across.low, across.high],
        "y": [_short(up.low), _short(up.high)],
        "log": up.log,
        "across": panel.across.partition(",")[0],
        "ticks": [list(tick) for tick in panel.ticks],
        "series": [
            {
                "name": f"{colours}{s.place}",
                "label": s.label,
                "x": [_short(x) for x in s.middle.x],
                "y": [_short(y) for y in s.middle.y],
                **({"low": [_short(y) for y in s.low], "high": [_short(y) for y in s.high]} if s.low else {}),
            }
            for s in panel.series
        ],
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def tick_text(value: float) -> str:
    """A value at an axis."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _short(value: float) -> float | int:
    """Five digits; whole numbers whole."""
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.5g}")


def _axes(panel: Panel, across: Axis, up: Axis) -> str:
    """Grid lines and their texts, in the drawing's coordinates."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in up.ticks():
        y = bottom - (bottom - TOP) * up.place(value) / SCALE
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="up" x="{LEFT - 5}" y="{y + 3.5:.1f}">{tick_text(value)}</text>')
    for at, text in panel.ticks or [(value, tick_text(value)) for value in across.ticks()]:
        x = LEFT + (right - LEFT) * across.place(at) / SCALE
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}">{escape(text)}</text>')
    return "".join(parts)


def _path(line: Line, across: Axis, up: Axis, dots: bool = False) -> str:
    """Path data of a line; or of a dot for each point, which round caps make of strokes without length."""
    places = [(across.place(x), SCALE - up.place(y)) for x, y in zip(line.x, line.y, strict=True)]
    if dots:
        return "".join(f"M{x} {y}h0" for x, y in dict.fromkeys(places))
    return "M" + "L".join(f"{x} {y}" for x, y in places)


def _band(x: Sequence[float], low: Sequence[float], high: Sequence[float], across: Axis, up: Axis) -> str:
    there, back = (
        _path(Line(tuple(x), tuple(high)), across, up),
        _path(Line(tuple(x[::-1]), tuple(low[::-1])), across, up),
    )
    return f'<path class="band" d="{there}L{back[1:]}Z"/>'
