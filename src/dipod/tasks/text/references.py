"""What a generation is graded against: one frozen value per task, read from JSON and checked."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from dipod.errors import UserError, require
from dipod.tasks.text.arithmetic import read_number
from dipod.tasks.text.mathematics import last_boxed
from dipod.tasks.text.rows import require_task, short

LARGEST = 1e300
"""Numbers from here on are refused; the published parsers compare floats."""


@dataclass(frozen=True)
class Countdown:
    """Numbers to use once each, and the value to reach with them."""

    numbers: tuple[int, ...]
    target: Fraction


@dataclass(frozen=True)
class Board:
    """A 4x4 Sudoku: 16 digits in reading order, 0 for an empty cell, and its solution."""

    puzzle: str
    solution: str

    @property
    def empty(self) -> list[int]:
        """The places of the empty cells."""
        return [at for at, digit in enumerate(self.puzzle) if digit == "0"]


Reference = Fraction | str | Countdown | Board
"""Of gsm8k, math, countdown and sudoku."""


def read_reference(task: str, value: Any, where: str = "reference") -> Reference:
    """Check a reference as it stands in JSON.

    Args:
        task: gsm8k (a number, its text with or without commas, or a solution that ends in ``#### number`` or has it in
            a box), math (the answer as text or number, or a solution with its answer in a box), countdown
            (``{"numbers": [..], "target": n}``) or sudoku (``{"puzzle": "..", "solution": ".."}``, 16 digits each).
        value: the reference.
        where: how a complaint names it.

    Raises:
        UserError: an unknown task, or a reference of another form.
    """
    require_task(task)
    if task == "gsm8k":
        return exact_number(_final(value) if isinstance(value, str) else value, where)
    if task == "math":
        return answer_text(value, where)
    return _countdown(value, where) if task == "countdown" else _board(value, where)


def answer_text(value: Any, where: str) -> str:
    """An answer as text: a number as it is written, the last box of a solution, any other text as a whole.

    Raises:
        UserError: anything else; ``where`` is how the complaint names it.
    """
    if isinstance(value, str):
        return last_boxed(value) or value
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) and np.isfinite(value):
        return str(value)
    raise UserError(where, short(value), "give the answer as text or a number")


def _final(text: str) -> str:
    """What a solution of GSM8K ends in."""
    _, mark, last = text.rpartition("####")
    return last if mark else last_boxed(text) or text


def exact_number(value: Any, where: str) -> Fraction:
    """A number, or its text, as it is written: the float 0.1 is one tenth.

    Raises:
        UserError: anything else; ``where`` is how the complaint names it.
    """
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        size: Any = abs(value)
        if size < LARGEST:
            return Fraction(str(value))
    number = read_number(value) if isinstance(value, str) else None
    if number is None:
        raise UserError(where, short(value), "give a number such as 18 or 1,250")
    return number


def _countdown(value: Any, where: str) -> Countdown:
    mend = 'give {"numbers": [whole numbers], "target": a number}'
    if not isinstance(value, dict) or not {"numbers", "target"} <= set(value):
        raise UserError(where, short(value), mend)
    numbers = value["numbers"]
    whole = isinstance(numbers, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    require(whole and len(numbers) > 0, f"{where}, numbers", short(numbers), mend)
    return Countdown(tuple(numbers), exact_number(value["target"], f"{where}, target"))


def _board(value: Any, where: str) -> Board:
    if not isinstance(value, dict) or not {"puzzle", "solution"} <= set(value):
        raise UserError(where, short(value), 'give {"puzzle": "16 digits", "solution": "16 digits"}')
    board = Board(value["puzzle"], value["solution"])
    require(_digits(board.puzzle, "01234"), f"{where}, puzzle", short(board.puzzle), "give 16 digits, 0 for empty")
    require(_digits(board.solution, "1234"), f"{where}, solution", short(board.solution), "give 16 digits from 1 to 4")
    require(bool(board.empty), f"{where}, puzzle", board.puzzle, "give a puzzle with an empty cell")
    agree = all(clue in {"0", digit} for clue, digit in zip(board.puzzle, board.solution, strict=True))
    require(agree, f"{where}, solution", board.solution, f"give a solution of the puzzle {board.puzzle}")
    return board


def _digits(value: Any, allowed: str) -> bool:
    return isinstance(value, str) and len(value) == 16 and set(value) <= set(allowed)
