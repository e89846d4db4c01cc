"""Swing a pendulum up and hold it there: the dynamics and the cost of Gymnasium's Pendulum-v1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dipod.errors import positive
from dipod.tasks.control.protocol import Circle, Drawing, Line
from dipod.tasks.control.worlds import Draws, State

GRAVITY, MASS, LENGTH = 10.0, 1.0, 1.0
MAX_SPEED, MAX_TORQUE = 8.0, 2.0


@dataclass(frozen=True)
class Pendulum:
    """A rod on a hinge with a weak motor.

    The reward of a step is −(θ² + 0.1·θ̇² + 0.001·u²), θ = 0 upright, θ within ±π and u the torque: at most 0, at least
    −16.3. No episode ends before its time.

    Observation: cos θ, sin θ, θ̇. A full action is a torque of 2.

    Attributes:
        name: "pendulum".
        dt: seconds per step.
        max_episode_length: steps after which an episode is truncated.
    """

    observation_size: ClassVar[int] = 3
    action_size: ClassVar[int] = 1
    action_limit: ClassVar[float] = 1.0

    name: Literal["pendulum"] = "pendulum"
    dt: float = 0.05
    max_episode_length: int = 200

    def __post_init__(self) -> None:
        positive(self, "", "dt")

    def begin(self, draws: Draws) -> State:
        """Any angle, at most 1 rad/s."""
        return {"angle": draws.uniform(-math.pi, math.pi), "speed": draws.uniform(-1, 1)}

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """One semi-implicit Euler step; the cost is taken where it starts."""
        angle, speed = state["angle"], state["speed"]
        torque = MAX_TORQUE * action[:, 0].clamp(-1, 1)
        deviation = (angle + math.pi) % (2 * math.pi) - math.pi
        cost = deviation.square() + 0.1 * speed.square() + 0.001 * torque.square()
        pull = 1.5 * GRAVITY / LENGTH * angle.sin() + 3 / (MASS * LENGTH**2) * torque
        speed = (speed + self.dt * pull).clamp(-MAX_SPEED, MAX_SPEED)
        after = {"angle": angle + self.dt * speed, "speed": speed}
        return after, -cost, torch.zeros_like(cost, dtype=torch.bool)

    def observe(self, state: State) -> Tensor:
        """[N, 3]."""
        angle = state["angle"]
        return torch.stack([angle.cos(), angle.sin(), state["speed"]], -1)

    def draw(self, state: State) -> Drawing:
        """The rod and where its end should be."""
        angle = state["angle"]
        hinge, tip = torch.zeros(2, dtype=angle.dtype), LENGTH * torch.stack([angle.sin(), angle.cos()])
        return Drawing(
            bounds=(-1.3, 1.3, -1.3, 1.3),
            lines=(Line(torch.stack([hinge, tip]), width=0.12),),
            circles=(Circle(torch.tensor([0.0, LENGTH]), 0.08, "target"), Circle(hinge, 0.05, "scene")),
        )
