"""Self-distillation: a frozen teacher acts, the policy learns its actions (Algorithms 1 and 3)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from dipod.control.config import SelfDistillationConfig
from dipod.control.rollouts import Collector
from dipod.errors import UserError
from dipod.guard import blame, gradients, weights
from dipod.likelihood.flow import FlowNoise, TimesConfig, draw_noise, flow_evidence
from dipod.policies.flow import FlowPolicy
from dipod.policies.vae import VaePolicy


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


def distillation_losses(
    policy: FlowPolicy,
    observation: Tensor,
    action: Tensor,
    noise: FlowNoise,
    loss: Literal["elbo", "flat"],
    cutoff: float,
) -> Tensor:
    """Minus the ELBO of actions [B, d] in the environment's units, or their flow-matching loss over d, [B]."""
    evidence = flow_evidence(policy.velocity(observation), action / policy.settings.action_scale, noise)
    return -evidence.elbo(cutoff=cutoff) if loss == "elbo" else evidence.loss("mean").mean(-1)


def distillation_times(config: SelfDistillationConfig, own: TimesConfig, cutoff: float) -> TimesConfig:
    """Where a stage asks: log-uniform times, where an ELBO's estimate is best; the flat loss at the policy's own."""
    samples = config.samples or own.samples
    elbo = config.loss == "elbo"
    return TimesConfig(samples, "log-uniform", low=cutoff) if elbo else replace(own, samples=samples)


def stage_losses(
    policy: FlowPolicy | VaePolicy,
    observation: Tensor,
    action: Tensor,
    places: Tensor,
    batch: int,
    config: SelfDistillationConfig,
    cutoff: float,
    generator: torch.Generator,
) -> Tensor:
    """What a stage descends at some actions [M, d] of a batch, whose noise is drawn for all of it: [M].

    Args:
        policy: what learns; a latent-variable policy has minus its ELBO, whatever ``config.loss``.
        observation: [M, o].
        action: in the environment's units.
        places: where they stand in the batch, [M].
        batch: actions in it.
        config: the stage.
        cutoff: t0 of a flow's ELBO.
        generator: of the noise.
    """
    if isinstance(policy, VaePolicy):
        eps = policy.draw(batch, config.samples or policy.settings.samples, generator)[places]
        return -policy.evidence(observation, action, (eps,)).elbo()
    times = distillation_times(config, policy.settings.times, cutoff)
    noise = draw_noise(batch, policy.action_size, times, generator)[places]
    return distillation_losses(policy, observation, action, noise, config.loss, cutoff)


def self_distil(
    policy: FlowPolicy | VaePolicy,
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
        collector: of the environments that the teacher acts in; its count of transitions goes on. Of several
            processes, all call this; they leave with the same policy.
        config: the stage.
        cutoff: t0 of the ELBO.
        seed: of everything random in the stage.
        max_grad_norm: the gradient is clipped to this norm.

    Returns:
        The rounds.

    Raises:
        UserError: a policy whose log-probability is exact.
    """
    if not isinstance(policy, FlowPolicy | VaePolicy):
        raise UserError("algorithm", type(policy).__name__, "its log-probability is exact: there is nothing to distil")
    teacher = deepcopy(policy).requires_grad_(False).eval()
    if isinstance(teacher, FlowPolicy):
        teacher.settings = replace(teacher.settings, perturbation=0.0)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    device, peers = next(policy.parameters()).device, collector.peers
    steps, width = config.iterations * config.environment_steps, collector.environment.count
    if config.buffer:
        steps = min(steps, max(1, config.buffer // collector.count))
    buffer = Buffer(steps * width)
    rounds: list[Round] = []
    for i in range(config.iterations):
        for group in optimiser.param_groups:
            group["lr"] = config.rate(i)
        generator = peers.generator(seed, "distillation", i, total=collector.count, device=device)
        seen = collector.collect(teacher, config.environment_steps, generator)
        buffer.add(seen.observation.flatten(0, 1), seen.action.flatten(0, 1))
        order = torch.randperm(buffer.held * peers.size, generator=generator, device=device)[: config.batch]
        rows, places = peers.own(order, width)
        observation, action = buffer.pick(rows)
        losses = stage_losses(policy, observation, action, places, len(order), config, cutoff, generator)
        loss = losses.sum() / (len(order) / peers.size)
        optimiser.zero_grad()
        loss.backward()
        peers.share_gradients(policy.parameters())
        norm = nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
        if not bool(torch.isfinite(norm)):
            computed = [("observation", observation), ("action", action), ("losses", losses)]
            raise blame([*weights([policy]), *computed, *gradients([policy])], "distillation.learning_rate")
        optimiser.step()
        told = peers.mean(torch.stack([loss.detach(), seen.reward.mean()])).tolist()
        rounds.append(Round(told[0], buffer.held * peers.size, told[1]))
    optimiser.zero_grad()
    return rounds
