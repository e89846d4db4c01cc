r"""Is an answer the reference? Numbers, words, lists, tuples, intervals and sets are compared here, exactly.

What is left over, expressions such as ``\frac{3}{\sqrt2}``, goes to another process (`dipod.tasks.text.symbolic`),
where this module is given math-verify to compare them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from dipod.tasks.text.quantities import only_quantity, read_quantity
from dipod.tasks.text.spelling import MAX_LENGTH, bare, spell, squeeze

Decide = Callable[[str, str], bool]
"""``decide(answer, reference)``: whether two expressions in LaTeX are the same."""

MAX_ITEMS = 20
"""Items of a list that is compared in any order."""

_ASSIGNED = re.compile(
    r"\s*(?:\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)|m? ?\\angle ?[A-Z]{1,3}"
    r"|[A-Za-z]|\\[a-z]+(?<!\\frac)(?<!\\sqrt))(?:_(?:\{\w+\}|\w)|')?(?:\^\{-1\})?(?:\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))?\s*(?:=|\\in(?![a-z]))\s*"
)
_JOIN = re.compile(
    r"(?:,\s*)?(?:\\text\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*", re.IGNORECASE
)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z .,'-]*")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LONG_WORD = re.compile(r"[A-Za-z]{4,}")
_SUBSCRIPT = re.compile(r"([0-9A-F]+)_\{?([0-9]+)\}?")
_RELATION = re.compile(r"[<>]|\\[lg]e(?![a-z])")
_MATRIX = re.compile(r"\\begin\{([pbvB]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_TRAILING_UNIT = re.compile(r"(?<=[0-9A-Za-z})])\s*(?:\\text\{[^{}]*\}(?:\^\{?[0-9]\}?)?|\^\\circ)\s*\Z")
_BARE_UNIT = re.compile(r"(?<=[0-9A-Za-z})]) (?:cm|mm|km|ft|in|kg|mph|units|inches|feet|meters)(?:\^\{?[0-9]\}?)?\Z")
_RATIO = re.compile(r"([0-9]{1,9}) ?: ?([1-9][0-9]{0,8})")
_FUNCTIONS = re.compile(
    r"(?<![A-Za-z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|infty|infinity|theta)(?![A-Za-z])"
)
_UNSENDABLE = (
    ":",
    "'",
    "\\prime",
    "\\approx",
    "\\sim",
    "\\ldots",
    "\\dots",
    "\\cdots",
    "...",
    "\\text",
    "\\pm",
    "\\mp",
    "\\begin",
    "?",
    "&",
)
_OPEN = {"(": ")", "[": "]", "\\{": "\\}"}
_TOKEN = re.compile(r"\\[{}]|\\[A-Za-z]+|\\.|.", re.DOTALL)


class _Open(Exception):  # noqa: N818
    """It takes more than this module to tell."""


def same_answer(answer: str, reference: str, ask: Decide) -> bool:
    """Whether an answer, as a model wrote it, is the reference, as a data set has it.

    Args:
        answer: of any origin.
        reference: the right answer.
        ask: ``ask(answer, reference)`` is called, once, where it takes `same_spelled` with a way to compare
            expressions to tell.
    """
    if answer.strip() == reference.strip():
        return bool(answer.strip())
    if max(len(answer), len(reference)) > MAX_LENGTH:
        return False
    a, r = bare(spell(bare(answer))), bare(spell(bare(reference)))
    if not a or not r:
        return False
    try:
        return same_spelled(a, r, _cannot_tell)
    except _Open:
        return ask(a, r)


def _cannot_tell(*_: str) -> bool:
    raise _Open


def same_spelled(a: str, r: str, decide: Decide, deep: int = 0) -> bool:
    """The same for spelled texts, with ``decide`` asked for every pair of expressions, ``deep`` brackets down."""
    if squeeze(a) == squeeze(r):
        return True
    words = _words(r)
    if words is not None:
        return words == _words(a)
    a, r = _unassigned(a, r), _unassigned(r, a)
    if (_RATIO.fullmatch(a) is None) != (_RATIO.fullmatch(r) is None):
        a, r = (_RATIO.sub(r"\\frac{\1}{\2}", text) if _RATIO.fullmatch(text) else text for text in (a, r))
    wanted, given = read_quantity(r), read_quantity(a)
    if wanted is not None:
        given = given or only_quantity(a)
        if given is not None:
            return given.same(wanted)
    if deep > 4:
        return False
    a, r = given.latex() if given else _out_of_parentheses(a), wanted.latex() if wanted else _out_of_parentheses(r)
    given_parts, wanted_parts = _structure(a), _structure(r)
    related = any(not parts.items and _RELATION.search(text) for parts, text in ((given_parts, a), (wanted_parts, r)))
    if (wanted_parts.items or given_parts.items) and not related:
        return _same_structure(given_parts, wanted_parts, decide, deep + 1)
    return _same_scalar(a, r, decide)


def _words(text: str) -> str | None:
    r"""A text of words only, out of \text and parentheses, in lower case if it is longer than a letter; or None."""
    marked = _TEXT.search(text) is not None
    words = _TEXT.sub(r"\1", text).strip(" .'\"")
    letter = re.fullmatch(r"\(?\s*([A-Z])\s*\)?", words)
    if letter and (marked or words.startswith("(")):
        return letter[1]
    if _WORDS.fullmatch(words) is None or not (marked or _LONG_WORD.search(words) or words.lower() in {"yes", "no"}):
        return letter[1] if letter else None
    return " ".join(words.lower().replace(",", " ").split())


def _unassigned(text: str, other: str) -> str:
    r"""A text without "x =" or "x \in" before it, unless the other has a left-hand side of its own that differs."""
    found = _ASSIGNED.match(text)
    if found is None or "=" in text[found.end() :].replace("\\ne", ""):
        return text
    theirs = _ASSIGNED.match(other)
    if theirs is None and re.search("[=<>]", other):
        return text
    if (
        theirs is not None
        and squeeze(theirs[0]) != squeeze(found[0])
        and squeeze(theirs[0])[-1:] == squeeze(found[0])[-1:]
    ):
        return text
    return text[found.end() :]


@dataclass(frozen=True)
class _Parts:
    """A list of items between two brackets, or between none; of no items where a text is not a list."""

    start: str
    end: str
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        return self.start in {"(", "[", "matrix"}


def _structure(text: str) -> _Parts:
    matrix = _MATRIX.fullmatch(text.strip())
    if matrix:
        rows = [
            [cell.strip() for cell in row.split("&")] for row in matrix[2].strip().removesuffix("\\\\").split("\\\\")
        ]
        shape = "x".join(str(len(row)) for row in rows)
        return _Parts("matrix", shape, tuple(cell for row in rows for cell in row))
    joined = _JOIN.sub(", ", text)
    unions = _split(joined, {"\\cup"})
    if len(unions) > 1:
        sets = [_inside(part) for part in unions]
        if all(found and found[0] == "\\{" for found in sets):
            members = dict.fromkeys(squeeze(x) for found in sets if found for x in _split(found[1], {",", ";"}))
            return _Parts("\\{", "\\}", tuple(members))
        return _Parts("\\cup", "", unions)
    inner = _inside(joined)
    if inner is None:
        parts = [part for part in _split(joined, {",", ";"}) if part]
        spread = tuple(item for part in parts for item in _both_signs(part))
        return _Parts("", "", spread if len(spread) > 1 else ())
    start, inside, end = inner
    items = tuple(
        item for part in _split(inside, {",", ";"}) for item in (_both_signs(part) if start == "\\{" else [part])
    )
    if start == "\\{" or len(items) > 1:
        return _Parts(start, end, items)
    return _Parts("", "", ())


def _split(text: str, separators: set[str]) -> tuple[str, ...]:
    """A text at separators that no bracket holds."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in {"(", "[", "{", "\\{"}) - (token in {")", "]", "}", "\\}"})
        if token in separators and depth <= 0:
            parts.append("")
        else:
            parts[-1] += token
    return tuple(part.strip() for part in parts)


