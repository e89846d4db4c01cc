"""The seed of a reset, brought to whatever an environment draws from.

Gymnasium asks an environment to draw from ``np_random``, which ``reset(seed=...)`` seeds before anything is drawn. Some
draw before that, from generators of their own, or from Python's, NumPy's or torch's global ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

GlobalState = tuple[Any, Any, torch.Tensor]


def layers(environment: Any) -> Iterator[Any]:
    """An environment's wrappers from the outside in, and at last the environment itself."""
    seen: set[int] = set()
    while environment is not None and id(environment) not in seen:
        seen.add(id(environment))
        yield environment
        environment = vars(environment).get("env") if hasattr(environment, "__dict__") else None


def reseed(environment: Any, seed: int) -> None:
    """Seed, in place, every generator that an environment or one of its wrappers holds."""
    _ = getattr(environment.unwrapped, "np_random", None)  # made now, where it is made when first asked for
    for layer in layers(environment):
        for value in list(getattr(layer, "__dict__", {}).values()):
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            for one in held:
                _seed(one, seed)


def _seed(holder: Any, seed: int) -> None:
    if isinstance(holder, np.random.Generator):
        holder.bit_generator.state = type(holder.bit_generator)(seed).state
    elif isinstance(holder, np.random.RandomState):
        holder.seed(seed % 2**32)
    elif isinstance(holder, random.Random):
        holder.seed(seed)
    elif isinstance(holder, torch.Generator):
        holder.manual_seed(seed)
    elif type(holder).__module__.startswith("gymnasium.spaces"):
        holder.seed(seed)


@contextmanager
def untouched() -> Iterator[None]:
    """After it, the global generators are as they were before."""
    outside = _read()
    try:
        yield
    finally:
        _write(outside)


class OwnGlobals:
    """The global generators as one environment sees them: what it draws moves its own state, and nobody else's."""

    def __init__(self, seed: int) -> None:
        self.state: GlobalState | int = seed

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside it, the global generators are this environment's."""
        with untouched():
            if isinstance(self.state, int):
                random.seed(self.state)
                np.random.seed(self.state % 2**32)
                torch.default_generator.manual_seed(self.state)
            else:
                _write(self.state)
            try:
                yield
            finally:
                self.state = _read()


def _read() -> GlobalState:
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state()


def _write(state: GlobalState) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.default_generator.set_state(state[2])
