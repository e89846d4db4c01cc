"""What is drawn: medians, bands, axes and colours, against independent computations."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from statistics import median

import numpy as np
import pytest
from numpy.typing import NDArray

from dipod.report import Run
from dipod.report.axes import SCALE, Axis, tick_texts, vertical
from dipod.report.figures import curves, overview, sweep
from dipod.report.palette import DARK, LIGHT, looks, sweep_looks
from dipod.report.panels import at_equal_cost, cost_panels, panels, sweep_panels
from tests.report.building import build_run, grouped, long_run, with_rows


def test_panels_take_only_what_was_measured_twice() -> None:
    assert set(panels(grouped([build_run("fpo", 0, 0.5, 1.0)]))) == {"reward", "solved_sampled", "solved_greedy", "gap"}


@pytest.mark.parametrize("seeds", [1, 2, 4, 5, 9])
def test_bands_reach_from_end_to_end_and_from_five_seeds_on_between_quartiles(seeds: int) -> None:
    finals = [float(1 + (3 * seed) % 10) for seed in range(seeds)]
    (series,) = panels(grouped([build_run("fpo", seed, 0.5, gap) for seed, gap in enumerate(finals)]))["gap"].series
    assert series.middle.y[-1] == median(finals)
    assert len(series.runs) == seeds
    if seeds == 1:
        assert not series.low
    elif seeds < 5:
        assert (series.low[-1], series.high[-1]) == (min(finals), max(finals))
    else:
        assert (series.low[-1], series.high[-1]) == pytest.approx(tuple(np.quantile(finals, [0.25, 0.75])))


def test_seeds_measured_at_different_steps_are_interpolated_where_all_have_begun() -> None:
    first = with_rows([{"step": s, "gap": 1.0 + s} for s in (0, 10, 20)], seed=0, trainer__steps=20)
    other = with_rows([{"step": s, "gap": 3.0 + s} for s in (5, 15)], seed=1, trainer__steps=20)
    (series,) = panels(grouped([first, other]))["gap"].series
    assert list(series.middle.x) == [5, 10, 15]
    assert list(series.middle.y) == pytest.approx([7, 12, 17])


def test_a_bracket_is_the_band() -> None:
    ends = {"monitor_gap_low": 1.0, "monitor_gap_high": 5.0, "monitor_gap_kind": "bracket"}
    run = with_rows([{"step": s, "monitor_gap": 2.0, **ends} for s in (0, 1)])
    panel = panels(grouped([run]))["monitor_gap"]
    assert (panel.series[0].low, panel.series[0].high) == ((1.0, 1.0), (5.0, 5.0))
    assert "bracket" in panel.unit


def test_every_gap_says_kind_unit_and_decoding() -> None:
    drawn = panels(grouped([build_run("fpo", 0, kind="exact"), build_run("spg", 0, kind="lower_bound")]))
    assert drawn["gap"].unit == "nats, exact or lower bound"
    assert "decoded in random order, one token a step, temperature 1" in drawn["gap"].note
    assert "of 8 tokens" in drawn["gap"].note
    assert drawn["gap"].log


def test_a_sweep_has_a_point_for_each_finished_run_and_the_median() -> None:
    found = [
        build_run("fpo", seed, 0.5, gap * (1 + seed), beta=beta)
        for beta, gap in ((0.0, 8.0), (0.1, 2.0))
        for seed in range(3)
    ]
    found.append(replace(going := build_run("fpo", 3, beta=0.1), metrics=going.metrics[:-1]))
    panel = sweep_panels(grouped(found))["gap"]
    assert [text for _, text in panel.ticks] == ["0.0", "0.1"]
    assert [sorted(run.y) for run in panel.series[0].runs] == [[8, 16, 24], [2, 4, 6]]
    assert list(panel.series[0].middle.y) == [16, 4]
    assert sweep_panels(grouped(found[:3])) == {}


def test_a_sweep_of_a_number_has_a_line_for_whatever_else_differs() -> None:
    cells = [(beta, scaled) for beta in (0.0, 0.1) for scaled in (False, True)]
    found = [build_run(gap=1.0 + beta + scaled, beta=beta, trainer__scale_advantages=scaled) for beta, scaled in cells]
    panel = sweep_panels(grouped(found))["gap"]
    assert [text for _, text in panel.ticks] == ["0.0", "0.1"]
    assert {s.label: s.middle.y for s in panel.series} == {
        "fpo scale_advantages=false": (1.0, 1.1),
        "fpo scale_advantages=true": (2.0, 2.1),
    }


def _costing(algorithm: str, rows: int, seed: int = 0, extra: int = 0) -> Run:
    steps = [{"step": s, "forward_rows": rows + (extra if s == 2 else 0)} for s in range(1, 5)]
    measured = {0: 0.1, 2: 0.4, 4: 0.6}
    with_gap = [{**row, **({"gap": measured[row["step"]]} if row["step"] in measured else {})} for row in steps]
    return with_rows([{"step": 0, "gap": 0.1}, *with_gap], algorithm, seed)


def test_what_updates_cost_is_an_axis_where_they_do_not_cost_the_same() -> None:
    plain, staged = _costing("fpo", 1_000_000), _costing("fpo+interleave", 1_000_000, extra=3_000_000)
    panel = cost_panels(grouped([plain, staged]))["gap_over_cost"]
    assert panel.across == "forward rows, millions"
    assert {s.label: s.middle.x for s in panel.series} == {"fpo": (0.0, 2.0, 4.0), "fpo+interleave": (0.0, 5.0, 7.0)}
    assert cost_panels(grouped([plain, _costing("fpo+dipod", 1_000_000)])) == {}
    silent = with_rows([{"step": 0, "gap": 0.1}, {"step": 4, "gap": 0.2}], "fpo+initial")
    assert cost_panels(grouped([plain, staged, silent])) == {}


def test_at_equal_cost_every_run_is_read_where_the_cheapest_ended() -> None:
    dear = _costing("fpo+interleave", 1_000_000, extra=3_000_000)
    found = [_costing("fpo", 1_000_000), _costing("fpo", 1_500_000, seed=1), dear]
    reached = at_equal_cost(cost_panels(grouped(found)))
    assert reached["at"] == 4.0
    assert reached["gap"]["fpo"] == pytest.approx([0.6, 0.4 + 0.2 / 3])
    assert reached["gap"]["fpo+interleave"] == pytest.approx([0.1 + 0.3 * 4 / 5])
    assert at_equal_cost({}) == {}


def test_figures_for_files_are_those_of_the_panels() -> None:
    groups = grouped([long_run("fpo", 0, 40), long_run("fpo+dipod", 0, 40)])
    drawn, styles = panels(groups), looks(list(groups))
    assert set(curves(drawn, styles)) == set(drawn)
    assert len(overview(drawn, styles)["overview"].axes) == 6
    assert sweep({}, styles) == {}


@pytest.mark.parametrize("log", [False, True])
def test_places_on_an_axis_keep_order_and_ticks_lie_on_it(log: bool) -> None:
    axis = Axis(0.013, 470.0, log)
    values = np.geomspace(0.013, 470.0, 50)
    places = [axis.place(float(value)) for value in values]
    assert (places[0], places[-1]) == (0, SCALE)
    assert places == sorted(places)
    assert 3 <= len(axis.ticks()) <= 8
    assert all(axis.low <= tick <= axis.high or tick == 0 for tick in axis.ticks())
    assert axis.place(1e9) == SCALE


def test_a_logarithmic_axis_bears_gaps_of_zero() -> None:
    drawn = panels(grouped([with_rows([{"step": s, "gap": g} for s, g in enumerate((0.0, 2.0, 3.0))])]))
    axis = vertical(drawn["gap"])
    assert axis.low < 0 < axis.linear == 2.0
    assert 0 < axis.place(0.0) < axis.place(1.0) < axis.place(2.0) < axis.place(3.0) < SCALE
    assert 0.0 in axis.ticks()
    assert "straight from there through zero" in drawn["gap"].note


def test_a_likelihood_that_is_known_stands_at_zero_and_a_negative_estimate_below() -> None:
    """PPO's gap is zero: its line is at the tick of zero, not at the smallest gap of another algorithm."""
    found = [with_rows([{"step": s, "gap": g} for s in (0, 1)], name) for name, g in (("fpo", 80.0), ("spg", 0.3))]
    found += [with_rows([{"step": s, "gap": g} for s, g in enumerate((0.0, -0.01))], "wd1")]
    panel = panels(grouped(found))["gap"]
    axis = vertical(panel)
    zero, least = axis.place(0.0), axis.place(0.3)
    assert axis.place(-0.01) < zero < least - 0.05 * SCALE
    assert least < axis.place(3.0) < axis.place(80.0)
    (drawn,) = curves({"gap": panel}, looks(list(grouped(found)))).values()
    axes = drawn.axes[0]
    low, high = axes.get_ylim()
    ends = axes.transData.transform([(0, low), (0, high)])[:, 1]
    for value in (-0.01, 0.0, 0.3, 3.0, 80.0):  # both figures of a panel put a value at the same place
        at = (axes.transData.transform((0, value))[1] - ends[0]) / (ends[1] - ends[0])
        assert SCALE * at == pytest.approx(axis.place(value), abs=1)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.99998, 0.99999, 1.0], ["0.99998", "0.99999", "1"]),
        ([0.0, 0.5, 1.0], ["0", "0.5", "1"]),
        ([12000.0, 12000.5, 12001.0], ["12,000.0", "12,000.5", "12,001.0"]),
        ([1e-05, 1000.0, 1e9], ["1e-05", "1,000", "1e+09"]),
    ],
)
def test_texts_at_an_axis_differ_where_its_values_do(values: list[float], texts: list[str]) -> None:
    assert tick_texts(values) == texts


