"""The report's words: one sentence, and a verdict for each label, agree with the numbers that they are made of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dipod.errors import UserError
from dipod.recipes import load
from dipod.report import Run, read_runs, sentence
from dipod.report.bound import movement
from dipod.report.verdict import judge
from dipod.runs import create
from tests.report.building import build_run, with_rows
from tests.test_trainer import tiny


def told(*found: Run) -> str:
    """All sentences of a verdict."""
    return " ".join(judge("x", found).sentences)


def test_one_run_in_one_sentence() -> None:
    assert sentence([build_run("spg+dipod", 0, 0.973, 0.0812)]) == (
        "spg+dipod went from 5.0 % to 97.3 % of held-out problems solved by sampling and from 10.0 % to 100.0 % by "
        "greedy decoding in 9 updates, and its exact gap ended at 0.0812 nats."
    )


def test_a_gap_that_is_not_exact_is_called_what_it_is() -> None:
    run = build_run("fpo", 0, 0.5, 1.0, "lower_bound")
    assert "gap (lower bound) ended at" in sentence([run])
    assert "gap (lower bound) grew" in told(run)
    assert "a factor of at least 2.72" in told(run)


def test_several_algorithms_are_compared_by_medians_whoever_wins() -> None:
    found = [build_run("fpo", s, v, g) for s, v, g in ((0, 0.6, 9.0), (1, 0.8, 7.0), (2, 0.7, 8.0))]
    found += [build_run("fpo+dipod", s, v, 0.5) for s, v in ((0, 0.5), (1, 0.6), (2, 0.65))]
    text = sentence(found)
    assert "fpo 70.0 %, fpo+dipod 60.0 %" in text
    assert "fpo+dipod solves no more than fpo, with a gap of 0.5 nats against 8" in text


@pytest.mark.parametrize(
    ("solved", "said"),
    [
        ((0.65, 0.85, 0.75), "more than fpo on every seed"),
        ((0.65, 0.75, 0.85), "more than fpo on 2 of 3 seeds"),
        ((0.6, 0.8, 0.7), "no more than fpo,"),
        ((0.65,), "more than fpo,"),
    ],
)
def test_more_is_said_to_be_more_on_as_many_seeds_as_it_is(solved: tuple[float, ...], said: str) -> None:
    found = [build_run("fpo", s, (0.6, 0.8, 0.7)[s], 8.0) for s in range(len(solved))]
    found += [build_run("fpo+dipod", s, share, 0.5) for s, share in enumerate(solved)]
    assert f"fpo+dipod solves {said}" in sentence(found)


def test_a_sweep_is_told_by_its_best_its_worst_and_its_ends() -> None:
    measured = ((0.0, 0.3, 5.0), (0.1, 0.6, 1.0), (0.5, 0.2, 0.25))
    text = sentence([build_run("fpo+dipod", 0, solved, gap, beta=beta) for beta, solved, gap in measured])
    assert "highest at 0.1 (60.0 %) and lowest at 0.5 (20.0 %)" in text
    assert "the gap ends at 5 nats at 0.0 and 0.25 at 0.5" in text


@pytest.mark.parametrize(
    ("gaps", "moved"),
    [
        ((1.0, 9.0), "grew"),
        ((9.0, 1.0), "fell"),
        ((1.0, 1.9), "held"),
        ((1.0, 0.55), "held"),
        ((0.001, 0.9), "held"),
        ((0.0, 1.1), "grew"),
        ((0.0, 0.0), "held"),
        ((0.2, 1.97, 0.3), "swung"),
        ((3.0, 7.0, 4.0), "swung"),
        ((3.0, 1.0, 4.0), "swung"),
        ((0.2, 0.9, 0.1), "held"),
        ((1.0, math.nan), "unmeasured"),
        ((), "unmeasured"),
    ],
)
def test_a_gap_moves_by_a_factor_of_two_or_is_held(gaps: tuple[float, ...], moved: str) -> None:
    rows = [{"step": i, "gap": gap, "gap_kind": "exact"} for i, gap in enumerate(gaps)] or [{"step": 0, "reward": 1.0}]
    assert movement([with_rows(rows)]) == moved


def test_the_verdict_says_first_and_last_medians_and_the_spread_of_seeds() -> None:
    text = told(*(build_run("fpo", seed, 0.5, gap) for seed, gap in enumerate((2.0, 4.0, 3.0))))
    assert (
        "grew: 0.01 nats at the beginning, 3 at the end, 300 times (0.375 a token); seeds end between 2 and 4" in text
    )
    assert "too low by a factor of 20.1" in text


def test_the_angle_is_that_of_the_mean_cosine_of_the_second_half() -> None:
    rows = [{"step": i, "cosine": c, "gap": 0.01} for i, c in enumerate((0.9, 0.1, 0.4, 0.6))]
    angle = math.degrees(math.acos(0.5))
    said = "updates 2 to 3, the estimator's gradient, β left out, had a mean cosine of 0.5 with the policy gradient"
    assert f"{said}, {angle:.0f}° off; the lowest in all was 0.1" in told(with_rows(rows))


def test_the_monitor_speaks_where_nothing_else_was_measured() -> None:
    rows = [
        {"step": 0, "monitor_gap": 0.2, "monitor_gap_kind": "bracket", "monitor_cosine": 1.02},
        {"step": 9, "monitor_gap": 3.0, "monitor_gap_kind": "bracket", "warning": "the gap has grown 15x"}
        | {"monitor_gap_low": 2.5, "monitor_gap_high": 3.75},
    ]
    verdict = judge("x", [with_rows(rows, seed=3)])
    assert verdict.movement == "grew"
    assert verdict.gap == 3.0
    assert "gap (bracket, on the rollouts) grew" in " ".join(verdict.sentences)
    assert "in a bracket from 2.5 to 3.75" in " ".join(verdict.sentences)
    assert "0° off" in " ".join(verdict.sentences)
    assert verdict.warnings == ((3, 9, "the gap has grown 15x"),)


@pytest.mark.parametrize(("looked", "moved"), [((1.97, 0.1), "swung"), ((1.97, 0.9), "held"), ((0.3, 0.1), "held")])
def test_a_gap_is_not_held_that_the_monitor_found_elsewhere_between_two_evaluations(
    looked: tuple[float, float], moved: str
) -> None:
    value, error = looked
    rows = [{"step": 0, "gap": 0.1}, {"step": 5, "monitor_gap": value, "monitor_gap_error": error}]
    assert movement([with_rows([*rows, {"step": 9, "gap": 0.1}])]) == moved


def test_one_run_of_several_that_left_is_enough() -> None:
    gaps = ((0.1, 0.1, 0.1), (0.1, 5.0, 0.1))
    found = [with_rows([{"step": i, "gap": g} for i, g in enumerate(each)], seed=s) for s, each in enumerate(gaps)]
    assert movement(found) == "swung"
    assert "the highest measured was 5 at update 1, seed 1" in told(*found)


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (0.99, "an action's probability (geometric mean) 63 % too low"),
        (0.1, "(geometric mean) 9.5 % too low"),
        (1e-4, "(geometric mean) 0.01 % too low"),
        (1.0, "too low by a factor of 2.72"),
        (111.0, "too low by a factor of e^111.0"),
    ],
)
def test_what_a_gap_does_to_a_probability_is_computed(gap: float, said: str) -> None:
    assert said in told(build_run(gap=gap))


def test_the_end_is_the_end_and_a_look_before_it_is_said_to_be() -> None:
    """The monitor's budget left out all looks after the first: what it saw is not how the run ended."""
    rows: list[dict[str, Any]] = [{"step": i} for i in range(401)]
    rows[1] |= {"monitor_gap": 0.2, "monitor_gap_kind": "exact"}
    said = told(with_rows(rows))
    assert "was measured once, at update 1: 0.2 nats" in said
    assert "took 1 of 16 looks, the last at update 1: more would have cost over 5 % of the time" in said
    assert "at the end" not in said
    rows[26] |= {"monitor_gap": 0.3, "monitor_gap_kind": "exact"}
    assert "0.2 nats at the beginning, 0.3 at the last look (update 26)" in told(with_rows(rows))
    assert judge("x", [with_rows(rows)]).when == "at the last look (update 26)"
    watched = [{**row, "monitor_gap": 0.2} if row["step"] % 25 == 1 else row for row in rows]
    assert "monitor.budget" not in told(with_rows(watched))


