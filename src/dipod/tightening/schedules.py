"""The answers: off, regularise (Algorithm 2), interleave (Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from dipod.errors import require
from dipod.tightening.distillation import Distillation


class Tightening(Protocol):
    """What the trainer asks. β in force is part of the training state, so implementations stay immutable."""

    def next_beta(self, beta: float | None, gap: float | None) -> float:
        """β for the coming update, given the last one (None at first) and the gap if one was just measured."""
        ...

    def distillation_before(self, step: int) -> Distillation | None:
        """The self-distillation to run before update ``step`` (counted from 0), if any."""
        ...


@dataclass(frozen=True)
class Off:
    """The bare estimator: nothing keeps the bound tight."""

    def next_beta(self, beta: float | None, gap: float | None) -> float:
        """Always 0."""
        del beta, gap
        return 0.0

    def distillation_before(self, step: int) -> Distillation | None:
        """Never."""
        del step
        return None


@dataclass(frozen=True)
class Regularise:
    """Algorithm 2: add β·∇ELBO on the same rollouts to every update (paper eq. 7).

    Attributes:
        beta: in units of the advantage; a constant advantage shift on the ELBO.
    """

    beta: float

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta", self.beta, "give a number of at least 0 (0 switches DiPOD off)")

    def next_beta(self, beta: float | None, gap: float | None) -> float:
        """The constant β."""
        del beta, gap
        return self.beta

    def distillation_before(self, step: int) -> Distillation | None:
        """Never."""
        del step
        return None


@dataclass(frozen=True)
class Interleave:
    """Algorithm 1: self-distil on rollouts of the refreshed reference before every ``every`` (paper: n) updates.

    Attributes:
        every: policy updates between two stages.
        distillation: one stage.
    """

    every: int = 10
    distillation: Distillation = field(default_factory=Distillation)

    def __post_init__(self) -> None:
        require(self.every >= 1, "interleave.every", self.every, "give at least 1 policy update between two stages")

    def next_beta(self, beta: float | None, gap: float | None) -> float:
        """Always 0: the tightening happens between the updates."""
        del beta, gap
        return 0.0

    def distillation_before(self, step: int) -> Distillation | None:
        """A stage at steps 0, every, 2·every, ..."""
        return self.distillation if step % self.every == 0 else None
