"""Gymnasium's environments by id: MuJoCo tasks, classic control, and whatever else acts in a Box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.noise import draw_rows
from dipod.tasks.control.episodes import Episodes
from dipod.tasks.control.mujoco_drawing import draw_mujoco
from dipod.tasks.control.protocol import Drawing

SEEDS = 2**31
EXTRA = "gymnasium"


@dataclass(frozen=True)
class GymnasiumConfig:
    """Which of Gymnasium's environments.

    Attributes:
        name: "gymnasium".
        id: as registered, such as "HalfCheetah-v5".
        max_episode_length: another time limit than the id registers; 0 keeps that.
    """

    name: Literal["gymnasium"] = "gymnasium"
    id: str = "HalfCheetah-v5"
    max_episode_length: int = 0

    def __post_init__(self) -> None:
        mend = "give a whole number of at least 0 (0: as registered)"
        require(self.max_episode_length >= 0, "task.max_episode_length", self.max_episode_length, mend)


class GymnasiumEpisodes(Episodes):
    """N copies of a Gymnasium environment, stepped one after another; see `dipod.tasks.control.protocol.Environment`.

    Actions from -1 to 1 are spread over the bounds of the action space and clipped to them; a dimension without bounds
    takes them as they are. Observations are flattened. The time limit that the id registers is kept by the clock here,
    so that episodes may begin at random times.

    An episode is saved as its seed and its actions, and `load_state` plays it again. That is exact for every
    environment that a seed determines, all of Gymnasium's own among them. With any other, and on a machine that
    computes otherwise, an episode goes on from wherever the same actions lead, or begins anew where they end it.

    Args:
        name: the id, such as "HalfCheetah-v5".
        count: N.
        device: where tensors are handed over.
        dtype: of observations and rewards.
        max_episode_length: another time limit than the id registers; 0 keeps that.
        render: whether `view` gives frames; without it, MuJoCo environments give drawings.
        options: passed on to the environment.

    Raises:
        UserError: an id or option that Gymnasium refuses, spaces that are no Boxes, or an environment without end.
    """

    def __init__(
        self,
        name: str,
        count: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_episode_length: int = 0,
        render: bool = False,
        **options: Any,
    ) -> None:
        first = _make(name, render, options)
        observations, actions = _box(name, first, "observation"), _box(name, first, "action")
        limit = max_episode_length or _registered_limit(first)
        mend = f"{name} registers no time limit and may never end; give max_episode_length"
        require(limit != 0, "max_episode_length", max_episode_length, mend)
        sizes = int(np.prod(observations.shape)), int(np.prod(actions.shape))
        super().__init__(name, count, sizes, limit, device, dtype)
        self._copies = [first, *(_make(name, render, options) for _ in range(count - 1))]
        self._render = render
        self._shape: tuple[int, ...] = observations.shape
        self._action_shape: tuple[int, ...] = actions.shape
        self._low, self._high, self._kind = actions.low.ravel(), actions.high.ravel(), actions.dtype
        self._seen = np.zeros((count, sizes[0]), np.float64)
        self._seeds = np.zeros(count, np.int64)
        self._taken: list[list[NDArray[Any]]] = [[] for _ in range(count)]

    def _begin(self, where: Tensor, generator: torch.Generator) -> None:
        device = generator.device
        seeds = draw_rows(
            generator, self.count, lambda n: torch.randint(SEEDS, (n,), generator=generator, device=device)
        )
        for index in where.nonzero()[:, 0].tolist():
            self._start(index, int(seeds[index]))

    def _start(self, index: int, seed: int) -> None:
        self._seeds[index], self._taken[index] = seed, []
        observation, _ = self._copies[index].reset(seed=seed)
        self._keep(index, observation)

    def _keep(self, index: int, observation: Any) -> None:
        """Remember what environment ``index`` shows."""
        shape = np.shape(observation)
        mend = f"environment {index} of {self.name} promised {self._shape}; mend its reset and step"
        require(shape == self._shape, "observation shape", shape, mend)
        self._seen[index] = np.asarray(observation).ravel()

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outer = self._outer(action.cpu().double().numpy())
        rewards, ended, cut = np.zeros(self.count), np.zeros(self.count, bool), np.zeros(self.count, bool)
        for index in range(self.count):
            rewards[index], ended[index], cut[index] = self._act(index, outer[index])
        return self._tensor(rewards, self.dtype), self._tensor(ended, torch.bool), self._tensor(cut, torch.bool)

    def _act(self, index: int, action: NDArray[Any]) -> tuple[float, bool, bool]:
        """One step of one environment with an action of its own space: its reward and the two flags."""
        self._taken[index].append(action)
        observation, reward, terminated, truncated, _ = self._copies[index].step(action.reshape(self._action_shape))
        self._keep(index, observation)
        return float(reward), bool(terminated), bool(truncated)

    def _outer(self, action: NDArray[np.float64]) -> NDArray[Any]:
        """Actions in the units of the action space, [N, a]."""
        wrong = np.argwhere(~np.isfinite(action))
        if len(wrong):
            index, entry = wrong[0]
            value = float(action[index, entry])
            raise UserError(f"action[{index}, {entry}]", value, f"{self.name} takes finite actions; look at the policy")
        bounded = np.isfinite(self._low) & np.isfinite(self._high)
        low, high = np.where(bounded, self._low, -1), np.where(bounded, self._high, 1)
        spread = low + (action + 1) / 2 * (high.astype(np.float64) - low)
        return np.clip(spread, self._low, self._high).astype(self._kind)

    def _observe(self) -> Tensor:
        return self._tensor(self._seen, self.dtype)

    def _tensor(self, values: NDArray[Any], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(self.device, dtype, copy=True)

    def _save(self) -> dict[str, Tensor]:
        taken = np.array([len(actions) for actions in self._taken])
        actions = np.zeros((self.count, taken.max(), self.action_size), self._kind)
        for row, history in zip(actions, self._taken, strict=True):
            row[: len(history)] = np.reshape(history, (-1, self.action_size))
        saved = {"seed": self._seeds, "taken": taken, "actions": actions}
        return {key: torch.from_numpy(value.copy()) for key, value in saved.items()}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        mend = f"{self.name} has ({self.count},) here; give the run's own settings"
        for key in ("seed", "taken"):
            given = tuple(state.get(key, torch.empty(0)).shape)
            require(given == (self.count,), f"state {key} shape", given, mend)
        history = state.get("actions", torch.empty(0))
        fits = history.ndim == 3 and (history.shape[0], history.shape[2]) == (self.count, self.action_size)
        fits = fits and history.shape[1] <= self.max_episode_length
        mend = f"{self.name} has ({self.count}, at most {self.max_episode_length}, {self.action_size}) here"
        require(fits, "state actions shape", tuple(history.shape), mend)
        actions, taken = history.cpu().numpy().astype(self._kind), state["taken"].tolist()
        for index, seed in enumerate(state["seed"].tolist()):
            self._replay(index, seed, actions[index, : taken[index]])

    def _replay(self, index: int, seed: int, actions: NDArray[Any]) -> None:
        """Live an episode of one environment again; it begins anew where the actions end it."""
        self._start(index, seed)
        for action in actions:
            _, terminated, truncated = self._act(index, action)
            if terminated or truncated:
                self._start(index, seed)
                self._clock[index] = 0
                return

    def close(self) -> None:
        """Close every copy; a process that took frames ends in silence only after it."""
        super().close()
        for copy in self._copies:
            copy.close()

    def _look(self, index: int) -> Drawing | Tensor:
        inner = self._copies[index].unwrapped
        if not self._render:
            drawable = hasattr(inner, "model") and hasattr(inner, "data")
            require(drawable, "render", False, f"{self.name} can only be seen as frames; give render true")
            return draw_mujoco(inner.model, inner.data)
        try:
            frame = self._copies[index].render()
        except Exception as error:
            mend = f"{self.name} gives no frame ({type(error).__name__}); set MUJOCO_GL to egl or osmesa for MuJoCo"
            raise UserError("render", True, f"{mend}, or give render false for a drawing") from error
        return torch.from_numpy(np.array(frame, np.uint8))


def _make(name: str, render: bool, options: Mapping[str, Any]) -> Any:
    """One environment without Gymnasium's own clock and checks.

    Raises:
        UserError: Gymnasium does not know the id or an option, or cannot import what it takes.
    """
    gymnasium = load_extra("gymnasium", EXTRA)
    mode = {"render_mode": "rgb_array"} if render else {}
    try:
        return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **mode, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError("environment", name, f"give an id that Gymnasium knows ({_line(error)})") from error
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError("environment", name, f"Gymnasium cannot make it: {_line(error)}") from error
    except TypeError as error:
        raise UserError("environment options", dict(options), f"{name} refuses them: {_line(error)}") from error


def _registered_limit(environment: Any) -> int:
    """The time limit that an environment's id comes with; 0 where it has none."""
    return load_extra("gymnasium", EXTRA).registry[environment.spec.id].max_episode_steps or 0


def _box(name: str, environment: Any, which: str) -> Any:
    """The observation or action space, which must be a Box of real numbers.

    Raises:
        UserError: it is not.
    """
    space = getattr(environment, f"{which}_space")
    vector = type(space).__name__ == "Box"
    mend = f"{which}s of {name} must be a Box; wrap the environment, or choose one with vectors"
    require(vector, f"{which} space", str(space)[:80], mend)
    real = which == "observation" or np.issubdtype(space.dtype, np.floating)
    require(real, f"{which} space", str(space)[:80], f"{which}s of {name} must be real numbers; wrap the environment")
    return space


def _line(error: Exception) -> str:
    """A message of somebody else's in one line."""
    return " ".join(str(error).split())