def test_estimator_and_update_as_made_are_told_apart() -> None:
    rows = [{"step": i, "gap": 0.1, "monitor_cosine": 0.9, "monitor_update_cosine": 0.5} for i in range(4)]
    said = told(with_rows(rows, "fpo+dipod"))
    assert "the estimator's gradient, β left out, had a mean cosine of 0.9" in said
    assert "the update as made, β included, had a mean cosine of 0.5 with the policy gradient, 60° off" in said
    assert "as made" not in told(with_rows([{"step": 0, "gap": 0.1, "cosine": 0.9, "update_cosine": 0.9}])), "one"


@pytest.mark.parametrize(
    ("entropy", "unique", "gap", "said"),
    [
        (0.001, 0.13, 0.0, "The policy gives nearly one action to a problem"),
        (0.4, 0.13, 0.0, "The policy gives nearly one action to a problem"),
        (0.4, 0.9, 0.01, "The policy still varies"),
        (0.001, 0.13, 9.0, ""),
    ],
)
def test_a_small_gap_is_said_to_be_a_hardened_policy_s_or_not(
    entropy: float, unique: float, gap: float, said: str
) -> None:
    rows = [
        {"step": i, "gap": gap, "entropy": e, "entropy_kind": "exact", "unique_share": unique, "tokens": 8}
        for i, e in enumerate((0.5, entropy))
    ]
    text = told(with_rows(rows, trainer__group_size=8))
    assert f"Its entropy (exact) went from 0.5 to {entropy:g} nats a token; {unique * 8:.3g} of the 8 actions" in text
    assert said in text if said else "The policy" not in text


