"""A β that follows the measured gap and holds it at a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dipod.errors import at_least, not_negative, positive, require
from dipod.tightening.schedules import Stage, Tightening

LARGEST = 2.0
"""The logarithm of gap over target counts for no more than this, so that one bad measurement does no harm."""


@dataclass(frozen=True)
class AdaptiveConfig:
    """Tightening by the measured gap, for algorithms typed as ``base+adaptive`` or ``base+tolerance``.

    Attributes:
        target: the gap in nats an action that ``+adaptive`` holds, and above which ``+tolerance`` distils.
        every: updates between two measurements.
        rollouts: of an update's rollouts, how many the gap is measured on: the middle of its bracket, for flows the
            exact one.
        paths: decoding orders per rollout for the bracket of a masked model.
        rate: how far log β moves at a measurement for a gap of e times the target.
        damping: how far log β moves along when the gap grows by a factor of e; 0 for dual ascent alone, which swings
            where the gap answers slowly. Too much of either makes β swing without end (see `Adaptive`).
        least: β never falls below this.
        most: β never rises above this.
    """

    target: float = 0.5
    every: int = 5
    rollouts: int = 64
    paths: int = 4
    rate: float = 0.1
    damping: float = 0.5
    least: float = 0.01
    most: float = 10.0

    def __post_init__(self) -> None:
        positive(self, "adaptive", "target", "rate", "least")
        not_negative(self, "adaptive", "damping")
        at_least(self, "adaptive", 1, "every", "rollouts")
        at_least(self, "adaptive", 2, "paths")
        mend = f"give a number above adaptive.least ({self.least})"
        require(self.most > self.least, "adaptive.most", self.most, mend)


@dataclass(frozen=True)
class Adaptive(Tightening[Stage]):
    """Dual ascent on log β: at every measurement log β += rate·e + damping·(e - e before), with e = log(gap / target).

    β is the multiplier of the constraint E[gap] ≤ target under which A·log π is maximised; its logarithm keeps it
    positive and makes the rule the same in any unit of the advantage. On own rollouts the ELBO's gradient is, in
    expectation, that of minus the gap, so a larger β closes it. The damping is an augmented Lagrangian's penalty: β
    answers a growing gap at once instead of after many measurements. β stays within its bounds.

    Where the gap goes like 1/β, relaxing by 1/T of the way at each measurement (T ≥ 1), the loop is stable for rates
    below 4·T - 2·(1 + damping) and for none where that is negative: at T = 1, where the gap answers at once, below
    2·(1 - damping). It does not swing either for rates up to T·(1 - √(1 - (1 + damping)/T))², which is a little more
    than (1 + damping)² / (4·T), with damping up to T - 1: the slower the gap, the more damping. Where the gap goes like
    β^-s, s·rate and s·damping stand in for rate and damping: a gap that β hardly moves is not held by any rate, and one
    that falls steeply needs less of both.

    Attributes:
        start: β before the first measurement.
        config: target, rate and bounds.
    """

    start: float
    config: AdaptiveConfig

    def next_beta(self, step: int, beta: float | None, gap: float | None = None, before: float | None = None) -> float:
        """The last β, moved where update ``step`` has measured the gap."""
        config = self.config
        value = self.start if beta is None else beta
        if gap is not None and self.wants_gap(step):
            error = self._error(gap)
            change = 0.0 if before is None else error - self._error(before)
            value *= math.exp(config.rate * error + config.damping * change)
        return max(config.least, min(config.most, value))

    def _error(self, gap: float) -> float:
        """log(gap / target), of no more than `LARGEST`."""
        return max(-LARGEST, min(LARGEST, math.log(max(gap, 1e-12) / self.config.target)))

    def wants_gap(self, step: int) -> bool:
        """Every so many updates."""
        return step % self.config.every == 0

    def settled(self, step: int) -> bool:
        """Never: β follows the gap."""
        del step
        return False
