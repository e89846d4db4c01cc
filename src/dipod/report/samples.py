"""Problems and their completions before and after: boards with clues bold and filled cells marked, or texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from dipod.report.data import Run
from dipod.visible import escape

DECODINGS = ("sampled", "greedy")


def examples(groups: Mapping[str, Sequence[Run]]) -> str:
    """The kept problems of each label's first run, the first label's open."""
    shown = {name: group[0] for name, group in groups.items() if group[0].samples.get("before")}
    parts = [
        f"<details{'' if i else ' open'}><summary>{escape(name)}, seed {run.config.seed}</summary>{_of(run)}</details>"
        for i, (name, run) in enumerate(shown.items())
    ]
    return f'<section id="samples"><h2>Before and after</h2>{"".join(parts)}</section>' if parts else ""


def _of(run: Run) -> str:
    stages = [stage for stage in ("before", "after") if stage in run.samples]
    draw = _boards if "puzzle" in run.samples["before"][0] else _texts
    return "".join(draw(run, stages, i) for i in range(len(run.samples["before"])))


def _boards(run: Run, stages: Sequence[str], i: int) -> str:
    figures = [
        _board(run.samples[stage][i], decoding, f"{stage}, {decoding}") for stage in stages for decoding in DECODINGS
    ]
    return f'<div class="boards">{"".join(figures)}</div>'


def _board(board: dict[str, Any], decoding: str, caption: str) -> str:
    cells = []
    for clue, digit, solution in zip(board["puzzle"], board[decoding], board["solution"], strict=True):
        kind = "clue" if clue else "right" if digit == solution else "wrong"
        cells.append(f'<td class="{kind}">{escape(str(digit))}</td>')
    side = isqrt(len(cells))
    rows = "".join(f"<tr>{''.join(cells[side * r : side * (r + 1)])}</tr>" for r in range(side))
    return f'<figure><table class="board">{rows}</table><figcaption>{escape(caption)}</figcaption></figure>'


def _texts(run: Run, stages: Sequence[str], i: int) -> str:
    problem = run.samples[stages[0]][i]
    rows = [
        f'<tr><th scope="row">{stage}, {decoding}</th><td>{escape(str(run.samples[stage][i][decoding]))}</td></tr>'
        for stage in stages
        for decoding in DECODINGS
    ]
    asked = f'<p>{escape(str(problem["prompt"]))}</p><p class="soft">reference: {escape(str(problem["reference"]))}</p>'
    return f'<div class="text">{asked}<div class="scroll"><table class="texts">{"".join(rows)}</table></div></div>'
