"""Published estimators side by side: each is one answer to "what stands in for log π" and "how does A weigh it".

A row is a value, passed to the trainer as it is; any row goes with any tightening, and a new estimator is a new
`Algorithm(...)`, not a subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.masked import elbo_proxy, masked_token_proxy, sandwich, sandwich_on_elbo, token_proxy
from dipod.objectives.baselines import Baseline, contrast, group_mean, leave_one_out
from dipod.objectives.kl import KLEstimator, kl_penalty
from dipod.objectives.surrogates import Surrogate, bounded_weight, plain, ppo_clip, ratio_weight

Proxy = Callable[[Any, Tensor], Tensor]
"""``proxy(evidence, advantage)`` in nats: [B], or [B, L] or [B, K, L] where tokens have ratios of their own; the
evidence is that of the policies the proxy is made for."""

UNIFORM = CorruptionConfig("independent", 2)
Normaliser = Literal["rollouts", "tokens", "lengths", "ratios", "length-ratios"]


@dataclass(frozen=True)
class Batch:
    """What the objective needs of B rollouts besides the proxy itself.

    Attributes:
        old: the proxy under the parameters that drew the rollouts and the same corruption samples, of its shape.
        advantage: [B].
        length: [B], tokens of each action.
        elbo: [B] nats, for β; None where β is 0.
        reference: the proxy under the reference policy, for a KL penalty; None without one.
    """

    old: Tensor
    advantage: Tensor
    length: Tensor
    elbo: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True)
class Algorithm:
    """One estimator of the policy gradient.

    Attributes:
        name: as typed on the command line.
        proxy: what stands in for log π(a|o).
        surrogate: how the advantage weighs it.
        baseline: what is taken from the reward.
        clip: the surrogate's ε, for the clip fractions; None where it does not clip.
        paper: where it comes from.
        corruption: how tokens are hidden, unless the run's settings say otherwise.
        normaliser: what the sum over rollouts is divided by: "rollouts" their number; "tokens" their total length;
            "lengths" their number, after each was divided by its own length; "ratios" the sum of their clipped ratios;
            "length-ratios" likewise, after each was divided by its own length.
        ratio_per_token: the ratio is exp((new - old)/length), as in ESPO; the surrogate is multiplied by the length.
        scaled: its advantages may be divided by the group's standard deviation; wd1's weights may not.
        adequate: its gradient is Â·∇log π in expectation, up to the normaliser, at every tight model of any length,
            under the row's own masks and number of them (Definition 2.1). Under other masks ask
            `dipod.likelihood.corruption.bounds`: a row whose proxy is the ELBO is adequate wherever they bound log π.
    """

    name: str
    proxy: Proxy
    surrogate: Surrogate
    baseline: Baseline
    clip: float | None
    paper: str
    corruption: CorruptionConfig = UNIFORM
    normaliser: Normaliser = "rollouts"
    ratio_per_token: bool = False
    scaled: bool = True
    adequate: bool = False

    def contributions(
        self, evidence: Any, batch: Batch, beta: float = 0.0, kl: KLEstimator = "k3", kl_weight: float = 0.0
    ) -> Tensor:
        """What each rollout adds to the ascent direction of Algorithm 2, [B]: s_i + β·ELBO_i - κ·KL_i.

        Their sum over `denominator` is eq. 7's mean over rollouts. β is in units of the advantage and shares the
        surrogate's normaliser.

        Args:
            evidence: of the parameters being updated, differentiable.
            batch: the rest.
            beta: 0 for the bare estimator.
            kl: estimator of the penalty on the proxy.
            kl_weight: κ; 0 for none.
        """
        new, length = self.proxy(evidence, batch.advantage), batch.length.to(batch.advantage.dtype)
        shape = (-1,) + (1,) * (new.dim() - 1)
        unit = (length if self.ratio_per_token else torch.ones_like(length)).reshape(shape)
        value = unit * self.surrogate(new / unit, batch.old / unit, batch.advantage.reshape(shape))
        if kl_weight and batch.reference is not None:
            value = value - kl_weight * kl_penalty(new, batch.reference, kl)
        total: Tensor = (_weights(new, evidence) * value).reshape(len(new), -1).sum(-1)
        if beta and batch.elbo is not None:
            total = total + beta * batch.elbo
        return total / length if self.normaliser in ("lengths", "length-ratios") else total

    def on_policy(self, evidence: Any, advantage: Tensor, length: Tensor) -> Tensor:
        """`contributions` of the bare estimator where the policy drew the actions itself (ρ = 1), [B]."""
        old = self.proxy(evidence, advantage).detach()
        return self.contributions(evidence, Batch(old, advantage, length))

    @property
    def self_normalised(self) -> bool:
        """Whether the sum is divided by that of the ratios."""
        return self.normaliser in ("ratios", "length-ratios")

    def weight(self, length: Tensor) -> Tensor:
        """What `contributions` multiplies each action's surrogate and β term by, [B]: 1/length, or 1."""
        return 1 / length if self.normaliser in ("lengths", "length-ratios") else torch.ones_like(length)

    def denominator(self, new: Tensor, old: Tensor, length: Tensor) -> Tensor:
        """What each rollout adds to the number that the sum of `contributions` is divided by, [B], a constant."""
        if self.normaliser == "tokens":
            return length.to(new.dtype)
        if self.self_normalised and self.clip is not None:
            unit = length.to(new.dtype) if self.ratio_per_token else torch.ones_like(new)
            weight = ratio_weight(new / unit, old / unit, self.clip)
            return weight if weight.dim() == 1 else weight.flatten(1).mean(-1)
        return torch.ones(len(length), dtype=new.dtype, device=new.device)


