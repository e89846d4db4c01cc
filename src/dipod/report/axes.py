"""From values to places on a figure, and the round values that are written beside an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, copysign, floor, log10

from dipod.report.panels import FLOOR, Panel

SCALE = 2000
"""Units of the plot's own coordinates, from edge to edge."""
MARGIN = 0.04
LEAST_SHARE = 1e-12
"""Of the largest value: what a logarithmic axis shows at least."""
LEAST_SPAN = 1e-3
"""Of the largest value: what a linear axis spans at least; less is rounding."""
NEAR_ZERO = 0.12
"""Share of a logarithmic axis that is given to values around zero, where there are any."""


@dataclass(frozen=True)
class Axis:
    """From values to places, 0 to `SCALE`.

    Attributes:
        low: value at place 0.
        high: value at the other end.
        log: whether places go with the logarithm.
        linear: of a logarithmic axis, the size up to which they go with the value itself, through zero; 0 for nowhere.
    """

    low: float
    high: float
    log: bool = False
    linear: float = 0.0

    @property
    def near(self) -> float:
        """Decades' worth of place from zero to `linear`."""
        return max(0.15, NEAR_ZERO * log10(max(self.high / self.linear, 1.0))) if self.linear else 0.0

    def forward(self, value: float) -> float:
        """What places are proportional to."""
        if not self.log:
            return value
        if not self.linear:
            return log10(value)
        size = abs(value) / self.linear
        return copysign(self.near * size if size <= 1 else self.near + log10(size), value)

    def place(self, value: float) -> int:
        """Where a value stands; values outside stand at the edge."""
        low, high, at = (self.forward(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return round(SCALE * (at - low) / (high - low))

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the axis, about ``count``."""
        if self.log and self.linear:
            below = [-value for value in _decades(self.linear, -self.low, 2)[::-1]] if -self.low > self.linear else []
            above = [value for value in _decades(self.linear, self.high, count - 1) if value > 1.5 * self.linear]
            return [*below, 0.0, self.linear, *above]
        if self.log and self.high / self.low > 5:
            return _decades(self.low, self.high, count)
        rough = (self.high - self.low) / count
        unit = 10.0 ** floor(log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        at = [i * step for i in range(first, last + 1)]
        return [value for value in at if self.low * (1 - 1e-12) <= value <= self.high or value == 0]


def _decades(low: float, high: float, count: int) -> list[float]:
    """Powers of ten from ``low`` to ``high``, or 1, 2 and 5 times them where few would fit."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    skipped = ceil(len(decades) / (count + 1))
    parts = (1, 2, 5) if high / low < 300 else (1,)
    at = [part * 10.0**d for d in decades if d % skipped == 0 for part in parts]
    return [value for value in at if low * (1 - 1e-12) <= value <= high]


def vertical(panel: Panel) -> Axis:
    """The vertical axis of a panel: all its lines, medians and bands, with a margin."""
    series = panel.series
    values = [v for s in series for line in (*s.runs, s.middle) for v in line.y]
    values += [v for s in series for v in (*s.low, *s.high)]
    low, high = min(values), max(values)
    if panel.log:
        positive = min((value for value in values if value >= FLOOR), default=FLOOR)
        if low < positive:
            return _through_zero(low, high, _round_below(max(positive, LEAST_SHARE * high)))
        low = max(low, LEAST_SHARE * high)
        factor = max(high / low, 2.0) ** MARGIN
        return Axis(low / factor, high * factor, log=True)
    low, high = (low if edge is None else edge for edge, low in zip(panel.limits, (low, high), strict=True))
    least = LEAST_SPAN * max(abs(low), abs(high)) or 1.0
    short = max(0.0, least - (high - low)) / 2
    low, high = low - short, high + short
    return Axis(low - MARGIN * (high - low), high + MARGIN * (high - low))


def _round_below(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above a value."""
    unit = 10.0 ** floor(log10(value))
    return max(part * unit for part in (1, 2, 5) if part * unit <= value * (1 + 1e-9))


def _through_zero(low: float, high: float, linear: float) -> Axis:
    """An axis whose values reach zero or below."""
    axis = Axis(min(low, 0.0), high, True, linear)
    span = axis.forward(axis.high) - axis.forward(axis.low)
    more = 10 ** (MARGIN * span)
    if -axis.low > linear:
        return Axis(axis.low * more, high * more, True, linear)
    return Axis(axis.low - linear * MARGIN * span / axis.near, high * more, True, linear)


def horizontal(panel: Panel) -> Axis:
    """The horizontal axis of a panel: the steps of all lines, or the places of a sweep."""
    if panel.ticks:
        return Axis(-0.5, len(panel.ticks) - 0.5)
    steps = [x for s in panel.series for line in s.runs for x in line.x]
    return Axis(min(steps), max(*steps, min(steps) + 1))


def tick_texts(values: Sequence[float]) -> list[str]:
    """Values as they stand at an axis: with as many digits as tell them apart."""
    for digits in range(4, 16):
        texts = [_text(value, digits) for value in values]
        if len(set(texts)) == len(set(values)):
            return texts
    return [repr(value) for value in values]


def _text(value: float, digits: int) -> str:
    return f"{value:,.{digits - 4}f}" if 1000 <= abs(value) < 1e6 else f"{value:.{digits}g}"
