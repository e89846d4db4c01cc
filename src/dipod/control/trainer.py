"""Policy-gradient training of control policies in one short loop: Algorithms 1 to 3 of the paper.

Each step of the loop:

1. where a stage is due, self-distillation (Algorithm 3: before the first iteration; Algorithm 1: every n);
2. T steps in every environment with π_θ, and advantages from a critic;
3. epochs of mini-batches of θ ← θ + η · mean_i [g_θ(o_i, a_i) + β ∇ELBO_θ(a_i|o_i)] (eq. 7; β = 0 without Algorithm 2).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dipod.control.algorithms import ControlAlgorithm, ControlObjective
from dipod.control.config import ControlOptimiserConfig, ControlTrainerConfig, SelfDistillationConfig
from dipod.control.distillation import self_distil
from dipod.control.evaluation import evaluate, measure_gap
from dipod.control.rollouts import Collector
from dipod.control.update import Learner
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
        self.network = nn.ModuleDict({"policy": policy, "critic": critic})
        self.learner = Learner(policy, critic, algorithm, settings.trainer, settings.objective, settings.optimiser)
        self.optimisers: dict[str, torch.optim.Optimizer] = {"policy": self.learner.optimiser}
        self.collector = Collector(environment)
        self.state = TrainState()
        self.shown: list[dict[str, Any]] = []

    def train_step(self) -> Metrics:
        """Self-distillation if a stage is due, rollouts, and the update on them (1 to 3 above)."""
        state, metrics = self.state, Metrics()
        stage = self.tightening.distillation_before(state.step)
        if stage is not None:
            metrics |= self.distil(stage)
        state.beta = self.tightening.next_beta(state.step, state.beta, state.gap)
        started = time.perf_counter()
        trajectories = self.collector.collect(self.policy, self.config.horizon, self._generator("rollout"))
        metrics["seconds_rollout"] = time.perf_counter() - started
        metrics["reward_per_step"] = float(trajectories.reward.double().mean())
        metrics |= self.collector.episodes()
        metrics |= self.learner.update(trajectories, state.beta, self._generator("update"))
        metrics["transitions"] = self.collector.transitions
        return metrics

    def distil(self, stage: SelfDistillationConfig) -> Metrics:
        """One stage, and what it cost and gained."""
        started, before = time.perf_counter(), self.collector.transitions
        seed = derive(self.seed, "stage", self.state.step)
        cutoff, norm = self.settings.objective.cutoff, self.settings.optimiser.max_grad_norm
        rounds = self_distil(self.policy, self.collector, stage, cutoff, seed, norm)
        return {
            "distillation_rounds": len(rounds),
            "distillation_loss_first": rounds[0].loss,
            "distillation_loss_last": rounds[-1].loss,
            "distillation_transitions": self.collector.transitions - before,
            "distillation_seconds": time.perf_counter() - started,
        }

    def evaluate(self, seed: int = 0) -> Metrics:
        """Returns of whole episodes and the gap on states of the training environments, with the noise of ``seed``."""
        self.state.evaluated = self.state.step
        found: Metrics = {}
        if self.config.evaluate_episodes:
            found |= evaluate(self.policy, self.held_out, seed)
        if self.config.gap_actions and self.collector.observation is not None:
            observation = self.collector.observation[: self.config.gap_actions]
            found |= measure_gap(self.policy, observation, self.settings.objective.cutoff, seed)
            gap = found.get("gap")
            self.state.gap = None if gap is None else float(gap)
        return found

    def begin(self) -> None:
        """Let the untrained policy act for the normaliser's sake, whatever the algorithm."""
        generator = self._generator("warm-up")
        self.collector.start(generator)
        for _ in range(self.config.warmup_steps):
            seen = self.collector.collect(self.policy, 1, generator)
            self.policy.normaliser.update(seen.observation)

    def _generator(self, purpose: str) -> torch.Generator:
        device = next(self.policy.parameters()).device
        return keyed_generator(self.seed, purpose, self.state.step, device=device)

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs besides networks, optimiser and `state`."""
        rate = torch.tensor(self.learner.learning_rate, dtype=torch.float64)
        return {"learning_rate": rate, **self.collector.state()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        self.learner.learning_rate = float(tensors["learning_rate"])
        for group in self.learner.optimiser.param_groups:
            group["lr"] = self.learner.learning_rate
        self.collector.load_state(tensors)
