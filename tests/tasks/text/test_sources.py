"""Problems from files and from the hub: columns, filters, complaints."""

from __future__ import annotations

import csv
import json
import sys
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.tasks.text.prompts import DEMONSTRATIONS
from dipod.tasks.text.rows import DataNote
from dipod.tasks.text.sources import load_rows, read_rows
from tests.tasks.text.data import shared

PUZZLE, SOLUTION, OTHER = "1200340201400001", "1234341221434321", "2143432112343412"
RECORDS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "3+4=<<3+4=7>>7\n#### 1,007"},
    "math": {"problem": "Halve it.", "answer": "\\frac{1}{2}"},
    "countdown": {"input": "3,5,7", "output": "8"},
    "sudoku": {"Puzzle": PUZZLE, "Solution": SOLUTION},
}


def write(path: Path, *records: Any) -> str:
    """A .jsonl or .csv file of records; texts are written as lines."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    if path.suffix == ".csv":
        lines = [",".join(records[0]), *[",".join(record.values()) for record in records]]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub whose datasets hold two records of their task; returns the requests made."""
    requests: list[tuple[Any, ...]] = []
    contents = {
        "openai/gsm8k": RECORDS["gsm8k"],
        "HuggingFaceH4/MATH-500": RECORDS["math"],
        "ankner/math-500": {"problem": "Halve it.", "solution": "So $\\boxed{\\frac{1}{2}}$."},
        "Jiayi-Pan/Countdown-Tasks-3to4": {"nums": [3, 5, 7], "target": 8},
        "someone/boards": {"puzzle": PUZZLE, "solution": SOLUTION},
    }

    def load_dataset(name: str, configuration: str | None = None, *, split: str) -> list[dict[str, Any]]:
        requests.append((name, configuration, split))
        if name not in contents:
            raise FileNotFoundError(f"{name} is not on the hub\nand a traceback")
        return [contents[name]] * 2

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return requests


EXPECTED = {
    "gsm8k": {"question": "How many?", "answer": "1,007"},
    "math": {"question": "Halve it.", "answer": "\\frac{1}{2}"},
    "countdown": {"question": "Numbers: 3, 5, 7\nTarget: 8", "numbers": [3, 5, 7], "target": 8},
    "sudoku": {"question": f"Puzzle: {PUZZLE}", "puzzle": PUZZLE, "solution": SOLUTION},
}


@pytest.mark.parametrize("task", EXPECTED)
def test_rows_of_a_file(task: str, tmp_path: Path) -> None:
    path = tmp_path / ("rows.csv" if task == "sudoku" else "rows.jsonl")
    assert load_rows(task, "test", write(path, RECORDS[task])) == [EXPECTED[task]]
    assert load_rows(task, "train", str(path), held_back=0) == [EXPECTED[task]]


@pytest.mark.parametrize(
    ("task", "split", "request_made"),
    [
        ("gsm8k", "train", ("openai/gsm8k", "main", "train")),
        ("gsm8k", "test", ("openai/gsm8k", "main", "test")),
        ("math", "train", ("ankner/math-500", None, "train")),
        ("math", "test", ("HuggingFaceH4/MATH-500", None, "test")),
        ("countdown", "train", ("Jiayi-Pan/Countdown-Tasks-3to4", None, "train")),
    ],
)
def test_published_datasets(task: str, split: Any, request_made: tuple[Any, ...], hub: list[tuple[Any, ...]]) -> None:
    assert load_rows(task, split, held_back=0) == [EXPECTED[task]] * 2
    assert hub == [request_made]


def test_another_dataset_by_name(hub: list[tuple[Any, ...]]) -> None:
    assert load_rows("sudoku", "test", "someone/boards") == [EXPECTED["sudoku"]] * 2
    assert hub == [("someone/boards", None, "test")]
    assert read_rows("someone/boards", ("puzzle",), "test")[0]["solution"] == SOLUTION


@pytest.mark.usefixtures("hub")
def test_complaints_about_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"source = 'some/where': not a dataset .* \(some/where is not on"):
        load_rows("math", "test", "some/where")
    for task, split in (("countdown", "test"), ("sudoku", "train"), ("sudoku", "test")):
        with pytest.raises(UserError, match=f"no published dataset for the {split} split of {task}"):
            load_rows(task, split)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"someone/boards test row 0 = .*add the column answer"):
        load_rows("gsm8k", "test", "someone/boards")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "dipod\[language\]"'):
        load_rows("gsm8k", "train")


