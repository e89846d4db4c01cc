"""Panels as matplotlib figures, for files: one hue a label, a band over its seeds, a thin line a run."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dipod.report.axes import Axis, horizontal, tick_texts, vertical
from dipod.report.metrics import OVERVIEW
from dipod.report.palette import Look
from dipod.report.panels import Panel

THICK = 1.8
ACROSS, WIDTH, HEIGHT = 2, 4.3, 2.9
"""Panels of a row and their size in inches: a page's column leaves the smallest letters about 10 pixels then."""
MANY = 9
"""Labels from which on the legend stands in two columns."""


def curves(panels: Mapping[str, Panel], looks: Sequence[Look]) -> dict[str, Figure]:
    """A figure for each panel."""
    figures: dict[str, Figure] = {}
    for key, panel in panels.items():
        figure = Figure(figsize=(5.0, 3.1), layout="constrained")
        _draw(figure.add_subplot(), panel, looks)
        figures[key] = figure
    return figures


def overview(panels: Mapping[str, Panel], looks: Sequence[Look]) -> dict[str, Figure]:
    """What matters most side by side, as ``overview``; nothing where nothing was measured twice."""
    wanted = [key for key in OVERVIEW if key in panels]
    if "solved_sampled" in wanted:
        wanted = [key for key in wanted if key not in ("reward", "reward_greedy", "episode_length")]
    return _row("overview", [panels[key] for key in wanted], looks)


def cost(panels: Mapping[str, Panel], looks: Sequence[Look]) -> dict[str, Figure]:
    """Side by side over what was spent, as ``cost``; nothing where updates cost the same."""
    return _row("cost", list(panels.values()), looks)


def sweep(panels: Mapping[str, Panel], looks: Sequence[Look]) -> dict[str, Figure]:
    """What a swept setting does, side by side, as ``sweep``; nothing where none was swept."""
    return _row("sweep", list(panels.values()), looks)


def _row(name: str, panels: Sequence[Panel], looks: Sequence[Look]) -> dict[str, Figure]:
    """Panels in rows of `ACROSS`, with one legend below."""
    if not panels:
        return {}
    figure, places = sheet(len(panels))
    for axes, panel in zip(places, panels, strict=True):
        _draw(axes, panel, looks, legend=False)
    if any(len(panel.series) > 1 for panel in panels):
        pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
        named = {label: handle for handle, label in pairs}
        order = list(
            dict.fromkeys(s.label for s in sorted((s for p in panels for s in p.series), key=lambda s: s.place))
        )
        handles = [named[label] for label in order]
        figure.legend(handles, order, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return {name: figure}


def sheet(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with room for some panels in rows of `ACROSS`, and for a legend."""
    across = min(ACROSS, count)
    down = -(-count // across)
    figure = Figure(figsize=(WIDTH * across, HEIGHT * down + 0.4), layout="constrained")
    return figure, [figure.add_subplot(down, across, i + 1) for i in range(count)]


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write each figure as ``folder/NAME.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)


def svg(figure: Figure) -> str:
    """The figure as an inline SVG element."""
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dipod"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def dress(axes: Axes, title: str, label: str) -> None:
    """The house style of a panel."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_ylabel(label, fontsize=9)
    axes.set_xlabel("update", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw(axes: Axes, panel: Panel, looks: Sequence[Look], legend: bool = True) -> None:
    dress(axes, panel.title, panel.unit)
    axes.set_xlabel(panel.across, fontsize=9)
    up, across = vertical(panel), horizontal(panel)
    if panel.log:
        axes.set_yscale("function", functions=_functions(up))
    axes.set_yticks(up.ticks(), tick_texts(up.ticks()))
    axes.minorticks_off()
    axes.set_ylim(up.low, up.high)
    axes.set_xlim(across.low, across.high)
    if panel.ticks:
        axes.set_xticks([at for at, _ in panel.ticks], [text for _, text in panel.ticks])
    least = up.low if panel.log else -inf
    for series in panel.series:
        look = looks[series.place]
        dash: Any = (0, tuple(float(part) / THICK for part in look.dash.split())) if look.dash else "-"
        style: dict[str, Any] = {"color": look.light, "linestyle": "-" if panel.ticks else dash}
        if series.low:
            band = _raised(series.low, least), _raised(series.high, least)
            axes.fill_between(series.middle.x, *band, color=look.light, alpha=0.13, linewidth=0)
        for run in series.runs if len(series.runs) > 1 or not series.middle.x else ():
            if panel.ticks:
                axes.plot(
                    run.x, _raised(run.y, least), "o", color=look.light, markersize=4, alpha=0.55, markeredgewidth=0
                )
            else:
                axes.plot(run.x, _raised(run.y, least), linewidth=0.6, alpha=0.4, **style)
        axes.plot(series.middle.x, _raised(series.middle.y, least), linewidth=THICK, label=series.label, **style)
    if legend and len(panel.series) > 1:
        axes.legend(fontsize=8 if len(panel.series) < MANY else 6, frameon=False, ncols=1 + (len(panel.series) >= MANY))


def _functions(axis: Axis) -> tuple[Any, Any]:
    """`Axis.forward` and back, for arrays."""

    def forward(values: Any) -> Any:
        with np.errstate(divide="ignore"):
            if not axis.linear:
                return np.log10(np.maximum(values, axis.low * 1e-3))
            size = np.abs(values) / axis.linear
            far = axis.near + np.log10(np.maximum(size, 1.0))
        return np.sign(values) * np.where(size <= 1, axis.near * size, far)

    def back(places: Any) -> Any:
        if not axis.linear:
            return 10.0 ** np.asarray(places)
        size = np.abs(places)
        near = size / axis.near if axis.near else size
        return np.sign(places) * axis.linear * np.where(size <= axis.near, near, 10.0 ** (size - axis.near))

    return forward, back


def _raised(values: Iterable[float], least: float) -> list[float]:
    """Values of at least ``least``: a logarithmic axis has lower ones at its edge instead of leaving them out."""
    return [max(value, least) for value in values]
