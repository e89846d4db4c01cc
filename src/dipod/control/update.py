"""One update of policy and critic on a batch of transitions: epochs of mini-batches, β·ELBO on the same actions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dipod.control.algorithms import ControlAlgorithm, ControlObjective
from dipod.control.config import ControlOptimiserConfig, ControlTrainerConfig
from dipod.control.rollouts import Trajectories
from dipod.errors import UserError
from dipod.likelihood.flow import FlowEvidence
from dipod.loop import Metrics
from dipod.objectives.entropy import nearest_neighbour_entropy
from dipod.objectives.returns import generalised_advantages, standardise

ROWS_PER_PASS = {"cpu": 512}
OTHER_ROWS_PER_PASS = 8192
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
    """

    observation: Tensor
    action: Tensor
    record: tuple[Tensor, ...]
    advantage: Tensor
    returns: Tensor
    value: Tensor
    old: Tensor
    change: Tensor | None = None

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
    """Turns trajectories into gradient steps on policy and critic.

    Attributes:
        learning_rate: η in force.
    """

    def __init__(
        self,
        policy: Any,
        critic: nn.Module,
        algorithm: ControlAlgorithm,
        trainer: ControlTrainerConfig,
        objective: ControlObjective,
        optimiser: ControlOptimiserConfig,
    ) -> None:
        self.policy, self.critic, self.algorithm = policy, critic, algorithm
        self.trainer, self.objective, self.config = trainer, objective, optimiser
        self.learning_rate = optimiser.learning_rate
        self.parameters = [*policy.parameters(), *critic.parameters()]
        betas = (optimiser.beta1, optimiser.beta2)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=optimiser.learning_rate, betas=betas, weight_decay=optimiser.weight_decay
        )

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
        truncated = seen.truncated
        if config.timeouts == "released":
            reward = reward + config.discount * value * truncated
            ended = seen.terminated | truncated
            terminated = ended
        else:
            terminated = seen.terminated
        advantage, returns = generalised_advantages(
            reward, value, following, terminated, truncated, config.discount, config.trace
        )
        observation, action = seen.observation.flatten(0, 1), seen.action.flatten(0, 1)
        record = tuple(part.flatten(0, 1) for part in seen.record)
        old, change = self._before(observation, action, record)
        limited = standardise(advantage, config.advantage_limit).flatten()
        return Transitions(observation, action, record, limited, returns.flatten(), value.flatten(), old, change)

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
        count = ROWS_PER_PASS.get(action.device.type, OTHER_ROWS_PER_PASS)
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
        self.policy.normaliser.update(batch.observation)
        return metrics

    def descend(self, batch: Transitions, beta: float, generator: torch.Generator) -> Metrics:
        """All gradient steps on a batch; what they measured, as means, and β and η."""
        totals: dict[str, float] = {}
        steps = 0
        for rows in self._mini_batches(len(batch), generator):
            found = self._step(batch[rows], beta)
            steps += 1
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value
        metrics: Metrics = {name: value / steps for name, value in totals.items()}
        return {**metrics, "beta": beta, "learning_rate": self.learning_rate}

    def _mini_batches(self, total: int, generator: torch.Generator) -> Iterator[Tensor]:
        config = self.trainer
        size = total // config.mini_batches
        if size < 1:
            raise UserError(
                "trainer.mini_batches", config.mini_batches, f"give at most {total}, one for each transition"
            )
        order = torch.randperm(total, generator=generator, device=generator.device)
        for epoch in range(config.epochs):
            if epoch and config.reshuffle:
                order = torch.randperm(total, generator=generator, device=generator.device)
            for i in range(config.mini_batches):
                yield order[i * size : (i + 1) * size]

    def _step(self, batch: Transitions, beta: float) -> dict[str, float]:
        """One gradient step: ascend mean [s_i + β·ELBO_i] (eq. 7) plus entropy, descend the critic's error."""
        algorithm, trainer, objective = self.algorithm, self.trainer, self.objective
        evidence = self.policy.evidence(batch.observation, batch.action, batch.record)
        values, log_ratio = algorithm.contributions(evidence, batch.old, batch.advantage)
        gain = values.mean()
        if beta:
            gain = gain + beta * self._bound(evidence).mean()
        if objective.entropy and isinstance(evidence, FlowEvidence):
            samples = evidence.predicted_action()
            gain = gain + objective.entropy * nearest_neighbour_entropy(samples, objective.entropy_neighbour).mean()
        value_loss = self._value_loss(batch)
        loss = trainer.value_weight * value_loss - gain
        if batch.change is not None and isinstance(evidence, FlowEvidence):
            change = float((evidence.predicted_noise().detach() - batch.change).square().mean())
            self._steer(self.over_processes(change))
        self.optimiser.zero_grad()
        loss.backward()
        self.share_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            mend = "lower optimiser.learning_rate or resume from the last checkpoint; no parameter was changed"
            raise UserError("gradient", float(norm), mend)
        self.optimiser.step()
        outside = (log_ratio.exp() - 1).abs() > algorithm.clip
        sign = batch.advantage.reshape(-1, *[1] * (outside.dim() - 1)).expand_as(outside)
        found = {"value_loss": float(value_loss.detach()), "grad_norm": float(norm)}
        for name, side in (("positive", sign > 0), ("negative", sign < 0)):
            found[f"clip_fraction_{name}"] = float((outside & side).sum() / side.sum().clamp_min(1))
        if isinstance(evidence, FlowEvidence):
            found["cfm_loss"] = float(evidence.loss("mean").mean().detach())
        return found

    def share_gradients(self) -> None:
        """Where several processes update one policy: make gradients their mean."""

    def over_processes(self, value: float) -> float:
        """The mean of a number over the processes; here there is one."""
        return value

    def _bound(self, evidence: Any) -> Tensor:
        """What β multiplies, [B]."""
        flow = getattr(evidence, "flow", evidence)
        if not isinstance(flow, FlowEvidence):
            exact: Tensor = evidence.elbo()
            return exact
        if self.objective.tighten == "flat":
            return -flow.loss(self.objective.reduction).mean(-1)
        return flow.elbo(cutoff=self.objective.cutoff)

    def _value_loss(self, batch: Transitions) -> Tensor:
        value, clip = self.value(batch.observation), self.trainer.value_clip
        error = (batch.returns - value).square()
        if clip:
            near = batch.value + (value - batch.value).clamp(-clip, clip)
            error = torch.maximum(error, (batch.returns - near).square())
        return error.mean()

    def _steer(self, change: float) -> None:
        """Raise or lower the learning rate by half as much again where the policy moves too little or too much."""
        config = self.config
        if change > 2 * config.target_change:
            self.learning_rate = max(config.least, self.learning_rate / 1.5)
        elif ROUNDING < change < config.target_change / 2:
            self.learning_rate = min(config.most, self.learning_rate * 1.5)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
