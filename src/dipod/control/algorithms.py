"""Estimators of control side by side: what stands in for log π of a continuous action, and how the advantage weighs it.

Rows are values, as in `dipod.algorithms`; the advantage is a critic's (`dipod.objectives.returns`), and any row goes
with any tightening.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dipod.errors import at_least, not_negative, require
from dipod.likelihood.evidence import Evidence
from dipod.likelihood.flow import FlowEvidence, Reduction
from dipod.objectives.surrogates import Surrogate, aspo, ppo_clip, spo

Acting = Literal["flow", "chain", "vae", "gaussian"]
Kind = Literal["flow", "vae"]
"""Policies that only a bound of log π is known of."""
Weighting = Literal["velocity", "noise", "elbo"]
SURROGATES: dict[str, Callable[..., Tensor]] = {"ppo": ppo_clip, "spo": spo, "aspo": aspo}


def flow_proxy(evidence: FlowEvidence, reduction: Reduction = "sum", weighting: Weighting = "elbo") -> Tensor:
    """What each noise sample says in place of log π(a|o), [B, S].

    Args:
        evidence: of flow policies.
        reduction: of the squared error over the action's dimensions.
        weighting: "velocity" and "noise" are minus the flow-matching loss with a flat weight on the velocity's or the
            noise's error; "elbo" is a sample of the ELBO over the dimension's share in ``reduction``. Only "elbo" with
            "sum" is in nats, and adequate.
    """
    if weighting != "elbo":
        return -evidence.loss(reduction, weighting)
    d = evidence.target.shape[-1]
    return evidence.elbo(per_sample=True) / float(d ** {"mean": 1.0, "sum": 0.0, "sqrt": 0.5}[reduction])


def mean_flow_proxy(evidence: FlowEvidence, reduction: Reduction = "sum", weighting: Weighting = "elbo") -> Tensor:
    """FPO's: the mean of `flow_proxy` over the noise samples, one ratio an action, [B]."""
    return flow_proxy(evidence, reduction, weighting).mean(-1)


def elbo_proxy(evidence: Evidence) -> Tensor:
    """FPO++'s, of a latent-variable policy: the ELBO's samples in nats, a ratio each, [B, K]."""
    return evidence.elbo(per_sample=True)


def mean_elbo_proxy(evidence: Evidence) -> Tensor:
    """FPO's: the ELBO, one ratio an action, [B]."""
    return evidence.elbo()


def chain_proxy(evidence: Any) -> Tensor:
    """DDPO's and DPPO's: log-probabilities of the steps of the sampling chain, a ratio each, [B, K]."""
    steps: Tensor = evidence.steps
    return steps


def exact_proxy(evidence: Any) -> Tensor:
    """Log π itself, [B]."""
    log_prob: Tensor = evidence.log_prob
    return log_prob


