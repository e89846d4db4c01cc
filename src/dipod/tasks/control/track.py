"""Follow a moving reference with many coupled joints: a miniature of motion tracking.

D joints, each a double integrator, hang together in a chain of springs:

    v̇ = strength·clip(a, −1, 1) − damping·v − coupling·L q,    q̇ = v,

L the Laplacian of the chain, integrated by the semi-implicit Euler rule. The reference r(t) is a periodic sum of
sines of its own for every joint. An episode begins on the reference at a random time, and is lost as soon as one
joint is further than ``threshold`` from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dipod.errors import at_least, not_negative, positive
from dipod.tasks.control.protocol import Drawing, Line
from dipod.tasks.control.worlds import Draws, State, push

CYCLES = (1, 2, 3)
"""Cycles per period of the sines that a reference is the sum of."""
POSITION_SCALE, VELOCITY_SCALE = 0.2, 1.0
"""Root mean square errors at which the tracking rewards have fallen to 1/e."""


@dataclass(frozen=True)
class Track:
    """Motion tracking in miniature.

    The reward of a step is, with E the mean over the joints,

        dt·(exp(−E(q − r)²/0.2²) + ½·exp(−E(v − ṙ)²/1²) − rate_penalty·E(a − a_before)²),

    so at most 1.5·dt = 0.03, and an episode of 250 steps gives at most 7.5.

    Observation: r − q, ṙ − v, r, ṙ, and the change of r and ṙ within the next ``ahead`` steps; the action before; sine
    and cosine of the reference's phase: [7D + 2].

    Attributes:
        name: "track".
        dimensions: D.
        threshold: largest error of a joint that does not end the episode.
        coupling: stiffness of the springs between neighbours, 1/s².
        damping: 1/s.
        strength: acceleration by a full action, 1/s².
        amplitude: root mean square of a joint's reference.
        period: of the reference, in seconds.
        rate_penalty: weight of the change of the action.
        start_noise: standard deviation of the first errors, in position, and per second in velocity.
        ahead: steps of foresight.
        dt: seconds per step.
        max_episode_length: steps after which an episode is truncated.
        motion: which reference; another number is another motion.
    """

    action_limit: ClassVar[float] = 1.0

    name: Literal["track"] = "track"
    dimensions: int = 29
    threshold: float = 0.5
    coupling: float = 5.0
    damping: float = 1.0
    strength: float = 20.0
    amplitude: float = 0.5
    period: float = 5.0
    rate_penalty: float = 0.01
    start_noise: float = 0.02
    ahead: int = 5
    dt: float = 0.02
    max_episode_length: int = 250
    motion: int = 0

    def __post_init__(self) -> None:
        at_least(self, "", 1, "dimensions")
        at_least(self, "", 0, "ahead")
        positive(self, "", "threshold", "strength", "amplitude", "period", "dt")
        not_negative(self, "", "coupling", "damping", "rate_penalty", "start_noise")

    @property
    def observation_size(self) -> int:
        """7D + 2."""
        return 7 * self.dimensions + 2

    @property
    def action_size(self) -> int:
        """D."""
        return self.dimensions

    @property
    def reward_bound(self) -> float:
        """No step's reward is above it."""
        return 1.5 * self.dt

    def reference(self, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Position and velocity of the reference at phases [N] in periods, [N, D] each."""
        table = _table(self, phase.device, phase.dtype)[:, : 2 * self.dimensions]
        position, velocity = (_waves(phase) @ table).chunk(2, -1)
        return position, velocity

    def acceleration(self, phase: Tensor) -> Tensor:
        """That of the reference, [N, D]."""
        return _waves(phase) @ _table(self, phase.device, phase.dtype)[:, 2 * self.dimensions :]

    def begin(self, draws: Draws) -> State:
        """On the reference at a random time, but for a little noise."""
        phase = draws.uniform(0, 1)
        position, velocity = self.reference(phase)
        return {
            "position": position + draws.normal(self.start_noise, self.dimensions),
            "velocity": velocity + draws.normal(self.start_noise, self.dimensions),
            "phase": phase,
            "action": torch.zeros_like(position),
        }

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """One semi-implicit Euler step; reward and threshold are taken where it leads to."""
        action = action.clamp(-1, 1)
        position, velocity = state["position"], state["velocity"]
        force = self.strength * action - self.damping * velocity - self.coupling * chain(position)
        position, velocity = push(position, velocity, force, self.dt)
        phase = (state["phase"] + self.dt / self.period) % 1.0
        target, target_velocity = self.reference(phase)
        error = position - target
        tracking = torch.exp(-error.square().mean(-1) / POSITION_SCALE**2)
        pace = torch.exp(-(velocity - target_velocity).square().mean(-1) / VELOCITY_SCALE**2)
        rate = (action - state["action"]).square().mean(-1)
        reward = self.dt * (tracking + 0.5 * pace - self.rate_penalty * rate)
        after = {"position": position, "velocity": velocity, "phase": phase, "action": action}
        return after, reward, error.abs().amax(-1) > self.threshold

    def observe(self, state: State) -> Tensor:
        """[N, 7D + 2]."""
        phase = state["phase"]
        reference, reference_velocity = self.reference(torch.cat([phase, phase + self.ahead * self.dt / self.period]))
        target, later = reference.chunk(2)
        target_velocity, later_velocity = reference_velocity.chunk(2)
        angle = 2 * math.pi * phase[:, None]
        errors = (target - state["position"], target_velocity - state["velocity"])
        foresight = (later - target, later_velocity - target_velocity)
        return torch.cat([*errors, target, target_velocity, *foresight, state["action"], angle.sin(), angle.cos()], -1)

    def draw(self, state: State) -> Drawing:
        """The positions of the joints side by side, and where they should be."""
        target = self.reference(state["phase"][None])[0].squeeze(0)
        place = torch.arange(self.dimensions, dtype=target.dtype)
        high = 3 * self.amplitude + self.threshold
        return Drawing(
            bounds=(-0.5, self.dimensions - 0.5, -high, high),
            lines=(
                Line(torch.stack([place, target], -1), role="target"),
                Line(torch.stack([place, state["position"]], -1)),
            ),
            equal=False,
        )


def chain(position: Tensor) -> Tensor:
    """L q of a chain with free ends: every joint's position against its neighbours', [N, D]."""
    stretch = position.diff(dim=-1)
    pull = torch.nn.functional.pad(stretch, (1, 1))
    return pull[..., :-1] - pull[..., 1:]


def _waves(phase: Tensor) -> Tensor:
    """Sines and cosines that references are made of, at phases [N] in periods: [N, 2C]."""
    angle = 2 * math.pi * phase[:, None] * torch.tensor(CYCLES, device=phase.device, dtype=phase.dtype)
    return torch.cat([angle.sin(), angle.cos()], -1)


@lru_cache(maxsize=16)
def _table(world: Track, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What the waves of one motion are weighed with, [2C, 3D]: for its position, velocity and acceleration."""
    generator = torch.Generator().manual_seed(world.motion)
    waves = torch.randn(2, len(CYCLES), world.dimensions, generator=generator, dtype=torch.float64)
    sine, cosine = world.amplitude * waves / (waves.square().sum((0, 1)) / 2).sqrt()
    rate = torch.tensor(CYCLES, dtype=torch.float64)[:, None] * (2 * math.pi / world.period)
    position = torch.cat([sine, cosine])
    velocity = torch.cat([-rate * cosine, rate * sine])
    acceleration = torch.cat([-(rate**2) * sine, -(rate**2) * cosine])
    return torch.cat([position, velocity, acceleration], -1).to(device, dtype)
