"""Generations graded one by one, and files of them: what `dipod score` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from dipod.errors import UserError, require
from dipod.tasks.text.parsers import find_parser
from dipod.tasks.text.records import json_records
from dipod.tasks.text.references import Board, read_reference
from dipod.tasks.text.rows import short
from dipod.tasks.text.symbolic import require_symbolic
from dipod.tasks.text.verify import verified_answer


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


@dataclass(frozen=True)
class Verdict:
    """One line of a file.

    Attributes:
        line: its number, from 1.
        grade: what it scores.
        answer: what the parser read, as text; None where there is no answer.
        reference: as it stands in the file.
    """

    line: int
    grade: Grade
    answer: str | None
    reference: Any

    def as_json(self) -> dict[str, Any]:
        """A flat object for a file."""
        of = {"correct": self.grade.correct, "total": self.grade.total}
        return {
            "line": self.line,
            "solved": self.grade.solved,
            **of,
            "answer": self.answer,
            "reference": self.reference,
        }


def grade(task: str, parser: str, generation: str | None, reference: Any, where: str = "reference") -> Grade:
    """Grade one generation.

    Args:
        task: gsm8k, math, countdown or sudoku.
        parser: verify, strict, d1 or spg.
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
    correct = sum(answer[at : at + 1] == wanted.solution[at] for at in cells) if answer else 0
    return Grade(correct, len(cells), solved)


def grade_file(
    path: Path, task: str, parser: str, judge: Callable[[str, Any, str], Grade] | None = None
) -> list[Verdict]:
    """Grade a JSONL file with ``generation`` and ``reference`` on every line; blank lines are skipped.

    Args:
        path: the file. A generation is text, null, or a number, which is an answer by itself.
        task: gsm8k, math, countdown, sudoku, or custom with a judge.
        parser: verify, strict, d1 or spg.
        judge: ``judge(text, reference, where)`` in place of the task's own.

    Raises:
        UserError: a file that cannot be read or is empty; a line that is not a JSON object, has no ``generation`` or
            ``reference`` or one of a wrong type, with the name of the file and the line; math-verify is missing.
    """
    read: Callable[[str], Any] = verified_answer
    if judge is None:
        read = find_parser(task, parser).read
        if (task, parser) == ("math", "verify"):
            require_symbolic()
    verdicts = []
    for where, row in json_records(path):
        require("generation" in row, where, short(row), 'give an object with "generation" and "reference"')
        text = _text(row["generation"], task, f"{where}, generation")
        require("reference" in row, where, short(row), 'give a "reference", or null where there is none')
        reference = row["reference"]
        if judge is None or text is None or reference is None:
            known = "gsm8k" if judge is not None else task  # one answer, and it is wrong
            found = grade(known, parser, text, reference if judge is None else None, f"{where}, reference")
        else:
            found = judge(text, reference, f"{where}, reference")
        answer = None if text is None else read(text)
        shown = None if answer is None or answer == "" else str(answer)
        verdicts.append(Verdict(int(where.rpartition(" ")[2]), found, shown, reference))
    require(len(verdicts) > 0, "file", str(path), "it holds no generation")
    return verdicts


def summary(verdicts: Sequence[Verdict], task: str, parser: str) -> dict[str, Any]:
    """The score of a file.

    Returns:
        ``task``, ``parser``, ``accuracy`` (``correct`` / ``total``, 0..1), ``correct``, ``total``; on Sudoku these
        count empty cells over all puzzles, as published, and ``boards`` is the number of boards entirely right.
    """
    grades = [verdict.grade for verdict in verdicts]
    correct, total = sum(g.correct for g in grades), sum(g.total for g in grades)
    result = {"task": task, "parser": parser, "accuracy": correct / total, "correct": correct, "total": total}
    return {**result, "boards": sum(g.solved for g in grades)} if task == "sudoku" else result


def score_file(path: Path, task: str, parser: str) -> dict[str, Any]:
    """`summary` of `grade_file`."""
    return summary(grade_file(path, task, parser), task, parser)


def _text(generation: Any, task: str, where: str) -> str | None:
    """A generation as text; a number is put into a box (on Sudoku, which has none, into tags)."""
    if generation is None or isinstance(generation, str):
        return generation
    if isinstance(generation, (int, float)) and not isinstance(generation, bool):
        number = Decimal(str(generation))
        if number.is_finite():
            return f"<answer>{number:f}</answer>" if task == "sudoku" else f"<answer>\\boxed{{{number:f}}}</answer>"
    raise UserError(where, short(generation), "give text or a number, or null where there is none")
