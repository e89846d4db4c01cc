"""Bounds and proxies of log π for masked diffusion: the paper's equations 17 to 21, in order.

Bounds over decoding orders (eqs. 16 and 19) are in `dipod.likelihood.paths`.

A proxy is ``proxy(evidence, advantage) -> [B]`` (or one value for each token, [B, L], which sum to it): what stands in
for log π(a|o) in the policy gradient. The
advantage is an argument because SPG chooses its bound by the advantage's sign; the result is not multiplied by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.evidence import Evidence, MaskedEvidence

MaskedProxy = Callable[[MaskedEvidence, Tensor], Tensor]
"""``proxy(evidence, advantage)`` in nats: [B], or [B, L] or [B, K, L] where tokens have ratios of their own."""


def spg_eubo(evidence: MaskedEvidence, order: float) -> Tensor:
    """SPG's surrogate of the EUBO, paper eq. 21: (1/β) Σ_i log mean_k[w_k 1{i masked in k} p_k(x_i)^β], [B].

    It factorises over tokens, which the path-level bound (eq. 19) does not. With masks in expectation it is never
    below the ELBO (Jensen, token by token), so at a tight model never below log π; it equals log π where every
    p(x_i | ·) is the same under all masks, lies above it where tokens depend on each other, and may lie below it
    where the bound is loose (tests/likelihood/test_masked.py shows each). K samples take the logarithm of a mean over
    K, which errs even where tokens are independent. A token that no sample masks has the estimate log 0: as in SPG's
    code the mean over the others stands for it, n times the mean over seen tokens. Antithetic pairs mask every token.

    Raises:
        UserError: order below 1.
    """
    require(order >= 1, "order", order, "the Rényi order of an upper bound is at least 1")
    masked = evidence.masked
    terms = evidence.weights.log()[..., None] + order * evidence.token_log_probs
    log_moment = terms.masked_fill(~masked, -torch.inf)
    seen = masked.any(-2)
    safe = torch.where(seen[:, None], log_moment, 0.0)  # keeps the gradient of an unseen token at zero, not NaN
    per_token = (safe.logsumexp(-2) - math.log(masked.shape[-2])) / order
    whole = evidence.length.to(per_token.dtype) / seen.sum(-1).clamp_min(1)
    return whole * torch.where(seen, per_token, 0.0).sum(-1)


def elbo_proxy(evidence: Evidence, advantage: Tensor) -> Tensor:
    """FPO's proxy, paper eq. 4: the ELBO whatever the advantage's sign, [B]."""
    del advantage
    return evidence.elbo()


def sandwich(
    evidence: MaskedEvidence,
    advantage: Tensor,
    order: float = 1.5,
    eubo_weight: float = 1.0,
    keep_negative: bool = True,
) -> Tensor:
    """SPG's sign-sandwiched proxy, paper eq. 5: the ELBO where A > 0, an upper bound where A < 0, [B].

    For A < 0: ω·EUBO + (1-ω)·ELBO, with ω = ``eubo_weight`` (1: "eubo", 1/2: "mix", 0: "elbo"); zero when
    ``keep_negative`` is false ("zero": learn from positive advantages only).
    """
    lower = evidence.elbo()
    if not keep_negative:
        return torch.where(advantage > 0, lower, 0.0)
    if eubo_weight == 0.0:
        return lower
    upper = eubo_weight * spg_eubo(evidence, order) + (1 - eubo_weight) * lower
    return torch.where(advantage > 0, lower, upper)


def sandwich_on_elbo(
    evidence: MaskedEvidence, advantage: Tensor, order: float = 1.5, eubo_weight: float = 0.5
) -> Tensor:
    """The ELBO's value with the gradient of `sandwich`, [B]: ratios are of ELBOs, the pull is SPG's.

    The published code of StableDRL does this.
    """
    pulling = sandwich(evidence, advantage, order, eubo_weight)
    return evidence.elbo().detach() + pulling - pulling.detach()


def token_proxy(evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
    """One value for each token, mean over K of weight x log p(x_i | ·), [B, L]; their sum is `MaskedEvidence.elbo`.

    Under "all-masked" corruption this is diffu-GRPO's mean-field log-probability of every token, under "coupled"
    corruption that of coupled-GRPO.
    """
    del advantage
    return (evidence.weights[..., None] * evidence.token_log_probs).mean(1)


def masked_token_proxy(evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
    """UniGRPO's: log p(x_i | ·) of every token in every sample, [B, K, L], zero where not masked."""
    del advantage
    return evidence.token_log_probs
