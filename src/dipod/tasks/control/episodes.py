"""Clocks, time limits, resets and the step's bookkeeping, once for every environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from dipod.errors import require
from dipod.noise import uniform_rows
from dipod.tasks.control.protocol import Drawing, Step
from dipod.tasks.control.units import ActionUnits

OnError = Literal["stop", "reset"]


class Episodes(ABC):
    """N environments with their clocks; a kind of environment says how they begin, advance and look.

    The draws of a step have the same shapes whatever happens in it. So an environment's episodes depend on its own
    actions and place in the batch only, never on when the others end.

    Args:
        name: what it is called, in messages too.
        count: N.
        sizes: numbers in an observation and in an action.
        max_episode_length: steps after which an episode is truncated.
        device: where observations, rewards and flags live.
        dtype: of observations and rewards.
        on_error: "reset" cuts an episode whose observation or reward is not finite, at the observation before and with
            a reward of 0, and begins the next one; "stop" hands such numbers on, for others to refuse.

    Attributes:
        action_units: what becomes of actions.
    """

    def __init__(
        self,
        name: str,
        count: int,
        sizes: tuple[int, int],
        max_episode_length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        on_error: OnError = "stop",
    ) -> None:
        require(count >= 1, "environments", count, "give at least one")
        require(sizes[1] >= 1, "action size", sizes[1], f"{name} has nothing to act with; choose another environment")
        limited = max_episode_length >= 1
        require(limited, "max_episode_length", max_episode_length, "give the steps after which an episode is cut")
        self.name, self.count, self.max_episode_length = name, count, max_episode_length
        self.observation_size, self.action_size = sizes
        self.device, self.dtype, self.on_error = torch.device(device), dtype, on_error
        self.action_units = ActionUnits.plain(sizes[1])
        self._clock = torch.zeros(count, dtype=torch.int64, device=self.device)
        self._begun = False

    @abstractmethod
    def _begin(self, where: Tensor, generator: torch.Generator) -> None:
        """Begin new episodes where [N] bool says so."""

    @abstractmethod
    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step with [N, a]: rewards, ended for good, and cut by something other than the clock, [N] each."""

    @abstractmethod
    def _observe(self) -> Tensor:
        """The observations as things stand, [N, o]."""

    @abstractmethod
    def _save(self) -> dict[str, Tensor]:
        """What `state` holds besides the clocks."""

    @abstractmethod
    def _restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `_save` returned; the clocks are back already."""

    @abstractmethod
    def _look(self, index: int) -> Drawing | Tensor:
        """What `view` returns of an environment that exists."""

    def _successes(self) -> Tensor | None:
        """`Step.success` of the last step."""
        return None

    def reset(self, generator: torch.Generator, spread: bool = False) -> Tensor:
        """Begin all episodes; see `dipod.tasks.control.protocol.Environment.reset`."""
        everywhere = torch.ones(self.count, dtype=torch.bool, device=self.device)
        self._clock.zero_()
        self._begin(everywhere, generator)
        self._begun = True
        if spread:
            share = uniform_rows(generator, self.count)
            self._clock += (share * self.max_episode_length).long().to(self.device)
        return self._observe()

    def step(self, action: Tensor, generator: torch.Generator) -> Step:
        """Act; see `dipod.tasks.control.protocol.Environment.step`.

        Raises:
            UserError: actions of another shape, or no `reset` before.
        """
        require(self._begun, "environment", self.name, "call reset, or load_state, before the first step")
        right = (self.count, self.action_size)
        require(tuple(action.shape) == right, "action shape", tuple(action.shape), f"{self.name} takes {right}")
        before = self._observe() if self.on_error == "reset" else None
        reward, terminated, cut = self._advance(action.detach().to(self.device, self.dtype))
        self._clock += 1
        final, success, failed = self._observe(), self._successes(), None
        if before is not None:
            failed = ~(final.isfinite().all(-1) & reward.isfinite())
            final, reward = torch.where(failed[:, None], before, final), reward.masked_fill(failed, 0)
            terminated, cut = terminated & ~failed, cut | failed
        truncated = (cut | (self._clock >= self.max_episode_length)) & ~terminated
        ended = terminated | truncated
        self._clock.masked_fill_(ended, 0)
        self._begin(ended, generator)
        after = self._observe() if ended.any() else final
        return Step(after, reward, terminated, truncated, final, success, failed)

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs besides the generator, copied.

        Raises:
            UserError: no episode has begun.
        """
        require(self._begun, "environment", self.name, "call reset before state: no episode has begun")
        return {"clock": self._clock.clone(), **self._save()}

    def load_state(self, state: Mapping[str, Tensor]) -> Tensor:
        """Put back what `state` returned; returns the observations to act on next, [N, o].

        Raises:
            UserError: the state is of another kind or number of environments.
        """
        clock = state.get("clock", torch.empty(0))
        mend = f"{self.name} resumes {self.count} environments of its own kind; give the run's own settings"
        require(tuple(clock.shape) == (self.count,), "state clock shape", tuple(clock.shape), mend)
        self._clock = clock.to(self.device, copy=True)
        self._restore(state)
        self._begun = True
        return self._observe()

    def close(self) -> None:
        """Give back what is held open, such as a renderer; episodes are over."""
        self._begun = False

    def view(self, index: int) -> Drawing | Tensor:
        """Environment ``index`` for the eye: a drawing, or a frame [height, width, 3] uint8.

        Raises:
            UserError: there is no such environment, no episode has begun, or nothing to see it with.
        """
        require(0 <= index < self.count, "index", index, f"{self.name} has {self.count} environments, counted from 0")
        require(self._begun, "environment", self.name, "call reset before view: no episode has begun")
        return self._look(index)
