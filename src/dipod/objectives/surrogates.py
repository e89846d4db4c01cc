"""Surrogates: how the advantage weighs the likelihood proxy. Every function is an objective to MAXIMISE.

``new`` and ``old`` are proxies of log π in nats, [B] or with further axes (per corruption sample, per token);
``old`` carries no gradient; ``advantage`` broadcasts against them. The result has the shape of ``new``; the
caller reduces it. ρ = exp(new - old). At ρ = 1 every surrogate's gradient is A·∇new.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dipod.errors import require

Surrogate = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``surrogate(new, old, advantage) -> objective`` of the shape of ``new``."""


def plain(new: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """A·new: the policy-gradient integrand itself, paper eq. 1 and 4. Ignores ``old``."""
    del old
    return advantage * new


def ppo_clip(new: Tensor, old: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """min{ρA, clip(ρ, 1±ε)A}: PPO (paper B.1)."""
    _check_clip(clip)
    ratio = (new - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def spo(new: Tensor, old: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """ψ_SPO = ρA - |A|/(2ε)·(ρ-1)²: simple policy optimisation, a quadratic trust region (paper B.1)."""
    _check_clip(clip)
    ratio = (new - old).exp()
    return ratio * advantage - advantage.abs() / (2 * clip) * (ratio - 1).square()


def aspo(new: Tensor, old: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """FPO++'s asymmetric trust region (paper B.1): PPO clipping where A ≥ 0, SPO where A < 0."""
    return torch.where(advantage >= 0, ppo_clip(new, old, advantage, clip), spo(new, old, advantage, clip))


def bounded_weight(new: Tensor, old: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """clip(ρ, 1±ε)·A·new with the ratio as a constant weight: StableDRL's unconditional clipping.

    Whatever noise is in ρ, an action weighs between 1-ε and 1+ε times its advantage, and its gradient never vanishes.
    """
    _check_clip(clip)
    return ratio_weight(new, old, clip) * advantage * new


def ratio_weight(new: Tensor, old: Tensor, clip: float) -> Tensor:
    """clip(ρ, 1±ε) as a constant, whose sum over the batch self-normalises `bounded_weight`."""
    return (new - old).exp().clamp(1 - clip, 1 + clip).detach()


def clip_fractions(new: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[float, float]:
    """Share of entries with ρ outside 1±ε, among A > 0 and among A < 0 (0 where there are none)."""
    ratio = (new - old).exp()
    outside = (ratio < 1 - clip) | (ratio > 1 + clip)
    positive = (advantage > 0).expand_as(outside)
    negative = (advantage < 0).expand_as(outside)

    def share(side: Tensor) -> float:
        return float((outside & side).sum() / side.sum().clamp_min(1))

    return share(positive), share(negative)


def _check_clip(clip: float) -> None:
    require(clip > 0, "clip", clip, "the clip range ε is positive")
