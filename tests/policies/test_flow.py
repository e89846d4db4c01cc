"""Flow policies: exact speed-ups, sampling, normalisation, and chains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.likelihood import flow_exact
from dipod.likelihood.flow import TimesConfig
from dipod.noise import keyed_generator
from dipod.policies.flow import ChainPolicy, FlowPolicy, FlowSettings, make_flow
from dipod.policies.gaussian import GaussianPolicy
from dipod.policies.mlp import ACTIVATIONS, parse_widths
from dipod.policies.normaliser import EPSILON, Normaliser
from dipod.policies.velocity import VelocityNetwork

OBSERVATION = torch.randn(6, 5, generator=keyed_generator(0))


def policy(chain: bool = False, **settings: object) -> FlowPolicy:
    given = {"sampling_steps": 7, "times": TimesConfig(4), **settings}
    return make_flow(5, 3, (16, 16), FlowSettings(**given), keyed_generator(1), chain)  # type: ignore[arg-type]


def plain(network: VelocityNetwork, observation: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """One matrix over the concatenation, without any sharing, in float64."""
    frequencies = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    angles = t.double()[:, None] * frequencies
    hidden = torch.cat([observation.double(), angles.cos(), angles.sin(), x.double()], -1)
    for layer in network.layers[:-1]:
        hidden = torch.nn.functional.elu(hidden @ layer.weight.double().T + layer.bias.double())  # type: ignore[operator]
    last = network.layers[-1]
    return hidden @ last.weight.double().T + last.bias.double()  # type: ignore[operator]


def test_what_is_shared_changes_no_number() -> None:
    network = policy().network
    generator = keyed_generator(2)
    x, t = torch.randn(6, 4, 3, generator=generator), torch.rand(6, 4, generator=generator)
    found = network(network.encode(OBSERVATION), x, t)
    rows = OBSERVATION[:, None].expand(6, 4, 5).reshape(24, 5)
    expected = plain(network, rows, x.reshape(24, 3), t.reshape(24)).reshape(6, 4, 3)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("act", ["elu", "silu", "relu", "tanh"])
def test_activations_that_overwrite_their_argument_have_the_gradient_of_those_that_do_not(act: str) -> None:
    network = make_flow(5, 3, (16, 16), FlowSettings(), keyed_generator(1), act=act).network
    x, t = torch.randn(6, 4, 3, generator=keyed_generator(2)), torch.rand(6, 4, generator=keyed_generator(3))
    found = torch.autograd.grad(network(network.encode(OBSERVATION), x, t).square().mean(), list(network.parameters()))
    hidden = torch.cat([OBSERVATION[:, None].expand(-1, 4, -1), network.embed(t), x], -1)
    for layer in network.layers[:-1]:
        hidden = ACTIVATIONS[act](layer(hidden))
    expected = torch.autograd.grad(network.layers[-1](hidden).square().mean(), list(network.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_the_table_of_times_samples_what_the_plain_sampler_does() -> None:
    mine, noise = policy(), torch.randn(6, 3, generator=keyed_generator(3))
    expected = flow_exact.sample(mine.velocity(OBSERVATION), noise, 7)
    torch.testing.assert_close(mine.sample(OBSERVATION, noise), expected, rtol=0, atol=2e-6)


def test_acting_is_sampling_scaled_and_perturbed_and_the_mode_has_no_chance() -> None:
    mine = policy(action_scale=0.5, perturbation=0.0)
    action, record = mine.act(OBSERVATION, keyed_generator(4))
    noise = torch.randn(6, 3, generator=keyed_generator(4))
    torch.testing.assert_close(action, 0.5 * mine.sample(OBSERVATION, noise))
    assert [tuple(part.shape) for part in record] == [(6, 4, 3), (6, 4), (6, 4)]
    evidence = mine.evidence(OBSERVATION, action, record)
    torch.testing.assert_close(evidence.target, record[0] - 2 * action[:, None])
    shaken, _ = policy(action_scale=0.5, perturbation=0.1).act(OBSERVATION, keyed_generator(4))
    assert 0.02 < float((shaken - action).std()) < 0.3
    assert torch.equal(mine.mode(OBSERVATION), mine.mode(OBSERVATION))


def test_a_chain_s_steps_are_gaussians_whose_density_is_that_of_its_noise() -> None:
    mine = policy(chain=True, chain_noise=0.4)
    assert isinstance(mine, ChainPolicy)
    action, record = mine.act(OBSERVATION, keyed_generator(5))
    states = record[0]
    assert states.shape == (6, 8, 3)
    torch.testing.assert_close(action, states[:, -1])
    steps = mine.evidence(OBSERVATION, action, record).steps
    generator = keyed_generator(5)
    torch.randn(6, 3, generator=generator)
    for i in range(7):
        z = torch.randn(6, 3, generator=generator)
        spread = 0.4 / math.sqrt(7)
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - 3 * math.log(spread)
        torch.testing.assert_close(steps[:, i], expected, rtol=0, atol=1e-4)


def test_a_gaussian_s_evidence_is_its_density() -> None:
    mine = GaussianPolicy(5, 3, (8,), spread=0.7, generator=keyed_generator(6))
    action, record = mine.act(OBSERVATION, keyed_generator(7))
    found = mine.evidence(OBSERVATION, action, record)
    expected = torch.distributions.Normal(mine.mode(OBSERVATION), 0.7).log_prob(action).sum(-1)
    torch.testing.assert_close(found.log_prob, expected)
    assert torch.equal(found.elbo(), found.log_prob)


def test_the_normaliser_s_statistics_are_those_of_everything_it_saw_in_whatever_parts() -> None:
    seen = 3 + 2 * torch.randn(500, 4, generator=keyed_generator(8), dtype=torch.float64)
    whole, parts = Normaliser(4), Normaliser(4)
    whole.update(seen)
    for part in seen.split(37):
        parts.update(part)
    for name in ("mean", "variance", "count"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    torch.testing.assert_close(whole.mean, seen.mean(0))
    torch.testing.assert_close(whole(seen), (seen - seen.mean(0)) / (seen.std(0, unbiased=False) + EPSILON))


def test_bad_sizes_are_named() -> None:
    with pytest.raises(UserError, match="action_size = 0"):
        make_flow(5, 0, (8,), FlowSettings())
    with pytest.raises(UserError, match="sampling_steps = 0"):
        FlowSettings(sampling_steps=0)
    with pytest.raises(UserError, match=r"policy\.hidden = '64,x'"):
        parse_widths("64,x", "policy.hidden")
