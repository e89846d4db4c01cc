"""The JSONL files of a run: a line a step, of which a crash may have cut off the last."""

from __future__ import annotations

import json
from errno import EISDIR
from pathlib import Path
from typing import Any

from dipod.errors import UserError


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file up to a line cut off by a crash; none where there is no file.

    Raises:
        UserError: it cannot be read, or a line that is not the last holds no object with a whole number ``step``.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(EISDIR, "not a file")  # a pipe would be waited for
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(path.name, str(path), f"it cannot be read ({reason}); move it away to go on without") from error
    lines = content.rstrip(b"\0").split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line))
        except ValueError as error:
            if number == len(lines):  # without a newline at its end
                break
            mend = f"line {number} is damaged ({error}); delete it, or move the file away to go on without"
            raise UserError(path.name, f"{path}:{number}", mend) from error
    return rows


def _row(line: bytes) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ValueError: it is none, or has no step.
    """
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(row, dict):
        raise ValueError("not an object")
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError("no step")
    return row