def _inside(text: str) -> tuple[str, str, str] | None:
    """(opening bracket, what is inside, closing bracket) of a text in one pair of brackets; half-open ones too."""
    text = text.strip()
    start = next((bracket for bracket in _OPEN if text.startswith(bracket)), None)
    end = next((bracket for bracket in _OPEN.values() if text.endswith(bracket)), None)
    if start is None or end is None or (start == "\\{") != (end == "\\}") or len(text) < len(start) + len(end):
        return None
    depth, tokens = 0, _TOKEN.findall(text)
    for at, token in enumerate(tokens):
        depth += (token in {"(", "[", "{", "\\{"}) - (token in {")", "]", "}", "\\}"})
        if depth == 0:
            return (start, text[len(start) : -len(end)], end) if at == len(tokens) - 1 else None
    return None


def _out_of_parentheses(text: str) -> str:
    """A text without parentheses around it, unless what they hold is a tuple."""
    inner = _inside(text)
    if inner is None or inner[0] + inner[2] != "()" or len(_split(inner[1], {",", ";"})) > 1:
        return text
    return inner[1].strip()


def _both_signs(text: str) -> Iterator[str]:
    r"""``a \pm b`` as its two values."""
    if text.count("\\pm") == 1:
        left, _, right = text.partition("\\pm")
        yield f"{left}+{right}" if left.strip() else right.strip()
        yield f"{left}-{right.strip()}"
    else:
        yield text


