"""Completions that are known to be right, where a task can give one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dipod.noise import keyed_generator
from dipod.tasks.protocol import Problems, Task
from dipod.tasks.sudoku import Puzzles, SudokuTask


def solutions(task: Task, problems: Problems) -> Tensor | None:
    """A completion that solves each problem, [B, L] int64; None where the task does not know one for all of them.

    Boards have their solution; made Countdown problems have the expression that they were made from, in the form that
    pre-training imitates. What the task itself does not count as solved is no solution.
    """
    known = _of_boards(task, problems) if isinstance(task, SudokuTask) else _of_texts(task, problems)
    return known if known is not None and bool(task.solved(problems, known).all()) else None


def _of_boards(task: SudokuTask, problems: Problems) -> Tensor:
    assert isinstance(problems, Puzzles)
    return task.encode(problems, problems.solutions).ids


def _of_texts(task: Task, problems: Problems) -> Tensor | None:
    """Right answers with their end tokens, if there are any and they fit the canvas."""
    from dipod.tasks.text.questions import Questions
    from dipod.tasks.text.subject import build_subject
    from dipod.tasks.text.task import TextTask

    if not isinstance(task, TextTask) or not isinstance(problems, Questions):
        return None
    imitate = build_subject(replace(task.config, solution_share=1.0)).imitate
    if imitate is None or any(row.get("solution") is None for row in problems.rows):
        return None
    length, end = task.completion_length, task.tokenizer.eos_id
    texts = [imitate(row, keyed_generator("solution")) for row in problems.rows]
    answers = [[*task.tokenizer.encode(text), end] for text in texts]
    if max(map(len, answers)) > length:
        return None
    return torch.tensor([answer + [end] * (length - len(answer)) for answer in answers])
