"""Environments whose observations and actions are vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dipod.tasks.control import Environment, Step

Policy = Callable[[torch.Tensor], torch.Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def play(environment: Environment, actions: torch.Tensor, generator: torch.Generator) -> list[Step]:
    """The steps that actions [T, N, a] lead to."""
    return [environment.step(action, generator) for action in actions]


def draw_actions(environment: Environment, steps: int, seed: int = 1) -> torch.Tensor:
    """Random actions [T, N, a], some of them out of range."""
    return 2.4 * torch.rand(steps, environment.count, environment.action_size, generator=seeded(seed)) - 1.2


def returns(environment: Environment, policy: Policy, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return and length of every environment's first episode, [N] each."""
    generator = seeded(seed)
    observation = environment.reset(generator)
    total, length = torch.zeros(environment.count, dtype=observation.dtype), torch.zeros(environment.count)
    running = torch.ones(environment.count, dtype=torch.bool)
    while running.any():
        step = environment.step(policy(observation), generator)
        total, length = total + running * step.reward, length + running
        running, observation = running & ~step.done, step.observation
    return total, length
