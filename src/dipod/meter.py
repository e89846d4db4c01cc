"""Drift of a masked diffusion policy, measured on rollouts: the gap, and the angle of the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dipod.algorithms import Algorithm
from dipod.config import TrainerConfig
from dipod.drift import Alignment, Decoding, Estimator, Gap, exact_alignment, measure_gap, sampled_alignment
from dipod.drift.gap import ENTROPY_KINDS, RANDOM_ORDER
from dipod.drift.monitor import Look, MonitorConfig, spread
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.evidence import Score
from dipod.loop import Metrics
from dipod.noise import Noise
from dipod.parallel import Processes
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.rollouts import Rollouts

ROWS_PER_PASS = 4096


def decoding_of(sampler: SamplerConfig, length: int) -> Decoding | None:
    """The decoding whose orders a sampler's samples carry; None where these do not have the law of any.

    Orders by confidence, temperatures other than 1, top-p, guidance and rollouts ended early change a sample's law.
    """
    known = sampler.temperature == 1 and sampler.remasking == "random" and sampler.noise != "released-bf16"
    if not known or sampler.top_p < 1 or sampler.cfg_scale or sampler.eos_stop:
        return None
    blocks, steps = sampler.blocks_of(length)
    one_by_one = blocks * steps == length
    return Decoding(blocks, 0 if one_by_one else steps)


@dataclass(frozen=True)
class Meter:
    """Measures rollouts of one policy.

    Attributes:
        policy: what drew them.
        algorithm: whose proxy gradient is looked at.
        config: which completions are short enough to be exact, and rows per pass.
        sampler: how they were drawn.
        parameters: with respect to which gradients are taken.
        processes: among which the rollouts are shared.
        seed: of the decoding orders and masks.
        bound: the masks of the β term's ELBO; None where they are the algorithm's own.
    """

    policy: MaskedPolicy
    algorithm: Algorithm
    config: TrainerConfig
    sampler: SamplerConfig
    parameters: Sequence[Tensor]
    processes: Processes
    seed: int
    bound: CorruptionConfig | None = None

    @property
    def rows_per_pass(self) -> int:
        """Forward rows at a time."""
        return self.config.rows_per_pass or ROWS_PER_PASS

    def gap(self, rollouts: Rollouts, count: int, paths: int, step: int, exactly: bool = True) -> Gap:
        """The mean gap over some of the rollouts of all processes, as many on each, evenly spread over the prompts.

        Exact where all completions are short; a bracket under the sampler's own decoding where that has one and the
        whole completion counts; else a lower bound under random order.

        Args:
            rollouts: this process's.
            count: on how many of them, over all processes.
            paths: decoding orders per rollout for the bounds.
            step: of the training, for the noise.
            exactly: whether exactness is worth its price where it can be had.
        """
        gather = self.processes.gather
        rollouts = rollouts[spread(len(rollouts), -(-count // self.processes.count))]
        exact = exactly and int(gather(rollouts.length).max()) <= self.config.exact_tokens
        whole = bool(gather((rollouts.counted == rollouts.action.valid).all(-1)).all())
        decoding = decoding_of(self.sampler, rollouts.counted.shape[1]) if whole else None
        found = measure_gap(
            self.policy.score(rollouts.observation, rollouts.action),
            rollouts.counted,
            self._noise(rollouts, step, "gap"),
            self.config.exact_tokens if exact else 0,
            paths,
            self.rows_per_pass,
            None if decoding is None else rollouts.order,
            decoding or RANDOM_ORDER,
        )
        if self.processes.count == 1:
            return found
        ends = [found.gap, found.elbo, found.low, math.nan if found.high is None else found.high]
        gap, elbo, low, high = self._mean(ends)
        errors = [(error / self.processes.count) ** 2 for error in (found.low_error, found.high_error)]
        low_error, high_error = (math.sqrt(value * self.processes.count) for value in self._mean(errors))
        return Gap(gap, found.kind, elbo, low, None if found.high is None else high, low_error, high_error)

    def look(self, rollouts: Rollouts, monitor: MonitorConfig, step: int, beta: float) -> Look:
        """What the monitor of drift asks of an update's rollouts: gap, entropy a token, and angle.

        Args:
            rollouts: this process's.
            monitor: on how many of them, and how.
            step: of the training, for the noise.
            beta: β in force.
        """
        gap = self.gap(rollouts, monitor.rollouts, monitor.paths, step)
        few = rollouts[spread(len(rollouts), -(-monitor.rollouts // self.processes.count))]
        tokens = float(self.processes.gather(few.length).double().mean())
        more: Metrics = {"monitor_entropy": gap.entropy / tokens, "monitor_entropy_kind": ENTROPY_KINDS[gap.kind]}
        found = self.alignment(rollouts, monitor.aligned, monitor.paths, step, monitor.sketch, beta)
        return Look(gap, found, more)

    def _mean(self, values: list[float]) -> list[float]:
        """Numbers averaged over processes."""
        rows = self.processes.gather(torch.tensor([values], dtype=torch.float64))
        mean: list[float] = rows.mean(0).tolist()
        return mean

    def alignment(
        self, rollouts: Rollouts, count: int, paths: int, step: int, sketch: int = 0, beta: float = 0.0
    ) -> Alignment | None:
        """Of the estimator and of the update with β, on ``count`` rollouts with an advantage.

        None where there is an `obstacle`, or a gradient vanishes, or none are wanted.
        """
        if not count or self.obstacle(rollouts):
            return None
        telling = (rollouts.advantage != 0).nonzero()[:, 0]
        few = rollouts[telling[spread(len(telling), count)]]

        def score(rows: Tensor, hidden: Tensor | None) -> Score:
            return self.policy.score(self.policy.hide(few.observation[rows], hidden), few.action[rows])

        row, noise = self.algorithm, self._noise(few, step, "alignment")
        estimator = Estimator(row.on_policy, row.corruption, row.weight, beta, self.bound)
        if self._short(few):
            found = exact_alignment(score, few.counted, few.advantage, estimator, self.parameters, noise)
        else:
            found = sampled_alignment(
                score,
                few.counted,
                few.advantage,
                estimator,
                self.parameters,
                few.order,
                noise,
                few.observation.valid,
                paths,
                sketch,
                self.config.rows_per_pass or len(few) * paths,
            )
        return None if math.isnan(found.cosine) and not found.below_noise else found

    def obstacle(self, rollouts: Rollouts) -> str:
        """Why gradients cannot be compared on these rollouts, in words; empty where they can."""
        if self.processes.count > 1 or self.processes.sharded:
            return "gradients are compared on one process that holds the whole model"
        if not bool((rollouts.advantage != 0).any()):
            return "every group's rewards are equal, so no rollout has an advantage"
        if self._short(rollouts):
            return ""
        long = "completions are too long for exactness (trainer.exact_tokens)"
        if self.algorithm.corruption.prompt_share and int(rollouts.length.max()) <= self.config.exact_tokens:
            long = "masks over prompt tokens (corruption.prompt_share) are not enumerated"
        if decoding_of(self.sampler, rollouts.counted.shape[1]) != RANDOM_ORDER:
            return f"{long}, and the sampler does not reveal one token a step in random order at temperature 1"
        if not bool((rollouts.counted == rollouts.action.valid).all()):
            return f"{long}, and tokens after the end of a text, which do not count, were drawn as well"
        return ""

    def _short(self, rollouts: Rollouts) -> bool:
        """Whether all masks of all completions can be enumerated."""
        if decoding_of(self.sampler, rollouts.counted.shape[1]) not in (None, RANDOM_ORDER):
            return False
        return int(rollouts.length.max()) <= self.config.exact_tokens and not self.algorithm.corruption.prompt_share

    def _noise(self, rollouts: Rollouts, step: int, purpose: str) -> Noise:
        return Noise.keyed(self.seed, purpose, step, examples=rollouts.example.tolist())
