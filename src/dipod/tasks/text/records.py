"""Records of JSONL, JSON, CSV and parquet files, each with the name of its place for complaints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dipod.errors import UserError, require
from dipod.extras import load_extra
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


def whole_json_records(path: Path) -> Iterator[Record]:
    """The objects of a JSON file: a list of them, or an object that holds one list; one object a line is taken as well.

    Raises:
        UserError: a file that cannot be read, or holds something else.
    """
    content = _read(path)
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        first = content.lstrip().partition(b"\n")[0]
        if not first.startswith(b"{") or not first.rstrip().endswith(b"}"):
            raise UserError("file", str(path), f"not a JSON file in UTF-8 ({error})") from error
        yield from json_records(path)
        return
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else [value]
    require(isinstance(value, list), "file", str(path), "give a list of JSON objects")
    for number, row in enumerate(value, start=1):
        where = f"{path} entry {number}"
        require(isinstance(row, dict), where, short(row), "give a list of JSON objects")
        yield where, row


def parquet_records(path: Path) -> Iterator[Record]:
    """The rows of a parquet file, from 1.

    Raises:
        UserError: a file that cannot be read.
    """
    pyarrow, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError("file", str(path), f"not a parquet file that can be read ({short(reason, 120)})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", row


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError("file", str(path), f"it cannot be read ({error.strerror or error})") from error
