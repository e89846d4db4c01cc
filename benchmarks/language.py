"""LLaDA's shape with random weights on one GPU: rollouts, training steps, memory, and the share of peak FLOP/s.

    python benchmarks/language.py [--size tiny] [--budget 420]

Rollouts: our sampler against the published algorithm (`plain` in sampler.py), in turn, the second time the other way
round, without adapters; and ours with adapters, as the trainer draws them. Training: one gradient step of FPO + DiPOD
and SPG + DiPOD through `dipod.update` on adapters of rank 128. Logits: log-probabilities of the masked tokens alone, in
chunks, against cross entropy at every place. Without a GPU only ``--size tiny`` runs, which measures nothing of
interest. The result goes to ``benchmarks/results``, rewritten after each part.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from common import GB, RESULTS, provenance, spread, timed
from flops import adapter_step_flops, forward_flops, head_flops, peak_flops
from sampler import plain
from shapes import SIZES, STEPS, Size, Step, build, shape_of
from torch import Tensor, nn

from dipod.algorithms import ALGORITHMS
from dipod.config import OptimiserConfig, Settings, TrainerConfig
from dipod.files import write_json
from dipod.noise import Noise
from dipod.parallel import start
from dipod.policies.head import token_log_probs
from dipod.policies.llada import LLaDA
from dipod.policies.lora import LoraSettings, add_lora, base_network, reference
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.rollouts import Rollouts
from dipod.update import Updater

BETA = 0.05


class Bench:
    """A network on a device, what is measured on it, and what was found.

    Args:
        size: of everything.
        device: where.
        path: the JSON file, rewritten whenever something was found.
    """

    def __init__(self, size: Size, device: str, path: Path) -> None:
        self.size, self.device, self.path = size, device, path
        self.network: nn.Module = build(size, device)
        self.report = provenance("language.py", device)
        self.report |= {"peak_flops": peak_flops(self.report["hardware"]), "model": shape_of(self.network, size)}

    @property
    def policy(self) -> MaskedPolicy:
        """The network as a policy."""
        return MaskedPolicy(self.network, self.size.shape.mask_token_id)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The adapters' weights."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def tokens(self, rows: int, length: int) -> Tensor:
        """Random tokens, the same every time, [rows, length]."""
        seeded = torch.Generator().manual_seed(0)
        return torch.randint(self.size.shape.mask_token_id, (rows, length), generator=seeded).to(self.device)

    def cost(self, times: list[float], peak: float | None, flops: int | None = None) -> dict[str, Any]:
        """Time, memory and, given the operations that the work needs, the share of the device's peak."""
        found: dict[str, Any] = {"seconds": spread(times), "peak_gb": None if peak is None else peak / GB}
        if flops is not None:
            most, rate = self.report["peak_flops"], flops / spread(times)["median"]
            found |= {"flops": flops, "flops_per_second": rate, "mfu": None if most is None else rate / most}
        return found

    def keep(self, part: str, found: dict[str, Any]) -> None:
        """Print and write what was found."""
        print(json.dumps({"part": part, **found}), flush=True)
        self.report.setdefault(part, []).append(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.report)


