"""A latent-variable policy (VAE): a latent and a decoder act, an encoder bounds their likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dipod.errors import at_least, positive, require
from dipod.likelihood.latent import (
    MAX_GRID_LATENT,
    Conditional,
    LatentDensity,
    LatentEvidence,
    Posterior,
    latent_density,
    latent_evidence,
    latent_log_prob,
)
from dipod.noise import draw_rows, normal_rows
from dipod.policies.mlp import Perceptron
from dipod.policies.normaliser import Normaliser

Record = tuple[Tensor, ...]
"""What is kept of N actions besides themselves: standard normal numbers [N, K, m] that place latents in the encoder."""

FURTHEST, NARROWEST = 8.0, 4.0
"""The encoder's mean and log spread stay within ± these, smoothly: one that policy gradients led astray still gives
finite numbers."""


@dataclass(frozen=True)
class VaeSettings:
    """Sizes and first scales of a latent-variable policy.

    Attributes:
        latent: m, dimensions of z.
        samples: K latent samples an action, at which its likelihood is asked.
        action_scale: c; actions over c are what the networks see and say.
        output_scale: the decoder's means are multiplied by it.
        latent_scale: latents are multiplied by it before the decoder sees them: how much they say at first.
        spread: first standard deviation of the decoder, in units of c.
    """

    latent: int = 1
    samples: int = 8
    action_scale: float = 1.0
    output_scale: float = 1.0
    latent_scale: float = 1.0
    spread: float = 0.5

    def __post_init__(self) -> None:
        at_least(self, "policy", 1, "latent", "samples")
        mend = f"log π is an integral over it: give at most {MAX_GRID_LATENT}"
        require(self.latent <= MAX_GRID_LATENT, "policy.latent", self.latent, mend)
        positive(self, "policy", "action_scale", "output_scale", "latent_scale", "spread")


class VaePolicy(nn.Module):
    """z ~ N(0, I), a ~ N(c·μ(z, o), diag σ²), with σ the same everywhere; q(z|a, o) is Gaussian.

    Attributes:
        decoder: μ, of normalised observation and latent.
        log_std: log σ, [d], in the environment's units.
        encoder: mean and log spread of q, of normalised observation and action over c.
        normaliser: of observations.
        settings: sizes and scales.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        settings: VaeSettings,
        act: str = "elu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings, m = settings, settings.latent
        self.decoder = Perceptron(observation_size + m, action_size, hidden, act, generator)
        self.encoder = Perceptron(observation_size + action_size, 2 * m, hidden, act, generator)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(settings.spread * settings.action_scale)))
        self.normaliser = Normaliser(observation_size)

    @property
    def action_size(self) -> int:
        """D."""
        return len(self.log_std)

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Record]:
        """Actions [N, d] in the environment's units, and the numbers that place their latent samples."""
        action, _ = self.sample(observation, generator)
        record = draw_rows(generator, len(action), lambda rows: self.draw(rows, self.settings.samples, generator))
        return action, (record,)

    @torch.no_grad()
    def sample(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions [N, d] and the latents that they were decoded from, [N, m]."""
        rows, dtype = len(observation), observation.dtype
        z = normal_rows(generator, rows, self.settings.latent, dtype=dtype)
        noise = normal_rows(generator, rows, self.action_size, dtype=dtype)
        return self.mean(observation, z[:, None])[:, 0] + self.log_std.exp() * noise, z

    @torch.no_grad()
    def mode(self, observation: Tensor) -> Tensor:
        """The action that zero noise leads to, [N, d]: evaluation without chance."""
        return self.mean(observation, observation.new_zeros(len(observation), 1, self.settings.latent))[:, 0]

    def draw(self, rows: int, samples: int, generator: torch.Generator) -> Tensor:
        """The record of ``rows`` actions, [N, K, m], on the generator's device."""
        return torch.randn(rows, samples, self.settings.latent, generator=generator, device=generator.device)

    def mean(self, observation: Tensor, z: Tensor) -> Tensor:
        """The decoder's means c·μ(z, o), [B, K, d], of observations [B, o] and latents [B, K, m]."""
        seen = self.normaliser(observation)[:, None].expand(-1, z.shape[1], -1)
        out: Tensor = self.decoder(torch.cat([seen, self.settings.latent_scale * z], -1))
        return self.settings.action_scale * self.settings.output_scale * out

    def conditional(self, observation: Tensor, action: Tensor) -> Conditional:
        """Log p(a|z, o) of actions [B, d] in the environment's units."""

        def log_prob(z: Tensor) -> Tensor:
            apart = (action[:, None] - self.mean(observation, z)) / self.log_std.exp()
            return (-0.5 * (apart.square() + math.log(2 * math.pi)) - self.log_std).sum(-1)

        return log_prob

    def posterior(self, observation: Tensor, action: Tensor) -> Posterior:
        """q(z|a, o) of actions [B, d]."""
        seen = torch.cat([self.normaliser(observation), action / self.settings.action_scale], -1)
        mean, log_spread = self.encoder(seen).chunk(2, -1)
        return Posterior(FURTHEST * (mean / FURTHEST).tanh(), NARROWEST * (log_spread / NARROWEST).tanh())

    def evidence(self, observation: Tensor, action: Tensor, record: Record) -> LatentEvidence:
        """What decoder and encoder say of actions [B, d] at the latent samples of their record."""
        (eps,) = record
        return latent_evidence(self.conditional(observation, action), self.posterior(observation, action), eps)

    def log_prob(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log π of a few actions [B, d], differentiable, and where it can be believed; float64 parameters are best."""
        return latent_log_prob(self.conditional(observation, action), self.posterior(observation, action))

    @torch.no_grad()
    def density(self, observation: Tensor, action: Tensor) -> LatentDensity:
        """Log π and ELBO of actions [B, d], both by integration in float64.

        Raises:
            UserError: more latent dimensions than a grid can fill.
        """
        exact, observation, action = deepcopy(self).double(), observation.double(), action.double()
        return latent_density(exact.conditional(observation, action), exact.posterior(observation, action))
