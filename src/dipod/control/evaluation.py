"""How well a policy acts, with chance and without, and how tight its bound is on its own actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dipod.likelihood.flow import FlowNoise, TimesConfig, draw_noise, flow_evidence
from dipod.likelihood.flow_exact import euler_log_prob
from dipod.loop import Metrics
from dipod.noise import keyed_generator
from dipod.policies.flow import ChainPolicy, FlowPolicy
from dipod.policies.gaussian import GaussianPolicy
from dipod.tasks.control.protocol import Environment

GAP_SAMPLES = 64
"""Noise samples an action for the ELBO of the gap."""
ROWS_PER_PASS = 64
"""Actions of a pass of exact densities: d products of the Jacobian each."""


def evaluate(policy: Any, environment: Environment, seed: int = 0) -> Metrics:
    """One episode in each environment from the same starts every time: sampled actions, then zero-noise ones.

    Returns:
        ``reward_sampled`` and ``reward_greedy`` (mean return), ``length_sampled`` and ``length_greedy`` (mean steps).
    """
    metrics: Metrics = {}
    for name in ("sampled", "greedy"):
        device = next(policy.parameters()).device
        generator = keyed_generator(seed, "evaluation", device=device)
        observation = environment.reset(generator)
        returns = torch.zeros(environment.count, device=device, dtype=torch.float64)
        lengths, alive = torch.zeros_like(returns), torch.ones_like(returns, dtype=torch.bool)
        for _ in range(environment.max_episode_length):
            action = policy.mode(observation) if name == "greedy" else policy.act(observation, generator)[0]
            step = environment.step(action, generator)
            returns, lengths = returns + step.reward.double() * alive, lengths + alive
            observation, alive = step.observation, alive & ~step.done
            if not bool(alive.any()):
                break
        metrics[f"reward_{name}"] = float(returns.mean())
        metrics[f"length_{name}"] = float(lengths.mean())
    return metrics


@torch.no_grad()
def measure_gap(policy: Any, observation: Tensor, cutoff: float, seed: int = 0) -> Metrics:
    """Log π and ELBO of one own action for each observation, in nats a whole action, perturbation aside.

    For a flow policy the log-density is that of the Euler sampler, exact, and the ELBO an average over log-uniform
    times; the mean gap cannot be negative beyond its own noise. A Gaussian's gap is zero. A noisy chain's log-density
    is not to be had.

    Returns:
        ``log_prob``, ``elbo``, ``gap`` (means), ``gap_kind`` "exact" and ``gap_error``, the standard error of ``gap``.
    """
    if isinstance(policy, ChainPolicy):
        return {}
    device = observation.device
    generator = keyed_generator(seed, "gap", device=device)
    if isinstance(policy, GaussianPolicy):
        action, record = policy.act(observation, generator)
        mean = float(policy.evidence(observation, action, record).log_prob.double().mean())
        return {"log_prob": mean, "elbo": mean, "gap": 0.0, "gap_kind": "exact", "gap_error": 0.0}
    assert isinstance(policy, FlowPolicy)
    d, scale = policy.action_size, policy.settings.action_scale
    noise = torch.randn(len(observation), d, generator=generator, device=device, dtype=observation.dtype)
    times = TimesConfig(GAP_SAMPLES, "log-uniform", low=cutoff)
    asked = draw_noise(len(observation), d, times, generator)
    log_probs, elbos = [], []
    for start in range(0, len(observation), ROWS_PER_PASS):
        rows = slice(start, start + ROWS_PER_PASS)
        velocity = policy.velocity(observation[rows])
        found = euler_log_prob(velocity, noise[rows], policy.settings.sampling_steps)
        part: FlowNoise = asked[rows]
        bound = flow_evidence(velocity, found.action, part).elbo(cutoff=cutoff).double()
        log_probs.append(found.log_prob[found.valid])
        elbos.append(bound[found.valid])
    log_prob, elbo = torch.cat(log_probs), torch.cat(elbos)
    if not len(elbo):
        return {}
    gap = log_prob - elbo
    units = d * torch.tensor(scale, dtype=torch.float64).log().item()
    return {
        "log_prob": float(log_prob.mean()) - units,
        "elbo": float(elbo.mean()) - units,
        "gap": float(gap.mean()),
        "gap_kind": "exact",
        "gap_error": float(gap.std() / len(gap) ** 0.5),
        "gap_valid": len(gap) / len(observation),
    }
