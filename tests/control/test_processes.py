"""Control on two processes: one policy, and what one process would have made of the same environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from dipod import runs
from dipod.control.build import build_control_trainer
from dipod.control.config import ControlConfig
from dipod.control.peers import Peers
from dipod.errors import UserError
from dipod.noise import SharedGenerator, keyed_generator, normal_rows, uniform_rows
from dipod.parallel import Processes
from dipod.recipes import control, load, overlay
from dipod.runs import Silent
from dipod.stopping import Interrupted
from dipod.tasks.control import make
from tests.control.test_runs import TINY
from tests.test_trainer import StopAfter

ROOT = Path(__file__).parents[2]
RTOL, ATOL = 1e-4, 1e-5
"""What float32 sums in another order come to after four iterations, mostly through AdamW's first steps."""


def launch(*folders: Path, processes: int = 2) -> None:
    """Bring run folders to their ends on several CPU processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "tests.control.processes_worker", *map(str, folders)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def run(folder: Path, **changes: object) -> Path:
    """A new run folder."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    given = {key: value for key, value in TINY.items() if not key.startswith("task.") or "task" not in changes}
    runs.create(folder, overlay(load("track"), {**given, "device": "cpu", **changed}))
    return folder


def assert_same_run(one: Path, two: Path) -> None:
    for row, other in zip(runs.read_metrics(one), runs.read_metrics(two), strict=True):
        angles = ("monitor_cosine", "monitor_drift", "monitor_update")  # which one process alone measures
        own = {"monitor_share", "warning", *(key for key in (*row, *other) if key.startswith(angles))}
        assert row.keys() - own == other.keys() - own
        for key, value in row.items():
            if "seconds" not in key and key not in own and not isinstance(value, str):
                assert other[key] == pytest.approx(value, rel=RTOL, abs=ATOL), (row["step"], key)
    for file in ("model", "policy", "tensors"):
        left, right = (load_file(f / runs.CHECKPOINTS / "step-4" / f"{file}.safetensors") for f in (one, two))
        assert left.keys() == right.keys()
        for name, tensor in left.items():
            torch.testing.assert_close(right[name], tensor, rtol=RTOL, atol=ATOL)


RUNS: dict[str, dict[str, object]] = {
    "initial": {"algorithm": "fpopp+initial", "distillation__buffer": 24},
    "interleave": {"algorithm": "fpo+interleave", "optimiser__target_change": 1e-6, "trainer__average": 0.9},
    "dipod": {"algorithm": "fpopp+dipod", "beta": 0.1, "task": "multigoal", "objective__entropy": 1e-3},
    "vae": {"algorithm": "fpo+interleave", "task": "bandit", "policy__kind": "vae", "trainer__evaluate_episodes": 5},
    "gaussian": {"algorithm": "ppo", "task": "pendulum", "trainer__evaluate_episodes": 5, "trainer__mini_batches": 8},
}


def test_two_processes_are_one_policy_and_do_what_one_process_does(tmp_path: Path) -> None:
    folders = [run(tmp_path / f"{name}-2", **changes) for name, changes in RUNS.items()]
    launch(*folders)
    for name, two in zip(RUNS, folders, strict=True):
        first, second = (load_file(two / f"rank-{rank}.safetensors") for rank in range(2))
        assert all(torch.equal(first[part], second[part]) for part in first), name
        one = run(tmp_path / name, **RUNS[name])
        runs.train(one, Silent())
        assert_same_run(one, two)


def test_a_run_goes_on_on_another_number_of_processes(tmp_path: Path) -> None:
    """One process and then two, and two and then one: environments, episodes and noise go on where they were."""
    pytest.importorskip("gymnasium")
    changes = {"algorithm": "fpopp", "task": "gymnasium", "task__id": "Pendulum-v1"}
    whole, first, second = (run(tmp_path / name, **changes) for name in ("whole", "first", "second"))
    runs.train(whole, Silent())
    with pytest.raises(Interrupted):
        runs.train(first, StopAfter("trained", 3))
    launch(first, second)
    assert_same_run(whole, first)
    shutil.rmtree(second / runs.CHECKPOINTS / "step-4")
    runs.train(second, Silent())
    assert_same_run(whole, second)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_of_a_mini_batch_is_exactly_one_process_s(size: int) -> None:
    steps, width = 5, 4
    table = torch.arange(steps * width * size).view(steps, size, width)  # [T, size, W]
    order = torch.randperm(table.numel(), generator=keyed_generator(0))[:37]
    found = torch.full((len(order),), -1)
    for rank in range(size):
        rows, places = Peers(rank, size).own(order, width)
        found[places] = table[:, rank].flatten()[rows]
    assert torch.equal(found, order)


def test_shares_are_contiguous_and_as_even_as_can_be() -> None:
    assert [Peers(rank, 3).share(8) for rank in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 8)]


def test_processes_draw_what_one_would_for_all() -> None:
    alone = keyed_generator("noise")
    whole = [normal_rows(alone, 6, 3), uniform_rows(alone, 6), normal_rows(alone, 6, 2, dtype=torch.float64)]
    for rank in range(2):
        generator = Peers(rank, 2).generator("noise", total=6, device="cpu")
        assert isinstance(generator, SharedGenerator)
        rows = slice(3 * rank, 3 * rank + 3)
        mine = [normal_rows(generator, 3, 3), uniform_rows(generator, 3)]
        mine.append(normal_rows(generator, 3, 2, dtype=torch.float64))
        assert all(torch.equal(one[rows], other) for one, other in zip(whole, mine, strict=True))


@pytest.mark.parametrize("name", ["track", "multigoal", "cartpole-swingup", "pendulum", "Pendulum-v1"])
def test_a_process_s_environments_are_those_of_the_whole(name: str) -> None:
    if name == "Pendulum-v1":
        pytest.importorskip("gymnasium")
    whole, part = make(name, 6, max_episode_length=4), make(name, 3, max_episode_length=4)
    alone, shared = keyed_generator("start"), Peers(1, 2).generator("start", total=6, device="cpu")
    seen = [(whole.reset(alone, spread=True), part.reset(shared, spread=True))]
    for step in range(6):
        action = torch.rand(6, whole.action_size, generator=keyed_generator("action", step))
        seen.append((whole.step(action, alone).observation, part.step(action[3:], shared).observation))
    for one, other in seen:
        torch.testing.assert_close(other, one[3:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trainer.environments": 8}, r"trainer\.environments = 8: give a multiple of the number of processes \(3\)"),
        ({"trainer.evaluate_episodes": 2}, r"trainer\.evaluate_episodes = 2: give each of the 3 processes"),
        ({"device": "meta"}, "device = 'meta': 3 processes exchange tensors on cpu"),
    ],
)
def test_what_cannot_be_shared_out_is_named(changes: dict[str, object], complaint: str) -> None:
    config: ControlConfig = control(
        overlay(load("track"), {**TINY, "device": "cpu", "trainer.environments": 9, **changes})
    )
    second = SimpleNamespace(num_processes=3, process_index=1, device=torch.device("cpu"))
    with pytest.raises(UserError, match=complaint):
        build_control_trainer(config, Processes(second))
