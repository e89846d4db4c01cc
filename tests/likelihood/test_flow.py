"""Flow likelihoods against closed forms: a Gaussian has its exact velocity, log-density and ELBO."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.likelihood.flow import (
    FlowEvidence,
    FlowNoise,
    TimesConfig,
    Velocity,
    draw_noise,
    elbo_constant,
    flow_evidence,
)
from dipod.likelihood.flow_exact import (
    euler_log_prob,
    euler_log_prob_estimate,
    euler_log_prob_of,
    fixed_action_log_prob,
    invert_euler,
    ode_log_prob,
    sample,
    velocity_and_jacobian,
)
from dipod.noise import keyed_generator

MEAN, SPREAD = torch.tensor([0.3, -0.5], dtype=torch.float64), torch.tensor([0.5, 1.4], dtype=torch.float64)


def gaussian(mean: Tensor = MEAN, spread: Tensor = SPREAD) -> Velocity:
    """E[ε - a | x_t] where a ~ N(mean, spread²) and x_t = (1-t)a + tε."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[..., None].to(x.dtype)
        left = x - (1 - t) * mean
        variance = (1 - t) ** 2 * spread**2 + t**2
        found: Tensor = left * (t - (1 - t) * spread**2) / variance - mean
        return found

    return velocity


def log_density(a: Tensor, mean: Tensor = MEAN, spread: Tensor = SPREAD) -> Tensor:
    density: Tensor = torch.distributions.Normal(mean, spread).log_prob(a.double())
    return density.sum(-1)


def wobbly(seed: int = 0, d: int = 2) -> Velocity:
    """A smooth velocity that belongs to no simple density, in float64."""
    generator = keyed_generator(seed, "wobbly")
    w = torch.randn(d + 1, 16, generator=generator, dtype=torch.float64)
    v = torch.randn(16, d, generator=generator, dtype=torch.float64) / 4
    return lambda x, t: torch.cat([x, t[..., None].to(x.dtype)], -1).matmul(w).tanh().matmul(v)


POINTS = torch.tensor([[0.3, -0.5], [1.0, 0.5], [-1.0, 2.0], [0.9, -3.0]], dtype=torch.float64)


def noise_for(rows: int, times: str, samples: int, seed: int = 0, low: float = 0.005) -> FlowNoise:
    config = TimesConfig(samples=samples, times=times, low=low)  # type: ignore[arg-type]
    found = draw_noise(rows, 2, config, keyed_generator(seed, "noise"))
    return FlowNoise(found.eps.double(), found.t.double(), found.density.double())


@pytest.mark.parametrize("times", ["log-uniform", "beta"])
def test_elbo_is_the_log_density_where_the_velocity_is_the_data_s(times: str) -> None:
    noise = noise_for(len(POINTS), times, 40_000)
    samples = flow_evidence(gaussian(), POINTS, noise).elbo(per_sample=True)
    error = 5 * samples.std(-1) / math.sqrt(samples.shape[1]) + 0.03  # 0.03: the cut-off's share of the wide dimension
    assert (samples.mean(-1) - log_density(POINTS)).abs().lt(error).all()


def test_elbo_against_quadrature_for_a_velocity_that_is_wrong() -> None:
    """E over ε by Gauss-Hermite, the integral over t by the trapezium in log t: no random number."""
    nodes, weights = (torch.as_tensor(x) for x in np.polynomial.hermite_e.hermegauss(40))
    weights = weights / weights.sum()
    eps = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(-1)
    velocity, cutoff, a = wobbly(), 0.005, POINTS[:1]
    log_t = torch.linspace(math.log(cutoff), 0, 2001, dtype=torch.float64)
    values = []
    for t in log_t.exp():
        x = (1 - t) * a + t * eps
        error = (velocity(x[None], t.expand(1, len(x)))[0] - (eps - a)).square().sum(-1)
        values.append((1 - t) * ((weight * error).sum() - 2))
    expected = elbo_constant(2, cutoff) - torch.trapezoid(torch.stack(values), log_t)
    samples = flow_evidence(velocity, a, noise_for(1, "log-uniform", 200_000)).elbo(per_sample=True)[0]
    assert abs(samples.mean() - expected) < 5 * samples.std() / math.sqrt(len(samples))


