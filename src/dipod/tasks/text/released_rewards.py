"""The rewards as the released code of d1 and SPG computed them, each defect named where it is.

wd1 and the DiPOD release's FPO runs use d1's, its SPG runs use SPG's, which differs in `released_spg_xml_count`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from dipod.tasks.text.completions import per_completion
from dipod.tasks.text.mathematics import is_equivalent
from dipod.tasks.text.published_parsers import reaches_target, unboxed
from dipod.tasks.text.tags import CLOSE, OPEN, after_last_tag, tagged, without_special

XML_TAGS = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")

_SOFT_HEAD, _SOFT_MIDDLE = "<reasoning>", "</reasoning>"
_SOFT_ANSWER = re.compile(r"\s*<answer>")
_STRICT = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")


_released = partial(per_completion, read=without_special)
"""Trainers decoded without special tokens, and read on behind the end of a turn."""


def count_tags(text: str) -> float:
    """An eighth for each of `XML_TAGS` that occurs exactly once."""
    return sum(0.125 for tag in XML_TAGS if text.count(tag) == 1)


@_released()
def released_xml_count(text: str) -> float:
    r"""An eighth a tag, less 0.001 a character after the answer.

    Defects: text after the answer is charged twice, once per tag that is found; and where no "\n</answer>\n" occurs,
    as in a completion that ends with "</answer>", the first charge is for the whole text (.452 in place of .5).
    """
    return _charged(text, "\n</answer>\n")


@_released()
def released_spg_xml_count(text: str) -> float:
    """As `released_xml_count`, with another defect in its place: the first charge includes the answer itself."""
    return _charged(text, "\n<answer>\n")


@_released()
def released_soft_format(text: str) -> float:
    """0.5 if the text begins with reasoning and answer tags in order.

    Defect: the pattern's dot does not match a line break, so reasoning or an answer of two lines scores 0.
    """
    return 0.5 if _soft_format(text) else 0.0


@_released()
def released_strict_format(text: str) -> float:
    """0.5 if every tag is on a line of its own and nothing else is there.

    Defect: as in `released_soft_format`, contents of more than one line score 0.
    """
    return 0.5 if _STRICT.match(text) else 0.0


@_released()
def released_integer(text: str) -> float:
    """0.5 if the answer consists of digits.

    Defects: a negative number or one with commas scores 0; a text without tags counts as an answer; signs such as
    "²" are digits to Python.
    """
    return 0.5 if after_last_tag(text).isdigit() else 0.0


@_released("answer")
def released_gsm8k_correctness(text: str, answer: str) -> float:
    """2 if the answer is the reference, letter by letter.

    Defects: "1000" is not "1,000", nor "18.0" "18"; a text without tags counts as an answer.
    """
    return 2.0 if after_last_tag(text) == answer else 0.0


@_released("answer")
def released_math_correctness(text: str, answer: str) -> float:
    r"""2 if the last ``\boxed`` is equivalent to that of the reference.

    Defects: a correct text without any box scores as well, while a correct answer in tags without a box scores 0.
    """
    prediction, reference = unboxed(text), unboxed(answer)
    found = text if prediction is None else prediction
    return 2.0 if is_equivalent(found, answer if reference is None else reference, as_released=True) else 0.0


@_released()
def released_boxed_and_answer_tags(text: str) -> float:
    r"""0.75 with an opening answer tag, 0.25 without.

    Defect: the box is looked for as a backspace and "oxed", so that a real ``\boxed`` never earns its part, and 1
    and 0.5 are not reached.
    """
    _, tag, rest = text.partition(OPEN)
    looked_at = rest.partition(OPEN)[0].partition("</answer>")[0] if tag else text
    return (bool(tag) + (1.0 if "\boxed" in looked_at else 0.5)) / 2


@_released("numbers", "target")
def released_countdown(text: str, numbers: Sequence[int], target: float) -> float:
    """1 if the last answer reaches the target with the given numbers, 0.1 for any other tagged content, else 0.

    Defects: the 0.1 is given for wrong numbers and for nothing at all, where the paper asks for the right numbers;
    and those of `published_parsers.reaches_target`.
    """
    answers = list(tagged(text))
    if not answers:
        return 0.0
    reached = reaches_target(answers[-1].strip(), [int(n) for n in numbers], Fraction(str(target)))
    return 1.0 if reached else 0.1


def _soft_format(text: str) -> bool:
    r"""Whether ``<reasoning>.*?</reasoning>\s*<answer>.*?</answer>`` matches, in linear time; `re` takes the square.

    The dots stay on a line, so only one place in it decides: its last closing tag.
    """
    if not text.startswith(_SOFT_HEAD):
        return False
    end = text.find("\n")
    first_line = len(text) if end < 0 else end
    last_close = text.rfind(CLOSE, 0, first_line)
    at = text.find(_SOFT_MIDDLE, len(_SOFT_HEAD), first_line)
    while at >= 0:
        answer = _SOFT_ANSWER.match(text, at + len(_SOFT_MIDDLE))
        if answer and answer.end() <= last_close:
            return True
        if answer and answer.end() > first_line:
            line_end = text.find("\n", answer.end())
            return text.find(CLOSE, answer.end(), len(text) if line_end < 0 else line_end) >= 0
        at = text.find(_SOFT_MIDDLE, at + 1, first_line)
    return False


def _charged(text: str, tag: str) -> float:
    score = count_tags(text)
    if text.count("\n<answer>\n") == 1:
        score -= 0.001 * _length_after(tag, text)
    if text.count("\n</answer>") == 1:
        score -= 0.001 * (_length_after("\n</answer>", text) - 1)
    return score


def _length_after(tag: str, text: str) -> int:
    """Characters after the last of a tag's occurrences that do not overlap; of the whole text without any."""
    *_, rest = text.split(tag)
    return len(rest)
