"""What the trainer asks of an environment whose observations and actions are vectors.

An environment is a batch of N that are stepped together. It holds no generator: everything random comes from the one
that is passed in, so the same generator states give the same episodes. Numbers for its N rows are drawn by
`dipod.noise.draw_rows` and its kin: where several processes have a part of the environments each, every one then gets
other numbers, and the whole what one process would give it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from dipod.errors import Note

Role = Literal["body", "target", "scene"]
"""What a shape of a drawing is: the thing that acts, what it should do or reach, or what stands around it."""


class EnvironmentNote(Note):
    """Something about an environment that a run goes on with; the command line prints it once."""


@dataclass(frozen=True)
class Step:
    """What N actions led to. Where neither flag is set, ``final_observation`` equals ``observation``.

    Attributes:
        observation: [N, o], what to act on next: where an episode ended, the first of a new one.
        reward: [N].
        terminated: [N] bool, ended for good: nothing follows.
        truncated: [N] bool, cut, mostly by the time limit: what would have followed counts. Never with ``terminated``.
        final_observation: [N, o], the observation that the action itself led to.
        success: [N], whether the environment says that its task is done, 1 or 0, NaN where it does not say; None of a
            kind that never says.
        failed: [N] bool, episodes that were cut because of an error; None of a kind whose errors end the run.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor
    success: Tensor | None = None
    failed: Tensor | None = None

    @property
    def done(self) -> Tensor:
        """[N] bool, where an episode ended in either way."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class Line:
    """A polyline through ``points`` [P, 2], as thick as ``width`` in units of the plane (0: a hairline)."""

    points: Tensor
    role: Role = "body"
    width: float = 0.0


@dataclass(frozen=True)
class Circle:
    """A disc at ``centre`` [2]."""

    centre: Tensor
    radius: float
    role: Role = "body"


@dataclass(frozen=True)
class Drawing:
    """One environment at one moment, in plane coordinates.

    Attributes:
        bounds: (left, right, bottom, top) of what is worth showing.
        lines: drawn in order.
        circles: drawn above the lines, in order.
        equal: whether the axes share a scale.
    """

    bounds: tuple[float, float, float, float]
    lines: tuple[Line, ...] = ()
    circles: tuple[Circle, ...] = ()
    equal: bool = True


class Kind(Protocol):
    """What a kind of environment says of itself."""

    @property
    def name(self) -> str:
        """What it is called, in messages too."""
        ...

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        ...

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        ...

    @property
    def max_episode_length(self) -> int:
        """Steps after which an episode is truncated."""
        ...


class Environment(Kind, Protocol):
    """N environments. Actions are in units whose usual range is -1 to 1; the environment scales and clips them.

    One that has ``action_units`` (`dipod.tasks.control.units.ActionUnits`) says how, for policies that act without it.
    """

    @property
    def count(self) -> int:
        """N."""
        ...

    def reset(self, generator: torch.Generator, spread: bool = False) -> Tensor:
        """Begin all episodes and return the first observations [N, o].

        Args:
            generator: what everything random is drawn from.
            spread: draw the episodes' clocks uniformly from [0, max_episode_length), so that time limits do not strike
                everywhere in one step.
        """
        ...

    def step(self, action: Tensor, generator: torch.Generator) -> Step:
        """Act [N, a]; where an episode ends, the next one begins at once."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs besides the generator, copied, [N, ...] each."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> Tensor:
        """Put back what `state` returned; returns the observations to act on next, [N, o]."""
        ...

    def view(self, index: int) -> Drawing | Tensor:
        """Environment ``index`` for the eye: a drawing, or a frame [height, width, 3] uint8."""
        ...
