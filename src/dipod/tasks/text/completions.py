"""Scores of one text made into reward functions of a batch, in the form that TRL calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dipod.errors import UserError, require
from dipod.tasks.text.tags import spoken


class RewardFunction(Protocol):
    """A reward of every completion; None where it does not apply. Called with the columns of the data set."""

    __name__: str

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """[B] prompts, [B] completions and columns of B values → [B] rewards."""
        ...


def per_completion(
    *names: str, read: Callable[[str], str] = spoken
) -> Callable[[Callable[..., float]], RewardFunction]:
    """Make ``score(text, value of the first column, ...)`` a reward function.

    The reward is None where one of the columns is None, as in a mixture of tasks. Completions are strings or
    conversations, of which the last message counts.

    Args:
        names: the columns that ``score`` reads.
        read: what is read of a completion.

    Raises:
        UserError: (the reward function) a column is missing or has another length than the completions.
    """

    def decorate(score: Callable[..., float]) -> RewardFunction:
        def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
            del prompts
            values = [_column(columns, name, len(completions)) for name in names]
            rows = zip((read(_text(completion)) for completion in completions), *values, strict=True)
            return [None if any(value is None for value in row) else float(score(*row)) for row in rows]

        reward.__name__ = reward.__qualname__ = score.__name__
        reward.__doc__ = score.__doc__
        reward.__dict__["__columns__"] = names
        return reward

    return decorate


def is_ours(function: RewardFunction) -> bool:
    """Whether a reward function was made by `per_completion`."""
    return hasattr(function, "__columns__")


def columns_read(function: RewardFunction) -> tuple[str, ...]:
    """The columns that a function made by `per_completion` reads; none of any other."""
    names: tuple[str, ...] = getattr(function, "__columns__", ())
    return names


def _column(columns: dict[str, Any], name: str, length: int) -> Sequence[Any]:
    values = columns.get(name)
    if values is None:
        raise UserError("columns", sorted(columns), f"add the column {name!r}, which this reward reads")
    require(len(values) == length, f"column {name}", len(values), f"give one value for each of {length} completions")
    column: Sequence[Any] = values
    return column


def _text(completion: Any) -> str:
    content = completion
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        content = completion[-1].get("content") if completion and isinstance(completion[-1], dict) else None
    if not isinstance(content, str):
        mend = 'give strings or conversations of {"role": .., "content": text}'
        raise UserError("completions", type(completion).__name__, mend)
    return content
