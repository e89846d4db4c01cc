"""What the trainer asks of a task whose observations and actions are token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from dipod.policies.tokens import Tokens

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a task, for the policy and for small models.

    Attributes:
        size: number of token ids.
        mask_id: hides a completion token.
        barred: ids that a completion never holds.
        axes: sizes of the axes of a token's position; see `dipod.policies.transformer.TransformerConfig`.
    """

    size: int
    mask_id: int
    barred: tuple[int, ...]
    axes: tuple[int, ...]


class Problems(Protocol):
    """A batch of problems; what they hold is the task's own affair."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Problems: ...

    def repeat_interleave(self, times: int) -> Problems:
        """Each problem ``times`` times in a row."""
        ...

    def pick(self, places: Sequence[int]) -> Problems:
        """The problems at some places, in that order."""
        ...

    def exchange(self, places: Sequence[int], others: Any) -> Problems:
        """These problems with others of the same task, as many as ``places``, at some places."""
        ...


class Task(Protocol):
    """Problems in, rewards out. ``problems`` arguments are what `draw` of the same task returned."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokens."""
        ...

    @property
    def completion_length(self) -> int:
        """The most tokens that an action can have."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The token that ends an action early; None where actions have a given length."""
        ...

    def draw(self, count: int, split: Split, seed: int, step: int) -> Problems:
        """The ``count`` problems of step ``step`` in the order that ``seed`` gives, the same on every process."""
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

    def complete(self, problems: Any, completion: Tensor) -> tuple[Tokens, Tensor]:
        """The action that decoded ids [B, L] are, as the model is to see it, and which of its tokens count [B, L]."""
        ...

    def reward(self, problems: Any, completion: Tensor) -> Tensor:
        """[B] rewards of completions [B, L]."""
        ...

    def solved(self, problems: Any, completion: Tensor) -> Tensor:
        """[B] bool: whether each completion is right as a whole."""
        ...

    def show(self, problems: Any, completion: Tensor) -> list[dict[str, Any]]:
        """Problems and completions for people: JSON objects with keys of the task's own."""
        ...
