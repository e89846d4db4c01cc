"""The angle between a policy's proxy gradient and the exact policy gradient: the second drift in control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dipod.control.algorithms import ControlAlgorithm
from dipod.control.update import Transitions
from dipod.drift import Alignment
from dipod.drift.alignment import from_two
from dipod.likelihood.flow import draw_noise
from dipod.likelihood.flow_exact import fixed_action_log_prob, invert_euler
from dipod.policies.flow import ChainPolicy, FlowPolicy
from dipod.policies.vae import VaePolicy

SAMPLES = 32
"""Noise samples an action for each of the two estimates of the proxy's gradient."""


def alignment_of(
    policy: Any, algorithm: ControlAlgorithm, transitions: Transitions, generator: torch.Generator
) -> Alignment | None:
    """`flow_alignment` or `latent_alignment`; None for policies that have neither."""
    if isinstance(policy, VaePolicy):
        return latent_alignment(policy, algorithm, transitions, generator)
    return flow_alignment(policy, algorithm, transitions, generator) if isinstance(policy, FlowPolicy) else None


def latent_alignment(
    policy: VaePolicy, algorithm: ControlAlgorithm, transitions: Transitions, generator: torch.Generator
) -> Alignment | None:
    """Cosine and drift share of a latent-variable policy, whose log π is an integral over the latent, in float64.

    As in `flow_alignment`, but gradients are those of the decoder and its spread: the encoder does not act, and log π
    knows nothing of it.

    Args:
        policy: that acted.
        algorithm: whose contributions are looked at.
        transitions: a few; their records are not used.
        generator: for the latent samples.

    Returns:
        None where no action's log π can be believed.
    """
    exact = deepcopy(policy).double()
    observation, action = transitions.observation.double(), transitions.action.double()
    log_prob, near = exact.log_prob(observation, action)
    kept = near & (transitions.advantage != 0)
    if not bool(kept.any()):
        return None
    advantage, parameters = transitions.advantage.double()[kept], [*exact.decoder.parameters(), exact.log_std]
    likelihood = _flat((advantage * log_prob[kept]).sum(), parameters)
    proxies = []
    for _ in range(2):
        eps = exact.draw(len(advantage), SAMPLES, generator).double()
        evidence = exact.evidence(observation[kept], action[kept], (eps,))
        old = algorithm.proxy(evidence).detach()
        proxies.append(_flat(algorithm.contributions(evidence, old, advantage)[0].sum(), parameters))
    found = from_two(proxies, [likelihood, likelihood])
    return None if math.isnan(found.cosine) else found


def flow_alignment(
    policy: FlowPolicy, algorithm: ControlAlgorithm, transitions: Transitions, generator: torch.Generator
) -> Alignment | None:
    """Cosine between Σ_i ∇contribution_i at ratio 1 and Σ_i A_i ∇log π_i, exact, on the same actions.

    log π is that of the Euler sampler at the executed action, which is inverted to the noise that leads to it; actions
    where that fails are left out. The proxy's gradient is taken over fresh noise samples, twice, so that noise does not
    widen the angle. Proxies in other units than nats have an angle but no share of drift.

    Args:
        policy: that acted.
        algorithm: whose contributions are looked at.
        transitions: a few; their records are not used.
        generator: for the noise samples.

    Returns:
        None where no action could be inverted, or for policies that act by noisy chains.
    """
    if isinstance(policy, ChainPolicy):
        return None
    observation, steps = transitions.observation, policy.settings.sampling_steps
    units = transitions.action / policy.settings.action_scale
    noise, inverted = invert_euler(policy.velocity(observation), units, steps)
    kept = inverted & (transitions.advantage != 0)
    if not bool(kept.any()):
        return None
    observation, action, advantage = observation[kept], transitions.action[kept], transitions.advantage[kept]
    parameters = [p for p in policy.network.parameters() if p.requires_grad]
    log_prob = fixed_action_log_prob(policy.velocity(observation), noise[kept], steps)
    exact = _flat((advantage * log_prob).sum(), parameters)
    times = replace(policy.settings.times, samples=SAMPLES)
    proxies = []
    for _ in range(2):
        drawn = draw_noise(len(action), policy.action_size, times, generator)
        evidence = policy.evidence(observation, action, (drawn.eps, drawn.t, drawn.density))
        old = algorithm.proxy(evidence).detach()
        proxies.append(_flat(algorithm.contributions(evidence, old, advantage)[0].sum(), parameters))
    found = from_two(proxies, [exact, exact])
    return None if math.isnan(found.cosine) else replace(found, drift_share=math.nan)


def _flat(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Its gradient, one float64 vector."""
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    return torch.cat([gradient.flatten().double() for gradient in gradients])
