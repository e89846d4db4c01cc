"""Answer tags and special tokens in the text of a generation. Every function is linear in the length of the text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dipod.policies.plain_tokenizers import END_TOKENS

OPEN, CLOSE = "<answer>", "</answer>"

_SPECIAL = re.compile(r"<\|\w+\|>")
_LEADING = re.compile(r"\A(?:<\|\w+\|>)+")


def until_end(text: str) -> str:
    """The text before its first end token."""
    return text[: min((at for token in END_TOKENS if (at := text.find(token)) >= 0), default=len(text))]


def without_special(text: str) -> str:
    """The text without any token written ``<|name|>``, as a tokenizer decodes it with ``skip_special_tokens``."""
    return _SPECIAL.sub("", text)


def spoken(text: str) -> str:
    """What a generation says to rewards, evaluations and `dipod score`: the text between its first and its end token.

    A special token elsewhere stays: an answer with one inside is not that answer.
    """
    return _LEADING.sub("", until_end(text))


def tagged(text: str) -> Iterator[str]:
    """What stands between answer tags, left to right; an opening tag reaches to the next closing one."""
    at = 0
    while (start := text.find(OPEN, at)) >= 0 and (end := text.find(CLOSE, start)) >= 0:
        yield text[start + len(OPEN) : end]
        at = end + len(CLOSE)


def after_last_tag(text: str) -> str:
    """What follows the last opening tag, up to a closing one if there is one, stripped; without any, the text."""
    return text.rpartition(OPEN)[2].partition(CLOSE)[0].strip()


def last_answer(text: str) -> str | None:
    """The content of the last complete pair of answer tags, the innermost where they nest, stripped; or None."""
    start = text.rfind(OPEN, 0, max(text.rfind(CLOSE), 0))
    return None if start < 0 else text[start + len(OPEN) : text.find(CLOSE, start)].strip()
