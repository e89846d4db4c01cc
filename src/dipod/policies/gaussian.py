"""A Gaussian policy, whose log-probability is exact: the ordinary baseline of control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dipod.noise import normal_rows
from dipod.policies.mlp import Perceptron
from dipod.policies.normaliser import Normaliser


@dataclass(frozen=True)
class GaussianEvidence:
    """Exact log-probabilities: bound and likelihood are one.

    Attributes:
        log_prob: [B] nats.
    """

    log_prob: Tensor

    def elbo(self, per_sample: bool = False) -> Tensor:
        """Log π itself, [B], or [B, 1]."""
        return self.log_prob[:, None] if per_sample else self.log_prob


class GaussianPolicy(nn.Module):
    """N(μ(o), diag σ²) with σ the same everywhere.

    Attributes:
        mean: μ, of normalised observations.
        log_std: [d].
        normaliser: of observations.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        spread: float = 1.0,
        act: str = "elu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.mean = Perceptron(observation_size, action_size, hidden, act, generator)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(spread)))
        self.normaliser = Normaliser(observation_size)

    @property
    def action_size(self) -> int:
        """D."""
        return len(self.log_std)

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Actions [N, d]; nothing else need be kept of them."""
        mean = self.mode(observation)
        return mean + self.log_std.exp() * normal_rows(generator, *mean.shape, dtype=mean.dtype), ()

    @torch.no_grad()
    def mode(self, observation: Tensor) -> Tensor:
        """The likeliest action, [N, d]."""
        found: Tensor = self.mean(self.normaliser(observation))
        return found

    def evidence(self, observation: Tensor, action: Tensor, record: tuple[Tensor, ...]) -> GaussianEvidence:
        """Log N(action; μ(o), σ²)."""
        del record
        apart = (action - self.mean(self.normaliser(observation))) / self.log_std.exp()
        each = -0.5 * (apart.square() + math.log(2 * math.pi)) - self.log_std
        return GaussianEvidence(each.sum(-1))
