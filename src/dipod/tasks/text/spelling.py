r"""One spelling for the ways in which models write mathematics, as simple LaTeX.

Everything here is about characters: Unicode signs become LaTeX, and decoration that says nothing (``\left``, bold,
``$``, a full stop at the end) goes.
"""

from __future__ import annotations

import re
import unicodedata

from dipod.tasks.text.mathematics import closing_brace

MAX_LENGTH = 1000
"""Characters of an answer; a longer one is right only if it is the reference letter by letter."""

_SIGNS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("∗＊⁎", "*"),
    **dict.fromkeys("×✕✖⨯", "\\times "),
    **dict.fromkeys("·⋅∙•", "\\cdot "),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **{
        f"{letter}": f"\\{name} "
        for letter, name in zip(
            "πθαβγφλμσω",
            ["pi", "theta", "alpha", "beta", "gamma", "phi", "lambda", "mu", "sigma", "omega"],
            strict=True,
        )
    },
    "∞": "\\infty ",
    "±": "\\pm ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\ne ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "°": "^\\circ ",
    "º": "^\\circ ",
    "√": "sqrt",
    "ℝ": "\\mathbb{R}",
    "’": "'",
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_HALVES = re.compile("[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_RESPELLINGS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|bigg?|Bigg?|displaystyle|textstyle|limits)(?![A-Za-z])\.?"), ""),
    (re.compile(r"\\!|\{,\}(?=[0-9])(?<=[0-9]\{,\})"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick)space(?![A-Za-z])"), " "),
    (re.compile(r"\\leq(?:slant)?(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\geq(?:slant)?(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne"),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\mathbb\{R\}"), r"(-\\infty ,\\infty )"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:mathrm|mathbf|mathit|mathbb|operatorname)\{([A-Za-z])\}"), r"\1"),
    (re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)|mathrm|mathbf|mathit|mbox|textnormal|emph|mathsf)(?=\{)"), r"\\text"),
    (re.compile(r"\^\{\\circ\}|\^\\circ|\\degree(?![A-Za-z])"), r"^\\circ "),
    (re.compile(r"\\(?:lt)(?![A-Za-z])"), "<"),
    (re.compile(r"\\(?:gt)(?![A-Za-z])"), ">"),
    (re.compile(r"\s+"), " "),
)
_PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("__", "__"),
    ("```", "```"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
)
_WRAPPERS = ("\\boxed", "\\fbox", "\\text", "\\mathrm")
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?(?:answer|solution|result|expression|equation)"
    r"(?: (?:is|would be|equals))?(?:\s*[:=])?\s+(?=\S)|(?:the )?(?:final )?(?:answer|solution|result)\s*[:=]\s*",
    re.IGNORECASE,
)


def spell(text: str) -> str:
    """The text with LaTeX for Unicode signs, one name for each command, and single spaces."""
    text = _HALVES.sub(lambda found: _vulgar(found[0]), text)
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    text = "".join(_SIGNS.get(character, character) for character in text)
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in _RESPELLINGS:
        text = pattern.sub(replacement, text)
    return text.strip()


def bare(text: str) -> str:
    """An answer out of what is wrapped around it: formula signs, bold, quotes, a box, "The answer is", a full stop."""
    for _ in range(12):
        before, text = text, text.strip()
        if text.endswith((".", ",", ";")) and not text.endswith(("..", "\\,", "\\;")):
            text = text[:-1]
        text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
        for start, end in _PAIRS:
            inside = text[len(start) : -len(end)]
            plain = inside.replace("\\$", "")
            if (
                len(text) > len(start) + len(end)
                and text == start + inside + end
                and start not in plain
                and end not in plain
            ):
                text = inside
                break
        for wrapper in _WRAPPERS:
            rest = text.removeprefix(wrapper)
            if rest != text and rest.startswith("{") and closing_brace(rest) == len(rest) - 1:
                text = rest[1:-1]
        if text.startswith("{") and closing_brace(text) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            break
    return text


def squeeze(text: str) -> str:
    r"""A text without spaces that say nothing, and without braces around one character, to compare letter by letter."""
    return re.sub(r"\{(.)\}", r"\1", re.sub(r"\s+(?![0-9])|(?<![0-9])\s+", "", text)).replace("\\$", "").rstrip(".")


def _vulgar(sign: str) -> str:
    above, _, below = unicodedata.normalize("NFKC", sign).partition("⁄")
    return f" \\frac{{{above}}}{{{below}}}"
