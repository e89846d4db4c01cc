"""Policy-gradient training of control policies in one short loop: Algorithms 1 to 3 of the paper.

Each step of the loop:

1. where a stage is due, self-distillation (Algorithm 3: before the first iteration; Algorithm 1: every n);
2. T steps in every environment with π_θ, and advantages from a critic;
3. epochs of mini-batches of θ ← θ + η · mean_i [g_θ(o_i, a_i) + β ∇ELBO_θ(a_i|o_i)] (eq. 7; β = 0 without Algorithm 2).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dipod.control.algorithms import ControlAlgorithm, ControlObjective
from dipod.control.alignment import alignment_of
from dipod.control.config import ControlOptimiserConfig, ControlTrainerConfig, SelfDistillationConfig
from dipod.control.distillation import self_distil
from dipod.control.evaluation import entropy_of, evaluate, measure_gap, own_gap
from dipod.control.peers import Peers
from dipod.control.rollouts import Collector, Trajectories
from dipod.control.update import Learner
from dipod.drift import Alignment, Gap
from dipod.drift.monitor import Look, MonitorConfig, Spent, spread
from dipod.loop import Loop, Metrics, TrainState
from dipod.noise import derive, keyed_generator
from dipod.parallel import Processes
from dipod.tasks.control.protocol import Environment
from dipod.tightening import Tightening


@dataclass(frozen=True)
class ControlSettings:
    """How a trainer goes about it; each part is a group of a run's settings."""

    trainer: ControlTrainerConfig
    objective: ControlObjective
    optimiser: ControlOptimiserConfig
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    gap_rollouts: int = 16
    usual_beta: float = 0.4