def test_elbo_refuses_times_without_a_density() -> None:
    noise = draw_noise(3, 2, TimesConfig(4, "discrete", steps=5), keyed_generator(0))
    assert set((noise.t * 5).round(decimals=4).flatten().tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    with pytest.raises(UserError, match=r"times\.times"):
        flow_evidence(gaussian(), POINTS[:3], noise).elbo()


@pytest.mark.parametrize(("times", "beta"), [("beta", 1.0), ("beta", 2.5), ("log-uniform", 1.0)])
def test_noise_has_the_density_that_it_states(times: str, beta: float) -> None:
    config = TimesConfig(64, times, beta, low=0.02, high=0.9)  # type: ignore[arg-type]
    noise = draw_noise(2000, 1, config, keyed_generator(1))
    high = 1.0 if times == "log-uniform" else 0.9
    assert float(noise.t.min()) >= 0.02 - 1e-6
    assert float(noise.t.max()) <= high + 1e-6
    assert (1 / noise.density).double().mean().item() == pytest.approx(high - 0.02, rel=0.03)
    assert (noise.t / noise.density).double().mean().item() == pytest.approx((high**2 - 0.02**2) / 2, rel=0.03)


def test_losses_and_predictions_by_hand() -> None:
    eps, t = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[0.5, 0.25]])
    velocity = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    evidence = FlowEvidence(velocity, eps - torch.tensor([1.0, 0.0]), FlowNoise(eps, t, torch.ones(1, 2)))
    assert evidence.error().tolist() == [[2.0, 2.0]]
    assert evidence.loss().tolist() == [[1.0, 1.0]]
    assert evidence.loss("sum").tolist() == [[2.0, 2.0]]
    torch.testing.assert_close(evidence.loss("sqrt"), torch.full((1, 2), math.sqrt(2)))
    torch.testing.assert_close(evidence.loss("sum", "noise"), torch.tensor([[0.5, 2 * 0.5625]]))
    noise_error = (evidence.predicted_noise() - eps).square().sum(-1)
    torch.testing.assert_close(noise_error, evidence.loss("sum", "noise"))
    x = (1 - t)[..., None] * torch.tensor([1.0, 0.0]) + t[..., None] * eps
    torch.testing.assert_close(evidence.predicted_action(), x - t[..., None] * velocity)


def test_density_of_the_euler_sampler_against_float64_autograd_of_the_whole_map() -> None:
    velocity, noise = wobbly(3), torch.randn(5, 2, generator=keyed_generator(2), dtype=torch.float64)
    found = euler_log_prob(velocity, noise, 7)
    assert bool(found.valid.all())
    for row in range(5):
        whole = torch.autograd.functional.jacobian(lambda e: sample(velocity, e[None], 7)[0], noise[row])
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise[row]).sum() - torch.linalg.slogdet(whole)[1]
        assert found.log_prob[row].item() == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(found.action, sample(velocity, noise, 7))


def test_the_estimate_for_many_dimensions_agrees_on_average_and_says_where_it_cannot_be_believed() -> None:
    velocity, noise = wobbly(3, 5), torch.randn(3, 5, generator=keyed_generator(2), dtype=torch.float64)
    exact, copies = euler_log_prob(velocity, noise, 40), noise.repeat(400, 1)
    found = euler_log_prob_estimate(velocity, copies, 40, keyed_generator(5), probes=2)
    assert bool(found.valid.all())
    torch.testing.assert_close(found.action, exact.action.repeat(400, 1))
    each = found.log_prob.view(400, 3)
    assert bool(((each.mean(0) - exact.log_prob).abs() < 4 * each.std(0) / 20 + 1e-4).all())
    assert float(each.std(0).max()) > 0.01, "so that agreement is no accident"
    assert not bool(euler_log_prob_estimate(velocity, noise, 2, keyed_generator(5)).valid.all())


def test_density_of_the_euler_sampler_nears_the_gaussian_s() -> None:
    noise = torch.randn(200, 2, generator=keyed_generator(4), dtype=torch.float64)
    biases = {}
    for steps in (10, 64):
        found = euler_log_prob(gaussian(), noise, steps)
        biases[steps] = float((found.log_prob - log_density(found.action)).mean())
    assert abs(biases[64]) < 0.01
    assert abs(biases[10]) > abs(biases[64])


def test_inversion_undoes_the_sampler_and_says_where_it_cannot() -> None:
    velocity, noise = wobbly(5), torch.randn(6, 2, generator=keyed_generator(6), dtype=torch.float64)
    action = sample(velocity, noise, 9)
    found, converged = invert_euler(velocity, action, 9, tolerance=1e-12)
    assert bool(converged.all())
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-9)
    density = euler_log_prob_of(velocity, action, 9)
    torch.testing.assert_close(density.log_prob, euler_log_prob(velocity, noise, 9).log_prob, rtol=0, atol=1e-3)
    assert bool(density.valid.all())
    steep: Velocity = lambda x, _: 50 * x  # noqa: E731 - h·Lip = 5: no contraction, and a step turns space over
    assert not bool(invert_euler(steep, action, 9)[1].any())
    odd: Velocity = lambda x, _: x * torch.tensor([15.0, 0.0], dtype=x.dtype)  # noqa: E731 - det(I + hJ) = 1 - 15/9 < 0
    assert not bool(euler_log_prob(odd, noise, 9).valid.any())


