"""The angle of an estimator's gradient where completions are too long for exactness.

∇log π is an unbiased estimate from decoding orders (`dipod.likelihood.paths`), the estimator's gradient is taken under
the masks that it draws, its own number of them, and angles are made of products of independent estimates
(`dipod.drift.products`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dipod.drift.alignment import Estimator, Objective, ScoreOf, reduced, zeros
from dipod.drift.products import Alignment, Parts, Products, blocks_of
from dipod.errors import require
from dipod.likelihood.corruption import draw
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score
from dipod.likelihood.paths import order_log_weights, random_orders
from dipod.noise import Noise

REFRESHES = 3
"""Draws from the posterior of decoding orders between the two estimates of ∇log π. Where one order outweighs all others
the draws may stay at it; the two estimates of that one action are then not independent, and its own part of the squared
norm comes out too large. Products across actions are not affected."""


def sampled_alignment(
    score: ScoreOf,
    valid: Tensor,
    advantage: Tensor,
    estimator: Estimator,
    parameters: Sequence[Tensor],
    own_order: Tensor,
    noise: Noise,
    prompt: Tensor | None = None,
    paths: int = 8,
    sketch: int = 0,
    rows_per_pass: int = 64,
) -> Alignment:
    """Both gradients over one batch of completions of any length, estimated twice each from independent noise.

    ∇log π is Σ_k w_k ∇log w_k / Σ_k w_k over ``paths`` orders of which one has the posterior's law, which is unbiased:
    first the order that the action was sampled by, then one drawn from the posterior by `REFRESHES` rounds of sampling
    importance resampling, which may end at the same one. About (2 + `REFRESHES`)·paths·L forward and 2·paths·L backward
    rows an action for log π, and 2·K for the proxy. Up to 16 blocks of actions are kept apart, six vectors of all
    parameters each.

    Args:
        score: the model on the batch.
        valid: [B, L] bool.
        advantage: [B].
        estimator: what is compared.
        parameters: with respect to which the gradients are taken.
        own_order: [B, L], the order by which each action was sampled.
        noise: one stream a row.
        prompt: [B, P] bool, the prompts' tokens, of which the estimator may hide some; None hides none.
        paths: orders an estimate, at least 2.
        sketch: numbers that a gradient is reduced to, by a seeded random projection that keeps scalar products in the
            mean (each parameter is added to one of them with a random sign); 0 keeps all of it.
        rows_per_pass: forward rows whose graph is held at once.

    Returns:
        An "estimate"; NaN where all advantages are zero.
    """
    require(paths >= 2, "paths", paths, "give at least 2 decoding orders")
    wanted = [p for p in parameters if p.requires_grad]
    rows = advantage.nonzero()[:, 0]
    if not len(rows):
        nothing = Parts(zeros(1, wanted), zeros(1, wanted))
        return Products.of(nothing, nothing, nothing, "estimate").alignment()
    some, streams, hidable = valid[rows], noise[rows.tolist()], None if prompt is None else prompt[rows].cpu()
    length = some.sum(-1).double()
    batch, factor = _Batch(rows, advantage[rows].double(), length), estimator.weight(length)
    work = _Work(wanted, blocks_of(len(rows)).to(rows.device), sketch, rows_per_pass)
    configs = [estimator.corruption, *([estimator.bound] if estimator.beta and estimator.bound else [])]
    model = score(rows, None)
    found: dict[str, list[Tensor]] = {"proxy": [], "elbo": [], "likelihood": []}

    def elbo(evidence: MaskedEvidence, advantage: Tensor, length: Tensor) -> Tensor:
        del advantage
        return estimator.weight(length) * evidence.elbo()

    for order, log_weights in _two_posteriors(model, some, own_order[rows], streams, paths, rows_per_pass):
        masks = [draw(config, some.cpu(), hidable, streams).to(valid.device) for config in configs]
        own = _proxy_terms(score, batch, masks[0], estimator.objective, rows_per_pass)
        found["proxy"].append(work.gradient(own))
        if estimator.beta:
            found["elbo"].append(work.gradient(_proxy_terms(score, batch, masks[-1], elbo, rows_per_pass)))
        share = (batch.advantage * factor)[:, None] * log_weights.softmax(-1)
        found["likelihood"].append(work.gradient(_order_terms(model, order, share)))
    proxy, likelihood = Parts(*found["proxy"]), Parts(*found["likelihood"])
    update = proxy + Parts(*found["elbo"]).times(estimator.beta) if estimator.beta else proxy
    return Products.of(proxy, likelihood, update, "estimate").alignment()


@dataclass(frozen=True)
class _Batch:
    """The actions compared: which of the batch they are, their advantages and lengths, [B] each."""

    rows: Tensor
    advantage: Tensor
    length: Tensor


def _two_posteriors(
    model: Score, valid: Tensor, own: Tensor, noise: Noise, paths: int, rows_per_pass: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Two sets of orders [B, K', L] with their log weights [B, K'], one of each having the posterior's law."""

    def around(kept: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.cat([kept[:, None], random_orders(valid, paths - 1, noise)], 1)
        with torch.no_grad():
            return order, order_log_weights(model, order, rows_per_pass).double()

    order, weights = around(own)
    yield order, weights
    for _ in range(REFRESHES):
        passed = (weights.softmax(-1).cumsum(-1) < noise.uniform(1, device=valid.device).double()).sum(-1)
        order, weights = around(order[torch.arange(len(order)), passed.clamp_max(paths - 1)])
    yield order, weights


@dataclass(frozen=True)
class _Terms:
    """Forward rows [R] with their masks [R, L], the weights [R, L] of the log-probabilities summed up, whose rows."""

    score: Score
    rows: Tensor
    masked: Tensor
    weights: Tensor
    owner: Tensor


@dataclass(frozen=True)
class _Work:
    """How gradients are taken: of which parameters, of which blocks of actions [B], reduced to how many numbers."""

    parameters: Sequence[Tensor]
    blocks: Tensor
    sketch: int
    rows_per_pass: int

    def gradient(self, terms: _Terms) -> Tensor:
        """∇ Σ weight·log p of every block, [J, P]."""
        parts = []
        for block in range(int(self.blocks.max()) + 1):
            here = (self.blocks[terms.owner] == block) & (terms.weights != 0).any(-1)
            total = [torch.zeros_like(p) for p in self.parameters]
            pieces = [part[here].split(self.rows_per_pass) for part in (terms.rows, terms.masked, terms.weights)]
            for rows, masked, weights in zip(*pieces, strict=True):
                value = (terms.score(rows, masked) * weights.to(total[0].dtype)).sum()
                for accumulated, gradient in zip(total, torch.autograd.grad(value, self.parameters), strict=True):
                    accumulated.add_(gradient)
            parts.append(reduced(total, self.sketch))
        return torch.stack(parts)


def _proxy_terms(score: ScoreOf, batch: _Batch, masks: Corruption, objective: Objective, rows_per_pass: int) -> _Terms:
    """The objective's gradient with respect to every log-probability: what each of them weighs."""
    count, samples, length = masks.masked.shape
    owner = torch.arange(count, device=masks.masked.device).repeat_interleave(samples)
    flat, index = masks.masked.reshape(-1, length), owner
    model = score(batch.rows, None)
    if masks.prompt is not None:
        model = score(batch.rows[owner], masks.prompt.flatten(0, 1))
        index = torch.arange(len(owner), device=owner.device)
    with torch.no_grad():
        parts = [model(r, m) for r, m in zip(index.split(rows_per_pass), flat.split(rows_per_pass), strict=True)]
    leaf = torch.cat(parts).double().reshape(count, samples, length).requires_grad_()
    value = objective(masks.evidence(leaf), batch.advantage, batch.length)
    (upstream,) = torch.autograd.grad(value.sum(), leaf)
    return _Terms(model, index, flat, upstream.reshape(-1, length), owner)


def _order_terms(score: Score, order: Tensor, share: Tensor) -> _Terms:
    """Σ_i Σ_k share_ik log w(σ_ik) as weighted log-probabilities."""
    batch, paths, length = order.shape
    step = torch.arange(int(order.max()) + 1, device=order.device)[:, None]
    masked, revealed = order[:, :, None] >= step, order[:, :, None] == step
    owner = torch.arange(batch, device=order.device).repeat_interleave(paths * len(step))
    weights = share[:, :, None, None] * revealed
    return _Terms(score, owner, masked.reshape(-1, length), weights.reshape(-1, length), owner)
