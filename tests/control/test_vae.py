"""Latent-variable policies in the control loop: the same rows, tightenings, run folders and commands as flows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dipod import compare, runs
from dipod.cli import main
from dipod.control.algorithms import ControlObjective, table
from dipod.control.alignment import alignment_of
from dipod.control.build import build_control_policy, build_control_trainer, build_environment
from dipod.control.config import ControlConfig, ControlOptimiserConfig, ControlTrainerConfig, SelfDistillationConfig
from dipod.control.distillation import self_distil
from dipod.control.evaluation import measure_gap
from dipod.control.plan import plan
from dipod.control.play import load_policy, watch
from dipod.control.rollouts import Collector
from dipod.control.update import Learner
from dipod.errors import UserError
from dipod.noise import keyed_generator
from dipod.parallel import start
from dipod.policies.mlp import Perceptron
from dipod.policies.vae import VaePolicy
from dipod.recipes import control, load, overlay
from dipod.runs import Silent
from dipod.stopping import Interrupted
from dipod.tasks.control import make
from tests.test_trainer import StopAfter

TINY = {
    "trainer.steps": 4,
    "trainer.environments": 8,
    "trainer.horizon": 5,
    "trainer.epochs": 2,
    "trainer.mini_batches": 2,
    "trainer.warmup_steps": 3,
    "trainer.evaluate_every": 2,
    "trainer.evaluate_episodes": 4,
    "trainer.gap_actions": 4,
    "trainer.save_every": 2,
    "policy.hidden": "16,16",
    "policy.critic_hidden": "16",
    "policy.samples": 3,
    "distillation.iterations": 3,
    "distillation.batch": 8,
    "distillation.every": 2,
}


def tiny(algorithm: str = "fpo+dipod", **changes: object) -> ControlConfig:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return control(overlay(load("vae-bandit"), {**TINY, "algorithm": algorithm, **given}))


def policy(**changes: object) -> VaePolicy:
    config = tiny("fpo", **changes)
    made = build_control_policy(config, build_environment(config, 1))
    assert isinstance(made, VaePolicy)
    return made


TIGHTENINGS = ["fpo", "fpo+dipod", "fpopp", "fpopp+initial", "fpopp+interleave", "fpopp+adaptive", "ppo"]


@pytest.mark.parametrize("algorithm", TIGHTENINGS)
def test_an_interrupted_run_of_any_tightening_ends_as_one_that_was_not(tmp_path: Path, algorithm: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        runs.create(folder, tiny(algorithm))
    runs.train(one, Silent())
    with pytest.raises(Interrupted):
        runs.train(two, StopAfter("trained", 3))
    runs.train(two, Silent())
    for file in ("model", "policy", "tensors"):
        left, right = (load_file(f / runs.CHECKPOINTS / "step-4" / f"{file}.safetensors") for f in (one, two))
        assert left.keys() == right.keys()
        for name, tensor in left.items():
            assert torch.equal(tensor, right[name]), f"{file}: {name}"
    last = runs.read_metrics(one)[-1]
    assert last["gap_kind"] == "exact"
    assert (last["gap"] == 0) == (algorithm == "ppo")


@pytest.mark.parametrize("algorithm", ["fpo", "fpopp"])
def test_ratios_are_exactly_one_before_the_first_step(algorithm: str) -> None:
    mine = policy()
    objective, critic = ControlObjective(negative_loss_limit=0), Perceptron(2, 1, (8,), generator=keyed_generator(7))
    row = table(objective, "vae")[algorithm]
    one = ControlTrainerConfig(epochs=1, mini_batches=1)
    learner = Learner(mine, critic, row, one, objective, ControlOptimiserConfig())
    batch = learner.prepare(Collector(make("bandit", 16)).collect(mine, 4, keyed_generator(2)))
    evidence = mine.evidence(batch.observation, batch.action, batch.record)
    _, log_ratio = row.contributions(evidence, batch.old, batch.advantage)
    assert log_ratio.shape == ((64,) if algorithm == "fpo" else (64, 3))
    assert float(log_ratio.abs().max()) <= 1e-5


def angle(mine: VaePolicy, observation: Tensor, algorithm: str = "fpo") -> float:
    """Cosine of the update's angle on own actions, with advantages over a fresh critic."""
    row = table(ControlObjective(), "vae")[algorithm]
    critic = Perceptron(2, 1, (8,), generator=keyed_generator(7))
    learner = Learner(mine, critic, row, ControlTrainerConfig(), ControlObjective(), ControlOptimiserConfig())
    batch = learner.prepare(Collector(make("bandit", len(observation))).collect(mine, 1, keyed_generator(8)))
    found = alignment_of(mine, row, batch, keyed_generator(9))
    assert found is not None
    return found.cosine


