"""Self-distillation: maximise E_ref[ELBO_θ] on rollouts of a frozen reference (Algorithm 1, line 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dipod.errors import require

WINDOW = 10
"""Steps over which the tolerance looks at the ELBO's gain."""


@dataclass(frozen=True)
class Distillation:
    """One stage.

    Attributes:
        steps: gradient steps at most.
        tolerance: stop once the mean ELBO of the last `WINDOW` steps exceeds that of the `WINDOW` before by less
            than this many nats; 0 runs all the steps.
        learning_rate: of the stage's own optimiser.
    """

    steps: int = 20
    tolerance: float = 0.0
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(self.steps >= 1, "interleave.steps", self.steps, "give at least 1 gradient step a stage")
        require(self.tolerance >= 0, "interleave.tolerance", self.tolerance, "give 0 or a number of nats")
        rate = self.learning_rate
        require(rate > 0, "interleave.learning_rate", rate, "give a positive learning rate")


def distil(
    ascend: Callable[[int], float],
    clip: Callable[[], object],
    optimiser: torch.optim.Optimizer,
    distillation: Distillation,
) -> list[float]:
    """Run one stage: ascend E_ref[ELBO_θ] until the tolerance or the number of steps is reached.

    Args:
        ascend: ``ascend(i)`` adds the gradient of minus the mean ELBO over the reference rollouts to the parameters'
            gradients and returns that ELBO in nats; it may draw fresh corruption samples for step i.
        clip: bounds the gradient before it is used.
        optimiser: the stage's own.
        distillation: how long.

    Returns:
        The ELBO before each step.
    """
    history: list[float] = []
    while len(history) < distillation.steps:
        optimiser.zero_grad()
        history.append(ascend(len(history)))
        clip()
        optimiser.step()
        if distillation.tolerance > 0 and len(history) >= 2 * WINDOW:
            gain = (sum(history[-WINDOW:]) - sum(history[-2 * WINDOW : -WINDOW])) / WINDOW
            if gain < distillation.tolerance:
                break
    optimiser.zero_grad()
    return history
