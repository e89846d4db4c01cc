"""What a flow policy's velocity says about log π: conditional-flow-matching errors, and the ELBO that they make.

The path is linear, x_t = (1-t)·a + t·ε with noise at t = 1 and the action at t = 0, and the velocity's target is
u = ε - a. Shapes: B rows (an observation and an action each), S noise samples, d action dimensions. Actions are in the
network's units a = action / scale; log-densities are in nats and in those units.

Kingma and Gao's identity makes the weight (1-t)/t on the summed squared error a bound of log π. A flat weight does not:
it is the bound of a noised action, without its constant, and hides how far the real one is from tight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dipod.errors import require

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x [B, S, d], t [B, S]) -> [B, S, d]`` of B observations that it knows already."""

Reduction = Literal["mean", "sum", "sqrt"]
Weighting = Literal["velocity", "noise"]
Times = Literal["beta", "discrete", "log-uniform"]


@dataclass(frozen=True)
class TimesConfig:
    """Which noise samples the errors are taken at.

    Attributes:
        samples: S per action.
        times: "beta" draws t from Beta(1, beta) over [low, high]; "discrete" from the sampler's own times;
            "log-uniform" from [low, 1] with density proportional to 1/t, stratified over the samples: the best for the
            ELBO.
        beta: 1 is uniform.
        low: the least t.
        high: the largest t of "beta".
        steps: of the sampler, for "discrete": t is one of 1/steps, 2/steps, ..., 1.
    """

    samples: int = 16
    times: Times = "beta"
    beta: float = 1.0
    low: float = 0.005
    high: float = 0.995
    steps: int = 10

    def __post_init__(self) -> None:
        require(self.samples >= 1, "times.samples", self.samples, "give at least one noise sample")
        require(self.beta > 0, "times.beta", self.beta, "give a positive number (1 is uniform)")
        require(0 < self.low < self.high <= 1, "times.low", self.low, "give 0 < low < high <= 1")
        require(self.steps >= 1, "times.steps", self.steps, "give at least one step")


@dataclass(frozen=True)
class FlowNoise:
    """Noise samples kept by value, so that old and new proxies see common random numbers.

    Attributes:
        eps: [B, S, d] standard normal.
        t: [B, S] in (0, 1].
        density: [B, S] of t where it was drawn, so that the mean over S of f(t)/density is ∫f dt over the range; 0
            where t is one of a few and no integral can be had.
    """

    eps: Tensor
    t: Tensor
    density: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: Tensor | slice) -> FlowNoise:
        return FlowNoise(self.eps[rows], self.t[rows], self.density[rows])


def draw_noise(rows: int, dimension: int, config: TimesConfig, generator: torch.Generator) -> FlowNoise:
    """Noise samples of ``rows`` actions of ``dimension`` numbers, on the generator's device."""
    device, shape = generator.device, (rows, config.samples)
    eps = torch.randn(*shape, dimension, generator=generator, device=device)
    uniform = torch.rand(shape, generator=generator, device=device)
    if config.times == "discrete":
        t = ((uniform * config.steps).floor() + 1) / config.steps
        return FlowNoise(eps, t, torch.zeros_like(t))
    if config.times == "log-uniform":
        strata = torch.arange(config.samples, device=device)
        t = config.low ** (1 - (strata + uniform) / config.samples)
        return FlowNoise(eps, t, 1 / (t * math.log(1 / config.low)))
    share = 1 - (1 - uniform) ** (1 / config.beta)
    span = config.high - config.low
    density = config.beta * (1 - share) ** (config.beta - 1) / span
    return FlowNoise(eps, config.low + span * share, density)


@dataclass(frozen=True)
class FlowEvidence:
    """What the velocity says at S noise samples of B actions.

    Attributes:
        velocity: [B, S, d] the network's, v(x_t, t).
        target: [B, S, d] u = ε - a.
        noise: the samples.
    """

    velocity: Tensor
    target: Tensor
    noise: FlowNoise

    def error(self) -> Tensor:
        """|v - u|², summed over the dimensions, [B, S]."""
        return (self.velocity - self.target).square().sum(-1)

    def loss(self, reduction: Reduction = "mean", weighting: Weighting = "velocity") -> Tensor:
        """The flow-matching loss of every sample, [B, S].

        Args:
            reduction: |v - u|² over d ("mean"), as it is ("sum"), or over sqrt d ("sqrt").
            weighting: "noise" is the error of the predicted noise, (1-t)² times that of the velocity.
        """
        power = {"mean": 1.0, "sum": 0.0, "sqrt": 0.5}[reduction]
        loss = self.error() / float(self.target.shape[-1] ** power)
        return loss * (1 - self.noise.t).square() if weighting == "noise" else loss

    def predicted_noise(self) -> Tensor:
        """ε̂ = x_t + (1-t)·v, [B, S, d]."""
        return self._at_t() + (1 - self.noise.t)[..., None] * self.velocity

    def predicted_action(self) -> Tensor:
        """â = x_t - t·v, [B, S, d]."""
        return self._at_t() - self.noise.t[..., None] * self.velocity

    def _at_t(self) -> Tensor:
        return self.noise.eps - (1 - self.noise.t)[..., None] * self.target

    def elbo(self, per_sample: bool = False, cutoff: float = 0.005) -> Tensor:
        """The ELBO of the model whose reverse process has this velocity (Kingma and Gao's w = 1), [B] or [B, S].

        ELBO(a) = d(1-t0) + d log(1-t0) - (d/2) log 2πe - ∫_{t0}^1 (1-t)/t · E(|v-u|² - d) dt, with the decoder
        N(x_{t0}/(1-t0), (t0/(1-t0))² I). |ε|², whose mean is d, is the control variate. What noise samples leave out of
        [t0, 1] counts as nothing, which near t = 1 is exact to the square of what is left out.

        It bounds the log-density of that stochastic reverse process, so a single action's log π - ELBO may be negative
        for the deterministic sampler; its mean over the policy's own actions may not.

        Args:
            per_sample: the S unbiased samples instead of their mean.
            cutoff: t0; a velocity that is wrong at t = 0 makes the gap grow like log(1/t0), so it is to be stated.

        Raises:
            UserError: noise samples at a few times only.
        """
        noise, d = self.noise, self.target.shape[-1]
        whole = bool((noise.density > 0).all())
        require(whole, "times.times", "discrete", 'the ELBO is an integral over t; draw "beta" or "log-uniform" times')
        weight = (1 - noise.t) / noise.t * (noise.t >= cutoff * (1 - 1e-4)) / noise.density
        integrand = weight * (self.error() - noise.eps.square().sum(-1))
        samples = elbo_constant(d, cutoff) - integrand
        return samples if per_sample else samples.mean(-1)


def elbo_constant(dimension: int, cutoff: float) -> float:
    """d(1-t0) + d log(1-t0) - (d/2) log 2πe: the ELBO where E|v-u|² = d at every t."""
    require(0 < cutoff < 1, "cutoff", cutoff, "give a time between 0 and 1")
    return dimension * (1 - cutoff + math.log1p(-cutoff) - 0.5 * math.log(2 * math.pi * math.e))


def flow_evidence(velocity: Velocity, action: Tensor, noise: FlowNoise) -> FlowEvidence:
    """Ask the velocity about actions [B, d] (in its own units) at their noise samples."""
    target = noise.eps - action[:, None]
    x = action[:, None] + noise.t[..., None] * target
    return FlowEvidence(velocity(x, noise.t), target, noise)
