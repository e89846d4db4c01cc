"""What one set of forward passes over corruption samples says about log π, for masked diffusion.

Shapes: B rows (one observation and one action each), K corruption samples, L completion tokens.
All log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from dipod.errors import require

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(rows [R], masked [R, L]) -> [R, L]``: log-probability of each row's own token at every masked
position, given the row's observation and its tokens at the unmasked positions. Entries at unmasked
positions are zero. Every bound and every exact likelihood in this package is made from this one function."""

Scheme = Literal["independent", "antithetic", "stratified"]


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
    """

    masked: Tensor
    weights: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Corruption:
        return Corruption(self.masked[rows], self.weights[rows])


@dataclass(frozen=True)
class MaskedEvidence:
    """Token log-probabilities of a masked diffusion model under K corruption samples.

    Attributes:
        token_log_probs: [B, K, L] log p(x_i | unmasked tokens, observation); zero where not masked.
        masked: [B, K, L] bool.
        weights: [B, K].
    """

    token_log_probs: Tensor
    masked: Tensor
    weights: Tensor

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
    token_log_probs = flat.reshape(batch, samples, length)
    return MaskedEvidence(token_log_probs, corruption.masked, corruption.weights.to(token_log_probs.dtype))


def score_in_passes(score: Score, rows: Tensor, masked: Tensor, rows_per_pass: int | None) -> Tensor:
    """``score(rows, masked)`` in passes of at most ``rows_per_pass`` rows, in float32 or better: [R, L]."""
    size = rows_per_pass or max(len(rows), 1)
    parts = [score(r, m) for r, m in zip(rows.split(size), masked.split(size), strict=True)]
    result = torch.cat(parts) if len(parts) > 1 else parts[0]
    return result.float() if result.dtype in (torch.float16, torch.bfloat16) else result


def sample_corruption(
    valid: Tensor, samples: int, generator: torch.Generator, scheme: Scheme = "independent"
) -> Corruption:
    """Draw masks for the unbiased Monte-Carlo ELBO: k uniform on 1..n, a uniform subset of k tokens, weight n/k.

    Schemes (all unbiased in the mean over K):
        independent: K independent draws.
        antithetic: pairs (k, n+1-k); the second mask is the complement of the first plus one token of it,
            so that a pair masks every token at least once.
        stratified: k drawn from K equal strata of 1..n.

    Args:
        valid: [B, L] bool, the tokens that belong to the completion (n per row, at least 1).
        samples: K, at least 1; even for ``antithetic``.
        generator: source of randomness, on any device.
        scheme: one of the above.

    Raises:
        UserError: K < 1, an odd K with ``antithetic``, an unknown scheme, or a row without tokens.
    """
    require(samples >= 1, "samples", samples, "give at least one corruption sample (K >= 1)")
    require(scheme in get_args(Scheme), "scheme", scheme, f"choose one of {', '.join(get_args(Scheme))}")
    paired = scheme == "antithetic"
    require(not paired or samples % 2 == 0, "samples", samples, "antithetic pairs need an even number of samples")
    lengths = valid.sum(-1)
    require(bool((lengths > 0).all()), "valid", "a row without tokens", "drop rows whose completion is empty")

    batch, length = valid.shape
    draws = samples // 2 if paired else samples
    device = generator.device
    u = torch.rand(batch, draws, generator=generator, device=device)
    if scheme == "stratified":
        u = (u + torch.arange(draws, device=device)) / draws
    noise = torch.rand(batch, draws, length, generator=generator, device=device)
    u, noise = u.to(valid.device), noise.to(valid.device)

    n = lengths[:, None]
    k = (u * n).floor().long().clamp_max(n - 1) + 1
    rank = noise.masked_fill(~valid[:, None], torch.inf).argsort(-1).argsort(-1)
    masked = rank < k[..., None]
    if paired:
        partner = (rank >= k[..., None] - 1) & valid[:, None]
        masked = torch.stack([masked, partner], 2).flatten(1, 2)
        k = torch.stack([k, n + 1 - k], 2).flatten(1, 2)
    return Corruption(masked, n / k)
