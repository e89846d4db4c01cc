"""mjlab's tasks with the library's actor and algorithm; its simulator on the CPU, so the last test takes a minute."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.motions.convert import convert
from dipod.motions.g1 import JOINTS, model_path
from dipod.motions.kinematics import Skeleton, load_skeleton
from dipod.motions.motion import Motion, save_motion
from tests.motions.robots import frames, write_csv

needs_mjlab = pytest.mark.skipif(find_spec("mjlab") is None, reason="mjlab is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
TRACKING = "Tracking-Flat-Unitree-G1"
PAPER = ("dance1_subject1", "dance1_subject2", "fight1_subject2", "jumps1_subject1", "run1_subject2", "walk1_subject1")


def test_without_mjlab_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dipod.integrations.mjlab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mjlab", None)
    monkeypatch.setitem(sys.modules, "mjlab.tasks", None)
    with pytest.raises(UserError, match=r'pip install "dipod\[mjlab\]"'):
        importlib.import_module("dipod.integrations.mjlab")


@pytest.fixture
def robot() -> Skeleton:
    return load_skeleton(model_path(), JOINTS)


def sway(robot: Skeleton, rate: float = 30.0) -> Motion:
    """Three seconds on the spot with angles well inside all limits."""
    made = frames(91, 29, rate)
    still = np.tile([1.0, 0, 0, 0], (91, 1))
    calm = replace(made, position=made.position * [0, 0, 0] + [0, 0, 0.79], rotation=still, joints=0.1 * made.joints)
    return convert(calm, robot).motion


@pytest.fixture
def registry() -> Any:
    """mjlab's, after mjlab has found this package by its entry point."""
    importlib.import_module("mjlab.tasks")
    return importlib.import_module("mjlab.tasks.registry")


@needs_mjlab
def test_every_task_is_there_twice_in_mjlabs_own_environment(registry: Any) -> None:
    ours = [name for name in registry.list_tasks() if name.startswith("Dipod-") and "subject" not in name]
    assert len(ours) == 12
    for name in ours:
        theirs = name.replace("Dipod-", "Mjlab-").removesuffix("-Initial")
        for play in (False, True):
            found, expected = registry.load_env_cfg(name, play), registry.load_env_cfg(theirs, play)
            assert (found.sim, found.decimation, found.rewards.keys()) == (
                expected.sim,
                expected.decimation,
                expected.rewards.keys(),
            )


@needs_mjlab
@pytest.mark.parametrize(
    ("task", "published"),
    [
        ("Tracking-Flat-Unitree-G1", (48, 16, 6, 0.01, 1e-4, 16, 64, (1024, 512, 256), (1024, 512, 256), 20_000)),
        ("Velocity-Flat-Unitree-G1", (24, 32, 4, 0.05, 1e-4, 32, 64, (256, 256, 256), (768, 768, 768), 2000)),
        ("Velocity-Flat-Unitree-Go1", (24, 16, 4, 0.05, 1e-4, 16, 64, (256, 256, 256), (768, 768, 768), 1500)),
    ],
)
def test_values_are_the_released_ones_and_the_algorithm_takes_them(
    registry: Any, task: str, published: tuple[Any, ...]
) -> None:
    config = importlib.import_module("dipod.integrations.rsl_rl.config")
    for suffix, estimator in (("", "fpopp"), ("-Initial", "fpopp+initial")):
        chosen = registry.load_rl_cfg(f"Dipod-{task}{suffix}")
        given = asdict(chosen.algorithm)
        assert given.pop("class_name") == "dipod.integrations.rsl_rl:FlowAlgorithm"
        algorithm = config.read(config.FlowAlgorithmConfig, given, "algorithm")
        assert (algorithm.estimator, algorithm.warmup_steps) == (estimator, 100)
        assert (
            chosen.num_steps_per_env,
            algorithm.num_learning_epochs,
            algorithm.num_mini_batches,
            algorithm.clip_param,
            algorithm.learning_rate,
            chosen.actor.samples,
            chosen.actor.sampling_steps,
            chosen.actor.hidden_dims,
            chosen.critic.hidden_dims,
            chosen.max_iterations,
        ) == published


