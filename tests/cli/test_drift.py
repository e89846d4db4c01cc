"""`dipod drift` of a run of a masked model: every checkpoint's gap again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dipod import runs
from dipod.cli import main
from dipod.runs import Silent
from tests.control.test_play import train
from tests.test_trainer import tiny


def test_drift_measures_every_checkpoint_as_the_run_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.create(tmp_path, tiny(trainer__evaluate_every=2))
    runs.train(tmp_path, Silent())
    assert main(["drift", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    measured = {row["step"]: row for row in runs.read_metrics(tmp_path)}
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row in rows:
        assert row["gap"] == pytest.approx(measured[row["step"]]["gap"])
        assert row["gap_kind"] == "exact"
    assert main(["drift", str(tmp_path), "--last", "--actions", "6"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "6 completions of up to 5 tokens, every mask: 186 forward rows a checkpoint\nstep      6   gap"
    )


def test_where_exactness_is_declined_a_bracket_holds_the_exact_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.create(tmp_path, tiny(algorithm="fpo", trainer__steps=20))
    runs.train(tmp_path, Silent())
    found = []
    for extra in (["--exact-tokens", "0", "--paths", "32"], ["--exact-tokens", "0", "--decoding", "run"], []):
        command = ["drift", str(tmp_path), "--last", "--json", "--actions", "40", "--gradient", "16", *extra]
        assert main(command) == 0
        found += json.loads(capsys.readouterr().out)
    bracket, run, exact = found
    assert exact["gap_kind"] == "exact"
    assert bracket["gap_kind"] == run["gap_kind"] == "bracket"
    assert bracket["gap_interval"][0] < exact["gap"] < bracket["gap_interval"][1]
    assert bracket["gap_low"] <= bracket["gap_high"]
    assert exact["cosine_kind"] == "exact"
    assert bracket["cosine_kind"] == "estimate"
    assert bracket["cosine"] == pytest.approx(exact["cosine"], abs=3 * bracket["cosine_error"])


def test_a_flow_of_many_dimensions_has_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path / "run")
    command = ["drift", str(run), "--last", "--actions", "16"]
    assert main(command) == 0
    assert "nats, exact" in capsys.readouterr().out
    monkeypatch.setattr("dipod.control.evaluation.EXACT_DIMENSIONS", 1)
    assert main(command) == 0
    assert "nats, estimate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--paths", "1"], "--paths = 1: give at least 2"),
        (["--exact-tokens", "20"], "--exact-tokens = 20: give 0 to 14; longer completions are bracketed"),
        (["--gradient", "-1"], "--gradient = -1"),
        (["--actions", "0"], "--actions = 0: give a whole number of at least 1"),
        (["--sketch", "-1"], "--sketch = -1"),
    ],
)
def test_impossible_wishes_are_refused(
    flags: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.create(tmp_path, tiny(trainer__steps=1))
    runs.train(tmp_path, Silent())
    assert main(["drift", str(tmp_path), *flags]) == 2
    assert complaint in capsys.readouterr().err


def test_a_run_without_checkpoints_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.create(tmp_path, tiny())
    assert main(["drift", str(tmp_path)]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err
