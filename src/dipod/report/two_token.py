"""The figure of the two-token experiment: the gap (the paper's Figure 2) and the angle that it does not show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from dipod.report.figures import COLOURS, dress
from dipod.two_token import History

PANELS = (
    ("gap", "Gap, E[log π − ELBO]", "nats"),
    ("cosine", "Proxy against true gradient", "cosine of the angle"),
    ("expected_return", "Expected return", "reward"),
)


def write_figure(histories: Mapping[str, History], out: Path) -> Path:
    """Write ``two_token.png`` into ``out``; returns its path."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    bases = list(dict.fromkeys(name.partition("+")[0] for name in histories))
    for i, (key, title, label) in enumerate(PANELS):
        axes = figure.add_subplot(1, len(PANELS), i + 1)
        for name, history in histories.items():
            base, _, suffix = name.partition("+")
            dashes = {"": "--", "dipod": "-", "interleave": ":"}[suffix] if base != "pg" else "-"
            colour = "#1c1917" if base == "pg" else COLOURS[bases.index(base) - 1]
            axes.plot(getattr(history, key), dashes, color=colour, linewidth=1.7, label=name)
        dress(axes, title, label)
    figure.axes[0].legend(fontsize=8, frameon=False)
    path = out / "two_token.png"
    figure.savefig(path, dpi=150)
    return path