@needs_mjlab
@pytest.mark.parametrize("motion", PAPER)
def test_a_motion_of_the_paper_is_a_task_that_asks_for_nothing(registry: Any, motion: str) -> None:
    """Its file is the one that ``dipod motion convert`` writes; nothing else differs from tracking itself."""
    for suffix in ("", "-Initial"):
        name, plain = f"Dipod-{TRACKING}-{motion}{suffix}", f"Dipod-{TRACKING}{suffix}"
        environment, expected = registry.load_env_cfg(name), registry.load_env_cfg(plain)
        assert (environment.scene.num_envs, environment.commands["motion"].motion_file) == (4096, f"{motion}.npz")
        environment.scene.num_envs = expected.scene.num_envs
        environment.commands["motion"].motion_file = expected.commands["motion"].motion_file
        assert str(environment) == str(expected)
        chosen, expected = registry.load_rl_cfg(name), registry.load_rl_cfg(plain)
        assert chosen.experiment_name == expected.experiment_name.replace("tracking", motion)
        assert chosen.max_iterations == 1000
        assert replace(chosen, experiment_name="", max_iterations=0) == replace(
            expected, experiment_name="", max_iterations=0
        )
        assert registry.load_runner_cls(name) is registry.load_runner_cls(plain)


@needs_mjlab
def test_conversion_agrees_with_mjlabs_own(tmp_path: Path) -> None:
    """Within what mjlab loses: times in float32, and no interpolation between rotations closer than 0.002 rad."""
    theirs = importlib.import_module("mjlab.scripts.csv_to_npz")
    given = frames(301, 29)
    write_csv(tmp_path / "x.csv", given)
    loaded = theirs.MotionLoader(str(tmp_path / "x.csv"), 30, 50, "cpu")
    ours = convert(given, load_skeleton(model_path(), JOINTS)).motion
    for found, expected, tolerance in (
        (ours.joint_pos, loaded.motion_dof_poss, 1e-4),
        (ours.joint_vel, loaded.motion_dof_vels, 5e-3),
        (ours.body_pos_w[:, 0], loaded.motion_base_poss, 1e-4),
        (ours.body_lin_vel_w[:, 0], loaded.motion_base_lin_vels, 5e-3),
        (ours.body_ang_vel_w[:, 0], loaded.motion_base_ang_vels, 2e-2),
    ):
        np.testing.assert_allclose(found, expected.numpy(), atol=tolerance)


@needs_mjlab
def test_a_motion_in_isaac_labs_order_is_refused_before_training(robot: Skeleton, tmp_path: Path) -> None:
    motion = sway(robot)
    bodies, joints = robot.breadth_first()
    arrays = {k: v[:, bodies if k.startswith("body") else joints] for k, v in vars(motion).items() if k != "fps"}
    save_motion(tmp_path / "isaac.npz", Motion(**arrays))
    term = SimpleNamespace(cfg=SimpleNamespace(motion_file=str(tmp_path / "isaac.npz")))
    env = SimpleNamespace(unwrapped=SimpleNamespace(command_manager=SimpleNamespace(get_term=lambda _: term)))
    runners = importlib.import_module("dipod.integrations.mjlab.runners")
    with pytest.raises(UserError, match="bodies and joints in Isaac Lab's breadth-first order"):
        runners.TrackingRunner(env, {})


@needs_mjlab
def test_three_iterations_of_tracking_by_mjlabs_own_command(robot: Skeleton, tmp_path: Path) -> None:
    save_motion(tmp_path / "walk1_subject1.npz", sway(robot))
    flags = {
        "env.scene.num-envs": 16,
        "agent.max-iterations": 3,
        "agent.num-steps-per-env": 8,
        "agent.actor.sampling-steps": 8,
        "agent.algorithm.num-learning-epochs": 2,
        "agent.algorithm.warmup-steps": 2,
        "agent.algorithm.distillation.iterations": 2,
        "log-root": "logs",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "mjlab.scripts.train", f"Dipod-{TRACKING}-walk1_subject1-Initial", *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled", "MJLAB_WARP_QUIET": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Learning iteration 2/3" in done.stdout
    assert "ONNX export failed" not in done.stdout
    run = next((tmp_path / "logs/dipod_g1_walk1_subject1_initial").iterdir())
    assert {path.name for path in run.glob("model_*.pt")} == {"model_0.pt", "model_2.pt"}
    assert list(run.glob("*.onnx"))
