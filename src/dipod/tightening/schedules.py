"""The answers: off, regularise (Algorithm 2), interleave (Algorithm 1), initial (Algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dipod.errors import UserError, require

Stage = TypeVar("Stage")
Stage_co = TypeVar("Stage_co", covariant=True)


class Tightening(Protocol[Stage_co]):
    """What the trainer asks. β in force is part of the training state, so implementations stay immutable."""

    def next_beta(self, step: int, beta: float | None, gap: float | None) -> float:
        """β for update ``step`` (from 0), given the last one (None at first) and the last gap measured, if any."""
        ...

    def distillation_before(self, step: int) -> Stage_co | None:
        """The stage of self-distillation to run before update ``step`` (counted from 0), if any."""
        ...


@dataclass(frozen=True)
class Off:
    """The bare estimator: nothing keeps the bound tight."""

    def next_beta(self, step: int, beta: float | None, gap: float | None) -> float:
        """Always 0."""
        del step, beta, gap
        return 0.0

    def distillation_before(self, step: int) -> None:
        """Never."""
        del step


@dataclass(frozen=True)
class Regularise:
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

    def next_beta(self, step: int, beta: float | None, gap: float | None) -> float:
        """β, or its share (step + 1) / ramp while it grows."""
        del beta, gap
        return self.beta * min(1.0, (step + 1) / max(self.ramp, 1))

    def distillation_before(self, step: int) -> None:
        """Never."""
        del step


@dataclass(frozen=True)
class Interleave(Generic[Stage]):
    """Algorithm 1: self-distil on rollouts of the refreshed reference before every ``every`` (paper: n) updates.

    Attributes:
        every: policy updates between two stages.
        distillation: one stage.
    """

    every: int
    distillation: Stage

    def __post_init__(self) -> None:
        require(self.every >= 1, "interleave.every", self.every, "give at least 1 policy update between two stages")

    def next_beta(self, step: int, beta: float | None, gap: float | None) -> float:
        """Always 0: the tightening happens between the updates."""
        del step, beta, gap
        return 0.0

    def distillation_before(self, step: int) -> Stage | None:
        """A stage at steps 0, every, 2·every, ..."""
        return self.distillation if step % self.every == 0 else None


@dataclass(frozen=True)
class Initial(Generic[Stage]):
    """Algorithm 3: one stage of self-distillation before the first update, then the bare estimator.

    Attributes:
        distillation: the stage.
    """

    distillation: Stage

    def next_beta(self, step: int, beta: float | None, gap: float | None) -> float:
        """Always 0."""
        del step, beta, gap
        return 0.0

    def distillation_before(self, step: int) -> Stage | None:
        """The stage at step 0."""
        return self.distillation if step == 0 else None


def parse_tightening(algorithm: str, beta: float, ramp: int, every: int, stage: Stage) -> Tightening[Stage]:
    """The tightening of an algorithm typed as ``base`` or ``base+tightening``.

    Args:
        algorithm: "fpo", "fpo+dipod" (Algorithm 2), "fpo+interleave" (Algorithm 1), "fpo+initial" (Algorithm 3).
        beta: β of Algorithm 2.
        ramp: updates over which it grows.
        every: n of Algorithm 1.
        stage: of Algorithms 1 and 3.

    Raises:
        UserError: a tightening that does not exist.
    """
    base, plus, name = algorithm.partition("+")
    known: dict[str, Tightening[Stage]] = {
        "": Off(),
        "dipod": Regularise(beta, ramp),
        "interleave": Interleave(every, stage),
        "initial": Initial(stage),
    }
    if name not in known or (plus and not name):
        choices = ", ".join(f"{base}+{other}" for other in known if other)
        raise UserError("algorithm", algorithm, f"choose {base}, {choices}")
    return known[name]
