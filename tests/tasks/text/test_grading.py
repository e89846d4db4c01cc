"""Grades of single generations and of files, with their complaints."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dipod.errors import UserError
from dipod.tasks.text.grading import Grade, grade, score_file
from dipod.tasks.text.parsers import PARSER_NAMES
from dipod.tasks.text.references import Board, Countdown, read_reference
from dipod.tasks.text.rows import TASKS
from dipod.tasks.text.sources import load_rows
from tests.tasks.text.data import shared

PUZZLE, SOLUTION, OTHER = "1200340201400001", "1234341221434321", "2143432112343412"
BOARD = {"puzzle": PUZZLE, "solution": SOLUTION}
RIGHT: dict[str, tuple[str, Any]] = {
    "gsm8k": ("<answer>\\boxed{18}</answer>", 18),
    "math": ("<answer>\\boxed{\\frac12}</answer>", "0.5"),
    "countdown": ("<answer>\\boxed{3+5}</answer>", {"numbers": [3, 5], "target": 8}),
    "sudoku": (f"<answer>{SOLUTION}</answer>", BOARD),
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("parser", PARSER_NAMES)
@pytest.mark.parametrize("task", TASKS)
def test_right_wrong_and_null(task: str, parser: str) -> None:
    text, reference = RIGHT[task]
    total = 8 if task == "sudoku" else 1
    assert grade(task, parser, text, reference) == Grade(total, total, True)
    assert grade(task, parser, "no idea", reference) == Grade(0, total, False)
    assert grade(task, parser, "", reference) == Grade(0, total, False)
    assert grade(task, parser, None, reference) == Grade(0, total, False)
    assert grade(task, parser, text, None) == Grade(0, 16 if task == "sudoku" else 1, False)


def test_sudoku_counts_empty_cells_and_solves_boards_with_their_clues() -> None:
    one_cell_wrong = SOLUTION[:2] + "4" + SOLUTION[3:]
    clue_wrong = "4" + SOLUTION[1:]
    for parser in PARSER_NAMES:
        assert grade("sudoku", parser, f"<answer>{one_cell_wrong}</answer>", BOARD) == Grade(7, 8, False)
        assert grade("sudoku", parser, f"<answer>{clue_wrong}</answer>", BOARD) == Grade(8, 8, False)
    assert grade("sudoku", "d1", "<answer>1234</answer>", BOARD) == Grade(2, 8, False)
    assert grade("sudoku", "strict", "<answer>1234</answer>", BOARD) == Grade(0, 8, False)


@pytest.mark.parametrize(
    ("task", "value", "reference"),
    [
        ("gsm8k", 18, Fraction(18)),
        ("gsm8k", 0.1, Fraction(1, 10)),
        ("gsm8k", "1,250", Fraction(1250)),
        ("gsm8k", "-3", Fraction(-3)),
        ("gsm8k", "9 * 2 = <<9*2=18>>18\n#### 1,018", Fraction(1018)),
        ("gsm8k", "so $\\boxed{18}$.", Fraction(18)),
        ("math", "", ""),
        ("math", 5, "5"),
        ("math", 0.5, "0.5"),
        ("math", "so it is $\\boxed{\\frac12}$.", "\\frac12"),
        ("countdown", {"numbers": [3, 5], "target": 1.6, "more": 0}, Countdown((3, 5), Fraction(8, 5))),
        ("sudoku", BOARD, Board(PUZZLE, SOLUTION)),
    ],
)
def test_references(task: str, value: Any, reference: Any) -> None:
    assert read_reference(task, value) == reference


@pytest.mark.parametrize(
    ("task", "value", "complaint"),
    [
        ("gsm8k", "many", "reference = 'many': give a number"),
        ("gsm8k", True, "give a number"),
        ("gsm8k", [18], "give a number"),
        ("gsm8k", float("nan"), "give a number"),
        ("gsm8k", float("inf"), "give a number"),
        ("gsm8k", 10**400, "give a number"),
        ("math", True, "reference = True: give the answer as text or a number"),
        ("math", ["5"], "give the answer as text or a number"),
        ("math", float("nan"), "give the answer as text or a number"),
        ("countdown", [[3, 5], 8], 'give {"numbers"'),
        ("countdown", {"numbers": [3, 5]}, 'give {"numbers"'),
        ("countdown", {"numbers": [], "target": 8}, "reference, numbers = []"),
        ("countdown", {"numbers": [3, "5"], "target": 8}, "reference, numbers"),
        ("countdown", {"numbers": [3, True], "target": 8}, "reference, numbers"),
        ("countdown", {"numbers": "35", "target": 8}, "reference, numbers"),
        ("countdown", {"numbers": [3, 5], "target": None}, "reference, target = None"),
        ("sudoku", SOLUTION, 'give {"puzzle"'),
        ("sudoku", {"puzzle": PUZZLE}, 'give {"puzzle"'),
        ("sudoku", {"puzzle": PUZZLE[1:], "solution": SOLUTION}, "reference, puzzle"),
        ("sudoku", {"puzzle": int("1" + PUZZLE[1:]), "solution": SOLUTION}, "reference, puzzle"),
        ("sudoku", {"puzzle": PUZZLE, "solution": PUZZLE}, "reference, solution"),
        ("sudoku", {"puzzle": PUZZLE, "solution": OTHER}, "give a solution of the puzzle"),
        ("sudoku", {"puzzle": SOLUTION, "solution": SOLUTION}, "give a puzzle with an empty cell"),
        ("chess", 5, "task = 'chess'"),
    ],
)
def test_references_of_another_form_are_refused(task: str, value: Any, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        read_reference(task, value)
    assert complaint in str(error.value)
    assert len(str(error.value)) < 250


def test_a_file_is_scored(tmp_path: Path) -> None:
    right, wrong = {"generation": RIGHT["gsm8k"][0], "reference": 18}, {"generation": "9", "reference": "1,250"}
    path = write(tmp_path / "g.jsonl", right, wrong, "\n", {"generation": None, "reference": 3}, {**right, "id": 7})
    expected = {"task": "gsm8k", "parser": "d1", "accuracy": 0.5, "correct": 2, "total": 4}
    assert score_file(path, "gsm8k", "d1") == expected
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(right).encode() + b"\r\n" + json.dumps(right).encode())
    assert score_file(path, "gsm8k", "strict")["correct"] == 2, "byte order mark, CRLF, no last line break"


def test_a_sudoku_file_counts_cells_and_boards(tmp_path: Path) -> None:
    half = f"<answer>{SOLUTION[:8]}</answer>"
    rows = [{"generation": text, "reference": BOARD} for text in (RIGHT["sudoku"][0], half)]
    result = score_file(write(tmp_path / "s.jsonl", *rows), "sudoku", "d1")
    assert result == {
        "task": "sudoku",
        "parser": "d1",
        "accuracy": 11 / 16,
        "correct": 11,
        "total": 16,
        "boards": 1,
    }


GOOD = json.dumps({"generation": "x", "reference": 1}) + "\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not json", "line 2 = 'not json': give one JSON object a line"),
        ("[1]", "line 2 = [1]: give one JSON object a line"),
        ("[" * 100_000, "line 2"),
        ('{"reference": 1}', "line 2 = {'reference': 1}: give an object with \"generation\""),
        ('{"generation": "x"}', "line 2 = {'generation': 'x'}: give a \"reference\""),
        ('{"generation": true, "reference": 1}', "line 2, generation = True: give text or a number"),
        ('{"generation": NaN, "reference": 1}', "line 2, generation = nan: give text or a number"),
        ('{"generation": ["x"], "reference": 1}', "line 2, generation = ['x']: give text"),
        ('{"generation": "x", "reference": "y"}', "line 2, reference = 'y': give a number"),
        ('{"generation": "x", "reference": {"n": 1}}', "line 2, reference"),
        ('{"generation": "x", "reference": NaN}', "line 2, reference = nan"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "g.jsonl"
    path.write_text(GOOD + line + "\n" + GOOD)
    with pytest.raises(UserError) as error:
        score_file(path, "gsm8k", "strict")
    assert f"{path} {complaint}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "bytes.jsonl").write_bytes(b'{"generation": "\xff", "reference": 1}')
    with pytest.raises(UserError, match=r"empty\.jsonl': it holds no generation"):
        score_file(tmp_path / "empty.jsonl", "gsm8k", "d1")
    with pytest.raises(UserError, match=r"bytes\.jsonl line 1 = .*UTF-8"):
        score_file(tmp_path / "bytes.jsonl", "gsm8k", "d1")
    with pytest.raises(UserError, match=r"none\.jsonl': it cannot be read"):
        score_file(tmp_path / "none.jsonl", "gsm8k", "d1")
    with pytest.raises(UserError, match="cannot be read"):
        score_file(tmp_path, "gsm8k", "d1")
    with pytest.raises(UserError, match="parser = 'd3'"):
        score_file(tmp_path / "none.jsonl", "gsm8k", "d3")


def test_all_gold_answers_are_right_in_tags(tmp_path: Path) -> None:
    rows = load_rows("gsm8k", "test", str(shared("gsm8k_test.jsonl")))
    written = [{"generation": f"<answer>{row['answer']}</answer>", "reference": row["answer"]} for row in rows]
    path = write(tmp_path / "gold.jsonl", *written)
    assert score_file(path, "gsm8k", "strict")["correct"] == len(rows) == 1319
    commas = sum("," in row["answer"] for row in rows)
    assert commas == 14
    assert score_file(path, "gsm8k", "d1")["correct"] == 1319 - commas


def test_all_math500_answers_are_right_in_a_box(tmp_path: Path) -> None:
    rows = load_rows("math", "test", str(shared("math500_test.jsonl")))
    texts = [f"<answer>\n\\boxed{{{row['answer']}}}\n</answer><|eot_id|>" for row in rows]
    written = [{"generation": text, "reference": row["answer"]} for text, row in zip(texts, rows, strict=True)]
    path = write(tmp_path / "gold.jsonl", *written)
    assert [score_file(path, "math", parser)["correct"] for parser in PARSER_NAMES] == [500] * 4
