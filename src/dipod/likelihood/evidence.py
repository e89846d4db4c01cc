"""What one set of forward passes over corruption samples says about log π, for masked diffusion.

Shapes: B rows (one observation and one action each), K corruption samples, L completion tokens.
All log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(rows [R], masked [R, L]) -> [R, L]``: log-probability of each row's own token at every masked
position, given the row's observation and its tokens at the unmasked positions. Entries at unmasked
positions are zero. Every bound and every exact likelihood in this package is made from this one function."""


class Evidence(Protocol):
    """The least that tightening needs from any kind of policy: an ELBO that can be differentiated."""

    def elbo(self, per_sample: bool = False) -> Tensor:
        """The ELBO in nats, [B], or its K samples, [B, K]."""
        ...


@dataclass(frozen=True)
class Corruption:
    """Corruption samples kept by value, so that old and new proxies see common random numbers.

    Attributes:
        masked: [B, K, L] bool, the positions hidden from the model; never a padding position.
        weights: [B, K] importance weights, so that the mean over K of weight x masked log-probabilities
            is the ELBO.
        prompt: [B, K, P] bool, prompt tokens hidden from the model as well; None where it sees them all.
        tokens: [B] int64, the tokens of each action, hidden or not; None where that is not known.
    """

    masked: Tensor
    weights: Tensor
    prompt: Tensor | None = None
    tokens: Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> Corruption:
        prompt, tokens = (None if part is None else part[rows] for part in (self.prompt, self.tokens))
        return Corruption(self.masked[rows], self.weights[rows], prompt, tokens)

    def __len__(self) -> int:
        return len(self.masked)

    @property
    def samples(self) -> int:
        """K."""
        return self.masked.shape[1]

    def pick(self, samples: slice) -> Corruption:
        """Some of the K samples of every row."""
        prompt = None if self.prompt is None else self.prompt[:, samples]
        return Corruption(self.masked[:, samples], self.weights[:, samples], prompt, self.tokens)

    def to(self, device: torch.device | str) -> Corruption:
        """The same on another device."""
        prompt, tokens = (None if part is None else part.to(device) for part in (self.prompt, self.tokens))
        return Corruption(self.masked.to(device), self.weights.to(device), prompt, tokens)

    def beside(self, other: Corruption) -> Corruption:
        """Both sets of samples next to each other, K + K' of them."""
        first, second = self.prompt, other.prompt
        if first is None and second is not None:
            first = second.new_zeros(*self.masked.shape[:2], second.shape[-1])
        if second is None and first is not None:
            second = first.new_zeros(*other.masked.shape[:2], first.shape[-1])
        prompt = None if first is None or second is None else torch.cat([first, second], 1)
        masked, weights = torch.cat([self.masked, other.masked], 1), torch.cat([self.weights, other.weights], 1)
        return Corruption(masked, weights, prompt, self.tokens)

    def evidence(self, token_log_probs: Tensor) -> MaskedEvidence:
        """What these samples say, given log p of the hidden tokens, [B, K, L]."""
        return MaskedEvidence(token_log_probs, self.masked, self.weights.to(token_log_probs.dtype), self.tokens)


@dataclass(frozen=True)
class MaskedEvidence:
    """Token log-probabilities of a masked diffusion model under K corruption samples.

    Attributes:
        token_log_probs: [B, K, L] log p(x_i | unmasked tokens, observation); zero where not masked.
        masked: [B, K, L] bool.
        weights: [B, K].
        tokens: [B] int64, the tokens of each action, hidden or not; None where every one is hidden in some sample.
    """

    token_log_probs: Tensor
    masked: Tensor
    weights: Tensor
    tokens: Tensor | None = None

    @property
    def length(self) -> Tensor:
        """Tokens of each action, [B] int64."""
        return self.masked.any(1).sum(-1) if self.tokens is None else self.tokens

    def pick(self, samples: slice) -> MaskedEvidence:
        """What some of the K samples say."""
        log_probs, masked, weights = (x[:, samples] for x in (self.token_log_probs, self.masked, self.weights))
        return MaskedEvidence(log_probs, masked, weights, self.tokens)

    def elbo(self, per_sample: bool = False) -> Tensor:
        """ELBO, paper eq. 10 for the absorbing process: mean over K of (L/k) Σ_{i masked} log p(x_i | x_unmasked).

        Returns:
            [B] nats, or the K unbiased samples, [B, K], with ``per_sample``.
        """
        samples = self.weights * self.token_log_probs.sum(-1)
        return samples if per_sample else samples.mean(-1)


def evaluate(score: Score, corruption: Corruption, rows_per_pass: int | None = None) -> MaskedEvidence:
    """Evidence of every row under its corruption samples.

    Args:
        score: the model; see `Score`.
        corruption: [B, K, L] masks and [B, K] weights.
        rows_per_pass: split the B x K rows into passes of at most this many (memory); all at once when None.

    Returns:
        `MaskedEvidence` in float32 or better.
    """
    batch, samples, length = corruption.masked.shape
    rows = torch.arange(batch, device=corruption.masked.device).repeat_interleave(samples)
    flat = score_in_passes(score, rows, corruption.masked.reshape(-1, length), rows_per_pass)
    return corruption.evidence(flat.reshape(batch, samples, length))


def score_in_passes(score: Score, rows: Tensor, masked: Tensor, rows_per_pass: int | None) -> Tensor:
    """``score(rows, masked)`` in passes of at most ``rows_per_pass`` rows, in float32 or better: [R, L]."""
    size = rows_per_pass or max(len(rows), 1)
    parts = [score(r, m) for r, m in zip(rows.split(size), masked.split(size), strict=True)]
    result = torch.cat(parts) if len(parts) > 1 else parts[0]
    return result.float() if result.dtype in (torch.float16, torch.bfloat16) else result
