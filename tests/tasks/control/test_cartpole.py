"""Cart and pole: an independent integration, energy, and that the pole can be swung up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dipod.errors import UserError
from dipod.tasks.control import CartpoleSwingup, WorldEpisodes
from tests.tasks.control import returns

M, POLE, HALF, G = 1.0, 0.1, 0.5, 9.8


def lagrange(_: float, motion: NDArray[Any], force: float) -> NDArray[Any]:
    """The motion's rates from the mass matrix of the Lagrangian, solved as a linear system."""
    _, velocity, angle, turn = motion
    coupled = POLE * HALF * math.cos(angle)
    inertia = np.array([[M + POLE, coupled], [coupled, 4 / 3 * POLE * HALF**2]])
    pushes = np.array([force + POLE * HALF * turn**2 * math.sin(angle), POLE * G * HALF * math.sin(angle)])
    acceleration, spin = np.linalg.solve(inertia, pushes)
    return np.array([velocity, acceleration, turn, spin])


def energy(motion: torch.Tensor) -> torch.Tensor:
    """Of the cart, and of a rod's centre and its rotation."""
    _, velocity, angle, turn = motion.unbind(-1)
    centre = (velocity + HALF * turn * angle.cos()).square() + (HALF * turn * angle.sin()).square()
    rotation = POLE * (2 * HALF) ** 2 / 12 * turn.square()
    return (M * velocity.square() + POLE * centre + rotation) / 2 + POLE * G * HALF * angle.cos()


def test_steps_agree_with_an_adaptive_integration() -> None:
    integrate = pytest.importorskip("scipy.integrate")
    world = CartpoleSwingup()
    start = torch.tensor([[0.1, -0.5, 2.0, 3.0]], dtype=torch.float64)
    motion, expected = start, start[0].numpy()
    for action in (0.9, -1.5, 0.3, 1.0, -0.2):
        after, _, _ = world.advance({"motion": motion}, torch.tensor([[action]], dtype=torch.float64))
        motion = after["motion"]
        force = 10 * min(max(action, -1), 1)
        found = integrate.solve_ivp(lagrange, (0, 0.02), expected, args=(force,), rtol=1e-11, atol=1e-12)
        expected = found.y[:, -1]
    np.testing.assert_allclose(motion[0], expected, atol=1e-6)


def test_without_force_energy_stays_and_force_does_work() -> None:
    world = CartpoleSwingup(rail=100.0)
    motion = torch.tensor([[0.0, 0.5, 3.0, 4.0], [0.0, 0.0, 0.1, 0.0]], dtype=torch.float64)
    start = energy(motion)
    for _ in range(200):
        motion = world.advance({"motion": motion}, torch.zeros(2, 1, dtype=torch.float64))[0]["motion"]
    torch.testing.assert_close(energy(motion), start, rtol=0.0, atol=1e-4)
    pushed = world.advance({"motion": motion}, torch.ones(2, 1, dtype=torch.float64))[0]["motion"]
    work = 10 * (pushed[:, 0] - motion[:, 0])
    torch.testing.assert_close(energy(pushed) - energy(motion), work, rtol=0.0, atol=1e-5)


def test_the_reward_is_largest_upright_in_the_middle() -> None:
    world = CartpoleSwingup()
    still = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, math.pi, 0.0], [1.2, 0.0, 0.0, 0.0], [2.5, 0.0, 0.0, 0.0]])
    _, reward, ended = world.advance({"motion": still}, torch.zeros(4, 1))
    torch.testing.assert_close(reward, torch.tensor([1.0, 0.0, 0.75, 0.0]), rtol=0.0, atol=1e-4)
    assert ended.tolist() == [False, False, False, True]


def swing_up(observation: torch.Tensor) -> torch.Tensor:
    """Pump energy into the pole while it hangs; balance it by linear feedback once it is up."""
    x, velocity, cosine, sine, turn = observation.double().unbind(-1)
    x = 2.4 * x
    missing = POLE * HALF**2 * 2 / 3 * turn.square() + POLE * G * HALF * (cosine - 1)
    pump = (10 * missing * turn * cosine).clamp(-6, 6) - 2 * x - 1.5 * velocity
    balance = 3 * x + 4 * velocity + 45 * torch.atan2(sine, cosine) + 10 * turn
    return torch.where(cosine > 0.9, balance, pump)[:, None] / 10


def test_the_pole_can_be_swung_up_and_held() -> None:
    environment = WorldEpisodes(CartpoleSwingup(), 16, dtype=torch.float64)
    total, length = returns(environment, swing_up)
    assert (length == 500).all()
    assert float(total.mean()) > 300
    idle, _ = returns(environment, lambda observation: torch.zeros(len(observation), 1))
    assert float(idle.mean()) < 5


@pytest.mark.parametrize("field", ["force", "rail", "dt"])
def test_settings_are_checked(field: str) -> None:
    with pytest.raises(UserError, match=field):
        CartpoleSwingup(**{field: 0.0})  # type: ignore[arg-type]
