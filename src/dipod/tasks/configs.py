"""The settings of every task, by the task's name."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from dipod.errors import UserError
from dipod.tasks.sudoku import SudokuConfig
from dipod.tasks.text.config import TextConfig

TaskConfig = SudokuConfig | TextConfig


def task_config(name: Any) -> type[TaskConfig]:
    """The class that holds the settings of the task called ``name``.

    Raises:
        UserError: there is no such task.
    """
    for kind in get_args(TaskConfig):
        if name in get_args(get_type_hints(kind)["name"]):
            chosen: type[TaskConfig] = kind
            return chosen
    known = [n for kind in get_args(TaskConfig) for n in get_args(get_type_hints(kind)["name"])]
    raise UserError("task.name", name, f"choose one of {', '.join(known)}")
