"""The angle between an estimator's gradient and the true policy gradient, and the gap's part in it: the second drift.

The estimator ascends Σ_i A_i·proxy_i; the policy gradient is Σ_i A_i ∇log π_i on the same actions (eq. 1), each action
weighed as the estimator weighs it. With the ELBO as proxy, ∇ELBO = ∇log π - ∇D_L, so their difference is the gap's own
gradient. Where completions are short both are exact: the estimator's gradient is its expectation over the masks that it
draws, at its own number of them. For longer ones see `dipod.drift.sampled`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dipod.drift.products import Alignment, Parts, Products, blocks_of
from dipod.errors import require
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.evidence import MaskedEvidence, Score
from dipod.likelihood.exact import all_masks, exact_table, log_prob_from_table
from dipod.likelihood.laws import expected_weights, tuples
from dipod.noise import Noise

DRAWS = 1024
"""Sets of masks for each of the two estimates of an expectation that cannot be enumerated."""

Objective = Callable[[MaskedEvidence, Tensor, Tensor], Tensor]
"""``objective(evidence, advantage, length) -> [B]``: what the estimator ascends, A·proxy, say."""
ScoreOf = Callable[[Tensor, Tensor | None], Score]
"""``score(rows [R], hidden [R, P] or None)``: the model on those rows of the batch, with hidden prompt tokens."""


def _unweighted(length: Tensor) -> Tensor:
    return torch.ones_like(length)


@dataclass(frozen=True)
class Estimator:
    """What is held against the policy gradient: an estimator as it is trained.

    Attributes:
        objective: what it ascends on policy, without the β term.
        corruption: the masks that it draws, and how many.
        weight: ``weight(length) -> [B]``, what it multiplies every action's term by besides the advantage (1/length,
            say); the policy gradient and the β term are weighed alike.
        beta: β in force; 0 without the term.
        bound: the masks of the β term's ELBO; None where they are the estimator's own.
    """

    objective: Objective
    corruption: CorruptionConfig
    weight: Callable[[Tensor], Tensor] = _unweighted
    beta: float = 0.0
    bound: CorruptionConfig | None = None


def cosine(first: Tensor, second: Tensor) -> float:
    """cos∠(first, second) in float64; NaN when either is zero, since a zero gradient has no direction."""
    first, second = first.double(), second.double()
    return float(first @ second / (first.norm() * second.norm()))


def exact_alignment(
    score: ScoreOf,
    valid: Tensor,
    advantage: Tensor,
    estimator: Estimator,
    parameters: Sequence[Tensor],
    noise: Noise,
) -> Alignment:
    """Both gradients over one batch, from the same forward rows: all 2^n - 1 masks of each action.

    ∇log π is exact. The estimator's gradient is its expectation over masks: a sum over single masks for a proxy that
    adds up over samples, over all sets of K masks where these are few enough to enumerate, and else the mean over
    `DRAWS` sets of K, twice; the result is then an "estimate" with its error. The network's graph is held for one
    action at a time, 2^n - 1 forward rows.

    Args:
        score: the model on the batch.
        valid: [B, L] bool, completions of at most `dipod.likelihood.exact.MAX_EXACT_TOKENS` tokens.
        advantage: [B]; rows with advantage zero cost nothing.
        estimator: what is compared. Its prompt tokens must be visible.
        parameters: with respect to which the gradients are taken.
        noise: B streams, for masks that are not enumerated.

    Raises:
        UserError: numbers of actions, advantages and streams that differ; hidden prompt tokens.
    """
    require(len(valid) == len(advantage), "advantage", len(advantage), "give one advantage for each action")
    share = estimator.corruption.prompt_share
    require(share == 0, "corruption.prompt_share", share, "an expectation over hidden prompt tokens is not exact")
    wanted = [p for p in parameters if p.requires_grad]
    rows = advantage.nonzero()[:, 0].tolist()
    blocks = blocks_of(len(rows), most=8)
    count = int(blocks[-1]) + 1 if rows else 1
    sums = {name: zeros(count, wanted) for name in ("proxy", "again", "likelihood", "elbo")}
    exact = True
    for row, block in zip(rows, blocks.tolist(), strict=True):
        place = torch.tensor([row], device=valid.device)
        table = exact_table(score(place, None), valid[place], rows_per_pass=None)
        leaf = table.detach().double().requires_grad_()  # all objectives are functions of it alone
        weight = float(estimator.weight(valid[place].sum(-1).double()))
        (likelihood,) = torch.autograd.grad(advantage[row].double() * weight * log_prob_from_table(leaf).sum(), leaf)
        slopes = _expected_slopes(leaf, valid[row], advantage[row].double(), estimator, noise[[row]])
        exact = exact and len(slopes) == 1
        wants = {"likelihood": likelihood, "proxy": slopes[0], "again": slopes[-1]}
        if estimator.beta:
            bound = estimator.bound or estimator.corruption
            wants["elbo"] = weight * _of_weights(expected_weights(bound, valid[row].cpu()), leaf)
        done: list[tuple[Tensor, Tensor]] = []
        for name, slope in wants.items():
            flat = _multiple(slope, done)
            if flat is None:
                flat = reduced(torch.autograd.grad(table, wanted, slope.to(table.dtype), retain_graph=True), 0)
                done.append((slope, flat))
            sums[name][block] += flat
    proxy, likelihoods = Parts(sums["proxy"], sums["again"]), Parts(sums["likelihood"], sums["likelihood"])
    update = proxy + Parts(sums["elbo"], sums["elbo"]).times(estimator.beta)
    return Products.of(proxy, likelihoods, update, "exact" if exact else "estimate").alignment()


def _multiple(slope: Tensor, done: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The gradient that belongs to a slope, if it is a multiple of one whose gradient is known."""
    for other, flat in done:
        factor = float((slope * other).sum() / other.square().sum())
        if torch.allclose(slope, factor * other, rtol=1e-12, atol=0.0):
            return factor * flat
    return None


