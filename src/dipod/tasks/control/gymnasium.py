"""Gymnasium's environments by id: MuJoCo tasks, classic control, and whatever else acts in a Box."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipod.errors import UserError, require
from dipod.noise import derive, draw_rows
from dipod.tasks.control.episodes import Episodes, OnError
from dipod.tasks.control.gymnasium_interface import OLD, described, make_registered, own_limit, place, success
from dipod.tasks.control.mujoco_drawing import draw_mujoco
from dipod.tasks.control.protocol import Drawing, EnvironmentNote
from dipod.tasks.control.seeding import OwnGlobals, reseed, untouched
from dipod.tasks.control.spaces import action_box, flattening

SEEDS = 2**31
TRIED_SEEDS = (1, 2, 3)
"""Seeds of the resets that are compared when environments are made; after the first an action is compared as well."""
BEGINNINGS = 4
"""Times that a copy is asked to begin an episode, where an error does not stop the run."""
Make = Callable[[], Any]


@dataclass(frozen=True)
class GymnasiumConfig:
    """Which of Gymnasium's environments.

    Attributes:
        name: "gymnasium".
        id: as registered, such as "HalfCheetah-v5"; "module:Id" imports the module that registers it.
        max_episode_length: another time limit than the id registers; 0 keeps that.
        arguments: what the environment is made with, such as ``{"env_name": "reach-v3"}``; on the command line
            ``--task.arguments.env_name reach-v3``, or all of them as JSON.
        on_error: what becomes of an environment that raises an error or gives a number that is not finite: "stop" ends
            the run; "reset" counts it in ``environment_errors`` and begins its next episode.
    """

    name: Literal["gymnasium"] = "gymnasium"
    id: str = "HalfCheetah-v5"
    max_episode_length: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    on_error: OnError = "stop"

    def __post_init__(self) -> None:
        mend = "give a whole number of at least 0 (0: as registered)"
        require(self.max_episode_length >= 0, "task.max_episode_length", self.max_episode_length, mend)


class GymnasiumEpisodes(Episodes):
    """N copies of a Gymnasium environment, stepped one after another; see `dipod.tasks.control.protocol.Environment`.

    Actions from -1 to 1 are spread over the bounds of the action space and clipped to them; a dimension without bounds
    takes them as they are. Observations are flattened as `dipod.tasks.control.spaces.flattening` says. The time limit
    that the id registers is kept by the clock here, so that episodes may begin at random times. ``success`` or
    ``is_success`` in an ``info`` is handed on.

    An episode is saved as its seed and its actions, and `load_state` plays it again. That is exact for every
    environment that a seed determines. The first copy is tried when it is made: where one seed gives two episodes, all
    generators that it holds, and its own state of the global ones, are seeded before each reset; if that does not help
    either, an `EnvironmentNote` says so, and an episode goes on from wherever the same actions lead.

    Args:
        name: the id, such as "HalfCheetah-v5"; with ``make``, what it is called.
        count: N.
        device: where tensors are handed over.
        dtype: of observations and rewards.
        max_episode_length: another time limit than the id registers; 0 keeps that.
        render: whether `view` gives frames; without it, MuJoCo environments give drawings.
        on_error: see `GymnasiumConfig`.
        make: makes one environment; None asks Gymnasium for the id.
        options: passed on to the environment.

    Raises:
        UserError: an id or option that Gymnasium refuses, spaces that are no vectors, an environment without end, or
            one of the interface before Gymnasium 0.26.
    """

    def __init__(
        self,
        name: str,
        count: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_episode_length: int = 0,
        render: bool = False,
        on_error: OnError = "stop",
        make: Make | None = None,
        **options: Any,
    ) -> None:
        self._make: Make = make or (lambda: make_registered(name, render, options))
        first = self._made()
        size, self._flatten = flattening(name, first.observation_space)
        actions, units = action_box(name, first.action_space)
        limit = max_episode_length or own_limit(first)
        mend = f"{name} registers no time limit and may never end; give max_episode_length"
        require(limit != 0, "max_episode_length", max_episode_length, mend)
        super().__init__(name, count, (size, len(units.low)), limit, device, dtype, on_error)
        self.action_units = units
        self._copies = [first, *(self._made() for _ in range(count - 1))]
        self._render = render
        self._action_shape: tuple[int, ...] = actions.shape
        self._low, self._high, self._kind = actions.low.ravel(), actions.high.ravel(), actions.dtype
        self._seen = np.zeros((count, size), np.float64)
        self._told = np.full(count, np.nan)
        self._globals: list[OwnGlobals] = []
        self._noted = False
        self._clear()
        self.repeatable = self._try_out()

    def _clear(self) -> None:
        self._seeds = np.zeros(self.count, np.int64)
        self._taken: list[list[NDArray[Any]]] = [[] for _ in range(self.count)]

    def _made(self) -> Any:
        """A new copy; what it draws from the global generators as it is made is the same for each."""
        with OwnGlobals(0)():
            return self._make()

    def _try_out(self) -> bool:
        """Whether one seed gives one episode, with all generators seeded where that is needed."""
        with untouched():
            apart = self._apart()
        if apart:
            self._globals = [OwnGlobals(0) for _ in range(self.count)]
            apart = self._apart()
        if apart:
            said = (
                f"{self.name} draws from something that no seed reaches: two episodes of one seed are {apart:.2g} "
                "apart at once. Evaluations do not share their starts, and a resumed run is not the same bit for bit"
            )
            warnings.warn(EnvironmentNote(said), stacklevel=4)
        self._clear()
        return not apart

    def _apart(self) -> float:
        """The largest difference between trials of one seed, in one copy twice and in another, for a few seeds.

        One alone may come out equal by chance where an environment draws from a short list.
        """
        return max(self._apart_at(seed) for seed in TRIED_SEEDS)

    def _apart_at(self, seed: int) -> float:
        first, *others = (self._trial(index, seed) for index in (0, 0, *range(1, min(self.count, 2))))
        unequal = [np.where(np.isnan(other) & np.isnan(first) | (other == first), 0, other - first) for other in others]
        return float(np.nan_to_num(np.abs(unequal), nan=np.inf).max())

    def _trial(self, index: int, seed: int) -> NDArray[np.float64]:
        """The first observation of an episode, and, of the first seed, what one action leads to."""
        self._start(index, seed)
        first: NDArray[np.float64] = self._seen[index].copy()
        if seed != TRIED_SEEDS[0]:
            return first
        reward, *_ = self._try(index, self._outer(np.zeros((1, self.action_size)))[0])
        return np.concatenate([first, self._seen[index], [reward]])

    def _begin(self, where: Tensor, generator: torch.Generator) -> None:
        device = generator.device
        seeds = draw_rows(
            generator, self.count, lambda n: torch.randint(SEEDS, (n,), generator=generator, device=device)
        )
        for index in where.nonzero()[:, 0].tolist():
            self._start(index, int(seeds[index]))

    def _start(self, index: int, seed: int) -> None:
        """Begin an episode of one environment; where errors do not stop the run, with other seeds or a new copy."""
        for attempt in range(BEGINNINGS):
            try:
                self._reset(index, seed if not attempt else derive("again", seed, attempt) % SEEDS)
                if self.on_error == "stop" or np.isfinite(self._seen[index]).all():
                    return
                error: Exception = ValueError("an observation that is not finite")
            except UserError:
                raise
            except Exception as raised:
                error = raised
            if self.on_error == "stop":
                raise self._failure(index, "reset", error) from error
            self._note(index, "reset", error)
            if attempt:
                self._copies[index] = self._made()
        raise self._failure(index, f"reset {BEGINNINGS} times in a row", error) from error

    def _reset(self, index: int, seed: int) -> None:
        self._seeds[index], self._taken[index], self._told[index] = seed, [], np.nan
        copy = self._copies[index]
        if self._globals:
            self._globals[index] = OwnGlobals(seed)
            reseed(copy, seed)
        with self._as(index):
            found = copy.reset(seed=seed)
        told = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)
        mend = f"{self.name} must give (observation, info); {OLD}"
        require(told, "reset", f"returned {described(found)}", mend)
        self._keep(index, found[0])

    @contextmanager
    def _as(self, index: int) -> Iterator[None]:
        """With the global generators of environment ``index``, where it draws from them."""
        with self._globals[index]() if self._globals else nullcontext():
            yield

    def _keep(self, index: int, observation: Any) -> None:
        """Remember what environment ``index`` shows."""
        self._seen[index] = self._flatten(observation, f"environment {index} of {self.name}")

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outer = self._outer(action.cpu().double().numpy())
        rewards, ended, cut = np.zeros(self.count), np.zeros(self.count, bool), np.zeros(self.count, bool)
        for index in range(self.count):
            rewards[index], ended[index], cut[index] = self._try(index, outer[index])
        return self._tensor(rewards, self.dtype), self._tensor(ended, torch.bool), self._tensor(cut, torch.bool)

    def _try(self, index: int, action: NDArray[Any]) -> tuple[float, bool, bool]:
        """`_act`; an error stops the run, or leaves numbers that are not finite for `Episodes` to find."""
        try:
            return self._act(index, action)
        except UserError:
            raise
        except Exception as error:
            if self.on_error == "stop":
                raise self._failure(index, "step", error) from error
            self._note(index, "step", error)
            self._seen[index] = np.nan
            return math.nan, False, False

    def _act(self, index: int, action: NDArray[Any]) -> tuple[float, bool, bool]:
        """One step of one environment with an action of its own space: its reward and the two flags."""
        self._taken[index].append(action)
        with self._as(index):
            found = self._copies[index].step(action.reshape(self._action_shape))
        five = isinstance(found, tuple) and len(found) == 5
        mend = f"{self.name} must give (observation, reward, terminated, truncated, info); {OLD}"
        require(five, "step", f"returned {described(found)}", mend)
        observation, reward, terminated, truncated, info = found
        self._keep(index, observation)
        self._told[index] = success(info)
        return float(reward), bool(terminated), bool(truncated)

    def _failure(self, index: int, where: str, error: Exception) -> UserError:
        """What a run that ends by an error of an environment says."""
        mend = f"environment {index} raised {place(error)} in its {where}; mend it, or go on with task.on_error reset"
        return UserError("environment", self.name, mend)

    def _note(self, index: int, where: str, error: Exception) -> None:
        """Say once what the first error was."""
        if not self._noted:
            self._noted = True
            said = f"environment {index} of {self.name} fails in its {where} and begins anew: {place(error)}"
            warnings.warn(EnvironmentNote(f"{said}; environment_errors counts them"), stacklevel=2)

    def _successes(self) -> Tensor:
        return self._tensor(self._told, torch.float64)

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
            reward, terminated, truncated = self._try(index, action)
            if terminated or truncated or (self.on_error == "reset" and not math.isfinite(reward)):
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
