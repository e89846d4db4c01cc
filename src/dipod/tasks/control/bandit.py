"""A bandit with a context: one action an episode, and several goals whose pay the context decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dipod.errors import at_least, positive
from dipod.tasks.control.protocol import Circle, Drawing, Line
from dipod.tasks.control.worlds import Draws, State


@dataclass(frozen=True)
class Bandit:
    """Choose a point of the plane. Goals stand evenly on a circle, at angles θ_g; the context is an angle φ.

    Goal g pays w_g = (1 + cos(φ − θ_g))/2 and less around it: the reward is max_g w_g / (1 + |a − goal_g|²/reach²),
    between 0 and 1. Each goal is a local best; where the context lies in the middle of two, they are equally good. The
    best policy gets (1 + G/π·sin(π/G))/2 on average, 0.914 with three goals. Each episode is one step.

    Observation: cos φ, sin φ.

    Attributes:
        name: "bandit".
        goal_count: G, the first to the right.
        radius: of the circle.
        reach: at this distance a goal pays half.
    """

    observation_size: ClassVar[int] = 2
    action_size: ClassVar[int] = 2
    max_episode_length: ClassVar[int] = 1

    name: Literal["bandit"] = "bandit"
    goal_count: int = 3
    radius: float = 1.0
    reach: float = 0.4

    def __post_init__(self) -> None:
        at_least(self, "", 1, "goal_count")
        positive(self, "", "radius", "reach")

    @property
    def angles(self) -> Tensor:
        """Those of the goals, [G] float64."""
        return 2 * math.pi * torch.arange(self.goal_count, dtype=torch.float64) / self.goal_count

    @property
    def goals(self) -> Tensor:
        """Where they are, [G, 2] float64."""
        return self.radius * torch.stack([self.angles.cos(), self.angles.sin()], -1)

    def begin(self, draws: Draws) -> State:
        """Any context."""
        return {"context": draws.uniform(-math.pi, math.pi)}

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """The reward of the action; the episode is over."""
        apart = (action[:, None] - self.goals.to(action)).square().sum(-1)
        reward = (self.pays(state["context"]) / (1 + apart / self.reach**2)).amax(-1)
        return state, reward, torch.ones_like(reward, dtype=torch.bool)

    def pays(self, context: Tensor) -> Tensor:
        """W of every goal, [..., G], in contexts [...]."""
        return (1 + (context[..., None] - self.angles.to(context)).cos()) / 2

    def observe(self, state: State) -> Tensor:
        """[N, 2]."""
        return torch.stack([state["context"].cos(), state["context"].sin()], -1)

    def draw(self, state: State) -> Drawing:
        """The goals, as large as they pay, and a line in the context's direction."""
        side, context = self.radius + 2 * self.reach, self.observe(state)
        pays = self.pays(state["context"]).tolist()
        circles = (Circle(goal, self.reach * pay, "target") for goal, pay in zip(self.goals, pays, strict=True))
        line = Line(torch.stack([torch.zeros_like(context), self.radius * context]))
        return Drawing(bounds=(-side, side, -side, side), lines=(line,), circles=(*circles,))
