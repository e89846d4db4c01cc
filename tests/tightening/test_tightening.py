"""What each tightening answers, and the stage of self-distillation."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from dipod import two_token
from dipod.errors import UserError
from dipod.likelihood.masked import elbo_proxy
from dipod.tightening import (
    Adaptive,
    AdaptiveConfig,
    Distillation,
    Initial,
    Interleave,
    Off,
    Regularise,
    Tightening,
    Tolerance,
    distil,
    parse_tightening,
)


def test_off_does_nothing() -> None:
    off: Tightening[Distillation] = Off()
    assert off.next_beta(0, None, None) == 0
    assert not off.wants_gap(0)
    assert all(off.distillation_before(step) is None for step in range(3))


def test_regularise_keeps_beta_whatever_the_gap() -> None:
    tightening: Tightening[Distillation] = Regularise(0.2)
    assert [tightening.next_beta(0, None, None), tightening.next_beta(7, 0.2, 9.0)] == [0.2, 0.2]
    assert tightening.distillation_before(0) is None


def test_interleave_has_a_stage_before_every_n_updates() -> None:
    stage = Distillation(steps=3)
    tightening = Interleave(every=4, distillation=stage)
    due = [tightening.distillation_before(step) for step in range(9)]
    assert [step for step, d in enumerate(due) if d is stage] == [0, 4, 8]
    assert tightening.next_beta(3, None, 1.0) == 0


def test_initial_has_one_stage_before_the_first_update() -> None:
    stage = Distillation(steps=3)
    tightening = Initial(stage)
    due = [tightening.distillation_before(step) for step in range(5)]
    assert due[0] is stage
    assert due[1:] == [None] * 4
    assert [tightening.next_beta(0, None, None), tightening.next_beta(7, 0.2, 9.0)] == [0, 0]


@pytest.mark.parametrize("base", ["fpo", "spg-zero"])
def test_tightenings_are_read_from_the_name_of_the_algorithm(base: str) -> None:
    stage = Distillation(steps=3)
    answers: dict[str, Tightening[Distillation]] = {
        "": Off(),
        "+dipod": Regularise(0.3, 5),
        "+interleave": Interleave(stage, 4),
        "+initial": Initial(stage),
        "+adaptive": Adaptive(0.3, AdaptiveConfig(target=0.7)),
        "+tolerance": Tolerance(stage, target=0.7, every=5),
    }
    for suffix, answer in answers.items():
        assert parse_tightening(base + suffix, 0.3, 5, 4, stage, AdaptiveConfig(target=0.7)) == answer


@pytest.mark.parametrize("algorithm", ["fpo+", "fpo+magic", "fpo+DiPOD", "fpo+dipod+dipod"])
def test_unknown_tightenings_are_refused_with_the_choices(algorithm: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_tightening(algorithm, 0.3, 0, 4, Distillation(), AdaptiveConfig())
    assert f"algorithm = {algorithm!r}: " in str(caught.value)
    assert "choose fpo, fpo+dipod, fpo+interleave, fpo+initial" in str(caught.value)


def test_beta_may_grow_from_nothing() -> None:
    tightening: Regularise[Distillation] = Regularise(0.8, ramp=4)
    assert [tightening.next_beta(step, None, None) for step in (0, 1, 3, 9)] == pytest.approx([0.2, 0.4, 0.8, 0.8])
    with pytest.raises(UserError, match="beta_ramp = -1"):
        Regularise(0.8, ramp=-1)


@pytest.mark.parametrize("beta", [-0.1, float("nan")])
def test_impossible_beta_is_refused(beta: float) -> None:
    with pytest.raises(UserError, match="beta"):
        Regularise(beta)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"tolerance": -1.0}, {"learning_rate": 0.0}])
def test_impossible_stages_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"interleave.{next(iter(settings))}"):
        Distillation(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"interleave\.every = 0"):
        Interleave(every=0, distillation=Distillation())


def stage(distillation: Distillation, max_grad_norm: float = float("inf")) -> tuple[list[float], float]:
    """Maximise -x² from x = 1; returns the history and the final x."""
    x = torch.ones(1, requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=distillation.learning_rate)

    def ascend(step: int) -> float:
        del step
        x.square().sum().backward()
        return -float(x.detach().square())

    clip = partial(torch.nn.utils.clip_grad_norm_, [x], max_grad_norm)
    history = distil(ascend, clip, optimiser, distillation)
    return history, float(x.detach())


def test_a_stage_ascends_for_its_number_of_steps() -> None:
    history, x = stage(Distillation(steps=5, learning_rate=0.25))
    assert len(history) == 5
    assert history == sorted(history)
    assert x == pytest.approx(0.5**5)


def test_a_stage_ends_early_once_the_gain_falls_below_the_tolerance() -> None:
    history, _ = stage(Distillation(steps=500, tolerance=1e-3, learning_rate=0.1))
    assert 20 <= len(history) < 60
    gain = (sum(history[-10:]) - sum(history[-20:-10])) / 10
    assert gain < 1e-3


def test_a_stage_clips_the_gradient() -> None:
    _, x = stage(Distillation(steps=1, learning_rate=1.0), max_grad_norm=0.5)
    assert x == pytest.approx(0.5)


def test_beta_moves_with_the_logarithm_of_the_gap_within_its_bounds() -> None:
    tightening: Adaptive[Distillation] = Adaptive(
        0.4, AdaptiveConfig(target=0.5, every=2, rate=0.3, least=0.1, most=2.0)
    )
    assert tightening.next_beta(0, None, None) == 0.4
    assert tightening.next_beta(2, 0.4, 0.5) == pytest.approx(0.4)
    assert tightening.next_beta(2, 0.4, 0.5 * math.e**0.5) == pytest.approx(0.4 * math.exp(0.15))
    assert tightening.next_beta(2, 0.4, 0.5, 0.5 / math.e) == pytest.approx(0.4 * math.exp(0.5)), "it has grown"
    assert tightening.next_beta(2, 0.4, 1e9) == tightening.next_beta(2, 0.4, 1e6), "one wild gap does no harm"
    assert tightening.next_beta(3, 0.4, 9.0) == 0.4, "nothing was measured at an odd update"
    assert tightening.next_beta(2, 0.1, -0.2) == 0.1
    assert tightening.next_beta(2, 2.0, 9.0) == 2.0
    assert [tightening.wants_gap(step) for step in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("lag", [0, 3])
def test_beta_settles_where_the_gap_is_at_its_target(lag: int) -> None:
    """A gap proportional to 1/β that answers some updates later."""
    config = AdaptiveConfig(target=0.5, every=1, least=1e-3, most=1e3)
    tightening: Adaptive[Distillation] = Adaptive(0.01, config)
    betas, gaps = [0.01] * (lag + 1), []
    for step in range(200):
        gaps.append(0.2 / betas[-1 - lag])
        betas.append(tightening.next_beta(step, betas[-1], gaps[-1], gaps[-2] if step else None))
    assert 0.2 / betas[-1] == pytest.approx(0.5, rel=1e-3)


def swings(config: AdaptiveConfig, slowness: float, steepness: float = 1.0, steps: int = 240) -> list[float]:
    """Log(gap / target) at each measurement of a gap ~ β^-steepness that goes 1/slowness of the way at a time."""
    tightening: Adaptive[Distillation] = Adaptive(1.0, config)
    error, before, beta = 1e-3, None, 1.0
    errors = []
    for step in range(steps):
        errors.append(error)
        gap = config.target * math.exp(error)
        beta = tightening.next_beta(step, beta, gap, before)
        before = gap
        error += (-steepness * math.log(beta) - error) / slowness
    return errors


@pytest.mark.parametrize("slowness", [1.0, 1.5, 4.0, 10.0])
@pytest.mark.parametrize("damping", [0.0, 0.4])
@pytest.mark.parametrize("steepness", [1.0, 2.0])
def test_beta_s_loop_is_stable_up_to_the_rate_that_its_docstring_gives(
    slowness: float, damping: float, steepness: float
) -> None:
    """Rate < 4T - 2(1 + d), with s·rate and s·d for a gap like β^-s; from a thousandth away, far from any bound."""
    most = (4 * slowness - 2 * (1 + steepness * damping)) / steepness
    for share, stable in ((0.9, True), (1.1, False)):
        config = AdaptiveConfig(target=0.5, every=1, rate=share * most, damping=damping, least=1e-9, most=1e9)
        late = max(map(abs, swings(config, slowness, steepness)[-8:]))
        assert (late < 2e-4) if stable else (late > 5e-3)


def test_too_much_damping_is_unstable_at_any_rate() -> None:
    config = AdaptiveConfig(target=0.5, every=1, rate=0.01, damping=1.1, least=1e-9, most=1e9)
    assert max(map(abs, swings(config, 1.0)[-8:])) > 1


@pytest.mark.parametrize(("slowness", "damping"), [(2.0, 0.0), (4.0, 0.5), (10.0, 2.0)])
def test_beta_does_not_swing_below_the_lower_rate(slowness: float, damping: float) -> None:
    """Up to T(1 - √(1 - (1 + d)/T))², of which (1 + d)²/(4T) is the usual part, the error keeps its sign."""
    least, exact = (1 + damping) ** 2 / (4 * slowness), slowness * (1 - math.sqrt(1 - (1 + damping) / slowness)) ** 2
    assert least < exact
    for rate, swinging in ((least, False), (0.99 * exact, False), (2 * exact, True)):
        config = AdaptiveConfig(target=0.5, every=1, rate=rate, damping=damping, least=1e-9, most=1e9)
        signs = [error > 0 for error in swings(config, slowness)[:60] if abs(error) > 1e-12]
        turns = sum(a != b for a, b in pairwise(signs))
        assert (turns > 1) == swinging


def test_the_exact_gap_is_held_at_its_target_while_the_policy_improves() -> None:
    """On two tokens, where the bare estimator leaves a gap four times as wide."""
    config = AdaptiveConfig(target=0.01, every=1, rate=0.05, damping=2.0, least=1e-3, most=10.0)
    free = two_token.run(elbo_proxy)
    held = two_token.run(elbo_proxy, Adaptive(0.05, config))
    assert free.gap[-1] > 0.04
    assert max(abs(gap / 0.01 - 1) for gap in held.gap[750:]) < 0.25
    assert held.expected_return[-1] > free.expected_return[-1]


def test_a_stage_follows_a_gap_above_the_tolerance() -> None:
    stage = Distillation()
    tightening = Tolerance(stage, target=0.5, every=3)
    assert tightening.stage is stage
    assert [tightening.wants_gap(step) for step in range(4)] == [True, False, False, True]
    assert [tightening.distillation_before(step, 0.6) for step in range(5)] == [None, stage, None, None, stage]
    assert tightening.distillation_before(1, 0.4) is None
    assert tightening.distillation_before(1, None) is None


@pytest.mark.parametrize("settings", [{"target": 0.0}, {"rate": -1.0}, {"every": 0}, {"least": 3.0, "most": 2.0}])
def test_impossible_targets_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"adaptive\."):
        AdaptiveConfig(**settings)  # type: ignore[arg-type]
