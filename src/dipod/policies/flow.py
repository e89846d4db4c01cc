"""A flow policy: observations to actions by a velocity network, and what it can say of their likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dipod.errors import at_least, not_negative, positive
from dipod.likelihood.flow import (
    FlowEvidence,
    FlowNoise,
    TimesConfig,
    Velocity,
    draw_noise,
    flow_evidence,
)
from dipod.noise import draw_rows, normal_rows
from dipod.policies.normaliser import Normaliser
from dipod.policies.velocity import VelocityNetwork

Record = tuple[Tensor, ...]
"""What is kept of N actions besides themselves, each [N, ...]: noise samples (ε, t, density), or a sampling chain."""


@dataclass(frozen=True)
class FlowSettings:
    """How a flow policy acts, and which noise samples its likelihood is asked at.

    Attributes:
        sampling_steps: K Euler steps from noise to action.
        action_scale: c; the network's actions times c are the environment's.
        perturbation: standard deviation of Gaussian noise on executed actions, in the environment's units.
        chain_noise: of a policy that acts by a noisy chain (DDPO, DPPO): σ in x ← x + h·v + σ√|h|·z.
        times: noise samples of an action.
    """

    sampling_steps: int = 16
    action_scale: float = 1.0
    perturbation: float = 0.02
    chain_noise: float = 0.3
    times: TimesConfig = field(default_factory=TimesConfig)

    def __post_init__(self) -> None:
        at_least(self, "policy", 1, "sampling_steps")
        positive(self, "policy", "action_scale", "chain_noise")
        not_negative(self, "policy", "perturbation")


class FlowPolicy(nn.Module):
    """Velocity network and normaliser of observations, acting by the Euler sampler.

    Attributes:
        network: v(x_t, t | o).
        normaliser: of observations.
        settings: how it acts.
    """

    def __init__(self, network: VelocityNetwork, settings: FlowSettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.normaliser = Normaliser(network.observation_size)

    @property
    def action_size(self) -> int:
        """D."""
        return self.network.action_size

    def velocity(self, observation: Tensor) -> Velocity:
        """The velocity of B observations [B, o], each encoded once."""
        encoded = self.network.encode(self.normaliser(observation))
        return lambda x, t: self.network(encoded, x, t)

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Record]:
        """Actions [N, d] in the environment's units, perturbed as they are executed, and their noise samples."""
        settings = self.settings
        action = settings.action_scale * self.sample(observation, self._normal(observation, generator))
        if settings.perturbation:
            action = action + settings.perturbation * self._normal(observation, generator)
        return action, self._noise(len(action), generator)

    @torch.no_grad()
    def sample(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Where the sampler takes noise [N, d], in the network's units."""
        return self.network.sample(self.normaliser(observation), noise, self.settings.sampling_steps)

    @torch.no_grad()
    def mode(self, observation: Tensor) -> Tensor:
        """The action that zero noise leads to, [N, d]: evaluation without chance."""
        zero = observation.new_zeros(len(observation), self.action_size)
        return self.settings.action_scale * self.sample(observation, zero)

    def evidence(self, observation: Tensor, action: Tensor, record: Record) -> FlowEvidence:
        """What the velocity says of actions in the environment's units, at the noise samples of their record."""
        return flow_evidence(self.velocity(observation), action / self.settings.action_scale, FlowNoise(*record))

    def _normal(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        return normal_rows(generator, len(observation), self.action_size, dtype=observation.dtype)

    def _noise(self, rows: int, generator: torch.Generator) -> Record:
        d, times = self.action_size, self.settings.times
        noise = draw_rows(generator, rows, lambda count: draw_noise(count, d, times, generator))
        return noise.eps, noise.t, noise.density


@dataclass(frozen=True)
class ChainEvidence:
    """Log-probabilities of a chain's steps, [B, K], and the evidence of its action."""

    steps: Tensor
    flow: FlowEvidence

    def elbo(self, per_sample: bool = False) -> Tensor:
        """The flow's; the chain's own likelihood is not that of its action."""
        return self.flow.elbo(per_sample)


class ChainPolicy(FlowPolicy):
    """A flow policy that acts by x ← x + h·v + σ√|h|·z: the denoising MDP of DDPO and DPPO.

    Each step is a Gaussian with a density, so a ratio needs no bound; it is the ratio of whole chains, not of actions.
    """

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Record]:
        """Actions in the environment's units, and the chains that led to them, [N, K + 1, d], before noise samples."""
        velocity = self.velocity(observation)
        x = self._normal(observation, generator)
        states = [x]
        for i in range(self.settings.sampling_steps):
            z = self._normal(observation, generator)
            x = self._mean(velocity, x[:, None], self._time(i, x[:, None]))[:, 0] + self._spread * z
            states.append(x)
        return self.settings.action_scale * x, (torch.stack(states, 1), *self._noise(len(x), generator))

    def evidence(self, observation: Tensor, action: Tensor, record: Record) -> ChainEvidence:  # type: ignore[override]
        """Log-probabilities of the chain's steps, and the action's flow evidence."""
        velocity = self.velocity(observation)
        states, *noise = record
        before, after = states[:, :-1], states[:, 1:]
        t = torch.cat([self._time(i, before[:, :1]) for i in range(before.shape[1])], 1)
        apart = (after - self._mean(velocity, before, t)) / self._spread
        log_prob = -0.5 * (apart.square() + math.log(2 * math.pi * self._spread**2)).sum(-1)
        flow = flow_evidence(velocity, action / self.settings.action_scale, FlowNoise(*noise))
        return ChainEvidence(log_prob, flow)

    @property
    def _spread(self) -> float:
        return self.settings.chain_noise / math.sqrt(self.settings.sampling_steps)

    def _time(self, step: int, x: Tensor) -> Tensor:
        return x.new_full(x.shape[:2], 1 - step / self.settings.sampling_steps)

    def _mean(self, velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
        return x - velocity(x, t) / self.settings.sampling_steps


def make_flow(
    observation_size: int,
    action_size: int,
    hidden: Sequence[int],
    settings: FlowSettings,
    generator: torch.Generator | None = None,
    chain: bool = False,
    act: str = "elu",
    time_features: int = 8,
    output_scale: float = 1.0,
) -> FlowPolicy:
    """A flow policy with a fresh network; ``chain`` for one that acts by a noisy chain."""
    network = VelocityNetwork(observation_size, action_size, hidden, act, time_features, output_scale, generator)
    return (ChainPolicy if chain else FlowPolicy)(network, settings)
