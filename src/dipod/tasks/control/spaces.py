"""Gymnasium's spaces as vectors: what is flattened, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.tasks.control.gymnasium_interface import EXTRA
from dipod.tasks.control.units import ActionUnits

VECTOR_SPACES = ("Box", "Discrete", "MultiBinary", "MultiDiscrete", "Dict", "Tuple")
IMAGE = 1024
"""A Box of two dimensions or more with more numbers than this is an image."""

Flatten = Callable[[Any, str], NDArray[Any]]
"""From an observation, and the name of who gave it, to a vector."""


def flattening(name: str, space: Any) -> tuple[int, Flatten]:
    """How many numbers an observation has, and what makes a vector of it.

    A Box is read row by row; a Dict's entries follow each other in the order of the space's keys, a Tuple's in theirs,
    and a Discrete number becomes a one-hot vector (``gymnasium.spaces.flatten``).

    Args:
        name: the environment's, for messages.
        space: its observation space.

    Raises:
        UserError: a space with images, or with what is no vector. What the function returned raises says what an
            observation was instead of what the space promised.
    """
    spaces = load_extra("gymnasium.spaces", EXTRA)
    for leaf in _leaves(space):
        kind = type(leaf).__name__
        mend = f"observations of {name} must be vectors; wrap the environment so that it gives a Box, Dict or Tuple"
        require(kind in VECTOR_SPACES, "observation space", str(leaf)[:80], mend)
        _refuse_image(name, leaf)
    if type(space).__name__ != "Box":
        size = int(spaces.flatten_space(space).shape[0])

        def flatten(observation: Any, who: str) -> NDArray[Any]:
            try:
                return np.asarray(spaces.flatten(space, observation)).ravel()
            except Exception as error:
                mend = f"{who} promised {str(space)[:80]} ({type(error).__name__}: {error}); mend its reset and step"
                raise UserError("observation", str(observation)[:80], " ".join(mend.split())) from error

        return size, flatten
    shape: tuple[int, ...] = space.shape

    def ravel(observation: Any, who: str) -> NDArray[Any]:
        found = np.shape(observation)
        require(found == shape, "observation shape", found, f"{who} promised {shape}; mend its reset and step")
        return np.asarray(observation).ravel()

    return int(np.prod(shape)), ravel


def _leaves(space: Any) -> Iterator[Any]:
    """The spaces that a Dict or Tuple is made of."""
    kind = type(space).__name__
    if kind in ("Dict", "Tuple"):
        for part in space.spaces.values() if kind == "Dict" else space.spaces:
            yield from _leaves(part)
    else:
        yield space


def _refuse_image(name: str, space: Any) -> None:
    shape = getattr(space, "shape", None) or ()
    picture = space.dtype == np.uint8 and len(shape) >= 3
    large = len(shape) >= 2 and int(np.prod(shape)) > IMAGE
    mend = (
        f"this looks like an image, and {name} would need an encoder that is not here; give vectors, or flatten it "
        "yourself (gymnasium.wrappers.FlattenObservation) if it is none"
    )
    require(not (type(space).__name__ == "Box" and (picture or large)), "observation space", str(space)[:80], mend)


def action_box(name: str, space: Any) -> tuple[Any, ActionUnits]:
    """The action space, a Box of real numbers, and how actions from −1 to 1 are spread over it.

    Raises:
        UserError: it is another space.
    """
    box = type(space).__name__ == "Box"
    mend = f"actions of {name} must be a Box; a flow policy gives real numbers: wrap the environment, or choose another"
    require(box, "action space", str(space)[:80], mend)
    real = np.issubdtype(space.dtype, np.floating)
    require(real, "action space", str(space)[:80], f"actions of {name} must be real numbers; wrap the environment")
    low, high = (torch.from_numpy(np.asarray(end, np.float64).ravel().copy()) for end in (space.low, space.high))
    return space, ActionUnits.spread(low, high)