def test_density_of_the_ode_is_the_gaussian_s_and_hutchinson_agrees_on_average() -> None:
    found = ode_log_prob(gaussian(), POINTS, 200)
    torch.testing.assert_close(found.log_prob, log_density(POINTS), rtol=0, atol=1e-6)
    velocity = wobbly(7)
    exact = ode_log_prob(velocity, POINTS[:1], 50).log_prob
    many = ode_log_prob(velocity, POINTS[:1].expand(4000, 2), 20, "hutchinson", keyed_generator(8)).log_prob
    assert many.mean().item() == pytest.approx(exact.item(), abs=5 * many.std().item() / math.sqrt(4000))
    with pytest.raises(UserError, match="generator"):
        ode_log_prob(velocity, POINTS, 5, "hutchinson")


def test_mean_gap_of_own_actions_is_the_weighted_excess_error_and_not_negative() -> None:
    """For any velocity: E[log π - ELBO] ≥ 0 over the policy's own actions, while single ones may be negative."""
    velocity = wobbly(9)
    own = euler_log_prob(velocity, torch.randn(4000, 2, generator=keyed_generator(10), dtype=torch.float64), 64)
    gap = own.log_prob - flow_evidence(velocity, own.action, noise_for(4000, "log-uniform", 64)).elbo()
    assert float(gap.mean()) > 3 * float(gap.std()) / math.sqrt(4000)
    assert float(gap.min()) < 0


def test_jacobian_against_autograd() -> None:
    velocity, x = wobbly(11, 3), torch.randn(4, 3, generator=keyed_generator(12), dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    value, jacobian = velocity_and_jacobian(velocity, x, t)
    for row in range(4):
        expected = torch.autograd.functional.jacobian(lambda a: velocity(a[None, None], t.expand(1, 1))[0, 0], x[row])
        torch.testing.assert_close(jacobian[row], expected)
    torch.testing.assert_close(value, velocity(x[:, None], t.expand(4, 1))[:, 0])


def test_gradient_of_the_log_density_at_a_fixed_action_against_finite_differences() -> None:
    """θ scales and shifts a velocity; log π of one action is inverted and evaluated anew on either side."""
    base, noise = wobbly(), torch.randn(3, 2, generator=keyed_generator(1, "ε"), dtype=torch.float64)

    def moved(theta: Tensor) -> Velocity:
        return lambda x, t: theta[0] * base(x, t) + theta[1:] * x

    theta = torch.tensor([1.1, 0.2, -0.1], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, -0.6, 0.3], dtype=torch.float64)
    surrogate = (weight * fixed_action_log_prob(moved(theta), noise, 6)).sum()
    (found,) = torch.autograd.grad(surrogate, theta)
    action = sample(moved(theta.detach()), noise, 6)
    for i in range(3):
        sides = []
        for step in (1e-4, -1e-4):
            other = theta.detach().clone()
            other[i] += step
            noise_of, _ = invert_euler(moved(other), action, 6, tolerance=1e-12)
            sides.append(float((weight * euler_log_prob(moved(other), noise_of, 6).log_prob).sum()))
        assert float(found[i]) == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-5)


def test_at_a_tight_model_the_elbo_s_gradient_is_the_sampler_s_only_where_the_model_stays_tight() -> None:
    """A Gaussian's exact velocity has no gap. Moving its mean, both gradients agree; bending its velocity, they do not.

    An ODE's likelihood can fall below the ELBO, so that nothing makes the two touch with equal slopes there.
    """
    mean, spread = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    action = sample(gaussian(mean, spread), torch.randn(40, 1, generator=keyed_generator(0, "ε")).double(), 200)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def moved(x: Tensor, t: Tensor) -> Tensor:
        return gaussian(mean + theta[0], spread)(x, t) + theta[1] * (3 * x).cos() * t[..., None].to(x.dtype)

    noise, inverted = invert_euler(gaussian(mean, spread), action, 200, tolerance=1e-9)
    likelihood = fixed_action_log_prob(moved, noise, 200)
    drawn = draw_noise(40, 1, TimesConfig(4000, "log-uniform", low=0.001), keyed_generator(1, "noise"))
    bound = flow_evidence(moved, action, FlowNoise(drawn.eps.double(), drawn.t.double(), drawn.density.double()))
    elbo = bound.elbo(cutoff=0.001)
    slopes = [
        torch.stack([torch.autograd.grad(value, theta, retain_graph=True)[0] for value in values])
        for values in (likelihood, elbo)
    ]
    assert bool(inverted.all())
    agreement = [float(torch.corrcoef(torch.stack([s[:, i] for s in slopes]))[0, 1]) for i in range(2)]
    assert agreement[0] > 0.99
    assert agreement[1] < 0.8
    assert float(slopes[0][:, 1].norm()) > 2 * float(slopes[1][:, 1].norm())
