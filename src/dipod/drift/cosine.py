"""The angle between the proxy gradient and the true policy gradient: the second drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.evidence import MaskedEvidence, Score
from dipod.likelihood.exact import all_corruptions, exact_table, log_prob_from_table
from dipod.likelihood.masked import MaskedProxy


def cosine(first: Tensor, second: Tensor) -> float:
    """cos∠(first, second) in float64; NaN when either is zero, since a zero gradient has no direction."""
    first, second = first.double(), second.double()
    return float(first @ second / (first.norm() * second.norm()))


def gradient_cosine(
    score: Callable[[Tensor], Score],
    valid: Tensor,
    advantage: Tensor,
    proxy: MaskedProxy,
    parameters: Sequence[Tensor],
) -> float:
    """Cosine of the angle between Σ_i A_i ∇proxy_i and Σ_i A_i ∇log π_i over one batch, both free of corruption noise.

    Both gradients come from the same forward rows (all 2^n - 1 masks of each action) and so from the same actions
    and advantages: what is left between them is the drift. The proxy takes its exact expectation over corruptions;
    ratios are 1, as in a first update, so the surrogate does not matter. The network's graph is held for one action
    at a time, 2^n - 1 forward rows.

    Args:
        score: ``score(rows)`` gives the model on those rows of the batch.
        valid: [B, L] bool, completions of at most `dipod.likelihood.exact.MAX_EXACT_TOKENS` tokens.
        advantage: [B]; rows with advantage zero cost nothing.
        proxy: what stands in for log π.
        parameters: with respect to which the gradients are taken.

    Returns:
        The cosine, or NaN when either gradient vanishes (all advantages zero, say).
    """
    require(len(valid) == len(advantage), "advantage", len(advantage), "give one advantage for each action")
    wanted = [p for p in parameters if p.requires_grad]
    totals = [[torch.zeros_like(p, dtype=torch.float64) for p in wanted] for _ in range(2)]
    for row in advantage.nonzero():
        table = exact_table(score(row), valid[row], rows_per_pass=None)
        leaf = table.detach().double().requires_grad_()  # both objectives are functions of it alone
        corruption = all_corruptions(leaf.shape[-1], 1)
        evidence = MaskedEvidence(leaf, corruption.masked.to(leaf.device), corruption.weights.to(leaf.device))
        weight = advantage[row].double()
        objectives = (weight * proxy(evidence, weight), weight * log_prob_from_table(leaf))
        for total, objective in zip(totals, objectives, strict=True):
            (upstream,) = torch.autograd.grad(objective.sum(), leaf)
            gradients = torch.autograd.grad(table, wanted, upstream.to(table.dtype), retain_graph=True)
            for accumulated, gradient in zip(total, gradients, strict=True):
                accumulated.add_(gradient)
    first, second = (torch.cat([g.flatten() for g in total]) for total in totals)
    return cosine(first, second)
