"""Problems from the hub or from files, as rows.

Published sources: openai/gsm8k; ankner/math-500 (train) and HuggingFaceH4/MATH-500 (test);
Jiayi-Pan/Countdown-Tasks-3to4 (train). The Countdown test problems and the Sudoku puzzles are published as files only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.policies.hub import refuse_mistyped
from dipod.tasks.protocol import Split
from dipod.tasks.sudoku import solution_grids
from dipod.tasks.text.arithmetic import read_number
from dipod.tasks.text.generators import grid_texts
from dipod.tasks.text.mathematics import last_boxed
from dipod.tasks.text.prompts import countdown_question, sudoku_question
from dipod.tasks.text.records import Record, csv_records, json_records, parquet_records, whole_json_records
from dipod.tasks.text.references import Board, read_reference
from dipod.tasks.text.rows import DataNote, Row, require_task, short

PUBLISHED: Mapping[tuple[str, str], str] = {
    ("gsm8k", "train"): "openai/gsm8k",
    ("gsm8k", "test"): "openai/gsm8k",
    ("math", "train"): "ankner/math-500",
    ("math", "test"): "HuggingFaceH4/MATH-500",
    ("countdown", "train"): "Jiayi-Pan/Countdown-Tasks-3to4",
}
CONFIGURATIONS: Mapping[str, str] = {"openai/gsm8k": "main"}
FILES: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": json_records,
    ".json": whole_json_records,
    ".csv": csv_records,
    ".parquet": parquet_records,
}
"""Readers of files by their ending."""
SHUFFLE_SEED = 42
"""Of the order in which the published runs set training problems aside."""


def load_rows(task: str, split: Split, source: str = "", *, numbers: int = 3, held_back: int = 500) -> list[Row]:
    """The problems of a split with the columns that rewards read (see `rows.Row`).

    Args:
        task: gsm8k, math, countdown or sudoku.
        split: "train" or "test".
        source: a .jsonl, .json, .csv or .parquet file, or a dataset on the hub; empty takes the published one.
            Columns: ``question`` and ``answer`` ending in "#### number" (gsm8k); ``problem`` and ``answer``, or
            ``solution`` with a box (math); ``input`` "a,b,c" and ``output``, or ``nums`` and ``target`` (countdown);
            ``Puzzle`` and ``Solution`` of 16 digits, 0 for an empty cell (sudoku).
        numbers: train on Countdown problems with this many numbers only; 0 takes all.
        held_back: training problems of Countdown and Sudoku that are set aside and not returned: the last ones after
            shuffling with seed 42, the order of `datasets.Dataset.shuffle`. The other rows come in that order.

    Raises:
        UserError: a source that cannot be read or is empty, a column that is missing, a malformed value (named by
            file, line and column), or no problem that is left.
    """
    require_task(task)
    require(split in {"train", "test"}, "split", split, "choose train or test")
    name = source or PUBLISHED.get((task, split), "")
    mend = f"there is no published dataset for the {split} split of {task} on the hub; name a file"
    require(bool(name), "source", source, mend)
    read = _READERS[task]
    rows = [read(where, record) for where, record in _records(name, split)]
    require(len(rows) > 0, "source", name, "it holds no problem")
    if split == "test" or task not in {"countdown", "sudoku"}:
        return rows
    if task == "countdown" and numbers:
        rows = _of_so_many(numbers, rows, name)
    return _set_aside(rows, held_back, name)


def read_rows(
    source: str, columns: Sequence[str], split: Split = "train", check: Callable[[str, Row], None] | None = None
) -> list[Row]:
    """The rows of a file or a dataset on the hub as they are, for tasks of one's own.

    A conversation in the column ``messages`` or ``prompt`` (as TRL has it) becomes ``messages``, and a text in
    ``prompt`` the ``question``. Where a conversation ends with the assistant's turn, that is left out and is the
    ``answer`` unless there is one.

    Args:
        source: the file or the dataset.
        columns: those that every row has to have; ``question`` may be a conversation.
        split: of a dataset on the hub.
        check: called with the place of every row (file and line) and the row.

    Raises:
        UserError: a source that cannot be read or is empty, a column that is missing or null, or what ``check`` raises.
    """
    rows = []
    for where, record in _records(source, split):
        row = _asked(where, record)
        for column in columns:
            if column != "question" or "messages" not in row:
                _value(where, row, column)
        if check is not None:
            check(where, row)
        rows.append(row)
    require(len(rows) > 0, "source", source, "it holds no row")
    return rows


def _asked(where: str, record: Mapping[str, Any]) -> Row:
    """A record with its prompt as ``question`` or ``messages``."""
    row = dict(record)
    prompt = row.pop("prompt", None)
    turns = row.pop("messages", None)
    if turns is None and not isinstance(prompt, str):
        turns = prompt
    if turns is None:
        return row if prompt is None else {"question": prompt, **row}
    good = isinstance(turns, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )
    mend = 'give a conversation: a list of {"role": "user", "content": text}'
    require(good, f"{where}, messages", short(turns), mend)
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if turns and turns[-1]["role"] == "assistant":
        row = {"answer": turns[-1]["content"], **{k: v for k, v in row.items() if k != "answer" or v is not None}}
        turns = turns[:-1]
    require(
        bool(turns) and turns[-1]["role"] == "user", f"{where}, messages", short(turns), "end it with a user's turn"
    )
    return {**row, "messages": turns}


def _records(source: str, split: Split) -> Iterator[Record]:
    path = Path(source)
    if path.suffix in FILES:
        return FILES[path.suffix](path)
    mend = f"give a {', '.join(FILES)} file, or a dataset on the hub as owner/name"
    require(not path.exists() and source.count("/") == 1, "source", source, mend)
    return _hub_records(source, split)


def _hub_records(name: str, split: Split) -> Iterator[Record]:
    refuse_mistyped("source", name, "for the hub's dataset of that name start in another folder")
    datasets = load_extra("datasets")
    try:
        rows = datasets.load_dataset(name, CONFIGURATIONS.get(name), split=split)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError("source", name, f"not a dataset that can be loaded ({short(reason, 200)})") from error
    for number, row in enumerate(rows):
        yield f"{name} {split} row {number}", dict(row)


def _of_so_many(numbers: int, rows: list[Row], name: str) -> list[Row]:
    """The Countdown problems over so many numbers; what is left out is said."""
    kept = [row for row in rows if len(row["numbers"]) == numbers]
    sizes = ", ".join(map(str, sorted({len(row["numbers"]) for row in rows})))
    mend = f"no problem in {name} has so many numbers; give another number (they have {sizes}), or 0 for all"
    require(len(kept) > 0, "task.numbers", numbers, mend)
    if len(kept) < len(rows):
        left = f"{len(rows) - len(kept)} of {len(rows)} problems of {name} are left out"
        said = f"{left}: they do not have task.numbers ({numbers}) numbers; 0 takes all"
        warnings.warn(said, DataNote, stacklevel=3)
    return kept


def _set_aside(rows: list[Row], held_back: int, name: str) -> list[Row]:
    mend = f"{name} has {len(rows)} problems; set fewer aside"
    require(0 <= held_back < len(rows), "task.held_back", held_back, mend)
    if not held_back:
        return rows
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(rows))
    return [rows[at] for at in order[: len(rows) - held_back]]


def _value(where: str, record: Mapping[str, Any], *columns: str) -> tuple[str, Any]:
    """The first of ``columns`` that a record has, with the name of its place."""
    for column in columns:
        if record.get(column) is not None:
            return f"{where}, {column}", record[column]
    empty = next((column for column in columns if column in record), None)
    if empty is not None:
        raise UserError(f"{where}, {empty}", None, "give a value")
    raise UserError(where, short(sorted(record)), f"add the column {' or '.join(columns)}")


def _text(where: str, record: Mapping[str, Any], *columns: str) -> tuple[str, str]:
    place, value = _value(where, record, *columns)
    if not isinstance(value, str) or not value.strip():
        raise UserError(place, short(value), "give text")
    return place, value


def _gsm8k_row(where: str, record: Mapping[str, Any]) -> Row:
    place, solution = _text(where, record, "answer")
    answer = solution.partition("####")[2].strip()
    require(read_number(answer) is not None, place, short(solution[-60:]), "end it with #### and a number")
    return {"question": _text(where, record, "question")[1], "answer": answer}


def _math_row(where: str, record: Mapping[str, Any]) -> Row:
    place, text = _text(where, record, "answer", "solution")
    answer = last_boxed(text) or (None if place.endswith("solution") else text)
    if answer is None:
        raise UserError(place, short(text), "give a solution with its answer in \\boxed{}, or a column answer")
    return {"question": _text(where, record, "problem", "question")[1], "answer": answer}


def _countdown_row(where: str, record: Mapping[str, Any]) -> Row:
    place, numbers = _value(where, record, "nums", "numbers", "input")
    if isinstance(numbers, str):
        numbers = numbers.split(",")
    require(isinstance(numbers, Sequence) and len(numbers) > 0, place, short(numbers), 'give numbers such as "3,5,7"')
    whole = [_whole(place, number) for number in numbers]
    target = _whole(*_value(where, record, "target", "output"))
    return {"question": countdown_question(whole, target), "numbers": whole, "target": target}


def _whole(place: str, value: Any) -> int:
    number = read_number(str(value))
    if number is None or number.denominator != 1:
        raise UserError(place, short(value), "give whole numbers")
    return int(number)


def _sudoku_row(where: str, record: Mapping[str, Any]) -> Row:
    lowered = {str(column).lower(): value for column, value in record.items()}
    cells = {column: _value(where, lowered, column)[1] for column in ("puzzle", "solution")}
    board = read_reference("sudoku", cells, where)
    assert isinstance(board, Board)
    solved = board.solution in _solved_grids()
    require(solved, f"{where}, solution", board.solution, "give a grid with 1 to 4 once in every row, column and box")
    return {"question": sudoku_question(board.puzzle), "puzzle": board.puzzle, "solution": board.solution}


@lru_cache(maxsize=1)
def _solved_grids() -> frozenset[str]:
    return frozenset(grid_texts(solution_grids()))


_READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Row]] = {
    "gsm8k": _gsm8k_row,
    "math": _math_row,
    "countdown": _countdown_row,
    "sudoku": _sudoku_row,
}
