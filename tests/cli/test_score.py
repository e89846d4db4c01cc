"""``dipod score`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(("parser", "correct"), [("d1", 1), ("spg", 2), ("strict", 2), ("verify", 2)])
def test_json_is_one_object(numbers: str, parser: str, correct: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--task", "gsm8k", "--parser", parser, numbers, "--json"]) == 0
    result = {"task": "gsm8k", "parser": parser, "accuracy": correct / 3, "correct": correct, "total": 3}
    assert json.loads(capsys.readouterr().out) == result


def test_text_for_people_and_verify_by_default(numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--task", "gsm8k", numbers]) == 0
    assert capsys.readouterr().out == "gsm8k, parser verify: 66.67% (2 of 3 answers)\n"


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
        (
            ["--task", "chess", "bad.jsonl"],
            "task = 'chess': choose one of gsm8k, math, countdown, sudoku, or give a YAML",
        ),
        (["--task", "none.yaml", "bad.jsonl"], "'none.yaml'"),
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


def rows(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_verdicts_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(
        tmp_path / "g.jsonl",
        {"generation": "<answer>$18.00</answer>", "reference": "#### 18"},
        {"generation": 18, "reference": 18},
        {"generation": "<answer>18 or 19</answer>", "reference": 18},
        {"generation": None, "reference": 18},
    )
    expected = [
        {"line": 1, "solved": True, "correct": 1, "total": 1, "answer": "$18.00", "reference": "#### 18"},
        {"line": 2, "solved": True, "correct": 1, "total": 1, "answer": "18", "reference": 18},
        {"line": 3, "solved": False, "correct": 0, "total": 1, "answer": "18 or 19", "reference": 18},
        {"line": 4, "solved": False, "correct": 0, "total": 1, "answer": None, "reference": 18},
    ]
    out = tmp_path / "folder" / "verdicts.jsonl"
    assert main(["score", "--task", "gsm8k", "--verdicts", str(out), path]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == expected
    assert capsys.readouterr().out == "gsm8k, parser verify: 50.00% (2 of 4 answers)\n"
    assert main(["score", "--task", "gsm8k", "--verdicts", "-", "--json", path]) == 0
    *lines, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert lines == expected
    assert last["correct"] == 2
    for parser in ("strict", "d1", "spg"):
        assert main(["score", "--task", "gsm8k", "--parser", parser, "--json", path]) == 0
        assert json.loads(capsys.readouterr().out)["correct"] >= 1, "a number is an answer for every parser"


def test_a_solution_with_a_box_is_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(
        tmp_path / "m.jsonl", {"generation": "<answer>\\boxed{5}</answer>", "reference": "so it is $\\boxed{5}$."}
    )
    for parser in ("verify", "strict", "d1", "spg"):
        assert main(["score", "--task", "math", "--parser", parser, path]) == 0
        assert "(1 of 1 answers)" in capsys.readouterr().out


def test_a_custom_task_is_scored_by_its_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = {"name": "custom", "train_source": "a.jsonl", "test_source": "a.jsonl", "rewards": "verify"}
    (tmp_path / "my.yaml").write_text(json.dumps({"inherits": "llada", "task": task}))
    path = rows(
        tmp_path / "g.jsonl",
        {"generation": "<answer>42.0</answer>", "reference": "42"},
        {"generation": "<answer>blue</answer>", "reference": "Blue"},
        {"generation": "<answer>green</answer>", "reference": "Blue"},
        {"generation": None, "reference": "Blue"},
    )
    command = ["score", "--task", str(tmp_path / "my.yaml"), path]
    assert main(command) == 0
    assert capsys.readouterr().out == "custom, parser verify: 50.00% (2 of 4 answers)\n"
    assert main([*command, "--parser", "strict"]) == 0
    assert capsys.readouterr().out == "custom, parser strict: 0.00% (0 of 4 answers)\n"
    assert main([*command, "--parser", "d1"]) == 2
    assert "task.parser = 'd1': choose verify or strict" in capsys.readouterr().err
    bad = rows(tmp_path / "bad.jsonl", {"generation": "x", "reference": "y"}, {"generation": "x", "reference": [1]})
    assert main(["score", "--task", str(tmp_path / "my.yaml"), bad]) == 2
    assert f"{bad} line 2, reference = [1]: give the answer as text or a number" in capsys.readouterr().err
