"""Environments of the user's own: laws in torch, a Gymnasium environment, or a whole batch, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dipod.errors import UserError, require
from dipod.modules import absolute, find
from dipod.tasks.control.episodes import OnError
from dipod.tasks.control.gymnasium import GymnasiumEpisodes
from dipod.tasks.control.gymnasium_interface import place
from dipod.tasks.control.protocol import Environment
from dipod.tasks.control.seeding import OwnGlobals
from dipod.tasks.control.worlds import WorldEpisodes

FIELD = "task.name"
WORLD = ("begin", "advance", "observe")
SIZES = ("observation_size", "action_size", "max_episode_length")
BATCH = ("count", *SIZES, "reset", "step", "state", "load_state")
SINGLE = ("observation_space", "action_space", "reset", "step")


@dataclass(frozen=True)
class OwnConfig:
    """An environment of the user's own.

    Attributes:
        name: where it is, "module:attribute" or "file.py:attribute": a class or function that makes a
            `dipod.tasks.control.worlds.World`, a Gymnasium environment, or, if it takes ``count``, a whole
            `dipod.tasks.control.protocol.Environment`; or such a world itself.
        max_episode_length: another time limit than its own; 0 keeps that.
        arguments: what it is made with; on the command line ``--task.arguments.NAME VALUE``, or all of them as JSON.
        on_error: what becomes of an environment that raises an error or gives a number that is not finite: "stop" ends
            the run; "reset" counts it in ``environment_errors`` and begins its next episode.
    """

    name: str = ""
    max_episode_length: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    on_error: OnError = "stop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", absolute(self.name))  # a file's, from any folder
        mend = "give a whole number of at least 0 (0: its own)"
        require(self.max_episode_length >= 0, "task.max_episode_length", self.max_episode_length, mend)


def build_own(config: OwnConfig, count: int, device: torch.device | str = "cpu", render: bool = False) -> Environment:
    """``count`` environments of the user's own.

    Args:
        config: where they are found and what they are made with.
        count: N.
        device: where observations and rewards are handed over.
        render: ask a Gymnasium environment for frames (``render_mode="rgb_array"``).

    Raises:
        UserError: nothing of that name, an error while it is made, or something that is no environment.
    """
    target = find(config.name, FIELD)
    arguments = {**config.arguments, **({"render_mode": "rgb_array"} if render else {})}
    if not callable(target):
        mend = "this is an object already made, which takes no arguments; name the class or function that makes it"
        require(not config.arguments, "task.arguments", config.arguments, mend)
        return _environment(config, target, None, count, device)
    takes = inspect.signature(target).parameters
    if "count" in takes:
        whole = {"count": count, **({"device": device} if "device" in takes else {})}
        return _environment(config, _made(config, target, {**whole, **config.arguments}), None, count, device)

    def make() -> Any:
        return _made(config, target, arguments)

    with OwnGlobals(0)():  # as `GymnasiumEpisodes` makes the others
        made = make()
    return _environment(config, made, make, count, device, render)


def _made(config: OwnConfig, target: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return target(**arguments)
    except UserError:
        raise
    except TypeError as error:
        raise UserError("task.arguments", dict(arguments), f"{config.name} refuses them: {place(error)}") from error
    except Exception as error:
        raise UserError(FIELD, config.name, f"it cannot be made: {place(error)}") from error


def _environment(
    config: OwnConfig,
    made: Any,
    make: Callable[[], Any] | None,
    count: int,
    device: torch.device | str,
    render: bool = False,
) -> Environment:
    """What the user's thing is as N environments."""
    if _has(made, WORLD):
        missing = [name for name in SIZES if not hasattr(made, name)]
        require(not missing, FIELD, config.name, f"a world has {', '.join(SIZES)} too; add {', '.join(missing)}")
        limit = config.max_episode_length or made.max_episode_length
        return WorldEpisodes(made, count, device, max_episode_length=limit, on_error=config.on_error)
    if _has(made, BATCH):
        found = made.count
        require(found == count, FIELD, config.name, f"it has {found} environments where {count} were asked for")
        mend = "a batch has limits and errors of its own; leave them out"
        require(config.max_episode_length == 0, "task.max_episode_length", config.max_episode_length, mend)
        require(config.on_error == "stop", "task.on_error", config.on_error, mend)
        batch: Environment = made
        return batch
    one = _has(made, SINGLE) and not hasattr(made, "num_envs")
    mend = (
        f"it makes a {type(made).__name__}; give one Gymnasium environment, a world ({', '.join(WORLD)}), or, from a "
        "function that takes count, a batch (dipod.tasks.control.Environment)"
    )
    require(one, FIELD, config.name, mend)
    if make is None:
        mend = "this is one environment, and copies of it are needed; name the class or function that makes it"
        raise UserError(FIELD, config.name, mend)
    limit, error = config.max_episode_length, config.on_error
    name = config.name.rpartition(":")[2]
    return GymnasiumEpisodes(
        name, count, device, max_episode_length=limit, render=render, on_error=error, make=_first(made, make)
    )


def _first(made: Any, make: Callable[[], Any]) -> Callable[[], Any]:
    """``make``, whose first result is there already."""
    waiting = [made]
    return lambda: waiting.pop() if waiting else make()


def _has(made: Any, names: tuple[str, ...]) -> bool:
    return all(hasattr(made, name) for name in names)
