"""Environments whose N copies are rows of tensors: pure functions of their state, the same on any device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dipod.errors import UserError, require
from dipod.noise import normal_rows, uniform_rows
from dipod.tasks.control.episodes import Episodes, OnError
from dipod.tasks.control.protocol import Drawing, Kind
from dipod.tasks.control.units import ActionUnits

State = dict[str, Tensor]


@dataclass(frozen=True)
class Draws:
    """Random numbers of N environments, drawn in float32 so that every dtype sees the same ones."""

    count: int
    generator: torch.Generator
    device: torch.device
    dtype: torch.dtype

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), [N, *shape]."""
        numbers = uniform_rows(self.generator, self.count, *shape)
        return numbers.to(self.device, self.dtype) * (high - low) + low

    def normal(self, scale: float, *shape: int) -> Tensor:
        """Gaussian with mean 0 and standard deviation ``scale``, [N, *shape]."""
        numbers = normal_rows(self.generator, self.count, *shape)
        return numbers.to(self.device, self.dtype) * scale


class World(Kind, Protocol):
    """The laws of one kind of environment; its fields are the settings.

    ``state`` arguments hold what `begin` and `advance` return, one row an environment. A world that clips actions at
    ± ``action_limit`` says so by an attribute of that name, for policies that are exported.
    """

    def begin(self, draws: Draws) -> State:
        """The first states of N episodes."""
        ...

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """One step with [N, a]: the next state, rewards [N], and where it ended for good, [N] bool."""
        ...

    def observe(self, state: State) -> Tensor:
        """[N, o]."""
        ...

    def draw(self, state: State) -> Drawing:
        """A picture of a state without the row dimension."""
        ...


def push(position: Tensor, velocity: Tensor, acceleration: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """One semi-implicit Euler step: the velocity first, and the position by the new one."""
    velocity = velocity + dt * acceleration
    return position + dt * velocity, velocity


class WorldEpisodes(Episodes):
    """Episodes in a world; see `dipod.tasks.control.protocol.Environment`.

    Args:
        world: the laws.
        count: N.
        device: where all of it lives.
        dtype: of states, observations and rewards.
        max_episode_length: another time limit than the world's; 0 keeps that.
        on_error: see `Episodes`.
    """

    def __init__(
        self,
        world: World,
        count: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_episode_length: int = 0,
        on_error: OnError = "stop",
    ) -> None:
        sizes, name = (world.observation_size, world.action_size), getattr(world, "name", type(world).__name__)
        super().__init__(name, count, sizes, max_episode_length or world.max_episode_length, device, dtype, on_error)
        self.world = world
        self.action_units = ActionUnits.plain(world.action_size, getattr(world, "action_limit", math.inf))
        self._state: State = {}

    def _begin(self, where: Tensor, generator: torch.Generator) -> None:
        fresh = self.world.begin(Draws(self.count, generator, self.device, self.dtype))
        for key, new in fresh.items():
            old = self._state.get(key, new)
            self._state[key] = torch.where(where.view(-1, *[1] * (new.ndim - 1)), new, old)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._state, reward, terminated = self.world.advance(self._state, action)
        return reward, terminated, torch.zeros_like(terminated)

    def _observe(self) -> Tensor:
        return self.world.observe(self._state)

    def _save(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self._state.items()}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        draws = Draws(self.count, torch.Generator().manual_seed(0), self.device, self.dtype)
        for key, like in self.world.begin(draws).items():
            shape = tuple(state.get(key, torch.empty(0)).shape)
            mend = f"{self.name} has {tuple(like.shape)} here; give the run's own settings"
            require(shape == tuple(like.shape), f"state {key} shape", shape, mend)
            self._state[key] = state[key].to(like.device, like.dtype, copy=True)

    def _look(self, index: int) -> Drawing:
        try:
            return self.world.draw({key: value[index].cpu() for key, value in self._state.items()})
        except (AttributeError, NotImplementedError) as error:
            mend = f"{self.name} has no draw that works ({type(error).__name__}: {error}); give it one"
            raise UserError("environment", self.name, mend) from error
