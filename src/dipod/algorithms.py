"""Published estimators side by side: each is one answer to "what stands in for log π" and "how does A weigh it".

A row is a value, passed to the trainer as it is; any row goes with any tightening, and a new estimator is a new
`Algorithm(...)`, not a subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from dipod.likelihood.masked import elbo_proxy, sandwich
from dipod.objectives.baselines import Baseline, group_mean
from dipod.objectives.surrogates import Surrogate, plain, ppo_clip

Proxy = Callable[[Any, Tensor], Tensor]
"""``proxy(evidence, advantage) -> [B]`` nats; the evidence is that of the policies the proxy is made for."""


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
    """

    name: str
    proxy: Proxy
    surrogate: Surrogate
    baseline: Baseline
    clip: float | None
    paper: str

    def objective(self, new: Tensor, old: Tensor, advantage: Tensor, elbo: Tensor, beta: float) -> Tensor:
        """Algorithm 2's ascent direction as a scalar to maximise: (1/m) Σ_i [surrogate_i + β·ELBO_i] (paper eq. 7).

        β is in units of the advantage and shares the surrogate's normaliser.

        Args:
            new: [B] proxy of the parameters being updated.
            old: [B] proxy of those that drew the rollouts, under the same corruption samples.
            advantage: [B].
            elbo: [B] nats.
            beta: 0 for the bare estimator.
        """
        return (self.surrogate(new, old, advantage) + beta * elbo).mean()


FPO_CLIP = 0.5


def _table() -> dict[str, Algorithm]:
    fpo = "FPO (arXiv 2507.21053), on the ELBO of a masked model as in DiPOD 4.2"
    spg = "SPG (arXiv 2510.09541)"
    rows = [
        #          name        proxy                                    surrogate      baseline    clip      paper
        Algorithm("fpo", elbo_proxy, partial(ppo_clip, clip=FPO_CLIP), group_mean, FPO_CLIP, fpo),
        Algorithm("spg", partial(sandwich, eubo_weight=0.5), plain, group_mean, None, f"{spg}, mixture (its best)"),
        Algorithm("spg-eubo", partial(sandwich, eubo_weight=1.0), plain, group_mean, None, f"{spg}, EUBO"),
        Algorithm("spg-elbo", partial(sandwich, eubo_weight=0.0), plain, group_mean, None, f"{spg}, ELBO"),
        Algorithm("spg-zero", partial(sandwich, keep_negative=False), plain, group_mean, None, f"{spg}, no negatives"),
    ]
    return {row.name: row for row in rows}


ALGORITHMS = _table()
