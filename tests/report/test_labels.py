"""Labels tell runs apart by what differs, in the words that people typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dipod.errors import UserError
from dipod.recipes import load, overlay
from dipod.report import Run
from dipod.report.data import by_label, labelled
from dipod.report.labels import Label, labels, path_of, shortest, swept
from tests.report.building import build_run


def test_runs_that_differ_in_seeds_share_a_label() -> None:
    found = [build_run("fpo", 0, base="/a", threads=1), build_run("fpo", 1, base="/b", threads=2)]
    assert list(by_label(found)) == ["fpo"]


def test_a_setting_that_differs_is_named_by_its_shortest_name() -> None:
    found = [
        build_run("fpo", 0, beta=0.5, trainer__group_size=4),
        build_run("fpo", 0, beta=0.05, trainer__group_size=8),
    ]
    assert list(by_label(found)) == ["fpo beta=0.05 group_size=8", "fpo beta=0.5 group_size=4"]


@pytest.mark.parametrize("path", ["beta", "trainer.group_size", "optimiser.learning_rate", "task.name", "model.path"])
def test_the_shortest_name_means_the_setting(path: str) -> None:
    config = load("sudoku")
    assert path_of(shortest(path, config), config) == path


def test_a_name_that_would_mean_another_setting_stays_dotted() -> None:
    config = load("sudoku")
    assert shortest("pretrain.steps", config) == "pretrain.steps"
    assert shortest("trainer.steps", config) == "steps"
    with pytest.raises(UserError, match="did you mean beta"):
        path_of("bta", config)


def place(run: Run, folder: str) -> Run:
    return replace(run, folder=Path("C") / folder / f"seed-{run.config.seed}")


def test_a_folders_words_are_kept_if_they_are_true() -> None:
    run = build_run("fpo+dipod", 0, beta=0.05, trainer__group_size=4)
    for folder, label in (
        ("fpo+dipod beta=0.05 trainer.group_size=4", "fpo+dipod beta=0.05 trainer.group_size=4"),
        ("fpo+dipod beta=0.5", "fpo+dipod"),
        ("spg beta=0.05", "fpo+dipod"),
        ("fpo+dipod colour=0.05", "fpo+dipod"),
    ):
        assert list(by_label([place(run, folder)])) == [label]


def test_many_differences_are_told_by_the_fewest() -> None:
    found = [build_run("spg"), replace(build_run("spg"), config=overlay(load("countdown-tiny"), {"algorithm": "spg"}))]
    assert set(by_label(found)) == {"spg task=board", "spg task=countdown"}


def test_a_label_is_one_folder_and_distinct_labels_are_distinct_folders() -> None:
    paths = [Label("fpo", (("train_csv", value),)) for value in ("a/b", "a%2Fb", "a b")]
    assert len({label.folder for label in paths}) == 3
    assert not any("/" in label.folder for label in paths)


def test_labels_come_by_estimator_and_by_value() -> None:
    found = [build_run(a, 0, beta=b) for a in ("spg", "fpo+dipod", "fpo") for b in (10.0, 9.0)]
    assert [label.text for label in labelled(found)] == [
        f"{algorithm} beta={beta}" for algorithm in ("fpo", "fpo+dipod", "spg") for beta in (9.0, 10.0)
    ]


def test_only_one_number_makes_a_sweep() -> None:
    def sweep_of(*found: Run) -> str | None:
        return swept(labels([(run.folder, run.config) for run in found]))

    assert sweep_of(build_run(beta=0.1), build_run(beta=0.2)) == "beta"
    assert sweep_of(build_run("fpo", beta=0.1), build_run("spg", beta=0.2)) == "beta"
    assert sweep_of(build_run(beta=0.1, beta_ramp=3), build_run(beta=0.2)) is None
    assert sweep_of(build_run(), build_run(remasking="entropy")) is None
    assert sweep_of(build_run(), build_run(seed=1)) is None