def test_an_axis_shows_the_range_of_its_values_and_not_their_rounding() -> None:
    few = panels(grouped([with_rows([{"step": s, "solved_sampled": v} for s, v in enumerate((0.28, 0.36))])]))
    axis = vertical(few["solved_sampled"])
    assert axis.place(0.36) - axis.place(0.28) > 0.9 * SCALE
    same = panels(grouped([with_rows([{"step": s, "cosine": v} for s, v in enumerate((1.0, 1.0 - 1e-12))])]))
    axis = vertical(same["cosine"])
    assert axis.high - axis.low > 1e-3
    assert len(set(tick_texts(axis.ticks()))) == len(axis.ticks()) > 1


def test_an_algorithm_has_one_colour_on_every_page() -> None:
    pages = [["fpo", "fpo+dipod", "spg", "spg+dipod"], ["d1", "fpo", "fpo+dipod", "wd1"], ["fpo+dipod", "spg"]]
    pages += [["fpopp", "fpopp+dipod", "ppo"], ["fpo", "fpopp", "fpopp+dipod", "fpopp+initial", "ppo"], ["ppo"]]
    seen: dict[str, set[str]] = {}
    for names in pages:
        groups = list(grouped([build_run(name) for name in names]))
        for label, look in zip(groups, looks(groups), strict=True):
            seen.setdefault(label.algorithm, set()).add(look.light)
    assert {name: len(colours) for name, colours in seen.items()} == dict.fromkeys(seen, 1)
    swept = list(grouped([build_run("fpo+dipod", beta=beta) for beta in (0.1, 0.2, 0.3)]))
    assert {look.light for look in sweep_looks(swept)} == seen["fpo+dipod"]


