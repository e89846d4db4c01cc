"""The sampler against the published algorithm written plainly, on a LLaDA-shaped model with LLaDA's vocabulary.

    python benchmarks/sampler.py [--device cuda --dtype bfloat16] [--width 1024 --layers 16 --length 64 --steps 32]

The plain algorithm is that of the released trainers: one pass over prompt and completion, logits and softmax at every
place, a topk per row. It is spared their autograd graph, their float64 noise and their emptied caches. At temperature 0
both must give the same tokens. The result goes to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from common import GB, RESULTS, provenance, timed
from torch import Tensor

from dipod.files import write_json
from dipod.noise import Noise
from dipod.policies.llada import LLaDA, LLaDAConfig
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens

VOCABULARY, MASK = 126_464, 126_336


@torch.inference_mode()
def plain(network: LLaDA, prompt: Tensor, length: int, config: SamplerConfig, generator: torch.Generator) -> Tensor:
    """The published semi-autoregressive sampler, [B, P] to [B, L]."""
    batch, start = prompt.shape
    x = torch.cat([prompt, prompt.new_full((batch, length), MASK)], 1)
    blocks, steps = config.blocks_of(length)
    size = length // blocks
    for block in range(blocks):
        end = start + (block + 1) * size
        base, extra = divmod(size, steps)
        for step in range(steps):
            masked = x == MASK
            logits = network.head(network(Tokens.full(x)))
            logits[..., MASK] = -torch.inf
            noisy = logits
            if config.temperature > 0:
                u = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
                noisy = logits.exp() / (-u.log()) ** config.temperature
            drawn = noisy.argmax(-1)
            probability = logits.float().softmax(-1).gather(-1, drawn[..., None])[..., 0]
            probability[:, end:] = -torch.inf
            confidence = probability.masked_fill(~masked, -torch.inf)
            for row in range(batch):
                chosen = confidence[row].topk(base + int(step < extra)).indices
                x[row, chosen] = drawn[row, chosen]
    return x[:, start:]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 256, "layers": 4, "heads": 4, "batch": 6, "prompt": 100, "length": 256, "steps": 128, "block": 32}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.9])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    parser.add_argument("--out", type=Path, help="JSON file; one in benchmarks/results if not given")
    return parser.parse_args()


def compare(options: argparse.Namespace, temperature: float) -> dict[str, float | bool]:
    """Both samplers on the same prompts at one temperature."""
    shape = LLaDAConfig(
        d_model=options.width,
        n_layers=options.layers,
        n_heads=options.heads,
        mlp_hidden_size=3 * options.width,
        vocab_size=VOCABULARY,
    )
    seeded = torch.Generator().manual_seed(0)
    network = LLaDA(shape, seeded).to(options.device, getattr(torch, options.dtype)).eval()
    prompt = torch.randint(MASK, (options.batch, options.prompt), generator=seeded).to(options.device)
    policy = MaskedPolicy(network, MASK)
    noise = Noise.keyed("benchmark", examples=range(options.batch), device=options.device)
    generator = torch.Generator(options.device).manual_seed(0)

    def run(length: int, steps: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        config = SamplerConfig(temperature, "low_confidence", options.block, steps)
        blank = Tokens.full(prompt.new_full((options.batch, length), MASK))
        return (
            lambda: plain(network, prompt, length, config, generator),
            lambda: policy.sample(Tokens.full(prompt), blank, config, noise).ids,
        )

    for warm in run(options.block, 1):
        warm()
    theirs, ours = (timed(work, options.device) for work in run(options.length, options.steps))
    found: dict[str, float | bool] = {
        "temperature": temperature,
        "plain_seconds": theirs[1],
        "seconds": ours[1],
        "ratio": theirs[1] / ours[1],
    }
    if theirs[2] is not None and ours[2] is not None:
        found |= {"plain_peak_gb": theirs[2] / GB, "peak_gb": ours[2] / GB}
    if temperature == 0:
        found["identical"] = torch.equal(ours[0], theirs[0])
    return found


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    origin = provenance("sampler.py", options.device)
    results = []
    for temperature in options.temperatures:
        results.append(compare(options, temperature))
        print(json.dumps(results[-1]), flush=True)
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "temperatures", "threads")}
    path = options.out or RESULTS / f"sampler-{options.device}-{options.dtype}-{options.width}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**origin, **settings, "results": results})


if __name__ == "__main__":
    main()
