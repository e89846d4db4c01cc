"""The latent-variable policy: its density is one, is that of what it does, and bounds lie below it."""

from __future__ import annotations

import math

import pytest
import torch

from dipod.control.algorithms import ControlObjective, table
from dipod.errors import UserError
from dipod.likelihood.latent import Posterior
from dipod.noise import keyed_generator
from dipod.policies.vae import VaePolicy, VaeSettings

OBSERVATION = torch.randn(6, 5, generator=keyed_generator(0))


def policy(actions: int = 3, seed: int = 1, **settings: float) -> VaePolicy:
    given = VaeSettings(**{"samples": 4, "output_scale": 3.0, "latent_scale": 3.0, **settings})  # type: ignore[arg-type]
    return VaePolicy(5, actions, (16, 16), given, generator=keyed_generator(seed))


@pytest.mark.parametrize("latent", [1, 2])
def test_the_density_of_all_actions_is_one(latent: int) -> None:
    mine = policy(actions=1, latent=latent, spread=0.6)
    actions = torch.linspace(-7, 7, 71, dtype=torch.float64)
    found = mine.density(OBSERVATION[:1].expand(71, -1), actions[:, None])
    assert bool(found.valid[found.log_prob > -20].all())
    assert float(found.log_prob.exp().sum()) * 0.2 == pytest.approx(1.0, abs=1e-5)


def test_actions_have_the_density_s_moments() -> None:
    """Mean and variance of many actions against the density integrated, within four standard errors."""
    mine = policy(actions=1, action_scale=0.5)
    grid = torch.linspace(-4, 4, 161, dtype=torch.float64)
    share = mine.density(OBSERVATION[:1].expand(161, -1), grid[:, None]).log_prob.exp() * 0.05
    mean = float((share * grid).sum())
    variance = float((share * (grid - mean).square()).sum())
    action, record = mine.act(OBSERVATION[:1].expand(40_000, -1), keyed_generator(2))
    assert [tuple(part.shape) for part in record] == [(40_000, 4, 1)]
    assert abs(float(action.mean()) - mean) < 4 * math.sqrt(variance / 40_000)
    assert float(action.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latent", [1, 2])
def test_the_elbo_of_random_policies_is_below_and_its_samples_scatter_around_it(seed: int, latent: int) -> None:
    mine = policy(seed=seed, latent=latent)
    action, _ = mine.act(OBSERVATION, keyed_generator(seed, "act"))
    found = mine.density(OBSERVATION, action)
    assert bool(found.valid.all())
    assert bool((found.gap > 0).all())
    samples = mine.evidence(OBSERVATION, action, (mine.draw(6, 20_000, keyed_generator(3)),)).elbo(per_sample=True)
    error = samples.std(-1) / math.sqrt(20_000)
    assert bool(((samples.mean(-1) - found.elbo).abs() < 4 * error + 1e-3).all())


def test_zero_noise_has_no_chance_and_units_are_the_environment_s() -> None:
    mine, twice = policy(), policy(action_scale=2.0)
    assert torch.equal(mine.mode(OBSERVATION), mine.mean(OBSERVATION, torch.zeros(6, 1, 1))[:, 0])
    action, record = mine.act(OBSERVATION, keyed_generator(4))
    wide, _ = twice.act(OBSERVATION, keyed_generator(4))
    torch.testing.assert_close(wide, 2 * action)
    near, far = mine.evidence(OBSERVATION, action, record), twice.evidence(OBSERVATION, wide, record)
    torch.testing.assert_close(near.elbo() - far.elbo(), torch.full((6,), 3 * math.log(2.0)))


class Tight(VaePolicy):
    """One latent, decoded linearly, with the exact posterior: the bound is tight."""

    def __init__(self) -> None:
        super().__init__(5, 3, (4,), VaeSettings(latent=1, samples=2))
        self.shift = torch.nn.Parameter(torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64))
        self.map = torch.nn.Parameter(torch.tensor([0.8, 0.3, -0.5], dtype=torch.float64))
        self.log_std = torch.nn.Parameter(torch.tensor([-0.9, -0.7, -0.8], dtype=torch.float64))
        precision, pull = self._exact()
        self.pull = torch.nn.Parameter(pull.detach())
        self.at = torch.nn.Parameter(-(self.shift @ pull).detach())
        self.narrow = torch.nn.Parameter(-0.5 * precision.log().detach())

    def _exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        inverse = (-2 * self.log_std).exp()
        precision = 1 + (self.map.square() * inverse).sum()
        return precision, self.map * inverse / precision

    def mean(self, observation: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        del observation
        return self.shift + z * self.map

    def posterior(self, observation: torch.Tensor, action: torch.Tensor) -> Posterior:
        del observation
        mean = (action @ self.pull + self.at)[:, None]
        return Posterior(mean, self.narrow.expand_as(mean))


@pytest.mark.parametrize("algorithm", ["fpo", "fpopp"])
def test_where_the_bound_is_tight_the_gradient_is_the_policy_gradient_and_the_encoder_s_is_zero(algorithm: str) -> None:
    """The log weights are quadratic in ε, so that ε = ±1 have their expectation over N(0, 1)."""
    mine = Tight()
    actions = torch.tensor([[0.4, -0.2, 1.0], [1.1, 0.3, -0.5], [-0.9, 0.8, 0.2]], dtype=torch.float64)
    advantage = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    observation = torch.zeros(3, 5, dtype=torch.float64)
    assert float(mine.density(observation, actions).gap.abs().max()) < 1e-9
    eps = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 2, 1).expand(3, -1, -1)
    evidence = mine.evidence(observation, actions, (eps,))
    row = table(ControlObjective(negative_loss_limit=0, log_ratio_limit=0), "vae")[algorithm]
    assert row.adequate
    values, log_ratio = row.contributions(evidence, row.proxy(evidence).detach(), advantage)
    assert float(log_ratio.abs().max()) == 0.0
    decoder, encoder = (mine.shift, mine.map, mine.log_std), (mine.pull, mine.at, mine.narrow)
    found = torch.autograd.grad(values.sum(), (*decoder, *encoder))
    covariance = mine.map.outer(mine.map) + (2 * mine.log_std).exp().diag()
    log_prob = torch.distributions.MultivariateNormal(mine.shift, covariance).log_prob(actions)
    expected = torch.autograd.grad((advantage * log_prob).sum(), decoder)
    torch.testing.assert_close(found[:3], expected)
    for gradient in found[3:]:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_settings_are_checked() -> None:
    for name, value in (("latent", 0), ("latent", 3), ("samples", 0), ("spread", 0.0), ("latent_scale", -1.0)):
        with pytest.raises(UserError, match=rf"policy\.{name}"):
            VaeSettings(**{name: value})  # type: ignore[arg-type]
