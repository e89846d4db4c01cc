"""One denoising step's two choices: what a masked token becomes, and which of the proposals are kept."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dipod.noise import Noise

Remasking = Literal["random", "low_confidence", "entropy", "margin"]

Precision = Literal["float32", "float64", "released-bf16"]
"""Of the noise and of everything computed with it.

"float32" and "float64" draw from softmax(logits / T) by the Gumbel maximum, in float64 anyway where the model's own
logits are. "released-bf16" is what the published trainers of LLaDA policies do: argmax of exp(logits) / (-log u)^T with
u, all of this and the confidences rounded to bfloat16. The largest bfloat16 below 1 is 1 - 2^-8, so no token is ever
lifted by more than 256^T, and tokens come much colder than the temperature says: of 126,464 at T = 0.9, one of
probability 0.5 with the rest spread evenly is drawn more than 99 % of the time, where the exact draw takes it 79 %.
"""

_LEAST_UNIFORM = 1e-30


def uniform_numbers(
    noise: Noise, counts: list[int], *shape: int, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """The next ``counts[row]`` uniform numbers (or tensors of ``shape``) of each row: [B, max(counts), *shape].

    A row takes exactly its own count from its stream, whatever the others take; the rest of the row is zero.
    """
    width = max(counts, default=0)
    if min(counts, default=0) == width:
        return noise.uniform(width, *shape, dtype=dtype, device=device)
    numbers = torch.zeros(len(counts), width, *shape, dtype=dtype, device=device)
    for count in {count for count in counts if count}:
        rows = [row for row, its in enumerate(counts) if its == count]
        numbers[rows, :count] = noise[rows].uniform(count, *shape, dtype=dtype, device=device)
    return numbers


def noise_dtype(logits: Tensor, precision: Precision) -> torch.dtype:
    """The type in which `draw_tokens` wants its uniform numbers."""
    return torch.float64 if precision == "float64" or logits.dtype == torch.float64 else torch.float32


def draw_tokens(logits: Tensor, temperature: float, precision: Precision, uniform: Tensor) -> Tensor:
    """Sample softmax(logits / T) in the given `Precision`.

    Args:
        logits: [..., V], -inf where a token is barred.
        temperature: T, positive.
        precision: see `Precision`.
        uniform: [..., V] numbers in [0, 1) of `noise_dtype`; overwritten.

    Returns:
        [...] int64.
    """
    if precision == "released-bf16":
        rounded = uniform.bfloat16()
        rounded = rounded.masked_fill_(rounded == 1, 0.0)  # as CUDA's generator maps a number that rounds up to 1
        weight = logits.bfloat16().exp() / (-rounded.log()) ** temperature
        return weight.masked_fill_(logits == -torch.inf, -1.0).argmax(-1)
    spread = uniform.clamp_min_(_LEAST_UNIFORM).log_().neg_().log_()
    return torch.sub(logits / temperature, spread, out=spread).argmax(-1)


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Logits with -inf outside the nucleus: the fewest likeliest tokens of softmax(logits / T) that hold ``top_p``.

    Args:
        logits: [..., V], -inf where a token is barred.
        temperature: T, positive.
        top_p: share of the probability, above 0; at equal probabilities the lower ids come first. Paper: Holtzman et
            al. 2020, arXiv 1904.09751.

    Returns:
        [..., V].
    """
    probability = (logits.to(noise_dtype(logits, "float32")) / temperature).softmax(-1)
    falling, order = probability.sort(stable=True, dim=-1, descending=True)
    before = falling.cumsum(-1, dtype=torch.float64) - falling
    outside = torch.empty_like(before, dtype=torch.bool).scatter_(-1, order, before >= top_p)
    return logits.masked_fill(outside, -torch.inf)


def confidence(logits: Tensor, token: Tensor, remasking: Remasking, precision: Precision) -> Tensor:
    """How sure the untempered model is of each place; the highest are kept first.

    "low_confidence": the probability of the drawn token; "entropy": minus the entropy, nats; "margin": the distance
    between the two largest probabilities.

    Args:
        logits: [..., V].
        token: [...] the drawn tokens.
        remasking: one of the above.
        precision: see `Precision`.

    Returns:
        [...].
    """
    dtype = torch.bfloat16 if precision == "released-bf16" else noise_dtype(logits, precision)
    probability = logits.to(dtype).softmax(-1)
    if remasking == "entropy":
        return (probability * probability.clamp_min(torch.finfo(dtype).tiny).log()).sum(-1)
    if remasking == "margin":
        first, second = probability.topk(2, -1).values.unbind(-1)
        return first - second
    return probability.gather(-1, token[..., None])[..., 0]
