"""Two torchrun agents over the loopback interface, as on two nodes: whoever is killed, the run ends by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dipod import runs
from tests.control.test_runs import TINY as CONTROL
from tests.test_trainer import TINY as MASKED

ROOT = Path(__file__).parents[1]
RUNS: dict[str, tuple[str, dict[str, object], list[object]]] = {
    "masked": ("sudoku", {**MASKED, "trainer.evaluate_problems": 0, "trainer.save_every": 2}, [1, 3, "metrics"]),
    "control": ("track", {**CONTROL, "device": "cpu", "trainer.save_every": 2}, [0, 4, "checkpoint"]),
}
"""Recipe, settings, and who is killed: the rank, at which step, and where."""


def agents(plan: Path, restarts: int) -> list[tuple[int, str]]:
    """Start two, a process each; the status of each and what it and its process said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--max-restarts", str(restarts), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    command += ["--local-addr", "127.0.0.1"]
    started = [
        subprocess.Popen(
            [*command, "--rdzv-conf", f"is_host={int(node == 0)}", "-m", "tests.distributed_worker", str(plan)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    try:
        said = [agent.communicate(timeout=300)[0] for agent in started]
    finally:
        for agent in started:
            agent.kill()
    return [(agent.returncode, text) for agent, text in zip(started, said, strict=True)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All that the last checkpoint holds."""
    last = runs.last_checkpoint(folder)
    return {f"{file.name} {name}": t for file in last.glob("*.safetensors") for name, t in load_file(file).items()}


def test_a_killed_worker_brings_all_back_and_the_end_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    plan: list[dict[str, Any]] = []
    for suffix in ("killed", "whole"):
        for name, (recipe, settings, target) in RUNS.items():
            given = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
            out = ["--out", str(tmp_path / f"{name}-{suffix}"), "--resume", "auto"]
            kill = [target] if suffix == "killed" else []
            plan.append({"arguments": ["train", recipe, *given, *out], "kill": kill})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ended = agents(tmp_path / "plan.json", restarts=3)
    assert [status for status, _ in ended] == [0, 0], ended
    assert len(list(tmp_path.glob("killed-*"))) == 2
    for name in RUNS:
        killed, whole = (tmp_path / f"{name}-{suffix}" for suffix in ("killed", "whole"))
        left, right = tensors(killed), tensors(whole)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name
        steps = [row["step"] for row in runs.read_metrics(killed)]
        assert steps == list(range(len(steps))) == [row["step"] for row in runs.read_metrics(whole)]
