"""The angle between the proxy gradient and the true policy gradient, and the gap's part in it: the second drift.

The estimator ascends Σ_i A_i·proxy_i; the policy gradient is Σ_i A_i ∇log π_i on the same actions (eq. 1). With the
ELBO as proxy, ∇ELBO = ∇log π - ∇D_L, so their difference is the gap's own gradient. Exact where completions are short;
elsewhere an unbiased estimate of ∇log π from decoding orders (`dipod.likelihood.paths`), twice, as is the proxy's, so
that products of independent estimates are free of the noise that would hide the angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score
from dipod.likelihood.exact import all_corruptions, exact_table, log_prob_from_table
from dipod.likelihood.paths import order_log_weights, random_orders
from dipod.noise import Noise

UNIFORM_COUNT = ("independent", "antithetic", "stratified", "complement")
DRAWS = 240
"""Masks that stand for a process whose expectation is not enumerated; a multiple of 2 and 3, and not too many nodes."""

Objective = Callable[[MaskedEvidence, Tensor], Tensor]
"""``objective(evidence, advantage) -> [B]``: what the estimator ascends, A·proxy, say."""


@dataclass(frozen=True)
class Alignment:
    """How the estimator's gradient g = Σ_i A_i ∇proxy_i stands to the policy gradient h = Σ_i A_i ∇log π_i.

    Attributes:
        cosine: of the angle between them; NaN where a gradient vanishes or drowns in noise.
        drift_share: ‖g - h‖ / ‖h‖, the gap's part over the likelihood's; NaN likewise.
        kind: "exact" or "estimate".
    """

    cosine: float
    drift_share: float
    kind: Literal["exact", "estimate"]


def cosine(first: Tensor, second: Tensor) -> float:
    """cos∠(first, second) in float64; NaN when either is zero, since a zero gradient has no direction."""
    first, second = first.double(), second.double()
    return float(first @ second / (first.norm() * second.norm()))


def exact_alignment(
    score: Callable[[Tensor], Score],
    valid: Tensor,
    advantage: Tensor,
    objective: Objective,
    parameters: Sequence[Tensor],
    corruption: CorruptionConfig | None = None,
) -> Alignment:
    """Both gradients over one batch, free of corruption noise.

    They come from the same forward rows (all 2^n - 1 masks of each action) and so from the same actions
    and advantages: what is left between them is the drift. The objective takes its exact expectation over corruptions
    where these are uniform in their number or hide everything, and else the mean over `DRAWS` of them. The network's
    graph is held for one action at a time, 2^n - 1 forward rows.

    Args:
        score: ``score(rows)`` gives the model on those rows of the batch.
        valid: [B, L] bool, completions of at most `dipod.likelihood.exact.MAX_EXACT_TOKENS` tokens.
        advantage: [B]; rows with advantage zero cost nothing.
        objective: what the estimator ascends.
        parameters: with respect to which the gradients are taken.
        corruption: the estimator's process; uniform counts when None.
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
    share = float((first - second).norm() / second.norm()) if float(second.norm()) > 0 else math.nan
    return Alignment(cosine(first, second), share, "exact")


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


def sampled_alignment(
    score: Callable[[Tensor], Score],
    valid: Tensor,
    advantage: Tensor,
    objective: Objective,
    parameters: Sequence[Tensor],
    corruption: CorruptionConfig,
    own_order: Tensor,
    noise: Noise,
    paths: int = 8,
    sketch: int = 0,
    rows_per_pass: int = 64,
) -> Alignment:
    """Both gradients over one batch of completions of any length, estimated twice each from independent noise.

    ∇log π is Σ_k w_k ∇log w_k / Σ_k w_k over ``paths`` orders of which one has the posterior's law, which is unbiased:
    first the order that the action was sampled by, then one drawn from the first set in proportion to w. Cosines and
    norms are made of products across the two estimates, so that noise does not shrink them. About
    2·paths·(L + 1) forward and backward rows an action for log π, and 2·K for the proxy.

    Args:
        score: as for `exact_alignment`.
        valid: [B, L] bool.
        advantage: [B].
        objective: what the estimator ascends.
        parameters: with respect to which the gradients are taken.
        corruption: the estimator's process.
        own_order: [B, L], the order by which each action was sampled.
        noise: one stream a row.
        paths: orders an estimate, at least 2.
        sketch: numbers that a gradient is reduced to, by a seeded random projection that keeps scalar products in the
            mean (each parameter is added to one of them with a random sign); 0 keeps all of it.
        rows_per_pass: forward rows whose graph is held at once.
    """
    require(paths >= 2, "paths", paths, "give at least 2 decoding orders")
    wanted = [p for p in parameters if p.requires_grad]
    rows = advantage.nonzero()[:, 0]
    some, streams = valid[rows], noise[rows.tolist()]
    model = score(rows)
    first = torch.cat([own_order[rows][:, None], random_orders(some, paths - 1, streams)], 1)
    weights = _without_gradient(model, first, rows_per_pass)
    drawn = (weights.softmax(-1).cumsum(-1) < streams.uniform(1, device=valid.device).double()).sum(-1)
    again = first[torch.arange(len(rows)), drawn.clamp_max(paths - 1)][:, None]
    second = torch.cat([again, random_orders(some, paths - 1, streams)], 1)
    found: dict[str, list[Tensor]] = {"proxy": [], "likelihood": []}
    for order in (first, second):
        masks = draw(corruption, some.cpu(), None, streams).to(valid.device)
        pieces = _proxy_terms(model, masks, objective, advantage[rows], rows_per_pass)
        found["proxy"].append(_reduced(_gradient(model, pieces, wanted, rows_per_pass), sketch))
        log_weights = weights if order is first else _without_gradient(model, order, rows_per_pass)
        share = advantage[rows, None] * log_weights.softmax(-1).to(advantage.dtype)
        found["likelihood"].append(
            _reduced(_gradient(model, _order_terms(order, share), wanted, rows_per_pass), sketch)
        )
    return from_two(found["proxy"], found["likelihood"])


