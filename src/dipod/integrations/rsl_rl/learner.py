"""The library's gradient steps on observations by group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from dipod.control.update import Learner, Transitions
from dipod.objectives.returns import standardise


class GroupLearner(Learner):
    """A `Learner` for an actor and a critic that take observations by group, each with a normaliser of its own.

    Attributes:
        per_mini_batch: standardise advantages in every mini-batch, each process its own part.
    """

    per_mini_batch = False

    def value(self, observation: Any) -> Tensor:
        """V of observations by group, [B]."""
        found: Tensor = self.critic(observation)[..., 0]
        return found

    def _step(self, batch: Transitions, beta: float, rows: float) -> dict[str, Tensor]:
        if self.per_mini_batch:
            batch = replace(batch, advantage=standardise(batch.advantage, self.trainer.advantage_limit))
        return super()._step(batch, beta, rows)
