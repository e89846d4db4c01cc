"""Self-distillation of a flow policy: a frozen teacher acts, the policy learns its actions (Algorithms 1 and 3)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from dipod.control.config import SelfDistillationConfig
from dipod.control.rollouts import Collector
from dipod.errors import UserError
from dipod.likelihood.flow import TimesConfig, draw_noise, flow_evidence
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowPolicy


@dataclass(frozen=True)
class Round:
    """One round of a stage.

    Attributes:
        loss: what the gradient step descended: minus the ELBO in nats, or the flat flow-matching loss.
        actions: how many the buffer held.
        reward: mean reward a step of the teacher in this round.
    """

    loss: float
    actions: int
    reward: float


class Buffer:
    """The newest rows of two tables, as many as it has room for.

    Attributes:
        held: rows in it.
    """

    def __init__(self, room: int) -> None:
        self.room, self.held, self._next = room, 0, 0
        self._tables: tuple[Tensor, ...] = ()

    def add(self, *rows: Tensor) -> None:
        """Put in rows [R, ...] of every table, in place of the oldest where there is no room left."""
        if not self._tables:
            self._tables = tuple(part.new_empty(self.room, *part.shape[1:]) for part in rows)
        count = len(rows[0])
        places = torch.arange(self._next, self._next + count, device=rows[0].device)[-self.room :] % self.room
        for table, part in zip(self._tables, rows, strict=True):
            table[places] = part[-self.room :]
        self._next, self.held = (self._next + count) % self.room, min(self.room, self.held + count)

    def pick(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Some rows of every table."""
        return tuple(table[rows] for table in self._tables)


def distillation_loss(
    policy: FlowPolicy,
    observation: Tensor,
    action: Tensor,
    samples: int,
    loss: Literal["elbo", "flat"],
    cutoff: float,
    generator: torch.Generator,
) -> Tensor:
    """Minus the mean ELBO of actions [B, d] in the environment's units, or their mean flow-matching loss over d.

    The ELBO is asked at log-uniform times, where its estimate is best; the flat loss at the policy's own.
    """
    own = policy.settings.times
    times = TimesConfig(samples, "log-uniform", low=cutoff) if loss == "elbo" else replace(own, samples=samples)
    noise = draw_noise(len(action), policy.action_size, times, generator)
    evidence = flow_evidence(policy.velocity(observation), action / policy.settings.action_scale, noise)
    return -evidence.elbo(cutoff=cutoff).mean() if loss == "elbo" else evidence.loss("mean").mean()


def self_distil(
    policy: FlowPolicy,
    collector: Collector,
    config: SelfDistillationConfig,
    cutoff: float,
    seed: int,
    max_grad_norm: float = 1.0,
) -> list[Round]:
    """One stage on ``policy``, in place.

    The teacher is the policy as it stands; it acts without perturbation, and its normaliser, which is the policy's,
    does not move. What it does goes into a buffer that grows round by round; with ``config.buffer`` the oldest go
    first.

    Args:
        policy: what learns.
        collector: of the environments that the teacher acts in; its count of transitions goes on.
        config: the stage.
        cutoff: t0 of the ELBO.
        seed: of everything random in the stage.
        max_grad_norm: the gradient is clipped to this norm.

    Returns:
        The rounds.

    Raises:
        UserError: a policy without a velocity.
    """
    if not isinstance(policy, FlowPolicy):
        raise UserError("algorithm", type(policy).__name__, "its log-probability is exact: there is nothing to distil")
    teacher = deepcopy(policy).requires_grad_(False).eval()
    teacher.settings = replace(policy.settings, perturbation=0.0)
    samples = config.samples or policy.settings.times.samples
    optimiser = torch.optim.AdamW(
        policy.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    device, each = next(policy.parameters()).device, config.environment_steps * collector.environment.count
    buffer = Buffer(min(config.buffer or config.iterations * each, config.iterations * each))
    rounds: list[Round] = []
    for i in range(config.iterations):
        generator = keyed_generator(seed, "distillation", i, device=device)
        seen = collector.collect(teacher, config.environment_steps, generator)
        buffer.add(seen.observation.flatten(0, 1), seen.action.flatten(0, 1))
        rows = torch.randperm(buffer.held, generator=generator, device=device)[: config.batch]
        observation, action = buffer.pick(rows)
        loss = distillation_loss(policy, observation, action, samples, config.loss, cutoff, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.network.parameters(), max_grad_norm)
        optimiser.step()
        rounds.append(Round(float(loss.detach()), buffer.held, float(seen.reward.mean())))
    optimiser.zero_grad()
    return rounds
