"""Acting, updating and self-distilling on a small world: ratios of one, exact resumption, and a gap that closes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dipod.control.algorithms import ControlObjective, table
from dipod.control.config import ControlOptimiserConfig, ControlTrainerConfig, SelfDistillationConfig
from dipod.control.distillation import Buffer, self_distil
from dipod.control.evaluation import evaluate, measure_gap
from dipod.control.rollouts import Collector, Trajectories
from dipod.control.update import Learner
from dipod.errors import UserError
from dipod.likelihood.flow import TimesConfig
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowPolicy, FlowSettings, make_flow
from dipod.policies.gaussian import GaussianPolicy
from dipod.policies.mlp import Perceptron
from dipod.tasks.control import Environment, make


def parts(acting: str = "flow", seed: int = 0, **settings: object) -> tuple[FlowPolicy | GaussianPolicy, nn.Module]:
    generator = keyed_generator(seed, "networks")
    flow = FlowSettings(**{"sampling_steps": 6, "times": TimesConfig(4), **settings})  # type: ignore[arg-type]
    policy = (
        GaussianPolicy(4, 2, (16,), generator=generator)
        if acting == "gaussian"
        else make_flow(4, 2, (16, 16), flow, generator, acting == "chain")
    )
    return policy, Perceptron(4, 1, (16,), generator=generator)


def points(count: int) -> Environment:
    """Point masses that reach a goal or run out of time within a few steps."""
    return make("multigoal", count, max_episode_length=9, radius=0.3)


def learner(acting: str, algorithm: str, **trainer: object) -> Learner:
    policy, critic = parts(acting)
    objective = ControlObjective()
    config = ControlTrainerConfig(**{"epochs": 1, "mini_batches": 1, **trainer})  # type: ignore[arg-type]
    return Learner(policy, critic, table(objective)[algorithm], config, objective, ControlOptimiserConfig())


@pytest.mark.parametrize(
    ("acting", "algorithm"), [("flow", "fpo"), ("flow", "fpopp"), ("chain", "ddpo"), ("gaussian", "ppo")]
)
def test_ratios_are_exactly_one_before_the_first_step_and_the_first_gradient_is_the_plain_one(
    acting: str, algorithm: str
) -> None:
    mine = learner(acting, algorithm)
    collector = Collector(points(16))
    mine.policy.normaliser.update(collector.collect(mine.policy, 5, keyed_generator(1)).observation)
    batch = mine.prepare(collector.collect(mine.policy, 8, keyed_generator(2)))
    evidence = mine.policy.evidence(batch.observation, batch.action, batch.record)
    values, log_ratio = mine.algorithm.contributions(evidence, batch.old, batch.advantage)
    assert float(log_ratio.abs().max()) <= 1e-6, "normalisers and parameters are those that acted"
    ratio_gradient = torch.autograd.grad(values.mean(), mine.policy.parameters(), retain_graph=True, allow_unused=True)
    proxy = mine.algorithm.proxy(evidence).reshape(len(batch), -1).mean(-1)
    plain = torch.autograd.grad((batch.advantage * proxy).mean(), mine.policy.parameters(), allow_unused=True)
    for one, other in zip(ratio_gradient, plain, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_an_update_reports_and_learns_and_moves_the_normaliser_only_at_its_end() -> None:
    mine = learner("flow", "fpopp", epochs=2, mini_batches=3)
    collector = Collector(points(16))
    seen = collector.collect(mine.policy, 9, keyed_generator(2))
    assert float(mine.policy.normaliser.count) == 0
    metrics = mine.update(seen, 0.01, keyed_generator(3))
    assert float(mine.policy.normaliser.count) == 9 * 16
    assert metrics["beta"] == 0.01
    assert {"value_loss", "grad_norm", "clip_fraction_positive", "clip_fraction_negative", "cfm_loss"} <= set(metrics)


def test_beta_adds_the_gradient_of_the_elbo_on_the_same_noise() -> None:
    """Gradients of the bare step, plus β times the gradient of minus the mean ELBO: eq. 7, to float32."""
    mine = learner("flow", "fpopp")
    mine.config = replace(mine.config, max_grad_norm=1e9)
    batch = mine.prepare(Collector(points(8)).collect(mine.policy, 4, keyed_generator(2)))
    parameters = list(mine.policy.parameters())
    elbo = mine.policy.evidence(batch.observation, batch.action, batch.record).elbo().mean()
    expected = torch.autograd.grad(elbo, parameters)
    start = [p.detach().clone() for p in mine.parameters]
    found = []
    for beta in (0.0, 0.3):
        mine._step(batch, beta, len(batch))
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        with torch.no_grad():
            for p, value in zip(mine.parameters, start, strict=True):
                p.copy_(value)
    for bare, with_beta, own in zip(*found, expected, strict=True):
        torch.testing.assert_close(with_beta - bare, -0.3 * own, rtol=1e-3, atol=1e-5)


def test_timeouts_keep_the_value_of_what_was_cut_off_and_the_released_way_takes_the_state_before() -> None:
    observation, final = torch.randn(2, 1, 2, 4, generator=keyed_generator(5))
    never, always = torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    seen = Trajectories(observation, torch.zeros(1, 2, 2), (), torch.full((1, 2), 2.0), never, always, final)
    for timeouts, state in (("final", final), ("released", observation)):
        mine = learner("gaussian", "ppo", trace=0.0, timeouts=timeouts)
        expected = 2 + 0.99 * mine.value(state).detach().flatten()
        torch.testing.assert_close(mine.prepare(seen).returns, expected)


def test_the_learning_rate_is_steered_by_how_far_the_policy_moves() -> None:
    mine = learner("flow", "fpopp")
    mine.config = replace(mine.config, target_change=1e-4)
    start = mine.learning_rate
    mine._steer(3e-4)
    assert mine.learning_rate == pytest.approx(start / 1.5)
    for change in (0.0, 1e-13, 1e-4):
        mine._steer(change)
    assert mine.learning_rate == pytest.approx(start / 1.5)
    mine._steer(1e-5)
    assert mine.learning_rate == pytest.approx(start)
    assert mine.optimiser.param_groups[0]["lr"] == mine.learning_rate


def test_collecting_goes_on_exactly_where_it_was_saved() -> None:
    policy, _ = parts()
    one, two = Collector(points(8)), Collector(points(8))
    one.collect(policy, 7, keyed_generator(1))
    two.load_state({name: value.clone() for name, value in one.state().items()})
    for _ in range(2):
        first, second = (c.collect(policy, 6, keyed_generator(2)) for c in (one, two))
        assert torch.equal(first.action, second.action)
        assert torch.equal(first.reward, second.reward)
    assert one.episodes() == two.episodes()
    assert one.transitions == two.transitions == 8 * 19


def test_a_buffer_forgets_the_oldest() -> None:
    buffer = Buffer(5)
    for start in (0, 3, 6):
        rows = torch.arange(start, start + 3)
        buffer.add(rows[:, None], rows)
    assert buffer.held == 5
    assert sorted(buffer.pick(torch.arange(5))[1].tolist()) == [4, 5, 6, 7, 8]
    buffer.add(torch.arange(10, 20)[:, None], torch.arange(10, 20))
    assert sorted(buffer.pick(torch.arange(5))[1].tolist()) == [15, 16, 17, 18, 19]


def test_self_distillation_closes_the_gap_and_leaves_the_policy_what_it_was() -> None:
    """A random network's own actions: the exact gap falls, their log-density does not move (paper's Algorithm 3)."""
    policy = make_flow(4, 2, (64, 64), FlowSettings(16, times=TimesConfig(16)), keyed_generator(3), output_scale=4.0)
    collector = Collector(points(64))
    collector.start(keyed_generator(4))
    observation = collector.observation
    assert observation is not None
    before = measure_gap(policy, observation, 0.005)
    assert float(before["gap"]) > 3
    rounds = self_distil(policy, collector, SelfDistillationConfig(300, 1, 512, learning_rate=3e-3), 0.005, seed=0)
    after = measure_gap(policy, observation, 0.005)
    assert float(after["gap"]) < 0.15 * float(before["gap"])
    assert abs(float(after["log_prob"]) - float(before["log_prob"])) < 0.4
    assert rounds[-1].actions == 300 * 64
    assert collector.transitions == 300 * 64


def test_a_stage_may_end_at_a_rate_of_nothing() -> None:
    for decay_from, rates in ((1.0, [1, 1, 1, 1]), (0.5, [1, 1, 1, 0.5]), (0.0, [1, 0.75, 0.5, 0.25])):
        stage = SelfDistillationConfig(4, learning_rate=1.0, decay_from=decay_from)
        assert [stage.rate(i) for i in range(4)] == rates
    with pytest.raises(UserError, match=r"distillation.decay_from"):
        SelfDistillationConfig(decay_from=1.5)


def test_beyond_so_many_dimensions_the_gap_is_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _ = parts()
    observation = torch.randn(200, 4, generator=keyed_generator(1))
    exact = measure_gap(policy, observation, 0.005)
    monkeypatch.setattr("dipod.control.evaluation.EXACT_DIMENSIONS", 1)
    estimate = measure_gap(policy, observation, 0.005)
    assert (exact["gap_kind"], estimate["gap_kind"], estimate["gap_valid"]) == ("exact", "estimate", 1.0)
    assert estimate["elbo"] == exact["elbo"]
    assert estimate["gap"] == pytest.approx(exact["gap"], abs=4 * float(estimate["gap_error"]))
    assert estimate["gap"] != exact["gap"]


def test_a_gaussian_has_no_gap_and_nothing_to_distil() -> None:
    policy, _ = parts("gaussian")
    collector = Collector(points(8))
    collector.start(keyed_generator(0))
    assert collector.observation is not None
    assert measure_gap(policy, collector.observation, 0.005)["gap"] == 0.0
    with pytest.raises(UserError, match="nothing to distil"):
        self_distil(policy, collector, SelfDistillationConfig(1), 0.005, 0)  # type: ignore[arg-type]


def test_evaluation_counts_first_episodes_only_and_repeats_itself() -> None:
    policy, _ = parts(perturbation=0.0)
    one = evaluate(policy, points(32))
    assert one == evaluate(policy, points(32))
    assert 0 < float(one["length_sampled"]) <= 9
    assert float(one["reward_sampled"]) <= float(one["length_sampled"])
