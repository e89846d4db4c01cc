"""Environments whose observations and actions are vectors: embedded ones in torch, and Gymnasium's by id."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from dipod.errors import require
from dipod.tasks.control.bandit import Bandit
from dipod.tasks.control.cartpole import CartpoleSwingup
from dipod.tasks.control.guard import check_observation, check_step
from dipod.tasks.control.gymnasium import GymnasiumConfig, GymnasiumEpisodes
from dipod.tasks.control.gymnasium_interface import looks_like_id
from dipod.tasks.control.multigoal import MultiGoal
from dipod.tasks.control.own import OwnConfig, build_own
from dipod.tasks.control.pendulum import Pendulum
from dipod.tasks.control.protocol import Circle, Drawing, Environment, EnvironmentNote, Line, Step
from dipod.tasks.control.track import Track
from dipod.tasks.control.units import ActionUnits
from dipod.tasks.control.worlds import WorldEpisodes

WORLDS: tuple[type[Track | Pendulum | CartpoleSwingup | MultiGoal | Bandit], ...] = (
    Track,
    Pendulum,
    CartpoleSwingup,
    MultiGoal,
    Bandit,
)

__all__ = [
    "WORLDS",
    "ActionUnits",
    "Bandit",
    "CartpoleSwingup",
    "Circle",
    "Drawing",
    "Environment",
    "EnvironmentNote",
    "GymnasiumConfig",
    "GymnasiumEpisodes",
    "Line",
    "MultiGoal",
    "OwnConfig",
    "Pendulum",
    "Step",
    "Track",
    "WorldEpisodes",
    "build_own",
    "check_observation",
    "check_step",
    "make",
]


def make(
    name: str,
    count: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> WorldEpisodes | GymnasiumEpisodes:
    """``count`` environments by name.

    Args:
        name: track, pendulum, cartpole-swingup, multigoal, bandit, or a Gymnasium id such as "HalfCheetah-v5".
        count: N.
        device: where observations and rewards live, and the embedded environments themselves.
        dtype: of observations and rewards.
        settings: fields of the world (`Track`, ...) or arguments of `GymnasiumEpisodes`.

    Raises:
        UserError: no such environment or setting, or a value that is refused.
    """
    embedded = {world.name: world for world in WORLDS}
    if name in embedded:
        world = embedded[name]
        known = [field.name for field in fields(world) if field.name != "name"]
        for key, value in settings.items():
            require(key in known, key, value, f"{name} has {', '.join(known)}")
        return WorldEpisodes(world(**settings), count, device, dtype)
    mend = f"choose one of {', '.join(embedded)}, or give an id that Gymnasium knows, such as HalfCheetah-v5"
    require(looks_like_id(name), "environment", name, mend)
    return GymnasiumEpisodes(name, count, device, dtype, **settings)
