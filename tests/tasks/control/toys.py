"""Small Gymnasium environments with one peculiarity each; not run where Gymnasium is missing."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium")
spaces = gymnasium.spaces
OPEN = spaces.Box(-np.inf, np.inf, (2,), np.float64)


class Point(gymnasium.Env):  # type: ignore[misc, name-defined]
    """A point to be brought to a goal; its actions lie in [0, 3] x [-2, 2]."""

    observation_space: Any = OPEN
    action_space: Any = spaces.Box(np.array([0.0, -2.0]), np.array([3.0, 2.0]), dtype=np.float32)
    max_path_length = 12

    def __init__(self, goal: float = 0.0, reach: float = 0.05) -> None:
        self.goal, self.reach = goal, reach
        self.received: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.received.append(action)
        self.place = self.place + 0.05 * (action - np.array([1.5, 0]))
        apart = float(np.linalg.norm(self.place - self.goal))
        return self.place.copy(), -apart, False, False, {"is_success": apart < self.reach}


class Goals(Point):
    """Shows a Dict with a Tuple in it."""

    observation_space = spaces.Dict(
        {"observation": OPEN, "achieved": spaces.Tuple((spaces.Box(-9, 9, (1,)), spaces.Discrete(3)))}
    )

    def shown(self) -> dict[str, Any]:
        return {"achieved": (np.array([7.0], np.float32), 2), "observation": self.place.copy()}

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        _, *rest = super().step(action)
        return self.shown(), *rest


class OldStep(Point):
    """Returns four values, as before Gymnasium 0.26."""

    def step(self, action: Any) -> Any:
        observation, reward, ended, _, info = super().step(action)
        return observation, reward, ended, info


class OldReset(Point):
    """Returns the observation alone."""

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0]


class GoalBeforeSeed(gymnasium.Wrapper):  # type: ignore[misc, name-defined]
    """Meta-World's defect: the goal is one of a list drawn at construction, chosen before the seed is there."""

    def __init__(self) -> None:
        super().__init__(Point())
        self.goals = np.random.uniform(-1, 1, 20)

    def reset(self, **options: Any) -> Any:
        self.unwrapped.goal = self.np_random.choice(self.goals)
        observation, info = super().reset(**options)
        return observation + self.unwrapped.goal, info


class OwnGenerators(Point):
    """Draws from a generator of its own, and from the global ones in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = np.random.default_rng()

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        self.place = self.place + self.mine.normal(size=2)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        self.place = self.place + 0.1 * np.random.rand(2) + 0.1 * random.random() + 0.1 * torch.rand(2).numpy()
        return super().step(action)


class Restless(Point):
    """Draws from something that nobody can seed."""

    counter = 0

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        Restless.counter += 1
        self.place = self.place + Restless.counter
        return self.place.copy(), {}


class Failing(Point):
    """Raises an error, or gives NaN, where its place passes a border."""

    def __init__(self, border: float = 0.6, how: str = "raise", resets: int = 10**9) -> None:
        super().__init__()
        self.border, self.how, self.resets = border, how, resets

    def reset(self, **options: Any) -> Any:
        if self.resets <= 0:
            raise RuntimeError("the simulator is gone")
        self.resets -= 1
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        if self.place[0] > self.border:
            if self.how == "raise":
                raise ZeroDivisionError("unstable")
            observation[1] = np.nan
        return observation, *rest
