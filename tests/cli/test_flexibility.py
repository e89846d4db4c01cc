"""`dipod flexibility` of a run, of several and of a comparison's folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dipod import runs
from dipod.cli import main
from dipod.flexibility import measure
from dipod.recipes import language, load, overlay
from dipod.runs import Silent
from tests.cli.test_cli import refuse
from tests.test_trainer import TINY, tiny


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms from one base, laid out as `dipod compare` does."""
    folder = tmp_path_factory.mktemp("comparison")
    base = folder / "bases" / "seed-0"
    runs.create(base, tiny(task__blanks=4, trainer__steps=0, trainer__evaluate_every=0))
    runs.train(base, Silent())
    for algorithm in ("fpo", "spg+dipod"):
        own = folder / algorithm / "seed-0"
        runs.create(own, tiny(task__blanks=4, algorithm=algorithm, base=str(base / "base"), trainer__steps=4))
        runs.train(own, Silent())
    return folder


def test_a_comparison_is_one_table(comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["flexibility", str(comparison), "--problems", "8", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "3 policies, 8 problems: at most" in captured.err
    head = captured.out.splitlines()[0].split("  ")
    assert [word.strip() for word in head if word.strip()][1:] == ["before RL", "fpo", "spg+dipod"]
    assert "left to right" in captured.out
    assert {path.name for path in out.iterdir()} == {
        "measured.json",
        *(f"flexibility.{end}" for end in ("json", "png", "html")),
    }
    found = json.loads((out / "flexibility.json").read_text())
    for one in found["measurements"]:
        own = comparison / one["policy"] / "seed-0" if one["step"] else comparison / "bases" / "seed-0"
        measured = {row["step"]: row for row in runs.read_metrics(own)}[one["step"]]
        rows = {row["decoder"]: row for row in one["rows"]}
        assert one["trained"] == "random"
        assert one["gap"] == pytest.approx(measured["gap"])
        assert rows["random"]["reward_sampled"] == pytest.approx(measured["reward_sampled"]), "as the run measured"
        assert rows["low_confidence"]["reward_greedy"] == pytest.approx(measured["reward_greedy"])
        assert rows["random"]["loss_sampled"] == 0


def test_what_was_measured_is_not_measured_again_unless_its_files_have_changed(
    comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["flexibility", str(comparison), "--problems", "4", "--decoders", "random,left_to_right", "--out"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main([*command, str(whole)]) == 0
    seen: list[str] = []

    def counting(policy: Any, *given: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append("policy")
        return measure(policy, *given)

    monkeypatch.setattr("dipod.cli.flexibility.measure", counting)
    assert main([*command, str(out)]) == 130
    seen.clear()
    assert main([*command, str(out)]) == 0
    assert len(seen) == 1, "only what the interrupted call had not measured"
    names = ("flexibility.json", "flexibility.html")
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in names)
    seen.clear()
    weights = next((comparison / "fpo" / "seed-0" / runs.CHECKPOINTS).glob("*4/*.safetensors"))
    os.utime(weights, ns=(1, 1))
    assert main([*command, str(out)]) == 0
    assert len(seen) == 1


def test_every_checkpoint_and_chosen_decoders(comparison: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(comparison / "fpo" / "seed-0")
    chosen = "random/tokens2,infill_suffix,left_to_right,random/tokens2"
    assert main(["flexibility", run, "--all", "--decoders", chosen, "--problems", "4", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["policy"] for one in found["measurements"]] == ["before RL", "fpo, step 2", "fpo, step 4"]
    names = [row["decoder"] for row in found["measurements"][0]["rows"]]
    assert names == ["as_trained", "random/tokens2", "left_to_right", "infill_suffix"]


def test_a_base_is_found_again_or_left_out(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison that was moved, and a run alone, away from its base."""
    moved = tmp_path / "moved"
    shutil.copytree(comparison, moved)
    for config in moved.glob("*/seed-0/config.yaml"):
        config.write_text(config.read_text().replace(str(comparison), "/nowhere"))
    arguments = ["--problems", "4", "--decoders", "random", "--json"]
    assert main(["flexibility", str(moved), *arguments]) == 0
    assert {one["policy"] for one in json.loads(capsys.readouterr().out)["measurements"]} >= {"before RL", "fpo"}
    shutil.move(moved / "fpo" / "seed-0", tmp_path / "alone")
    assert main(["flexibility", str(tmp_path / "alone"), *arguments]) == 0
    captured = capsys.readouterr()
    assert [one["policy"] for one in json.loads(captured.out)["measurements"]] == ["fpo"]
    assert "before RL is left out" in captured.err


def test_a_task_that_knows_no_answers_has_no_infilling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Countdown problems from a file, which come without expressions."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"numbers": [1, 2, 3], "target": 6}\n' * 4)
    small = {**{key: value for key, value in TINY.items() if not key.startswith("task")}, "trainer.steps": 2}
    settings = {**small, "task.test_source": str(problems), "trainer.gap_problems": 0, "trainer.cosine_rollouts": 0}
    run = tmp_path / "run"
    runs.create(run, language(overlay(load("countdown-tiny"), settings)))
    runs.train(run, Silent())
    assert main(["flexibility", str(run), "--problems", "4"]) == 0
    captured = capsys.readouterr()
    assert "infilling is left out" in captured.err
    assert "given" not in captured.out
    assert "leave it out" in refuse(capsys, "flexibility", str(run), "--decoders", "infill_random")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--decoders", "best"], "choose from random, low_confidence"),
        (["--decoders", "random,random/tokens3"], "divide the completion: 1, 2, 4"),
        (["--problems", "0"], "--problems = 0: give a whole number of at least 1"),
        (["--problems", "many"], "invalid int value"),
    ],
)
def test_mistakes_are_one_line(
    comparison: Path, capsys: pytest.CaptureFixture[str], flags: list[str], complaint: str
) -> None:
    assert complaint in refuse(capsys, "flexibility", str(comparison / "fpo" / "seed-0"), *flags)


def test_what_cannot_be_measured_is_named(comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(comparison / "fpo" / "seed-0", begun)
    shutil.rmtree(begun / runs.CHECKPOINTS)
    assert "it has no checkpoint yet" in refuse(capsys, "flexibility", str(begun))
    assert "no run there" in refuse(capsys, "flexibility", str(tmp_path))
    other = tmp_path / "other"
    shutil.copytree(comparison / "fpo" / "seed-0", other)
    config = (other / runs.CONFIG).read_text()
    (other / runs.CONFIG).write_text(config.replace("blanks: 4", "blanks: 5").replace("blanks: '4'", "blanks: '5'"))
    both = (str(comparison / "fpo" / "seed-0"), str(other))
    assert "compare runs of one task" in refuse(capsys, "flexibility", *both)
    control = tmp_path / "control"
    runs.create(control, overlay(load("track"), {"trainer.steps": 1}))
    (control / runs.METRICS).write_text('{"step": 0}\n')
    assert "decodes no tokens" in refuse(capsys, "flexibility", str(control))
