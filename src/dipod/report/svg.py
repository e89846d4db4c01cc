"""A panel as an SVG element that follows the page's colours, with its values beside it for pointers and readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dipod.report.axes import SCALE, Axis, horizontal, tick_texts, vertical
from dipod.report.data import number
from dipod.report.palette import Look
from dipod.report.panels import Line, Panel, Series
from dipod.visible import escape

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 8, 38
FEW = 16
"""So many points of a median at most are marked."""


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
        **({"linear": up.linear, "near": up.near} if up.linear else {}),
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


def _short(value: float) -> float | int:
    """Five digits; whole numbers whole."""
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.5g}")


def _axes(panel: Panel, across: Axis, up: Axis) -> str:
    """Grid lines and their texts, in the drawing's coordinates."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    values = up.ticks()
    for value, text in zip(values, tick_texts(values), strict=True):
        y = bottom - (bottom - TOP) * up.place(value) / SCALE
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="up" x="{LEFT - 5}" y="{y + 4:.1f}">{text}</text>')
    steps = across.ticks()
    for at, text in panel.ticks or zip(steps, tick_texts(steps), strict=True):
        x = LEFT + (right - LEFT) * across.place(at) / SCALE
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}">{escape(text)}</text>')
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
