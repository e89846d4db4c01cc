"""Reward functions of the text tasks: as the papers describe them, as released, and for tasks of one's own.

All have TRL's form, ``f(prompts, completions, **columns) -> list[float | None]``; rewards of a task are summed with
weight 1. ``REWARDS[task][variant]`` are those of a run: "verify" (the default) and "paper" follow the papers' words,
with answers taken as right as the parsers ``verify`` and ``strict`` take them; "released" is what the code of d1, wd1
and DiPOD's FPO did, "released_spg" that of SPG and DiPOD's SPG runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from dipod.tasks.text.arithmetic import reaches, uses_numbers
from dipod.tasks.text.completions import RewardFunction, per_completion
from dipod.tasks.text.mathematics import TOLERANCE, is_equivalent, last_boxed
from dipod.tasks.text.parsers import strict_answer, strict_expression, strict_number
from dipod.tasks.text.references import answer_text, exact_number
from dipod.tasks.text.released_rewards import (
    count_tags,
    released_boxed_and_answer_tags,
    released_countdown,
    released_gsm8k_correctness,
    released_integer,
    released_math_correctness,
    released_soft_format,
    released_spg_xml_count,
    released_strict_format,
    released_xml_count,
)
from dipod.tasks.text.tags import CLOSE, last_answer, tagged
from dipod.tasks.text.verify import (
    every_side_is,
    same_mathematics,
    same_number,
    verified_answer,
    verified_board,
    verified_expression,
    written_with,
)

__all__ = [
    "REWARDS",
    "RewardFunction",
    "boxed_and_answer_tags",
    "countdown",
    "exact_answer",
    "format_tags",
    "gsm8k_correctness",
    "integer",
    "math_correctness",
    "numeric_answer",
    "soft_format",
    "strict_format",
    "sudoku",
    "verified_countdown",
    "verified_gsm8k_correctness",
    "verified_math_correctness",
    "verified_sudoku",
    "verify",
    "xml_count",
]

_BOTH_TAGS = re.compile(r"</reasoning>\s*<answer>")
_HEAD, _MIDDLE, _TAIL = "<reasoning>\n", "\n</reasoning>\n<answer>\n", "\n</answer>\n"


@per_completion()
def xml_count(text: str) -> float:
    r"""An eighth for each of the four tags that stands by itself exactly once, less 0.001 a character after the last.

    The line break that ends the answer's line is free.
    """
    score = count_tags(text)
    if text.count("\n</answer>") == 1:
        score -= 0.001 * len(text.partition("\n</answer>")[2].removeprefix("\n"))
    return score


@per_completion()
def soft_format(text: str) -> float:
    """0.5 if the text begins with reasoning tags and answer tags follow, whatever is inside them."""
    return 0.5 if _has_tags(text) else 0.0


@per_completion()
def strict_format(text: str) -> float:
    """0.5 if the text is reasoning and answer, every tag on a line of its own, and nothing else."""
    middle = text.find(_MIDDLE, len(_HEAD))
    body = text[middle + len(_MIDDLE) :]
    exact = text.startswith(_HEAD) and middle >= 0 and body.endswith((_TAIL, _TAIL + "\n"))
    return 0.5 if exact else 0.0


@per_completion()
def integer(text: str) -> float:
    """0.5 if the tagged answer is a whole number, with a sign or commas or without."""
    number = strict_number(text)
    return 0.5 if number is not None and number.denominator == 1 else 0.0


@per_completion("answer")
def gsm8k_correctness(text: str, answer: Any) -> float:
    """2 if the tagged answer is the reference as a number."""
    return 2.0 if strict_number(text) == exact_number(answer, "column answer") else 0.0


@per_completion("answer")
def math_correctness(text: str, answer: str) -> float:
    r"""2 if the last ``\boxed`` is equivalent to the reference, an answer or a solution with a box."""
    return 2.0 if is_equivalent(last_boxed(text), last_boxed(answer) or answer) else 0.0


@per_completion()
def boxed_and_answer_tags(text: str) -> float:
    r"""1 for a ``\boxed`` inside answer tags, 0.75 for tags without, 0.5 for a box without tags, 0.25 for neither."""
    answer = last_answer(text)
    if answer is None:
        return 0.5 if last_boxed(text) is not None else 0.25
    return 1.0 if last_boxed(answer) is not None else 0.75


@per_completion("numbers", "target")
def countdown(text: str, numbers: Sequence[int], target: float) -> float:
    """1 if the tagged expression reaches the target with exactly these numbers, 0.1 if only the numbers are right."""
    expression = strict_expression(text)
    if expression is None or not uses_numbers(expression, map(int, numbers)):
        return 0.0
    return 1.0 if reaches(expression, exact_number(target, "column target")) else 0.1


@per_completion("puzzle", "solution")
def sudoku(text: str, puzzle: str, solution: str) -> float:
    """Share of the empty cells that are right in the last tagged answer; papers and code agree.

    All its digits in order are the board, up to sixteen; cells that are missing are wrong.
    """
    *_, answer = ["", *tagged(text)]
    board = "".join(filter(str.isdigit, answer))
    empty = [at for at, digit in enumerate(puzzle) if digit == "0"]
    right = sum(board[at : at + 1] == solution[at] for at in empty)
    return right / len(empty) if empty else 0.0


@per_completion("answer")
def verified_gsm8k_correctness(text: str, answer: Any) -> float:
    """2 if the answer is the reference as a number, however it is written."""
    return 2.0 if same_number(verified_answer(text), exact_number(answer, "column answer")) else 0.0


@per_completion("answer")
def verified_math_correctness(text: str, answer: Any) -> float:
    """2 if the answer says the same as the reference, an answer or a solution with a box."""
    return 2.0 if same_mathematics(verified_answer(text), answer_text(answer, "column answer")) else 0.0


@per_completion("numbers", "target")
def verified_countdown(text: str, numbers: Sequence[int], target: float) -> float:
    """1 if an expression with exactly these numbers reaches the target, 0.1 if only the numbers are right."""
    expression = verified_expression(text)
    if written_with(expression, list(map(int, numbers))) is None:
        return 0.0
    return 1.0 if every_side_is(expression, exact_number(target, "column target")) else 0.1


@per_completion("puzzle", "solution")
def verified_sudoku(text: str, puzzle: str, solution: str) -> float:
    """Share of the empty cells that are right; short of 1 by a cell unless the board is right as a whole, clues too."""
    board = verified_board(text)
    empty = [at for at, digit in enumerate(puzzle) if digit == "0"]
    right = sum(board[at : at + 1] == solution[at] for at in empty)
    return (right if board == solution else min(right, len(empty) - 1)) / len(empty) if empty else 0.0


@per_completion("answer")
def verify(text: str, answer: Any) -> float:
    """1 if the answer says the same as the column ``answer``: a number, words, an expression."""
    return 1.0 if same_mathematics(verified_answer(text), answer_text(answer, "column answer")) else 0.0


@per_completion("answer")
def exact_answer(text: str, answer: str) -> float:
    """1 if the whole content of the last answer tags (or of a box that fills them) is the column ``answer``."""
    return 1.0 if strict_answer(text) == str(answer).strip() else 0.0


@per_completion("answer")
def numeric_answer(text: str, answer: Any) -> float:
    """1 if that content is a number within 1e-6 of the column ``answer``, a number or its text."""
    number, wanted = strict_number(text), exact_number(answer, "column answer")
    return 1.0 if number is not None and abs(number - wanted) < Fraction(str(TOLERANCE)) else 0.0


@per_completion()
def format_tags(text: str) -> float:
    """1 if the text begins with reasoning tags and answer tags follow."""
    return 1.0 if _has_tags(text) else 0.0


def _has_tags(text: str) -> bool:
    both = _BOTH_TAGS.search(text, len("<reasoning>")) if text.startswith("<reasoning>") else None
    return both is not None and text.find(CLOSE, both.end()) >= 0


_VERIFY: dict[str, tuple[RewardFunction, ...]] = {
    "gsm8k": (xml_count, soft_format, strict_format, integer, verified_gsm8k_correctness),
    "math": (verified_math_correctness, boxed_and_answer_tags),
    "countdown": (verified_countdown,),
    "sudoku": (verified_sudoku,),
}
_PAPER: dict[str, tuple[RewardFunction, ...]] = {
    "gsm8k": (xml_count, soft_format, strict_format, integer, gsm8k_correctness),
    "math": (math_correctness, boxed_and_answer_tags),
    "countdown": (countdown,),
    "sudoku": (sudoku,),
}
_RELEASED: dict[str, tuple[RewardFunction, ...]] = {
    "gsm8k": (
        released_xml_count,
        released_soft_format,
        released_strict_format,
        released_integer,
        released_gsm8k_correctness,
    ),
    "math": (released_math_correctness, released_boxed_and_answer_tags),
    "countdown": (released_countdown,),
    "sudoku": (sudoku,),
}
REWARDS: Mapping[str, Mapping[str, tuple[RewardFunction, ...]]] = {
    task: {
        "verify": _VERIFY[task],
        "paper": _PAPER[task],
        "released": _RELEASED[task],
        "released_spg": tuple(released_spg_xml_count if f is released_xml_count else f for f in _RELEASED[task]),
    }
    for task in _PAPER
}
