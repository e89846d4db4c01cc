"""``dipod export``: the last checkpoint's policy, by the writers that tests/policies/test_flow_export.py tries."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipod import __version__, runs
from dipod.cli import export
from dipod.control.build import build_environment
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


def test_what_the_file_gives_is_what_the_environment_receives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole episode: the run's policy acts in dipod's environment, the file in Gymnasium's own, from one seed."""
    toys = pytest.importorskip("tests.tasks.control.toys")
    scale = {"policy.action_scale": "2.0", "trainer.environments": "2", "task.max_episode_length": "12"}
    run = train(tmp_path / "run", **scale, **{"task.name": "tests.tasks.control.toys:Point"})
    config = config_of(run)
    policy = load_policy(config, runs.last_checkpoint(run))
    environment = build_environment(config, 1)
    observation = environment.reset(torch.Generator().manual_seed(0))
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(0)))
    inner = environment._copies[0].unwrapped  # type: ignore[attr-defined]
    inner.received = []
    for _ in range(11):
        observation = environment.step(policy.mode(observation), torch.Generator()).observation
    received = np.array(inner.received)
    assert ((received <= 3) & (received >= [0, -2])).all()
    assert ((received == [3, 2]) | (received == [0, -2])).any(), "the clip is not tried"

    kinds = ["torchscript", "onnx"] if find_spec("onnxruntime") and find_spec("onnx") else ["torchscript"]
    for kind in kinds:
        capsys.readouterr()
        file = exported(run, kind, tmp_path / f"policy.{kind}")
        assert "actions [N, 2] as its step takes them, within 0 to 3, -2 to 2" in capsys.readouterr().out
        act = session(file) if kind == "onnx" else scripted(file)
        world = toys.Point()
        seen, _ = world.reset(seed=seed)
        given = []
        for _ in range(11):
            given.append(act(np.asarray(seen, np.float32)[None])[0])
            seen, *_ = world.step(given[-1])  # which refuses actions beyond its bounds
        np.testing.assert_allclose(given, received, atol=1e-4)
    capsys.readouterr()
    exported(run, "torchscript", tmp_path / "again.pt", "--json")
    kept = json.loads(capsys.readouterr().out)["metadata"]
    assert (kept["task"], kept["algorithm"], kept["run"], kept["iterations"]) == ("Point", "fpopp", "run", "2")
    assert (json.loads(kept["action_low"]), json.loads(kept["action_high"])) == ([0, -2], [3, 2])
    assert (kept["observation_size"], kept["action_size"], kept["normaliser"]) == ("2", "2", "included")
    assert (kept["dipod_version"], kept["sampling_steps"], kept["dtype"]) == (__version__, "3", "float32")


def session(file: Path) -> Callable[[Any], Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    found = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert found.get_modelmeta().custom_metadata_map["action_high"] == "[3.0, 2.0]"
    return lambda observation: found.run(None, {"observation": observation})[0]


def scripted(file: Path) -> Callable[[Any], Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load`", DeprecationWarning)
        found = torch.jit.load(file)
    return lambda observation: found(torch.from_numpy(observation)).numpy()