SEEN = {  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def linear(colour: str) -> NDArray[np.float64]:
    share = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(("colours", "paper"), [(LIGHT, "#ffffff"), (DARK, "#15171c")])
def test_colours_differ_for_all_eyes_and_stand_out_from_the_paper(colours: tuple[str, ...], paper: str) -> None:
    luminance = np.array([0.2126, 0.7152, 0.0722])
    ground = float(linear(paper) @ luminance)
    for colour in colours:
        light, dark = sorted((float(linear(colour) @ luminance), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 2.95
    for eye in SEEN.values():
        places = [OKLAB @ np.cbrt(CONES @ np.clip(np.array(eye) @ linear(colour), 0, 1)) for colour in colours]
        assert min(float(np.linalg.norm(a - b)) for a, b in combinations(places, 2)) > 0.1


def test_labels_look_different_and_a_bare_estimator_beside_its_tightened_self_is_dashed() -> None:
    names = ["d1", "fpo", "fpo+dipod", "spg", "spg+dipod", "wd1", "wd1-positive", "espo", "gdpo", "coupled"]
    groups = grouped([build_run(name) for name in names])
    found = dict(zip((label.algorithm for label in groups), looks(list(groups)), strict=True))
    assert len({(look.light, look.dash) for look in found.values()}) == len(names)
    assert bool(found["fpo"].dash)
    assert not found["fpo+dipod"].dash
    ramp = looks(list(grouped([build_run("fpo", beta=b / 10) for b in range(9)])))
    assert len({look.light for look in ramp}) == len({look.dark for look in ramp}) == 9
