"""Drift watched while a policy trains: when to look, at what price, and what to say about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dipod.drift.alignment import Alignment
from dipod.drift.gap import Gap
from dipod.errors import at_least, require

GROWTH = 3.0
"""A gap that has grown by this factor since its lowest is worth a warning."""
NEGLIGIBLE = 0.5
"""A gap below this many nats is none, whatever it has grown from."""
SLANT = 45.0
"""Degrees between update and policy gradient that are worth a warning."""


@dataclass(frozen=True)
class MonitorConfig:
    """How drift is watched on the rollouts that a policy is trained on; none of it changes the training.

    Attributes:
        every: updates between two looks; 0 never looks.
        budget: share of the training time that looking may take; a look that would come too early is left out, and
            with 1 none is.
        rollouts: of an update's rollouts, how many the gap is measured on.
        aligned: of them, how many gradients are compared on; 0 leaves the comparison out. Only a run of one process
            compares, and not under FSDP or DeepSpeed.
        paths: decoding orders per action where completions are too long for exactness.
        sketch: numbers that a gradient is projected to before it is compared; 0 keeps all of it.
    """

    every: int = 25
    budget: float = 0.05
    rollouts: int = 8
    aligned: int = 8
    paths: int = 4
    sketch: int = 0

    def __post_init__(self) -> None:
        at_least(self, "monitor", 0, "every", "aligned", "sketch")
        at_least(self, "monitor", 1, "rollouts")
        at_least(self, "monitor", 2, "paths")
        require(0 < self.budget <= 1, "monitor.budget", self.budget, "give a share of the time, from above 0 to 1")


@dataclass
class Watch:
    """What the monitor remembers; part of the training state.

    Attributes:
        lowest: the lowest gap seen, in nats; None before the first.
        lowest_step: when that was.
    """

    lowest: float | None = None
    lowest_step: int = 0

    def note(self, gap: float, step: int) -> None:
        """Remember a gap if it is the lowest so far."""
        if self.lowest is None or gap < self.lowest:
            self.lowest, self.lowest_step = gap, step


@dataclass
class Spent:
    """What looking has cost since training was started or resumed.

    Attributes:
        seconds: spent on looking.
        total: seconds of all updates, looking included.
        looks: how many there were.
    """

    seconds: float = 0.0
    total: float = 0.0
    looks: int = 0

    @property
    def share(self) -> float:
        """Share of the time spent on looking; 0 before the first update."""
        return self.seconds / self.total if self.total else 0.0

    def affordable(self, budget: float) -> bool:
        """Whether another look like those before stays within the budget; the first, and all at 1, are taken anyhow."""
        another = self.seconds / self.looks if self.looks else 0.0
        return budget >= 1 or self.seconds + another <= budget * self.total


def spread(total: int, count: int) -> Tensor:
    """Which of an update's rollouts are looked at: up to ``count`` places of ``total``, evenly spread."""
    count = min(total, count)
    return torch.arange(count) * total // max(count, 1)


Look = tuple[Gap | None, Alignment | None]
"""What the monitor measures, where it can be had."""


def look(
    config: MonitorConfig,
    watch: Watch,
    spent: Spent,
    step: int,
    beta: float,
    usual_beta: float,
    measure: Callable[[], Look],
    agreed: Callable[[bool], bool],
) -> dict[str, float | int | str]:
    """What the monitor says at an update, where a look is due and within its budget; else nothing.

    Args:
        config: when one is due, and its budget.
        watch: what was seen before; this look is noted in it.
        spent: what looking has cost; this look is added.
        step: updates done.
        beta: β in force.
        usual_beta: the β that a warning recommends where there is none.
        measure: the gap, and the alignment where there is one, of this update's rollouts.
        agreed: what several processes make of the first one's clock.

    Returns:
        ``monitor_gap``, its kind, error and ends, ``monitor_cosine``, ``monitor_drift_share`` and ``warning``, as far
        as they could be measured.
    """
    if not config.every or step % config.every or not agreed(spent.affordable(config.budget)):
        return {}
    started = time.perf_counter()
    gap, alignment = measure()
    if gap is None:
        return {}
    watch.note(gap.gap, step)
    found: dict[str, float | int | str] = {
        "monitor_gap": gap.gap,
        "monitor_gap_kind": gap.kind,
        "monitor_gap_error": gap.error,
    }
    if gap.kind == "bracket" and gap.high is not None:
        found |= {"monitor_gap_low": gap.low, "monitor_gap_high": gap.high}
    cosine = math.nan
    if alignment is not None:
        cosine = alignment.cosine
        found["monitor_cosine"] = cosine
        if not math.isnan(alignment.drift_share):
            found["monitor_drift_share"] = alignment.drift_share
    said = warning(watch, gap.gap, cosine, beta, usual_beta)
    spent.seconds += time.perf_counter() - started
    spent.looks += 1
    return found | ({"warning": said} if said else {})


def warning(watch: Watch, gap: float, cosine: float, beta: float, usual_beta: float) -> str:
    """What a reader should know about a look, in words; empty where nothing is wrong.

    Args:
        watch: what was seen before, this look included.
        gap: nats.
        cosine: between proxy gradient and policy gradient; NaN where it was not measured.
        beta: β in force.
        usual_beta: that of the run's settings, in force or not.
    """
    said = []
    lowest = gap if watch.lowest is None else watch.lowest
    grown = gap / max(lowest, NEGLIGIBLE / GROWTH)
    if gap > NEGLIGIBLE and grown >= GROWTH:
        said.append(f"the gap has grown {grown:.0f}x since step {watch.lowest_step}, to {gap:.2f} nats")
    degrees = math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) if not math.isnan(cosine) else 0.0
    if degrees > SLANT:
        said.append(f"the update direction is {degrees:.0f} degrees off the policy gradient")
    if not said:
        return ""
    more = usual_beta if beta == 0 else 2 * beta
    return "; ".join([*said, f"consider beta ≥ {more:.2g}"])
