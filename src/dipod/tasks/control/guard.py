"""What comes out of an environment is looked at once, before anything is learned from it."""

from __future__ import annotations

import torch
from torch import Tensor

from dipod.errors import UserError, require
from dipod.tasks.control.protocol import Environment, Step

MEND = "mend the environment, or the action that it was given"


def check_observation(environment: Environment, observation: Tensor, what: str = "observation") -> None:
    """Refuse observations that are not [N, o] finite numbers.

    Raises:
        UserError: naming the environment, the first wrong entry and its value.
    """
    _check(environment, what, observation, (environment.count, environment.observation_size))


def check_step(environment: Environment, step: Step) -> None:
    """Refuse a step with a wrong shape, or a number that is not finite.

    Raises:
        UserError: naming the environment, the first wrong entry and its value.
    """
    check_observation(environment, step.observation)
    if step.final_observation is not step.observation:
        check_observation(environment, step.final_observation, "final_observation")
    _check(environment, "reward", step.reward, (environment.count,))
    for what in ("terminated", "truncated"):
        flags: Tensor = getattr(step, what)
        shape, right = tuple(flags.shape), (environment.count,)
        require(shape == right, f"{what} shape", shape, f"{environment.name} owes {right}; {MEND}")
        require(flags.dtype == torch.bool, f"{what} dtype", flags.dtype, f"{environment.name} owes bool; {MEND}")


def _check(environment: Environment, what: str, values: Tensor, right: tuple[int, ...]) -> None:
    shape = tuple(values.shape)
    require(shape == right, f"{what} shape", shape, f"{environment.name} owes {right}; {MEND}")
    finite = torch.isfinite(values)
    if not finite.all():
        index = (~finite).nonzero()[0].tolist()
        mend = f"environment {index[0]} of {environment.name} gave a number that is not finite; {MEND}"
        raise UserError(f"{what}{index}", values[tuple(index)].item(), mend)
