"""The benchmarks run, at sizes that measure nothing, and count operations as torch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dipod.policies.llada import LLaDA, LLaDAConfig
from dipod.policies.lora import LoraSettings, add_lora, base_network
from dipod.policies.tokens import Tokens

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROWS, PROMPT, LENGTH = 2, 5, 7
ORIGIN = {"command", "hardware", "threads"}


def run(script: str, *arguments: str) -> str:
    """What a script prints; no GPU is seen."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(tmp_path: Path, script: str, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "folder" / "result.json"
    run(script, *arguments, "--out", str(out))
    found: dict[str, Any] = json.loads(out.read_text())
    assert found.keys() >= ORIGIN
    return found


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flops_by_formula_are_those_that_torch_counts(kv_heads: int) -> None:
    flops = run_path(str(BENCHMARKS / "flops.py"))
    shape = LLaDAConfig(
        d_model=16, n_layers=3, n_heads=4, n_kv_heads=kv_heads, mlp_hidden_size=40, vocab_size=50, mask_token_id=49
    )
    generator = torch.Generator().manual_seed(0)
    network = LLaDA(shape, generator)
    ids = torch.randint(49, (ROWS, PROMPT + LENGTH), generator=generator)
    places = torch.tensor([[1, 4, 9]]).expand(ROWS, -1)

    def forward() -> torch.Tensor:
        hidden: torch.Tensor = network(Tokens.full(ids), places)
        base = base_network(network)
        assert isinstance(base, LLaDA)
        return base.head(hidden)

    sizes = (ROWS, PROMPT + LENGTH, places.numel())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        forward()
    assert flops["forward_flops"](shape, *sizes) == counted.get_total_flops()
    network = add_lora(network, LoraSettings(2, 4, 0.0, "all"), generator)  # type: ignore[assignment]
    adapters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        forward().sum().backward()
    by_formula = flops["adapter_step_flops"](shape, *sizes, adapters)
    assert by_formula == pytest.approx(counted.get_total_flops(), rel=0.05), "the first block needs no input gradient"


def test_caching(tmp_path: Path) -> None:
    found = result(tmp_path, "caching.py", "--size", "tiny", "--samples", "1", "3", "--repeats", "1")
    assert [(row["way"], row["samples"]) for row in found["results"]] == [
        ("plain", 1),
        ("plain", 3),
        ("cached", 3),
        ("trainer", 3),
    ]
    for row in found["results"]:
        assert {"allocated_mb", "seconds"} <= row["ratio"].keys() <= found["measures"].keys()
    plain, cached, trainer = (row["allocated_mb"]["median"] for row in found["results"][1:])
    assert max(cached, trainer) < 0.7 * plain
    for row in found["gradients"]:
        assert row["largest_gradient"] > 1e-3
        assert max(row["largest_difference"].values()) < 1e-6