class ControlTrainer(Loop[ControlTrainerConfig]):
    """The loop; `state`, networks, optimiser and `tensors` are what a checkpoint holds."""

    def __init__(
        self,
        policy: Any,
        critic: nn.Module,
        environment: Environment,
        held_out: Environment,
        algorithm: ControlAlgorithm,
        tightening: Tightening[SelfDistillationConfig],
        settings: ControlSettings,
        seed: int,
        processes: Processes,
    ) -> None:
        self.policy, self.held_out, self.algorithm = policy, held_out, algorithm
        self.tightening, self.settings, self.seed = tightening, settings, seed
        self.config, self.processes = settings.trainer, processes
        self.average = deepcopy(policy).requires_grad_(False) if self.config.average else None
        parts = {"policy": policy, "critic": critic, "average": self.average}
        self.network = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
        self.peers = Peers.of(processes)
        chosen = (settings.trainer, settings.objective, settings.optimiser)
        self.learner = Learner(policy, critic, algorithm, *chosen, self.peers)
        self.optimisers: dict[str, torch.optim.Optimizer] = {"policy": self.learner.optimiser}
        self.parameters: list[Tensor] = list(self.learner.parameters)
        self.collector = Collector(environment, self.peers)
        self.state, self.spent = TrainState(), Spent()
        self.shown: list[dict[str, Any]] = []

    def train_step(self) -> Metrics:
        """Self-distillation if a stage is due, rollouts, and the update on them (1 to 3 above)."""
        state, metrics = self.state, Metrics()
        stage = self.tightening.distillation_before(state.step, state.gap)
        if stage is not None:
            metrics |= self.distil(stage)
        started = time.perf_counter()
        trajectories = self.collector.collect(self.policy, self.config.horizon, self._generator("rollout"))
        metrics["seconds_rollout"] = time.perf_counter() - started
        metrics["reward_per_step"] = float(self.peers.mean(trajectories.reward.double().mean()))
        metrics |= self.collector.episodes()
        if trajectories.failed is not None:
            metrics["environment_errors"] = int(self.peers.gather(trajectories.failed.sum()).sum())
        if self.tightening.wants_gap(state.step):
            measured = self._gap(trajectories, self.settings.gap_rollouts)
            if measured is not None:
                state.gap_before, state.gap, metrics["train_gap"] = state.gap, measured.gap, measured.gap
        state.beta = self.tightening.next_beta(state.step, state.beta, state.gap, state.gap_before)
        metrics |= self.look(self.settings.monitor, self.settings.usual_beta, partial(self._measure, trajectories))
        common = keyed_generator(self.seed, "update", state.step, device=self.device)
        metrics |= self.learner.update(trajectories, state.beta, common)
        metrics["transitions"] = self.collector.transitions
        self._follow(self.config.average if state.step + 1 > self.config.average_from else 0.0)
        return metrics

    def distil(self, stage: SelfDistillationConfig) -> Metrics:
        """One stage, and what it cost and gained."""
        started, before = time.perf_counter(), self.collector.transitions
        seed = derive(self.seed, "stage", self.state.step)
        cutoff, norm = self.settings.objective.cutoff, self.settings.optimiser.max_grad_norm
        rounds = self_distil(self.policy, self.collector, stage, cutoff, seed, norm)
        self._follow(0.0)
        return {
            "distillation_rounds": len(rounds),
            "distillation_loss_first": rounds[0].loss,
            "distillation_loss_last": rounds[-1].loss,
            "distillation_transitions": self.collector.transitions - before,
            "distillation_seconds": time.perf_counter() - started,
        }

    def evaluate(self, seed: int = 0) -> Metrics:
        """Returns of whole episodes and the gap on states of the training environments, with the noise of ``seed``.

        Of the running average of the policy's weights where there is one.
        """
        self.state.evaluated = self.state.step
        policy = self.policy if self.average is None else self.average
        found: Metrics = {}
        if self.config.evaluate_episodes:
            found |= evaluate(policy, self.held_out, seed, self.peers, self.config.evaluate_episodes)
        if self.config.gap_actions and self.collector.observation is not None:
            whole = self.peers.gather_rows(self.collector.observation, self.collector.count)
            observation, cutoff = whole[: self.config.gap_actions], self.settings.objective.cutoff
            found |= measure_gap(policy, observation, cutoff, seed, self.peers)
        return found

    def _gap(self, trajectories: Trajectories, count: int) -> Gap | None:
        """The exact gap of own actions in the first ``count`` states of the rollouts; None where it cannot be had."""
        first = trajectories.observation[: -(-count // self.collector.count)]
        observation = self.peers.gather(first).transpose(0, 1).flatten(0, 2)[:count]
        seed = derive(self.seed, "monitor", self.state.step)
        return own_gap(self.policy, observation, self.settings.objective.cutoff, seed, self.peers)

    def _measure(self, trajectories: Trajectories) -> Look:
        """What the monitor looks at: gap and entropy, and the angle of the update."""
        monitor = self.settings.monitor
        gap = self._gap(trajectories, monitor.rollouts)
        if gap is None:
            return Look(gap)
        return Look(gap, self.alignment(trajectories, monitor.aligned), entropy_of(gap))

    def alignment(self, trajectories: Trajectories, count: int) -> Alignment | None:
        """The angle of the update on ``count`` transitions spread over the rollouts, where there is one process."""
        if not count or self.processes.count > 1:
            return None
        transitions = self.learner.prepare(trajectories)
        few = transitions[spread(len(transitions), count)]
        beta = self.state.beta or 0.0
        return alignment_of(self.policy, self.algorithm, few, self._generator("monitor"), beta, self.learner.bound)

    def begin(self) -> None:
        """Let the untrained policy act for the normaliser's sake, whatever the algorithm."""
        generator = self._generator("warm-up")
        self.collector.start(generator)
        for _ in range(self.config.warmup_steps):
            seen = self.collector.collect(self.policy, 1, generator)
            self.peers.observe(self.policy.normaliser, seen.observation)
        self._follow(0.0)

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Let the running average follow the policy's weights; the normaliser's statistics are the policy's own."""
        if self.average is None:
            return
        for mine, other in zip(self.average.parameters(), self.policy.parameters(), strict=True):
            mine.lerp_(other, 1 - decay)
        for mine, other in zip(self.average.buffers(), self.policy.buffers(), strict=True):
            mine.copy_(other)

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        device: torch.device = next(self.policy.parameters()).device
        return device

    def _generator(self, purpose: str) -> torch.Generator:
        """Of this process's environments."""
        total = self.collector.count
        return self.peers.generator(self.seed, purpose, self.state.step, total=total, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs besides networks, optimiser and `state`."""
        rate = torch.tensor(self.learner.learning_rate, dtype=torch.float64)
        return {"learning_rate": rate, **self.collector.state()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        self.learner.learning_rate = float(tensors["learning_rate"])
        self.collector.load_state(tensors)
