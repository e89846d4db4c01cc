"""The sampler of masked diffusion: blocks left to right, several tokens a step, by confidence or at random.

The scheme of the published systems (LLaDA, d1): each step draws every still masked token of the current block and
keeps the best few. Logits are computed only where a token is drawn, which changes nothing: with "random" remasking the
kept places are chosen first, and only they are drawn. With the default settings (one block, one token a step, random
order, temperature 1) the law of a sample is exactly the π that `dipod.likelihood.exact` computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
from torch import Tensor

from dipod.errors import UserError, require
from dipod.noise import Noise
from dipod.policies.remasking import (
    Precision,
    Remasking,
    confidence,
    draw_tokens,
    noise_dtype,
    nucleus,
    uniform_numbers,
)
from dipod.policies.tokens import Tokens


class Logits(Protocol):
    """Logits of completion tokens, given partly masked completions."""

    def __call__(self, rows: Tensor, completion: Tokens, masked: Tensor, at: Tensor) -> Tensor:
        """Logits [R, M, V] at places ``at`` [R, M], −inf where a token is barred.

        ``rows`` [R] says which of the batch's observations the completions [R, L] belong to; ``masked`` [R, L] places
        are hidden.
        """
        ...


@dataclass(frozen=True)
class SamplerConfig:
    """How completions are decoded.

    Attributes:
        temperature: 1 samples the model's own distribution; 0 takes the likeliest token.
        remasking: "random" reveals tokens in random order, "low_confidence" the most confident first, "entropy" the
            place of lowest entropy first, "margin" that of the largest lead of the first token over the second.
        block_length: tokens per block, decoded left to right; 0 means the whole completion is one block.
        steps: denoising steps over all blocks; 0 means one token a step.
        noise: precision of the draw; "float32", "float64", or "released-bf16" for the bfloat16 noise of the published
            trainers, which samples much colder than the temperature says.
        cfg_scale: classifier-free guidance: logits are moved away from those without a prompt, u + (s + 1)(c - u); 0 is
            off and costs nothing.
        eos_stop: a rollout ends with the block that holds its first end-of-text token, which fills the rest.
        max_rows: rollouts decoded at once, which bounds the memory; 0 means all.
        top_p: a token is drawn from the likeliest ones that together hold this share of the (tempered) probability; 1
            draws from all. Below 1 the samples do not have the law of the model.
    """

    temperature: float = 1.0
    remasking: Remasking = "random"
    block_length: int = 0
    steps: int = 0
    noise: Precision = "float32"
    cfg_scale: float = 0.0
    eos_stop: bool = False
    max_rows: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for field, choices in (("remasking", get_args(Remasking)), ("noise", get_args(Precision))):
            value = getattr(self, field)
            require(value in choices, f"sampler.{field}", value, f"choose one of {', '.join(choices)}")
        for field in ("temperature", "cfg_scale"):
            value = getattr(self, field)
            require(value >= 0, f"sampler.{field}", value, "give a number of at least 0")
        require(0 < self.top_p <= 1, "sampler.top_p", self.top_p, "give a share of the probability, from above 0 to 1")
        require(self.block_length >= 0, "sampler.block_length", self.block_length, "give 0 (one block) or a length")
        require(self.steps >= 0, "sampler.steps", self.steps, "give 0 (one token a step) or a number of steps")
        require(self.max_rows >= 0, "sampler.max_rows", self.max_rows, "give 0 (all rollouts) or a number of rollouts")

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
        order: [B, L] int64, the step at which each token was revealed; -1 at padding, where a token was given, and
            where a finished rollout was filled with the end-of-text token.
    """

    ids: Tensor
    order: Tensor


@dataclass(frozen=True)
class _Step:
    """One denoising step.

    Attributes:
        index: its number, from 0.
        span: the block's places.
        remaining: [R], how many of them are masked.
        quota: [R], how many of these are revealed.
        left: steps left in this block, this one included.
    """

    index: int
    span: slice
    remaining: list[int]
    quota: list[int]
    left: int


@dataclass(frozen=True)
class _Batch:
    """Rollouts being decoded together; ``ids``, ``masked`` and ``order`` are updated in place.

    Attributes:
        rows: [R] int64, which of the whole batch they are.
        blank: [R, L] places.
        ids: [R, L].
        masked: [R, L] bool.
        order: [R, L].
        keys: [R, L]; of a row's masked places, those of the highest key come first.
        noise: R streams.
    """

    rows: Tensor
    blank: Tokens
    ids: Tensor
    masked: Tensor
    order: Tensor
    keys: Tensor
    noise: Noise


