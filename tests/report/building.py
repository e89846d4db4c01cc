"""Runs made of numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dipod.config import RunConfig
from dipod.recipes import load, overlay
from dipod.report import Run
from dipod.report.data import labelled
from dipod.report.labels import Label

TEXTS = [{"prompt": "1 + 1", "reference": 2, "sampled": "<answer>3</answer>", "greedy": "<answer>2</answer>"}]


def build_run(
    algorithm: str = "fpo", seed: int = 0, solved: float = 0.5, gap: float = 1.0, kind: str = "exact", **settings: Any
) -> Run:
    """A Sudoku run of ten updates, measured before, and after all of them."""
    start = {"step": 0, "solved_sampled": 0.05, "solved_greedy": 0.1, "gap": 0.01, "gap_kind": kind, "tokens": 8.0}
    end = {"step": 9, "reward": 0.9, "solved_sampled": solved, "solved_greedy": 1.0, "gap": gap, "gap_kind": kind}
    rows: list[dict[str, Any]] = [start, {"step": 1, "reward": 0.4, "cosine": 0.9}, end]
    return with_rows(rows, algorithm, seed, **settings)


def with_rows(rows: Sequence[dict[str, Any]], algorithm: str = "fpo", seed: int = 0, **settings: Any) -> Run:
    """A Sudoku run with these metrics, all of whose updates are done."""
    given = {"algorithm": algorithm, "seed": seed, "trainer.steps": int(rows[-1]["step"])}
    config = overlay(RunConfig(), {**given, **{key.replace("__", "."): value for key, value in settings.items()}})
    return Run(Path(f"{algorithm}-{seed}"), config, list(rows), {})


def long_run(algorithm: str, seed: int, steps: int = 600) -> Run:
    """A run with every metric that a language run can have, the monitor's among them."""
    rows: list[dict[str, Any]] = []
    for step in range(steps + 1):
        noise = ((step * 7919 + seed * 104729) % 1000) / 1000 - 0.5
        row: dict[str, Any] = {"step": step, "reward": step / steps + 0.2 * noise, "grad_norm": 1 + noise, "beta": 0.1}
        row["unique_share"] = 0.9 + 0.1 * noise
        row |= {"clip_fraction_positive": abs(noise), "clip_fraction_negative": abs(noise) / 2}
        if step % 20 == 0:
            gap = 0.1 * 1.01**step * (1 + 0.2 * noise)
            row |= {"gap": gap, "gap_kind": "exact", "elbo": -3 - gap, "cosine": 0.9 + 0.1 * noise, "tokens": 10.0}
            row |= {"solved_sampled": min(step / steps, 1.0), "solved_greedy": step / steps / 2}
            row |= {"monitor_gap": gap, "monitor_gap_kind": "bracket", "monitor_gap_low": 0.7 * gap}
            row |= {"monitor_gap_high": 1.5 * gap, "monitor_cosine": 0.8 + 0.2 * noise, "monitor_share": 0.04}
            row |= {"monitor_drift_share": 0.3 + 0.1 * noise, "monitor_update_cosine": 0.7 + 0.2 * noise}
            row |= {"entropy": 0.5 + 0.1 * noise, "entropy_kind": "exact", "monitor_entropy": 0.5}
        if step == steps // 2:
            row["warning"] = f"the gap has grown 6x since update 100, seed {seed}; consider beta of 0.2 or more"
        rows.append(row)
    config = overlay(load("countdown-tiny"), {"algorithm": algorithm, "seed": seed, "trainer.steps": steps})
    return Run(Path(f"{algorithm}-{seed}"), config, rows, {"before": TEXTS, "after": TEXTS})


def grouped(found: Sequence[Run]) -> dict[Label, list[Run]]:
    """Runs by label."""
    return labelled(found)
