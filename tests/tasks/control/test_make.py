"""Environments by name."""

from __future__ import annotations

import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import make
from tests.tasks.control import seeded


@pytest.mark.parametrize(
    ("name", "observation", "action"),
    [("track", 205, 29), ("pendulum", 3, 1), ("cartpole-swingup", 5, 1), ("multigoal", 4, 2), ("bandit", 2, 2)],
)
def test_every_embedded_environment_has_its_name(name: str, observation: int, action: int) -> None:
    environment = make(name, 7, dtype=torch.float64)
    assert environment.name == name
    assert (environment.observation_size, environment.action_size) == (observation, action)
    first = environment.reset(seeded())
    assert first.shape == (7, observation)
    assert first.dtype == torch.float64


def test_settings_reach_the_world() -> None:
    assert make("track", 1, dimensions=3).action_size == 3
    assert make("pendulum", 1, max_episode_length=9).max_episode_length == 9


def test_unknown_names_and_settings_are_named() -> None:
    with pytest.raises(UserError, match="environment = 'trak': choose one of track, pendulum"):
        make("trak", 1)
    with pytest.raises(UserError, match="dimension = 3: track has dimensions, threshold"):
        make("track", 1, dimension=3)
    with pytest.raises(UserError, match="max_episode_length = 0"):
        make("pendulum", 1, max_episode_length=0)
