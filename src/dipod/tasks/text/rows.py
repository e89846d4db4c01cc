"""The four text tasks by name, and their problems as rows: plain dictionaries, as TRL and `datasets` have them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from dipod.errors import Note, require

TextTask = Literal["gsm8k", "math", "countdown", "sudoku"]
TASKS: tuple[str, ...] = get_args(TextTask)

CUSTOM = "custom"
"""The name of a task of the user's own."""

Row = dict[str, Any]
"""One problem: ``question`` and the columns that the rewards read.

gsm8k and math: ``answer``; countdown: ``numbers``, ``target``; sudoku: ``puzzle``, ``solution``.
"""


class DataNote(Note):
    """Something about the problems that a user should know."""


def require_task(task: str) -> None:
    """Raise `UserError` unless ``task`` is one of the four."""
    require(task in TASKS, "task", task, f"choose one of {', '.join(TASKS)}")


def short(value: object, length: int = 60) -> object:
    """``value``, or the beginning of its text where it is too long for a line of error."""
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= length else text[:length] + "..."
