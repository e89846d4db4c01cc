"""The angle between a flow policy's proxy gradient and its exact policy gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dipod.control.algorithms import table
from dipod.control.alignment import flow_alignment
from dipod.control.update import Transitions
from dipod.drift import cosine
from dipod.likelihood.flow import TimesConfig, draw_noise
from dipod.likelihood.flow_exact import fixed_action_log_prob, invert_euler
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowPolicy, FlowSettings
from dipod.policies.velocity import VelocityNetwork


def policy_of(output_scale: float) -> FlowPolicy:
    settings = FlowSettings(sampling_steps=16, perturbation=0.0, times=TimesConfig(8))
    network = VelocityNetwork(3, 2, (32, 32), "elu", 8, output_scale, keyed_generator(0, "policy"))
    return FlowPolicy(network, settings)


def transitions(policy: FlowPolicy, count: int = 96) -> Transitions:
    generator = keyed_generator(1, "transitions")
    observation = torch.randn(count, 3, generator=generator)
    action, record = policy.act(observation, generator)
    advantage = action[:, 0] - action[:, 0].mean()
    nothing = torch.zeros(count)
    return Transitions(observation, action, record, advantage, nothing, nothing, nothing)


def test_nothing_is_said_where_there_is_no_advantage() -> None:
    policy = policy_of(1.0)
    few = transitions(policy)
    none = replace(few, advantage=torch.zeros(len(few)))
    assert flow_alignment(policy, table()["fpopp"], none, keyed_generator(0, "noise")) is None


def test_the_angle_is_that_of_two_gradients_taken_one_by_one() -> None:
    """The proxy's over many noise samples; the likelihood's action by action."""
    policy, row = policy_of(1.0), table()["fpopp"]
    few = transitions(policy, 12)
    parameters = list(policy.network.parameters())
    noise, _ = invert_euler(policy.velocity(few.observation), few.action, 16, tolerance=1e-6)
    exact = torch.zeros(sum(p.numel() for p in parameters))
    for i in range(12):
        value = fixed_action_log_prob(policy.velocity(few.observation[i : i + 1]), noise[i : i + 1], 16)[0]
        gradients = torch.autograd.grad(few.advantage[i] * value, parameters)
        exact += torch.cat([g.flatten() for g in gradients])
    drawn = draw_noise(12, 2, TimesConfig(3000), keyed_generator(5, "many"))
    loss = policy.evidence(few.observation, few.action, (drawn.eps, drawn.t, drawn.density)).loss("mean").mean(1)
    gradients = torch.autograd.grad(-(few.advantage * loss).sum(), parameters)
    proxy = torch.cat([g.flatten() for g in gradients])
    found = flow_alignment(policy, row, few, keyed_generator(0, "noise"))
    assert found is not None
    assert found.kind == "estimate"
    assert found.cosine == pytest.approx(cosine(proxy, exact), abs=0.05)
