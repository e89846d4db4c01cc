"""What policies do under decoders that they were not trained with: tables, a heat map, a page and JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dipod.decoders import HOWS, How
from dipod.files import make_folder, write_json, write_text
from dipod.flexibility import Flexibility, Row
from dipod.visible import escape

Groups = dict[str, list[Flexibility]]
TITLES: dict[How, str] = {"sampled": "temperature 1", "greedy": "temperature 0"}
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.soft { opacity: .75; font-size: .9rem; } .wide { overflow-x: auto; } img { width: 100%; background: white; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .8rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
"""
CAPTION = (
    "Lost is the share solved by the decoder that a policy was trained with, minus that of the row, at the same "
    "temperature, in points; below zero it is a gain. A row with a part given is an easier problem."
)


def by_policy(found: Sequence[Flexibility]) -> Groups:
    """Measurements of each policy, in the order in which they came."""
    return {name: [one for one in found if one.policy == name] for name in dict.fromkeys(one.policy for one in found)}


def decoders(found: Sequence[Flexibility]) -> dict[str, str]:
    """Names and labels of all rows, in order."""
    return {row.name: row.label for one in found for row in one.rows}


def middle(group: Sequence[Flexibility], name: str, how: How, loss: bool = False) -> float | None:
    """Median over seeds of the share solved by a decoder, or of its loss; None where none was measured."""
    values = [one.loss(name, how) if loss else _solved(one, name, how) for one in group]
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _solved(one: Flexibility, name: str, how: How) -> float | None:
    row = one.row(name)
    return None if row is None else row.solved[how]


def as_json(found: Sequence[Flexibility]) -> dict[str, Any]:
    """Every measurement, and the medians over seeds."""
    groups, names = by_policy(found), decoders(found)
    return {
        "measurements": [
            {
                **{key: getattr(one, key) for key in ("policy", "seed", "step", "source", "gap", "trained")},
                "rows": [_row_json(one, row) for row in one.rows],
            }
            for one in found
        ],
        "medians": {
            policy: {
                name: {
                    **{f"solved_{how}": middle(group, name, how) for how in HOWS},
                    **{f"loss_{how}": middle(group, name, how, loss=True) for how in HOWS},
                }
                for name in names
                if middle(group, name, "sampled") is not None
            }
            for policy, group in groups.items()
        },
    }


def _row_json(one: Flexibility, row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {"decoder": row.name, "label": row.label}
    for how in HOWS:
        loss = one.loss(row.name, how)
        values |= {f"solved_{how}": row.solved[how], f"reward_{how}": row.reward[how], f"loss_{how}": loss}
    return values


def table(found: Sequence[Flexibility], how: How) -> list[list[str]]:
    """Percent solved: a head, then a row for each decoder; seeds in order, and their median behind a bar."""
    groups = by_policy(found)
    rows = [[label, *(_cell(each, name, how) for each in groups.values())] for name, label in decoders(found).items()]
    return [["decoder", *groups], *rows]


def _cell(group: Sequence[Flexibility], name: str, how: How) -> str:
    value = middle(group, name, how)
    if value is None:
        return ""
    seeds = [_solved(one, name, how) for one in group]
    each = " ".join("-" if share is None else f"{100 * share:.1f}" for share in seeds)
    return f"{100 * value:.1f}" if len(group) == 1 else f"{each} | {100 * value:.1f}"


def text(found: Sequence[Flexibility]) -> str:
    """Both tables for a terminal."""
    parts = []
    for how in HOWS:
        rows = table(found, how)
        rows[0][0] = f"solved, %, {TITLES[how]}"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]).rstrip() for r in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def sentence(found: Sequence[Flexibility]) -> str:
    """What each policy solves at temperature 1: as trained, in other orders, with several tokens a step."""
    clauses = []
    for policy, group in by_policy(found).items():
        own = median(solved for one in group if (solved := _solved(one, one.trained, "sampled")) is not None)
        clause = f"{policy} solves {100 * own:.1f} % as trained"
        for several, words in ((False, "in other orders or blocks"), (True, "with several tokens a step")):
            names = [n for n in decoders(found) if ("/tokens" in n) == several and not n.startswith("infill")]
            names = [n for n in names if n not in {one.trained for one in group}]
            shares = [share for n in names if (share := middle(group, n, "sampled")) is not None]
            if shares:
                ends = dict.fromkeys(f"{100 * share:.1f}" for share in (min(shares), max(shares)))
                clause += f", {' to '.join(ends)} % {words}"
        clauses.append(clause)
    return "; ".join(clauses) + "."


