"""Pendulum: Gymnasium's numbers, and energy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import Pendulum


def test_steps_agree_with_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset(seed=0)
    world = Pendulum()
    numbers = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle, speed, action = (10 * numbers[:, 0] - 5), 16 * numbers[:, 1] - 8, 3 * numbers[:, 2] - 1.5
    after, reward, ended = world.advance({"angle": angle, "speed": speed}, action[:, None])
    observation = world.observe(after)
    assert not ended.any()
    for n in range(50):
        theirs.state = np.array([float(angle[n]), float(speed[n])])
        expected, gained, *_ = theirs.step(np.array([2 * float(action[n])]))
        np.testing.assert_allclose(observation[n], expected, atol=1e-6)
        np.testing.assert_allclose(float(reward[n]), gained, atol=1e-12)


def test_without_torque_energy_stays() -> None:
    world = Pendulum(dt=1e-4)
    angle = torch.tensor([3.0, 2.0, -1.5], dtype=torch.float64)
    state = {"angle": angle, "speed": torch.zeros_like(angle)}

    def energy(state: dict[str, torch.Tensor]) -> torch.Tensor:
        return state["speed"].square() / 6 + 5 * state["angle"].cos()

    start = energy(state)
    for _ in range(3000):
        state, _, _ = world.advance(state, torch.zeros(3, 1, dtype=torch.float64))
    assert (state["angle"] - angle).abs().min() > 0.05
    torch.testing.assert_close(energy(state), start, rtol=0.0, atol=2e-3)


def test_rewards_keep_their_bounds() -> None:
    world = Pendulum()
    worst = {"angle": torch.tensor([math.pi]), "speed": torch.tensor([8.0])}
    _, reward, _ = world.advance(worst, torch.ones(1, 1))
    assert -16.3 < float(reward) < -16.2
    _, reward, _ = world.advance({"angle": torch.zeros(1), "speed": torch.zeros(1)}, torch.zeros(1, 1))
    assert float(reward) == 0


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="dt"):
        Pendulum(dt=0.0)
