"""What Gymnasium and its environments are asked for, and what they say."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dipod.errors import UserError
from dipod.extras import load_extra
from dipod.modules import see_here
from dipod.tasks.control.seeding import layers

EXTRA = "gymnasium"
LIMITS = ("_max_episode_steps", "max_episode_steps", "max_path_length")
"""What environments call a time limit of their own."""
SUCCESS = ("success", "is_success")
OLD = "four values, and a reset without info, are the interface before Gymnasium 0.26: wrap the environment"


def make_registered(name: str, render: bool, options: Mapping[str, Any]) -> Any:
    """One environment without Gymnasium's own clock and checks.

    Raises:
        UserError: Gymnasium does not know the id or an option, or cannot import what it takes.
    """
    gymnasium = load_extra("gymnasium", EXTRA)
    mode = {"render_mode": "rgb_array"} if render else {}
    if ":" in name:
        see_here()
    try:
        return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **mode, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError("environment", name, f"give an id that Gymnasium knows ({_line(error)})") from error
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError("environment", name, f"Gymnasium cannot make it: {_line(error)}") from error
    except TypeError as error:
        given = f"{name} refuses them: {_line(error)}; arguments are given as --task.arguments.NAME VALUE"
        raise UserError("environment options", dict(options), given) from error


def looks_like_id(name: str) -> bool:
    """Whether a name is an id: one with a version or a module, or one that Gymnasium knows without."""
    if re.search(r"-v\d+$|:", name) is not None:
        return True
    try:
        return name in load_extra("gymnasium", EXTRA).registry
    except UserError:
        return False


def own_limit(environment: Any) -> int:
    """The time limit that an environment's id or one of its layers comes with; 0 where there is none."""
    spec = getattr(environment, "spec", None)
    known = load_extra("gymnasium", EXTRA).registry.get(spec.id) if spec is not None else None
    limits = [known.max_episode_steps] if known is not None else []
    limits += [
        vars(layer).get(name, getattr(type(layer), name, None)) for layer in layers(environment) for name in LIMITS
    ]
    whole = (limit for limit in limits if isinstance(limit, int | np.integer) and limit > 0)
    return int(next(whole, 0))


def success(info: Any) -> float:
    """Whether an ``info`` says that the task is done, as 0 or 1; NaN where it does not say."""
    for key in SUCCESS:
        said = info.get(key) if isinstance(info, Mapping) else None
        if isinstance(said, bool | int | float | np.bool_ | np.number | np.ndarray) and np.size(said) == 1:
            return float(np.asarray(said).item() > 0)
    return math.nan


def described(found: Any) -> str:
    """What a reset or a step returned, in a few words."""
    return f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__


def place(error: Exception) -> str:
    """An error in one line, with the place in the code that raised it."""
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_line(error)}"[:200] + where


def _line(error: Exception) -> str:
    """A message of somebody else's in one line."""
    return " ".join(str(error).split())
