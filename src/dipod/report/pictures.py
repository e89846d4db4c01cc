"""Drawings of environments, and paths of a policy, as pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle as Disc
from numpy.typing import NDArray

from dipod.control.play import Paths
from dipod.tasks.control import Drawing, MultiGoal
from dipod.tasks.control.protocol import Role

Pixels = NDArray[np.uint8]
ROLES: dict[Role, str] = {"body": "#0369a1", "target": "#ea580c", "scene": "#9ca3af"}
SIZE, DPI = 4.8, 100
POINTS_PER_INCH = 72
HAIRLINES: dict[Role, float] = {"body": 1.8, "target": 3.5, "scene": 1.2}
"""Widths in points of lines that have none of their own; targets show from behind the body."""


class Canvas:
    """Draws one `Drawing` after another in one size.

    Args:
        first: whose bounds say how high the picture is for its width.
    """

    def __init__(self, first: Drawing) -> None:
        left, right, bottom, top = first.bounds
        ratio = (top - bottom) / (right - left) if first.equal else 0.6
        self.figure = Figure(figsize=(SIZE, _even(SIZE * min(max(ratio, 0.4), 1.2) + 0.3)), dpi=DPI)
        self.canvas: Any = FigureCanvasAgg(self.figure)

    def draw(self, drawing: Drawing, caption: str) -> Pixels:
        """[height, width, 3]."""
        self.figure.clear()
        axes = self.figure.add_axes((0.02, 0.02, 0.96, 0.9))
        draw(axes, drawing)
        axes.set_title(caption, loc="left", fontsize=9, family="monospace")
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


def draw(axes: Axes, drawing: Drawing) -> None:
    """Put a drawing into axes."""
    left, right, bottom, top = drawing.bounds
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal" if drawing.equal else "auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#d1d5db")
    height, width = axes.bbox.height, axes.bbox.width
    scale = min(width / (right - left), height / (top - bottom)) * POINTS_PER_INCH / axes.figure.dpi
    for line in drawing.lines:
        x, y = line.points.double().T.tolist()
        thick = max(line.width * scale, HAIRLINES[line.role])
        alpha = 0.55 if line.role == "target" else 1.0
        axes.plot(x, y, color=ROLES[line.role], linewidth=thick, alpha=alpha, solid_capstyle="round")
    for circle in drawing.circles:
        cx, cy = circle.centre.tolist()
        alpha = 0.45 if circle.role == "target" else 1.0
        axes.add_patch(Disc((cx, cy), circle.radius, color=ROLES[circle.role], alpha=alpha, zorder=3))


def paths_figure(task: MultiGoal, panels: Mapping[str, Paths]) -> Figure:
    """Paths in the plane, a panel each, coloured by the goal that they reached, with the goals' shares of all paths."""
    figure = Figure(figsize=(4.4 * len(panels), 4.9), layout="constrained", dpi=DPI)
    for i, (title, found) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        draw(axes, Drawing((-task.arena, task.arena, -task.arena, task.arena)))
        axes.set_title(f"{title}: {_reached(found, task.goal_count)}", loc="left", fontsize=10, fontweight="bold")
        for points, goal in zip(found.points, found.goals, strict=True):
            colour = f"C{goal % 10}" if goal >= 0 else ROLES["scene"]
            axes.plot(*points.T.tolist(), color=colour, linewidth=0.8, alpha=0.5)
        for goal, centre in enumerate(task.goals.tolist()):
            colour, share = f"C{goal % 10}", found.goals.count(goal) / len(found.goals)
            axes.add_patch(Disc((centre[0], centre[1]), task.reach, color=colour, alpha=0.3, linewidth=0))
            x, y = (1 + 1.8 * task.reach / task.radius) * centre[0], (1 + 1.8 * task.reach / task.radius) * centre[1]
            axes.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=9, color=colour)
    return figure


def _reached(found: Paths, goals: int) -> str:
    arrived = [goal for goal in found.goals if goal >= 0]
    return f"{len(arrived) / len(found.goals):.0%} arrive, at {len(set(arrived))} of {goals} goals"


def _even(inches: float) -> float:
    """The nearest height of an even number of pixels, which video formats want."""
    return 2 * round(inches * DPI / 2) / DPI
