"""Reinforcement-learning post-training in one short loop: Algorithms 1 and 2 of the paper.

Each step of `Trainer.run`:

1. where a stage is due, ref ← θ and θ ← argmax E_ref[ELBO_θ] (Algorithm 1, self-distillation);
2. draw rollouts B = {(o_i, a_i)} from π_θ, and their advantages A_i;
3. θ ← θ + η · (1/m) Σ_i [g_θ(o_i, a_i) + β ∇ELBO_θ(a_i|o_i)] (eq. 7; β = 0 without Algorithm 2), see `dipod.update`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dipod.algorithms import Algorithm
from dipod.config import ObjectiveConfig, OptimiserConfig, TrainerConfig
from dipod.drift import gradient_cosine
from dipod.evaluation import evaluate
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.evidence import Score
from dipod.loop import Loop, Metrics, TrainState
from dipod.noise import Noise, derive
from dipod.objectives.baselines import scale_by_std
from dipod.parallel import Processes, start
from dipod.policies.lora import has_adapters, reference
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.rollouts import Rollouts
from dipod.tasks import Task
from dipod.tightening import Distillation, Tightening, distil
from dipod.update import Reference, Updater, estimator_corruption


@dataclass(frozen=True)
class Settings:
    """How a trainer goes about it; each part is a group of `dipod.config.RunConfig`."""

    trainer: TrainerConfig
    sampler: SamplerConfig
    optimiser: OptimiserConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    completions: int = 4


def frozen(policy: MaskedPolicy) -> Reference:
    """The policy as it is before training, for a KL penalty: without its adapters, or a frozen copy."""
    if has_adapters(policy.network):

        @contextmanager
        def without_adapters() -> Iterator[MaskedPolicy]:
            with reference(policy.network):
                yield policy

        return without_adapters
    copy = replace(policy, network=deepcopy(policy.network).requires_grad_(False).eval())
    return lambda: nullcontext(copy)


class Trainer(Loop[TrainerConfig]):
    """The loop. Everything it needs is passed in as a value; `state` is what a checkpoint holds."""

    def __init__(
        self,
        policy: MaskedPolicy,
        task: Task,
        algorithm: Algorithm,
        tightening: Tightening[Distillation],
        settings: Settings,
        seed: int,
        processes: Processes | None = None,
    ) -> None:
        settings.sampler.blocks_of(task.completion_length)
        self.policy, self.task, self.tightening, self.settings, self.seed = policy, task, tightening, settings, seed
        self.config = settings.trainer
        self.processes = processes or start()
        self.policy.network.to(self.processes.device)
        self.algorithm = self._adapted(algorithm)
        base = frozen(policy) if settings.objective.kl_weight else None
        trained = [p for p in policy.network.parameters() if p.requires_grad]
        self.stage = tightening.distillation_before(0)
        self.optimisers: dict[str, torch.optim.Optimizer] = {"policy": settings.optimiser.build(trained)}
        if self.stage is not None:
            rate = self.stage.learning_rate
            self.optimisers["distillation"] = settings.optimiser.build(trained, rate)
        wrapped, prepared = self.processes.prepare(policy.network, list(self.optimisers.values()))
        self.optimisers = dict(zip(self.optimisers, prepared, strict=True))
        groups = self.optimisers["policy"].param_groups  # not the network's: they may have been sharded since
        self.parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self.updater = Updater(
            replace(policy, network=wrapped),
            policy,
            self.algorithm,
            settings,
            seed,
            self.processes,
            self.parameters,
            base,
        )
        self.share = self.processes.share(self.config.prompts * self.config.group_size, "trainer.prompts")
        self.held_out = task.held_out(self.config.evaluate_problems) if self.config.evaluate_problems else None
        self.state = TrainState()
        self.shown: list[dict[str, Any]] = []

    @property
    def network(self) -> nn.Module:
        """What a checkpoint holds."""
        return self.policy.network

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs besides network, optimisers and `state`: nothing."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned."""

    def _adapted(self, algorithm: Algorithm) -> Algorithm:
        """The row with what the settings change in it."""
        normaliser = self.settings.objective.normaliser
        return replace(
            algorithm,
            corruption=estimator_corruption(algorithm.corruption, self.settings.corruption),
            normaliser=algorithm.normaliser if normaliser == "own" else normaliser,
        )

    def train_step(self) -> Metrics:
        """Self-distillation if a stage is due, rollouts, and the update on them (1 to 3 above)."""
        state = self.state
        metrics: Metrics = {}
        stage = self.tightening.distillation_before(state.step)
        if stage is not None:
            history = self.distil(self.collect("distillation"), stage)
            metrics |= {"distillation_steps": len(history), "distillation_gain": history[-1] - history[0]}
        state.beta = self.tightening.next_beta(state.step, state.beta, state.gap)
        started = time.perf_counter()
        rollouts = self.collect("rollout")
        metrics["seconds_rollout"] = time.perf_counter() - started
        reward = self.processes.gather(rollouts.reward)
        metrics |= {"reward": float(reward.double().mean()), "reward_std": float(reward.double().std())}
        groups = reward.view(-1, self.config.group_size)
        metrics["idle_groups"] = float((groups == groups[:, :1]).all(-1).double().mean())
        measured = state.step == 0 or self.due(self.config.evaluate_every, state.step + 1)
        alone = self.processes.count == 1 and not self.processes.sharded
        if measured and self.config.cosine_rollouts and alone:
            metrics |= self.cosine(rollouts)
        rate = self.settings.optimiser.rate_at(state.step, self.config.steps)
        for group in self.optimisers["policy"].param_groups:
            group["lr"] = rate
        return metrics | self.updater.update(rollouts, state.beta, self.optimisers["policy"], state.step)

    def collect(self, purpose: str) -> Rollouts:
        """Draw observations, G actions for each from the current policy, and their advantages: this process's share."""
        config, seed = self.config, derive(self.seed, purpose)
        problems = self.task.draw(config.prompts, "train", seed, self.state.step)
        mine = problems.repeat_interleave(config.group_size)[self.share]
        index = torch.arange(config.prompts * config.group_size)[self.share]
        device = self.processes.device
        observation = self.task.observe(mine).to(device)
        noise = Noise.keyed(seed, self.state.step, examples=index.tolist(), device=device)
        blank = self.task.blank(mine).to(device)
        ids = self.policy.sample(observation, blank, self.settings.sampler, noise, self.task.eos_id).ids.cpu()
        action, counted = self.task.complete(mine, ids)
        own = self.task.reward(mine, ids)
        reward = self.processes.gather(own)
        advantage = self.algorithm.baseline(reward.view(-1, config.group_size))
        if config.scale_advantages and self.algorithm.scaled:
            advantage = scale_by_std(advantage)
        return Rollouts(
            observation,
            action.to(device),
            counted.to(device),
            own.to(device),
            advantage.flatten()[self.share].to(device),
            index,
        )

    def distil(self, rollouts: Rollouts, stage: Distillation) -> list[float]:
        """Maximise the ELBO of the reference's rollouts, with fresh corruption samples at every step."""
        updater = self.updater
        step = self.state.step
        return distil(
            lambda i: updater.ascend_elbo(rollouts, step, i),
            lambda: self.processes.clip(self.parameters, self.settings.optimiser.max_grad_norm),
            self.optimisers["distillation"],
            stage,
        )

    def evaluate(self) -> Metrics:
        """Solved problems and the gap on held-out problems, with the same noise every time."""
        self.state.evaluated = self.state.step
        if self.held_out is None:
            return {}
        found = evaluate(
            self.policy,
            self.task,
            self.held_out,
            self.settings.sampler,
            self.config,
            self.processes,
            show=self.settings.completions,
        )
        self.shown = found.shown
        gap = found.metrics.get("gap")
        self.state.gap = None if gap is None else float(gap)
        return found.metrics

    def cosine(self, rollouts: Rollouts) -> Metrics:
        """Cosine between the proxy gradient and the policy gradient on this step's rollouts, before the update."""
        telling = (rollouts.advantage != 0).nonzero()[: self.config.cosine_rollouts, 0]
        few = rollouts[telling]
        if not len(few) or int(few.length.max()) > self.config.exact_tokens:
            return {}

        def score(rows: Tensor) -> Score:
            return self.policy.score(few.observation[rows], few.action[rows])

        row = self.algorithm
        value = gradient_cosine(score, few.counted, few.advantage, row.on_policy, self.parameters, row.corruption)
        return {} if math.isnan(value) else {"cosine": value}
