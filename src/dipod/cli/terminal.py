"""What the command line writes to: a console that takes text as it is, and streams that no text can steer."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console

from dipod.visible import visible


class Lasting:
    """A stream that may be gone, as a closed terminal is: then what is written is lost, and the work is not."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, if anyone still reads."""
        try:
            return self.stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush, if anyone still reads."""
        try:
            self.stream.flush()
        except OSError:
            return


class Plain(io.TextIOBase):
    """A stream in front of another: control characters are written out, and so is what its encoding lacks."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `visible` text."""
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(visible(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether people read it."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The descriptor behind."""
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding behind."""
        return self.stream.encoding


class _Console(Console):
    """One that writes `visible` text."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; see rich."""
        super().print(*(visible(one) if isinstance(one, str) else one for one in objects), **how)


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """Where progress and results go: brackets in a path are no markup, colons no pictures."""
    stream = sys.stderr if stderr else sys.stdout
    behind = stream.stream if isinstance(stream, Plain) else stream
    return _Console(file=cast(TextIO, Lasting(behind)), quiet=quiet, markup=False, emoji=False, highlight=False)


@contextmanager
def plain() -> Iterator[None]:
    """Inside it, `print` writes `visible` text."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, Plain(sys.stdout)), cast(TextIO, Plain(sys.stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
