"""Acting: from the current policy to a batch of transitions, and what is remembered of episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dipod.tasks.control.guard import check_observation, check_step
from dipod.tasks.control.protocol import Environment

WINDOW = 100
"""Finished episodes over which returns and lengths are averaged."""


class Actor(Protocol):
    """The least that acting needs of a policy."""

    def act(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Actions [N, d] and what is kept of how they were drawn, [N, ...] each."""
        ...


@dataclass(frozen=True)
class Trajectories:
    """T steps of N environments.

    Attributes:
        observation: [T, N, o].
        action: [T, N, d], as executed.
        record: what the policy kept of the actions, [T, N, ...] each.
        reward: [T, N].
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        final_observation: [T, N, o], what the actions led to.
    """

    observation: Tensor
    action: Tensor
    record: tuple[Tensor, ...]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor


class Collector:
    """Steps environments with a policy and keeps account of episodes.

    Attributes:
        environment: what is acted in.
        transitions: steps taken in all environments together.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.transitions = 0
        self.observation: Tensor | None = None
        self._running = torch.zeros(2, environment.count, dtype=torch.float64)
        self._finished = torch.zeros(0, 2, dtype=torch.float64)

    def start(self, generator: torch.Generator) -> None:
        """Begin all episodes, at clocks spread over their length."""
        self.observation = self.environment.reset(generator, spread=True)
        check_observation(self.environment, self.observation)
        self._running = self._running.to(self.observation.device)
        self._finished = self._finished.to(self.observation.device)

    def collect(self, policy: Actor, steps: int, generator: torch.Generator) -> Trajectories:
        """Act for ``steps`` steps in every environment.

        Raises:
            UserError: observations or rewards that are not finite or not of the promised shape.
        """
        if self.observation is None:
            self.start(generator)
        assert self.observation is not None
        seen: list[tuple[Tensor, ...]] = []
        records: list[tuple[Tensor, ...]] = []
        for _ in range(steps):
            action, record = policy.act(self.observation, generator)
            step = self.environment.step(action, generator)
            check_step(self.environment, step)
            seen.append(
                (self.observation, action, step.reward, step.terminated, step.truncated, step.final_observation)
            )
            records.append(record)
            self._account(step.reward, step.done)
            self.observation = step.observation
        self.transitions += steps * self.environment.count
        observation, action, *rest = (torch.stack(part) for part in zip(*seen, strict=True))
        record = tuple(torch.stack(part) for part in zip(*records, strict=True))
        return Trajectories(observation, action, record, *rest)

    def _account(self, reward: Tensor, done: Tensor) -> None:
        self._running += torch.stack([reward.double(), torch.ones_like(reward, dtype=torch.float64)])
        ended = self._running[:, done].T
        self._finished = torch.cat([self._finished, ended])[-WINDOW:]
        self._running[:, done] = 0

    def episodes(self) -> dict[str, float | int | str]:
        """``reward`` (mean return) and ``episode_length`` of the last finished episodes; nothing before any ended."""
        if not len(self._finished):
            return {}
        reward, length = self._finished.mean(0).tolist()
        return {"reward": reward, "episode_length": length}

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        return {
            **{f"environment.{name}": value for name, value in self.environment.state().items()},
            "running": self._running.clone(),
            "finished": self._finished.clone(),
            "transitions": torch.tensor(self.transitions),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        prefix = "environment."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.observation = self.environment.load_state(own)
        device = self.observation.device
        self._running, self._finished = state["running"].to(device), state["finished"].to(device)
        self.transitions = int(state["transitions"])
