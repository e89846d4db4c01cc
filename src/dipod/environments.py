"""Training on an environment of one's own from Python: a run folder like any other.

    from dipod.environments import train

    train("runs/reach", Reach, {"algorithm": "fpopp+initial", "trainer.steps": 100})

What `train` writes is a run: ``dipod eval``, ``play``, ``export``, ``report`` and ``train --resume`` take it like any
other, because the folder says where the environment is found.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from dipod import runs
from dipod.errors import UserError, require
from dipod.modules import find, reading
from dipod.recipes import AnyConfig, load, overlay
from dipod.report import write_report
from dipod.tasks.control.own import FIELD


def train(
    folder: Path | str,
    environment: Any,
    settings: Mapping[str, Any] | None = None,
    recipe: str = "track",
    listener: runs.Listener | None = None,
) -> Path:
    """Train a policy in an environment of one's own, or go on where the folder's run stopped, and write the report.

    Args:
        folder: of the run.
        environment: a class or function that makes it, a dataclass's instance, or its name "module:attribute"; see
            `dipod.tasks.control.own.OwnConfig`. Whoever reads the run makes it again, so it must be found there: in a
            module, or in the file that runs (whose call then stands under ``if __name__ == "__main__":``).
        settings: by dotted path, as on the command line.
        recipe: whose other settings are taken.
        listener: told of the progress.

    Returns:
        The report's path.

    Raises:
        UserError: an environment that cannot be found again, settings that are refused, or a folder with another run.
        Interrupted: on SIGINT or SIGTERM, after the state has been saved; the same call goes on.
    """
    mend = 'this file is being read for its environment; call it under `if __name__ == "__main__":`'
    require(not reading(), "train", str(folder), mend)
    folder = Path(folder)
    config = configure(environment, settings, recipe)
    if (folder / runs.CONFIG).exists():
        mend = "it holds a run with other settings; choose another folder"
        require(runs.read_config(folder) == config, "folder", str(folder), mend)
    else:
        runs.create(folder, config)
    runs.train(folder, listener or runs.Silent())
    return write_report([folder], folder)


def configure(environment: Any, settings: Mapping[str, Any] | None = None, recipe: str = "track") -> AnyConfig:
    """The settings of a run in an environment of one's own; arguments as in `train`.

    Raises:
        UserError: an environment that cannot be found again, or settings that are refused.
    """
    name, arguments = _found_again(environment)
    own = {"recipe": name.rpartition(":")[2], "task.name": name, **({"task.arguments": arguments} if arguments else {})}
    return overlay(load(recipe), {**own, **(settings or {})})


def _found_again(environment: Any) -> tuple[str, dict[str, Any]]:
    """Where an environment is found, and what it is made with."""
    if isinstance(environment, str):
        return environment, {}
    if is_dataclass(environment) and not isinstance(environment, type):
        values = {f.name: getattr(environment, f.name) for f in fields(environment) if f.init}
        return _found_again(type(environment))[0], values
    module, qualname = getattr(environment, "__module__", None), getattr(environment, "__qualname__", None)
    shown = qualname or type(environment).__name__
    mend = "give a class or function, at the top of a module or of the file that runs, which makes it"
    require(isinstance(module, str) and isinstance(qualname, str) and "<" not in str(qualname), FIELD, shown, mend)
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        require(bool(file), FIELD, shown, "it is typed in; put it into a file, which other programs can read")
        return f"{Path(str(file)).resolve()}:{qualname}", {}
    name = f"{module}:{qualname}"
    if find(name, FIELD) is not environment:
        raise UserError(FIELD, name, f"another thing is found there; {mend}")
    return name, {}
