"""Sudoku: the grids, the split, the prior, the reward and the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dipod.errors import UserError
from dipod.policies.tokens import Tokens
from dipod.tasks.sudoku import (
    PAD_ID,
    Puzzles,
    SudokuConfig,
    SudokuTask,
    load_csv,
    solution_counts,
    solution_grids,
)

SOLUTION = "1234341221434321"
PUZZLE = "1200340201400001"  # one solution
SHARED = Path(__file__).parents[3] / "shared" / "data"


def units(grids: torch.Tensor) -> list[torch.Tensor]:
    """Rows, columns and boxes, four tensors of [B, 4, 4] digits a unit."""
    square = grids.reshape(-1, 4, 4)
    boxes = square.reshape(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4, 4)
    return [square, square.transpose(1, 2), boxes]


def keys(grids: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(grid) for grid in grids.tolist()}


def read_prompts(observation: Tokens) -> Puzzles:
    """The puzzles that prompts show (their solutions are not in them)."""
    return Puzzles(observation.ids, observation.ids)


def write_csv(path: Path, *rows: str, header: str = "Puzzle,Solution") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_there_are_288_grids_and_all_are_solved() -> None:
    grids = solution_grids()
    assert len(keys(grids)) == 288
    for unit in units(grids):
        assert (unit.sort(-1).values == torch.arange(1, 5)).all()


@pytest.mark.parametrize("blanks", ["4", "8", "12", "4-12"])
def test_puzzles_are_uniquely_solvable_with_the_blanks_asked_for(blanks: str, generator: torch.Generator) -> None:
    task = SudokuTask(SudokuConfig(blanks=blanks))
    puzzles = task.generate(40, "train", generator)
    assert len(puzzles) == 40
    assert (solution_counts(puzzles.grids) == 1).all()
    low, high = task.config.blank_range
    count = puzzles.empty.sum(-1)
    assert (count >= low).all()
    assert (count <= high).all()
    assert ((puzzles.grids == puzzles.solutions) | puzzles.empty).all()


def test_no_solution_grid_is_in_both_splits(generator: torch.Generator) -> None:
    task = SudokuTask(SudokuConfig())
    train, test = (keys(task.generate(3000, split, generator).solutions) for split in ("train", "test"))
    assert len(train) == 216
    assert len(test) == 72
    assert not train & test


def test_draws_follow_seed_and_step_and_the_held_out_set_is_fixed() -> None:
    task = SudokuTask(SudokuConfig())
    first, second = (task.draw(20, "train", 5, 3).grids for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(task.held_out(30).grids, SudokuTask(SudokuConfig()).held_out(30).grids)


def test_prior_fills_are_row_permutations_that_never_solve(generator: torch.Generator) -> None:
    task = SudokuTask(SudokuConfig(blanks="4-10"))
    observation, action, counted = task.prior(400, generator)
    assert torch.equal(counted, action.valid)
    puzzles = read_prompts(observation)
    filled = task.decode(puzzles, action.ids)
    assert (units(filled)[0].sort(-1).values == torch.arange(1, 5)).all()
    assert ((filled == puzzles.grids) | puzzles.empty).all()
    assert not keys(filled) & keys(solution_grids())


def test_a_share_of_solutions_is_a_setting(generator: torch.Generator) -> None:
    task = SudokuTask(SudokuConfig(solution_share=0.3))
    observation, action, _ = task.prior(2000, generator)
    filled = task.decode(read_prompts(observation), action.ids)
    solved = sum(tuple(grid) in keys(solution_grids()) for grid in filled.tolist())
    assert abs(solved / 2000 - 0.3) < 0.05


@pytest.mark.parametrize("style", ["blanks", "grid"])
def test_encoding_and_decoding_are_inverse(style: str, generator: torch.Generator) -> None:
    task = SudokuTask(SudokuConfig(blanks="4-9", format=style))  # type: ignore[arg-type]
    puzzles = task.generate(50, "train", generator)
    action = task.encode(puzzles, puzzles.solutions)
    assert torch.equal(task.decode(puzzles, action.ids), puzzles.solutions)
    assert torch.equal(action.valid, task.blank(puzzles).valid)
    assert action.ids.shape[1] == task.completion_length == (9 if style == "blanks" else 16)
    assert (task.reward(puzzles, action.ids) == 1).all()
    assert task.solved(puzzles, action.ids).all()


def test_reward_is_the_share_of_empty_cells_that_are_right() -> None:
    task = SudokuTask(SudokuConfig(blanks="8"))
    cells = torch.tensor([[int(c) for c in PUZZLE]]), torch.tensor([[int(c) for c in SOLUTION]])
    puzzles = Puzzles(*cells)
    empty = int(puzzles.empty.sum())
    wrong = task.encode(puzzles, puzzles.solutions).ids.clone()
    wrong[0, :2] = wrong[0, :2] % 4 + 1
    assert float(task.reward(puzzles, wrong)) == pytest.approx((empty - 2) / empty)
    assert not task.solved(puzzles, wrong)


def test_grid_format_does_not_score_clues_but_asks_for_them() -> None:
    task = SudokuTask(SudokuConfig(format="grid"))
    puzzles = Puzzles(torch.tensor([[int(c) for c in PUZZLE]]), torch.tensor([[int(c) for c in SOLUTION]]))
    completion = puzzles.solutions.clone()
    completion[0, 1] = 3  # a clue
    assert float(task.reward(puzzles, completion)) == 1.0
    assert not task.solved(puzzles, completion)


def test_a_completion_token_stands_at_the_cell_that_it_fills() -> None:
    puzzles = Puzzles(torch.tensor([[int(c) for c in PUZZLE]]), torch.tensor([[int(c) for c in SOLUTION]]))
    task = SudokuTask(SudokuConfig(blanks="4-12"))
    blank, prompt = task.blank(puzzles), task.observe(puzzles)
    assert torch.equal(prompt.ids, puzzles.grids)
    assert prompt.positions is not None
    assert blank.positions is not None
    assert prompt.positions[0].tolist() == list(range(16))
    assert blank.positions[blank.valid].tolist() == puzzles.empty[0].nonzero()[:, 0].tolist()


def test_shorter_completions_are_padded_on_the_right(generator: torch.Generator) -> None:
    task = SudokuTask(SudokuConfig(blanks="4-8"))
    puzzles = task.generate(50, "train", generator)
    action: Tokens = task.encode(puzzles, puzzles.solutions)
    assert (action.ids[~action.valid] == PAD_ID).all()
    assert (action.valid.sum(-1) == puzzles.empty.sum(-1)).all()
    assert (action.valid.int().diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("blanks", ["3", "17", "9-5", "many", "8.5", ""])
def test_impossible_blanks_are_refused(blanks: str) -> None:
    with pytest.raises(UserError, match=r"task\.blanks"):
        SudokuConfig(blanks=blanks)


def test_csv_files_give_the_puzzles(tmp_path: Path, generator: torch.Generator) -> None:
    path = write_csv(tmp_path / "puzzles.csv", f"{PUZZLE},{SOLUTION}")
    task = SudokuTask(SudokuConfig(test_csv=str(path)))
    assert keys(task.held_out(99).grids) == {tuple(int(c) for c in PUZZLE)}
    assert len(task.generate(5, "test", generator)) == 5


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (f"{PUZZLE[:-1]},{SOLUTION}", "line 2, Puzzle = .*16 digits from 0 to 4"),
        (f"{PUZZLE.replace('2', '7')},{SOLUTION}", "line 2, Puzzle"),
        (f"{PUZZLE},{SOLUTION.replace('1', '0')}", "line 2, Solution = .*16 digits from 1 to 4"),
        (PUZZLE, "line 2, Solution"),
        (f"1100000000000000,{SOLUTION}", "no solution"),
        (f"1000000000000000,{SOLUTION}", "solutions; add clues"),
        (f"{PUZZLE},{'1234341243212143'}", "line 2, Solution = .*does not solve"),
        (f"{SOLUTION},{SOLUTION}", "no empty cell"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, row: str, complaint: str) -> None:
    path = write_csv(tmp_path / "bad.csv", row)
    with pytest.raises(UserError, match=complaint):
        load_csv(path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"csv = .*missing\.csv"):
        load_csv(tmp_path / "missing.csv")
    with pytest.raises(UserError, match="columns Puzzle and Solution"):
        load_csv(write_csv(tmp_path / "columns.csv", "1,2", header="a,b"))
    with pytest.raises(UserError, match="no puzzle"):
        load_csv(write_csv(tmp_path / "empty.csv"))


def test_several_solutions_can_be_allowed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "loose.csv", f"1000000000000000,{SOLUTION}")
    assert len(load_csv(path, unique=False)) == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published test sets are not here")
def test_published_files() -> None:
    assert len(load_csv(SHARED / "sudoku4x4_spg_test.csv")) == 256
    with pytest.raises(UserError, match="line 10, Puzzle = '3040413004000304': the puzzle has 2 solutions"):
        load_csv(SHARED / "sudoku4x4_d1_test.csv")
    loose = load_csv(SHARED / "sudoku4x4_d1_test.csv", unique=False)
    assert int((solution_counts(loose.grids) > 1).sum()) == 124
