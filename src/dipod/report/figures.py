"""Panels as matplotlib figures, for files: one hue a label, a band over its seeds, a thin line a run."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dipod.report.palette import LIGHT, Look
from dipod.report.panels import Panel
from dipod.report.svg import horizontal, tick_text, vertical

COLOURS = LIGHT
OVERVIEW = ("solved_sampled", "solved_greedy", "reward", "reward_greedy", "episode_length", "gap", "cosine")
THICK = 1.8
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
    if not panels:
        return {}
    figure = Figure(figsize=(4.0 * len(panels), 3.5), layout="constrained")
    for i, panel in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), i + 1), panel, looks, legend=False)
    if len(panels[0].series) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=MANY, fontsize=9, frameon=False)
    return {name: figure}


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
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw(axes: Axes, panel: Panel, looks: Sequence[Look], legend: bool = True) -> None:
    dress(axes, panel.title, panel.unit)
    axes.set_xlabel(panel.across, fontsize=9)
    up, across = vertical(panel), horizontal(panel)
    if panel.log:
        axes.set_yscale("log")
        axes.set_yticks(up.ticks(), [tick_text(value) for value in up.ticks()])
        axes.minorticks_off()
    axes.set_ylim(up.low, up.high)
    axes.set_xlim(across.low, across.high)
    if panel.ticks:
        axes.set_xticks([at for at, _ in panel.ticks], [text for _, text in panel.ticks])
    least = up.low if panel.log else float("-inf")
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


def _raised(values: Iterable[float], least: float) -> list[float]:
    """Values of at least ``least``: a logarithmic axis has lower ones at its edge instead of leaving them out."""
    return [max(value, least) for value in values]
