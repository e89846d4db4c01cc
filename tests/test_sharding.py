"""FSDP2 and ZeRO-2 on two CPU processes: what they train is what one process trains.

Processes differ in what may differ: chunks of masked tokens for the head, held-out problems, decoding passes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dipod import runs
from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.parallel import Processes
from dipod.recipes import language, overlay
from dipod.runs import Silent
from dipod.sharding import read_engine
from dipod.stopping import Interrupted
from tests.checkpoints import write_tiny_dream, write_tiny_llada
from tests.test_export import text
from tests.test_trainer import StopAfter, tiny

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
ROOT = Path(__file__).parents[1]


def short(model: Path, **changes: object) -> RunConfig:
    """Four steps with several passes, on 5 problems of which one process has 2 and the other 3, decoded one by one."""
    common = {
        "trainer.steps": 4,
        "trainer.save_every": 2,
        "trainer.evaluate_every": 2,
        "trainer.inner_updates": 2,
        "trainer.rows_per_pass": 3,
        "sampler.max_rows": 1,
        "sampler.eos_stop": True,
        "optimiser.max_grad_norm": 0.1,
        "model.gradient_checkpointing": True,
    }
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return language(overlay(text(model), {**common, **given}))


def launch(kind: str, folder: Path, processes: int = 2) -> str:
    """Bring a run folder to its end on several CPU processes under FSDP or ZeRO-2; what they said on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    environment["ACCELERATE_USE_DEEPSPEED"] = str(kind == "zero2").lower()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "tests.sharded_worker", kind, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def last(folder: Path, file: str) -> dict[str, torch.Tensor]:
    return load_file(folder / runs.CHECKPOINTS / "step-4" / f"{file}.safetensors")


def assert_same_run(one: Path, two: Path, *files: str) -> None:
    for row, other in zip(runs.read_metrics(one), runs.read_metrics(two), strict=True):
        for key in ("reward", "train_elbo", "grad_norm", "elbo", "gap", "solved_sampled"):
            if key in row:
                assert other[key] == pytest.approx(row[key], rel=1e-4, abs=1e-5), key
    for file in files:
        for name, tensor in last(one, file).items():
            torch.testing.assert_close(last(two, file)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("write", "changes", "files"),
    [
        (write_tiny_llada, {}, ("adapter_model", "policy")),
        (
            write_tiny_dream,
            {"model__lora_rank": 0, "algorithm": "fpo+interleave", "interleave__every": 2, "interleave__steps": 2},
            ("model", "policy", "distillation"),
        ),
    ],
)
def test_fsdp_does_what_one_process_does_and_each_goes_on_where_the_other_stopped(
    tmp_path: Path, write: object, changes: dict[str, object], files: tuple[str, ...]
) -> None:
    assert callable(write)
    write(tmp_path / "model")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        runs.create(folder, short(tmp_path / "model", **changes))
    runs.train(one, Silent())
    with pytest.raises(Interrupted):
        runs.train(two, StopAfter("trained", 2))
    launch("fsdp", two)
    assert_same_run(one, two, *files)
    shutil.rmtree(one / runs.CHECKPOINTS)
    shutil.copytree(two / runs.CHECKPOINTS, one / runs.CHECKPOINTS)
    shutil.rmtree(one / runs.CHECKPOINTS / "step-4")
    runs.train(one, Silent())
    assert_same_run(two, one, *files)


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="needs deepspeed")
def test_zero2_does_what_one_process_does_with_the_clip_of_the_run(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path / "model")
    one, two, again = tmp_path / "one", tmp_path / "two", tmp_path / "again"
    for folder in (one, two):
        runs.create(folder, short(tmp_path / "model"))
    runs.train(one, Silent())
    launch("zero2", two)
    assert_same_run(one, two, "adapter_model")
    shutil.copytree(two, again)
    shutil.rmtree(again / runs.CHECKPOINTS / "step-4")
    launch("zero2", again)
    assert_same_run(two, again, "adapter_model")


def test_fsdp_refuses_a_network_whose_parts_it_cannot_gather(tmp_path: Path) -> None:
    runs.create(tmp_path / "run", tiny(pretrain__steps=1))
    with pytest.raises(AssertionError, match=r"model\.path = 'MaskedTransformer': FSDP is for LLaDA and Dream"):
        launch("fsdp", tmp_path / "run", processes=1)


def test_deepspeed_goes_on_with_as_many_processes_only(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    for rank in range(2):
        (tmp_path / "engine" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    with pytest.raises(UserError, match=r"number of processes = 8: .* was written by 2 processes under DeepSpeed"):
        read_engine(None, tmp_path, 8)


def test_a_single_process_is_not_sharded() -> None:
    from dipod.parallel import start

    processes: Processes = start()
    assert not processes.sharded
