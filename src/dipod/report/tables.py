"""Tables of final numbers: medians by label and every run, sortable by the page's script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from dipod.config import RunConfig
from dipod.report.bound import at_last
from dipod.report.data import Run, median_of
from dipod.report.labels import flat, value_text
from dipod.report.metrics import ENTROPIES, GAPS
from dipod.report.wording import kind_words, per_token
from dipod.visible import escape

COLUMNS = {
    "solved_sampled": ("solved, sampled", "{:.1%}"),
    "solved_greedy": ("solved, greedy", "{:.1%}"),
    "gap": ("gap, nats", "{:.3f}"),
    "gap_per_token": ("gap, nats a token", "{:.4f}"),
    "cosine": ("cosine, estimator", "{:.3f}"),
    "update_cosine": ("cosine, update as made", "{:.3f}"),
    "entropy": ("entropy, nats", "{:.3f}"),
    "unique_share": ("unique actions", "{:.1%}"),
    "monitor_gap": ("gap in the loop, nats", "{:.3f}"),
    "monitor_cosine": ("cosine in the loop, estimator", "{:.3f}"),
    "monitor_update_cosine": ("cosine in the loop, update as made", "{:.3f}"),
    "monitor_entropy": ("entropy in the loop, nats", "{:.3f}"),
    "monitor_drift_share": ("gap part of the gradient", "{:.2f}"),
    "elbo": ("ELBO, nats", "{:.2f}"),
    "reward": ("reward", "{:.3f}"),
    "episode_length": ("length", "{:.0f}"),
    "reward_sampled": ("return, sampled", "{:.3f}"),
    "reward_greedy": ("return, zero noise", "{:.3f}"),
    "success": ("success, training", "{:.1%}"),
    "success_sampled": ("success, sampled", "{:.1%}"),
    "success_greedy": ("success, zero noise", "{:.1%}"),
    "environment_errors": ("environment errors, last iteration", "{:.0f}"),
    "transitions": ("transitions", "{:,.0f}"),
}
UNSHOWN_SETTINGS = ("seed", "base", "recipe", "threads")


CONTROL_HEADS = {"reward": "return, training"}


@dataclass(frozen=True)
class Cell:
    """What a cell shows and what it is sorted by.

    Attributes:
        text: for people.
        key: a number or a text; empty for a cell without a value, which comes last.
        more: a second, smaller line.
    """

    text: str
    key: str
    more: str = ""


def finals(groups: Mapping[str, Sequence[Run]]) -> str:
    """The last numbers of every label (medians over its seeds) and of every run, as HTML."""
    every = [run for group in groups.values() for run in group]
    columns = [key for key in COLUMNS if _shown(key, every)]
    heads = ["run", "updates", *(_head(key, every) for key in columns)]
    rows = [
        [_name(f"{name}, seed {run.config.seed}"), _cell("{:d}", run.steps), *(_value(key, [run]) for key in columns)]
        for name, group in groups.items()
        for run in group
    ]
    each = table("Every run, last numbers", heads, rows)
    if all(len(group) < 2 for group in groups.values()):
        return each
    seeds = [[_name(name), _cell("{:d}", len(group))] for name, group in groups.items()]
    values = [[_value(key, group) for key in columns] for group in groups.values()]
    medians = [first + rest for first, rest in zip(seeds, values, strict=True)]
    whole = table(
        "Medians over seeds, last numbers; below, the least and the greatest", ["", "seeds", *heads[2:]], medians
    )
    return whole + each


def differences(groups: Mapping[str, Sequence[Run]]) -> str:
    """The settings in which labels differ, as a table; empty if they do in none."""
    trees = {name: flat(group[0].config) for name, group in groups.items()}
    paths = dict.fromkeys(path for tree in trees.values() for path in tree if path not in UNSHOWN_SETTINGS)
    varied = [path for path in paths if len({value_text(tree.get(path, "")) for tree in trees.values()}) > 1]
    rows = [[_name(path), *(_text(value_text(tree.get(path, ""))) for tree in trees.values())] for path in varied]
    return table("Settings that differ", ["setting", *trees], rows) if rows else ""


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in a box that scrolls; a click on a head sorts by its column."""
    top = "".join(f'<th scope="col" aria-sort="none"><button>{escape(head)}</button></th>' for head in heads)
    body = "".join(f"<tr>{''.join(_td(cell, i == 0) for i, cell in enumerate(row))}</tr>" for row in rows)
    box = f'<p class="soft">{escape(caption)}</p><div class="scroll" tabindex="0" role="region"'
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'{box} aria-label="{escape(caption)}"><table class="numbers sortable">{inside}</table></div>'


def _td(cell: Cell, head: bool) -> str:
    more = f"<small>{escape(cell.more)}</small>" if cell.more else ""
    kind = ("th", ' scope="row"') if head else ("td", "")
    return f'<{kind[0]}{kind[1]} data-key="{escape(cell.key)}">{escape(cell.text)}{more}</{kind[0]}>'


def _name(text: str) -> Cell:
    return Cell(text, text)


def _text(text: str) -> Cell:
    try:
        return Cell(text, repr(float(text)))
    except ValueError:
        return Cell(text, text)


def _cell(form: str, value: float) -> Cell:
    return Cell(form.format(value), f"{value!r}" if isfinite(value) else "")


def _value(key: str, group: Sequence[Run]) -> Cell:
    """The median of the last values, and their ends."""
    values = [per_token(run) if key == "gap_per_token" else run.last(key) for run in group]
    there = sorted(value for value in values if value is not None)
    centre = median_of(there)
    if centre is None:
        return Cell("", "")
    form = COLUMNS[key][1]
    cell = _cell(form, centre)
    ends = [form.format(there[0]), form.format(there[-1])]
    more = [" to ".join(ends) if ends[0] != ends[1] else ""] if len(group) > 1 else [_doubt(key, group, form)]
    if key.startswith("monitor"):
        more.append(at_last(group, key).replace("at the end", "").replace("at the last look ", ""))
    return Cell(cell.text, cell.key, " ".join(filter(None, more)))


def _doubt(key: str, group: Sequence[Run], form: str) -> str:
    """The bracket of a single run's value, or its standard error; empty if there is neither."""
    low, high, error = (median_of([run.last(f"{key}_{end}") for run in group]) for end in ("low", "high", "error"))
    if low is not None and high is not None:
        return f"{form.format(low)} to {form.format(high)}"
    return "" if error is None else f"± {form.format(error)}"


def _head(key: str, every: Sequence[Run]) -> str:
    kind = {"gap_per_token": "gap"}.get(key, key)
    unit = ""
    if key in ENTROPIES:
        unit = " a token" if isinstance(every[0].config, RunConfig) else " an action"
    measured = key in ("gap_per_token", *GAPS, *ENTROPIES)
    head = COLUMNS[key][0] if isinstance(every[0].config, RunConfig) else CONTROL_HEADS.get(key, COLUMNS[key][0])
    return head + unit + (f" ({kind_words(every, kind)})" if measured else "")


def _shown(key: str, every: Sequence[Run]) -> bool:
    """Whether a column is worth its place: measured, and not said by solved shares already."""
    if key == "gap_per_token":
        return any(per_token(run) is not None for run in every)
    solves = any(run.last("solved_sampled") is not None for run in every)
    said = solves and key in ("reward_sampled", "reward_greedy")
    return not said and any(run.last(key) is not None for run in every)
