"""Generations graded one by one, and files of them: what `dipod score` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipod.errors import require
from dipod.tasks.text.parsers import find_parser
from dipod.tasks.text.records import json_records
from dipod.tasks.text.references import Board, read_reference
from dipod.tasks.text.rows import short


@dataclass(frozen=True)
class Grade:
    """What one generation scores.

    Attributes:
        correct: right answers, 0 or 1; on Sudoku the empty cells that hold the right digit.
        total: 1; on Sudoku the empty cells of the puzzle.
        solved: whether the answer is right as a whole; on Sudoku the whole board, clues included.
    """

    correct: int
    total: int
    solved: bool


def grade(task: str, parser: str, generation: str | None, reference: Any, where: str = "reference") -> Grade:
    """Grade one generation.

    Args:
        task: gsm8k, math, countdown or sudoku.
        parser: d1, spg or strict.
        generation: the text; None is wrong.
        reference: as in `read_reference`; None is wrong. On Sudoku that is 16 wrong cells, as nothing says which are
            empty.
        where: how a complaint names the reference.

    Raises:
        UserError: an unknown task or parser, or a reference of another form.
    """
    how = find_parser(task, parser)
    if reference is None:
        return Grade(0, 16 if task == "sudoku" else 1, False)
    wanted = read_reference(task, reference, where)
    answer = None if generation is None else how.read(generation)
    solved = answer is not None and how.accepts(answer, wanted)
    if not isinstance(wanted, Board):
        return Grade(int(solved), 1, solved)
    cells = wanted.empty
    correct = sum(answer[at] == wanted.solution[at] for at in cells) if answer else 0
    return Grade(correct, len(cells), solved)


def score_file(path: Path, task: str, parser: str) -> dict[str, Any]:
    """Grade a JSONL file with ``generation`` and ``reference`` on every line; blank lines are skipped.

    Returns:
        ``task``, ``parser``, ``accuracy`` (``correct`` / ``total``, 0..1), ``correct``, ``total``; on Sudoku these
        count empty cells over all puzzles, as published, and ``boards`` is the number of boards entirely right.

    Raises:
        UserError: a file that cannot be read or is empty; a line that is not a JSON object, has no ``generation`` or
            ``reference`` or one of a wrong type; the message names the file and the line.
    """
    find_parser(task, parser)
    grades = []
    for where, row in json_records(path):
        require("generation" in row, where, short(row), 'give an object with "generation" and "reference"')
        generation = row["generation"]
        text = generation is None or isinstance(generation, str)
        require(text, f"{where}, generation", short(generation), "give text, or null where there is none")
        require("reference" in row, where, short(row), 'give a "reference", or null where there is none')
        grades.append(grade(task, parser, generation, row["reference"], f"{where}, reference"))
    require(len(grades) > 0, "file", str(path), "it holds no generation")
    correct, total = sum(g.correct for g in grades), sum(g.total for g in grades)
    result = {"task": task, "parser": parser, "accuracy": correct / total, "correct": correct, "total": total}
    return {**result, "boards": sum(g.solved for g in grades)} if task == "sudoku" else result
