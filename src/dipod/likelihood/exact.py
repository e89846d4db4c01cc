"""Exact log π, ELBO and EUBO of a masked diffusion model that decodes one token a step in uniformly random order.

A completion of n tokens has n! decoding orders but only 2^n sets of tokens that can still be masked. With
p(x_i | x_{not m}) for every masked set m and every i in m, a recursion over the sets sums over all orders:

    H(∅) = 0,   H(m) = log (1/|m|) Σ_{i∈m} exp(log p(x_i | x_{not m}) + H(m∖i)),   log π(x) = H(all).

The same table of 2^n - 1 forward rows gives the exact ELBO (eq. 10), the exact path-level EUBO (eq. 19: the
recursion with p^β, divided by β) and, through `all_corruptions`, the exact value of any corruption-sampled proxy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.evidence import Corruption, Score, score_in_passes

MAX_EXACT_TOKENS = 14
"""Above this many tokens (16,383 forward rows a completion) an exact likelihood is refused."""


@dataclass(frozen=True)
class ExactLikelihood:
    """Exact quantities of B completions, float64 nats, [B] each."""

    log_prob: Tensor
    elbo: Tensor

    @property
    def gap(self) -> Tensor:
        """D_L = log π - ELBO (paper eq. 2), [B], never negative but for rounding."""
        return self.log_prob - self.elbo


@lru_cache(maxsize=MAX_EXACT_TOKENS)
def _levels(length: int) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """The recursion's order of work, one entry for each size s = 1..n of a masked set.

    An entry holds the table rows of the sets of that size [C, 1], their members [C, s], and where the sets without
    each member stand among those of size s - 1, [C, s]. A set is an integer whose bit i says that token i is masked.
    """
    sets = torch.arange(2**length)
    bits = (sets[:, None] >> torch.arange(length)) & 1
    size = bits.sum(-1)
    place = torch.zeros_like(sets)
    levels = []
    for s in range(1, length + 1):
        chosen = sets[size == s]
        members = bits[chosen].nonzero()[:, 1].reshape(-1, s)
        levels.append((chosen[:, None] - 1, members, place[chosen[:, None] - (1 << members)]))
        place[chosen] = torch.arange(len(chosen))
    return tuple(levels)


@lru_cache(maxsize=MAX_EXACT_TOKENS)
def all_masks(length: int) -> Tensor:
    """Every non-empty set of n tokens, [2^n - 1, n] bool; row m - 1 is the set whose bits spell m."""
    require(1 <= length <= MAX_EXACT_TOKENS, "tokens", length, f"exact likelihoods need 1 to {MAX_EXACT_TOKENS} tokens")
    sets = torch.arange(1, 2**length)
    return ((sets[:, None] >> torch.arange(length)) & 1).bool()


def all_corruptions(length: int, batch: int) -> Corruption:
    """Every mask of n tokens with weights that make any mean over K the exact expectation over corruptions.

    w_m = K·P(m)·n/|m| with P(m) = 1/(n·C(n,|m|)) and K = 2^n - 1, so that `MaskedEvidence.elbo` is the exact
    ELBO and `spg_eubo` the exact eq. 21. Shapes [B, K, n] and [B, K], float64.
    """
    masked = all_masks(length)
    weights = len(masked) * _path_weights(length)
    return Corruption(masked.expand(batch, -1, -1), weights.expand(batch, -1))


@lru_cache(maxsize=MAX_EXACT_TOKENS)
def _path_weights(length: int) -> Tensor:
    """1/(|m|·C(n,|m|)): how often a random order passes through set m, over its size, [2^n - 1] float64."""
    per_size = [1 / (s * math.comb(length, s)) for s in range(1, length + 1)]
    return torch.tensor(per_size, dtype=torch.float64)[all_masks(length).sum(-1) - 1]


def log_prob_from_table(table: Tensor, order: float = 1.0) -> Tensor:
    """(1/β) log E_σ[Π_t p(x_σ(t) | ·)^β] over uniform orders σ, from token log-probabilities for every set.

    β = 1 gives the exact log π (design: F(S) = Σ_{i∈S} F(S∖i) p(x_i|x_{S∖i}) / (L-|S|+1)); β > 1 the exact
    path-level EUBO, paper eq. 19. Differentiable.

    Args:
        table: [B, 2^n - 1, n]; row m - 1 holds log p(x_i | x_{not m}) at the members i of set m.
        order: the Rényi order β, at least 1.

    Returns:
        [B] float64 nats.
    """
    require(order >= 1, "order", order, "the Rényi order of an upper bound is at least 1")
    table = order * table.double()
    value = table.new_zeros(table.shape[0], 1)
    for rows, members, rest in _levels(table.shape[-1]):
        step = table[:, rows, members] + value[:, rest]
        value = step.logsumexp(-1) - math.log(members.shape[-1])
    return value[:, 0] / order


def elbo_from_table(table: Tensor) -> Tensor:
    """Exact ELBO, Σ_m 1/(|m|·C(n,|m|)) Σ_{i∈m} log p(x_i | x_{not m}): [B, 2^n - 1, n] → [B] float64."""
    weights = _path_weights(table.shape[-1]).to(table.device)
    return (table.double().sum(-1) * weights).sum(-1)


def exact_table(score: Score, valid: Tensor, rows_per_pass: int | None = 4096) -> Tensor:
    """Token log-probabilities of completions of one length for every masked set: [B, 2^n - 1, n].

    Args:
        score: the model.
        valid: [B, L] bool with the same number n of tokens in every row.
        rows_per_pass: forward rows per pass, which bounds the memory.

    Raises:
        UserError: rows of different lengths, or more than `MAX_EXACT_TOKENS` tokens.
    """
    batch, width = valid.shape
    length = int(valid[0].sum())
    require(bool((valid.sum(-1) == length).all()), "valid", "rows of several lengths", "give rows of one length")
    masks = all_masks(length).to(valid.device)
    columns = valid.nonzero()[:, 1].reshape(batch, length)
    masked = torch.zeros(batch, len(masks), width, dtype=torch.bool, device=valid.device)
    where = columns[:, None].expand(-1, len(masks), -1)
    masked.scatter_(2, where, masks.expand(batch, -1, -1))
    rows = torch.arange(batch, device=valid.device).repeat_interleave(len(masks))
    flat = score_in_passes(score, rows, masked.reshape(-1, width), rows_per_pass)
    return flat.reshape(batch, len(masks), width).gather(2, where)


def exact_likelihood(score: Score, valid: Tensor, rows_per_pass: int | None = 4096) -> ExactLikelihood:
    """Exact log π and ELBO of completions of any lengths up to `MAX_EXACT_TOKENS`; see the module's docstring.

    Args:
        score: the model.
        valid: [B, L] bool, the completions' tokens.
        rows_per_pass: forward rows per pass.
    """

    def measure(table: Tensor) -> Tensor:
        return torch.stack([log_prob_from_table(table), elbo_from_table(table)], -1)

    both = _by_length(score, valid, rows_per_pass, measure)
    return ExactLikelihood(both[:, 0], both[:, 1])


def exact_path_eubo(score: Score, valid: Tensor, order: float, rows_per_pass: int | None = 4096) -> Tensor:
    """Exact path-level Rényi EUBO, paper eq. 19, [B] float64 nats; log π ≤ EUBO, growing with the order."""
    return _by_length(score, valid, rows_per_pass, lambda table: log_prob_from_table(table, order))


def _by_length(score: Score, valid: Tensor, rows_per_pass: int | None, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``measure`` to the tables of each group of equally long rows; results in the rows' order."""
    lengths = valid.sum(-1)
    parts, order = [], []
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]

        def scored(r: Tensor, masked: Tensor, rows: Tensor = rows) -> Tensor:
            return score(rows[r], masked)

        parts.append(measure(exact_table(scored, valid[rows], rows_per_pass)))
        order.append(rows)
    return torch.cat(parts)[torch.cat(order).argsort()]
