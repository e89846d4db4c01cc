"""What the report is made from: runs, their curves, and what they come to in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path
from statistics import median
from typing import Any

from dipod import runs
from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.recipes import AnyConfig
from dipod.records import read_lines
from dipod.report.labels import Label, labels, swept, without

FINAL_KEYS = (
    "solved_sampled",
    "solved_greedy",
    "gap",
    "cosine",
    "update_cosine",
    "entropy",
    "unique_share",
    "elbo",
    "reward",
    "episode_length",
    "reward_sampled",
    "reward_greedy",
    "success",
    "success_sampled",
    "success_greedy",
    "transitions",
    "monitor_gap",
    "monitor_cosine",
    "monitor_update_cosine",
    "monitor_entropy",
)


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Attributes:
        folder: where it is.
        config: its settings.
        metrics: one object a step.
        samples: a few problems with their completions, "before" the first update and perhaps "after" the last.
    """

    folder: Path
    config: AnyConfig
    metrics: list[dict[str, Any]]
    samples: dict[str, Any]

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, where it was measured and is a finite number."""
        rows = self.with_number(key)
        return [row["step"] for row in rows], [row[key] for row in rows]

    def last(self, key: str) -> float | None:
        """The last value measured, or None."""
        return next((row[key] for row in reversed(self.metrics) if _number_in(row, key)), None)

    def first(self, key: str) -> float | None:
        """The first value measured, or None."""
        return next((row[key] for row in self.metrics if _number_in(row, key)), None)

    def with_number(self, key: str) -> list[dict[str, Any]]:
        """Rows in which a metric was measured and is a finite number."""
        return [row for row in self.metrics if _number_in(row, key) and isfinite(row[key])]

    def words(self, key: str) -> list[tuple[int, str]]:
        """Steps and texts of something said in words."""
        return [(row["step"], row[key]) for row in self.metrics if isinstance(row.get(key), str)]

    def summary(self) -> dict[str, Any]:
        """What a comparison's JSON keeps of a run, of the metrics in `FINAL_KEYS`.

        The last of each; those ``before`` the first update; ``curves`` of what is measured now and then, as pairs of
        step and value with six digits; and of what every update measures the ``best``, with its step.
        """
        start = next((row for row in self.metrics if row["step"] == 0), {})
        curves: dict[str, list[tuple[int, float]]] = {}
        best: dict[str, tuple[int, float]] = {}
        for key in FINAL_KEYS:
            points = [(step, float(f"{value:.6g}")) for step, value in zip(*self.curve(key), strict=True)]
            if len(points) > max(8, self.steps // 2):
                best[key] = max(points, key=lambda point: point[1])
            elif points:
                curves[key] = points
        return {
            **{key: self.last(key) for key in FINAL_KEYS if self.last(key) is not None},
            "before": {key: start[key] for key in FINAL_KEYS if _number_in(start, key)},
            "curves": curves,
            "best": best,
        }

    @property
    def steps(self) -> int:
        """Updates done."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def finished(self) -> bool:
        """Whether all updates are done."""
        return self.steps >= self.config.trainer.steps

    @property
    def tokens(self) -> float | None:
        """Tokens of an action, as measured at the last evaluation or else as the task says; None for control."""
        if not isinstance(self.config, RunConfig):
            return None
        measured = self.last("tokens")
        length: float | None = getattr(self.config.task, "completion_length", None)
        return length if measured is None else measured


