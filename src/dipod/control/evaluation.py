"""How well a policy acts, with chance and without, and how tight its bound is on its own actions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dipod.control.peers import ALONE, Peers
from dipod.drift import Gap
from dipod.drift.gap import ENTROPY_KINDS
from dipod.likelihood.flow import TimesConfig, draw_noise, flow_evidence
from dipod.likelihood.flow_exact import EXACT_DIMENSIONS, euler_log_prob, euler_log_prob_estimate
from dipod.loop import Metrics
from dipod.noise import keyed_generator
from dipod.policies.flow import ChainPolicy, FlowPolicy
from dipod.policies.gaussian import GaussianPolicy
from dipod.policies.vae import VaePolicy
from dipod.tasks.control.guard import check_step
from dipod.tasks.control.protocol import Environment

GAP_SAMPLES = 64
"""Noise samples an action for the ELBO of the gap."""
ROWS_PER_PASS = 64
"""Actions of a pass of exact densities: d products of the Jacobian each."""


def evaluate(policy: Any, environment: Environment, seed: int = 0, peers: Peers = ALONE, episodes: int = 0) -> Metrics:
    """One episode in each environment from the same starts every time: sampled actions, then zero-noise ones.

    Args:
        policy: what acts.
        environment: this process's share of them.
        seed: of starts and actions.
        peers: the processes.
        episodes: environments of all processes; 0 where one has all.

    Returns:
        ``reward_sampled`` and ``reward_greedy`` (mean return), ``length_sampled`` and ``length_greedy`` (mean steps).
        Of environments that say whether their task is done, ``success_sampled`` and ``success_greedy``, the share of
        episodes one of whose steps was a success, and ``success_end_sampled`` and ``success_end_greedy``, the share
        whose last step was.
    """
    metrics: Metrics = {}
    total = episodes or environment.count
    for name in ("sampled", "greedy"):
        device = next(policy.parameters()).device
        generator = peers.generator(seed, "evaluation", total=total, device=device)
        observation = environment.reset(generator)
        returns = torch.zeros(environment.count, device=device, dtype=torch.float64)
        lengths, alive = torch.zeros_like(returns), torch.ones_like(returns, dtype=torch.bool)
        ever = last = torch.full_like(returns, math.nan)
        for _ in range(environment.max_episode_length):
            action = policy.mode(observation) if name == "greedy" else policy.act(observation, generator)[0]
            step = environment.step(action, generator)
            check_step(environment, step)
            returns, lengths = returns + step.reward.double() * alive, lengths + alive
            if step.success is not None:
                told = step.success.double().to(device)
                ever, last = torch.where(alive, ever.fmax(told), ever), torch.where(alive, told, last)
            observation, alive = step.observation, alive & ~step.done
            if not bool(alive.any()):
                break
        metrics[f"reward_{name}"] = float(peers.gather_rows(returns, total).mean())
        metrics[f"length_{name}"] = float(peers.gather_rows(lengths, total).mean())
        for key, values in (("success", ever), ("success_end", last)):
            share = float(peers.gather_rows(values, total).nanmean())
            metrics |= {} if math.isnan(share) else {f"{key}_{name}": share}
    return metrics


@torch.no_grad()
def measure_gap(policy: Any, observation: Tensor, cutoff: float, seed: int = 0, peers: Peers = ALONE) -> Metrics:
    """Log π and ELBO of one own action for each observation, in nats a whole action, perturbation aside.

    For a flow policy the log-density is that of the Euler sampler, exact up to `EXACT_DIMENSIONS` action dimensions and
    estimated beyond, and the ELBO an average over log-uniform times; the mean gap cannot be negative beyond its own
    noise. A latent-variable policy's are integrals over the latent. A Gaussian's gap is zero. A noisy chain's
    log-density is not to be had.

    Args:
        policy: whose gap.
        observation: [B, o], the same on all processes, which share the work.
        cutoff: t0 of the ELBO.
        seed: of actions and noise samples.
        peers: the processes.

    Returns:
        ``log_prob``, ``elbo``, ``gap`` (means), ``gap_kind`` "exact" or "estimate" and ``gap_error``, the standard
        error of ``gap``; ``entropy``, the mean -log π in nats an action (a density's: it may be negative), and
        ``entropy_kind``, as the gap's; ``gap_valid``, the share of actions whose numbers can be believed, which the
        means are over; of a latent-variable policy ``latent_information``, I(z; a|o): the nats that its actions say
        about their latents. Where no log π can be believed, ``elbo`` and ``entropy``, of kind "upper_bound", alone.
    """
    if isinstance(policy, ChainPolicy):
        return {}
    device = observation.device
    generator = keyed_generator(seed, "gap", device=device)
    if isinstance(policy, GaussianPolicy):
        action, record = policy.act(observation, generator)
        mean = float(policy.evidence(observation, action, record).log_prob.double().mean())
        gap: Metrics = {"gap": 0.0, "gap_kind": "exact", "gap_error": 0.0}
        return {"log_prob": mean, "elbo": mean, **gap, "entropy": -mean, "entropy_kind": "exact"}
    if isinstance(policy, VaePolicy):
        return _latent_gap(policy, observation, generator, peers)
    assert isinstance(policy, FlowPolicy)
    d, scale, total = policy.action_size, policy.settings.action_scale, len(observation)
    noise = torch.randn(total, d, generator=generator, device=device, dtype=observation.dtype)
    asked = draw_noise(total, d, TimesConfig(GAP_SAMPLES, "log-uniform", low=cutoff), generator)
    mine = peers.share(total)
    measured = [observation.new_zeros(0, 3, dtype=torch.float64)]
    for start in range(mine.start, mine.stop, ROWS_PER_PASS):
        rows = slice(start, min(start + ROWS_PER_PASS, mine.stop))
        velocity = policy.velocity(observation[rows])
        if d <= EXACT_DIMENSIONS:
            found = euler_log_prob(velocity, noise[rows], policy.settings.sampling_steps)
        else:
            probes = keyed_generator(seed, "probes", start, device=device)
            found = euler_log_prob_estimate(velocity, noise[rows], policy.settings.sampling_steps, probes)
        bound = flow_evidence(velocity, found.action, asked[rows]).elbo(cutoff=cutoff)
        measured.append(torch.stack([found.log_prob, bound.double(), found.valid.double()], -1))
    means = _means(peers.gather_rows(torch.cat(measured), total), d * math.log(scale))
    estimated = "gap" in means and d > EXACT_DIMENSIONS
    return means | ({"gap_kind": "estimate", "entropy_kind": "estimate"} if estimated else {})


def own_gap(policy: Any, observation: Tensor, cutoff: float, seed: int, peers: Peers = ALONE) -> Gap | None:
    """`measure_gap` as one `Gap`; None where it cannot be had."""
    found = measure_gap(policy, observation, cutoff, seed, peers)
    if "gap" not in found:
        return None
    gap, error, exact = float(found["gap"]), float(found["gap_error"]), found["gap_kind"] == "exact"
    return Gap(gap, "exact" if exact else "estimate", float(found["elbo"]), gap, gap, error, error)


def entropy_of(gap: Gap) -> Metrics:
    """What the monitor says of the entropy, in nats an action, beside a gap on the rollouts."""
    return {"monitor_entropy": gap.entropy, "monitor_entropy_kind": ENTROPY_KINDS[gap.kind]}


def _latent_gap(policy: VaePolicy, observation: Tensor, generator: torch.Generator, peers: Peers) -> Metrics:
    """`measure_gap` of a latent-variable policy."""
    action, z = policy.sample(observation, generator)
    total = len(observation)
    mine = peers.share(total)
    observation, action, z = observation[mine], action[mine], z[mine, None]
    found = policy.density(observation, action)
    told = policy.conditional(observation, action)(z)[:, 0].double() - found.log_prob
    measured = torch.stack([found.log_prob, found.elbo, found.valid.double(), told], -1)
    whole = peers.gather_rows(measured, total)
    means = _means(whole)
    if "gap" not in means:
        return means
    return {**means, "latent_information": float(whole[whole[:, 2] > 0, 3].mean())}


def _means(measured: Tensor, units: float = 0.0) -> Metrics:
    """Means over the actions that can be believed; where none can, the ELBO of all, if it is finite, is what remains.

    Args:
        measured: log π, ELBO and whether they can be believed, [B, 3 or more] float64.
        units: nats by which both are less in the environment's units.
    """
    log_prob, elbo = measured[measured[:, 2] > 0, :2].unbind(-1)
    if not len(elbo):
        bound = float(measured[:, 1].mean()) - units if len(measured) else math.nan
        return {"elbo": bound, "entropy": -bound, "entropy_kind": "upper_bound"} if math.isfinite(bound) else {}
    gap = log_prob - elbo
    return {
        "entropy": units - float(log_prob.mean()),
        "entropy_kind": "exact",
        "log_prob": float(log_prob.mean()) - units,
        "elbo": float(elbo.mean()) - units,
        "gap": float(gap.mean()),
        "gap_kind": "exact",
        "gap_error": float(gap.std() / len(gap) ** 0.5),
        "gap_valid": len(gap) / len(measured),
    }