def test_what_was_lost_again_is_said() -> None:
    rows = [{"step": 10 * i, "solved_sampled": v, "gap": 0.01} for i, v in enumerate((0.0, 0.8, 0.3))]
    assert "Its best was 80.0 % at update 10; 50 points were lost again" in told(with_rows(rows))
    assert "lost again" not in told(with_rows(rows[:2]))
    falling = [{**row, "solved_sampled": share} for row, share in zip(rows, (0.4, 0.2, 0.0), strict=False)]
    assert "never better than at the beginning: 40 points were lost" in told(with_rows(falling))


def test_troubles_are_said() -> None:
    run = with_rows([{"step": 0, "gap": 0.1}, {"step": 7, "gap": 0.1, "reward": math.inf}], trainer__steps=20)
    assert "seed 0: 7 of 20" in told(run)
    assert "from update 7 on, reward is not a finite number" in told(run)
    assert run.curve("reward") == ([], [])
    assert "finite" not in told(with_rows([{"step": 0, "gap": 0.1, "monitor_cosine": math.nan}]))


def test_a_run_that_measured_nothing_is_told_without_numbers() -> None:
    run = with_rows([{"step": 0, "grad_norm": 1.0}])
    assert "The gap was not measured." in told(run)
    assert "?" in sentence([run])


def test_runs_are_found_in_folders_that_have_some(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run there"):
        read_runs([tmp_path])
    create(tmp_path / "new", tiny())
    with pytest.raises(UserError, match="no metrics yet"):
        read_runs([tmp_path / "new"])
    for seed in (0, 1):
        create(tmp_path / "C" / "fpo" / f"seed-{seed}", tiny(algorithm="fpo", seed=seed))
    (tmp_path / "C" / "fpo" / "seed-1" / "metrics.jsonl").write_text('{"step": 0, "gap": 1.0}\n')
    assert [run.config.seed for run in read_runs([tmp_path / "C", tmp_path / "C"])] == [1]


def test_settings_that_a_run_does_not_know_yet_are_the_defaults(tmp_path: Path) -> None:
    create(tmp_path, tiny(algorithm="fpo"))
    kept = (tmp_path / "config.yaml").read_text().splitlines()
    (tmp_path / "config.yaml").write_text("\n".join(line for line in kept if "gap_paths" not in line))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "gap": 1.0}\n')
    (run,) = read_runs([tmp_path])
    assert run.config == tiny(algorithm="fpo", gap_paths=type(load("sudoku").trainer)().gap_paths)  # type: ignore[union-attr]


def test_a_summary_keeps_the_ends_and_what_lies_between() -> None:
    run = build_run("fpo", 0)
    kept = run.summary()
    assert kept["before"]["gap"] == run.metrics[0]["gap"]
    assert kept["gap"] == run.last("gap")
    assert [step for step, _ in kept["curves"]["gap"]] == run.curve("gap")[0]
    assert kept["curves"].keys().isdisjoint(kept["best"])
    many = replace(run, metrics=[{"step": i, "reward": abs(i - 30.0)} for i in range(50)])
    assert many.summary()["best"]["reward"] == (0, 30.0)
