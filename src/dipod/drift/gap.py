"""The gap D_L = log π - ELBO (paper eq. 2), on the policy's own actions: the first drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dipod.likelihood.evidence import Score
from dipod.likelihood.exact import exact_likelihood
from dipod.likelihood.masked import importance_weighted_bound, path_log_weights
from dipod.noise import Noise

GapKind = Literal["exact", "lower_bound", "estimate"]


@dataclass(frozen=True)
class Gap:
    """The mean gap of a batch.

    Attributes:
        gap: nats.
        kind: "exact", or "lower_bound": a value that the true gap exceeds in expectation.
        elbo: the mean ELBO in nats, exact or unbiased likewise.
    """

    gap: float
    kind: GapKind
    elbo: float


def gap_lower_bound(log_weights: Tensor) -> Tensor:
    """Importance-weighted lower bound of the gap, log-mean-exp(log w) - mean(log w): [B, K'] → [B] nats.

    The first term is below log π in expectation and the second is an unbiased ELBO, so the difference is below the
    gap in expectation. It is never negative, grows with the number of paths and reaches the gap in the limit.
    """
    return importance_weighted_bound(log_weights) - log_weights.mean(-1)


@torch.no_grad()
def measure_gap(
    score: Score,
    valid: Tensor,
    noise: Noise,
    exact_tokens: int = 10,
    paths: int = 16,
    rows_per_pass: int = 4096,
) -> Gap:
    """The gap of a batch of actions: exact where every action is short enough, else its lower bound.

    Args:
        score: the model on the batch.
        valid: [B, L] bool.
        noise: one stream a row, for the decoding orders of the lower bound; not used by the exact gap.
        exact_tokens: the longest completion to treat exactly (2^n forward rows each).
        paths: decoding orders per action for the lower bound (n forward rows each).
        rows_per_pass: bounds the memory.
    """
    if int(valid.sum(-1).max()) <= exact_tokens:
        likelihood = exact_likelihood(score, valid, rows_per_pass)
        return Gap(float(likelihood.gap.mean()), "exact", float(likelihood.elbo.mean()))
    log_weights = path_log_weights(score, valid, paths, noise, rows_per_pass).double()
    return Gap(float(gap_lower_bound(log_weights).mean()), "lower_bound", float(log_weights.mean()))
