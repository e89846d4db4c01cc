"""Problems made on the spot: solvable, in range, uniquely solvable, and split without overlap."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.text import generators
from dipod.tasks.text.arithmetic import evaluate, uses_numbers
from dipod.tasks.text.generators import countdown_rows, random_expression, sudoku_rows
from dipod.tasks.text.grading import grade
from dipod.tasks.text.prompts import DEMONSTRATIONS, Demonstration
from dipod.tasks.text.sources import load_rows
from tests.tasks.text.data import shared


def solutions_by_backtracking(puzzle: str) -> list[str]:
    """Every solution of a puzzle, by trying digits cell by cell."""
    at = puzzle.find("0")
    if at < 0:
        return [puzzle]
    row, column = divmod(at, 4)
    found = []
    for digit in "1234":
        peers = [
            puzzle[4 * r + c]
            for r, c in product(range(4), repeat=2)
            if r == row or c == column or (r // 2, c // 2) == (row // 2, column // 2)
        ]
        if digit not in peers:
            found += solutions_by_backtracking(puzzle[:at] + digit + puzzle[at + 1 :])
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_puzzle_has_one_solution_and_the_blanks_asked_for(split: Any, generator: torch.Generator) -> None:
    rows = sudoku_rows(300, generator, (4, 12), split)
    assert len(rows) == 300
    for row in rows:
        assert solutions_by_backtracking(row["puzzle"]) == [row["solution"]]
        assert 4 <= row["puzzle"].count("0") <= 12
        assert row["puzzle"] in row["question"]
    assert len({row["puzzle"].count("0") for row in rows}) >= 8
    assert len({row["puzzle"] for row in rows}) > 290


def test_no_solution_is_in_both_splits(generator: torch.Generator) -> None:
    train = {row["solution"] for row in sudoku_rows(4000, generator, (4, 4))}
    test = {row["solution"] for row in sudoku_rows(2000, generator, (4, 4), "test")}
    assert not train & test
    assert len(train) == 200
    assert len(test) == 88
    assert {shown.solution for shown in DEMONSTRATIONS} <= train
    other = {row["solution"] for row in sudoku_rows(2000, generator, (4, 4), "test", split_seed=1)}
    assert len(other) == 88 != len(other & test)


def test_worked_examples_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> list[dict[str, Any]]:
        return sudoku_rows(200, torch.Generator().manual_seed(0), test_solutions=["1234341221434321"])

    rows = draw()
    shown = [Demonstration(row["puzzle"], row["solution"], "") for row in rows[::70]]
    monkeypatch.setattr(generators, "DEMONSTRATIONS", shown)
    others = [row for row in rows if row["puzzle"] not in {demonstration.puzzle for demonstration in shown}]
    assert len(others) == 197
    assert draw()[:197] == others


def test_the_test_split_may_be_given_by_its_solutions(generator: torch.Generator) -> None:
    published = {row["solution"] for row in load_rows("sudoku", "test", str(shared("sudoku4x4_spg_test.csv")))}
    train = sudoku_rows(4000, generator, (4, 8), test_solutions=published)
    assert len({row["solution"] for row in train}) == 200
    assert not {row["solution"] for row in train} & published
    test = sudoku_rows(100, generator, (4, 8), "test", test_solutions=published)
    assert {row["solution"] for row in test} <= published


@pytest.mark.parametrize(
    ("numbers", "low", "high", "target_low", "target_high"),
    [(3, 1, 99, 1, 100), (2, 1, 9, 1, 20), (4, 1, 100, 10, 100), (6, 0, 5, -5, 5)],
)
def test_a_countdown_problem_can_be_solved(
    numbers: int, low: int, high: int, target_low: int, target_high: int, generator: torch.Generator
) -> None:
    rows = countdown_rows(100, generator, numbers, low, high, target_low=target_low, target_high=target_high)
    assert len(rows) == 100
    for row in rows:
        assert len(row["numbers"]) == numbers
        assert all(low <= number <= high for number in row["numbers"])
        assert target_low <= row["target"] <= target_high
        assert uses_numbers(row["solution"], row["numbers"])
        assert evaluate(row["solution"]) == row["target"]
        reference = {"numbers": row["numbers"], "target": row["target"]}
        assert grade("countdown", "strict", f"<answer>{row['solution']}</answer>", reference).solved
        assert grade("countdown", "d1", f"\\boxed{{{row['solution']}}}", reference).solved


def test_random_expressions_take_every_order_operation_and_tree(generator: torch.Generator) -> None:
    drawn = {random_expression([1, 2, 3], generator) for _ in range(4000)}
    signs = list(product("+-*/", repeat=2))
    trees = {f"{a}{s}({b}{t}{c})" for a, b, c in permutations((1, 2, 3)) for s, t in signs}
    trees |= {f"({a}{s}{b}){t}{c}" for a, b, c in permutations((1, 2, 3)) for s, t in signs}
    assert drawn == trees


def test_the_generator_decides() -> None:
    def draw(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        return [*countdown_rows(5, generator), *sudoku_rows(5, generator)]

    assert draw(0) == draw(0) != draw(1)
    assert countdown_rows(0, torch.Generator()) == sudoku_rows(0, torch.Generator()) == []


def test_values_that_cannot_be_are_refused(generator: torch.Generator) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "count": lambda: countdown_rows(-1, generator),
        "numbers": lambda: countdown_rows(1, generator, 1),
        "high": lambda: countdown_rows(1, generator, low=5, high=4),
        "target_high = 0": lambda: countdown_rows(1, generator, target_high=0),
        "target_high = 10000.*no target": lambda: countdown_rows(
            1, generator, 2, 1, 3, target_low=9999, target_high=10_000
        ),
        "blanks": lambda: sudoku_rows(1, generator, (4, 13)),
        "blanks = .0": lambda: sudoku_rows(1, generator, (0, 8)),
        "split": lambda: sudoku_rows(1, generator, split="valid"),  # type: ignore[arg-type]
        "test_solutions = '12'": lambda: sudoku_rows(1, generator, test_solutions=["12"]),
        "test_solutions = '3214": lambda: sudoku_rows(1, generator, test_solutions=[DEMONSTRATIONS[0].solution]),
    }
    for field, call in calls.items():
        with pytest.raises(UserError, match=field):
            call()
