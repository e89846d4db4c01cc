r"""Answers of MATH problems: out of their box, into one spelling, compared.

The spelling rules are those of the scorer that came with the MATH data set (Hendrycks et al. 2021,
https://arxiv.org/abs/2103.03874) and that every published number on it uses. They are rules about text: ``\frac12``
and ``1/2`` are one answer, ``2^3`` and ``8`` are two.
"""

from __future__ import annotations

import re

TOLERANCE = 1e-6
"""Two answers of which one is a float are the same within this."""

_DELETIONS = ("\n", "\\!")
_RESPELLINGS = (("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"))
_DECORATION = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")
_UNIT = "\\text{ "
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_END = re.compile(r"\$|\n|\\[)\]]|<\|")


class _MalformedError(ValueError):
    """LaTeX that the rules cannot read; it equals only itself."""


def last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed`` or ``\fbox``, stripped; None without one or with an unclosed one.

    Braces are matched, escaped ones are not braces. Without braces (``\boxed 5``) the content ends with the line, the
    formula or the turn.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    content = text[boxes[-1].end() :].lstrip(" ")
    if not content.startswith("{"):
        return _BARE_END.split(content, maxsplit=1)[0].strip() or None
    end = closing_brace(content)
    return None if end is None else content[1:end].strip()


def closing_brace(text: str, start: int = 0) -> int | None:
    """Where the brace at ``start`` is closed, escaped braces apart; None if it is not."""
    depth = 0
    for token in _BRACE.finditer(text, start):
        depth += (token[0] == "{") - (token[0] == "}")
        if depth == 0 and token[0] == "}":
            return token.start()
    return None


def is_equivalent(a: str | float | None, b: str | float | None, *, as_released: bool = False) -> bool:
    """Whether two answers are the same under `normalise`; within `TOLERANCE` if one of them is a number.

    Args:
        a: an answer, None if there is none.
        b: another.
        as_released: keep a fault of the published copies of the rules: text with one slash that is not between
            whole numbers, such as "x/2", is then compared letter by letter, without any rule.
    """
    if a is None or b is None:
        return a is b
    if not isinstance(a, str) or not isinstance(b, str):
        try:
            return abs(float(a) - float(b)) < TOLERANCE
        except (ValueError, OverflowError):
            return False
    try:
        spellings = normalise(a), normalise(b)
    except _MalformedError:
        return a == b
    if as_released and any(_has_broken_slash(spelling) for spelling in spellings):
        return a == b
    return spellings[0] == spellings[1]


def normalise(text: str) -> str:
    r"""One spelling for the ways in which MATH writes an answer.

    In this order: line breaks, thin negative spaces, ``\left``, ``\right``, degrees and ``\$`` go; ``\tfrac`` and
    ``\dfrac`` are ``\frac``; a unit ``\text{ ...`` at the end and ``\%`` go; a leading point gets its zero; a
    left-hand side of one letter ("x=") goes; braces are put around a bare argument of ``\sqrt`` and ``\frac``;
    spaces go; 0.5 and quotients of whole numbers become ``\frac{a}{b}``.

    Raises:
        ValueError: two units, or a ``\sqrt`` or ``\frac`` of nothing.
    """
    for part in _DELETIONS:
        text = text.replace(part, "")
    for old, new in _RESPELLINGS:
        text = text.replace(old, new)
    for part in _DECORATION:
        text = text.replace(part, "")
    text, *units = text.split(_UNIT)
    if len(units) > 1:
        raise _MalformedError("two units")
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text.startswith("."):
        text = "0" + text
    left, *right = text.split("=")
    if len(right) == 1 and len(left) <= 2:
        text = right[0]
    text = _brace_fractions(_brace_roots(text).replace(" ", ""))
    return _fraction_from_slash("\\frac{1}{2}" if text == "0.5" else text)


def _brace_roots(text: str) -> str:
    r"""``\sqrt3`` → ``\sqrt{3}``."""
    if re.search(r"\\sqrt(?=\Z|\\sqrt)", text):
        raise _MalformedError("a root of nothing")
    return re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)


def _brace_fractions(text: str) -> str:
    r"""``\frac12`` and ``\frac1{2}`` → ``\frac{1}{2}``; a fraction that ends after one character stops the rule."""
    head, *pieces = text.split("\\frac")
    fixed = [head]
    for piece in pieces:
        if not piece:
            raise _MalformedError("a fraction of nothing")
        if piece.startswith("{"):
            fixed.append(piece)
        elif len(piece) == 1:
            return text
        else:
            denominator = piece[1:] if piece[1] == "{" else f"{{{piece[1]}}}{piece[2:]}"
            fixed.append(f"{{{piece[0]}}}{denominator}")
    return "\\frac".join(fixed)


def _whole_parts(text: str) -> tuple[int, int] | None:
    """Both sides of a single slash, if Python reads them as whole numbers."""
    sides = text.split("/")
    try:
        return (int(sides[0]), int(sides[1])) if len(sides) == 2 else None
    except ValueError:
        return None


def _fraction_from_slash(text: str) -> str:
    parts = _whole_parts(text)
    if parts is None or text != f"{parts[0]}/{parts[1]}":
        return text
    return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"


def _has_broken_slash(spelling: str) -> bool:
    return spelling.count("/") == 1 and _whole_parts(spelling) is None
