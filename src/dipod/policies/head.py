"""Log-probabilities of given tokens without a [N, V] tensor that lives until the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_VALUES = 2**25
"""Logits computed at once: 134 MB in float32, and a few times that while the softmax is taken."""


def token_log_probs(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    barred: Tensor,
    chunk_values: int = CHUNK_VALUES,
) -> Tensor:
    """Log p(target) = logit(target) - log Σ_{v not barred} exp logit(v), row by row; differentiable.

    Above ``chunk_values`` logits, rows go through in chunks whose logits are computed once more in the backward pass,
    so memory does not grow with N·V. Values and gradients are those of the plain formula.

    Args:
        head: final hidden states [n, D] to logits [n, V].
        hidden: [N, D].
        targets: [N] int64.
        barred: int64 ids whose probability is zero.
        chunk_values: most logits held at a time (but at least one row of them).

    Returns:
        [N] nats, float64 where the logits are, else float32.
    """

    def log_probs(some: Tensor, wanted: Tensor) -> Tensor:
        logits = head(some)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits.index_fill(-1, barred, -torch.inf)
        return logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(-1)

    with torch.no_grad():
        vocabulary = head(hidden[:1]).shape[-1]
    rows = max(1, chunk_values // vocabulary)
    if len(hidden) <= rows:
        return log_probs(hidden, targets)
    chunks = list(zip(hidden.split(rows), targets.split(rows), strict=True))
    if not torch.is_grad_enabled():
        return torch.cat([log_probs(some, wanted) for some, wanted in chunks])
    recomputed = [
        checkpoint(log_probs, some, wanted, use_reentrant=False, preserve_rng_state=False) for some, wanted in chunks
    ]
    return torch.cat(recomputed)
