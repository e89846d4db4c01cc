"""Adequacy of the rows, and what their limits do to ratios and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dipod.control.algorithms import ControlObjective, Kind, Limits, table
from dipod.errors import UserError
from dipod.likelihood.flow import FlowNoise, TimesConfig, Velocity, draw_noise, flow_evidence
from dipod.noise import keyed_generator

ACTIONS = torch.tensor([[0.4, -0.2], [1.1, 0.3], [-0.9, 0.8], [0.1, -1.5]], dtype=torch.float64)
ADVANTAGE = torch.tensor([1.0, -0.5, 2.0, -1.5], dtype=torch.float64)


def tight(mean: Tensor, log_spread: Tensor) -> Velocity:
    """The exact velocity of N(mean, spread²), differentiable in both: the bound is tight at every parameter."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t, variance = t[..., None], log_spread.exp() ** 2
        pull = (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)
        found: Tensor = (x - (1 - t) * mean) * pull - mean
        return found

    return velocity


def gradient_of(algorithm: str, objective: ControlObjective) -> Tensor:
    """The row's on-policy gradient in (mean, log spread) under very many noise samples."""
    mean = torch.tensor([0.2, -0.1], dtype=torch.float64, requires_grad=True)
    log_spread = torch.tensor([0.1, -0.3], dtype=torch.float64, requires_grad=True)
    drawn = draw_noise(4, 2, TimesConfig(200_000, "log-uniform"), keyed_generator(0))
    noise = FlowNoise(drawn.eps.double(), drawn.t.double(), drawn.density.double())
    evidence = flow_evidence(tight(mean, log_spread), ACTIONS, noise)
    row = table(objective)[algorithm]
    values, log_ratio = row.contributions(evidence, row.proxy(evidence).detach(), ADVANTAGE)
    assert float(log_ratio.abs().max()) == 0.0
    return torch.cat(torch.autograd.grad(values.sum(), (mean, log_spread)))


def policy_gradient() -> Tensor:
    mean = torch.tensor([0.2, -0.1], dtype=torch.float64, requires_grad=True)
    log_spread = torch.tensor([0.1, -0.3], dtype=torch.float64, requires_grad=True)
    log_prob = torch.distributions.Normal(mean, log_spread.exp()).log_prob(ACTIONS).sum(-1)
    return torch.cat(torch.autograd.grad((ADVANTAGE * log_prob).sum(), (mean, log_spread)))


@pytest.mark.parametrize("algorithm", ["fpo", "fpopp"])
def test_with_the_elbo_s_weight_the_gradient_is_the_policy_gradient_where_the_bound_is_tight(algorithm: str) -> None:
    objective = ControlObjective(weighting="elbo", reduction="sum", negative_loss_limit=0, log_ratio_limit=0)
    assert table(objective)[algorithm].adequate
    found, expected = gradient_of(algorithm, objective), policy_gradient()
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_with_a_flat_weight_it_is_not() -> None:
    """The released loss bounds the likelihood of a noised action: its gradient points elsewhere even when tight."""
    objective = ControlObjective(weighting="velocity", reduction="sum", negative_loss_limit=0, log_ratio_limit=0)
    assert not table(objective)["fpo"].adequate
    found, expected = gradient_of("fpo", objective), policy_gradient()
    assert float(torch.cosine_similarity(found, expected, dim=0)) < 0.995


@pytest.mark.parametrize("kind", ["flow", "vae"])
def test_a_limit_of_the_loss_takes_adequacy_away_and_one_of_the_log_ratio_does_not(kind: Kind) -> None:
    nats: dict[str, Any] = {"weighting": "elbo", "reduction": "sum"}
    assert ControlObjective().negative_loss_limit == 20
    limited = table(ControlObjective(**nats), kind)
    assert not limited["fpopp"].adequate
    assert limited["fpo"].adequate, "has no such limit"
    assert not table(ControlObjective(**nats, negative_loss_limit=0, loss_limit=20), kind)["fpopp"].adequate
    assert table(ControlObjective(**nats, negative_loss_limit=0, log_ratio_limit=3), kind)["fpopp"].adequate


