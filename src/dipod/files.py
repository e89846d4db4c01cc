"""Files that are either whole or not there: written aside, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dipod.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` atomically."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(aside, 0o644)
    os.replace(aside, path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path aside, of the same ending, that takes the place of ``path`` if nothing is raised inside."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(descriptor)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` by the JSON of ``value`` atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def make_folder(path: Path, field: str = "out") -> Path:
    """Make ``path`` and its parents and prove that it can be written to.

    Raises:
        UserError: it is a file, or may not be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(field, str(path), f"choose a folder that can be written ({reason})") from error
    return path
