"""Gradient caching over corruption samples: memory that does not grow with K, and the same gradient.

    python benchmarks/caching.py [--device cuda] [--samples 1 4 16] [--repeats 3]

One gradient step of FPO + DiPOD on a small model of LLaDA's shape whose activations outweigh its parameters, each
measurement in a process of its own, in three ways: ``plain`` (all K samples of all rollouts at once), ``cached``
(`dipod.likelihood.caching.backward_in_parts` with one sample of every rollout at a time) and ``trainer``
(`dipod.update` with ``rows_per_pass`` equal to the number of rollouts). Memory is what the step adds to the level
before it. The result goes to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import MB, RESULTS, provenance, spread, timed
from memory import allocated, resident, resident_before
from torch import Tensor

from dipod.algorithms import ALGORITHMS, Batch
from dipod.config import OptimiserConfig, Settings, TrainerConfig
from dipod.files import write_json
from dipod.likelihood.caching import backward_in_parts
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.evidence import MaskedEvidence
from dipod.parallel import start
from dipod.policies.llada import LLaDA, LLaDAConfig
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.rollouts import Rollouts
from dipod.update import Updater

BETA = 0.5
WAYS = ("plain", "cached", "trainer")
CHILDREN = {
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "KINETO_LOG_LEVEL": "99",
}
"""Their environment: glibc returns freed memory to the system at once, the profiler is silent."""
MEASURES = {
    "allocated_mb": "most bytes of tensors alive at once during the step, above the level before it: torch's own count "
    "of allocations (on a CPU its profiler's memory events, on CUDA max_memory_allocated); the same in every run",
    "resident_mb": "most resident memory of the process during the step, above the level before it (Linux: VmHWM after "
    "a reset); glibc is told to return freed blocks of 128 KiB and more at once",
    "gradient_mb": "of the parameters' gradients; a second pass finds those of the first in memory; a single pass "
    "frees its activations while it makes them",
    "seconds": "wall clock of the step, without the profiler; other processes share the machine where load_average "
    "says so",
    "largest_difference": "of any element of the gradient from the plain one, float64; largest_gradient is its scale",
}


@dataclass(frozen=True)
class Size:
    """The model and its rollouts.

    Attributes:
        width: hidden size; the feed-forward has three times as much.
        layers: blocks.
        heads: attention heads.
        vocabulary: token ids.
        batch: rollouts.
        exact_batch: rollouts on which gradients are compared in float64.
        prompt: tokens.
        length: tokens of a completion.
    """

    width: int
    layers: int
    heads: int
    vocabulary: int
    batch: int
    exact_batch: int
    prompt: int
    length: int

    @property
    def shape(self) -> LLaDAConfig:
        """Of the network; the last token hides others."""
        return LLaDAConfig(
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.heads,
            mlp_hidden_size=3 * self.width,
            vocab_size=self.vocabulary,
            mask_token_id=self.vocabulary - 1,
        )

    @property
    def gradient_mb(self) -> float:
        """Of all parameters in float32."""
        with torch.device("meta"):
            return sum(4 * p.numel() for p in LLaDA(self.shape).parameters()) / MB


SIZES = {"small": Size(256, 6, 8, 1024, 8, 2, 64, 96), "tiny": Size(32, 2, 2, 64, 4, 2, 8, 12)}


@dataclass(frozen=True)
class Job:
    """One measurement, in a process of its own."""

    size: Size
    way: str
    samples: int
    device: str
    threads: int
    profiled: bool


@dataclass(frozen=True)
class Setting:
    """A policy with rollouts, and the gradient step on some of them."""

    policy: MaskedPolicy
    rollouts: Rollouts
    step: Callable[[Rollouts], None]

    def taken(self) -> Tensor:
        """What the step takes from all parameters: the gradient, at rate 1."""
        parameters = list(self.policy.network.parameters())
        before = torch.cat([p.detach().flatten() for p in parameters])
        self.step(self.rollouts)
        return before - torch.cat([p.detach().flatten() for p in parameters])


def build(size: Size, way: str, samples: int, rate: float, device: str) -> Setting:
    """The same model and rollouts every time, and a step of plain descent that takes its gradient in the given way.

    Args:
        size: of model and rollouts.
        way: one of `WAYS`.
        samples: K.
        rate: 0 to measure steps that are all alike; else float64 and ``size.exact_batch`` rollouts.
        device: where.
    """
    batch, dtype = (size.exact_batch, torch.float64) if rate else (size.batch, torch.float32)
    seeded = torch.Generator().manual_seed(0)
    mask = size.vocabulary - 1
    network = LLaDA(size.shape, seeded).to(device, dtype)
    policy = MaskedPolicy(network, mask)
    ids = torch.randint(mask, (batch, size.prompt + size.length), generator=seeded).to(device)
    action = Tokens.full(ids[:, size.prompt :])
    advantage = torch.linspace(-1, 1, batch, dtype=dtype, device=device)
    order = torch.arange(size.length).expand(batch, -1)
    rollouts = Rollouts(
        Tokens.full(ids[:, : size.prompt]), action, action.valid, advantage, advantage, torch.arange(batch), order
    )
    algorithm = replace(ALGORITHMS["fpo"], corruption=CorruptionConfig("independent", samples))
    settings = Settings(
        TrainerConfig(rows_per_pass=batch if way == "trainer" else 0),
        SamplerConfig(),
        OptimiserConfig(max_grad_norm=1e9),
    )
    updater = Updater(policy, policy, algorithm, settings, 0, start(), list(network.parameters()), size.length)
    optimiser = torch.optim.SGD(network.parameters(), rate)

    def cached(some: Rollouts) -> None:
        def loss_of(evidence: MaskedEvidence) -> Tensor:
            old = algorithm.proxy(evidence, some.advantage).detach()
            known = Batch(old, some.advantage, some.length, evidence.elbo())
            return -algorithm.contributions(evidence, known, BETA).mean()

        backward_in_parts(
            partial(updater.evidence, some),
            updater.corrupt(some, BETA, 0, 0),
            loss_of,
            1,
            lambda loss, _: loss.backward(),
            lambda _: nullcontext(),
        )
        optimiser.step()
        optimiser.zero_grad()

    def through_updater(some: Rollouts) -> None:
        updater.update(some, BETA, optimiser, 0)

    return Setting(policy, rollouts, cached if way == "cached" else through_updater)


def measure(job: Job) -> dict[str, float]:
    """Memory and time of one step, after a small one."""
    torch.set_num_threads(job.threads)
    setting = build(job.size, job.way, job.samples, 0.0, job.device)
    setting.step(setting.rollouts[:1])

    def work() -> None:
        setting.step(setting.rollouts)

    before = float(torch.cuda.memory_allocated()) if job.device == "cuda" else resident_before()
    _, seconds, peak = timed(work, job.device)
    found = {"seconds": seconds}
    if peak is not None and before is not None:
        found["allocated_mb"] = (peak - before) / MB
    elif before is not None:
        found["resident_mb"] = (resident("VmHWM") - before) / MB
    if job.profiled and job.device == "cpu":
        found["allocated_mb"] = allocated(work) / MB
    return found


def differences(size: Size, samples: int, device: str, threads: int) -> dict[str, Any]:
    """How far the gradients of the other ways are from the plain one, in float64."""
    torch.set_num_threads(threads)
    ways = {way: build(size, way, samples, 1.0, device).taken() for way in WAYS}
    plain = ways.pop("plain")
    return {
        "samples": samples,
        "largest_gradient": float(plain.abs().max()),
        "largest_difference": {way: float((gradient - plain).abs().max()) for way, gradient in ways.items()},
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16], help="K; the first is compared with")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each measurement")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file; one in benchmarks/results if not given")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    os.environ.update(CHILDREN)
    report = provenance("caching.py", options.device)
    size, first = SIZES[options.size], options.samples[0]
    cells = [(way, k) for k in options.samples for way in (WAYS if k > 1 else ("plain",))]
    found: dict[tuple[str, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["dipod.trainer", "dipod.policies.llada", "accelerate", "torch.profiler", "torch._dynamo"]
    )
    with context.Pool(1, maxtasksperchild=1) as pool:
        for repeat in range(options.repeats):
            for cell in cells:
                job = Job(size, *cell, options.device, options.threads, profiled=repeat == 0)
                found[cell].append(pool.apply(measure, (job,)))
                print(json.dumps({"way": cell[0], "samples": cell[1], **found[cell][-1]}), flush=True)
        exact = [pool.apply(differences, (size, k, options.device, options.threads)) for k in options.samples]
    results = [{"way": way, "samples": k, **gathered(rows)} for (way, k), rows in found.items()]
    base = next(row for row in results if row["samples"] == first)
    for row in results:
        seen = [key for key in MEASURES if key in row and base[key]["median"] > 0]  # a small peak can go unseen
        row["ratio"] = {key: row[key]["median"] / base[key]["median"] for key in seen}
    report |= {"size": asdict(size), "algorithm": "fpo+dipod", "beta": BETA, "measures": MEASURES}
    report |= {"gradient_mb": size.gradient_mb, "results": results, "gradients": exact}
    path = options.out or RESULTS / f"caching-{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    print(json.dumps({"gradients": exact, "ratios": [[r["way"], r["samples"], r["ratio"]] for r in results]}))


def gathered(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Median and range of what repeated measurements found."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: spread([row[key] for row in rows if key in row]) for key in keys}


if __name__ == "__main__":
    main()
