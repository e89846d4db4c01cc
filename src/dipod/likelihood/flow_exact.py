"""Exact log-densities of a flow policy: of the Euler sampler that is executed, and of the ODE that it approximates.

Shapes: B rows, d action dimensions; actions and noise in the network's units, log-densities in nats and in those units
(an action of scale c has d·log c less).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp

from dipod.errors import require
from dipod.likelihood.flow import Velocity

EXACT_TRACE_DIMENSIONS = 30
"""Up to so many dimensions the divergence is exact; beyond, Hutchinson's estimate is worth its noise."""
EXACT_DIMENSIONS = 64
"""Up to so many dimensions the sampler's log-density is exact by default; the estimate is no cheaper."""


@dataclass(frozen=True)
class FlowDensity:
    """A log-density and whether it can be believed.

    Attributes:
        log_prob: [B] nats.
        action: [B, d].
        noise: [B, d], the ε that leads to the action.
        valid: [B] bool: every Euler step was invertible along the way (and inverted, where it had to be); else the
            density is a sum over several ε of which this is one term.
    """

    log_prob: Tensor
    action: Tensor
    noise: Tensor
    valid: Tensor


def times(steps: int, like: Tensor) -> Tensor:
    """The Euler sampler's times from 1 to 0, [steps + 1], of the kind and on the device of ``like``."""
    require(steps >= 1, "sampling_steps", steps, "give at least one step")
    return torch.linspace(1, 0, steps + 1, dtype=like.dtype, device=like.device)


