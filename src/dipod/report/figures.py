"""Curves: one panel a metric, one colour an algorithm, a thin line for each seed and a thick one for their median."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dipod.control.config import ControlConfig
from dipod.report.data import Run, by_algorithm

COLOURS = ("#c2410c", "#0369a1", "#7e22ce", "#15803d", "#be123c", "#0e7490", "#a16207", "#4338ca")
PANELS = {
    "reward": ("Reward", "mean reward of the rollouts"),
    "episode_length": ("Episode length", "steps, mean of the last finished ones"),
    "reward_sampled": ("Return, sampled actions", "of whole episodes, held out"),
    "reward_greedy": ("Return, zero-noise actions", "of whole episodes, held out"),
    "solved_sampled": ("Solved, sampled", "share of held-out problems"),
    "solved_greedy": ("Solved, greedy", "share of held-out problems"),
    "gap": ("Gap, log π − ELBO", "nats, on-policy, held out"),
    "cosine": ("Proxy against true gradient", "cosine of the angle"),
    "elbo": ("ELBO of the policy's samples", "nats"),
    "log_prob": ("Log-density of the policy's samples", "nats"),
    "cfm_loss": ("Flow-matching loss", "mean over dimensions"),
    "beta": ("β in force", "advantage units"),
    "clip_fraction_positive": ("Clipped, A > 0", "share of rollouts"),
    "clip_fraction_negative": ("Clipped, A < 0", "share of rollouts"),
    "grad_norm": ("Gradient norm", "before clipping"),
}
SOLVING = ("solved_sampled", "solved_greedy", "gap", "cosine")
NOISY = {"reward": 10, "grad_norm": 10}
"""Metrics of single steps, shown as a running mean over so many."""


def curves(found: Sequence[Run]) -> dict[str, Figure]:
    """A figure for each metric that at least one run measured more than once."""
    figures: dict[str, Figure] = {}
    for key in _measured(found, PANELS):
        figure = Figure(figsize=(5.0, 3.1), layout="constrained")
        _draw(figure.add_subplot(), key, found)
        figures[key] = figure
    return figures


def overview(found: Sequence[Run]) -> dict[str, Figure]:
    """What matters most side by side, as ``overview``; nothing where nothing was measured twice."""
    control = isinstance(found[0].config, ControlConfig)
    wanted = ("reward", "reward_greedy", "episode_length", "gap") if control else SOLVING
    keys = _measured(found, wanted)
    if not keys:
        return {}
    figure = Figure(figsize=(4.0 * len(keys), 3.3), layout="constrained")
    for i, key in enumerate(keys):
        axes = figure.add_subplot(1, len(keys), i + 1)
        _draw(axes, key, found, legend=i == 0)
    return {"overview": figure}


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


def _measured(found: Sequence[Run], keys: Iterable[str]) -> list[str]:
    return [key for key in keys if any(len(run.curve(key)[0]) > 1 for run in found)]


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Colour of an algorithm, and a dashed line for a bare estimator next to its tightened self."""
    bare = "+" not in name and any(other.startswith(f"{name}+") for other in names)
    return {"color": COLOURS[list(names).index(name) % len(COLOURS)], "linestyle": "--" if bare else "-"}


def _draw(axes: Axes, key: str, found: Sequence[Run], legend: bool = True) -> None:
    """One metric of all runs."""
    dress(axes, *PANELS[key])
    groups = by_algorithm(found)
    for name, group in groups.items():
        look = _style(name, list(groups))
        lines = [_smooth(*run.curve(key), NOISY.get(key, 1)) for run in group if run.curve(key)[0]]
        if not lines:
            continue
        if len(lines) > 1:
            for steps, values in lines:
                axes.plot(steps, values, linewidth=0.7, alpha=0.4, **look)
        common = sorted(set.intersection(*(set(steps) for steps, _ in lines)))
        at = [dict(zip(steps, values, strict=True)) for steps, values in lines]
        axes.plot(common, [median(line[s] for line in at) for s in common], linewidth=1.8, label=name, **look)
    if key in ("solved_sampled", "solved_greedy"):
        axes.set_ylim(-0.02, 1.02)
    if key == "cosine":
        axes.set_ylim(top=1.02)
    if key == "gap" and len(groups) > 1:
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(bottom=0)
    if legend and len(groups) > 1:
        axes.legend(fontsize=8, frameon=False)


def _smooth(steps: list[int], values: list[float], window: int) -> tuple[list[int], list[float]]:
    """Running mean over the last ``window`` values."""
    smooth = [sum(values[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in range(len(values))]
    return steps, smooth
