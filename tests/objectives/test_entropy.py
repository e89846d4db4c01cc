"""The nearest-neighbour entropy against a Gaussian's own, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from dipod.errors import UserError
from dipod.noise import keyed_generator
from dipod.objectives.entropy import nearest_neighbour_entropy


@pytest.mark.parametrize("k", [1, 4])
def test_entropy_of_a_gaussian(k: int) -> None:
    samples = 0.5 * torch.randn(4, 3000, 2, generator=keyed_generator(1), dtype=torch.float64)
    expected = math.log(2 * math.pi * math.e) + 2 * math.log(0.5)
    assert float(nearest_neighbour_entropy(samples, k).mean()) == pytest.approx(expected, abs=0.03)


def test_its_gradient_pushes_samples_apart_and_scaling_adds_d_log_scale() -> None:
    samples = torch.randn(1, 6, 3, generator=keyed_generator(2), dtype=torch.float64, requires_grad=True)
    entropy = nearest_neighbour_entropy(samples)
    wider = nearest_neighbour_entropy(2 * samples)
    assert float((wider - entropy).detach()) == pytest.approx(3 * math.log(2))
    (gradient,) = torch.autograd.grad(entropy.sum(), samples)
    assert float((gradient * samples.detach()).sum()) == pytest.approx(3.0), "d of d·log(scale)"


def test_it_needs_more_samples_than_neighbours() -> None:
    with pytest.raises(UserError, match="entropy_neighbour"):
        nearest_neighbour_entropy(torch.zeros(1, 3, 2), 3)
