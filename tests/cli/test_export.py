"""``dipod export``: what it writes acts as the run's policy does."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import pytest
import torch

from dipod import runs
from dipod.cli import export
from dipod.control.config import ControlConfig
from dipod.control.play import load_policy
from dipod.errors import UserError
from dipod.noise import keyed_generator
from dipod.policies.flow_export import load_flow_policy
from dipod.recipes import load
from tests.control.test_play import train

OBSERVATION = torch.randn(6, 4, generator=keyed_generator(0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("export") / "run")


def exported(*words: object) -> None:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    export.run(parser.parse_args([str(word) for word in words]))


def zero_noise_actions(run: Path) -> torch.Tensor:
    config = runs.read_config(run)
    assert isinstance(config, ControlConfig)
    return load_policy(config, runs.last_checkpoint(run)).mode(OBSERVATION)


def test_torchscript_acts_as_the_run_does(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.pt"
    exported(run, "--format", "torchscript", "--out", file, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told.pop("difference") < 1e-5
    assert told == {"file": str(file), "format": "torchscript", "run": str(run), "step": 2}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load`", DeprecationWarning)
        found = torch.jit.load(file)(OBSERVATION)
    torch.testing.assert_close(found, zero_noise_actions(run), rtol=0, atol=1e-5)


def test_onnx_acts_as_the_run_does(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = pytest.importorskip("onnx.reference")
    exported(run, "--format", "onnx", "--out", tmp_path / "policy.onnx")
    assert "after 2 iterations: onnx in" in capsys.readouterr().out
    evaluator = reference.ReferenceEvaluator(str(tmp_path / "policy.onnx"))
    (found,) = evaluator.run(None, {"observation": OBSERVATION.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), zero_noise_actions(run), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("capsys")
def test_safetensors_are_the_policy_itself(run: Path, tmp_path: Path) -> None:
    exported(run, "--format", "safetensors", "--out", tmp_path / "policy")
    assert torch.equal(load_flow_policy(tmp_path / "policy").mode(OBSERVATION), zero_noise_actions(run))


def test_runs_without_a_flow_policy_are_refused(tmp_path: Path) -> None:
    runs.create(tmp_path / "language", load("sudoku"))
    train(tmp_path / "gaussian", algorithm="ppo")
    for name, complaint in (("language", "`dipod merge` makes a model"), ("gaussian", "ppo trained no flow policy")):
        with pytest.raises(UserError, match=complaint):
            exported(tmp_path / name, "--format", "torchscript", "--out", tmp_path / "policy.pt")
