"""Records of JSONL and CSV files, each with the name of its line for complaints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dipod.errors import UserError, require
from dipod.tasks.text.rows import short

Record = tuple[str, dict[str, Any]]


def json_records(path: Path) -> Iterator[Record]:
    """The objects of a JSONL file; blank lines are skipped.

    Raises:
        UserError: a file that cannot be read, or a line that is not a JSON object in UTF-8.
    """
    for number, line in enumerate(_read(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            shown = short(line.decode("utf-8", "replace"))
            raise UserError(where, shown, "give one JSON object a line, in UTF-8") from error
        require(isinstance(row, dict), where, short(row), "give one JSON object a line")
        yield where, row


def csv_records(path: Path) -> Iterator[Record]:
    """The rows of a CSV file with a header.

    Raises:
        UserError: a file that cannot be read, or a row with fewer or more columns than the header.
    """
    try:
        reader = csv.DictReader(io.StringIO(_read(path).decode("utf-8-sig"), newline=""))
        for row in reader:
            where = f"{path} line {reader.line_num}"
            full = None not in row and None not in row.values()
            require(full, where, short(list(row.values())), f"give the columns {', '.join(reader.fieldnames or [])}")
            yield where, dict(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError("file", str(path), f"not a CSV file in UTF-8 ({error})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError("file", str(path), f"it cannot be read ({error.strerror or error})") from error