def decode(
    logits: Logits,
    blank: Tokens,
    config: SamplerConfig,
    noise: Noise,
    eos_id: int | None = None,
    given: Tensor | None = None,
) -> Sample:
    """Draw one completion in each row of ``blank``; see the module's docstring.

    Tokens per step are as even as a row's share of the block allows, the earlier steps taking the remainder. A row's
    sample depends on its own stream of noise alone, not on the rows beside it.

    Args:
        logits: the model.
        blank: [B, L] places (the ids at valid places do not matter, unless they are given).
        config: how to decode; ``cfg_scale`` and ``max_rows`` are the caller's part.
        noise: B streams.
        eos_id: the end-of-text token, for ``eos_stop``.
        given: [B, L] bool, places that keep their ids and are visible from the start; None for none.

    Raises:
        UserError: blocks or steps that do not fit the completion, or ``eos_stop`` without an end-of-text token.
    """
    length, valid = blank.ids.shape[1], blank.valid
    blocks, steps = config.blocks_of(length)
    if config.eos_stop and eos_id is None:
        raise UserError("sampler.eos_stop", True, "give the end-of-text token, or set it to false")
    stop = eos_id if config.eos_stop else None
    size = length // blocks
    hidden = valid if given is None else valid & ~given
    counts = hidden.unflatten(1, (blocks, size)).sum(-1).tolist()
    keys = _random_keys(hidden, [sum(row) for row in counts], noise) if config.remasking == "random" else hidden.float()
    ids, order = blank.ids.clone(), torch.full_like(blank.ids, -1)
    place = torch.arange(length, device=ids.device)
    kept = list(range(len(ids)))
    for block in range(blocks):
        begin, end = block * size, (block + 1) * size
        rows = torch.tensor(kept, device=ids.device)
        masked = hidden[rows] & (place >= begin)
        batch = _Batch(rows, blank[rows], ids[rows], masked, order[rows], keys[rows], noise[kept])
        for step in _schedule(block * steps, steps, slice(begin, end), [counts[row][block] for row in kept]):
            _reveal(logits, batch, step, config)
        ids[rows], order[rows] = batch.ids, batch.order
        if stop is not None:
            ended = ((batch.ids == stop) & batch.blank.valid & (place < end)).any(-1)
            ids[rows] = torch.where(ended[:, None] & batch.masked, stop, batch.ids)
            kept = [row for row, finished in zip(kept, ended.tolist(), strict=True) if not finished]
            if not kept:
                break
    return Sample(ids, order)


def _random_keys(valid: Tensor, lengths: list[int], noise: Noise) -> Tensor:
    """A uniform number for every valid place, [B, L], in the places' order from each row's stream."""
    numbers = uniform_numbers(noise, lengths, dtype=torch.float32, device=valid.device)
    return numbers.gather(1, (valid.cumsum(-1) - 1).clamp_min(0))


def _schedule(done: int, steps: int, span: slice, remaining: list[int]) -> Iterator[_Step]:
    """The steps of a block after ``done`` earlier ones; a step in which no row has anything left is left out."""
    for step in range(steps):
        quota = [-(-count // (steps - step)) for count in remaining]
        if any(quota):
            yield _Step(done + step, span, remaining, quota, steps - step)
        remaining = [count - taken for count, taken in zip(remaining, quota, strict=True)]


def _reveal(logits: Logits, batch: _Batch, step: _Step, config: SamplerConfig) -> None:
    """Draw tokens at masked places of the step's block and keep its quota of them.

    How many places there are is known beforehand, so nothing waits for the device.
    """
    at_random = config.remasking == "random"
    drawn = step.quota if at_random else step.remaining
    waiting = batch.masked[:, step.span]
    keys = batch.keys[:, step.span].masked_fill(~waiting, -1.0)
    at = keys.argsort(dim=-1, descending=True, stable=True)[:, : max(drawn)]
    live = waiting.gather(1, at)
    at = at + step.span.start
    scores = logits(batch.rows, batch.blank.with_ids(batch.ids), batch.masked, at)
    if config.temperature == 0:
        token = scores.argmax(-1)
    else:
        dtype = noise_dtype(scores, config.noise)
        uniform = uniform_numbers(batch.noise, drawn, scores.shape[-1], dtype=dtype, device=scores.device)
        drawable = scores if config.top_p == 1 else nucleus(scores, config.temperature, config.top_p)
        token = draw_tokens(drawable, config.temperature, config.noise, uniform)
    if at_random:
        rank = torch.arange(at.shape[1], device=at.device)
    else:
        sure = confidence(scores, token, config.remasking, config.noise).masked_fill(~live, -torch.inf)
        rank = sure.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    chosen = live & (rank < (waiting.sum(-1, keepdim=True) + step.left - 1) // step.left)
    batch.ids.scatter_(1, at, torch.where(chosen, token, batch.ids.gather(1, at)))
    batch.order.scatter_(1, at, batch.order.gather(1, at).masked_fill(chosen, step.index))
    batch.masked.scatter_(1, at, live & ~chosen)
