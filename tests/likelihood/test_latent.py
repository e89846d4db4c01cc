"""Latent-variable likelihoods against closed forms: linear decoders make Gaussians with Gaussian posteriors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.likelihood.latent import Conditional, Posterior, latent_density, latent_evidence, latent_log_prob
from dipod.noise import keyed_generator

ACTIONS = torch.tensor([[0.4, -0.2, 1.0], [1.1, 0.3, -0.5], [-0.9, 0.8, 0.2]], dtype=torch.float64)


@dataclass(frozen=True)
class Linear:
    """a = b + W z + σ ε, with orthogonal columns in W, so that the posterior's covariance is diagonal."""

    latent: int
    spread: float = 0.4

    @property
    def shift(self) -> Tensor:
        return torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64)

    @property
    def map(self) -> Tensor:
        columns = torch.tensor([[0.8, 0.6], [0.3, -0.4], [-0.5, 0.72]], dtype=torch.float64)
        return columns[:, : self.latent]

    def conditional(self, action: Tensor = ACTIONS) -> Conditional:
        return lambda z: (
            torch.distributions.Normal(self.shift + z @ self.map.T, self.spread).log_prob(action[:, None]).sum(-1)
        )

    def log_prob(self, action: Tensor = ACTIONS) -> Tensor:
        covariance = self.map @ self.map.T + self.spread**2 * torch.eye(3, dtype=torch.float64)
        found: Tensor = torch.distributions.MultivariateNormal(self.shift, covariance).log_prob(action)
        return found

    def posterior(self, action: Tensor = ACTIONS) -> Posterior:
        precision = 1 + (self.map**2).sum(0) / self.spread**2
        mean = (action - self.shift) @ self.map / self.spread**2 / precision
        return Posterior(mean, (-0.5 * precision.log()).expand_as(mean))


def wobbly(seed: int, spread: float = 0.8) -> Conditional:
    """A smooth decoder of one latent that makes no simple density."""
    w = torch.randn(3, 8, generator=keyed_generator(seed, "wobbly"), dtype=torch.float64)
    v = torch.randn(8, 3, generator=keyed_generator(seed, "out"), dtype=torch.float64) / 2

    def conditional(z: Tensor) -> Tensor:
        mean = (z * w[0] + w[1]).tanh() @ v
        found: Tensor = torch.distributions.Normal(mean, spread).log_prob(ACTIONS[:, None]).sum(-1)
        return found

    return conditional


def some_posterior(latent: int, seed: int = 0) -> Posterior:
    numbers = torch.randn(2, 3, latent, generator=keyed_generator(seed, "posterior"), dtype=torch.float64)
    return Posterior(0.7 * numbers[0], 0.4 * numbers[1] - 0.5)


def gauss_hermite(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights that integrate polynomials against N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("latent", [1, 2])
def test_a_linear_decoder_s_log_prob_is_a_gaussian_s_and_the_gap_is_the_divergence_of_two(latent: int) -> None:
    model, other = Linear(latent), some_posterior(latent)
    found = latent_density(model.conditional(), other)
    assert bool(found.valid.all())
    torch.testing.assert_close(found.log_prob, model.log_prob(), rtol=0, atol=1e-9)
    true = model.posterior()
    apart = torch.distributions.kl_divergence(
        torch.distributions.Normal(other.mean, other.log_spread.exp()),
        torch.distributions.Normal(true.mean, true.log_spread.exp()),
    ).sum(-1)
    torch.testing.assert_close(found.gap, apart, rtol=0, atol=1e-9)
    assert float(latent_density(model.conditional(), true).gap.abs().max()) < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_the_grid_agrees_with_gauss_hermite_around_the_encoder_and_the_elbo_is_below(seed: int) -> None:
    conditional, posterior = wobbly(seed), some_posterior(1, seed)
    found = latent_density(conditional, posterior)
    nodes, weights = gauss_hermite(150)
    log_weights = latent_evidence(conditional, posterior, nodes.view(1, -1, 1)).log_weights
    torch.testing.assert_close((log_weights * weights).sum(-1), found.elbo, rtol=0, atol=1e-3)
    wide = Posterior(torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64))
    prior = latent_evidence(conditional, wide, nodes.view(1, -1, 1)).log_weights
    torch.testing.assert_close((prior.exp() * weights).sum(-1).log(), found.log_prob, rtol=0, atol=1e-3)
    assert bool((found.gap > 0).all())


def test_the_mean_of_the_weights_is_the_density_whatever_the_encoder() -> None:
    """E exp(ELBO sample) = π: over ε on a fine grid, for encoders that are wrong, too."""
    conditional = wobbly(0)
    expected = latent_density(conditional, some_posterior(1)).log_prob.exp()
    eps = torch.linspace(-14, 14, 28001, dtype=torch.float64)
    for log_spread in (-0.5, 0.3):
        posterior = Posterior(some_posterior(1).mean, torch.full((3, 1), log_spread, dtype=torch.float64))
        weights = latent_evidence(conditional, posterior, eps.view(1, -1, 1)).log_weights.exp()
        mean = (weights * torch.distributions.Normal(0.0, 1.0).log_prob(eps).exp()).sum(-1) * 1e-3
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=0)


def test_under_the_exact_posterior_every_sample_is_log_prob() -> None:
    model = Linear(2)
    eps = torch.randn(3, 5, 2, generator=keyed_generator(1), dtype=torch.float64)
    evidence = latent_evidence(model.conditional(), model.posterior(), eps)
    torch.testing.assert_close(evidence.elbo(per_sample=True), model.log_prob()[:, None].expand(3, 5))


@pytest.mark.parametrize("latent", [1, 2])
def test_log_prob_can_be_differentiated(latent: int) -> None:
    model = Linear(latent)
    action = ACTIONS.clone().requires_grad_()
    found, near = latent_log_prob(model.conditional(action), model.posterior())
    assert bool(near.all())
    torch.testing.assert_close(found, model.log_prob(action), rtol=0, atol=1e-8)
    (gradient,) = torch.autograd.grad(found.sum(), action, retain_graph=True)
    (expected,) = torch.autograd.grad(model.log_prob(action).sum(), action)
    torch.testing.assert_close(gradient, expected)


def test_a_posterior_too_narrow_for_the_grid_is_not_believed_and_too_many_dimensions_are_named() -> None:
    narrow = Linear(1, spread=1e-5)
    own = narrow.shift + torch.tensor([[-1.1], [0.123], [0.7]], dtype=torch.float64) @ narrow.map.T
    assert not bool(latent_density(narrow.conditional(own), narrow.posterior(own)).valid.any())
    assert not bool(latent_log_prob(narrow.conditional(own), narrow.posterior(own))[1].any())
    with pytest.raises(UserError, match="latent = 3"):
        latent_density(lambda z: z.sum(-1), some_posterior(3))
