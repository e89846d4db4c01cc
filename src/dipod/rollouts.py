"""What flows from the sampler to the update: immutable, indexed, never mutated."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dipod.policies.tokens import Tokens


@dataclass(frozen=True)
class Rollouts:
    """B rollouts of one step, the G of one observation next to each other.

    Attributes:
        observation: [B, P] prompts.
        action: [B, L] completions.
        reward: [B].
        advantage: [B].
    """

    observation: Tokens
    action: Tokens
    reward: Tensor
    advantage: Tensor

    def __len__(self) -> int:
        return len(self.reward)

    def __getitem__(self, rows: Tensor | slice) -> Rollouts:
        return Rollouts(self.observation[rows], self.action[rows], self.reward[rows], self.advantage[rows])
