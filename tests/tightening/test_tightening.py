"""What each tightening answers, and the stage of self-distillation."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dipod.errors import UserError
from dipod.tightening import (
    Distillation,
    Initial,
    Interleave,
    Off,
    Regularise,
    Tightening,
    distil,
    parse_tightening,
)


def test_off_does_nothing() -> None:
    assert Off().next_beta(0, None, None) == 0
    off: Tightening[Distillation] = Off()
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
        "+interleave": Interleave(4, stage),
        "+initial": Initial(stage),
    }
    for suffix, answer in answers.items():
        assert parse_tightening(base + suffix, beta=0.3, ramp=5, every=4, stage=stage) == answer


@pytest.mark.parametrize("algorithm", ["fpo+", "fpo+magic", "fpo+DiPOD", "fpo+dipod+dipod"])
def test_unknown_tightenings_are_refused_with_the_choices(algorithm: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_tightening(algorithm, beta=0.3, ramp=0, every=4, stage=Distillation())
    assert f"algorithm = {algorithm!r}: " in str(caught.value)
    assert "choose fpo, fpo+dipod, fpo+interleave, fpo+initial" in str(caught.value)


def test_beta_may_grow_from_nothing() -> None:
    tightening = Regularise(0.8, ramp=4)
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
