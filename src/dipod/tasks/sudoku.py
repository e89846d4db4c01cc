"""4x4 Sudoku: the puzzles, their split, the prior that pre-training imitates, the reward, and the CSV files.

Grids are [16] rows of digits 1-4 in reading order; 0 is an empty cell. A puzzle is always uniquely solvable.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dipod.errors import UserError, require
from dipod.noise import keyed_generator
from dipod.policies.tokens import Tokens
from dipod.tasks.protocol import Split, Vocabulary

MIN_BLANKS, MAX_BLANKS = 4, 12
EMPTY_ID, MASK_ID, PAD_ID = 0, 5, 6
VOCAB_SIZE = 7
"""Token ids: an empty cell of a prompt, 1-4 the digits, the mask, padding."""


Format = Literal["blanks", "grid"]


@lru_cache(maxsize=1)
def solution_grids() -> Tensor:
    """All 288 solved grids in lexicographic order, [288, 16] int64."""
    rows = list(permutations((1, 2, 3, 4)))
    units = [
        *[[4 * r + c for r in range(4)] for c in range(4)],
        *[[4 * r + c + 4 * i + j for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)],
    ]
    grids = []
    for top in product(rows, rows):
        half = [*top[0], *top[1]]
        if any(len({half[i] for i in unit if i < 8}) != len([i for i in unit if i < 8]) for unit in units):
            continue
        for bottom in product(rows, rows):
            grid = [*half, *bottom[0], *bottom[1]]
            if all(len({grid[i] for i in unit}) == 4 for unit in units):
                grids.append(grid)
    return torch.tensor(grids)


def solution_counts(puzzles: Tensor) -> Tensor:
    """How many of the 288 grids agree with the clues of each puzzle: [B, 16] → [B]."""
    agree = (solution_grids() == puzzles[:, None]) | (puzzles[:, None] == 0)
    return agree.all(-1).sum(-1)


@dataclass(frozen=True)
class Puzzles:
    """Puzzles with their solutions, [B, 16] each; as observations and actions through `SudokuTask`."""

    grids: Tensor
    solutions: Tensor

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, rows: Tensor | slice) -> Puzzles:
        return Puzzles(self.grids[rows], self.solutions[rows])

    @property
    def empty(self) -> Tensor:
        """[B, 16] bool, the cells to fill."""
        return self.grids == 0

    def repeat_interleave(self, times: int) -> Puzzles:
        """Each puzzle ``times`` times in a row."""
        return Puzzles(self.grids.repeat_interleave(times, 0), self.solutions.repeat_interleave(times, 0))

    def pick(self, places: Sequence[int]) -> Puzzles:
        """The puzzles at some places, in that order."""
        return self[torch.tensor(places, dtype=torch.int64)]

    def exchange(self, places: Sequence[int], others: Puzzles) -> Puzzles:
        """These puzzles with others at some places."""
        grids, solutions = self.grids.clone(), self.solutions.clone()
        at = torch.tensor(places, dtype=torch.int64)
        grids[at], solutions[at] = others.grids, others.solutions
        return Puzzles(grids, solutions)


@dataclass(frozen=True)
class SudokuConfig:
    """4x4 Sudoku as cells.

    Attributes:
        name: "board".
        blanks: empty cells per puzzle, a number ("8") or a range ("6-10"), within 4 to 12.
        format: "blanks", the completion is the values of the empty cells in reading order; "grid", the whole grid.
        solution_share: share of true solutions in pre-training; 0 means that the base model never sees one.
        test_share: share of the 288 solution grids kept for evaluation; no training puzzle comes from them.
        split_seed: which grids those are.
        unique: refuse puzzles of a CSV file that have several solutions; without it, the listed one counts as right.
        train_csv: take training puzzles from this file in place of generating them (columns Puzzle, Solution).
        test_csv: likewise for the evaluation.
    """

    name: Literal["board"] = "board"
    blanks: str = "8"
    format: Format = "blanks"
    solution_share: float = 0.0
    test_share: float = 0.25
    split_seed: int = 0
    unique: bool = True
    train_csv: str = ""
    test_csv: str = ""

    def __post_init__(self) -> None:
        low, high = self.blank_range
        allowed = f"give a number or a range within {MIN_BLANKS} to {MAX_BLANKS}, such as 8 or 6-10"
        require(MIN_BLANKS <= low <= high <= MAX_BLANKS, "task.blanks", self.blanks, allowed)
        choices = get_args(Format)
        require(self.format in choices, "task.format", self.format, f"choose one of {', '.join(choices)}")
        require(0 <= self.solution_share <= 1, "task.solution_share", self.solution_share, "give a share from 0 to 1")
        in_range = 0 < self.test_share < 1
        require(in_range, "task.test_share", self.test_share, "give a share between 0 and 1, both excluded")

    @property
    def blank_range(self) -> tuple[int, int]:
        """(fewest, most) empty cells; (0, 0) when ``blanks`` cannot be read."""
        low, dash, high = str(self.blanks).partition("-")
        try:
            return (int(low), int(high if dash else low))
        except ValueError:
            return (0, 0)


class SudokuTask:
    """Puzzles in, rewards out: what the trainer needs to know about Sudoku."""

    vocabulary = Vocabulary(VOCAB_SIZE, MASK_ID, (EMPTY_ID, PAD_ID), (4, 4))
    eos_id = None

    def __init__(self, config: SudokuConfig) -> None:
        self.config = config
        grids = solution_grids()
        order = torch.randperm(len(grids), generator=torch.Generator().manual_seed(config.split_seed))
        held_out = max(1, round(config.test_share * len(grids)))
        self._grids: dict[Split, Tensor] = {"test": grids[order[:held_out]], "train": grids[order[held_out:]]}
        self._files: dict[Split, Puzzles] = {}
        files: dict[Split, str] = {"train": config.train_csv, "test": config.test_csv}
        for split, path in files.items():
            if path:
                self._files[split] = load_csv(Path(path), config.unique)

    @property
    def completion_length(self) -> int:
        """The most tokens that an action can have."""
        if self.config.format == "grid":
            return 16
        blanks = [int(p.empty.sum(-1).max()) for p in self._files.values()]
        return max([self.config.blank_range[1], *blanks])

    def draw(self, count: int, split: Split, seed: int, step: int) -> Puzzles:
        """The puzzles of one step: see `generate`."""
        return self.generate(count, split, keyed_generator(seed, "task", split, step))

    def generate(self, count: int, split: Split, generator: torch.Generator) -> Puzzles:
        """Draw ``count`` uniquely solvable puzzles of a split, uniformly over its grids and the places of the blanks.

        From a CSV file, where the configuration names one: uniformly over its rows.
        """
        if split in self._files:
            puzzles = self._files[split]
            return puzzles[torch.randint(len(puzzles), (count,), generator=generator)]
        low, high = self.config.blank_range
        pool = self._grids[split]
        found: list[Puzzles] = []
        while sum(map(len, found)) < count:
            solutions = pool[torch.randint(len(pool), (4 * count,), generator=generator)]
            blanks = torch.randint(low, high + 1, (4 * count, 1), generator=generator)
            rank = torch.rand(solutions.shape, generator=generator).argsort(-1).argsort(-1)
            grids = torch.where(rank < blanks, 0, solutions)
            unique = solution_counts(grids) == 1
            found.append(Puzzles(grids[unique], solutions[unique]))
        return Puzzles(torch.cat([p.grids for p in found])[:count], torch.cat([p.solutions for p in found])[:count])

    def held_out(self, count: int) -> Puzzles:
        """``count`` test puzzles that depend on the task's settings alone; all rows of ``test_csv`` if given."""
        if "test" in self._files:
            return self._files["test"]
        return self.generate(count, "test", torch.Generator().manual_seed(self.config.split_seed + 1))

    def prior(self, count: int, generator: torch.Generator) -> tuple[Tokens, Tokens, Tensor]:
        """Observations and actions that pre-training imitates, and the tokens that count: plausible wrong fills.

        Each row of the grid becomes a uniformly random permutation that respects its clues. Fills that happen to
        solve the puzzle are drawn again (puzzle and all); then a share ``solution_share`` is replaced by solutions.
        """
        kept: list[tuple[Puzzles, Tensor]] = []
        while sum(len(fill) for _, fill in kept) < count:
            puzzles = self.generate(count, "train", generator)
            fill = _row_permutations(puzzles.grids, generator)
            wrong = (fill != puzzles.solutions).any(-1)
            kept.append((puzzles[wrong], fill[wrong]))
        grids = torch.cat([p.grids for p, _ in kept])[:count]
        solutions = torch.cat([p.solutions for p, _ in kept])[:count]
        fill = torch.cat([f for _, f in kept])[:count]
        solved = torch.rand(count, 1, generator=generator) < self.config.solution_share
        puzzles = Puzzles(grids, solutions)
        action = self.encode(puzzles, torch.where(solved, solutions, fill))
        return self.observe(puzzles), action, action.valid

    def observe(self, puzzles: Puzzles) -> Tokens:
        """The prompts: the 16 cells in reading order, 0 where empty; each token stands at its cell, [B, 16]."""
        cells = torch.arange(16).expand(len(puzzles), -1)
        return Tokens(puzzles.grids, torch.ones_like(puzzles.empty), cells)

    def blank(self, puzzles: Puzzles) -> Tokens:
        """The completions before anything is decoded: their tokens' places, padded on the right, [B, L].

        A completion token stands at the cell that it fills, as the prompt's token of that cell does.
        """
        length = self.completion_length
        if self.config.format == "grid":
            cells, valid = torch.arange(16).expand(len(puzzles), -1), torch.ones_like(puzzles.empty)
        else:
            cells = puzzles.empty.int().argsort(dim=-1, descending=True, stable=True)[:, :length]
            valid = torch.arange(length) < puzzles.empty.sum(-1, keepdim=True)
        return Tokens(torch.full(valid.shape, PAD_ID), valid, cells)

    def complete(self, puzzles: Puzzles, completion: Tensor) -> tuple[Tokens, Tensor]:
        """The action that decoded ids [B, L] are, and which of its tokens count: all that fill a cell."""
        blank = self.blank(puzzles)
        return blank.with_ids(completion), blank.valid

    def show(self, puzzles: Puzzles, completion: Tensor) -> list[dict[str, Any]]:
        """Each puzzle with its solution and what the completion makes of it, for people."""
        rows = zip(puzzles.grids, puzzles.solutions, self.decode(puzzles, completion), strict=True)
        return [{"puzzle": p.tolist(), "solution": s.tolist(), "filled": f.tolist()} for p, s, f in rows]

    def encode(self, puzzles: Puzzles, grids: Tensor) -> Tokens:
        """Filled grids [B, 16] as completions [B, L]."""
        blank = self.blank(puzzles)
        assert blank.positions is not None
        return blank.with_ids(torch.where(blank.valid, grids.gather(1, blank.positions), PAD_ID))

    def decode(self, puzzles: Puzzles, completion: Tensor) -> Tensor:
        """Completions [B, L] as filled grids [B, 16]; in "blanks" format the clues are the puzzle's."""
        if self.config.format == "grid":
            return completion
        grids = puzzles.grids.clone()
        grids[puzzles.empty] = completion[self.blank(puzzles).valid]
        return grids

    def reward(self, puzzles: Puzzles, completion: Tensor) -> Tensor:
        """Share of empty cells that hold the right digit, [B] in 0..1; clues are not scored."""
        right = (self.decode(puzzles, completion) == puzzles.solutions) & puzzles.empty
        return right.sum(-1) / puzzles.empty.sum(-1)

    def solved(self, puzzles: Puzzles, completion: Tensor) -> Tensor:
        """[B] bool: the whole board is right, clues included."""
        return (self.decode(puzzles, completion) == puzzles.solutions).all(-1)


