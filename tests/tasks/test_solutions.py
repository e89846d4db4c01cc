"""Completions that are known to be right."""

from __future__ import annotations

import pytest

from dipod.recipes import build_task, language, load, overlay
from dipod.tasks import Task
from dipod.tasks.solutions import solutions


def task_of(recipe: str, **settings: object) -> Task:
    return build_task(language(overlay(load(recipe), {f"task.{key}": value for key, value in settings.items()})))


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("sudoku", {"blanks": "4-8"}),
        ("sudoku", {"format": "grid"}),
        ("countdown-tiny", {"solution_share": 0.0}),
        ("countdown-tiny", {"style": "chat", "tokenizer": "bytes", "completion_length": 60, "max_prompt": 1000}),
    ],
)
def test_what_is_known_solves_every_problem(recipe: str, settings: dict[str, object]) -> None:
    task = task_of(recipe, **settings)
    problems = task.held_out(50)
    known = solutions(task, problems)
    assert known is not None
    assert known.shape == task.blank(problems).ids.shape
    assert task.solved(problems, known).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "sudoku", "style": "chat", "tokenizer": "bytes", "max_prompt": 2000, "completion_length": 64},
        {"completion_length": 8},
    ],
)
def test_nothing_is_made_up(settings: dict[str, object]) -> None:
    """A text task without an answer in its own form, and answers that do not fit the canvas."""
    task = task_of("countdown-tiny", **settings)
    assert solutions(task, task.held_out(4)) is None
