r"""Parsers by task and name: how an answer is read out of a generation, and when it is right.

``verify`` is the default (see `verify`): right is what says the same as the reference, however it is written. ``d1``
and ``spg`` are what the published evaluations did (see `published_parsers`). ``strict`` takes the whole content of the
last complete pair of answer tags, or of a ``\boxed`` that fills it, before the first end token, written in one way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dipod.errors import require
from dipod.tasks.text import published_parsers as published
from dipod.tasks.text import verify
from dipod.tasks.text.arithmetic import reaches, read_number, uses_numbers
from dipod.tasks.text.mathematics import closing_brace, is_equivalent
from dipod.tasks.text.references import Board, Countdown
from dipod.tasks.text.rows import require_task
from dipod.tasks.text.tags import last_answer, spoken

_FORMULAS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_BOXES = ("\\boxed", "\\fbox")
_OPERATORS = (("\\div", "/"), ("÷", "/"), ("\\times", "*"), ("×", "*"), ("\\cdot", "*"), ("·", "*"))


@dataclass(frozen=True)
class Parser:
    """How the answers to one task are read and judged.

    Attributes:
        read: the answer in a generation: a number or None (gsm8k), text or None (math), an expression or None
            (countdown), sixteen characters or nothing (sudoku). ``verify`` gives the text, or the digits, as found.
        accepts: whether an answer that was read is right, given the reference; on Sudoku, the whole board.
    """

    read: Callable[[str], Any]
    accepts: Callable[[Any, Any], bool]


def strict_answer(text: str) -> str | None:
    r"""The content of the last complete answer tag before the first end token, out of ``$`` and ``\boxed``.

    A box is taken off only where it is the whole content.
    """
    content = last_answer(spoken(text))
    if content is None:
        return None
    for start, end in _FORMULAS:
        inside = content[len(start) : -len(end)]
        if content == start + inside + end and start not in inside and end not in inside:
            content = inside.strip()
            break
    return _out_of_box(content) or None


def strict_number(text: str) -> Fraction | None:
    """The answer of `strict_answer` as a number; None if it is anything beside one."""
    answer = strict_answer(text)
    return None if answer is None else read_number(answer)


def strict_expression(text: str) -> str | None:
    r"""The answer of `strict_answer` with ``*`` and ``/`` for ``\times``, ``\cdot``, ``\div`` and their signs."""
    answer = strict_answer(text)
    if answer is not None:
        for sign, operator in _OPERATORS:
            answer = answer.replace(sign, operator)
    return answer


def strict_board(text: str) -> str:
    """The answer of `strict_answer` if it is sixteen digits, else nothing."""
    answer = strict_answer(text) or ""
    return answer if re.fullmatch("[0-9]{16}", answer) else ""


def find_parser(task: str, name: str) -> Parser:
    """The parser of a task by name.

    Raises:
        UserError: an unknown task or name.
    """
    require_task(task)
    require(name in PARSERS[task], "parser", name, f"choose one of {', '.join(PARSER_NAMES)}")
    return PARSERS[task][name]


def _out_of_box(content: str) -> str:
    box = next((box for box in _BOXES if content.startswith((f"{box}{{", f"{box} "))), None)
    if box is None:
        return content
    inside = content.removeprefix(box).lstrip()
    if not inside.startswith("{"):
        return inside
    return inside[1:-1].strip() if closing_brace(inside) == len(inside) - 1 else content


def _same_float(answer: float | None, reference: Fraction) -> bool:
    return answer == float(reference)


def _same_number(answer: Fraction | None, reference: Fraction) -> bool:
    return answer == reference


def _same_as_released(answer: str | None, reference: str) -> bool:
    return is_equivalent(answer, reference, as_released=True)


def _reaches_as_released(expression: str, reference: Countdown) -> bool:
    return published.reaches_target(expression, reference.numbers, reference.target)


def _reaches(expression: str | None, reference: Countdown) -> bool:
    if expression is None or not uses_numbers(expression, reference.numbers):
        return False
    return reaches(expression, reference.target)


def _same_board(answer: str, reference: Board) -> bool:
    return answer == reference.solution


_RELEASED_MATH = Parser(published.math_answer, _same_as_released)
_RELEASED_COUNTDOWN = Parser(published.countdown_answer, _reaches_as_released)
_RELEASED_SUDOKU = Parser(published.sudoku_answer, _same_board)

PARSERS: Mapping[str, Mapping[str, Parser]] = {
    "gsm8k": {
        "d1": Parser(published.gsm8k_answer_d1, _same_float),
        "spg": Parser(published.gsm8k_answer_spg, _same_float),
        "strict": Parser(strict_number, _same_number),
        "verify": Parser(verify.verified_answer, verify.same_number),
    },
    "math": {
        "d1": _RELEASED_MATH,
        "spg": _RELEASED_MATH,
        "strict": Parser(strict_answer, is_equivalent),
        "verify": Parser(verify.verified_answer, verify.same_mathematics),
    },
    "countdown": {
        "d1": _RELEASED_COUNTDOWN,
        "spg": _RELEASED_COUNTDOWN,
        "strict": Parser(strict_expression, _reaches),
        "verify": Parser(verify.verified_expression, verify.reaches_target),
    },
    "sudoku": {
        "d1": _RELEASED_SUDOKU,
        "spg": _RELEASED_SUDOKU,
        "strict": Parser(strict_board, _same_board),
        "verify": Parser(verify.verified_board, verify.same_board),
    },
}
PUBLISHED_NAMES = ("d1", "spg")
"""Of parsers that are as published."""
PARSER_NAMES = ("verify", "strict", *PUBLISHED_NAMES)
