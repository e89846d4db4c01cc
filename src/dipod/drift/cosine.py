"""The angle between the proxy gradient and the true policy gradient: the second drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.evidence import MaskedEvidence, Score
from dipod.likelihood.exact import all_corruptions, exact_table, log_prob_from_table
from dipod.noise import Noise

UNIFORM_COUNT = ("independent", "antithetic", "stratified", "complement")
DRAWS = 240
"""Masks that stand for a process whose expectation is not enumerated; a multiple of 2 and 3, and not too many nodes."""


def cosine(first: Tensor, second: Tensor) -> float:
    """cos∠(first, second) in float64; NaN when either is zero, since a zero gradient has no direction."""
    first, second = first.double(), second.double()
    return float(first @ second / (first.norm() * second.norm()))


def gradient_cosine(
    score: Callable[[Tensor], Score],
    valid: Tensor,
    advantage: Tensor,
    objective: Callable[[MaskedEvidence, Tensor], Tensor],
    parameters: Sequence[Tensor],
    corruption: CorruptionConfig | None = None,
) -> float:
    """Cosine of the angle between Σ_i ∇objective_i and Σ_i A_i ∇log π_i over one batch, both free of corruption noise.

    Both gradients come from the same forward rows (all 2^n - 1 masks of each action) and so from the same actions
    and advantages: what is left between them is the drift. The objective takes its exact expectation over corruptions
    where these are uniform in their number or hide everything, and else the mean over `DRAWS` of them. The network's
    graph is held for one action at a time, 2^n - 1 forward rows.

    Args:
        score: ``score(rows)`` gives the model on those rows of the batch.
        valid: [B, L] bool, completions of at most `dipod.likelihood.exact.MAX_EXACT_TOKENS` tokens.
        advantage: [B]; rows with advantage zero cost nothing.
        objective: ``objective(evidence, advantage) -> [B]``, what the estimator ascends: A·proxy, say.
        parameters: with respect to which the gradients are taken.
        corruption: the estimator's process; uniform counts when None.

    Returns:
        The cosine, or NaN when either gradient vanishes (all advantages zero, say).
    """
    require(len(valid) == len(advantage), "advantage", len(advantage), "give one advantage for each action")
    wanted = [p for p in parameters if p.requires_grad]
    totals = [[torch.zeros_like(p, dtype=torch.float64) for p in wanted] for _ in range(2)]
    for row in advantage.nonzero():
        table = exact_table(score(row), valid[row], rows_per_pass=None)
        leaf = table.detach().double().requires_grad_()  # both objectives are functions of it alone
        evidence, weight = _expected_evidence(leaf, corruption), advantage[row].double()
        objectives = (objective(evidence, weight), weight * log_prob_from_table(leaf))
        for total, value in zip(totals, objectives, strict=True):
            (upstream,) = torch.autograd.grad(value.sum(), leaf)
            gradients = torch.autograd.grad(table, wanted, upstream.to(table.dtype), retain_graph=True)
            for accumulated, gradient in zip(total, gradients, strict=True):
                accumulated.add_(gradient)
    first, second = (torch.cat([g.flatten() for g in total]) for total in totals)
    return cosine(first, second)


def _expected_evidence(table: Tensor, corruption: CorruptionConfig | None) -> MaskedEvidence:
    """Evidence over masks of a [1, 2^n - 1, n] table whose mean is the expectation over a process, or nearly."""
    length = table.shape[-1]
    if corruption is None or corruption.scheme in UNIFORM_COUNT:
        every = all_corruptions(length, 1)
        return MaskedEvidence(table, every.masked.to(table.device), every.weights.to(table.device))
    samples = 1 if corruption.scheme == "all-masked" else DRAWS
    config = replace(corruption, samples=samples, prompt_share=0.0)
    drawn = draw(config, torch.ones(1, length, dtype=torch.bool), None, Noise.keyed("cosine", examples=[0]))
    place = (drawn.masked * 2 ** torch.arange(length)).sum(-1) - 1  # an empty mask takes any row and hides it
    log_probs = table[:, place[0].clamp_min(0).to(table.device)] * drawn.masked.to(table.device)
    return MaskedEvidence(log_probs, drawn.masked.to(table.device), drawn.weights.to(table))
