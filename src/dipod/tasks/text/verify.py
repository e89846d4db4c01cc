r"""The parser ``verify``: what rewards and "solved" mean by default.

The answer is the content of the last complete answer tags before the first end token; of a box inside them, if there is
one; without tags, of the last ``\boxed``. It is right where it says what the reference says, however it is written: as
a number with commas, a unit or a percent sign, a fraction, a tuple, an interval, an expression in LaTeX. Rewards call
the same functions, so an answer that earns the full reward is solved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from dipod.tasks.text.answers import same_answer
from dipod.tasks.text.arithmetic import ArithmeticRefused, evaluate, reaches, uses_numbers
from dipod.tasks.text.mathematics import closing_brace, last_boxed
from dipod.tasks.text.quantities import Quantity, only_quantity, read_quantity
from dipod.tasks.text.references import Board, Countdown
from dipod.tasks.text.spelling import MAX_LENGTH, bare, spell
from dipod.tasks.text.symbolic import HELPER
from dipod.tasks.text.tags import last_answer, spoken

MAX_SIDES = 6
"""Sides of an equation that a Countdown answer may have."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_FRAC = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SIGNS = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\\{", "("),
    ("\\}", ")"),
    ("[", "("),
    ("]", ")"),
    ("{", "("),
    ("}", ")"),
)
_LETTER_TIMES = re.compile(r"(?<=[0-9)])\s*[xX]\s*(?=[0-9(])")
_LABEL = re.compile(
    r"(?:\b(?:row|line|column|col|r|c)\s*#?\s*[0-9]+\b|^\s*[0-9]\s*[.):](?=\s))\s*[:.)|-]?",
    re.IGNORECASE | re.MULTILINE,
)
_DIGITS = re.compile("[0-9]")
_ARITHMETIC = re.compile(r"[0-9+\-*/(). ]*")


def verified_answer(text: str) -> str | None:
    """The answer in a generation as it was written; None if it has neither complete tags nor a box."""
    text = spoken(text)
    content = last_answer(text)
    if content is None:
        return last_boxed(text)
    boxes = _boxes(content)
    if boxes:
        return ", ".join(boxes)
    return last_boxed(content) or content or None


def same_number(answer: str | None, reference: Fraction) -> bool:
    """Whether an answer is a number: plain, with a unit, a percent sign or in a sentence that has no other number."""
    if answer is None or len(answer) > MAX_LENGTH:
        return False
    written = bare(spell(bare(answer)))
    found = read_quantity(_right_side(written)) or only_quantity(written)
    if found is not None:
        return found.same(Quantity(reference))
    try:
        return evaluate(_arithmetic(answer)) == reference
    except ArithmeticRefused:
        return False


def same_mathematics(answer: str | None, reference: str) -> bool:
    """Whether an answer says the same as a reference: a number, words, a tuple, a set, an expression.

    Raises:
        UserError: math-verify is needed to tell, and not installed.
    """
    return answer is not None and same_answer(answer, reference, HELPER.same)


def verified_expression(text: str) -> str | None:
    """The answer of a Countdown problem in ``+ - * / ( ) =``, whatever signs and brackets it is written in."""
    answer = verified_answer(text)
    return None if answer is None or len(answer) > MAX_LENGTH else _arithmetic(answer)


def verified_board(text: str) -> str:
    """The digits of a Sudoku answer in their order, without the labels of rows; sixteen of them are a board."""
    answer = verified_answer(text)
    if answer is None or len(answer) > MAX_LENGTH:
        return ""
    return "".join(_DIGITS.findall(_LABEL.sub(" ", answer)))


def written_with(expression: str | None, numbers: Sequence[int]) -> str | None:
    """The side of an equation (or the expression) that uses exactly these numbers; None without one."""
    sides = [] if expression is None else _sides(expression)
    return next((side for side in sides if uses_numbers(side, numbers)), None)


def every_side_is(expression: str | None, target: Fraction) -> bool:
    """Whether all sides of an equation (or the expression) are the target."""
    sides = [] if expression is None else _sides(expression)
    return bool(sides) and all(reaches(side, target) for side in sides)


def reaches_target(expression: str | None, reference: Countdown) -> bool:
    """Whether one side of an equation uses the numbers, and it and all other sides are the target."""
    return written_with(expression, reference.numbers) is not None and every_side_is(expression, reference.target)


def same_board(answer: str, reference: Board) -> bool:
    """Whether the digits are the solution."""
    return answer == reference.solution


def _boxes(content: str) -> list[str]:
    """The contents of the boxes of an answer that are not inside one another, innermost, if all are closed."""
    boxes, at = [], 0
    while (found := _BOX.search(content, at)) is not None:
        end = closing_brace(content, found.end())
        if end is None:
            return []
        inside = content[found.end() + 1 : end]
        boxes.append((last_boxed(inside) or inside).strip())
        at = end + 1
    return [box for box in boxes if box]


def _right_side(text: str) -> str:
    """What follows a single equals sign; the text without one."""
    left, sign, right = text.rpartition("=")
    return right.strip() if sign and len(left) <= 60 else text


def _sides(expression: str) -> list[str]:
    sides = [side.strip() for side in expression.split("=") if side.strip()]
    return sides if len(sides) <= MAX_SIDES else []


def _arithmetic(answer: str) -> str:
    if _ARITHMETIC.fullmatch(answer) and not answer.startswith("**"):
        return answer
    text = bare(spell(bare(answer)))
    for _ in range(8):
        text, count = _FRAC.subn(r"((\1)/(\2))", text)
        if not count:
            break
    for sign, plain in _SIGNS:
        text = text.replace(sign, plain)
    return bare(_LETTER_TIMES.sub("*", text.replace("$", "")))
