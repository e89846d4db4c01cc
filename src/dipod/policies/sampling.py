"""Samplers for masked diffusion: which masked tokens are revealed at each step, and what they become.

`ancestral` reveals one token a step in uniformly random order at temperature 1: its law is exactly the π that
`dipod.likelihood.exact` computes. `semi_autoregressive` decodes block by block, several tokens a step, by confidence
or at random, as the published systems do. Both run without a Python loop over rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from dipod.errors import require

Remasking = Literal["random", "low_confidence"]


class Logits(Protocol):
    """Logits of completion tokens, given a partly masked completion."""

    def __call__(self, masked: Tensor, completion: Tensor, at: Tensor | None) -> Tensor:
        """Masked [B, L] bool, completion [B, L], at [B, M] or None → [B, M or L, V]; −inf where a token is barred."""
        ...


@dataclass(frozen=True)
class SamplerConfig:
    """How completions are decoded.

    Attributes:
        temperature: 1 samples the model's own distribution; 0 takes the likeliest token.
        remasking: "random" reveals tokens in random order, "low_confidence" the most confident first.
        block_length: tokens per block, decoded left to right; 0 means the whole completion is one block.
        steps: denoising steps over all blocks; 0 means one token a step.
    """

    temperature: float = 1.0
    remasking: Remasking = "random"
    block_length: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "sampler.temperature", self.temperature, "give a number of at least 0")
        choices = get_args(Remasking)
        require(self.remasking in choices, "sampler.remasking", self.remasking, f"choose one of {', '.join(choices)}")
        require(self.block_length >= 0, "sampler.block_length", self.block_length, "give 0 (one block) or a length")
        require(self.steps >= 0, "sampler.steps", self.steps, "give 0 (one token a step) or a number of steps")

    @property
    def any_order(self) -> bool:
        """One token a step in random order; at temperature 1 the very π of `dipod.likelihood.exact`."""
        return self.remasking == "random" and self.block_length == 0 and self.steps == 0

    def blocks_of(self, length: int) -> tuple[int, int]:
        """(number of blocks, steps per block) of a completion of ``length`` tokens.

        Raises:
            UserError: a block length that does not divide the length, or steps that do not divide into the blocks.
        """
        block = self.block_length or length
        require(
            length % block == 0,
            "sampler.block_length",
            block,
            f"give a divisor of the completion length ({length})",
        )
        blocks = length // block
        steps = self.steps or length
        require(
            steps % blocks == 0 and steps <= length,
            "sampler.steps",
            steps,
            f"give a multiple of the number of blocks ({blocks}), at most {length}",
        )
        return blocks, steps // blocks


GREEDY = SamplerConfig(temperature=0.0, remasking="low_confidence")
"""The likeliest token at the most confident position, one a step."""


@dataclass(frozen=True)
class Sample:
    """Completions and how they came about.

    Attributes:
        ids: [B, L] int64; padding keeps the id it came with.
        order: [B, L] int64, the step at which each token was revealed; -1 at padding.
    """

    ids: Tensor
    order: Tensor


@torch.inference_mode()
def ancestral(logits: Logits, blank: Tensor, valid: Tensor, temperature: float, generator: torch.Generator) -> Sample:
    """One token a step in uniformly random order; only the logits of the token being revealed are computed.

    Args:
        logits: the model.
        blank: [B, L] ids to start from (their values at valid positions do not matter).
        valid: [B, L] bool.
        temperature: divides the logits; 0 takes the likeliest token.
        generator: source of randomness.
    """
    noise = _uniform(valid.shape, generator, valid.device)
    rank = noise.masked_fill(~valid, torch.inf).argsort(-1).argsort(-1)
    queue = rank.argsort(-1)
    masked, ids = valid.clone(), blank.clone()
    for step in range(int(valid.sum(-1).max())):
        at = queue[:, step : step + 1]
        token, _ = draw_tokens(logits(masked, ids, at), temperature, generator)
        ids = torch.where(valid & (rank == step), token, ids)
        masked = masked & (rank != step)
    return Sample(ids.clone(), rank.masked_fill(~valid, -1))


@torch.inference_mode()
def semi_autoregressive(
    logits: Logits, blank: Tensor, valid: Tensor, config: SamplerConfig, generator: torch.Generator
) -> Sample:
    """Blocks left to right; each step draws every masked token of the block and keeps the best few of them.

    The published scheme (LLaDA, d1): the kept ones are those with the largest probability under the untempered
    model ("low_confidence" remasking) or random ones. Tokens per step are as even as the block allows, the
    earlier steps taking the remainder. Arguments as `ancestral`.
    """
    length = valid.shape[1]
    blocks, steps = config.blocks_of(length)
    size = length // blocks
    masked, ids = valid.clone(), blank.clone()
    order = torch.full_like(ids, -1)
    for block in range(blocks):
        span = torch.arange(block * size, (block + 1) * size, device=ids.device).expand(len(ids), -1)
        here = slice(block * size, (block + 1) * size)
        for step in range(steps):
            token, confidence = draw_tokens(logits(masked, ids, span), config.temperature, generator)
            if config.remasking == "random":
                confidence = _uniform(confidence.shape, generator, ids.device)
            waiting = masked[:, here]
            remaining = waiting.sum(-1, keepdim=True)
            quota = (remaining + steps - step - 1) // (steps - step)
            rank = confidence.masked_fill(~waiting, -1.0).argsort(-1, descending=True).argsort(-1)
            chosen = waiting & (rank < quota)
            ids[:, here] = torch.where(chosen, token, ids[:, here])
            order[:, here] = torch.where(chosen, block * steps + step, order[:, here])
            masked[:, here] = waiting & ~chosen
    return Sample(ids.clone(), order.clone())


def draw_tokens(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample softmax(logits / T) by the Gumbel maximum in float32 or better; the likeliest at T = 0.

    Returns:
        Tokens [...] and their probabilities under the untempered model [...].
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        uniform = _uniform(logits.shape, generator, logits.device, logits.dtype).clamp_min(1e-30)
        token = (logits / temperature - (-uniform.log()).log()).argmax(-1)
    probability = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
    return token, probability


def _uniform(
    shape: torch.Size, generator: torch.Generator, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform noise drawn on the generator's device and moved to ``device``."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype).to(device)
