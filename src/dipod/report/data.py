"""What the report is made from: runs, their curves, and what they come to in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dipod import runs
from dipod.control.config import ControlConfig
from dipod.errors import UserError
from dipod.recipes import AnyConfig

FINAL_KEYS = (
    "solved_sampled",
    "solved_greedy",
    "gap",
    "cosine",
    "elbo",
    "reward",
    "episode_length",
    "reward_sampled",
    "reward_greedy",
    "transitions",
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
        """Steps and values of a metric, where it was measured."""
        rows = [(row["step"], row[key]) for row in self.metrics if key in row]
        return [step for step, _ in rows], [value for _, value in rows]

    def last(self, key: str) -> float | None:
        """The last value measured, or None."""
        _, values = self.curve(key)
        return values[-1] if values else None

    def first(self, key: str) -> float | None:
        """The first value measured, or None."""
        _, values = self.curve(key)
        return values[0] if values else None

    @property
    def steps(self) -> int:
        """Updates done."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, and those inside comparison folders, ordered by algorithm as given and seed.

    Raises:
        UserError: a folder without runs, or a run without metrics.
    """
    found: list[Run] = []
    for folder in folders:
        inside = sorted(p.parent for p in folder.glob(f"*/seed-*/{runs.CONFIG}") if p.parent.parent.name != "bases")
        chosen = [folder] if (folder / runs.CONFIG).is_file() else inside
        if not chosen:
            raise UserError("run", str(folder), "no run there; give run folders or the folder of a comparison")
        for path in chosen:
            metrics = runs.read_metrics(path)
            if not metrics:
                raise UserError("run", str(path), "it has no metrics yet; let it reach its first evaluation")
            kept = runs.read_lines(path / runs.COMPLETIONS)
            ends = {"before": kept[0]["rows"], "after": kept[-1]["rows"]} if kept else {}
            found.append(Run(path, runs.read_config(path), metrics, ends))
    return found


def by_algorithm(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of each algorithm; estimators by name, the bare one before its tightened selves."""
    names = list(dict.fromkeys(run.config.algorithm for run in found))
    names.sort(key=lambda name: (name.partition("+")[0], name))
    return {name: [run for run in found if run.config.algorithm == name] for name in names}


def middle(found: Sequence[Run], key: str) -> float | None:
    """Median over runs of a metric's last value, over those that measured it."""
    return _median([run.last(key) for run in found])


def sentence(found: Sequence[Run]) -> str:
    """What happened, in one sentence made from the numbers alone."""
    groups = by_algorithm(found)
    if isinstance(found[0].config, ControlConfig):
        return _of_control(groups)
    if len(groups) == 1:
        return _one(next(iter(groups.values())))
    parts = [f"{name} {_percent(middle(g, 'solved_sampled'))}" for name, g in groups.items()]
    text = f"Solved at the end (sampled, median over seeds): {', '.join(parts)}"
    clauses = [c for name in groups if "+" in name and (c := _against_base(groups, name))]
    return text + "".join(f"; {clause}" for clause in clauses) + "."


def _of_control(groups: dict[str, list[Run]]) -> str:
    """Returns and gaps of control runs."""
    parts = []
    for name, group in groups.items():
        first, last = (_number(_median([part(run, "reward") for run in group])) for part in (Run.first, Run.last))
        gap = middle(group, "gap")
        tight = "" if gap is None else f" (gap {_number(gap)} nats)"
        parts.append(f"{name} from {first} to {last}{tight}")
    seeds = max(len(group) for group in groups.values())
    over = f", medians over {seeds} seeds" if seeds > 1 else ""
    return f"Return of an episode, at the beginning and at the end{over}: {', '.join(parts)}."


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _one(group: list[Run]) -> str:
    run = group[0]
    kind = next((row["gap_kind"] for row in reversed(run.metrics) if "gap_kind" in row), "exact")
    start = [r.first("solved_sampled") for r in group], [r.first("solved_greedy") for r in group]
    before = [_percent(median(v for v in values if v is not None)) for values in start]
    label = "exact gap" if kind == "exact" else f"gap ({kind.replace('_', ' ')})"
    over = "" if len(group) == 1 else f" (medians over {len(group)} seeds)"
    return (
        f"{run.config.algorithm} went from {before[0]} to {_percent(middle(group, 'solved_sampled'))} "
        f"of held-out problems solved by sampling and "
        f"from {before[1]} to {_percent(middle(group, 'solved_greedy'))} by greedy decoding in "
        f"{run.steps} updates, and its {label} ended at {_number(middle(group, 'gap'))} nats{over}."
    )


def _against_base(groups: dict[str, list[Run]], name: str) -> str:
    base = name.partition("+")[0]
    if base not in groups:
        return ""
    gaps = middle(groups[base], "gap"), middle(groups[name], "gap")
    solved = middle(groups[base], "solved_sampled"), middle(groups[name], "solved_sampled")
    if None in gaps or None in solved:
        return ""
    verdict = "more" if (solved[1] or 0) > (solved[0] or 0) else "no more"
    return f"{name} solves {verdict} than {base}, with a gap of {_number(gaps[1])} nats against {_number(gaps[0])}"


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
