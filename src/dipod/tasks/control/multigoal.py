"""Reach any one of several goals: the best policy has several modes. The continuous form of a grid world with goals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dipod.errors import at_least, not_negative, positive, require
from dipod.tasks.control.protocol import Circle, Drawing, Line
from dipod.tasks.control.worlds import Draws, State, push


@dataclass(frozen=True)
class MultiGoal:
    """A point mass in a square, starting at rest near the middle of a circle of goals.

        v̇ = strength·clip(a, −1, 1) − damping·v,    ṗ = v,

    by the semi-implicit Euler rule; walls stop it. The reward of a step is −control_cost·|a|²/2, and 1 more where it
    leads within ``reach`` of a goal, which ends the episode.

    Observation: p, v.

    Attributes:
        name: "multigoal".
        goal_count: G, evenly spaced on the circle, the first to the right.
        radius: of the circle.
        reach: how near counts as reached.
        arena: half the side of the square.
        strength: acceleration by a full action.
        damping: 1/s.
        control_cost: of a step with full action.
        start_noise: standard deviation of the first position.
        dt: seconds per step.
        max_episode_length: steps after which an episode is truncated.
    """

    observation_size: ClassVar[int] = 4
    action_size: ClassVar[int] = 2
    action_limit: ClassVar[float] = 1.0

    name: Literal["multigoal"] = "multigoal"
    goal_count: int = 6
    radius: float = 1.0
    reach: float = 0.15
    arena: float = 1.5
    strength: float = 4.0
    damping: float = 2.0
    control_cost: float = 0.01
    start_noise: float = 0.05
    dt: float = 0.05
    max_episode_length: int = 100

    def __post_init__(self) -> None:
        at_least(self, "", 1, "goal_count")
        positive(self, "", "radius", "reach", "arena", "strength", "dt")
        not_negative(self, "", "damping", "control_cost", "start_noise")
        require(self.radius <= self.arena, "radius", self.radius, f"the goals lie outside the arena of {self.arena}")

    @property
    def goals(self) -> Tensor:
        """Where they are, [G, 2] float64."""
        angle = 2 * math.pi * torch.arange(self.goal_count, dtype=torch.float64) / self.goal_count
        return self.radius * torch.stack([angle.cos(), angle.sin()], -1)

    def begin(self, draws: Draws) -> State:
        """At rest, near the middle."""
        position = draws.normal(self.start_noise, 2)
        return {"position": position, "velocity": torch.zeros_like(position)}

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """One semi-implicit Euler step."""
        action = action.clamp(-1, 1)
        force = self.strength * action - self.damping * state["velocity"]
        free, velocity = push(state["position"], state["velocity"], force, self.dt)
        position = free.clamp(-self.arena, self.arena)
        velocity = velocity.where(position == free, 0)
        goals = _goals(self, position.device, position.dtype)
        distance = (position[:, None] - goals).square().sum(-1).amin(-1).sqrt()
        reached = distance < self.reach
        reward = reached.to(position.dtype) - self.control_cost * action.square().mean(-1)
        return {"position": position, "velocity": velocity}, reward, reached

    def observe(self, state: State) -> Tensor:
        """[N, 4]."""
        return torch.cat([state["position"], state["velocity"]], -1)

    def draw(self, state: State) -> Drawing:
        """The goals, the point and where it is heading."""
        position, side = state["position"], self.arena
        ahead = position + 0.2 * state["velocity"]
        return Drawing(
            bounds=(-side, side, -side, side),
            lines=(Line(torch.stack([position, ahead])),),
            circles=(*(Circle(goal, self.reach, "target") for goal in self.goals), Circle(position, 0.05)),
        )


@lru_cache(maxsize=16)
def _goals(world: MultiGoal, device: torch.device, dtype: torch.dtype) -> Tensor:
    return world.goals.to(device, dtype)
