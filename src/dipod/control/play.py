"""Watching a trained control policy: whole episodes, moment by moment, and many paths from one start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dipod.checkpoints import reading
from dipod.control.build import build_control_policy, build_environment
from dipod.control.config import ControlConfig
from dipod.errors import require
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowPolicy
from dipod.policies.gaussian import GaussianPolicy
from dipod.policies.hub import load_weights
from dipod.policies.vae import VaePolicy
from dipod.tasks.control import Drawing, Environment, GymnasiumConfig, MultiGoal, OwnConfig
from dipod.tasks.control.episodes import Episodes

ActionNoise = Literal["sampled", "zero"]
Policy = FlowPolicy | VaePolicy | GaussianPolicy
SECONDS_PER_STEP = 0.05
"""Of a task that does not say."""


@dataclass(frozen=True)
class Moment:
    """One environment just before an action.

    Attributes:
        picture: as the environment shows itself.
        episode: counted from 0.
        step: of the episode.
        reward: of the episode so far.
    """

    picture: Drawing | Tensor
    episode: int
    step: int
    reward: float


@dataclass(frozen=True)
class Episode:
    """What became of an episode.

    Attributes:
        reward: its return.
        length: in steps.
        ended: "terminated", "truncated", or "unfinished" where watching stopped before.
    """

    reward: float
    length: int
    ended: Literal["terminated", "truncated", "unfinished"]


@dataclass(frozen=True)
class Paths:
    """Where N copies of one start went.

    Attributes:
        points: positions of each up to its end, [P_i, 2].
        goals: the goal that each reached, or -1.
    """

    points: list[Tensor]
    goals: list[int]


def load_policy(config: ControlConfig, checkpoint: Path | None, normaliser: Path | None = None) -> Policy:
    """The policy of a run on the CPU: the running average of its weights where the run has one.

    Args:
        config: of the run.
        checkpoint: a folder ``step-N``, or None for the untrained network.
        normaliser: with None, the checkpoint whose statistics of observations the untrained policy has.

    Raises:
        UserError: a checkpoint that is damaged or not of this run.
    """
    config = replace(config, device="cpu")
    policy = build_control_policy(config, build_environment(config, 1))
    source = checkpoint or normaliser
    if source is not None:
        with reading(source):
            weights = load_weights(source)
            averaged = any(name.startswith("average.") for name in weights)
            part = "policy.normaliser." if checkpoint is None else "average." if averaged else "policy."
            own = {name.removeprefix(part): value for name, value in weights.items() if name.startswith(part)}
            (policy if checkpoint is not None else policy.normaliser).load_state_dict(own)
    return policy.eval()


@contextmanager
def stage(config: ControlConfig, frames: bool = False) -> Iterator[Environment]:
    """One environment of a run's task on the CPU, closed afterwards.

    Args:
        config: of the run.
        frames: whether the environment renders itself, which only Gymnasium's can; else it is drawn.

    Raises:
        UserError: frames of an environment that has none.
    """
    config = replace(config, device="cpu")
    task = config.task
    if frames:
        os.environ.setdefault("MUJOCO_GL", "egl")
        renders = isinstance(task, GymnasiumConfig | OwnConfig)
        require(renders, "--frames", True, f"{task.name} is drawn; leave it out")
    environment = build_environment(config, 1, render=frames)
    try:
        yield environment
    finally:
        if isinstance(environment, Episodes):
            environment.close()


def seconds_per_step(config: ControlConfig) -> float:
    """How long a step of the task lasts."""
    return float(getattr(config.task, "dt", SECONDS_PER_STEP))


def watch(
    policy: Policy, environment: Environment, noise: ActionNoise, seed: int, episodes: int, steps: int
) -> Iterator[Moment | Episode]:
    """Act in one environment: a `Moment` before every action, an `Episode` wherever one ends.

    Args:
        policy: what acts.
        environment: of one copy.
        noise: "zero" for `mode`, "sampled" for actions as in training.
        seed: of starts and actions.
        episodes: after so many it is over.
        steps: after so many of all episodes together it is over, too.
    """
    generator = keyed_generator(seed, "play")
    observation = environment.reset(generator)
    episode, step, reward = 0, 0, 0.0
    for _ in range(steps):
        yield Moment(environment.view(0), episode, step, reward)
        action = policy.mode(observation) if noise == "zero" else policy.act(observation, generator)[0]
        found = environment.step(action, generator)
        observation, step, reward = found.observation, step + 1, reward + float(found.reward[0])
        if bool(found.done[0]):
            yield Episode(reward, step, "terminated" if bool(found.terminated[0]) else "truncated")
            episode, step, reward = episode + 1, 0, 0.0
            if episode == episodes:
                return
    if step:
        yield Episode(reward, step, "unfinished")


def paths(policy: Policy, task: MultiGoal, count: int, seed: int) -> Paths:
    """Sampled episodes of ``count`` point masses, all from the middle at rest."""
    require(count >= 1, "--paths", count, "give at least one path")
    environment = build_environment(replace(ControlConfig(), task=replace(task, start_noise=0.0), device="cpu"), count)
    generator = keyed_generator(seed, "paths")
    observation = environment.reset(generator)
    places, alive = [observation[:, :2]], torch.ones(count, dtype=torch.bool)
    lengths, goals = torch.ones(count, dtype=torch.int64), torch.full((count,), -1)
    for _ in range(task.max_episode_length):
        step = environment.step(policy.act(observation, generator)[0], generator)
        where = step.final_observation[:, :2]
        places.append(where)
        lengths += alive
        apart = (where[:, None] - task.goals.to(where)).square().sum(-1)
        goals = torch.where(alive & step.terminated, apart.argmin(-1), goals)
        alive = alive & ~step.done
        observation = step.observation
        if not bool(alive.any()):
            break
    track = torch.stack(places, 1)
    return Paths([row[:n] for row, n in zip(track, lengths.tolist(), strict=True)], goals.tolist())
