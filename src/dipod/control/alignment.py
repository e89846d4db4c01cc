"""The angle between a policy's proxy gradient and the exact policy gradient: the second drift in control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dipod.control.algorithms import ControlAlgorithm
from dipod.control.update import Transitions
from dipod.drift import Alignment, Parts, Products
from dipod.drift.products import blocks_of
from dipod.likelihood.flow import draw_noise
from dipod.likelihood.flow_exact import fixed_action_log_prob, invert_euler
from dipod.policies.flow import ChainPolicy, FlowPolicy
from dipod.policies.vae import VaePolicy

SAMPLES = 32
"""Noise samples an action for each of the two estimates of the proxy's gradient."""

Term = Callable[[Any], Tensor]
"""``term(evidence) -> [B]``: what β multiplies."""


def alignment_of(
    policy: Any,
    algorithm: ControlAlgorithm,
    transitions: Transitions,
    generator: torch.Generator,
    beta: float = 0.0,
    term: Term | None = None,
) -> Alignment | None:
    """`flow_alignment` or `latent_alignment`; None for policies that have neither."""
    if isinstance(policy, VaePolicy):
        return latent_alignment(policy, algorithm, transitions, generator, beta, term)
    if isinstance(policy, FlowPolicy):
        return flow_alignment(policy, algorithm, transitions, generator, beta, term)
    return None


def latent_alignment(
    policy: VaePolicy,
    algorithm: ControlAlgorithm,
    transitions: Transitions,
    generator: torch.Generator,
    beta: float = 0.0,
    term: Term | None = None,
) -> Alignment | None:
    """Angles and drift share of a latent-variable policy, whose log π is an integral over the latent, in float64.

    As in `flow_alignment`, but gradients are those of the decoder and its spread: the encoder does not act, and log π
    knows nothing of it.

    Args:
        policy: that acted.
        algorithm: whose contributions are looked at.
        transitions: a few; their records are not used.
        generator: for the latent samples.
        beta: β in force.
        term: what it multiplies.

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

    def evidence() -> Any:
        eps = exact.draw(len(advantage), SAMPLES, generator).double()
        return exact.evidence(observation[kept], action[kept], (eps,))

    return _compare(algorithm, advantage, log_prob[kept], parameters, evidence, beta, term)


def flow_alignment(
    policy: FlowPolicy,
    algorithm: ControlAlgorithm,
    transitions: Transitions,
    generator: torch.Generator,
    beta: float = 0.0,
    term: Term | None = None,
) -> Alignment | None:
    """Angles between Σ_i ∇contribution_i at ratio 1 and Σ_i A_i ∇log π_i, the exact policy gradient on these actions.

    log π is that of the Euler sampler at the executed action, which is inverted to the noise that leads to it; actions
    where that fails are left out. The proxy's gradient is taken over fresh noise samples, twice, so that noise does not
    widen the angle. Proxies in other units than nats have an angle
    but no share of drift. An entropy bonus is no part of the update's angle.

    Args:
        policy: that acted.
        algorithm: whose contributions are looked at.
        transitions: a few; their records are not used.
        generator: for the noise samples.
        beta: β in force.
        term: what it multiplies.

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
    times = replace(policy.settings.times, samples=SAMPLES)

    def evidence() -> Any:
        drawn = draw_noise(len(action), policy.action_size, times, generator)
        return policy.evidence(observation, action, (drawn.eps, drawn.t, drawn.density))

    found = _compare(algorithm, advantage, log_prob, parameters, evidence, beta, term)
    return None if found is None else replace(found, drift_share=math.nan, share_error=math.nan)


def _compare(
    algorithm: ControlAlgorithm,
    advantage: Tensor,
    log_prob: Tensor,
    parameters: Sequence[Tensor],
    evidence_of: Callable[[], Any],
    beta: float,
    term: Term | None,
) -> Alignment | None:
    """The exact policy gradient against the estimator's and the update's, each from two sets of noise samples."""
    blocks = blocks_of(len(advantage), most=8).to(advantage.device)
    likelihood = _by_block(advantage * log_prob, blocks, parameters)
    proxies, updates = [], []
    for _ in range(2):
        evidence = evidence_of()
        old = algorithm.proxy(evidence).detach()
        value = algorithm.contributions(evidence, old, advantage)[0]
        proxies.append(_by_block(value, blocks, parameters))
        extra = _by_block(term(evidence), blocks, parameters) if beta and term is not None else 0.0
        updates.append(proxies[-1] + beta * extra)
    products = Products.of(Parts(*proxies), Parts(likelihood, likelihood), Parts(*updates), "estimate")
    found = products.alignment()
    return None if math.isnan(found.cosine) and not found.below_noise else found


def _by_block(values: Tensor, blocks: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of the sum over each block, [J, P] float64."""
    rows = []
    for block in range(int(blocks.max()) + 1):
        total = values[blocks == block].sum()
        found = torch.autograd.grad(total, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten().double() for gradient in found]))
    return torch.stack(rows)