def test_training_problems_are_filtered_and_set_aside_as_published(tmp_path: Path) -> None:
    records = [{"nums": [n, 1, 1] + [1] * (n % 2), "target": n} for n in range(1, 41)]
    path = write(tmp_path / "c.jsonl", *records)
    kept = [n for n in range(1, 41) if n % 2 == 0]
    order = np.random.default_rng(42).permutation(20)
    with pytest.warns(DataNote, match="20 of 40 problems"):
        rows = load_rows("countdown", "train", path, held_back=5)
    assert [row["target"] for row in rows] == [kept[at] for at in order[:15]]
    assert {len(row["numbers"]) for row in rows} == {3}
    with pytest.warns(DataNote, match="20 of 40 problems"):
        assert len(load_rows("countdown", "train", path, numbers=4, held_back=0)) == 20
    assert len(load_rows("countdown", "train", path, numbers=0, held_back=0)) == 40
    assert len(load_rows("countdown", "test", path)) == 40, "the test split is what it is"
    mend = r"task\.held_back = 500: .* has 20 problems; set fewer aside"
    with pytest.raises(UserError, match=mend), pytest.warns(DataNote):
        load_rows("countdown", "train", path)
    with pytest.raises(UserError, match="numbers = 6: no problem"):
        load_rows("countdown", "train", path, numbers=6)
    with pytest.raises(UserError, match="held_back = -1"):
        load_rows("countdown", "train", path, numbers=0, held_back=-1)


def test_nothing_is_set_aside_from_gsm8k_and_math(tmp_path: Path) -> None:
    for task in ("gsm8k", "math"):
        path = write(tmp_path / f"{task}.jsonl", RECORDS[task], RECORDS[task])
        assert len(load_rows(task, "train", path)) == 2


def test_other_columns_that_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", {"question": "q", "answer": "It is \\boxed{5}.", "solution": "x"})
    assert load_rows("math", "test", path) == [{"question": "q", "answer": "5"}]
    path = write(tmp_path / "c.jsonl", {"numbers": [3, 5.0], "target": "8"})
    assert load_rows("countdown", "test", path)[0]["numbers"] == [3, 5]


@pytest.mark.parametrize(
    ("task", "record", "complaint"),
    [
        ("gsm8k", {"answer": "#### 5"}, "line 2 = ['answer']: add the column question"),
        ("gsm8k", {"question": "q"}, "line 2 = ['question']: add the column answer"),
        ("gsm8k", {"question": "q", "answer": None}, "line 2, answer = None: give a value"),
        ("gsm8k", {"question": "q", "answer": "5"}, "line 2, answer = '5': end it with #### and a number"),
        ("gsm8k", {"question": "q", "answer": "#### five"}, "line 2, answer"),
        ("gsm8k", {"question": "q", "answer": 5}, "line 2, answer = 5: give text"),
        ("gsm8k", {"question": " ", "answer": "#### 5"}, "line 2, question = ' ': give text"),
        ("math", {"answer": "5"}, "line 2 = ['answer']: add the column problem or question"),
        ("math", {"problem": "p"}, "line 2 = ['problem']: add the column answer or solution"),
        ("math", {"problem": "p", "solution": "no box"}, "line 2, solution = 'no box'"),
        ("countdown", {"input": "3,5"}, "line 2 = ['input']: add the column target or output"),
        ("countdown", {"output": "8"}, "add the column nums or numbers or input"),
        ("countdown", {"input": "3,x", "output": "8"}, "line 2, input = 'x': give whole numbers"),
        ("countdown", {"input": [], "output": "8"}, "line 2, input = []"),
        ("countdown", {"input": 7, "output": "8"}, "line 2, input = 7"),
        ("countdown", {"input": "3,5", "output": "8.5"}, "line 2, output = '8.5'"),
        ("math", "{", "line 2 = '{': give one JSON object a line"),
        ("math", "[]", "line 2 = []: give one JSON object a line"),
    ],
)
def test_a_bad_record_is_named(task: str, record: Any, complaint: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", RECORDS[task], record)
    with pytest.raises(UserError) as error:
        load_rows(task, "test", path)
    assert str(error.value).startswith(f"{path} ")
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"Puzzle\n{PUZZLE}\n", "line 2 = ['puzzle']: add the column solution"),
        (f"Puzzle,Solution\n{PUZZLE}\n", "line 2 = ['1200340201400001', None]: give the columns Puzzle, Solution"),
        (f"Puzzle,Solution\n{PUZZLE},{SOLUTION},1\n", "line 2"),
        (f"Puzzle,Solution\n{PUZZLE},{SOLUTION}\n12,{SOLUTION}\n", "line 3, puzzle = '12': give 16 digits"),
        (f"Puzzle,Solution\n{PUZZLE},{SOLUTION[:15]}9\n", "line 2, solution"),
        (f"Puzzle,Solution\n{PUZZLE},{OTHER}\n", "line 2, solution"),
        ("Puzzle,Solution\n0000000000000000,1111111111111111\n", "give a grid with 1 to 4 once in every row"),
        (f"Puzzle,Solution\n{SOLUTION},{SOLUTION}\n", "line 2, puzzle"),
        ("Puzzle,Solution\n", "it holds no problem"),
        ("", "it holds no problem"),
    ],
)
def test_a_bad_sudoku_file_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_rows("sudoku", "test", str(path))
    assert str(path) in str(error.value)
    assert complaint in str(error.value)