def test_self_distillation_closes_the_gap_moves_log_prob_little_and_turns_the_update_to_the_policy_gradient() -> None:
    mine = policy(policy__hidden="32,32", policy__samples=8, policy__latent_scale=6.0)
    collector = Collector(make("bandit", 256))
    collector.start(keyed_generator(4))
    observation = collector.observation
    assert observation is not None
    before = measure_gap(mine, observation, 0.005)
    assert float(before["gap"]) > 1
    assert angle(mine, observation[:64]) < 0.8
    self_distil(mine, collector, SelfDistillationConfig(150, 1, 512, learning_rate=3e-3), 0.005, seed=0)
    after = measure_gap(mine, observation, 0.005)
    assert float(after["gap"]) < 0.1 * float(before["gap"])
    assert abs(float(after["log_prob"]) - float(before["log_prob"])) < 0.5
    assert angle(mine, observation[:64]) > 0.9


def test_information_is_nothing_where_the_decoder_ignores_the_latent() -> None:
    deaf = policy(policy__latent_scale=1e-9)
    found = measure_gap(deaf, torch.randn(64, 2, generator=keyed_generator(0)), 0.005)
    assert float(found["latent_information"]) == pytest.approx(0, abs=1e-6)
    assert float(found["gap"]) > 0


def test_what_a_vae_has_not_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for changes, complaint in (
        ({"algorithm": "ddpo"}, "algorithm = 'ddpo': choose a base from fpo, fpopp, ppo, or policy.kind flow"),
        ({"policy.latent": 3}, r"policy\.latent = 3: log π is an integral over it"),
        ({"policy.kind": "gan"}, "choose one of flow, vae"),
    ):
        with pytest.raises(UserError, match=complaint):
            runs.create(tmp_path / "run", overlay(tiny(), changes))
    assert not (tmp_path / "run").exists()


def test_a_vae_acts_in_any_control_task_and_plans_and_plays() -> None:
    config = control(overlay(load("track"), {"algorithm": "fpopp+dipod", "policy.kind": "vae", "task.dimensions": 3}))
    assert plan(config)["action_size"] == 3
    acting = tiny()
    moments = list(watch(load_policy(acting, None), build_environment(acting, 1), "sampled", 0, 3, 9))
    assert len(moments) == 6, "three episodes of one step"


def test_the_commands_train_measure_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{key}={value}" for key, value in TINY.items()]
    assert main(["train", "vae-bandit", "--out", str(tmp_path / "run"), "--json", *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["drift", str(tmp_path / "run"), "--last", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["gap"] == pytest.approx(printed["gap"])
    cells = compare.plan(tiny(), ["fpo+dipod", "ppo"], [0], tmp_path / "compare")
    for cell in cells:
        runs.create(cell.folder, cell.config)
        runs.train(cell.folder, Silent())
    result = compare.conclude(cells, tmp_path / "compare", 1.0)
    assert {"reward", "gap"} <= set(result["medians"]["fpo+dipod"])


def test_drift_is_watched_on_the_rollouts() -> None:
    trainer = build_control_trainer(tiny("fpo", monitor__every=1, monitor__budget=1.0), start())
    watched = [metrics for metrics in trainer.run() if "monitor_gap" in metrics]
    assert watched
    assert watched[0]["monitor_gap_kind"] == "exact"
    assert any("monitor_cosine" in metrics for metrics in watched)
