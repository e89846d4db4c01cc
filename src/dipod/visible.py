"""Text of others on our pages and terminals: what would steer them is shown instead."""

from __future__ import annotations

import html
import re

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that turn the order of a line around, and halves of characters."""


def visible(text: str) -> str:
    """The text with control characters written out by their numbers, ``<1b>`` for the escape of a terminal."""
    return CONTROL.sub(lambda found: f"<{ord(found[0]):02x}>", text)


def escape(text: str) -> str:
    """`visible` text as HTML."""
    return html.escape(visible(text))