def _number_in(row: dict[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int | float)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, and those inside comparison folders or the folder of one of their labels.

    Cells of a comparison that wait to start are left out.

    Raises:
        UserError: a folder without runs, or a run without metrics.
    """
    chosen: list[Path] = []
    for folder in folders:
        there = [path.parent for way in ("seed-*", "*/seed-*") for path in folder.glob(f"{way}/{runs.CONFIG}")]
        inside = sorted(path for path in there if path.parent.name != "bases")
        own = [folder] if (folder / runs.CONFIG).is_file() else inside
        if not own:
            raise UserError("run", str(folder), "no run there; give run folders or the folder of a comparison")
        begun = [path for path in own if runs.read_metrics(path)]
        if not begun:
            raise UserError("run", str(own[0]), "it has no metrics yet; let it reach its first evaluation")
        chosen += begun
    return [_read(path) for path in dict.fromkeys(chosen)]


def _read(folder: Path) -> Run:
    kept = _samples(folder / runs.COMPLETIONS)
    ends = {"before": kept[0]["rows"]} if kept else {}
    if len(kept) > 1:
        ends["after"] = kept[-1]["rows"]
    return Run(folder, runs.read_config(folder), runs.read_metrics(folder), ends)


def _samples(path: Path) -> list[dict[str, Any]]:
    """The kept problems with their completions, one object an evaluation.

    Raises:
        UserError: a file that is not what a run writes.
    """
    kept = read_lines(path)
    first = kept[0].get("rows") if kept else []
    for number, row in enumerate(kept, 1):
        rows = row.get("rows")
        right = isinstance(rows, list) and isinstance(first, list) and len(rows) == len(first)
        if not (right and all(_sample(one) for one in rows or ())):
            mend = f"line {number} does not hold the problems of the first; move the file away to go on without"
            raise UserError(path.name, f"{path}:{number}", mend)
    return kept


def _sample(row: object) -> bool:
    """Whether it is a problem with completions, on a board or as text."""
    if not isinstance(row, dict) or not {"sampled", "greedy"} <= row.keys():
        return False
    if {"puzzle", "solution"} <= row.keys():
        boards = [row[key] for key in ("puzzle", "solution", "sampled", "greedy")]
        return all(isinstance(board, list) and len(board) == len(boards[0]) for board in boards)
    return {"prompt", "reference"} <= row.keys()


def labelled(found: Sequence[Run]) -> dict[Label, list[Run]]:
    """Runs by label: estimators by name, the bare one before its tightened selves, and settings by value."""
    names = labels([(run.folder, run.config) for run in found])
    groups: dict[Label, list[Run]] = {}
    for name, run in zip(names, found, strict=True):
        groups.setdefault(name, []).append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.config.seed)
    return dict(sorted(groups.items(), key=lambda item: _order(item[0])))


def by_label(found: Sequence[Run]) -> dict[str, list[Run]]:
    """`labelled`, by the label's text."""
    return {label.text: group for label, group in labelled(found).items()}


def _order(label: Label) -> tuple[Any, ...]:
    values = [(0, v, "") if isinstance(v, int | float) else (1, 0, str(v)) for _, v in label.settings]
    return label.algorithm.partition("+")[0], label.algorithm, values


def middle(found: Sequence[Run], key: str) -> float | None:
    """Median over runs of a metric's last value, over those that measured it."""
    return median_of([run.last(key) for run in found])


def median_of(values: Sequence[float | None]) -> float | None:
    """The median of the values that there are; not a number if one of them is none."""
    there = [value for value in values if value is not None]
    return sum(there) if any(map(isnan, there)) else median(there) if there else None


def sentence(found: Sequence[Run]) -> str:
    """What happened, in one sentence made from the numbers alone."""
    groups = labelled(found)
    solves = any(run.last("solved_sampled") is not None for run in found)
    name = swept(groups)
    if name is not None and len({without(label, name) for label in groups}) == 1:
        return _sweep(groups, name, "solved_sampled" if solves else "reward")
    named = {label.text: group for label, group in groups.items()}
    if not solves:
        return _returns(named)
    if len(named) == 1:
        return _one(*named.popitem())
    parts = [f"{name} {percent(middle(g, 'solved_sampled'))}" for name, g in named.items()]
    clauses = [c for name in named if "+" in name and (c := _against_base(named, name))]
    return "; ".join([f"Solved at the end (sampled, median over seeds): {', '.join(parts)}", *clauses]) + "."


def _sweep(groups: dict[Label, list[Run]], name: str, key: str) -> str:
    """The best and the worst value of the setting that was swept, and the gap at its ends."""
    finals, gaps = (
        {value_of(label, name): middle([run for run in group if run.finished], k) for label, group in groups.items()}
        for k in (key, "gap")
    )
    there = {value: final for value, final in finals.items() if final is not None}
    show = percent if key == "solved_sampled" else number
    most, least = max(there, key=lambda v: there[v], default=""), min(there, key=lambda v: there[v], default="")
    algorithm = without(next(iter(groups)), name).text
    what = "solved at the end (sampled)" if key == "solved_sampled" else "reward at the end"
    text = f"{algorithm} over {len(groups)} values of {name}, median over seeds: {what} highest at {most} "
    text += f"({show(there.get(most))}) and lowest at {least} ({show(there.get(least))})"
    ends = min(gaps, key=float), max(gaps, key=float)
    if None in (gaps[ends[0]], gaps[ends[1]]):
        return f"{text}."
    return (
        f"{text}; the gap ends at {number(gaps[ends[0]])} nats at {ends[0]} and {number(gaps[ends[1]])} at {ends[1]}."
    )


def value_of(label: Label, name: str) -> str:
    """A setting of a label as text."""
    return str(dict(label.settings)[name])


def _returns(groups: dict[str, list[Run]]) -> str:
    """Rewards and gaps of runs whose problems are not solved or unsolved."""
    parts = []
    for name, group in groups.items():
        first, last = (number(median_of([part(run, "reward") for run in group])) for part in (Run.first, Run.last))
        gap = middle(group, "gap")
        tight = "" if gap is None else f" (gap {number(gap)} nats)"
        parts.append(f"{name} from {first} to {last}{tight}")
    seeds = max(len(group) for group in groups.values())
    over = f", medians over {seeds} seeds" if seeds > 1 else ""
    control = not isinstance(next(iter(groups.values()))[0].config, RunConfig)
    what = "Return of an episode" if control else "Reward"
    return f"{what}, at the beginning and at the end{over}: {', '.join(parts)}."


def _one(name: str, group: list[Run]) -> str:
    kinds = group[0].words("gap_kind")
    kind = kinds[-1][1] if kinds else "exact"
    start = [percent(median_of([r.first(key) for r in group])) for key in ("solved_sampled", "solved_greedy")]
    label = "exact gap" if kind == "exact" else f"gap ({kind.replace('_', ' ')})"
    over = "" if len(group) == 1 else f" (medians over {len(group)} seeds)"
    gap = middle(group, "gap")
    tight = "" if gap is None else f", and its {label} ended at {number(gap)} nats"
    return (
        f"{name} went from {start[0]} to {percent(middle(group, 'solved_sampled'))} of held-out problems solved by "
        f"sampling and from {start[1]} to {percent(middle(group, 'solved_greedy'))} by greedy decoding in "
        f"{group[0].steps} updates{tight}{over}."
    )


def _against_base(groups: dict[str, list[Run]], name: str) -> str:
    algorithm, space, settings = name.partition(" ")
    base = algorithm.partition("+")[0] + space + settings
    if base not in groups:
        return ""
    gaps = middle(groups[base], "gap"), middle(groups[name], "gap")
    solved = middle(groups[base], "solved_sampled"), middle(groups[name], "solved_sampled")
    if None in gaps or None in solved:
        return ""
    more = (solved[1] or 0) > (solved[0] or 0)
    verdict = f"more than {base}{_on_seeds(groups[base], groups[name])}" if more else f"no more than {base}"
    return f"{name} solves {verdict}, with a gap of {number(gaps[1])} nats against {number(gaps[0])}"


def _on_seeds(base: list[Run], tightened: list[Run]) -> str:
    """On how many seeds more is solved; seeds are paired, as they share their base model. Empty for a single one."""
    before, after = ({r.config.seed: r.last("solved_sampled") or 0 for r in group} for group in (base, tightened))
    higher = [after[seed] > before[seed] for seed in after if seed in before]
    if len(higher) < 2:
        return ""
    return " on every seed" if all(higher) else f" on {sum(higher)} of {len(higher)} seeds"


def percent(share: float | None) -> str:
    """A share in per cent, or a question mark."""
    return "?" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Three digits, or a question mark."""
    return "?" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
