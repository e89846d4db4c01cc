"""The report: words and numbers follow from the runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.recipes import overlay
from dipod.report import Run, read_runs, sentence, write_report
from dipod.report.figures import curves
from dipod.runs import Silent, create, train
from tests.test_trainer import tiny


def build_run(algorithm: str, seed: int, solved: float, gap: float, kind: str = "exact") -> Run:
    start = {"step": 0, "solved_sampled": 0.05, "solved_greedy": 0.1, "gap": 0.01, "gap_kind": kind}
    end = {"step": 9, "reward": 0.9, "solved_sampled": solved, "solved_greedy": 1.0, "gap": gap, "gap_kind": kind}
    config = overlay(RunConfig(), {"algorithm": algorithm, "seed": seed})
    return Run(Path(f"{algorithm}-{seed}"), config, [start, {"step": 1, "reward": 0.4, "cosine": 0.9}, end], {})


def test_one_run_in_one_sentence() -> None:
    assert sentence([build_run("spg+dipod", 0, 0.973, 0.0812)]) == (
        "spg+dipod went from 5.0 % to 97.3 % of held-out problems solved by sampling and from 10.0 % to 100.0 % by "
        "greedy decoding in 9 updates, and its exact gap ended at 0.0812 nats."
    )


def test_a_gap_that_is_not_exact_is_called_what_it_is() -> None:
    assert "gap (lower bound) ended at" in sentence([build_run("fpo", 0, 0.5, 1.0, "lower_bound")])


def test_several_algorithms_are_compared_by_medians_whoever_wins() -> None:
    found = [build_run("fpo", s, v, g) for s, v, g in ((0, 0.6, 9.0), (1, 0.8, 7.0), (2, 0.7, 8.0))]
    found += [build_run("fpo+dipod", s, v, 0.5) for s, v in ((0, 0.5), (1, 0.6), (2, 0.65))]
    text = sentence(found)
    assert "fpo 70.0 %, fpo+dipod 60.0 %" in text
    assert "fpo+dipod solves no more than fpo, with a gap of 0.5 nats against 8" in text


def test_curves_take_only_what_was_measured() -> None:
    run = build_run("fpo", 0, 0.5, 1.0)
    assert set(curves([run])) == {"reward", "solved_sampled", "solved_greedy", "gap"}
    assert run.curve("cosine") == ([1], [0.9])
    assert run.last("elbo") is None


def test_page_shows_boards_and_settings_and_needs_nothing_else(tmp_path: Path) -> None:
    for seed in (0, 1):
        create(tmp_path / "C" / "fpo" / f"seed-{seed}", tiny(algorithm="fpo", seed=seed))
        train(tmp_path / "C" / "fpo" / f"seed-{seed}", Silent())
    page = write_report([tmp_path / "C"], tmp_path / "out").read_text()
    assert page.count('<table class="board">') == 16
    assert "Thin lines are the 2 seeds" in page
    assert "algorithm: fpo" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert 'href="http' not in page.replace('xlink:href="http', "")
    assert (tmp_path / "out" / "figures" / "overview.png").exists()


def test_folders_without_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run there"):
        read_runs([tmp_path])
    create(tmp_path / "new", tiny())
    with pytest.raises(UserError, match="no metrics yet"):
        read_runs([tmp_path / "new"])
