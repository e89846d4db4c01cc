r"""How the published evaluations of d1 and SPG read answers, faults included, so that their numbers can be compared.

Everything here works on the text as it was generated, special tokens and all; only the Sudoku reader knows some.
The two agree but for one fallback on GSM8K. wd1 evaluates as d1 does, the DiPOD release as SPG does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from dipod.tasks.text.arithmetic import reaches
from dipod.tasks.text.tags import CLOSE, OPEN, after_last_tag, tagged

_BOX = "\\boxed{"
_SPACED_BOX = "\\boxed "
_NUMBER = re.compile(r"-?\d+\.?\d*")
_OPERATORS = (("\\div", "/"), ("\\times", "*"), ("\\cdot", "*"))
_LEFT_HAND_SIDE = re.compile(r"(?<![0-9+\-*/() ])([0-9+\-*/() ]+)=[0-9. ]")
_END = r"<\|eot_id\|>|<\|endoftext\|>"


def gsm8k_answer_d1(text: str) -> float | None:
    r"""The number in the first ``\boxed`` that has one, else the last number of the first answer tag.

    Faults: a comma ends a number, so 1,000 is read as 1; a box ends at the first brace; of several boxes the first
    counts; anything that Python's `float` takes is a number (1_000, inf); an unclosed answer tag is not read.
    """
    for content in _boxes_on_one_line(text):
        if content and content.strip("."):
            number = _number(content, last=False)
            if number is not None:
                return number
    return _number(next(tagged(text), "").strip(), last=True)


def gsm8k_answer_spg(text: str) -> float | None:
    """As d1, and if that finds nothing, the last number after the last opening answer tag, closed or not.

    Fault beyond d1's: in a text without any answer tag it is the last number of the whole text. Baselines gain 0.7
    to 1.5 points by this fallback, so SPG's numbers on GSM8K do not compare with d1's.
    """
    number = gsm8k_answer_d1(text)
    return _number(after_last_tag(text), last=True) if number is None else number


def math_answer(text: str) -> str | None:
    r"""The content of the last ``\boxed``; the first answer tag only where a box is empty or never closed.

    Faults: a text without a box is an answer as a whole, so answer tags without a box are not read; ``\fbox`` is
    found but not taken off; one ``\boxed `` with a space anywhere in the text hides every box with braces.
    """
    box = unboxed(text)
    if box:
        return box
    answer = next(tagged(text), None)
    return box if answer is None else answer.strip()


def countdown_answer(text: str) -> str:
    r"""The expression of the last ``\boxed``, up to an equals sign if a number follows it.

    Faults: a text without a box is an expression as a whole; answer tags are read only where a box is never closed.
    """
    expression = unboxed(text)
    if expression is None:
        expression = next((content.strip() for content in tagged(text)), text)
    for latex, sign in _OPERATORS:
        expression = expression.replace(latex, sign)
    equation = _LEFT_HAND_SIDE.search(expression)
    return equation[1].strip() if equation else expression


def reaches_target(expression: str, numbers: Sequence[int], target: Fraction) -> bool:
    """Whether the runs of digits in an expression are ``numbers`` and its value is within 1e-5 of ``target``.

    Faults: 1.5 uses the numbers 1 and 5; ``//`` and ``**`` are allowed.
    """
    return uses_digits(expression, numbers) and reaches(expression, target, as_released=True)


def uses_digits(expression: str, numbers: Sequence[int]) -> bool:
    """Whether the runs of digits in an expression are ``numbers`` in some order."""
    try:
        return sorted(int(digits) for digits in re.findall(r"\d+", expression)) == sorted(numbers)
    except ValueError:
        return False


def sudoku_answer(text: str) -> str:
    """The sixteen characters that are taken for the board; empty if there is nothing to take.

    The first of these that is not blank: a fenced block after the first opening answer tag; what follows that tag
    up to a closing one, an end of turn or an end of text; what follows the first closing tag; sixteen digits before
    a closing tag; sixteen digits anywhere. White space goes, zeros are added, what is beyond sixteen goes.

    Fault: whatever is there stands for cells, a letter for a wrong one, so "Board: 1234..." shifts the board.
    """
    for reader in _BOARD_READERS:
        board = reader(text).strip()
        if board:
            return re.sub(r"\s", "", board)[:16].ljust(16, "0")
    return ""


def unboxed(text: str) -> str | None:
    """The content of the last box as `math_answer` reads it; the text if it has none, None if it is never closed."""
    if _SPACED_BOX in text:
        return text.rpartition(_SPACED_BOX)[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return text
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            box = text[start : start + brace.end()]
            return box[len(_BOX) : -1] if box.startswith(_BOX) else box
    return None


def _boxes_on_one_line(text: str) -> Iterator[str]:
    r"""What stands between each ``\boxed{`` and the next closing brace of its line, stripped."""
    for line in text.split("\n"):
        at = 0
        while (start := line.find(_BOX, at)) >= 0 and (end := line.find("}", start)) >= 0:
            yield line[start + len(_BOX) : end].strip()
            at = end + 1


def _number(text: str, last: bool) -> float | None:
    """The text as a number, or the first or last number in it."""
    try:
        return float(text)
    except ValueError:
        numbers = _NUMBER.findall(text)
        return float(numbers[-1 if last else 0]) if numbers else None


def _after_tag(pattern: str) -> Callable[[str], str]:
    """The first group of ``pattern`` in what follows the first opening answer tag; empty without one."""
    compiled = re.compile(pattern, re.DOTALL)

    def read(text: str) -> str:
        _, tag, rest = text.partition(OPEN)
        found = compiled.search(rest) if tag else None
        return found[1] if found else ""

    return read


def _after_closing_tag(text: str) -> str:
    return re.split(_END, text.partition(CLOSE)[2], maxsplit=1)[0]


def _anywhere(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def read(text: str) -> str:
        found = compiled.search(text)
        return found[1] if found else ""

    return read


_BOARD_READERS: tuple[Callable[[str], str], ...] = (
    _after_tag(r"```([\d\s]+)```"),
    _after_tag(rf"\A(.*?)(?:{_END}|{CLOSE})"),
    _after_closing_tag,
    _anywhere(rf"(\d{{16}})\s*{CLOSE}"),
    _anywhere(r"\b(\d{16})\b"),
)
