"""The full-size network, what is measured on it, and a tiny one to try the script with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from common import GB
from torch import nn

from dipod.policies.layers import initialise
from dipod.policies.llada import LLaDA, LLaDAConfig
from dipod.policies.sampling import SamplerConfig

VOCABULARY = 126_464


@dataclass(frozen=True)
class Step:
    """A training step to measure.

    Attributes:
        algorithm: a row of the table; always with DiPOD's term.
        samples: K.
        rows_per_pass: as in the trainer's settings.
        checkpointing: compute activations again in the backward pass.
        adapters: type of their weights; float32 is what they are given.
        matmul: precision of float32 products; "high" is TF32.
    """

    algorithm: str
    samples: int
    rows_per_pass: int
    checkpointing: bool = False
    adapters: str = "float32"
    matmul: str = "highest"


STEPS = (
    Step("fpo", 2, 8),
    Step("fpo", 4, 8),
    Step("fpo", 4, 2),
    Step("fpo", 4, 8, matmul="high"),
    Step("fpo", 4, 8, adapters="bfloat16"),
    Step("fpo", 4, 0, checkpointing=True),
    Step("spg", 2, 8),
    Step("spg", 4, 8),
)


@dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
        shape: of the network.
        dtype: of its weights.
        rank: of the adapters.
        batches: rollouts decoded together.
        rows: rollouts of a training step.
        prompt: tokens.
        length: tokens of a completion.
        sampler: how completions are decoded.
        repeats: of every measurement but the largest batch's.
    """

    shape: LLaDAConfig
    dtype: torch.dtype
    rank: int
    batches: tuple[int, ...]
    rows: int
    prompt: int
    length: int
    sampler: SamplerConfig
    repeats: int


def llada(width: int, layers: int, heads: int) -> LLaDAConfig:
    """LLaDA's shape at some width, always with its vocabulary."""
    return LLaDAConfig(d_model=width, n_layers=layers, n_heads=heads, mlp_hidden_size=3 * width, vocab_size=VOCABULARY)


SIZES = {
    "8b": Size(
        llada(4096, 32, 32), torch.bfloat16, 128, (6, 24), 6, 200, 256, SamplerConfig(0.9, "low_confidence", 32, 128), 2
    ),
    "tiny": Size(llada(32, 2, 2), torch.float32, 4, (2, 3), 2, 6, 8, SamplerConfig(0.9, "low_confidence", 4, 4), 1),
}


def build(size: Size, device: str) -> LLaDA:
    """A network with random weights, made where it is to stay."""
    with torch.device("meta"):
        network = LLaDA(size.shape)
    network = network.to(size.dtype).to_empty(device=device)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    initialise(network, torch.Generator(device).manual_seed(0))
    return network.eval().requires_grad_(False)


def shape_of(network: nn.Module, size: Size) -> dict[str, Any]:
    """What was measured, for the report."""
    shape = size.shape
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "weights_gb": sum(p.nbytes for p in network.parameters()) / GB,
        "width": shape.d_model,
        "layers": shape.n_layers,
        "dtype": str(size.dtype).removeprefix("torch."),
        "prompt": size.prompt,
        "length": size.length,
        "block_length": size.sampler.block_length,
        "steps": size.sampler.steps,
        "temperature": size.sampler.temperature,
        "rank": size.rank,
    }
