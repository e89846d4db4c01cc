"""Reinforcement-learning post-training in one short loop: Algorithms 1 and 2 of the paper.

Each step of `Trainer.run`:

1. where a stage is due, ref ← θ and θ ← argmax E_ref[ELBO_θ] (Algorithm 1, self-distillation);
2. draw rollouts B = {(o_i, a_i)} from π_θ, and their advantages A_i;
3. θ ← θ + η · (1/m) Σ_i [g_θ(o_i, a_i) + β ∇ELBO_θ(a_i|o_i)] (eq. 7; β = 0 without Algorithm 2).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dipod.algorithms import Algorithm
from dipod.config import OptimiserConfig, TrainerConfig
from dipod.drift import gradient_cosine
from dipod.errors import UserError
from dipod.evaluation import Metrics, evaluate
from dipod.likelihood.evidence import Score, sample_corruption
from dipod.objectives.baselines import scale_by_std
from dipod.objectives.surrogates import clip_fractions
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.rollouts import Rollouts
from dipod.tasks import Problems, Task
from dipod.tightening import Distillation, Tightening, distil


@dataclass
class TrainState:
    """Everything that a resumed run needs besides the parameters; the only mutable thing in the loop.

    Attributes:
        step: updates done (batches of rollouts, not gradient steps).
        beta: β of the last update; None before the first.
        gap: the last gap measured, in nats; None before that.
        optimisers: "policy" for the updates and "distillation" for Algorithm 1's stages.
        generators: every source of randomness; "task" is the position in the data.
    """

    step: int
    beta: float | None
    gap: float | None
    optimisers: dict[str, torch.optim.AdamW]
    generators: dict[str, torch.Generator]


class Trainer:
    """The loop. Everything it needs is passed in as a value; `state` is what a checkpoint holds."""

    def __init__(
        self,
        policy: MaskedPolicy,
        task: Task,
        algorithm: Algorithm,
        tightening: Tightening,
        sampler: SamplerConfig,
        optimiser: OptimiserConfig,
        config: TrainerConfig,
        seed: int,
    ) -> None:
        sampler.blocks_of(task.completion_length)
        self.policy, self.task, self.algorithm, self.tightening = policy, task, algorithm, tightening
        self.sampler, self.optimiser, self.config = sampler, optimiser, config
        self.parameters = [p for p in policy.network.parameters() if p.requires_grad]
        stage = tightening.distillation_before(0) or Distillation()
        self.state = TrainState(
            step=0,
            beta=None,
            gap=None,
            optimisers={
                "policy": optimiser.build(self.parameters),
                "distillation": optimiser.build(self.parameters, stage.learning_rate),
            },
            generators={
                name: torch.Generator().manual_seed(8 * seed + i)
                for i, name in enumerate(("task", "rollout", "corruption", "distillation"))
            },
        )
        self.held_out = task.held_out(config.evaluate_puzzles)

    def run(self) -> Iterator[Metrics]:
        """Train from the current state to the last step, yielding one object of metrics a step (step 0: the base)."""
        if self.state.gap is None:
            yield {"step": 0, **self.evaluate()}
        while self.state.step < self.config.steps:
            started = time.perf_counter()
            metrics = self.train_step()
            self.state.step += 1
            if self.due(self.config.evaluate_every, self.state.step):
                metrics |= self.evaluate()
            yield {"step": self.state.step, **metrics, "seconds": time.perf_counter() - started}

    def due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps (0: only at the end) falls on ``step``."""
        return step == self.config.steps or (every > 0 and step % every == 0)

    def train_step(self) -> Metrics:
        """Self-distillation if a stage is due, rollouts, and the update on them (1 to 3 above)."""
        state = self.state
        metrics: Metrics = {}
        stage = self.tightening.distillation_before(state.step)
        if stage is not None:
            history = self.distil(self.collect(), stage)
            metrics |= {"distillation_steps": len(history), "distillation_gain": history[-1] - history[0]}
        state.beta = self.tightening.next_beta(state.step, state.beta, state.gap)
        rollouts = self.collect()
        metrics["reward"] = float(rollouts.reward.mean())
        measured = state.step == 0 or self.due(self.config.evaluate_every, state.step + 1)
        if measured and self.config.cosine_rollouts:
            metrics |= self.cosine(rollouts)
        return metrics | self.update(rollouts, state.beta)

    def collect(self) -> Rollouts:
        """Draw observations, G actions for each from the current policy, and their advantages."""
        config, generators = self.config, self.state.generators
        problems = self.task.draw(config.prompts, "train", generators["task"]).repeat_interleave(config.group_size)
        action, reward = self.act(problems, self.sampler, generators["rollout"])
        advantage = self.algorithm.baseline(reward.view(-1, config.group_size))
        if config.scale_advantages:
            advantage = scale_by_std(advantage)
        return Rollouts(self.task.observe(problems), action, reward, advantage.flatten())

    def update(self, rollouts: Rollouts, beta: float) -> Metrics:
        """Gradient steps on one batch of rollouts, with corruption samples drawn once (common random numbers)."""
        state, algorithm = self.state, self.algorithm
        corruption = sample_corruption(
            rollouts.action.valid,
            self.config.corruption_samples,
            state.generators["corruption"],
            self.config.corruption,
        )
        optimiser = state.optimisers["policy"]
        for group in optimiser.param_groups:
            group["lr"] = self.optimiser.rate_at(state.step, self.config.steps)
        old: Tensor | None = None
        metrics: Metrics = {"beta": beta}
        for _ in range(self.config.inner_updates):
            evidence = self.policy.evidence(rollouts.observation, rollouts.action, corruption)
            elbo, new = evidence.elbo(), algorithm.proxy(evidence, rollouts.advantage)
            old = new.detach() if old is None else old  # the ratio of a first update is 1: no second pass
            objective = algorithm.objective(new, old, rollouts.advantage, elbo, beta)
            optimiser.zero_grad()
            (-objective).backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.optimiser.max_grad_norm)
            self.check_finite(objective, norm)
            optimiser.step()
            metrics |= {"train_elbo": float(elbo.detach().mean()), "grad_norm": float(norm)}
            if algorithm.clip is not None:
                shares = clip_fractions(new.detach(), old, rollouts.advantage, algorithm.clip)
                metrics |= dict(zip(("clip_fraction_positive", "clip_fraction_negative"), shares, strict=True))
        return metrics

    def distil(self, rollouts: Rollouts, stage: Distillation) -> list[float]:
        """Maximise the ELBO of the reference's rollouts, with fresh corruption samples at every step."""
        generator = self.state.generators["distillation"]

        def elbo() -> Tensor:
            samples, scheme = self.config.corruption_samples, self.config.corruption
            corruption = sample_corruption(rollouts.action.valid, samples, generator, scheme)
            return self.policy.evidence(rollouts.observation, rollouts.action, corruption).elbo().mean()

        return distil(elbo, self.parameters, self.state.optimisers["distillation"], stage, self.optimiser.max_grad_norm)

    def evaluate(self) -> Metrics:
        """Solved problems and the gap on held-out problems, with the same noise every time."""
        config = self.config
        metrics = evaluate(self.policy, self.task, self.held_out, self.sampler, config.gap_puzzles, config.exact_tokens)
        self.state.gap = float(metrics["gap"])
        return metrics

    def cosine(self, rollouts: Rollouts) -> Metrics:
        """Cosine between the proxy gradient and the policy gradient on this step's rollouts, before the update."""
        few = rollouts[: self.config.cosine_rollouts]
        if int(few.action.valid.sum(-1).max()) > self.config.exact_tokens:
            return {}

        def score(rows: Tensor) -> Score:
            return self.policy.score(few.observation[rows], few.action[rows])

        value = gradient_cosine(score, few.action.valid, few.advantage, self.algorithm.proxy, self.parameters)
        return {} if math.isnan(value) else {"cosine": value}

    def act(self, problems: Problems, sampler: SamplerConfig, generator: torch.Generator) -> tuple[Tokens, Tensor]:
        """One completion for each problem and its reward."""
        blank = self.task.blank(problems)
        ids = self.policy.sample(self.task.observe(problems), blank, sampler, generator).ids
        return blank.with_ids(ids), self.task.reward(problems, ids)

    def check_finite(self, objective: Tensor, norm: Tensor) -> None:
        """Stop before a NaN reaches the parameters, and name the first bad gradient."""
        if bool(torch.isfinite(objective)) and bool(torch.isfinite(norm)):
            return
        named = self.policy.network.named_parameters()
        bad = next((n for n, p in named if p.grad is not None and not p.grad.isfinite().all()), "the objective")
        mend = "lower optimiser.learning_rate or resume from the last checkpoint; no parameter was changed"
        raise UserError(f"gradient of {bad} at step {self.state.step + 1}", float(objective.detach()), mend)