def test_at_29_dimensions_the_usual_limit_leaves_bad_actions_a_twentieth_of_their_gradient() -> None:
    """Own actions of a standard Gaussian with its exact velocity, all with negative advantage, ELBO in nats."""
    actions = torch.randn(16, 29, generator=keyed_generator(1), dtype=torch.float64)
    drawn = draw_noise(16, 29, TimesConfig(1500, "log-uniform"), keyed_generator(0))
    noise = FlowNoise(drawn.eps.double(), drawn.t.double(), drawn.density.double())
    mean = torch.zeros(29, dtype=torch.float64, requires_grad=True)
    log_spread = torch.zeros(29, dtype=torch.float64, requires_grad=True)
    evidence = flow_evidence(tight(mean, log_spread), actions, noise)
    norms = []
    for limit in (0, 20):
        objective = ControlObjective(weighting="elbo", reduction="sum", negative_loss_limit=limit, log_ratio_limit=0)
        row = table(objective)["fpopp"]
        values, _ = row.contributions(evidence, row.proxy(evidence).detach(), -torch.ones(16, dtype=torch.float64))
        gradient = torch.autograd.grad(values.sum(), (mean, log_spread), retain_graph=True)
        norms.append(float(torch.cat(gradient).norm()))
    assert norms[1] < 0.1 * norms[0]


def test_limits_clamp_values_and_only_the_log_ratio_keeps_its_gradient() -> None:
    old = torch.tensor([-30.0, -1.0, -1.0])
    advantage = torch.tensor([-1.0, 1.0, 1.0])
    new = torch.tensor([-25.0, -0.5, 4.0], requires_grad=True)
    limited, before = Limits(negative_loss=20.0, log_ratio=3.0).apply(new, old, advantage)
    # the first is held at -20, 10 above its old value, and then at a log ratio of 3
    assert (limited - before).tolist() == pytest.approx([3.0, 0.5, 3.0])
    (gradient,) = torch.autograd.grad(limited.sum(), new)
    assert gradient.tolist() == [0.0, 1.0, 1.0]
    far, near = torch.tensor([-1e9, -1e3, 5.0], requires_grad=True), torch.tensor([-3e9, -1e9, -1e10])
    held, _ = Limits(log_ratio=3.0).apply(far, near, advantage)
    assert bool(((held - near).abs() <= 3).all()), "however loose the bound"
    assert torch.autograd.grad(held.sum(), far)[0].tolist() == [1.0, 1.0, 1.0]
    both, held = Limits(loss=2.0).apply(new, old, advantage)
    assert both.tolist() == [-2.0, -0.5, 4.0]
    assert held.tolist() == [-2.0, -1.0, -1.0]
    same = Limits().apply(new, old, advantage)
    assert same[0] is new


def test_per_sample_ratios_of_fpopp_and_the_mean_s_of_fpo() -> None:
    noise = draw_noise(4, 2, TimesConfig(3), keyed_generator(1))
    velocity: Velocity = lambda x, t: 0.3 * x  # noqa: E731, ARG005
    evidence = flow_evidence(velocity, ACTIONS.float(), noise)
    rows = table(ControlObjective())
    fpo, each = rows["fpo"], rows["fpopp"]
    torch.testing.assert_close(fpo.proxy(evidence), each.proxy(evidence).mean(-1))
    old = each.proxy(evidence) - torch.tensor([0.01, -0.02, 0.03])
    values, log_ratio = each.contributions(evidence, old, ADVANTAGE.float())
    assert log_ratio.shape == (4, 3)
    ratio = torch.tensor([0.01, -0.02, 0.03]).exp()
    a = float(ADVANTAGE[0])
    torch.testing.assert_close(values[0], (ratio.clamp(max=1.05) * a).mean())
    b = float(ADVANTAGE[1])
    torch.testing.assert_close(values[1], (ratio * b - abs(b) / 0.1 * (ratio - 1).square()).mean())


def test_settings_change_the_row_and_are_checked() -> None:
    row = table(ControlObjective(clip=0.3, trust="spo"))["fpopp"]
    assert row.clip == 0.3
    assert row.surrogate(torch.tensor(0.5), torch.tensor(0.0), torch.tensor(1.0)).item() == pytest.approx(
        math.exp(0.5) - (math.exp(0.5) - 1) ** 2 / 0.6
    )
    with pytest.raises(UserError, match=r"objective\.clip = -1"):
        ControlObjective(clip=-1)
    with pytest.raises(UserError, match=r"objective\.cutoff = 1\.0"):
        ControlObjective(cutoff=1.0)
