"""What the trainer asks of a task whose observations and actions are token sequences."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dipod.policies.tokens import Tokens

Split = Literal["train", "test"]


class Problems(Protocol):
    """A batch of problems; what they hold is the task's own affair."""

    def __len__(self) -> int: ...

    def repeat_interleave(self, times: int) -> Problems:
        """Each problem ``times`` times in a row."""
        ...


class Task(Protocol):
    """Problems in, rewards out. ``problems`` arguments are what `draw` of the same task returned."""

    @property
    def completion_length(self) -> int:
        """The most tokens that an action can have."""
        ...

    def draw(self, count: int, split: Split, generator: torch.Generator) -> Problems:
        """``count`` problems of a split; the generator's state is the position in the data."""
        ...

    def held_out(self, count: int) -> Problems:
        """The problems that evaluations use, the same in every run: ``count`` of them, or all that a file holds."""
        ...

    def observe(self, problems: Any) -> Tokens:
        """The prompts, [B, P]."""
        ...

    def blank(self, problems: Any) -> Tokens:
        """The places of the tokens that an action consists of, [B, L]; their ids do not matter."""
        ...

    def reward(self, problems: Any, completion: Tensor) -> Tensor:
        """[B] rewards of completions [B, L]."""
        ...

    def solved(self, problems: Any, completion: Tensor) -> Tensor:
        """[B] bool: whether each completion is right as a whole."""
        ...
