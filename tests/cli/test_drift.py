"""`dipod drift` of a run of a masked model: every checkpoint's gap again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dipod import runs
from dipod.cli import main
from dipod.runs import Silent
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
    assert capsys.readouterr().out.startswith("step      6   gap")


def test_a_run_without_checkpoints_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.create(tmp_path, tiny())
    assert main(["drift", str(tmp_path)]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err