def sample(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """The Euler sampler: from noise [B, d] at t = 1 to actions [B, d] at t = 0, the network never called at t = 0."""
    grid = times(steps, noise)
    x = noise[:, None]
    for t, following in pairwise(grid):
        x = x + (following - t) * velocity(x, t.expand(len(x), 1))
    return x[:, 0]


def velocity_and_jacobian(velocity: Velocity, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """v(x, t) [B, d] and ∂v_i/∂x_j [B, d, d] for x [B, d] and one t: d forward-mode products in one pass."""
    rows, d = x.shape
    basis = torch.eye(d, dtype=x.dtype, device=x.device).repeat(rows, 1, 1)
    where = t.expand(rows, d)
    copies = x[:, None].repeat(1, d, 1)
    found = jvp(lambda at: velocity(at, where), (copies,), (basis,))
    return found[0][:, 0], found[1].transpose(1, 2)


@torch.no_grad()
def euler_log_prob(velocity: Velocity, noise: Tensor, steps: int) -> FlowDensity:
    """Actions of the Euler sampler and their exact log-density, by the change of variables of its steps.

    log π(a) = log N(ε; 0, I) - Σ_i log |det(I + h_i ∂v/∂x(x_i, t_i))|, along the path from ε: no inversion.

    Args:
        velocity: of B observations.
        noise: [B, d], the ε to start from.
        steps: K.
    """
    grid = times(steps, noise)
    x, volume = noise, torch.zeros(len(noise), dtype=torch.float64, device=noise.device)
    valid = torch.ones(len(noise), dtype=torch.bool, device=noise.device)
    eye = torch.eye(noise.shape[1], dtype=torch.float64, device=noise.device)
    for t, following in pairwise(grid):
        step = following - t
        value, jacobian = velocity_and_jacobian(velocity, x, t)
        sign, logdet = torch.linalg.slogdet(eye + float(step) * jacobian.double())
        volume, valid = volume + logdet, valid & (sign > 0)
        x = x + step * value
    return FlowDensity(standard_normal(noise) - volume, x, noise, valid)


@torch.no_grad()
def euler_log_prob_estimate(
    velocity: Velocity, noise: Tensor, steps: int, generator: torch.Generator, probes: int = 8, order: int = 6
) -> FlowDensity:
    """`euler_log_prob` without determinants, for actions of many dimensions: unbiased but for the cut of a series.

    log |det(I + A)| = Σ_k (-1)^(k+1) tr(A^k) / k where A = h·∂v/∂x is smaller than 1, and tr(A^k) = E[z·A^k z] over
    Rademacher z, fresh at every step: ``probes * order`` forward-mode products a step instead of d.

    Args:
        velocity: of B observations.
        noise: [B, d], the ε to start from.
        steps: K.
        generator: of the probes.
        probes: vectors z a row and step.
        order: terms of the series.

    Returns:
        ``valid`` where A shrank every probe to half or less at every step and power, so that what was cut is below
        d·2^-order / order nats a step, and in practice far less.
    """
    grid = times(steps, noise)
    rows, d = noise.shape
    x, volume = noise, torch.zeros(rows, dtype=torch.float64, device=noise.device)
    valid = torch.ones(rows, dtype=torch.bool, device=noise.device)
    for t, following in pairwise(grid):
        step, where = following - t, t.expand(rows, probes)
        copies = x[:, None].repeat(1, probes, 1)
        coin = torch.rand(rows, probes, d, generator=generator, device=noise.device)
        probe = (coin < 0.5).to(noise.dtype) * 2 - 1
        power, value = probe, torch.zeros_like(x)
        for k in range(1, order + 1):
            found = jvp(lambda at, where=where: velocity(at, where), (copies,), (power,))
            image, value = step * found[1], found[0][:, 0]
            valid = valid & (image.norm(dim=-1) <= 0.5 * power.norm(dim=-1)).all(-1)
            trace = (probe * image).double().sum(-1).mean(-1)
            volume, power = volume + (trace if k % 2 else -trace) / k, image
        x = x + step * value
    return FlowDensity(standard_normal(noise) - volume, x, noise, valid)


def fixed_action_log_prob(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """What has the gradient of log π_θ(a) at the fixed action a = F(ε), with respect to the velocity's parameters.

    With L(θ, ε) = log N(ε) - log|det ∂F_θ/∂ε|, which is log π at the moving action F_θ(ε), the chain rule gives
    ∂_θ log π(a) = ∂_θ L - s·∂_θ F with the score s = ∂_a log π(a) = (∂F/∂ε)^-T ∂_ε L held constant.

    Args:
        velocity: of B observations, with a graph to its parameters.
        noise: [B, d], the ε that leads to each action; see `invert_euler`.
        steps: K.

    Returns:
        [B]; its value is log π(a) - s·a and means nothing.
    """
    grid, start = times(steps, noise), noise.detach().requires_grad_()
    eye = torch.eye(noise.shape[1], dtype=noise.dtype, device=noise.device)
    x, volume, whole = start, noise.new_zeros(len(noise)), eye.expand(len(noise), -1, -1)
    for t, following in pairwise(grid):
        step = following - t
        value, jacobian = velocity_and_jacobian(velocity, x, t)
        change = eye + step * jacobian
        volume, whole = volume + torch.linalg.slogdet(change)[1], change.detach() @ whole
        x = x + step * value
    moving = standard_normal(start).to(noise.dtype) - volume
    (uphill,) = torch.autograd.grad(moving.sum(), start, retain_graph=True)
    score = torch.linalg.solve(whole.transpose(1, 2), uphill)
    surrogate: Tensor = moving - (score * x).sum(-1)
    return surrogate


@torch.no_grad()
def invert_euler(
    velocity: Velocity, action: Tensor, steps: int, iterations: int = 100, tolerance: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """The noise that the Euler sampler takes to given actions [B, d], step by step by fixed-point iteration.

    x ← y - h·v(x, t) contracts where |h| times the velocity's Lipschitz constant is below 1.

    Returns:
        [B, d] noise, and [B] bool: every step was inverted to the tolerance (in the largest coordinate).
    """
    grid = times(steps, action)
    y, converged = action, torch.ones(len(action), dtype=torch.bool, device=action.device)
    for following, t in pairwise(grid.flip(0)):
        step, x = following - t, y
        where = t.expand(len(y), 1)
        for _ in range(iterations):
            new = y - step * velocity(x[:, None], where)[:, 0]
            moved, x = (new - x).abs().amax(-1), new
            if bool((moved <= tolerance).all()):
                break
        converged = converged & (moved <= tolerance)
        y = x
    return y, converged


def euler_log_prob_of(velocity: Velocity, action: Tensor, steps: int) -> FlowDensity:
    """The exact log-density of given actions [B, d] under the Euler sampler: inversion, then `euler_log_prob`."""
    noise, converged = invert_euler(velocity, action, steps)
    found = euler_log_prob(velocity, noise, steps)
    return FlowDensity(found.log_prob, action, noise, found.valid & converged)


@torch.no_grad()
def ode_log_prob(
    velocity: Velocity,
    action: Tensor,
    steps: int = 100,
    trace: Literal["auto", "exact", "hutchinson"] = "auto",
    generator: torch.Generator | None = None,
) -> FlowDensity:
    """The log-density of actions [B, d] under the continuous flow: log N(x_1; 0, I) + ∫_0^1 div v dt.

    Runge-Kutta of fourth order from t = 0 to 1. The sampler has another density, by O(1/K).

    Args:
        velocity: of B observations, called on all of [0, 1].
        action: to start from.
        steps: of the integration.
        trace: "exact" divergence, or "hutchinson": one Rademacher vector a row, the same all along; "auto" is exact up
            to 30 dimensions.
        generator: for Hutchinson's vector.

    Raises:
        UserError: Hutchinson's estimate without a generator.
    """
    exact = trace == "exact" or (trace == "auto" and action.shape[1] <= EXACT_TRACE_DIMENSIONS)
    probe = None
    if not exact:
        require(generator is not None, "generator", None, "Hutchinson's trace is random; pass a torch.Generator")
        coin = torch.rand(action.shape, generator=generator, device=action.device)
        probe = (coin < 0.5).to(action.dtype) * 2 - 1

    def slope(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if probe is None:
            value, jacobian = velocity_and_jacobian(velocity, x, t)
            return value, jacobian.double().diagonal(dim1=1, dim2=2).sum(-1)
        where = t.expand(len(x), 1)
        found = jvp(lambda at: velocity(at, where), (x[:, None],), (probe[:, None],))
        return found[0][:, 0], (found[1][:, 0] * probe).double().sum(-1)

    h = 1 / steps
    x, integral = action.contiguous(), torch.zeros(len(action), dtype=torch.float64, device=action.device)
    for i in range(steps):
        start, middle, end = (torch.as_tensor((i + s) * h, dtype=x.dtype, device=x.device) for s in (0, 0.5, 1))
        k1, d1 = slope(x, start)
        k2, d2 = slope(x + h / 2 * k1, middle)
        k3, d3 = slope(x + h / 2 * k2, middle)
        k4, d4 = slope(x + h * k3, end)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        integral = integral + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    valid = x.isfinite().all(-1)
    return FlowDensity(standard_normal(x) + integral, action, x, valid)


def standard_normal(x: Tensor) -> Tensor:
    """Log N(x; 0, I) of [B, d] in float64, [B]."""
    return -0.5 * (x.double().square().sum(-1) + x.shape[1] * math.log(2 * math.pi))
