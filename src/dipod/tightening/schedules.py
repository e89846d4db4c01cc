"""The answers: off, regularise (Algorithm 2), interleave (Algorithm 1), initial (Algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from dipod.errors import at_least, require

Stage = TypeVar("Stage")


class Tightening(Generic[Stage]):
    """What a trainer asks; by itself the bare estimator. Immutable: β and the gap are part of the training state."""

    def next_beta(self, step: int, beta: float | None, gap: float | None = None, before: float | None = None) -> float:
        """β for update ``step`` (from 0), given the last one (None at first) and the last two gaps measured, if any."""
        del step, beta, gap, before
        return 0.0

    def wants_gap(self, step: int) -> bool:
        """Whether the gap of update ``step``'s rollouts is to be measured, before its β is asked for."""
        del step
        return False

    def distillation_before(self, step: int, gap: float | None = None) -> Stage | None:
        """The stage of self-distillation to run before update ``step`` (counted from 0), if any."""
        del step, gap
        return None

    def settled(self, step: int) -> bool:
        """Whether β at update ``step`` is what it will stay: it does not grow, follow the gap, or stand by stages."""
        del step
        return True

    @property
    def stage(self) -> Stage | None:
        """The stage that `distillation_before` may answer with."""
        return None


@dataclass(frozen=True)
class Off(Tightening[Stage]):
    """The bare estimator: nothing keeps the bound tight."""


@dataclass(frozen=True)
class Regularise(Tightening[Stage]):
    """Algorithm 2: add β·∇ELBO on the same rollouts to every update (paper eq. 7).

    Attributes:
        beta: in units of the advantage; a constant advantage shift on the ELBO.
        ramp: updates over which β grows linearly from nothing; 0 for the paper's constant β. A base model's bound is
            tight: it needs β only once RL has begun to loosen it, and a strong β delays that beginning.
    """

    beta: float
    ramp: int = 0

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta", self.beta, "give a number of at least 0 (0 switches DiPOD off)")
        require(self.ramp >= 0, "beta_ramp", self.ramp, "give a number of updates of at least 0")

    def next_beta(self, step: int, beta: float | None, gap: float | None = None, before: float | None = None) -> float:
        """β, or its share (step + 1) / ramp while it grows."""
        del beta, gap, before
        return self.beta * min(1.0, (step + 1) / max(self.ramp, 1))

    def settled(self, step: int) -> bool:
        """Once it has grown."""
        return step + 1 >= self.ramp


@dataclass(frozen=True)
class _Staged(Tightening[Stage]):
    """What distils between updates."""

    distillation: Stage

    def settled(self, step: int) -> bool:
        """Never: stages tighten in its place."""
        del step
        return False

    @property
    def stage(self) -> Stage:
        """The only one."""
        return self.distillation


@dataclass(frozen=True)
class Interleave(_Staged[Stage]):
    """Algorithm 1: self-distil on rollouts of the refreshed reference before every ``every`` (paper: n) updates.

    Attributes:
        distillation: one stage.
        every: policy updates between two stages.
    """

    every: int = 1

    def __post_init__(self) -> None:
        at_least(self, "interleave", 1, "every")

    def distillation_before(self, step: int, gap: float | None = None) -> Stage | None:
        """A stage at steps 0, every, 2·every, ..."""
        del gap
        return self.distillation if step % self.every == 0 else None


@dataclass(frozen=True)
class Initial(_Staged[Stage]):
    """Algorithm 3: one stage of self-distillation before the first update, then the bare estimator.

    Attributes:
        distillation: the stage.
    """

    def distillation_before(self, step: int, gap: float | None = None) -> Stage | None:
        """The stage at step 0."""
        del gap
        return self.distillation if step == 0 else None


@dataclass(frozen=True)
class Tolerance(_Staged[Stage]):
    """Algorithm 1 with a tolerance: a stage wherever the measured gap exceeds it, and only there.

    Attributes:
        distillation: one stage.
        target: the gap in nats that is tolerated.
        every: updates between two measurements; a stage may follow each of them.
    """

    target: float = 0.5
    every: int = 5

    def wants_gap(self, step: int) -> bool:
        """Every so many updates."""
        return step % self.every == 0

    def distillation_before(self, step: int, gap: float | None = None) -> Stage | None:
        """A stage after an update whose rollouts had a gap above the target."""
        measured = step > 0 and self.wants_gap(step - 1)
        return self.distillation if measured and gap is not None and gap > self.target else None