def heat_map(found: Sequence[Flexibility]) -> Figure:
    """Medians over seeds: decoders against policies, share solved above and loss below, sampled and greedy."""
    groups, names = by_policy(found), decoders(found)
    width, height = 2.6 + 2 * max(0.5 * len(groups), 2.6), 1.8 + 2 * 0.28 * len(names)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True, squeeze=False)
    for i, loss in enumerate((False, True)):
        for j, how in enumerate(HOWS):
            values = [[middle(group, name, how, loss) for group in groups.values()] for name in names]
            _panel(panels[i][j], values, loss)
            title = "Lost, points" if loss else "Solved, %"
            panels[i][j].set_title(f"{title}, {TITLES[how]}", loc="left", fontsize=11, fontweight="bold")
            panels[i][j].set_xticks(range(len(groups)), list(groups), fontsize=9, rotation=35, ha="right")
            panels[i][j].set_yticks(range(len(names)), list(names.values()), fontsize=9)
    return figure


def _panel(axes: Axes, values: Sequence[Sequence[float | None]], loss: bool) -> None:
    """Shares as coloured cells with their percent, nothing where none was measured."""
    percent = [[float("nan") if value is None else 100 * value for value in row] for row in values]
    if loss:
        axes.imshow(percent, aspect="auto", cmap="RdBu_r", vmin=-100, vmax=100)
    else:
        axes.imshow(percent, aspect="auto", cmap="Greens", vmin=0, vmax=140)
    for y, row in enumerate(percent):
        for x, share in enumerate(row):
            if not math.isnan(share):
                axes.text(x, y, f"{round(share):d}", ha="center", va="center", fontsize=9)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def write(found: Sequence[Flexibility], about: dict[str, Any], out: Path) -> list[Path]:
    """Write ``flexibility.json``, ``flexibility.png`` and ``flexibility.html`` into ``out``; returns their paths.

    Args:
        found: what was measured.
        about: what else belongs to the numbers: problems, seed, task.
        out: made if need be.

    Raises:
        UserError: ``out`` cannot be written.
    """
    make_folder(out)
    paths = [out / f"flexibility.{ending}" for ending in ("json", "png", "html")]
    write_json(paths[0], {**about, **as_json(found)})
    heat_map(found).savefig(paths[1], dpi=150)
    picture = base64.b64encode(paths[1].read_bytes()).decode()
    facts = ", ".join(f"{key} {value}" for key, value in about.items())
    body = [
        "<h1>Other decoders than in training</h1>",
        f"<p>{escape(sentence(found))}</p>",
        f'<p class="soft">{escape(facts)}. Medians over seeds. {escape(CAPTION)}</p>',
        f'<img alt="decoders against policies" src="data:image/png;base64,{picture}">',
        *(f"<h2>Solved, %, {TITLES[how]}</h2>{_html(table(found, how))}" for how in HOWS),
        "<h2>Measured</h2>",
        _html(_sources(found)),
    ]
    head = (
        '<meta charset="utf-8"><title>Other decoders than in training</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style>"
    )
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"
    write_text(paths[2], page)
    return paths


def _sources(found: Sequence[Flexibility]) -> list[list[str]]:
    rows = [["policy", "seed", "updates", "gap, nats", "checkpoint"]]
    for one in found:
        gap = "" if one.gap is None else f"{one.gap:.3f}"
        rows.append([one.policy, str(one.seed), str(one.step), gap, one.source])
    return rows


def _html(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def _tagged(rows: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return [("td" if i else "th", row) for i, row in enumerate(rows)]
