"""A bandit with a context: rewards against a loop, symmetry, and what the best policy gets."""

from __future__ import annotations

import math

import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import Bandit, WorldEpisodes, make
from tests.tasks.control import returns, seeded


def contexts(count: int) -> torch.Tensor:
    return 2 * math.pi * torch.rand(count, generator=seeded(), dtype=torch.float64) - math.pi


def test_rewards_agree_with_a_loop_over_goals() -> None:
    world = Bandit(goal_count=4, radius=1.2, reach=0.3)
    context = contexts(50)
    action = torch.randn(50, 2, generator=seeded(1), dtype=torch.float64)
    _, reward, ended = world.advance({"context": context}, action)
    assert bool(ended.all())
    for n in range(50):
        pays = []
        for k in range(4):
            angle = k * math.pi / 2
            apart = math.dist((1.2 * math.cos(angle), 1.2 * math.sin(angle)), action[n].tolist())
            pays.append((1 + math.cos(float(context[n]) - angle)) / 2 / (1 + (apart / 0.3) ** 2))
        assert float(reward[n]) == pytest.approx(max(pays))


def test_a_turn_from_goal_to_goal_changes_nothing_and_rewards_lie_between_0_and_1() -> None:
    world, context = Bandit(), contexts(500)
    by = torch.tensor(2 * math.pi / 3, dtype=torch.float64)
    turn = torch.stack([torch.stack([by.cos(), by.sin()]), torch.stack([-by.sin(), by.cos()])])
    action = torch.randn(500, 2, generator=seeded(1), dtype=torch.float64)
    _, reward, _ = world.advance({"context": context}, action)
    _, turned, _ = world.advance({"context": context + by}, action @ turn)
    torch.testing.assert_close(turned, reward)
    assert bool((reward > 0).all() & (reward <= 1).all())


@pytest.mark.parametrize("goals", [1, 3, 4])
def test_going_to_the_nearest_goal_gets_what_the_best_policy_gets(goals: int) -> None:
    world = Bandit(goal_count=goals)

    def nearest(observation: torch.Tensor) -> torch.Tensor:
        return world.goals.float()[(observation @ world.goals.float().T).argmax(-1)]

    total, length = returns(WorldEpisodes(world, 20_000), nearest)
    assert bool((length == 1).all())
    assert float(total.mean()) == pytest.approx((1 + goals / math.pi * math.sin(math.pi / goals)) / 2, abs=0.01)


def test_every_step_is_an_episode_with_a_context_of_its_own() -> None:
    environment = WorldEpisodes(Bandit(), 16)
    generator = seeded()
    first = environment.reset(generator, spread=True)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(16))
    step = environment.step(torch.zeros(16, 2), generator)
    assert bool(step.terminated.all())
    assert not bool(step.truncated.any())
    assert torch.equal(step.final_observation, first)
    assert bool((step.observation != first).any(-1).all())
    assert make("bandit", 3).observation_size == 2


@pytest.mark.parametrize(("field", "value"), [("goal_count", 0), ("reach", 0.0), ("radius", -1.0)])
def test_settings_are_checked(field: str, value: float) -> None:
    with pytest.raises(UserError, match=field):
        Bandit(**{field: value})  # type: ignore[arg-type]
