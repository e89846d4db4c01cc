"""What comes out of an environment must be finite and of the right shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import Environment, Step, check_observation, check_step, make
from tests.tasks.control import seeded


def one_step() -> tuple[Environment, Step]:
    environment, generator = make("pendulum", 3), seeded()
    environment.reset(generator)
    return environment, environment.step(torch.zeros(3, 1), generator)


def spoilt(values: torch.Tensor, index: tuple[int, ...], value: float) -> torch.Tensor:
    values = values.clone()
    values[index] = value
    return values


def test_a_good_step_passes() -> None:
    environment, step = one_step()
    check_step(environment, step)
    check_observation(environment, step.observation)


@pytest.mark.parametrize(
    ("field", "index", "value", "named"),
    [
        ("observation", (2, 1), float("nan"), r"^observation\[2, 1\] = nan: environment 2 of pendulum"),
        ("final_observation", (0, 2), float("inf"), r"^final_observation\[0, 2\] = inf: environment 0 of pendulum"),
        ("reward", (1,), float("-inf"), r"^reward\[1\] = -inf: environment 1 of pendulum"),
    ],
)
def test_a_number_that_is_not_finite_is_named(field: str, index: tuple[int, ...], value: float, named: str) -> None:
    environment, step = one_step()
    changes: dict[str, Any] = {field: spoilt(getattr(step, field), index, value)}
    with pytest.raises(UserError, match=named):
        check_step(environment, replace(step, **changes))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("observation", torch.zeros(3, 4), r"^observation shape = \(3, 4\): pendulum owes \(3, 3\)"),
        ("final_observation", torch.zeros(3), r"^final_observation shape = \(3,\)"),
        ("reward", torch.zeros(3, 1), r"^reward shape = \(3, 1\): pendulum owes \(3,\)"),
        ("terminated", torch.zeros(2, dtype=torch.bool), r"^terminated shape = \(2,\)"),
        ("truncated", torch.zeros(3), r"^truncated dtype = torch.float32"),
    ],
)
def test_a_wrong_shape_is_named(field: str, value: torch.Tensor, named: str) -> None:
    environment, step = one_step()
    changes: dict[str, Any] = {field: value}
    with pytest.raises(UserError, match=named):
        check_step(environment, replace(step, **changes))