def test_bad_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    for source, complaint in (
        (str(tmp_path / "rows.txt"), "give a .jsonl, .json, .csv, .parquet file"),
        (str(tmp_path), "give a .jsonl, .json, .csv, .parquet file"),
        ("word", "give a .jsonl, .json, .csv, .parquet file"),
        (str(tmp_path / "none.jsonl"), "it cannot be read"),
        (str(tmp_path / "none.csv"), "it cannot be read"),
        (str(tmp_path / "bytes.csv"), "not a CSV file"),
        (str(tmp_path / "empty.jsonl"), "it holds no problem"),
    ):
        with pytest.raises(UserError, match=complaint):
            load_rows("gsm8k", "test", source)
    with pytest.raises(UserError, match="task = 'chess'"):
        load_rows("chess", "test", "x.jsonl")
    with pytest.raises(UserError, match="split = 'valid'"):
        load_rows("gsm8k", "valid", "x.jsonl")  # type: ignore[arg-type]


def test_rows_of_a_custom_task(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"question": "q", "answer": "a", "level": 3})
    assert read_rows(path, ("question", "answer")) == [{"question": "q", "answer": "a", "level": 3}]
    csv_path = write(tmp_path / "rows.csv", {"question": "q", "answer": "a"})
    assert read_rows(csv_path, ("question", "answer")) == [{"question": "q", "answer": "a"}]
    with pytest.raises(UserError, match=r"line 1 = .*add the column hint"):
        read_rows(path, ("hint",))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="it holds no row"):
        read_rows(str(tmp_path / "empty.jsonl"), ())


def test_the_shared_files_are_read_whole() -> None:
    sizes = {
        "gsm8k_train.jsonl": 7473,
        "gsm8k_test.jsonl": 1319,
        "math500_test.jsonl": 500,
        "countdown3_test.jsonl": 256,
    }
    for name, size in sizes.items():
        task = "countdown" if name.startswith("countdown") else "math" if name.startswith("math") else "gsm8k"
        assert len(load_rows(task, "test", str(shared(name)))) == size
    assert len(load_rows("sudoku", "test", str(shared("sudoku4x4_d1_test.csv")))) == 500, "several solutions or one"
    spg = load_rows("sudoku", "test", str(shared("sudoku4x4_spg_test.csv")))
    assert len({row["solution"] for row in spg}) == 88
    assert not {d.solution for d in DEMONSTRATIONS} & {row["solution"] for row in spg}


def test_every_shared_countdown_problem_can_be_solved() -> None:
    def reachable(values: list[float]) -> set[float]:
        if len(values) == 1:
            return set(values)
        found = set()
        for a, b, *rest in permutations(values):
            for joined in (a + b, a - b, a * b, *([a / b] if b else [])):
                found |= reachable([joined, *rest])
        return found

    for row in load_rows("countdown", "test", str(shared("countdown3_test.jsonl"))):
        assert min(abs(value - row["target"]) for value in reachable(row["numbers"])) < 1e-9, row


def test_csv_fields_may_be_quoted(tmp_path: Path) -> None:
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["question", "answer"], ["a, b\nand c?", "#### 5"]])
    assert load_rows("gsm8k", "test", str(tmp_path / "q.csv")) == [{"question": "a, b\nand c?", "answer": "5"}]


def test_a_mistyped_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/train.jsonl").touch()
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="trian is not in the folder data"):
        load_rows("gsm8k", "train", "data/trian")
