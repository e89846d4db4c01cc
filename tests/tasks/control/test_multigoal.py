"""Several goals: the physics, and that each goal is as good as any other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import MultiGoal, WorldEpisodes
from tests.tasks.control import returns, seeded


def random_state(count: int) -> dict[str, torch.Tensor]:
    numbers = torch.randn(2, count, 2, generator=seeded(), dtype=torch.float64)
    return {"position": 0.4 * numbers[0], "velocity": numbers[1]}


def test_steps_agree_with_a_loop_over_environments_and_goals() -> None:
    world = MultiGoal()
    state = random_state(200)
    action = torch.randn(200, 2, generator=seeded(1), dtype=torch.float64)
    after, reward, ended = world.advance(state, action)
    assert ended.any()
    for n in range(200):
        a = np.clip(action[n].numpy(), -1, 1)
        v = state["velocity"][n].numpy()
        v = v + 0.05 * (4 * a - 2 * v)
        p = state["position"][n].numpy() + 0.05 * v
        goals = [(math.cos(k * math.pi / 3), math.sin(k * math.pi / 3)) for k in range(6)]
        reached = any(math.dist(p, goal) < 0.15 for goal in goals)
        assert np.abs(p).max() < world.arena
        np.testing.assert_allclose(after["position"][n], p, atol=1e-14)
        np.testing.assert_allclose(after["velocity"][n], v, atol=1e-14)
        assert bool(ended[n]) == reached
        assert float(reward[n]) == pytest.approx(reached - 0.01 * (a**2).sum() / 2, abs=1e-14)


def test_a_turn_from_goal_to_goal_changes_nothing() -> None:
    world = MultiGoal()
    angle = torch.tensor(math.pi / 3, dtype=torch.float64)
    turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    state = random_state(200)
    action = 0.5 * torch.rand(200, 2, generator=seeded(1), dtype=torch.float64)
    after, reward, ended = world.advance(state, action)
    turned, turned_reward, turned_ended = world.advance({k: v @ turn for k, v in state.items()}, action @ turn)
    torch.testing.assert_close(turned["position"], after["position"] @ turn)
    torch.testing.assert_close(turned["velocity"], after["velocity"] @ turn)
    torch.testing.assert_close(turned_reward, reward)
    assert torch.equal(turned_ended, ended)
    torch.testing.assert_close(world.goals @ turn, world.goals.roll(-1, 0))


@pytest.mark.parametrize("goal", range(6))
def test_every_goal_can_be_reached(goal: int) -> None:
    world = MultiGoal()
    there = world.goals[goal].float()

    def head(observation: torch.Tensor) -> torch.Tensor:
        return 4 * (there - observation[:, :2]) - observation[:, 2:]

    total, length = returns(WorldEpisodes(world, 32), head)
    assert (length < 40).all()
    assert (total > 0.7).all()


def test_doing_nothing_costs_nothing_and_runs_out_of_time() -> None:
    total, length = returns(WorldEpisodes(MultiGoal(), 32), lambda observation: torch.zeros(len(observation), 2))
    assert (length == 100).all()
    assert (total == 0).all()


def test_walls_stop_the_point() -> None:
    world = MultiGoal(goal_count=1)
    state = {"position": torch.tensor([[-1.49, 1.2]]), "velocity": torch.tensor([[-1.0, 0.5]])}
    after, _, _ = world.advance(state, torch.zeros(1, 2))
    assert after["position"][0, 0] == -1.5
    assert after["velocity"][0, 0] == 0
    assert after["velocity"][0, 1] > 0


@pytest.mark.parametrize(("field", "value"), [("goal_count", 0), ("reach", 0.0), ("damping", -1.0), ("radius", 2.0)])
def test_settings_are_checked(field: str, value: float) -> None:
    with pytest.raises(UserError, match=field):
        MultiGoal(**{field: value})  # type: ignore[arg-type]