@dataclass(frozen=True)
class Limits:
    """FPO++'s guards of the ratio, in the proxy's units; 0 switches one off.

    Attributes:
        loss: losses beyond it, old and new, count as this much and pull nowhere.
        negative_loss: the same for the new loss where the advantage is negative: a bad action that is unlikely already
            is left alone.
        log_ratio: log ratios beyond it count as this much and keep their gradient.
    """

    loss: float = 0.0
    negative_loss: float = 0.0
    log_ratio: float = 0.0

    def apply(self, new: Tensor, old: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """The guarded new and old proxy."""
        if self.loss:
            new, old = new.clamp_min(-self.loss), old.clamp_min(-self.loss)
        if self.negative_loss:
            new = torch.where(advantage < 0, new.clamp_min(-self.negative_loss), new)
        if self.log_ratio:
            held = old + self.log_ratio + (new - new.detach())  # new less the excess would round
            new = torch.where(new - old > self.log_ratio, held, new)
        return new, old


@dataclass(frozen=True)
class ControlAlgorithm:
    """One estimator of the policy gradient.

    Attributes:
        name: as typed on the command line.
        acting: which policy it trains.
        proxy: what stands in for log π(a|o), [B], or [B, S] where samples have ratios of their own.
        surrogate: how the advantage weighs it.
        clip: its ε.
        paper: where it comes from.
        limits: of the ratio.
        adequate: its gradient is Â·∇log π at every tight model, on policy (Definition 2.1). Of a flow this holds in the
            directions in which the model stays tight: the ODE's likelihood is not held from below by the ELBO point
            by point, so in others the slopes differ even where the values touch (tests/likelihood/test_flow.py). Limits
            of the loss take gradients away, so a row that has one is not; a limit of the log ratio does nothing here.
    """

    name: str
    acting: Acting
    proxy: Callable[[Any], Tensor]
    surrogate: Surrogate
    clip: float
    paper: str
    limits: Limits = Limits()
    adequate: bool = False

    def contributions(self, evidence: Any, old: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """What each action adds to the ascent direction, [B], and the log ratios, of the proxy's shape.

        Args:
            evidence: of the parameters being updated, differentiable.
            old: the proxy under the parameters that acted, a constant.
            advantage: [B].
        """
        new = self.proxy(evidence)
        weight = advantage.reshape(-1, *[1] * (new.dim() - 1))
        new, old = self.limits.apply(new, old, weight)
        value = self.surrogate(new, old, weight)
        return value[..., None].flatten(1).mean(-1), new.detach() - old


@dataclass(frozen=True)
class ControlObjective:
    """What a run may change in the algorithm's row.

    Attributes:
        clip: ε; 0 takes the row's own.
        trust: "own", or the surrogate: "ppo", "spo", "aspo".
        reduction: of squared errors over the action's dimensions: "mean", "sum" or "sqrt".
        weighting: "velocity" or "noise" for a flat weight on the error of either, "elbo" for the bound's own.
        loss_limit: flow-matching losses count as this much at most; 0 for no limit.
        negative_loss_limit: the same for new losses of actions with negative advantage. It is meant for the flat loss:
            of an ELBO in nats, which grows with the dimensions, 20 leaves little of their gradient.
        log_ratio_limit: log ratios count as this much at most; 0 for no limit.
        entropy: weight of the nearest-neighbour entropy bonus.
        entropy_neighbour: which neighbour.
        tighten: what β multiplies: "elbo" in nats, or "flat", minus the flow-matching loss as the row reduces it.
        cutoff: t0 of the ELBO.
    """

    clip: float = 0.0
    trust: Literal["own", "ppo", "spo", "aspo"] = "own"
    reduction: Reduction = "mean"
    weighting: Weighting = "velocity"
    loss_limit: float = 0.0
    negative_loss_limit: float = 20.0
    log_ratio_limit: float = 3.0
    entropy: float = 0.0
    entropy_neighbour: int = 1
    tighten: Literal["elbo", "flat"] = "elbo"
    cutoff: float = 0.005

    def __post_init__(self) -> None:
        not_negative(self, "objective", "clip", "loss_limit", "negative_loss_limit", "log_ratio_limit", "entropy")
        at_least(self, "objective", 1, "entropy_neighbour")
        require(0 < self.cutoff < 1, "objective.cutoff", self.cutoff, "give a time between 0 and 1")


def table(objective: ControlObjective | None = None, kind: Kind = "flow") -> dict[str, ControlAlgorithm]:
    """Every row by name, with what ``objective`` changes in it.

    Args:
        objective: what a run changes.
        kind: what ``fpo`` and ``fpopp`` train. A latent-variable policy has no flow-matching loss: its rows take the
            ELBO itself, and ``fpo`` a limit of the log ratio: a loose bound may move by hundreds of nats in a step.
    """
    chosen = objective or ControlObjective()
    limits = Limits(chosen.loss_limit, chosen.negative_loss_limit, chosen.log_ratio_limit)
    parts: dict[str, Any] = {"reduction": chosen.reduction, "weighting": chosen.weighting}
    adequate = chosen.weighting == "elbo" and chosen.reduction == "sum"
    whole = not limits.loss and not limits.negative_loss  # else some actions pull nowhere

    def row(
        name: str, acting: Acting, proxy: Any, trust: str, clip: float, paper: str, **rest: Any
    ) -> ControlAlgorithm:
        clip = chosen.clip or clip
        surrogate = SURROGATES[trust if chosen.trust == "own" else chosen.trust]
        return ControlAlgorithm(name, acting, proxy, partial(surrogate, clip=clip), clip, paper, **rest)

    fpo, fpopp = "FPO (arXiv 2507.21053)", "FPO++, as in DiPOD B.1 and 4.3"
    mean, each = partial(mean_flow_proxy, **parts), partial(flow_proxy, **parts)
    guard = Limits(log_ratio=chosen.log_ratio_limit)
    bounded = {
        "flow": [
            row("fpo", "flow", mean, "ppo", 0.05, fpo, adequate=adequate),
            row("fpopp", "flow", each, "aspo", 0.05, fpopp, limits=limits, adequate=adequate and whole),
            row("ddpo", "chain", chain_proxy, "ppo", 0.05, "DDPO, DPPO (arXiv 2409.00588): the chain's own steps"),
        ],
        "vae": [
            row("fpo", "vae", mean_elbo_proxy, "ppo", 0.05, fpo, limits=guard, adequate=True),
            row("fpopp", "vae", elbo_proxy, "aspo", 0.05, fpopp, limits=limits, adequate=whole),
        ],
    }
    ppo = row("ppo", "gaussian", exact_proxy, "ppo", 0.2, "PPO (arXiv 1707.06347) with a Gaussian", adequate=True)
    return {found.name: found for found in [*bounded[kind], ppo]}