def _expected_slopes(
    leaf: Tensor, counted: Tensor, advantage: Tensor, estimator: Estimator, noise: Noise
) -> list[Tensor]:
    """The expectation over masks of the objective's gradient with respect to a table [1, 2^n - 1, n].

    Exact where there is one; else two independent estimates.
    """
    config, where = estimator.corruption, counted.cpu()
    draws = Noise.keyed("expectation", int(2**31 * noise.uniform(1, dtype=torch.float64)), examples=range(2 * DRAWS))

    def drawn(rows: slice) -> tuple[Tensor, Tensor]:
        streams = draws[rows]
        found = draw(config, where.expand(len(streams), -1), None, streams)
        bits = found.masked[:, :, where] * 2 ** torch.arange(int(where.sum()))
        return bits.sum(-1), found.weights.double()

    def slope(sets: Tensor, weights: Tensor, probability: Tensor) -> Tensor:
        evidence = _of_sets(leaf, sets.to(leaf.device), weights.to(leaf.device))
        each = torch.ones(len(sets), dtype=torch.float64, device=leaf.device)
        values = estimator.objective(evidence, advantage * each, int(where.sum()) * each)
        (found,) = torch.autograd.grad((probability.to(leaf.device) * values).sum(), leaf)
        return found

    factor = _adds_up(leaf, *drawn(slice(0, 16)), advantage, estimator.objective)
    if factor is not None:
        return [factor * _of_weights(expected_weights(config, where), leaf)]
    every = tuples(config, where)
    if every is not None:
        return [torch.stack([slope(part.sets, part.weights, part.probability) for part in every]).sum(0)]
    even = torch.full((DRAWS,), 1 / DRAWS, dtype=torch.float64)
    return [slope(*drawn(half), even) for half in (slice(0, DRAWS), slice(DRAWS, 2 * DRAWS))]


def _of_sets(leaf: Tensor, sets: Tensor, weights: Tensor) -> MaskedEvidence:
    """Evidence [T, K, n] of sets of K masks, read from a table."""
    masked = ((sets[..., None] >> torch.arange(leaf.shape[-1], device=leaf.device)) & 1).bool()
    tokens = torch.full((len(sets),), leaf.shape[-1], device=leaf.device)
    return MaskedEvidence(leaf[0, (sets - 1).clamp_min(0)] * masked, masked, weights, tokens)


def _of_weights(weights: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of Σ_m W(m) Σ_{i∈m} log p(x_i | x_{not m}) with respect to a table [1, 2^n - 1, n]."""
    return (weights[:, None] * all_masks(leaf.shape[-1]))[None].to(leaf.device)


def _adds_up(leaf: Tensor, sets: Tensor, weights: Tensor, advantage: Tensor, objective: Objective) -> float | None:
    """The c of an objective that is c times the mean over K of weight x Σ log p, on policy; None where it is not one.

    Told from its gradient under some sets of masks that the process draws.
    """
    evidence = _of_sets(leaf.detach(), sets.to(leaf.device), weights.to(leaf.device))
    own = evidence.token_log_probs.clone().requires_grad_()
    each = torch.ones(len(sets), dtype=torch.float64, device=leaf.device)
    value = objective(replace(evidence, token_log_probs=own), advantage * each, leaf.shape[-1] * each)
    (slope,) = torch.autograd.grad(value.sum(), own)
    slope = slope * evidence.masked
    plain = evidence.weights[..., None] * evidence.masked / evidence.masked.shape[1]
    factor = float((slope * plain).sum() / plain.square().sum())
    close = torch.allclose(slope, factor * plain, rtol=1e-9, atol=1e-9 * abs(factor) * float(plain.max()))
    return factor if close else None


def zeros(count: int, parameters: Sequence[Tensor]) -> Tensor:
    """No gradient, [J, P]."""
    where = parameters[0].device if parameters else torch.device("cpu")
    return torch.zeros(count, sum(p.numel() for p in parameters), dtype=torch.float64, device=where)


def reduced(gradients: Sequence[Tensor], size: int) -> Tensor:
    """One vector of all gradients, float64, or a count sketch of it that is the same projection every time."""
    if not size:
        return torch.cat([gradient.flatten().double() for gradient in gradients])
    sums = torch.zeros(size, dtype=torch.float64)
    for number, gradient in enumerate(gradients):
        generator = torch.Generator().manual_seed(number)
        place = torch.randint(size, (gradient.numel(),), generator=generator)
        sign = torch.randint(2, (gradient.numel(),), generator=generator) * 2 - 1
        sums.index_add_(0, place, gradient.flatten().double().cpu() * sign)
    return sums