Terms = tuple[Tensor, Tensor, Tensor]
"""Forward rows [R], their masks [R, L], and the weights [R, L] of the log-probabilities that are summed up."""


def _without_gradient(score: Score, order: Tensor, rows_per_pass: int) -> Tensor:
    with torch.no_grad():
        return order_log_weights(score, order, rows_per_pass).double()


def _proxy_terms(score: Score, masks: Corruption, objective: Objective, advantage: Tensor, rows_per_pass: int) -> Terms:
    """The objective's gradient with respect to every log-probability: what each of them weighs."""
    batch, samples, length = masks.masked.shape
    rows = torch.arange(batch, device=masks.masked.device).repeat_interleave(samples)
    flat = masks.masked.reshape(-1, length)
    with torch.no_grad():
        parts = [score(r, m) for r, m in zip(rows.split(rows_per_pass), flat.split(rows_per_pass), strict=True)]
    leaf = torch.cat(parts).double().reshape(batch, samples, length).requires_grad_()
    value = objective(MaskedEvidence(leaf, masks.masked, masks.weights.double()), advantage.double())
    (upstream,) = torch.autograd.grad(value.sum(), leaf)
    return rows, flat, upstream.reshape(-1, length)


def _order_terms(order: Tensor, share: Tensor) -> Terms:
    """Σ_i Σ_k share_ik log w(σ_ik) as weighted log-probabilities."""
    batch, paths, length = order.shape
    step = torch.arange(int(order.max()) + 1, device=order.device)[:, None]
    masked, revealed = order[:, :, None] >= step, order[:, :, None] == step
    rows = torch.arange(batch, device=order.device).repeat_interleave(paths * len(step))
    weights = share[:, :, None, None] * revealed
    return rows, masked.reshape(-1, length), weights.reshape(-1, length)


def _gradient(score: Score, terms: Terms, parameters: Sequence[Tensor], rows_per_pass: int) -> list[Tensor]:
    """∇ Σ weight·log p over some forward rows, a few of them at a time."""
    total = [torch.zeros_like(p) for p in parameters]
    for rows, masked, weights in _passes(terms, rows_per_pass):
        value = (score(rows, masked) * weights.to(total[0].dtype)).sum()
        for accumulated, gradient in zip(total, torch.autograd.grad(value, parameters), strict=True):
            accumulated.add_(gradient)
    return total


def _passes(terms: Terms, rows_per_pass: int) -> Iterator[Terms]:
    rows, masked, weights = terms
    told = (weights != 0).any(-1)
    parts = [part[told].split(rows_per_pass) for part in (rows, masked, weights)]
    yield from zip(*parts, strict=True)


def _reduced(gradients: Sequence[Tensor], size: int) -> Tensor:
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


def from_two(proxy: Sequence[Tensor], likelihood: Sequence[Tensor]) -> Alignment:
    """Cosine and share from two independent estimates of each gradient; an exact one stands for both."""
    across = sum(float(one @ other) for one in proxy for other in likelihood) / 4
    crossed = float(proxy[0] @ likelihood[1] + proxy[1] @ likelihood[0])
    proxies, likelihoods = float(proxy[0] @ proxy[1]), float(likelihood[0] @ likelihood[1])
    if proxies <= 0 or likelihoods <= 0:
        return Alignment(math.nan, math.nan, "estimate")
    angle = max(-1.0, min(1.0, across / math.sqrt(proxies * likelihoods)))
    return Alignment(angle, math.sqrt(max(0.0, proxies + likelihoods - crossed) / likelihoods), "estimate")