def _row_permutations(puzzles: Tensor, generator: torch.Generator) -> Tensor:
    """Fill each row's empty cells with its missing digits in random order: [B, 16] → [B, 16]."""
    rows = puzzles.reshape(-1, 4)
    digits = torch.arange(1, 5)
    present = (rows[:, :, None] == digits).any(1)
    noise = torch.rand(rows.shape, generator=generator)
    missing = noise.masked_fill(present, torch.inf).argsort(-1) + 1  # missing digits first, in random order
    empty = rows == 0
    turn = (empty.cumsum(-1) - 1).clamp_min(0)
    return torch.where(empty, missing.gather(1, turn), rows).reshape(-1, 16)


def load_csv(path: Path, unique: bool = True) -> Puzzles:
    """Read puzzles from a CSV file with columns ``Puzzle`` and ``Solution`` of 16 digits each, 0 for an empty cell.

    Args:
        path: the file.
        unique: refuse a puzzle with several solutions (124 of the 500 in d1's published test set have them).

    Raises:
        UserError: a file that cannot be read, a malformed row, a puzzle without a solution, with several (see
            ``unique``) or with another one than is listed; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            require({"Puzzle", "Solution"} <= set(columns), str(path), columns, "give columns Puzzle and Solution")
            rows = [(reader.line_num, row["Puzzle"] or "", row["Solution"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError("csv", str(path), f"not a readable CSV file ({error})") from error
    require(len(rows) > 0, "csv", str(path), "the file holds no puzzle")
    parsed = [(_cells(path, n, "Puzzle", p, "01234"), _cells(path, n, "Solution", s, "1234")) for n, p, s in rows]
    puzzles = Puzzles(torch.tensor([p for p, _ in parsed]), torch.tensor([s for _, s in parsed]))
    counts = solution_counts(puzzles.grids)
    fits = (puzzles.empty | (puzzles.grids == puzzles.solutions)).all(-1)
    for (line, puzzle, solution), count, fit in zip(rows, counts.tolist(), fits.tolist(), strict=True):
        where = f"{path} line {line}, Puzzle"
        require(count > 0, where, puzzle, "the puzzle has no solution; correct or remove the row")
        several = f"the puzzle has {count} solutions; add clues, remove the row, or set task.unique to false"
        require(count == 1 or not unique, where, puzzle, several)
        solves = fit and int(solution_counts(torch.tensor([_cells(path, line, "Solution", solution, "1234")]))) == 1
        require(solves, f"{path} line {line}, Solution", solution, "it does not solve the puzzle; correct the row")
        require("0" in puzzle, where, puzzle, "the puzzle has no empty cell; remove the row")
    return puzzles


def _cells(path: Path, line: int, column: str, text: str, allowed: str) -> list[int]:
    good = len(text) == 16 and set(text) <= set(allowed)
    require(good, f"{path} line {line}, {column}", text, f"give 16 digits from {allowed[0]} to {allowed[-1]}")
    return [int(digit) for digit in text]
