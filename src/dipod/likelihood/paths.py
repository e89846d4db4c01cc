"""Decoding orders: what a policy that reveals tokens in random order gives a completion, order by order.

An order says at which step each token is revealed (as `dipod.policies.sampling.Sample.order` does); tokens of one step
are drawn independently, given all earlier ones. With w(σ) = Π_t Π_{i revealed at t} p(x_i | revealed before t), π(x) =
E_σ[w(σ)] over the orders that the decoder draws. From K' orders come bounds on either side of log π:

- mean log w ≤ E log-mean-exp ≤ log π (paper eq. 16): an importance-weighted lower bound, tighter as K' grows;
- where one of the orders is the one by which x itself was sampled, E log-mean-exp ≥ log π: that order has the
  posterior's law P(σ|x), and E over it of the average of w(σ₀) and K'-1 fresh ones is at least π (Jensen, on 1/π̂);
- and Σ_k w_k ∇log w_k / Σ_k w_k over such a set has the expectation ∇log π exactly, at any K': picking an order in
  proportion to w leaves the posterior as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.evidence import Score, score_in_passes
from dipod.noise import Noise


def random_orders(valid: Tensor, paths: int, noise: Noise, blocks: int = 1, steps: int = 0) -> Tensor:
    """Orders as the sampler draws them with "random" remasking: uniform within blocks that come left to right.

    Args:
        valid: [B, L] bool.
        paths: K' orders a row.
        noise: B streams.
        blocks: equal parts of the completion, decoded one after the other.
        steps: steps a block, over which its tokens are spread evenly, the earlier steps taking the remainder; 0 for one
            token a step.

    Returns:
        [B, K', L] int64, the step of each token; -1 at padding.
    """
    require(paths >= 1, "paths", paths, "draw at least one decoding order")
    size = valid.shape[1] // blocks
    here = valid.unflatten(1, (blocks, size))[:, None]
    numbers = noise.uniform_at(valid, paths).unflatten(2, (blocks, size))
    rank = numbers.masked_fill(~here, torch.inf).argsort(-1).argsort(-1)
    step: Tensor = rank
    if steps:
        count = here.sum(-1, keepdim=True)
        share, more = count // steps, count % steps  # the first ``more`` steps reveal one token more
        wide = more * (share + 1)
        step = torch.where(rank < wide, rank // (share + 1), more + (rank - wide) // share.clamp_min(1))
    first = torch.arange(blocks, device=valid.device)[:, None] * (steps or size)
    order: Tensor = (step + first).masked_fill(~here, -1)
    return order.flatten(2)


def order_log_weights(score: Score, order: Tensor, rows_per_pass: int | None = None) -> Tensor:
    """Log w(σ) = Σ_t Σ_{i revealed at t} log p(x_i | revealed before t) of given orders, paper eq. 16.

    Args:
        score: the model.
        order: [B, K', L]; see `random_orders`.
        rows_per_pass: forward rows per pass, which bounds the memory; all at once when None.

    Returns:
        [B, K'] nats, from T forward rows an order, T being its steps.
    """
    batch, paths, length = order.shape
    step = torch.arange(int(order.max()) + 1, device=order.device)[:, None]
    masked, revealed = order[:, :, None] >= step, order[:, :, None] == step
    rows = torch.arange(batch, device=order.device).repeat_interleave(paths * len(step))
    flat = score_in_passes(score, rows, masked.reshape(-1, length), rows_per_pass)
    return (flat.reshape(masked.shape) * revealed).sum((-1, -2))


def path_log_weights(score: Score, valid: Tensor, paths: int, noise: Noise, rows_per_pass: int | None = None) -> Tensor:
    """Log importance weights of uniformly random decoding orders, paper eq. 16 for one token a step.

    Since E_σ[w] = π(x), their mean is an unbiased ELBO and their log-mean-exp is the importance-weighted bound,
    ELBO ≤ E[log-mean-exp] ≤ log π.

    Args:
        score: the model.
        valid: [B, L] bool.
        paths: number of orders K' per row; each costs L forward rows.
        noise: one stream a row, for the orders.
        rows_per_pass: forward rows per pass, which bounds the memory; all at once when None.

    Returns:
        [B, K'] nats.
    """
    return order_log_weights(score, random_orders(valid, paths, noise), rows_per_pass)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Log (1/K') Σ_k w_k: [B, K'] → [B].

    In expectation between the ELBO and log π, tighter as K' grows, where all orders are fresh; at least log π where
    one of them is the order that the completion was sampled by.
    """
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def path_eubo(log_weights: Tensor, order: float) -> Tensor:
    """Path-level Rényi EUBO, paper eq. 19, from sampled orders: (1/β) log (1/K') Σ_k w_k^β, [B, K'] → [B].

    The sample mean sits inside the logarithm, so a finite K' underestimates the bound; the exact value, from
    all orders, is `dipod.likelihood.exact.exact_path_eubo`.

    Raises:
        UserError: order below 1 (no upper bound there, eq. 17).
    """
    require(order >= 1, "order", order, "the Rényi order of an upper bound is at least 1")
    return importance_weighted_bound(order * log_weights) / order
