"""Entropy and the share of unique actions, where both are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dipod.control.evaluation import measure_gap
from dipod.evaluation import evaluate
from dipod.likelihood.flow_exact import euler_log_prob
from dipod.noise import keyed_generator
from dipod.policies.gaussian import GaussianPolicy
from dipod.rollouts import unique_share
from dipod.trainer import Trainer
from tests.control.test_learning import parts
from tests.test_trainer import build


def uniform(**changes: object) -> Trainer:
    """A policy that puts each of the four digits into every empty cell with the same probability."""
    trainer = build(trainer__evaluate_problems=8, **changes)
    torch.nn.init.zeros_(trainer.policy.network.head.weight)  # type: ignore[union-attr, arg-type]
    if getattr(trainer.policy.network.head, "bias", None) is not None:
        torch.nn.init.zeros_(trainer.policy.network.head.bias)  # type: ignore[union-attr, arg-type]
    return trainer


@pytest.mark.parametrize(("exact", "kinds"), [(10, ("exact", "exact")), (0, ("upper_bound", "bracket"))])
def test_a_uniform_policy_has_the_logarithm_of_its_choices_a_token(exact: int, kinds: tuple[str, str]) -> None:
    trainer = uniform(trainer__exact_tokens=exact)
    assert trainer.held_out is not None
    given = (trainer.settings.sampler, trainer.config, trainer.processes)
    found = evaluate(trainer.policy, trainer.task, trainer.held_out, *given).metrics
    assert found["entropy"] == pytest.approx(math.log(4), rel=1e-5)
    looked = trainer.meter.look(trainer.collect("rollout"), trainer.settings.monitor, 0, 0.0).more
    assert looked["monitor_entropy"] == pytest.approx(math.log(4), rel=1e-5)
    assert (found["entropy_kind"], looked["monitor_entropy_kind"]) == kinds


def test_equal_actions_are_counted_once_in_their_group() -> None:
    assert unique_share([[1, 1, 1, 1], [1, 2, 3, 4], [5, 5, 6, 6]]) == pytest.approx((0.25 + 1 + 0.5) / 3)
    trainer = uniform()
    rollouts = trainer.collect("rollout")
    some = [tuple(ids[own].tolist()) for ids, own in zip(rollouts.action.ids, rollouts.counted, strict=True)]
    prints = rollouts.fingerprint.tolist()
    groups = [(some[i : i + 4], prints[i : i + 4]) for i in range(0, 12, 4)]
    assert [len(set(mine)) for mine, _ in groups] == [len(set(theirs)) for _, theirs in groups]
    assert float(trainer.train_step()["unique_share"]) == unique_share([mine for mine, _ in groups])
    same = replace(rollouts, counted=rollouts.counted & (torch.arange(rollouts.counted.shape[1]) < 1))
    assert len(set(same.fingerprint.tolist())) <= 4, "only tokens that count"


def test_a_gaussian_s_entropy_is_that_of_the_books() -> None:
    policy = GaussianPolicy(3, 2, (8,), spread=0.3, generator=keyed_generator(0))
    found = measure_gap(policy, torch.zeros(4000, 3), 0.005)
    assert found["entropy"] == pytest.approx(math.log(2 * math.pi * math.e * 0.3**2), abs=0.05)
    assert found["entropy_kind"] == "exact"


def test_where_no_density_can_be_believed_the_elbo_bounds_the_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _ = parts()
    observation = torch.randn(20, 4, generator=keyed_generator(1))
    exact = measure_gap(policy, observation, 0.005)
    assert exact["entropy"] == -float(exact["log_prob"])

    def unbelievable(*given: object) -> object:
        found = euler_log_prob(*given)  # type: ignore[arg-type]
        return replace(found, valid=torch.zeros_like(found.valid))

    monkeypatch.setattr("dipod.control.evaluation.euler_log_prob", unbelievable)
    found = measure_gap(policy, observation, 0.005)
    assert found == {"elbo": exact["elbo"], "entropy": -float(exact["elbo"]), "entropy_kind": "upper_bound"}
    assert float(found["entropy"]) > float(exact["entropy"])


def test_a_run_may_leave_angles_out() -> None:
    trainer = build(trainer__cosine_rollouts=0, monitor__aligned=0, monitor__budget=1.0)
    metrics = trainer.train_step()
    assert "monitor_gap" in metrics
    assert not {"cosine", "monitor_cosine"} & metrics.keys()
