"""``dipod export``: the last checkpoint's policy, by the writers that tests/policies/test_flow_export.py tries."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from dipod import runs
from dipod.cli import export
from dipod.control.play import load_policy
from dipod.errors import UserError
from dipod.policies.flow_export import load_flow_policy
from dipod.recipes import load
from tests.control.test_play import config_of, train


def exported(run: Path, kind: str, out: Path, *flags: str) -> Path:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    export.run(parser.parse_args([str(run), "--format", kind, "--out", str(out), *flags]))
    return out


def test_it_is_the_run_s_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, observation = train(tmp_path / "run"), torch.linspace(-1, 1, 24).reshape(6, 4)
    expected = load_policy(config_of(run), runs.last_checkpoint(run)).mode(observation)
    assert torch.equal(load_flow_policy(exported(run, "safetensors", tmp_path / "whole")).mode(observation), expected)
    capsys.readouterr()
    file = exported(run, "torchscript", tmp_path / "policy.pt", "--json")
    said = json.loads(capsys.readouterr().out)
    assert (said["file"], said["format"], said["checkpoint"]) == (str(file), "torchscript", 2)
    assert file.stat().st_size > 0


def test_runs_without_a_flow_policy_are_refused(tmp_path: Path) -> None:
    runs.create(tmp_path / "language", load("sudoku"))
    train(tmp_path / "gaussian", algorithm="ppo")
    for name, complaint in (("language", "`dipod merge` makes a model"), ("gaussian", "ppo trained no flow policy")):
        with pytest.raises(UserError, match=complaint):
            exported(tmp_path / name, "torchscript", tmp_path / "policy.pt")
