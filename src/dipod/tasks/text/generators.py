"""Countdown and Sudoku problems made on the spot, each with a solution."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from dipod.errors import UserError, require
from dipod.tasks.protocol import Split
from dipod.tasks.sudoku import MAX_BLANKS, solution_counts, solution_grids
from dipod.tasks.text.arithmetic import ArithmeticRefused, evaluate
from dipod.tasks.text.prompts import DEMONSTRATIONS, countdown_question, sudoku_question
from dipod.tasks.text.rows import Row

TEST_SOLUTIONS = 88
"""Of the 288 solved grids, those kept for the test split, as in SPG."""
_ATTEMPTS = 10_000
_CHUNK = 1024


def countdown_rows(
    count: int,
    generator: torch.Generator,
    numbers: int = 3,
    low: int = 1,
    high: int = 99,
    *,
    target_low: int = 1,
    target_high: int = 100,
) -> list[Row]:
    """Countdown problems that can be solved: the target is the value of a random expression over the numbers.

    Args:
        count: how many; they are independent, so one may come twice.
        generator: the source of randomness.
        numbers: how many numbers a problem has, 2 to 6.
        low: the smallest number.
        high: the largest.
        target_low: the smallest target.
        target_high: the largest.

    Returns:
        Rows with ``question``, ``numbers``, ``target`` and ``solution``, an expression.

    Raises:
        UserError: a range that is empty, or in which no target is found.
    """
    require(count >= 0, "count", count, "give a number of at least 0")
    require(2 <= numbers <= 6, "numbers", numbers, "give a number from 2 to 6")
    require(0 <= low <= high, "high", high, f"give a number of at least low ({low}), which is at least 0")
    require(target_low <= target_high, "target_high", target_high, f"give at least target_low ({target_low})")
    rows: list[Row] = []
    failures = 0
    while len(rows) < count:
        drawn = torch.randint(low, high + 1, (numbers,), generator=generator).tolist()
        solution = random_expression(drawn, generator)
        target = _whole_value(solution)
        if target is None or not target_low <= target <= target_high:
            failures += 1
            mend = f"no target from {target_low} found with {numbers} numbers from {low} to {high}; widen a range"
            require(failures < _ATTEMPTS, "target_high", target_high, mend)
            continue
        failures = 0
        question = countdown_question(drawn, target)
        rows.append({"question": question, "numbers": drawn, "target": target, "solution": solution})
    return rows


def random_expression(numbers: Sequence[int], generator: torch.Generator) -> str:
    """All numbers in random order, joined by random operations into a random tree; it may divide by zero."""
    order = torch.randperm(len(numbers), generator=generator).tolist()
    parts = [str(numbers[at]) for at in order]
    signs = torch.randint(4, (len(numbers),), generator=generator).tolist()
    places = torch.rand(len(numbers), generator=generator).tolist()
    while len(parts) > 1:
        at = int(places.pop() * (len(parts) - 1))
        joined = f"{parts[at]}{'+-*/'[signs.pop()]}{parts[at + 1]}"
        parts[at : at + 2] = [f"({joined})" if len(parts) > 2 else joined]
    return parts[0]


def sudoku_rows(
    count: int,
    generator: torch.Generator,
    blanks: tuple[int, int] = (7, 12),
    split: Split = "train",
    *,
    test_solutions: Collection[str] = (),
    split_seed: int = 0,
) -> list[Row]:
    """Sudoku puzzles with one solution each, of which no solution is in both splits.

    Solution, number of blanks and their places are drawn uniformly, and again where the puzzle has several solutions.
    The puzzles of the worked examples never come, and their solutions belong to the training split.

    Args:
        count: how many; they are independent, so one may come twice.
        generator: the source of randomness.
        blanks: fewest and most empty cells, 1 to 12.
        split: "train" or "test".
        test_solutions: the solved grids of the test split as 16 digits each, such as those of SPG's test file; by
            default 88 of the 288, chosen by ``split_seed``.
        split_seed: of that choice.

    Returns:
        Rows with ``question``, ``puzzle`` and ``solution``.

    Raises:
        UserError: blanks outside 1 to 12, or ``test_solutions`` that are no grids or those of worked examples.
    """
    require(count >= 0, "count", count, "give a number of at least 0")
    low, high = blanks
    require(1 <= low <= high <= MAX_BLANKS, "blanks", blanks, f"give fewest and most within 1 to {MAX_BLANKS}")
    require(split in {"train", "test"}, "split", split, "choose train or test")
    pool = _grids_of(split, test_solutions, split_seed)
    shown = {demonstration.puzzle for demonstration in DEMONSTRATIONS}
    rows: list[Row] = []
    while len(rows) < count:
        size = min(4 * (count - len(rows)), _CHUNK)
        solutions = pool[torch.randint(len(pool), (size,), generator=generator)]
        empty = torch.randint(low, high + 1, (size, 1), generator=generator)
        rank = torch.rand(solutions.shape, generator=generator).argsort(-1).argsort(-1)
        puzzles = torch.where(rank < empty, 0, solutions)
        unique = solution_counts(puzzles) == 1
        for puzzle, solution in zip(grid_texts(puzzles[unique]), grid_texts(solutions[unique]), strict=True):
            if puzzle not in shown:
                rows.append({"question": sudoku_question(puzzle), "puzzle": puzzle, "solution": solution})
    return rows[:count]


def grid_texts(grids: Tensor) -> list[str]:
    """Grids [B, 16] as strings of 16 digits."""
    return ["".join(map(str, grid)) for grid in grids.tolist()]


def _grids_of(split: Split, test_solutions: Collection[str], split_seed: int) -> Tensor:
    """The solved grids of a split, [N, 16]."""
    grids = solution_grids()
    texts = grid_texts(grids)
    shown = {demonstration.solution for demonstration in DEMONSTRATIONS}
    held_out = set(test_solutions)
    for solution in sorted(held_out):
        if solution not in texts or solution in shown:
            raise UserError("test_solutions", solution, "give solved grids of 16 digits other than the worked examples")
    if not held_out:
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(split_seed)).tolist()
        held_out = set([texts[at] for at in order if texts[at] not in shown][:TEST_SOLUTIONS])
    return grids[torch.tensor([(text in held_out) == (split == "test") for text in texts])]


def _whole_value(expression: str) -> int | None:
    try:
        value = Fraction(evaluate(expression))
    except ArithmeticRefused:
        return None
    return int(value) if value.denominator == 1 else None
