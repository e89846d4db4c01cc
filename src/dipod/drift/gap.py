"""The gap D_L = log π - ELBO (paper eq. 2), on the policy's own actions: the first drift.

Exact where completions are short. Elsewhere a bracket: log π lies between two averages over K' decoding orders, one of
fresh orders alone and one in which the order of the sample itself takes a place (see `dipod.likelihood.paths`). Both
ends close in on the gap as K' grows, and with a sample's own order neither needs more than forward rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.evidence import Score
from dipod.likelihood.exact import exact_likelihood
from dipod.likelihood.paths import (
    importance_weighted_bound,
    order_log_weights,
    path_eubo,
    path_log_weights,
    random_orders,
)
from dipod.noise import Noise

GapKind = Literal["exact", "bracket", "lower_bound", "estimate"]

ENTROPY_KINDS = {"exact": "exact", "bracket": "bracket", "lower_bound": "upper_bound", "estimate": "estimate"}
"""What an entropy is where log π = ELBO + gap and the gap is of this kind."""

EUBO_ORDER = 1.5


@dataclass(frozen=True)
class Decoding:
    """The policy that log π is of: tokens in random order within blocks, so many steps a block.

    Attributes:
        blocks: equal parts of the completion, decoded left to right.
        steps: steps a block; 0 for one token a step.
    """

    blocks: int = 1
    steps: int = 0


RANDOM_ORDER = Decoding()
"""One token a step, in an order drawn uniformly from all: the policy that the ELBO (eq. 10) bounds."""


@dataclass(frozen=True)
class Bounds:
    """What K' orders say about each of B actions, float64 nats, [B] each.

    Attributes:
        elbo: unbiased.
        low: at most log π in expectation.
        high: at least log π in expectation; None where the actions' own orders are not known.
        eubo: the path-level EUBO of order `EUBO_ORDER` (eq. 19), an upper bound only in the limit: a finite K'
            underestimates it.
    """

    elbo: Tensor
    low: Tensor
    high: Tensor | None
    eubo: Tensor


@dataclass(frozen=True)
class Gap:
    """The mean gap of a batch, in nats.

    Attributes:
        gap: the exact mean, the middle of the bracket, or the lower bound.
        kind: "exact"; "bracket", between `low` and `high` in expectation; "lower_bound", which the true gap exceeds in
            expectation; "estimate", unbiased.
        elbo: the mean ELBO, exact or unbiased likewise.
        low: of the gap; the gap itself where it is exact.
        high: of the gap; None for a lower bound.
        low_error: standard error of `low` over the actions.
        high_error: that of `high`.
    """

    gap: float
    kind: GapKind
    elbo: float
    low: float
    high: float | None
    low_error: float
    high_error: float

    @property
    def error(self) -> float:
        """Standard error of `gap`, at most."""
        return max(self.low_error, self.high_error)

    @property
    def entropy(self) -> float:
        """Mean -log π of own actions, in nats an action: as well known as the gap, see `ENTROPY_KINDS`."""
        return -(self.elbo + self.gap)


def gap_lower_bound(log_weights: Tensor) -> Tensor:
    """Importance-weighted lower bound of the gap, log-mean-exp(log w) - mean(log w): [B, K'] → [B] nats.

    The first term is below log π in expectation and the second is an unbiased ELBO, so the difference is below the
    gap in expectation. It is never negative, grows with the number of paths and reaches the gap in the limit.
    """
    return importance_weighted_bound(log_weights) - log_weights.mean(-1)


@torch.no_grad()
def bounds(
    score: Score,
    valid: Tensor,
    noise: Noise,
    paths: int,
    own_order: Tensor | None = None,
    decoding: Decoding = RANDOM_ORDER,
    rows_per_pass: int | None = 4096,
) -> Bounds:
    """Bounds on either side of log π of a decoding policy, and the ELBO, from ``paths`` orders an action.

    The ELBO is the mean over the same orders, each of which passes through every number of masked tokens: what it is
    off by, the importance-weighted bounds are off by as well, so the differences are much surer than their parts.
    Costs `bracket_rows` forward rows an action.

    Args:
        score: the model.
        valid: [B, L] bool.
        noise: B streams, for the orders.
        paths: K', at least 2.
        own_order: [B, L], the order by which each action was sampled from this policy under ``decoding``, at
            temperature 1; None where it was not.
        decoding: of which log π is wanted; the ELBO is always the one of eq. 10.
        rows_per_pass: bounds the memory.
    """
    require(paths >= 2, "paths", paths, "give at least 2 decoding orders: one says nothing about the gap")
    order = random_orders(valid, paths, noise, decoding.blocks, decoding.steps)
    weights = order_log_weights(score, order, rows_per_pass).double()
    uniform = weights
    if decoding != RANDOM_ORDER:
        uniform = path_log_weights(score, valid, paths, noise, rows_per_pass).double()
    high = None
    if own_order is not None:
        own = order_log_weights(score, own_order[:, None], rows_per_pass).double()
        high = importance_weighted_bound(torch.cat([own, weights[:, 1:]], 1))
    return Bounds(uniform.mean(-1), importance_weighted_bound(weights), high, path_eubo(weights, EUBO_ORDER))


def bracket_rows(tokens: int, paths: int, own: bool, decoding: Decoding = RANDOM_ORDER) -> int:
    """Forward rows that `bounds` takes for an action of so many tokens."""
    steps = decoding.blocks * decoding.steps or tokens
    rows = paths * steps + (steps if own else 0)
    return rows if decoding == RANDOM_ORDER else rows + paths * tokens


def exact_rows(tokens: int) -> int:
    """Forward rows of an exact likelihood: every set of masked tokens but the empty one."""
    return (1 << tokens) - 1


@torch.no_grad()
def measure_gap(
    score: Score,
    valid: Tensor,
    noise: Noise,
    exact_tokens: int = 10,
    paths: int = 16,
    rows_per_pass: int | None = 4096,
    own_order: Tensor | None = None,
    decoding: Decoding = RANDOM_ORDER,
) -> Gap:
    """The mean gap of a batch of actions: exact where every action is short enough, else bounds.

    Args:
        score: the model on the batch.
        valid: [B, L] bool.
        noise: one stream a row, for the decoding orders of the bounds; not used by the exact gap.
        exact_tokens: the longest completion to treat exactly (2^n forward rows each).
        paths: decoding orders per action for the bounds.
        rows_per_pass: bounds the memory.
        own_order: [B, L]; see `bounds`.
        decoding: of which log π is wanted; only that of `RANDOM_ORDER` can be exact.
    """
    if decoding == RANDOM_ORDER and int(valid.sum(-1).max()) <= exact_tokens:
        likelihood = exact_likelihood(score, valid, rows_per_pass)
        gap, error = _mean(likelihood.gap)
        return Gap(gap, "exact", float(likelihood.elbo.mean()), gap, gap, error, error)
    found = bounds(score, valid, noise, paths, own_order, decoding, rows_per_pass)
    low, low_error = _mean(found.low - found.elbo)
    elbo = float(found.elbo.mean())
    if found.high is None:
        return Gap(low, "lower_bound", elbo, low, None, low_error, 0.0)
    high, high_error = _mean(found.high - found.elbo)
    return Gap((low + high) / 2, "bracket", elbo, low, high, low_error, high_error)


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    values = values.double()
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.inf
    return float(values.mean()), error