def decode(bench: Bench, batch: int, repeats: int, published: bool) -> dict[str, Any]:
    """Tokens a second of our sampler and, if wanted, of the published one on the same prompts."""
    size, total = bench.size, bench.size.prompt + bench.size.length
    prompt, policy = bench.tokens(batch, size.prompt), bench.policy
    noise = Noise.keyed("benchmark", examples=range(batch), device=bench.device)
    generator = torch.Generator(bench.device).manual_seed(0)
    base = cast(LLaDA, base_network(bench.network))

    def ours(config: SamplerConfig, length: int) -> Tensor:
        return policy.sample(Tokens.full(prompt), Tokens.full(prompt.new_zeros(batch, length)), config, noise).ids

    def theirs(config: SamplerConfig, length: int) -> Tensor:
        return plain(base, prompt, length, config, generator)

    blocks, steps = size.sampler.blocks_of(size.length)
    samplers = [("ours", ours, blocks * size.sampler.block_length * (steps + 1) // 2)]
    if published:
        samplers.append(("published", theirs, size.sampler.steps * total))
    times: dict[str, list[float]] = {name: [] for name, _, _ in samplers}
    peaks: dict[str, float | None] = {}
    for _, sample, _ in samplers:
        sample(replace(size.sampler, steps=1), size.sampler.block_length)
    for repeat in range(repeats):
        for name, sample, _ in samplers[:: (-1) ** repeat]:
            _, seconds, peaks[name] = timed(partial(sample, size.sampler, size.length), bench.device)
            times[name].append(seconds)
    adapters = sum(p.numel() for p in bench.trained)
    found: dict[str, Any] = {"batch": batch, "adapters": adapters if not published else 0}
    for name, _, places in samplers:
        passes = size.sampler.steps * forward_flops(size.shape, batch, total, 0, found["adapters"])
        found[name] = bench.cost(times[name], peaks[name], passes + head_flops(size.shape, batch * places))
        found[name]["tokens_per_second"] = batch * size.length / found[name]["seconds"]["median"]
    if published:
        found["ratio"] = found["published"]["seconds"]["median"] / found["ours"]["seconds"]["median"]
    return found


def train(bench: Bench, step: Step) -> dict[str, Any]:
    """Time and memory of one gradient step on the adapters."""
    size, rows = bench.size, bench.size.rows
    torch.set_float32_matmul_precision(step.matmul)
    cast(LLaDA, base_network(bench.network)).gradient_checkpointing = step.checkpointing
    for parameter in bench.trained:
        parameter.data = parameter.data.to(getattr(torch, step.adapters))
    own = ALGORITHMS[step.algorithm]
    algorithm = replace(own, corruption=replace(own.corruption, samples=step.samples))
    settings = Settings(TrainerConfig(rows_per_pass=step.rows_per_pass), size.sampler, OptimiserConfig())
    updater = Updater(bench.policy, bench.policy, algorithm, settings, 0, start(), bench.trained, size.length)
    optimiser = settings.optimiser.build(bench.trained)
    advantage = torch.linspace(-1, 1, rows, device=bench.device)
    ids = bench.tokens(rows, size.prompt + size.length)
    prompt, action = Tokens.full(ids[:, : size.prompt]), Tokens.full(ids[:, size.prompt :])
    order = torch.arange(size.length, device=bench.device).expand(rows, -1)
    rollouts = Rollouts(prompt, action, action.valid, advantage, advantage, torch.arange(rows), order)
    times: list[float] = []
    peak: float | None = None
    for index in range(1 + size.repeats):
        _, seconds, peak = timed(partial(updater.update, rollouts, BETA, optimiser, index), bench.device)
        times.append(seconds)
    predicted = int(updater.corrupt(rollouts, BETA, 0, 0).masked.sum())
    trained = sum(p.numel() for p in bench.trained)
    flops = adapter_step_flops(size.shape, rows * step.samples, size.prompt + size.length, predicted, trained)
    return bench.cost(times[1:], peak, flops)


def logits(bench: Bench, completions: int) -> list[dict[str, Any]]:
    """Time and memory of log-probabilities, forward and backward, and those of cross entropy at every place."""
    size = bench.size
    head = cast(LLaDA, bench.network).head
    barred = torch.tensor([size.shape.mask_token_id], device=bench.device)

    def ours(hidden: Tensor, target: Tensor) -> None:
        token_log_probs(head, hidden, target, barred).sum().backward()

    def theirs(hidden: Tensor, target: Tensor) -> None:
        F.cross_entropy(head(hidden).float(), target, reduction="sum").backward()

    found = []
    for name, work, rows in (
        ("ours", ours, completions * size.length // 2),
        ("published", theirs, completions * (size.prompt + size.length)),
    ):
        hidden = torch.randn(rows, size.shape.d_model, device=bench.device, dtype=size.dtype, requires_grad=True)
        target = bench.tokens(1, rows)[0]
        resting = torch.cuda.memory_allocated() if bench.device == "cuda" else 0
        work(hidden, target)
        _, seconds, peak = timed(partial(work, hidden, target), bench.device)
        added = None if peak is None else peak - resting
        found.append({"way": name, "rows": rows, **bench.cost([seconds], added)})
    return found


def measure(bench: Bench, budget: float) -> None:
    """Everything, in an order in which the dearest comes last and may be left out."""
    begin, (first, *more) = time.monotonic(), bench.size.batches
    for found in logits(bench, 4 * bench.size.rows):
        bench.keep("logits", found)
    known = decode(bench, first, bench.size.repeats, published=True)
    bench.keep("rollouts", known)
    bench.network = add_lora(
        bench.network, LoraSettings(bench.size.rank, targets="all"), torch.Generator().manual_seed(0)
    )
    for step in STEPS:
        try:
            bench.keep("training", asdict(step) | train(bench, step))
        except torch.OutOfMemoryError:
            bench.keep("training", asdict(step) | {"error": "out of memory"})
            torch.cuda.empty_cache()
    torch.set_float32_matmul_precision("highest")
    bench.keep("rollouts", decode(bench, first, 1, published=False))
    for batch in more:
        needed = batch / first * sum(known[name]["seconds"]["median"] for name in ("ours", "published"))
        left = budget - (time.monotonic() - begin)
        if needed > left:
            bench.keep("left_out", {"batch": batch, "seconds_needed": needed, "seconds_left": left})
            continue
        with reference(bench.network):
            bench.keep("rollouts", decode(bench, batch, 1, published=True))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="8b", choices=SIZES)
    parser.add_argument("--budget", type=float, default=420, help="seconds after which the dearest parts are left out")
    parser.add_argument("--out", type=Path, help="JSON file; one in benchmarks/results if not given")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and options.size != "tiny":
        print("no GPU here: nothing was measured; --size tiny runs on a CPU")
        return
    bench = Bench(SIZES[options.size], device, options.out or RESULTS / f"language-{options.size}-{device}.json")
    measure(bench, options.budget)


if __name__ == "__main__":
    main()
