"""Drift watched while a policy trains: when to look, at what price, and what to say about it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dipod.drift.gap import Gap
from dipod.drift.products import Alignment, Products, angles, pooled
from dipod.errors import at_least, require

GROWTH = 3.0
"""A gap that is surely more than this many times its reference is worth a warning."""
NEGLIGIBLE = 0.5
"""A gap that is not surely above this many nats is none, whatever it has grown from."""
SLANT = 45.0
"""Degrees to the policy gradient that are worth a warning."""
INTERVAL = 1.96
"""Standard errors on either side of a measured number."""
WINDOW = 3
"""Looks in a row whose median is a reference: one of them may be far off."""
ANGLES = 5
"""Last looks whose products are pooled for an angle: a single one is of a few rollouts."""
STUDENT = {3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % quantiles of Student's t for the mean of so many looks; fewer say nothing about an angle."""
ESTIMATOR, UPDATE, CHANGE = "estimator", "update", "change"
"""What is judged of angles: two cosines, and what β adds to the first to make the second."""


@dataclass(frozen=True)
class MonitorConfig:
    """How drift is watched on the rollouts that a policy is trained on; none of it changes the training.

    Attributes:
        every: updates between two looks; 0 never looks.
        budget: share of the training time that looking may take; a look that would come too early is left out, and
            with 1 none is.
        rollouts: of an update's rollouts, how many the gap is measured on; with 1 its error is not known, and nothing
            is said about growth.
        aligned: of them, how many gradients are compared on; 0 leaves the comparison out. Only a run of one process
            compares, and not under FSDP or DeepSpeed.
        paths: decoding orders per action of a masked model where it is too long for exactness.
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


@dataclass(frozen=True)
class Look:
    """What the monitor measures at an update, before it is made.

    Attributes:
        gap: of some of its rollouts; None where it cannot be had.
        alignment: of the bare estimator and of the update as made with the policy gradient; None where it was not
            measured.
        more: other metrics, by name.
    """

    gap: Gap | None
    alignment: Alignment | None = None
    more: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Beta:
    """What a warning must know of β.

    Attributes:
        value: in force at this update.
        usual: that of the run's settings, in force or not.
        settled: whether it stays as it is: it is not growing yet, does not follow the gap, and no stages tighten
            instead.
    """

    value: float
    usual: float
    settled: bool = True


@dataclass
class Watch:
    """What the monitor remembers; part of the training state, so all of it can be written as JSON.

    Attributes:
        looks: step, gap and its standard error of the last `WINDOW` looks.
        reference: what a gap is compared with, of the looks in a row whose intervals reach least far up: median gap,
            median upper end, first and last step, and how many looks; empty before the first.
        products: of the last `ANGLES` looks at gradients, as `dipod.drift.Products.numbers` has them.
    """

    looks: list[list[float]] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    products: list[list[float]] = field(default_factory=list)

    @staticmethod
    def of(saved: Mapping[str, Any]) -> Watch:
        """From what a checkpoint holds; those of versions that remembered the least of noisy looks begin anew."""
        return Watch(**{name: saved[name] for name in ("looks", "reference", "products") if name in saved})

    def note(self, gap: float, error: float, step: int) -> None:
        """Take in a look; one without a finite error is not remembered."""
        if not math.isfinite(gap + error):
            return
        self.looks = [*self.looks, [step, gap, error]][-WINDOW:]
        high = statistics.median(g + INTERVAL * e for _, g, e in self.looks)
        partial = not self.reference or self.reference[4] < WINDOW  # all looks so far stand in for a row of them
        if partial or high < self.reference[1]:
            centre = statistics.median(g for _, g, _ in self.looks)
            self.reference = [centre, high, self.looks[0][0], self.looks[-1][0], len(self.looks)]

    def turn(self, found: Alignment | None) -> Alignment | None:
        """Take in the gradients of a look, noisy or not; returns the angle to tell: this look's where it is exact.

        Else that of the last looks together, whose noise averages out.
        """
        if found is None or found.products is None:
            return found
        self.products = [*self.products, found.products.numbers()][-ANGLES:]
        return found if found.kind == "exact" else self.pooled(self.products)

    @staticmethod
    def pooled(products: Sequence[Sequence[float]]) -> Alignment:
        """The angle of some looks together."""
        return pooled([Products.read(numbers) for numbers in products])

    def mean(self, name: str) -> tuple[float, float]:
        """A cosine (or their difference) over the last looks, and the half width of its interval.

        The interval is the wider of two: by the noise of masks and orders, and by the jackknife over looks, which have
        rollouts of their own. NaN and infinity where there are too few looks, or these are below noise.
        """
        count = len(self.products)
        if count not in STUDENT:
            return math.nan, math.inf
        value, error = _judged(self.pooled(self.products), name)
        whole = torch.tensor(self.products, dtype=torch.float64)[:, 1:6]
        cosine, _, update = angles(whole.sum(0) - whole).unbind(-1)
        without = {ESTIMATOR: cosine, UPDATE: update, CHANGE: update - cosine}[name]
        scatter = (count - 1) / math.sqrt(count) * float(without.std())
        if not math.isfinite(value + error + scatter):
            return math.nan, math.inf
        return value, max(STUDENT[count] * scatter, INTERVAL * error)


def _judged(found: Alignment, name: str) -> tuple[float, float]:
    """One of `ESTIMATOR`, `UPDATE` and `CHANGE`, with its standard error."""
    if name == CHANGE:
        return found.update_cosine - found.cosine, math.hypot(found.update_error, found.cosine_error)
    return (found.cosine, found.cosine_error) if name == ESTIMATOR else (found.update_cosine, found.update_error)


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


def look(
    config: MonitorConfig,
    watch: Watch,
    spent: Spent,
    step: int,
    beta: Beta,
    measure: Callable[[], Look],
    agreed: Callable[[bool], bool],
) -> dict[str, float | int | str]:
    """What the monitor says at an update, where a look is due and within its budget; else nothing.

    Args:
        config: when one is due, and its budget.
        watch: what was seen before; this look is noted in it.
        spent: what looking has cost; this look is added.
        step: updates done.
        beta: β in force, and what becomes of it.
        measure: takes the look.
        agreed: what several processes make of the first one's clock.

    Returns:
        ``monitor_gap``, its kind, error and ends; ``monitor_cosine`` (the bare estimator's), ``monitor_drift_share``
        and, where β is not 0, ``monitor_update_cosine`` (the update's as made), of this look where they are exact and
        else of the last `ANGLES` together with ``_error``, and ``monitor_cosine_kind``; the look's other metrics;
        ``warning``; all as far as they could be measured.
    """
    if not config.every or step % config.every or not agreed(spent.affordable(config.budget)):
        return {}
    started = time.perf_counter()
    seen = measure()
    spent.seconds += time.perf_counter() - started
    spent.looks += 1
    gap = seen.gap
    if gap is None:
        return {}
    found: dict[str, float | int | str] = {
        "monitor_gap": gap.gap,
        "monitor_gap_kind": gap.kind,
        "monitor_gap_error": gap.error,
        **seen.more,
    }
    if gap.kind == "bracket" and gap.high is not None:
        found |= {"monitor_gap_low": gap.low, "monitor_gap_high": gap.high}
    angle = watch.turn(seen.alignment)
    if angle is not None:
        told = angle.numbers()
        if not beta.value:
            told = {name: value for name, value in told.items() if not name.startswith("update")}
        found |= {f"monitor_{name}": value for name, value in told.items()}
    said = warning(watch, gap, beta)
    watch.note(gap.gap, gap.error, step)
    return found | ({"warning": said} if said else {})


def warning(watch: Watch, gap: Gap, beta: Beta) -> str:
    """What a reader should know about a look, in words; empty where nothing is surely wrong.

    Args:
        watch: what was seen before; of angles, this look included.
        gap: of this look.
        beta: β in force, and what becomes of it.
    """
    grown = growth(watch.reference, gap)
    said = [text for text in (grown, *_slants(watch, beta)) if text]
    advice = _advice(watch, beta) if grown else ""
    return "; ".join([*said, *([advice] if advice else [])])


def growth(reference: Sequence[float], gap: Gap) -> str:
    """That the gap has grown, if the lower end of its interval is more than `GROWTH` times the reference's upper end.

    Args:
        reference: as in `Watch`.
        gap: of this look.
    """
    if not reference:
        return ""
    before, high, first, last, _ = reference
    least = gap.gap - INTERVAL * gap.error
    if not least > max(NEGLIGIBLE, GROWTH * high):
        return ""
    times = f" {gap.gap / before:.3g} times" if before > 0 else ""
    when = f"update {first:.0f}" if first == last else f"updates {first:.0f} to {last:.0f}"
    now = f"{gap.gap:.3g} ± {INTERVAL * gap.error:.2g}" if gap.error else f"{gap.gap:.3g}"
    return f"the gap has grown{times}: from {before:.2g} nats ({when}) to {now}"


def _slants(watch: Watch, beta: Beta) -> list[str]:
    """What of the estimator and the update as made is surely further than `SLANT` from the policy gradient."""
    names = {ESTIMATOR: "the estimator's gradient, without β,", UPDATE: "the update direction, β included,"}
    if not beta.value:
        names = {UPDATE: "the update direction"}
    found = []
    for name, words in names.items():
        mean, width = watch.mean(name)
        if mean + width < math.cos(math.radians(SLANT)):
            found.append(f"{words} is {degrees(mean):.0f} degrees off the policy gradient")
    return found


def _advice(watch: Watch, beta: Beta) -> str:
    """What a measurement supports where the gap has grown: a first β; or more, if it surely helps the direction.

    A β holds the gap in all our studies, but it may turn the update towards the policy gradient or away from it: a
    larger one is only advised where the update as made is surely better aligned than the estimator alone.
    """
    if not beta.settled:
        return ""
    if not beta.value:
        return f"consider +dipod with beta {beta.usual:.2g}" if beta.usual else "consider a beta above 0"
    change, width = watch.mean(CHANGE)
    if not change > width:
        return ""
    return f"consider a beta above {beta.value:.2g}: β turns the update towards the policy gradient"


def degrees(cosine: float) -> float:
    """The angle of a cosine; an estimate beyond ±1 counts as ±1."""
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
