"""When the monitor looks, and what it says."""

from __future__ import annotations

import math

import pytest

from dipod.drift.monitor import MonitorConfig, Spent, Watch, warning
from dipod.errors import UserError


def test_looks_stop_where_the_budget_is_spent_and_go_on_when_there_is_room() -> None:
    spent = Spent()
    assert spent.affordable(0.05), "the first look is taken anyhow"
    spent.seconds, spent.total, spent.looks = 1.0, 39.0, 1
    assert not spent.affordable(0.05)
    spent.total = 40.0
    assert spent.affordable(0.05)
    spent.seconds, spent.looks = 2.0, 2
    assert spent.share == pytest.approx(0.05)
    assert not spent.affordable(0.05)
    assert spent.affordable(1.0), "nothing is left out"


def test_the_lowest_gap_is_remembered() -> None:
    watch = Watch()
    for step, gap in ((0, 0.5), (25, 0.2), (50, 3.0)):
        watch.note(gap, step)
    assert (watch.lowest, watch.lowest_step) == (0.2, 25)


def test_a_warning_says_what_has_grown_where_the_update_points_and_what_to_do() -> None:
    said = warning(Watch(0.5, 100), 3.0, math.cos(math.radians(50)), 0.0, 0.4)
    assert said == (
        "the gap has grown 6x since step 100, to 3.00 nats; "
        "the update direction is 50 degrees off the policy gradient; consider beta ≥ 0.4"
    )
    assert warning(Watch(0.5, 100), 3.0, math.nan, 0.3, 0.4).endswith("consider beta ≥ 0.6")


@pytest.mark.parametrize(("gap", "cosine"), [(0.45, 0.99), (0.6, math.nan), (1.4, 0.8)])
def test_nothing_is_said_of_what_is_all_right(gap: float, cosine: float) -> None:
    """A gap below half a nat is none, whatever it grew from."""
    lowest = 0.001 if gap < 0.5 else 0.5
    assert warning(Watch(lowest, 0), gap, cosine, 0.0, 0.4) == ""


@pytest.mark.parametrize("settings", [{"every": -1}, {"budget": 0.0}, {"rollouts": 0}, {"paths": 1}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"monitor.{next(iter(settings))}"):
        MonitorConfig(**settings)  # type: ignore[arg-type]
