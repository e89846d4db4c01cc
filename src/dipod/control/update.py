"""One update of policy and critic on a batch of transitions: epochs of mini-batches, β·ELBO on the same actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipod.control.algorithms import ControlAlgorithm, ControlObjective
from dipod.control.config import ControlOptimiserConfig, ControlTrainerConfig
from dipod.control.peers import ALONE, Peers
from dipod.control.rollouts import Trajectories
from dipod.guard import blame, gradients, weights
from dipod.likelihood.flow import FlowEvidence
from dipod.loop import Metrics
from dipod.objectives.entropy import nearest_neighbour_entropy
from dipod.objectives.returns import generalised_advantages

ROWS_ON_CPU, ROWS_ELSEWHERE = 512, 8192
"""Actions of a pass without gradients: on a CPU, as many as stay in its caches."""
ROUNDING = 1e-10
"""Mean squared changes of the predicted noise below it are no change: numbers of unit size rounded otherwise."""


@dataclass(frozen=True)
class Transitions:
    """M transitions with what the update needs of them; [M, ...] each.

    Attributes:
        observation: what was acted on.
        action: as executed.
        record: what the policy kept of the action.
        advantage: standardised.
        returns: what the critic learns.
        value: what it said.
        old: the proxy when acting.
        change: the predicted noise when acting, [M, S, d]; None unless the learning rate is steered by it.
        width: environments: the rows are those of one step after those of another.
    """

    observation: Tensor
    action: Tensor
    record: tuple[Tensor, ...]
    advantage: Tensor
    returns: Tensor
    value: Tensor
    old: Tensor
    change: Tensor | None = None
    width: int = 1

    def __len__(self) -> int:
        return len(self.action)

    def __getitem__(self, rows: Tensor) -> Transitions:
        return Transitions(
            self.observation[rows],
            self.action[rows],
            tuple(part[rows] for part in self.record),
            self.advantage[rows],
            self.returns[rows],
            self.value[rows],
            self.old[rows],
            None if self.change is None else self.change[rows],
        )


class Learner:
    """Turns trajectories into gradient steps on policy and critic; an epoch has at most as many as transitions.

    Attributes:
        peers: the processes whose transitions these are, each holding those of its own environments.
    """

    def __init__(
        self,
        policy: Any,
        critic: nn.Module,
        algorithm: ControlAlgorithm,
        trainer: ControlTrainerConfig,
        objective: ControlObjective,
        optimiser: ControlOptimiserConfig,
        peers: Peers = ALONE,
    ) -> None:
        self.policy, self.critic, self.algorithm = policy, critic, algorithm
        self.trainer, self.objective, self.config, self.peers = trainer, objective, optimiser, peers
        self.parameters = [*policy.parameters(), *critic.parameters()]
        betas = (optimiser.beta1, optimiser.beta2)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=optimiser.learning_rate, betas=betas, weight_decay=optimiser.weight_decay
        )

    @property
    def learning_rate(self) -> float:
        """η in force."""
        rate: float = self.optimiser.param_groups[0]["lr"]
        return rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def value(self, observation: Tensor) -> Tensor:
        """V of observations [..., o], [...]; the critic sees them normalised as the policy does."""
        found: Tensor = self.critic(self.policy.normaliser(observation))[..., 0]
        return found

    @torch.no_grad()
    def prepare(self, trajectories: Trajectories) -> Transitions:
        """Values, advantages and old proxies of an iteration's rollouts."""
        config, seen = self.trainer, trajectories
        value = self.value(seen.observation)
        reward, following = seen.reward, self._following(seen, value)
        terminated, truncated = seen.terminated, seen.truncated
        if config.timeouts == "released":
            reward = reward + config.discount * value * truncated
            terminated = terminated | truncated
        advantage, returns = generalised_advantages(
            reward, value, following, terminated, truncated, config.discount, config.trace
        )
        observation, action = seen.observation.flatten(0, 1), seen.action.flatten(0, 1)
        record = tuple(part.flatten(0, 1) for part in seen.record)
        old, change = self._before(observation, action, record)
        limited = self.peers.standardise(advantage, config.advantage_limit).flatten()
        values, width = (returns.flatten(), value.flatten()), value.shape[1]
        return Transitions(observation, action, record, limited, *values, old, change, width)

    def _following(self, seen: Trajectories, value: Tensor) -> Tensor:
        """V of the states that actions led to: the next row's, except where an episode ended or the rollout did."""
        following = torch.cat([value[1:], self.value(seen.final_observation[-1:])])
        cut = seen.truncated.clone()
        cut[-1] = False
        if bool(cut.any()):
            following[cut] = self.value(seen.final_observation[cut])
        return following

    def _before(self, observation: Tensor, action: Tensor, record: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """The proxy under the parameters that acted, and the predicted noise if the learning rate is steered by it."""
        old, noise = [], []
        count = ROWS_ON_CPU if action.device.type == "cpu" else ROWS_ELSEWHERE
        for start in range(0, len(action), count):
            rows = slice(start, start + count)
            evidence = self.policy.evidence(observation[rows], action[rows], tuple(part[rows] for part in record))
            old.append(self.algorithm.proxy(evidence))
            if self.config.target_change and isinstance(evidence, FlowEvidence):
                noise.append(evidence.predicted_noise())
        return torch.cat(old), torch.cat(noise) if noise else None

    def update(self, trajectories: Trajectories, beta: float, generator: torch.Generator) -> Metrics:
        """All gradient steps of an iteration; the normaliser takes its observations in at the end."""
        batch = self.prepare(trajectories)
        metrics = self.descend(batch, beta, generator)
        self.peers.observe(self.policy.normaliser, batch.observation)
        return metrics

    def descend(self, batch: Transitions, beta: float, generator: torch.Generator) -> Metrics:
        """All gradient steps on a batch; what they measured, as means, and β and η.

        Args:
            batch: this process's transitions.
            beta: β.
            generator: the same on all processes.
        """
        found = []
        for order in self._mini_batches(len(batch) * self.peers.size, generator):
            rows, _ = self.peers.own(order, batch.width)
            found.append(self._step(batch[rows], beta, len(order) / self.peers.size))
        return {**self._means(found), "beta": beta, "learning_rate": self.learning_rate}

    def _means(self, found: list[dict[str, Tensor]]) -> Metrics:
        """What gradient steps measured, over all steps and processes."""
        seen = self.peers.mean(torch.stack([torch.stack([*step.values()]) for step in found]))
        table = dict(zip(found[0], seen.unbind(1), strict=True))
        for side in ("positive", "negative"):
            outside, of = table.pop(f"outside_{side}"), table.pop(side)
            table[f"clip_fraction_{side}"] = outside / of.clamp_min(1 / self.peers.size)
        columns = torch.stack([*table.values()]).tolist()
        return {name: sum(column) / len(found) for name, column in zip(table, columns, strict=True)}

    def _mini_batches(self, total: int, generator: torch.Generator) -> Iterator[Tensor]:
        config = self.trainer
        size = total // config.mini_batches
        order = torch.randperm(total, generator=generator, device=generator.device)
        for epoch in range(config.epochs):
            if epoch and config.reshuffle:
                order = torch.randperm(total, generator=generator, device=generator.device)
            for i in range(config.mini_batches):
                yield order[i * size : (i + 1) * size]

    def _step(self, batch: Transitions, beta: float, rows: float) -> dict[str, Tensor]:
        """One gradient step: ascend mean [s_i + β·ELBO_i] (eq. 7) plus entropy, descend the critic's error.

        Args:
            batch: this process's part of a mini-batch.
            beta: β.
            rows: how many a process has on average, which makes means over the processes those over the mini-batch.

        Returns:
            What it measured, on the device, for `descend` to fetch once.
        """
        algorithm, trainer, objective = self.algorithm, self.trainer, self.objective
        evidence = self.policy.evidence(batch.observation, batch.action, batch.record)
        values, log_ratio = algorithm.contributions(evidence, batch.old, batch.advantage)
        gain = values.sum() / rows
        if beta:
            gain = gain + beta * (self.bound(evidence).sum() / rows)
        if objective.entropy and isinstance(evidence, FlowEvidence):
            samples = evidence.predicted_action()
            entropy = nearest_neighbour_entropy(samples, objective.entropy_neighbour)
            gain = gain + objective.entropy * (entropy.sum() / rows)
        value_loss = self._value_error(batch).sum() / rows
        loss = trainer.value_weight * value_loss - gain
        if batch.change is not None and isinstance(evidence, FlowEvidence):
            moved = (evidence.predicted_noise().detach() - batch.change).square().sum()
            self._steer(float(self.peers.mean(moved / (rows * math.prod(batch.change.shape[1:])))))
        self.optimiser.zero_grad()
        loss.backward()
        self.peers.share_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            networks = [self.policy, self.critic]
            computed = {"observation": batch.observation, "action": batch.action, "value": batch.value}
            computed |= {"returns": batch.returns, "advantage": batch.advantage, "old proxy": batch.old}
            computed |= {"log-ratio": log_ratio, "objective": gain, "critic's error": value_loss}
            raise blame([*weights(networks), *computed.items(), *gradients(networks)])
        self.optimiser.step()
        outside = (log_ratio.exp() - 1).abs() > algorithm.clip
        sign = batch.advantage.reshape(-1, *[1] * (outside.dim() - 1)).expand_as(outside)
        found = {"loss": loss.detach(), "value_loss": value_loss.detach(), "grad_norm": norm}
        for name, side in (("positive", sign > 0), ("negative", sign < 0)):
            found |= {f"outside_{name}": (outside & side).sum(), name: side.sum()}
        if isinstance(evidence, FlowEvidence):
            error = F.mse_loss(evidence.velocity.detach(), evidence.target, reduction="sum")
            found["cfm_loss"] = error / (rows * math.prod(evidence.target.shape[1:]))
        return {name: value.float() for name, value in found.items()}

    def bound(self, evidence: Any) -> Tensor:
        """What β multiplies, [B]."""
        flow = getattr(evidence, "flow", evidence)
        if not isinstance(flow, FlowEvidence):
            exact: Tensor = evidence.elbo()
            return exact
        if self.objective.tighten == "flat":
            return -flow.loss(self.objective.reduction).mean(-1)
        return flow.elbo(cutoff=self.objective.cutoff)

    def _value_error(self, batch: Transitions) -> Tensor:
        """The critic's squared error, [B]."""
        value, clip = self.value(batch.observation), self.trainer.value_clip
        error = (batch.returns - value).square()
        if clip:
            near = batch.value + (value - batch.value).clamp(-clip, clip)
            error = torch.maximum(error, (batch.returns - near).square())
        return error

    def _steer(self, change: float) -> None:
        """Raise or lower the learning rate by half as much again where the policy moves too little or too much."""
        config = self.config
        if change > 2 * config.target_change:
            self.learning_rate = max(config.least, self.learning_rate / 1.5)
        elif ROUNDING < change < config.target_change / 2:
            self.learning_rate = min(config.most, self.learning_rate * 1.5)
