"""``dipod score`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dipod.cli import main

PUZZLE, SOLUTION = "1200340201400001", "1234341221434321"


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    """Three answers: right for all parsers, for spg alone, and for strict alone."""
    rows = [
        {"generation": "<answer>\\boxed{18}</answer><|eot_id|>", "reference": 18},
        {"generation": "<answer>18", "reference": "18"},
        {"generation": "<answer>1,250</answer>", "reference": "1,250"},
    ]
    path = tmp_path / "numbers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize(("parser", "correct"), [("d1", 1), ("spg", 2), ("strict", 2)])
def test_json_is_one_object(numbers: str, parser: str, correct: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--task", "gsm8k", "--parser", parser, numbers, "--json"]) == 0
    result = {"task": "gsm8k", "parser": parser, "accuracy": correct / 3, "correct": correct, "total": 3}
    assert json.loads(capsys.readouterr().out) == result


def test_text_for_people_and_strict_by_default(numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--task", "gsm8k", numbers]) == 0
    assert capsys.readouterr().out == "gsm8k, parser strict: 66.67% (2 of 3 answers)\n"


def test_sudoku_speaks_of_cells_and_boards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"generation": f"<answer>{SOLUTION}</answer>", "reference": {"puzzle": PUZZLE, "solution": SOLUTION}}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    assert main(["score", "--task", "sudoku", "--parser", "d1", str(tmp_path / "s.jsonl")]) == 0
    line = "sudoku, parser d1: 100.00% (8 of 8 empty cells); boards entirely right: 1\n"
    assert capsys.readouterr().out == line
    assert main(["score", "--task", "sudoku", str(tmp_path / "s.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["boards"] == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--task", "gsm8k", "none.jsonl"], "file = 'none.jsonl': it cannot be read"),
        (["--task", "gsm8k", "bad.jsonl"], "bad.jsonl line 1 = 'not json': give one JSON object a line"),
        (["--task", "gsm8k", "empty.jsonl"], "file = 'empty.jsonl': it holds no generation"),
        (["--task", "chess", "bad.jsonl"], "invalid choice: 'chess'"),
        (["--task", "math", "--parser", "d2", "bad.jsonl"], "invalid choice: 'd2'"),
        (["bad.jsonl"], "required: --task"),
        (["--task", "math"], "required: FILE"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text("not json\n")
    (tmp_path / "empty.jsonl").write_text("")
    assert main(["score", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert complaint in captured.err


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: dipod score")
    assert max(map(len, text.splitlines())) <= 120
