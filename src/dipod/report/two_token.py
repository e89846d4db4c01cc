"""The figure of the two-token experiment: the gap (the paper's Figure 2) and the angle that it does not show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipod.report.figures import THICK, dress, sheet
from dipod.report.labels import Label
from dipod.report.palette import looks
from dipod.two_token import History

PANELS = (
    ("gap", "Gap, E[log π − ELBO]", "nats"),
    ("cosine", "Proxy against true gradient", "cosine of the angle"),
    ("expected_return", "Expected return", "reward"),
)


def write_figure(histories: Mapping[str, History], out: Path) -> Path:
    """Write ``two_token.png`` into ``out``; returns its path."""
    figure, places = sheet(len(PANELS))
    named = [name for name in histories if name != "pg"]
    styles = dict(zip(named, looks([Label(name) for name in named]), strict=True))
    for axes, (key, title, label) in zip(places, PANELS, strict=True):
        for name, history in histories.items():
            colour, dash = (styles[name].light, styles[name].dash) if name in styles else ("#1c1917", "")
            stroke: Any = (0, tuple(float(part) / THICK for part in dash.split())) if dash else "-"
            axes.plot(getattr(history, key), linestyle=stroke, color=colour, linewidth=THICK, label=name)
        dress(axes, title, label)
    handles, names = places[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    path = out / "two_token.png"
    figure.savefig(path, dpi=150)
    return path
