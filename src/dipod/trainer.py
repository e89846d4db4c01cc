"""Reinforcement-learning post-training in one short loop: Algorithms 1 and 2 of the paper.

Each step of `Trainer.run`:

1. where a stage is due, ref ← θ and θ ← argmax E_ref[ELBO_θ] (Algorithm 1, self-distillation);
2. draw rollouts B = {(o_i, a_i)} from π_θ, and their advantages A_i;
3. θ ← θ + η · (1/m) Σ_i [g_θ(o_i, a_i) + β ∇ELBO_θ(a_i|o_i)] (eq. 7; β = 0 without Algorithm 2), see `dipod.update`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dipod.algorithms import Algorithm
from dipod.config import Settings, TrainerConfig
from dipod.drift.gap import bracket_rows
from dipod.drift.monitor import Look, Spent
from dipod.errors import RewardFailed, require
from dipod.evaluation import evaluate
from dipod.guard import blame, first_bad, gradients, weights
from dipod.idle import idle, warning
from dipod.loop import Loop, Metrics, TrainState
from dipod.meter import Meter
from dipod.noise import Noise, derive
from dipod.objectives.baselines import scale_by_std, weigh_negatives
from dipod.parallel import Processes, start
from dipod.policies.lora import has_adapters, reference
from dipod.policies.masked import MaskedPolicy
from dipod.rollouts import Rollouts, unique_share
from dipod.tasks import Task
from dipod.tightening import Distillation, Tightening, distil
from dipod.update import Reference, Updater, estimator_corruption


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


@dataclass(frozen=True)
class _Drawn:
    """This process's rows of a batch.

    Attributes:
        problems: B of them.
        ids: [B, L] completions.
        order: [B, L], the step at which each token was revealed.
        reward: [B].
    """

    problems: Any
    ids: Tensor
    order: Tensor
    reward: Tensor

    def exchange(self, places: Sequence[int], others: _Drawn) -> _Drawn:
        """These rows with others at some places."""
        if not places:
            return self
        at = torch.tensor(places, dtype=torch.int64)
        ids, order, reward = (
            mine.index_copy(0, at.to(mine.device), its)
            for mine, its in ((self.ids, others.ids), (self.order, others.order), (self.reward, others.reward))
        )
        return _Drawn(self.problems.exchange(places, others.problems), ids, order, reward)


class Trainer(Loop[TrainerConfig]):
    """The loop. Everything it needs is passed in as a value; `state` is what a checkpoint holds.

    Attributes:
        intact: the parameters are those of `state.step`, after whose metrics nothing has been changed yet.
    """

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
        epochs = settings.trainer.epochs
        require(
            epochs == 0, "trainer.epochs", epochs, "give trainer.steps; dipod.recipes.in_steps turns one into the other"
        )
        self.policy, self.task, self.tightening, self.settings, self.seed = policy, task, tightening, settings, seed
        self.config, self.network = settings.trainer, policy.network
        self.processes = processes or start()
        self.policy.network.to(self.processes.device)
        self.algorithm = self._adapted(algorithm)
        base = frozen(policy) if settings.objective.kl_weight else None
        trained = [p for p in policy.network.parameters() if p.requires_grad]
        stage = tightening.stage
        self.optimisers: dict[str, torch.optim.Optimizer] = {"policy": settings.optimiser.build(trained)}
        if stage is not None:
            self.optimisers["distillation"] = settings.optimiser.build(trained, stage.learning_rate)
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
            task.completion_length,
            base,
        )
        self.meter = Meter(
            policy,
            self.algorithm,
            settings.trainer,
            settings.sampler,
            self.parameters,
            self.processes,
            seed,
            self.updater.bound,
        )
        self.share = self.processes.share(self.config.prompts * self.config.group_size, "trainer.prompts")
        self.held_out = task.held_out(self.config.evaluate_problems) if self.config.evaluate_problems else None
        self.state, self.spent = TrainState(), Spent()
        self.shown: list[dict[str, Any]] = []
        self.intact = False

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
        state, rows = self.state, 0
        metrics: Metrics = {}
        self.intact = True
        stage = self.tightening.distillation_before(state.step, state.gap)
        if stage is not None:
            rollouts = self.collect("distillation")
            self.intact = False
            history = self.distil(rollouts, stage)
            metrics |= {"distillation_steps": len(history), "distillation_gain": history[-1] - history[0]}
            rows += self._rows(self.updater.bounding.samples, len(history))
        started = time.perf_counter()
        first = self._draw(derive(self.seed, "rollout"))
        drawn, again = self._resample(first)
        rollouts = self._rollouts(drawn)
        metrics["seconds_rollout"] = time.perf_counter() - started
        self.intact = False
        reward = self.processes.gather(first.reward)  # before any group was replaced: what the policy earns
        mean = float(reward.double().mean())
        metrics |= {"reward": mean, "reward_std": float(reward.double().std()), **self._idle(rollouts, mean)}
        if self.config.resample_idle:
            metrics["resampled_groups"] = again
            rows += self._rows(0, 0) * again // self.config.prompts
        prints = self.processes.gather(rollouts.fingerprint).view(-1, self.config.group_size)
        metrics["unique_share"] = unique_share(prints.tolist())
        if self.tightening.wants_gap(state.step):
            adaptive = self.settings.adaptive
            gap = self.meter.gap(rollouts, adaptive.rollouts, adaptive.paths, state.step, exactly=False).gap
            state.gap_before, state.gap, metrics["train_gap"] = state.gap, gap, gap
            rows += adaptive.rollouts * bracket_rows(self.task.completion_length, adaptive.paths, own=True)
        state.beta = self.tightening.next_beta(state.step, state.beta, state.gap, state.gap_before)
        metrics["forward_rows"] = rows + self._rows(self.updater.samples(state.beta), self.config.inner_updates)
        if state.step == 0 or self.due(self.config.evaluate_every, state.step + 1):
            count, paths = self.config.cosine_rollouts, self.config.gap_paths
            found = self.meter.alignment(rollouts, count, paths, state.step, beta=state.beta)
            metrics |= {} if found is None else found.numbers()
        metrics |= self.look(self.settings.monitor, self.settings.usual_beta, partial(self._measure, rollouts))
        rate = self.settings.optimiser.rate_at(state.step, self.config.steps)
        for group in self.optimisers["policy"].param_groups:
            group["lr"] = rate
        return metrics | self.updater.update(rollouts, state.beta, self.optimisers["policy"], state.step)

    def _rows(self, samples: int, gradients: int) -> int:
        """Rows that the network passes for one batch of rollouts and so many gradient steps under ``samples`` masks.

        A row is one completion under one mask, up to the completion's full length; a backward pass counts for two.
        """
        blocks, steps = self.settings.sampler.blocks_of(self.task.completion_length)
        return self.config.prompts * self.config.group_size * (blocks * steps + 3 * samples * gradients)

    def collect(self, purpose: str) -> Rollouts:
        """Draw observations, G actions for each from the current policy, and their advantages: this process's share."""
        return self._rollouts(self._draw(derive(self.seed, purpose)))

    def _draw(self, seed: int, places: Sequence[int] | None = None) -> _Drawn:
        """Problems of this step and a completion for each row of this process; of some rows only, if they are given."""
        config, group = self.config, self.config.group_size
        problems = self.task.draw(config.prompts, "train", seed, self.state.step).repeat_interleave(group)[self.share]
        index = torch.arange(config.prompts * group)[self.share]
        if places is not None:
            problems, index = problems.pick(places), index[torch.tensor(places, dtype=torch.int64)]
            if not places:  # nothing to decode, but the others may have
                width = self.task.completion_length
                none = torch.zeros(0, width, dtype=torch.int64)
                return _Drawn(problems, none, none, self.processes.together(lambda: torch.zeros(0)))
        device = self.processes.device
        noise = Noise.keyed(seed, self.state.step, examples=index.tolist(), device=device)
        observation, blank = self.task.observe(problems).to(device), self.task.blank(problems).to(device)
        sample = self.policy.sample(observation, blank, self.settings.sampler, noise, self.task.eos_id)
        ids = sample.ids.cpu()
        return _Drawn(problems, ids, sample.order, self.processes.together(partial(self._rewards, problems, ids)))

    def _resample(self, drawn: _Drawn) -> tuple[_Drawn, int]:
        """Put fresh problems in the place of those whose group is idle, round by round; and how many groups that were.

        A round has an order of problems and noise of its own; a row keeps its place in the batch.
        """
        size, replaced = self.config.group_size, 0
        for turn in range(self.config.resample_idle):
            groups = idle(self.processes.gather(drawn.reward), size)
            if not bool(groups.any()):
                break
            replaced += int(groups.sum())
            places = groups.repeat_interleave(size)[self.share].nonzero()[:, 0].tolist()
            drawn = drawn.exchange(places, self._draw(derive(self.seed, "resample", turn), places))
        return drawn, replaced

    def _idle(self, rollouts: Rollouts, reward: float) -> Metrics:
        """The share of idle groups in a batch, with a warning where that has been most of them for long."""
        share = float(idle(self.processes.gather(rollouts.reward), self.config.group_size).double().mean())
        self.state.idle = self.state.idle + 1 if share > 0.5 else 0
        said = warning(self.state.idle, reward)
        return {"idle_groups": share} | ({"idle_warning": said} if said else {})

    def _rollouts(self, drawn: _Drawn) -> Rollouts:
        """What was drawn, with advantages, on this process's device."""
        config, device = self.config, self.processes.device
        observation = self.task.observe(drawn.problems).to(device)
        action, counted = self.task.complete(drawn.problems, drawn.ids)
        reward = self.processes.gather(drawn.reward).view(-1, config.group_size)
        advantage = self.algorithm.baseline(reward)
        if config.scale_advantages and self.algorithm.scaled:
            advantage = scale_by_std(advantage, reward, config.scale_std == "sample")
        advantage = weigh_negatives(advantage, config.negative_weight)
        return Rollouts(
            observation,
            action.to(device),
            counted.to(device),
            drawn.reward.to(device),
            advantage.flatten()[self.share].to(device),
            torch.arange(config.prompts * config.group_size)[self.share],
            drawn.order,
        )

    def _rewards(self, problems: Any, ids: Tensor) -> Tensor:
        """The task's rewards of completions, [B], which must be finite."""
        reward = self.task.reward(problems, ids)
        found = first_bad([("reward", reward)])
        if found is not None:
            row = int((~reward.isfinite()).nonzero()[0])
            raise RewardFailed(
                f"reward of completion {row} at step {self.state.step + 1}", found[1], "give finite rewards"
            )
        return reward

    def distil(self, rollouts: Rollouts, stage: Distillation) -> list[float]:
        """Maximise the ELBO of the reference's rollouts, with fresh corruption samples at every step."""
        updater = self.updater
        step = self.state.step
        return distil(
            lambda i: updater.ascend_elbo(rollouts, step, i),
            self._clip,
            self.optimisers["distillation"],
            stage,
        )

    def _clip(self) -> None:
        """Bound a stage's gradient, which must be finite."""
        norm = self.processes.clip(self.parameters, self.settings.optimiser.max_grad_norm)
        if norm is not None and not bool(torch.isfinite(norm)):
            networks = [self.policy.network]
            raise blame([*weights(networks), *gradients(networks)], "interleave.learning_rate", "ELBO of a stage")

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
        return found.metrics

    def _measure(self, rollouts: Rollouts) -> Look:
        """What the monitor looks at, before the update."""
        return self.meter.look(rollouts, self.settings.monitor, self.state.step, self.state.beta or 0.0)