def _same_structure(given: _Parts, wanted: _Parts, decide: Decide, deep: int) -> bool:
    if len(given.items) != len(wanted.items):
        return False
    kinds = {given.start, wanted.start}
    ordered = given.ordered or wanted.ordered
    alike = (given.start, given.end) == (wanted.start, wanted.end)
    loose = kinds <= {"", "\\{"} or (kinds == {"", "("} and {given.end, wanted.end} == {"", ")"})
    if not (alike or loose):
        return False
    if ordered or len(wanted.items) > MAX_ITEMS:
        return all(same_spelled(a, r, decide, deep) for a, r in zip(given.items, wanted.items, strict=True))
    left = list(wanted.items)
    for item in given.items:
        found = next((r for r in left if same_spelled(item, r, decide, deep)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_scalar(a: str, r: str, decide: Decide) -> bool:
    based = [_SUBSCRIPT.fullmatch(squeeze(text)) for text in (a, r)]
    if any(based):
        given, wanted = based
        return (
            wanted is not None
            and wanted[1] == (given[1] if given else squeeze(a))
            and (given is None or given[2] == wanted[2])
        )
    a, r = (_for_sympy(_BARE_UNIT.sub("", _TRAILING_UNIT.sub("", text))) for text in (a, r))
    return _sendable(a) and _sendable(r) and decide(a, r)


def _for_sympy(text: str) -> str:
    """What people type in place of LaTeX, as LaTeX."""
    text = re.sub(r"(?<!\\)sqrt\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}", _braced_roots(text))
    text = _FUNCTIONS.sub(lambda found: {"infinity": "\\infty"}.get(found[1], f"\\{found[1]}") + " ", text)
    text = re.sub(r"\\%|%", r"\\%", text.replace("**", "^").replace("<=", "\\le ").replace(">=", "\\ge "))
    return text.replace("*", "\\cdot ").replace("\\$", "").strip()


def _braced_roots(text: str) -> str:
    r"""``sqrt(x)`` → ``\sqrt{x}``."""
    for _ in range(8):
        found = re.search(r"(?<!\\)sqrt\s*\(", text)
        if found is None:
            break
        depth = 0
        for at in range(found.end() - 1, len(text)):
            depth += (text[at] == "(") - (text[at] == ")")
            if depth == 0:
                text = f"{text[: found.start()]}\\sqrt{{{text[found.end() : at]}}}{text[at + 1 :]}"
                break
        else:
            break
    return text


def _sendable(text: str) -> bool:
    """Whether a text looks like an expression, and not like words, a time of day or a list that goes on."""
    if not text or any(part in text for part in _UNSENDABLE):
        return False
    depths = list(accumulate((token == "{") - (token == "}") for token in _TOKEN.findall(text)))
    return min(depths) >= 0 == depths[-1] and _LONG_WORD.search(_COMMAND.sub(" ", text)) is None
