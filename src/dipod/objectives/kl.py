"""Estimators of KL(π‖π_ref) from one action of π; all of them nats, ≥ 0 in expectation for exact likelihoods.

``new`` and ``reference`` are the same proxy of log π under the policy and under the reference. Differentiated on a
bound in place of log π, k1 does what nobody wants: its gradient is ∇ELBO, so a penalty κ·k1 takes κ away from β.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dipod.errors import UserError

KLEstimator = Literal["k1", "k2", "k3"]


def kl_penalty(new: Tensor, reference: Tensor, estimator: KLEstimator) -> Tensor:
    """One of Schulman's estimators, elementwise, with d = new - reference.

    - k1: d. Its expected gradient is zero for exact likelihoods; on an ELBO it lowers the ELBO.
    - k2: d²/2. Its gradient is that of the KL in expectation.
    - k3: exp(-d) - 1 + d, never negative.

    Raises:
        UserError: another name.
    """
    difference = new - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return (-difference).exp() - 1 + difference
    raise UserError("kl.estimator", estimator, "choose k1, k2 or k3")
