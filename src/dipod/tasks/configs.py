"""The settings of every task, by the task's name."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from dipod.errors import UserError
from dipod.tasks.control import Bandit, CartpoleSwingup, GymnasiumConfig, MultiGoal, OwnConfig, Pendulum, Track
from dipod.tasks.sudoku import SudokuConfig
from dipod.tasks.text.config import TextConfig

TaskConfig = SudokuConfig | TextConfig
"""What a masked model is trained on."""
ControlTaskConfig = Track | Pendulum | CartpoleSwingup | MultiGoal | Bandit | GymnasiumConfig | OwnConfig
"""What a control policy is trained on."""
AnyTaskConfig = TaskConfig | ControlTaskConfig


def task_config(name: Any) -> type[AnyTaskConfig]:
    """The class that holds the settings of the task called ``name``.

    Raises:
        UserError: there is no such task.
    """
    if ":" in str(name):
        return OwnConfig
    for kind in get_args(AnyTaskConfig):
        if name in get_args(get_type_hints(kind)["name"]):
            chosen: type[AnyTaskConfig] = kind
            return chosen
    mend = f"choose one of {', '.join(task_names())}, or give an environment of your own as module:attribute"
    raise UserError("task.name", name, mend)


def task_names() -> list[str]:
    """Every task by name."""
    return [name for kind in get_args(AnyTaskConfig) for name in get_args(get_type_hints(kind)["name"])]
