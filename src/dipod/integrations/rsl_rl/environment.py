"""The library's environments as rsl_rl's, and the runner's environment as the library's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

from dipod.errors import UserError
from dipod.noise import keyed_generator
from dipod.tasks.control import Environment, Step, make

if TYPE_CHECKING:
    from dipod.integrations.rsl_rl.actor import FlowActor

GROUP = "policy"
"""The group that a library's environment puts its observations in."""
MEND = "mend the environment, or the action that it was given"


class VectorEnvironment(VecEnv):  # type: ignore[misc]
    """One of the library's environments for rsl_rl's runners; its one observation group is "policy".

    Args:
        name: "track", "pendulum", ..., or a Gymnasium id; see `dipod.tasks.control.make`.
        num_envs: N.
        device: where it lives.
        seed: of everything random in it.
        settings: fields of the world, or arguments of a Gymnasium environment.
    """

    def __init__(
        self, name: str, num_envs: int, device: torch.device | str = "cpu", seed: int = 0, **settings: Any
    ) -> None:
        self.environment: Environment = make(name, num_envs, device, **settings)
        self.num_envs, self.num_actions = num_envs, self.environment.action_size
        self.max_episode_length = self.environment.max_episode_length
        self.device = torch.device(device)
        self.cfg = {"name": name, "num_envs": num_envs, "seed": seed, **settings}
        self.generator = keyed_generator(seed, "environment", device=self.device)
        self._seen = self.environment.reset(self.generator)

    @property
    def episode_length_buf(self) -> Tensor:
        """Steps of the present episodes so far, [N]."""
        return self.environment.state()["clock"]

    @episode_length_buf.setter
    def episode_length_buf(self, steps: Tensor) -> None:
        state = {**self.environment.state(), "clock": steps.to(self.device)}
        self._seen = self.environment.load_state(state)

    def get_observations(self) -> TensorDict:
        """What to act on next, by group."""
        return TensorDict({GROUP: self._seen}, batch_size=[self.num_envs], device=self.device)

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Act [N, d]: observations, rewards, dones and ``extras["time_outs"]``."""
        step = self.environment.step(actions, self.generator)
        self._seen = step.observation
        return self.get_observations(), step.reward, step.done.long(), {"time_outs": step.truncated}

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, copied; rsl_rl does not save it."""
        return {"generator": self.generator.get_state(), **self.environment.state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` returned."""
        self.generator.set_state(state["generator"])
        self._seen = self.environment.load_state(state)


class RunnerEnvironment:
    """A runner's environment in the middle of its episodes, for the library's `Collector`.

    Args:
        env: the runner's.
        actor: whose observation groups are asked for.
        obs: what to act on next.
        device: the policy's.
        logger: the runner's, which keeps account of episodes; or None.

    Attributes:
        obs: what to act on next, by group.
    """

    def __init__(self, env: Any, actor: FlowActor, obs: TensorDict, device: torch.device | str, logger: Any) -> None:
        self.env, self.actor, self.device, self.logger = env, actor, device, logger
        self.name, self.count = type(env).__name__, int(env.num_envs)
        self.observation_size, self.action_size = actor.obs_dim, actor.policy.action_size
        self.obs = obs

    @property
    def max_episode_length(self) -> int:
        """The longest of its episodes."""
        return int(torch.as_tensor(self.env.max_episode_length).max())

    def reset(self, generator: torch.Generator, spread: bool = False) -> Tensor:
        """The present observations: episodes go on."""
        del generator, spread
        return self.actor.observation(self.obs).clone()

    def step(self, action: Tensor, generator: torch.Generator) -> Step:
        """Act, as the runner does; what an episode ended in is not known, what follows stands for it."""
        del generator
        with torch.inference_mode():
            obs, reward, dones, extras = self.env.step(action.to(self.env.device))
            obs, reward, dones = obs.to(self.device), reward.to(self.device), dones.to(self.device)
            refuse_unfinite(obs, reward)
            if self.logger is not None:
                self.logger.process_env_step(reward, dones, extras)
            done = dones > 0
            cut = extras.get("time_outs", torch.zeros_like(done)).to(self.device) > 0
        self.obs, observation = obs, self.actor.observation(obs).clone()
        truncated = (done & cut).clone()
        return Step(observation, reward.clone(), done & ~truncated, truncated, observation)


def refuse_unfinite(obs: TensorDict, reward: Tensor | None = None) -> None:
    """Refuse observations and rewards that are not finite.

    Raises:
        UserError: naming the observation group or "reward", and the first environment concerned.
    """
    given = {f"observation group {group}": values for group, values in obs.items()}
    if reward is not None:
        given["reward"] = reward
    finite = torch.stack([torch.isfinite(values).all() for values in given.values()])
    if bool(finite.all()):
        return
    for what, values in given.items():
        wrong = (~torch.isfinite(values)).nonzero()
        if len(wrong):
            index = wrong[0].tolist()
            value = values[tuple(index)].item()
            raise UserError(
                f"{what} {index}", value, f"environment {index[0]} gave a number that is not finite; {MEND}"
            )
