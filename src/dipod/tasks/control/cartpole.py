"""Swing a pole up by pushing the cart that it hangs from, without leaving the rail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dipod.errors import positive
from dipod.tasks.control.protocol import Drawing, Line
from dipod.tasks.control.worlds import Draws, State

GRAVITY, CART, POLE, HALF_LENGTH = 9.8, 1.0, 0.1, 0.5
"""m/s², kg, kg, m: those of Gymnasium's CartPole."""


@dataclass(frozen=True)
class CartpoleSwingup:
    """A cart of 1 kg on a rail, and a uniform pole of 0.1 kg and 1 m on a hinge, without friction.

        (M + m)·ẍ + m·l·(θ̈ cos θ − θ̇² sin θ) = F,    (4/3)·l·θ̈ + ẍ cos θ = g sin θ,

    θ = 0 upright, integrated by one Runge-Kutta step of fourth order under a constant force. The reward of a step is
    ½(1 + cos θ)·(1 − (x/rail)²), where it leads to: between 0 and 1. Off the rail an episode ends with reward 0.

    Observation: x/rail, ẋ, cos θ, sin θ, θ̇.

    Attributes:
        name: "cartpole-swingup".
        force: of a full action, in newtons.
        rail: how far the cart may go to either side, in metres.
        dt: seconds per step.
        max_episode_length: steps after which an episode is truncated.
    """

    observation_size: ClassVar[int] = 5
    action_size: ClassVar[int] = 1
    action_limit: ClassVar[float] = 1.0

    name: Literal["cartpole-swingup"] = "cartpole-swingup"
    force: float = 10.0
    rail: float = 2.4
    dt: float = 0.02
    max_episode_length: int = 500

    def __post_init__(self) -> None:
        positive(self, "", "force", "rail", "dt")

    def begin(self, draws: Draws) -> State:
        """Hanging, almost at rest, near the middle."""
        around = draws.uniform(-0.05, 0.05, 4)
        return {"motion": around + torch.tensor([0.0, 0.0, math.pi, 0.0], device=around.device, dtype=around.dtype)}

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """One step of ``motion`` [N, 4]: x, ẋ, θ, θ̇."""
        force = self.force * action[:, 0].clamp(-1, 1)
        start = state["motion"]
        first = _rates(start, force)
        second = _rates(start + self.dt / 2 * first, force)
        third = _rates(start + self.dt / 2 * second, force)
        fourth = _rates(start + self.dt * third, force)
        motion = start + self.dt / 6 * (first + 2 * second + 2 * third + fourth)
        place, angle = motion[:, 0] / self.rail, motion[:, 2]
        reward = (1 + angle.cos()) / 2 * (1 - place.square()).clamp(min=0)
        return {"motion": motion}, reward, place.abs() > 1

    def observe(self, state: State) -> Tensor:
        """[N, 5]."""
        x, velocity, angle, turn = state["motion"].unbind(-1)
        return torch.stack([x / self.rail, velocity, angle.cos(), angle.sin(), turn], -1)

    def draw(self, state: State) -> Drawing:
        """Rail, cart and pole."""
        x, _, angle, _ = state["motion"]
        cart = torch.stack([x, torch.zeros_like(x)])
        tip = cart + 2 * HALF_LENGTH * torch.stack([angle.sin(), angle.cos()])
        side = torch.tensor([0.2, 0.0], dtype=x.dtype)
        rail = torch.tensor([[-self.rail, 0.0], [self.rail, 0.0]], dtype=x.dtype)
        return Drawing(
            bounds=(-self.rail - 0.3, self.rail + 0.3, -1.3, 1.3),
            lines=(
                Line(rail, "scene"),
                Line(torch.stack([cart - side, cart + side]), width=0.2),
                Line(torch.stack([cart, tip]), width=0.08),
            ),
        )


def _rates(motion: Tensor, force: Tensor) -> Tensor:
    """d/dt of (x, ẋ, θ, θ̇) under a force: the two equations of `CartpoleSwingup` solved for ẍ and θ̈, [N, 4]."""
    _, velocity, angle, turn = motion.unbind(-1)
    sine, cosine = angle.sin(), angle.cos()
    mass, arm = CART + POLE, POLE * HALF_LENGTH
    push = (force + arm * turn.square() * sine) / mass
    spin = (GRAVITY * sine - cosine * push) / (HALF_LENGTH * (4 / 3 - POLE * cosine.square() / mass))
    return torch.stack([velocity, push - arm / mass * spin * cosine, turn, spin], -1)
