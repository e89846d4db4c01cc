"""What flows from the sampler to the update: immutable, indexed, never mutated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from dipod.policies.tokens import Tokens


@dataclass(frozen=True)
class Rollouts:
    """B rollouts of one step, the G of one observation next to each other.

    Attributes:
        observation: [B, P] prompts.
        action: [B, L] completions, as the model is to see them where they are not hidden.
        counted: [B, L] bool, the tokens whose likelihood is the action's; never empty in a row.
        reward: [B].
        advantage: [B].
        example: [B] int64, the rollout's place among all those of the step, on whatever process it was drawn.
        order: [B, L] int64, the step at which each token was revealed; see `dipod.policies.sampling.Sample`.
    """

    observation: Tokens
    action: Tokens
    counted: Tensor
    reward: Tensor
    advantage: Tensor
    example: Tensor
    order: Tensor

    def __len__(self) -> int:
        return len(self.reward)

    def __getitem__(self, rows: Tensor | slice) -> Rollouts:
        return Rollouts(
            self.observation[rows],
            self.action[rows],
            self.counted[rows],
            self.reward[rows],
            self.advantage[rows],
            self.example[rows],
            self.order[rows],
        )

    @property
    def length(self) -> Tensor:
        """Tokens of each action, [B]."""
        return self.counted.sum(-1)

    @property
    def fingerprint(self) -> Tensor:
        """[B] int64, equal where all tokens of two actions are."""
        ids, counted = self.action.ids.cpu(), self.counted.cpu()
        digests = [blake2b(row[some].numpy().tobytes(), digest_size=8) for row, some in zip(ids, counted, strict=True)]
        return torch.tensor([int.from_bytes(d.digest(), "big", signed=True) for d in digests], dtype=torch.int64)


def unique_share(groups: Sequence[Sequence[Hashable]]) -> float:
    """How many of a group's actions differ, as a share of its size, mean over groups: from 1/G, all alike, to 1."""
    return sum(len(set(group)) / len(group) for group in groups) / len(groups)
