"""The HTML page: what happened, the curves, the numbers, a few boards before and after, and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from dipod.control.config import ControlConfig
from dipod.files import make_folder, write_text
from dipod.recipes import to_yaml
from dipod.report.data import Run, by_algorithm, middle, read_runs, sentence
from dipod.report.figures import curves, overview, save, svg

COLUMNS = {
    "solved_sampled": ("solved, sampled", "{:.1%}"),
    "solved_greedy": ("solved, greedy", "{:.1%}"),
    "gap": ("gap, nats", "{:.3f}"),
    "elbo": ("ELBO, nats", "{:.2f}"),
    "cosine": ("cosine", "{:.3f}"),
    "reward": ("reward", "{:.3f}"),
    "episode_length": ("length", "{:.0f}"),
    "reward_sampled": ("return, sampled", "{:.3f}"),
    "reward_greedy": ("return, zero noise", "{:.3f}"),
    "transitions": ("transitions", "{:,.0f}"),
}

STYLE = """
:root { color-scheme: light; --ink: #1c1917; --soft: #78716c; --line: #e7e5e4; --good: #dcfce7; --bad: #fee2e2; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .3rem; } h2 { font-size: 1.05rem; margin-top: 2.2rem; }
.lead { font-size: 1.1rem; max-width: 62rem; } .soft { color: var(--soft); font-size: .9rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1rem; }
.curves svg { width: 100%; height: auto; }
table.numbers { border-collapse: collapse; } table.numbers th { text-align: right; font-weight: 600; }
table.numbers td, table.numbers th { padding: .25rem .8rem; border-bottom: 1px solid var(--line); }
table.numbers td { text-align: right; font-variant-numeric: tabular-nums; }
table.numbers td:first-child, table.numbers th:first-child { text-align: left; }
tr.median td { font-weight: 600; }
.boards { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; text-align: center; }
figcaption { font-size: .8rem; color: var(--soft); }
table.board { border-collapse: collapse; border: 2px solid var(--ink); margin: auto; }
table.board td { width: 1.7rem; height: 1.7rem; text-align: center; border: 1px solid #d6d3d1; }
table.board td:nth-child(2) { border-right: 2px solid var(--ink); }
table.board tr:nth-child(2) td { border-bottom: 2px solid var(--ink); }
td.clue { font-weight: 700; } td.right { background: var(--good); } td.wrong { background: var(--bad); }
table.texts td { text-align: left; white-space: pre-wrap; } .text { margin-bottom: 1.4rem; }
pre { background: #fafaf9; border: 1px solid var(--line); padding: .8rem; overflow: auto; font-size: .8rem; }
"""


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` for some runs into ``out``; returns the page's path.

    Args:
        folders: run folders, or folders of comparisons.
        out: made if need be.

    Raises:
        UserError: a folder without a run, or ``out`` cannot be written.
    """
    found = read_runs(folders)
    make_folder(out)
    figures = curves(found)
    save({**figures, **overview(found)}, out / "figures")
    title = " · ".join(by_algorithm(found)) + f" on {found[0].config.recipe}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(sentence(found))}</p>',
        "<h2>Curves</h2>",
        _caption(found),
        f'<div class="curves">{"".join(svg(figure) for figure in figures.values())}</div>',
        "<h2>At the end</h2>",
        _numbers(found),
        _examples(found[0]),
        "<h2>Settings</h2>",
        _settings(found),
    ]
    body = "\n".join(sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def _caption(found: Sequence[Run]) -> str:
    seeds = len({run.config.seed for run in found})
    many = f"Thin lines are the {seeds} seeds, thick lines their median. " if seeds > 1 else ""
    kinds = {row["gap_kind"] for run in found for row in run.metrics if "gap_kind" in row}
    if isinstance(found[0].config, ControlConfig):
        return (
            f'<p class="soft">{many}The gap is exact: the log-density of the Euler sampler minus the ELBO, on one own '
            f"action for each of a batch of states, perturbation aside; t0 = {found[0].config.objective.cutoff}.</p>"
        )
    gap = "exact" if kinds == {"exact"} else "an importance-weighted lower bound of the true gap"
    return (
        f'<p class="soft">{many}The gap is {gap}, on samples for held-out problems. The cosine compares the '
        "estimator's gradient (without the β term) with the true policy gradient on the same rollouts, both free of "
        "corruption noise; 1 means no drift.</p>"
    )


def _numbers(found: Sequence[Run]) -> str:
    columns = [key for key in COLUMNS if _shown(key, found)]
    head = "".join(f"<th>{escape(COLUMNS[key][0])}</th>" for key in columns)
    rows = []
    for name, group in by_algorithm(found).items():
        for run in group:
            rows.append(_row(f"{name}, seed {run.config.seed}", run.steps, {key: run.last(key) for key in columns}))
        if len(group) > 1:
            values = {key: middle(group, key) for key in columns}
            rows.append(_row(f"{name}, median", group[0].steps, values, "median"))
    return f'<table class="numbers"><tr><th>run</th><th>updates</th>{head}</tr>{"".join(rows)}</table>'


def _shown(key: str, found: Sequence[Run]) -> bool:
    """Whether a column is worth its place: measured, and not said by solved shares already."""
    solves = any(run.last("solved_sampled") is not None for run in found)
    return any(run.last(key) is not None for run in found) and not (
        solves and key in ("reward_sampled", "reward_greedy")
    )


def _row(name: str, steps: int, values: dict[str, float | None], kind: str = "") -> str:
    cells = "".join(
        f"<td>{'' if value is None else COLUMNS[key][1].format(value)}</td>" for key, value in values.items()
    )
    return f'<tr class="{kind}"><td>{escape(name)}</td><td>{steps}</td>{cells}</tr>'


def _examples(run: Run) -> str:
    """The kept problems before and after: boards with clues bold, filled cells green or red; or texts."""
    stages = [stage for stage in ("before", "after") if stage in run.samples]
    if not stages:
        return ""
    draw = _boards if "puzzle" in run.samples[stages[0]][0] else _texts
    title = f"<h2>Before and after: {escape(run.config.algorithm)}, seed {run.config.seed}</h2>"
    return title + "".join(draw(run, stages, i) for i in range(len(run.samples[stages[0]])))


def _boards(run: Run, stages: Sequence[str], i: int) -> str:
    figures = [
        _board(run.samples[stage][i], decoding, f"{stage}, {decoding}")
        for stage in stages
        for decoding in ("sampled", "greedy")
    ]
    return f'<div class="boards">{"".join(figures)}</div><br>'


def _texts(run: Run, stages: Sequence[str], i: int) -> str:
    problem = run.samples[stages[0]][i]
    rows = [
        f"<tr><td>{escape(f'{stage}, {decoding}')}</td><td>{escape(run.samples[stage][i][decoding])}</td></tr>"
        for stage in stages
        for decoding in ("sampled", "greedy")
    ]
    asked = f'<p>{escape(problem["prompt"])}</p><p class="soft">reference: {escape(str(problem["reference"]))}</p>'
    return f'<div class="text">{asked}<table class="numbers texts">{"".join(rows)}</table></div>'


def _board(board: dict[str, Any], decoding: str, caption: str) -> str:
    cells = []
    for clue, digit, solution in zip(board["puzzle"], board[decoding], board["solution"], strict=True):
        kind = "clue" if clue else "right" if digit == solution else "wrong"
        cells.append(f'<td class="{kind}">{digit}</td>')
    rows = "".join(f"<tr>{''.join(cells[4 * r : 4 * r + 4])}</tr>" for r in range(4))
    return f'<figure><table class="board">{rows}</table><figcaption>{escape(caption)}</figcaption></figure>'


def _settings(found: Sequence[Run]) -> str:
    """The first run's settings, and which of them differ between the runs."""
    settings = [_flat(asdict(run.config)) for run in found]
    varied = [key for key in settings[0] if len({str(s[key]) for s in settings}) > 1 and key != "base"]
    note = f'<p class="soft">Between the runs differ: {escape(", ".join(varied))}.</p>' if varied else ""
    return f"{note}<details><summary>All settings</summary><pre>{escape(to_yaml(found[0].config))}</pre></details>"


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat
