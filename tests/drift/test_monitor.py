"""When the monitor looks, and what it says: rarely of noise, always of growth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pytest
import torch

from dipod.drift import Alignment, Gap, Products
from dipod.drift.monitor import Beta, Look, MonitorConfig, Spent, Watch, look, warning
from dipod.errors import UserError
from dipod.tightening import Adaptive, AdaptiveConfig, Initial, Off, Regularise, Tightening

ACTIONS, LOOKS = 8, 20
ALONE = Beta(0.0, 0.4)
CONFIG = MonitorConfig(every=1, budget=1.0)


def gap_of(mean: float, error: float = 0.0) -> Gap:
    return Gap(mean, "exact", -3.0, mean, mean, error, error)


def angle(cosine: float, update: float | None = None, error: float = 0.0) -> Alignment:
    """A look at unit gradients with these cosines to the policy gradient, and one standard error of both."""
    made = cosine if update is None else update
    whole = torch.tensor([1.0, 1.0, cosine, 1.0, made], dtype=torch.float64)
    noise = torch.diag(torch.tensor([0.0, 0.0, error**2, 0.0, error**2], dtype=torch.float64))
    return Products(whole, noise, "estimate" if error else "exact").alignment()


def watched(looks: Sequence[Look], beta: Beta = ALONE) -> list[str]:
    """What is said at each of some looks in a row."""
    watch, spent = Watch(), Spent()
    said = [look(CONFIG, watch, spent, i, beta, lambda seen=seen: seen, bool) for i, seen in enumerate(looks)]  # type: ignore[misc]
    return [str(found.get("warning", "")) for found in said]


def drawn(rng: np.random.Generator, mean: float, shape: float) -> Gap:
    """The gap over a look's actions, each of which has a gamma-distributed one: the smaller the shape, the longer."""
    each = rng.gamma(shape, mean / shape, ACTIONS)
    return gap_of(float(each.mean()), float(each.std(ddof=1) / math.sqrt(ACTIONS)))


def shaken(rng: np.random.Generator, cosine: float, noise: float) -> Alignment:
    """A cosine as looks of a few rollouts scatter it."""
    return angle(float(np.clip(rng.normal(cosine, noise), -1, 1)))


def rate(series: Callable[[], list[Look]], count: int = 100) -> float:
    """Share of series in which anything is said."""
    return sum(any(watched(series())) for _ in range(count)) / count


@pytest.mark.parametrize("mean", [0.085, 0.6, 5.0])
@pytest.mark.parametrize("shape", [0.3, 1.0])
def test_a_fixed_policy_is_hardly_ever_warned_of(mean: float, shape: float) -> None:
    """Twenty looks of eight actions: their gaps are scattered as long as an exponential's tail and longer."""
    rng = np.random.default_rng(0)
    assert rate(lambda: [Look(drawn(rng, mean, shape), shaken(rng, 0.88, 0.15)) for _ in range(LOOKS)]) < 0.05


def test_a_gap_that_truly_grows_is_warned_of_and_so_is_an_update_that_truly_turns() -> None:
    rng, gaps = np.random.default_rng(1), np.geomspace(0.03, 10, LOOKS)
    assert rate(lambda: [Look(drawn(rng, gap, 1.0)) for gap in gaps]) > 0.95
    assert rate(lambda: [Look(gap_of(0.1), shaken(rng, 0.3, 0.25)) for _ in range(LOOKS)]) > 0.95


def test_the_ratio_is_that_of_the_numbers_beside_it() -> None:
    said = watched([Look(gap_of(g, 0.01)) for g in (0.030, 0.032, 0.034, 3.0)])
    assert said[:3] == ["", "", ""]
    assert said[3] == (
        "the gap has grown 93.8 times: from 0.032 nats (updates 0 to 2) to 3 ± 0.02; consider +dipod with beta 0.4"
    )
    assert "grown: from 0 nats" in watched([Look(gap_of(0.0)), Look(gap_of(1.0))])[1]


def test_one_look_that_is_off_neither_is_a_reference_nor_hides_one() -> None:
    low = watched([Look(gap_of(g, 0.1)) for g in (1.0, 1.1, 0.9, 0.0, 1.0, 1.2, 1.1, 1.0)])
    assert not any(low), "the zero in the middle is noise"
    high = watched([Look(gap_of(g, 0.1)) for g in (0.1, 9.0, 0.1, 0.1, 3.0)])
    assert "from 0.1 nats" in high[-1]


def test_what_may_be_noise_is_not_said() -> None:
    assert not any(watched([Look(gap_of(g, 0.6 * g)) for g in (0.1, 0.1, 0.1, 6.0)])), "6 ± 7"
    assert not any(watched([Look(gap_of(g, math.inf)) for g in (0.1, 0.1, 6.0)])), "one action has no error"
    assert not any(watched([Look(gap_of(0.1), angle(0.2)) for _ in range(2)])), "two looks say nothing of an angle"
    assert not any(watched([Look(gap_of(g)) for g in (0.01, 0.01, 0.01, 0.45)])), "half a nat is no gap"


def test_estimator_and_update_are_told_apart() -> None:
    looks = [Look(gap_of(0.1), angle(0.9 + 0.001 * i, 0.3 + 0.001 * i)) for i in range(4)]
    said = watched(looks, Beta(3.0, 3.0))[-1]
    assert said == "the update direction, β included, is 72 degrees off the policy gradient"
    said = watched([Look(gap_of(0.1), angle(0.3 + 0.001 * i, 0.9)) for i in range(4)], Beta(3.0, 3.0))[-1]
    assert said == "the estimator's gradient, without β, is 72 degrees off the policy gradient"
    assert "update direction" not in said
    assert watched([Look(gap_of(0.1), angle(0.3)) for _ in range(4)])[-1].startswith("the update direction is 73")


@pytest.mark.parametrize(
    ("alone", "made", "beta", "advice"),
    [
        (0.9, 0.9, ALONE, "consider +dipod with beta 0.4"),
        (0.9, 0.9, Beta(0.0, 0.0), "consider a beta above 0"),
        (0.83, 0.95, Beta(1.5, 1.5), "consider a beta above 1.5: β turns the update towards the policy gradient"),
        (0.83, 0.60, Beta(1.5, 1.5), ""),
        (0.83, 0.95, Beta(0.3, 1.5, settled=False), ""),
        (0.9, 0.9, Beta(0.0, 0.4, settled=False), ""),
    ],
)
def test_advice_is_given_where_a_measurement_supports_it(alone: float, made: float, beta: Beta, advice: str) -> None:
    looks = [Look(gap_of(0.1 if i < 4 else 5.0), angle(alone + 0.001 * i, made + 0.001 * i)) for i in range(5)]
    grown = watched(looks, beta)[-1]
    assert grown.startswith("the gap has grown 50 times")
    assert grown.partition("; consider")[2] == advice.partition("consider")[2]
    still = watched([Look(gap_of(0.1), seen.alignment) for seen in looks], beta)[-1]
    assert "consider" not in still, "an angle alone is no reason for another β"


@pytest.mark.parametrize(
    ("tightening", "settled"),
    [
        (Off(), (True, True)),
        (Regularise(0.4), (True, True)),
        (Regularise(0.4, ramp=100), (False, True)),
        (Adaptive(0.4, AdaptiveConfig()), (False, False)),
        (Initial(None), (False, False)),
    ],
)
def test_beta_is_settled_where_it_stays(tightening: Tightening[None], settled: tuple[bool, bool]) -> None:
    assert (tightening.settled(0), tightening.settled(99)) == settled


def test_memory_is_written_as_json_and_read_again_and_an_older_one_begins_anew() -> None:
    watch = Watch()
    for i, gap in enumerate((0.5, 0.2, 3.0, 0.4)):
        watch.note(gap, 0.1, i)
        watch.turn(angle(0.9))
    again = Watch.of(json.loads(json.dumps(asdict(watch), allow_nan=False)))
    assert again == watch
    assert warning(again, gap_of(9.0), ALONE) == warning(watch, gap_of(9.0), ALONE) != ""
    assert Watch.of({"lowest": 0.2, "lowest_step": 25}) == Watch.of({}) == Watch()


def test_a_look_says_error_and_both_cosines() -> None:
    seen = Look(gap_of(0.1, 0.02), angle(0.9, 0.5), {"monitor_entropy": 0.3})
    found = look(CONFIG, Watch(), Spent(), 0, Beta(0.4, 0.4), lambda: seen, bool)
    told = {"monitor_gap": 0.1, "monitor_gap_kind": "exact", "monitor_gap_error": 0.02, "monitor_entropy": 0.3}
    angles = {"monitor_cosine": 0.9, "monitor_update_cosine": 0.5, "monitor_cosine_kind": "exact"}
    assert found == pytest.approx({**told, **angles, "monitor_drift_share": math.sqrt(0.2)})
    assert "monitor_update_cosine" not in look(CONFIG, Watch(), Spent(), 0, ALONE, lambda: seen, bool)


def test_noisy_looks_are_pooled_also_those_that_are_below_noise_alone() -> None:
    rng, watch, found = np.random.default_rng(0), Watch(), {}
    for i in range(5):
        whole = torch.from_numpy(rng.normal([1.0, 1.0, 0.9, 1.0, 0.9], 0.6))
        seen = Products(whole, 0.36 * torch.eye(5, dtype=torch.float64), "estimate").alignment()
        found = look(CONFIG, watch, Spent(), i, ALONE, lambda seen=seen: Look(gap_of(0.1), seen), bool)  # type: ignore[misc]
        if i == 0:
            assert found["monitor_cosine_kind"] == "below noise"
            assert "monitor_cosine" not in found
    assert found["monitor_cosine_kind"] == "estimate"
    assert float(found["monitor_cosine"]) == pytest.approx(0.9, abs=3 * float(found["monitor_cosine_error"]))


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


@pytest.mark.parametrize("settings", [{"every": -1}, {"budget": 0.0}, {"rollouts": 0}, {"paths": 1}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"monitor.{next(iter(settings))}"):
        MonitorConfig(**settings)  # type: ignore[arg-type]
