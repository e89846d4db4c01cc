"""Pre-training of the embedded recipes: maximise E_data[ELBO_θ] on the task's prior (paper eq. 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dipod.config import PretrainConfig
from dipod.guard import blame, gradients, weights
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.noise import Noise, keyed_generator
from dipod.policies.masked import MaskedPolicy
from dipod.policies.tokens import Tokens

MAX_GRAD_NORM = 1.0
CORRUPTION = CorruptionConfig("independent", 1)


class Prior(Protocol):
    """A task that can say what a base model should imitate."""

    def prior(self, count: int, generator: torch.Generator) -> tuple[Tokens, Tokens, Tensor]:
        """``count`` observations and actions, and which tokens of the actions count, [B, L]."""
        ...


class Pretrainer:
    """One loop with a state that can be saved and put back, like the trainer's."""

    def __init__(self, policy: MaskedPolicy, task: Prior, config: PretrainConfig, seed: int) -> None:
        self.policy, self.task, self.config = policy, task, config
        self.parameters = list(policy.network.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.01)
        self.seed, self.step = seed, 0

    def run(self) -> Iterator[tuple[int, float]]:
        """Train from the current step to the last, yielding (steps done, ELBO of the batch in nats)."""
        while self.step < self.config.steps:
            elbo = self.train_step()
            self.step += 1
            yield self.step, elbo

    def train_step(self) -> float:
        """One gradient step on fresh completions with one corruption sample each; returns their mean ELBO."""
        warm = min(1.0, (self.step + 1) / max(self.config.warmup, 1))
        fallen = 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * warm * fallen
        generator = keyed_generator(self.seed, "pretraining", self.step)
        observation, action, counted = self.task.prior(self.config.batch, generator)
        noise = Noise.keyed(self.seed, "pretraining", self.step, examples=range(len(action)))
        corruption = draw(CORRUPTION, counted, None, noise)
        elbo = self.policy.evidence(observation, action, corruption).elbo().mean()
        self.optimiser.zero_grad()
        (-elbo).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        if not bool(torch.isfinite(norm + elbo.detach())):
            networks = [self.policy.network]
            named = [*weights(networks), ("ELBO", elbo), *gradients(networks)]
            raise blame(named, "pretrain.learning_rate").at(f"at step {self.step + 1} of pre-training")
        self.optimiser.step()
        return elbo.item()