def _weights(proxy: Tensor, evidence: Any) -> Tensor:
    """What each entry of a proxy counts: 1 where a token was masked; in [B, K, L] its sample's weight over K."""
    masked: Tensor = evidence.masked
    weights: Tensor = evidence.weights
    if proxy.dim() == 1:
        return torch.ones_like(proxy)
    if proxy.dim() == 2:
        return masked.any(1).to(weights.dtype)
    return weights[..., None] * masked / masked.shape[1]


def table(eubo_order: float = 1.5, clip: float | None = None, released: bool = False) -> dict[str, Algorithm]:
    """Every row by name.

    Args:
        eubo_order: the Rényi order β ≥ 1 of SPG's upper bound.
        clip: ε of every row that clips; None for each method's own.
        released: the formulas of the published code where they are not those of the paper (ESPO's, StableDRL's).
    """
    fpo = "FPO (arXiv 2507.21053), on the ELBO of a masked model as in DiPOD 4.2"
    spg, wd1 = "SPG (arXiv 2510.09541)", "wd1 (arXiv 2507.08838)"
    mix = partial(sandwich, order=eubo_order, eubo_weight=0.5)
    upper = partial(sandwich, order=eubo_order, eubo_weight=1.0)
    lower, positive = partial(sandwich, eubo_weight=0.0), partial(sandwich, keep_negative=False)
    wide, narrow = clip or 0.5, clip or 0.2
    clip_wide, clip_narrow = partial(ppo_clip, clip=wide), partial(ppo_clip, clip=narrow)
    bounded = partial(bounded_weight, clip=narrow)
    uniform, one_step = CorruptionConfig("independent", 4), CorruptionConfig("all-masked", 1, fresh=True)
    blockwise = CorruptionConfig("block-random", 2, fresh=True)
    rows = [
        #         name       proxy       surrogate    baseline    clip  paper
        Algorithm("fpo", elbo_proxy, clip_wide, group_mean, wide, fpo, uniform, adequate=True),
        Algorithm("spg", mix, plain, group_mean, None, f"{spg}, mixture (its best)", blockwise),
        Algorithm("spg-eubo", upper, plain, group_mean, None, f"{spg}, EUBO", blockwise),
        Algorithm("spg-elbo", lower, plain, group_mean, None, f"{spg}, ELBO", blockwise),
        Algorithm("spg-zero", positive, plain, group_mean, None, f"{spg}, no negatives", blockwise),
        Algorithm(
            "d1", token_proxy, clip_wide, group_mean, wide, "diffu-GRPO (d1, arXiv 2504.12216)", one_step, "lengths"
        ),
        Algorithm("wd1", elbo_proxy, plain, contrast, None, f"{wd1}, both signs", one_step, scaled=False),
        Algorithm(
            "wd1-positive",
            elbo_proxy,
            plain,
            partial(contrast, negative=0.0),
            None,
            f"{wd1}, positive only",
            one_step,
            scaled=False,
        ),
        Algorithm(
            "unigrpo",
            masked_token_proxy,
            clip_narrow,
            group_mean,
            narrow,
            "UniGRPO (MMaDA, arXiv 2505.15809)",
            CorruptionConfig("structured", 1, fresh=True),
            "lengths",
        ),
        Algorithm(
            "coupled",
            token_proxy,
            clip_wide,
            leave_one_out,
            wide,
            "coupled-GRPO (DiffuCoder, arXiv 2506.20639)",
            CorruptionConfig("coupled", 3),
            "lengths",
        ),
        Algorithm(
            "espo",
            elbo_proxy,
            clip_narrow,
            leave_one_out if released else group_mean,
            narrow,
            "ESPO (arXiv 2512.03759)",
            CorruptionConfig("complement", 2),
            "lengths",
            ratio_per_token=True,
            adequate=True,
        ),
        Algorithm(
            "gdpo",
            elbo_proxy,
            clip_narrow,
            group_mean,
            narrow,
            "GDPO (arXiv 2510.08554)",
            CorruptionConfig("quadrature", 3),
            "lengths",
        ),
        Algorithm(
            "stabledrl",
            elbo_proxy,
            bounded,
            group_mean,
            narrow,
            "the ELBO under StableDRL's clipping, self-normalised (arXiv 2603.06743)",
            uniform,
            "ratios",
            adequate=True,
        ),
    ]
    found = {row.name: row for row in rows}
    if released:
        found["stabledrl"] = _released_stabledrl(eubo_order, clip or 4.0, blockwise)
    return found


def _released_stabledrl(eubo_order: float, clip: float, corruption: CorruptionConfig) -> Algorithm:
    """SPG's mixture under ratios of ELBOs per token, at most 5 (1-ε is below zero), each rollout over its length."""
    return Algorithm(
        "stabledrl",
        partial(sandwich_on_elbo, order=eubo_order),
        partial(bounded_weight, clip=clip),
        group_mean,
        clip,
        "StableDRL's published code: SPG's mixture, self-normalised (arXiv 2603.06743)",
        corruption,
        "length-ratios",
        ratio_per_token=True,
    )


ALGORITHMS = table()
"""Every row with the orders and clips of its paper."""