def test_language(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    found = result(tmp_path, "language.py", "--size", "tiny")
    assert {"model", "logits", "rollouts", "training"} <= found.keys()
    for row in (*found["logits"], *found["training"]):
        assert {"seconds", "peak_gb"} <= row.keys()
    assert [row["batch"] for row in found["rollouts"]] == [2, 2, 3]
    assert [("published" in row, row["adapters"] > 0) for row in found["rollouts"]] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert all({"tokens_per_second", "flops", "mfu"} <= row["ours"].keys() for row in found["rollouts"])


def test_language_needs_a_gpu_at_full_size() -> None:
    assert run("language.py").startswith("no GPU here: nothing was measured")


def test_sampler(tmp_path: Path) -> None:
    sizes = {"width": 32, "layers": 1, "heads": 2, "batch": 2, "prompt": 4, "length": 8, "steps": 4, "block": 4}
    flags = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    found = result(tmp_path, "sampler.py", *flags)
    assert [row["temperature"] for row in found["results"]] == [0.0, 0.9]
    assert found["results"][0]["identical"]


def test_flow(tmp_path: Path) -> None:
    found = result(tmp_path, "flow.py", "--size", "tiny", "--threads", "1", "--repeats", "1")
    assert max(found["largest_difference"].values()) < 1e-5
    (row,) = found["results"]
    parts = {"rollout", "update", "iteration", "distillation", "distillation_as_released"}
    assert row["threads"] == 1
    assert row["seconds"].keys() == {"plain", "ours"}
    assert row["ratio"].keys() == parts | {f"{part}_cpu" for part in parts}


def test_alignment(tmp_path: Path) -> None:
    found = result(tmp_path, "alignment.py", "--models", "1", "--looks", "2", "--tokens", "3")
    tight = {row["algorithm"]: row for row in found["tight"]}
    assert tight["espo"]["drift_share"] == pytest.approx(0, abs=1e-6)
    assert tight["spg"]["drift_share"] > 0.05
    assert found["sampled"][0]["exact"] <= 1


def test_brackets(tmp_path: Path) -> None:
    found = result(
        tmp_path, "brackets.py", "--models", "2", "--actions", "8", "--paths", "2", "4", "--exact-rows", "9000"
    )
    assert found["share_that_errs"].keys() == {"2", "4"}
    assert [row["tokens"] for row in found["models"]] == [8, 8]
    for row in found["models"]:
        assert row["gap"] > 0
        assert {"low", "high", "low_errs", "high_errs"} == row["brackets"]["4"].keys()


def test_alarms(tmp_path: Path) -> None:
    sizes = ("--series", "2", "--looks", "2", "--updates", "1", "--pretraining", "2", "--only", "exact", "growing")
    found = result(tmp_path, "alarms.py", *sizes)["results"]
    assert found["exact"].keys() >= {"gap", "cosine", "warned", "warned_formerly"}
    assert len(found["growing"]["gaps"]) == 2


def test_figures_are_drawn_from_a_comparison_s_curves(tmp_path: Path) -> None:
    curves = {"gap": [[0, 0.5], [10, 0.1]], "reward_greedy": [[0, 0.1], [5, 0.2], [10, 0.3]]}
    cells = [
        {"algorithm": name, "seed": 0, "run": f"{name}/seed-0", "gap": 0.1, "gap_kind": "exact", "curves": curves}
        for name in ("fpo", "ppo")
    ]
    (tmp_path / "vae.json").write_text(json.dumps({"recipe": "vae-bandit", "cells": cells}))
    assert "vae: drawn" in run("figures.py", "--docs", str(tmp_path))
    assert {path.name for path in tmp_path.glob("*.png")} == {"vae.png", "flow-gap.png"}


def test_monitor(tmp_path: Path) -> None:
    found = result(tmp_path, "monitor.py", "--recipes", "countdown-tiny", "--steps", "2")
    assert [row["exact"] for row in found["results"]] == [True, False]
    for row in found["results"]:
        assert row["looks"] == 1
        assert 0 < row["share"] < 1


def test_kills(tmp_path: Path) -> None:
    """One kill: whether all comes back is `tests/test_compare.py`'s and the benchmark's own."""
    found = result(tmp_path, "kills.py", "--what", "train", "--kills", "1", "--steps", "2", "--longest", "1")
    (row,) = found["results"].values()
    assert row["kills"] == {"SIGKILL": 1}
    assert (row["runs_compared"], row["runs_that_differ"], row["left_alive"], row["half_written"]) == (1, 0, 0, 0)


def test_grading(tmp_path: Path) -> None:
    cases = [
        {"task": "gsm8k", "generation": "<answer>18 dollars</answer>", "reference": 18, "right": True, "source": "a"},
        {"task": "gsm8k", "generation": "<answer>19</answer>", "reference": 18, "right": False, "source": "b"},
    ]
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    found = result(tmp_path, "grading.py", str(path))
    counts = {"right": 1, "accepted": 1, "wrong": 1, "mistaken": 0}
    assert found["parsers"]["verify"]["tasks"]["gsm8k"] == counts
    assert found["parsers"]["strict"]["errs_on"] == ["a"]


def test_grading_fuzz(tmp_path: Path) -> None:
    found = result(tmp_path, "grading_fuzz.py", "--begin", "1", "--texts", "15")
    assert found["calls"] > 15 * 50
    assert found["broken"] == found["files_left_behind"] == []
    assert found["events_that_run_code"] == {}
