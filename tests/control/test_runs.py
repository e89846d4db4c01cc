"""Control runs as users make them: settings, folders, resumption, comparison, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dipod import compare, runs
from dipod.cli import main
from dipod.control.config import ControlConfig
from dipod.control.plan import plan
from dipod.control.rollouts import Collector
from dipod.errors import UserError
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowSettings, make_flow
from dipod.recipes import check, control, language, load, overlay, read_run_config, to_yaml
from dipod.report import read_runs, write_report
from dipod.report.data import sentence
from dipod.runs import Silent
from dipod.stopping import Interrupted
from dipod.tasks.control import Environment, Step, make
from tests.test_trainer import StopAfter

TINY = {
    "threads": 1,
    "task.dimensions": 3,
    "task.max_episode_length": 20,
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
    "policy.sampling_steps": 4,
    "policy.samples": 3,
    "distillation.iterations": 3,
    "distillation.environment_steps": 2,
    "distillation.batch": 8,
    "distillation.every": 2,
}


def tiny(**changes: object) -> ControlConfig:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return control(overlay(load("track"), {**TINY, **given}))


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "fpopp+initial"},
        {"algorithm": "fpo+interleave", "optimiser__target_change": 1e-6},
        {"algorithm": "fpopp+dipod", "beta": 0.1, "task": "multigoal", "objective__entropy": 1e-3},
        {"algorithm": "ppo", "task": "pendulum", "trainer__average": 0.8, "trainer__average_from": 1},
        {"algorithm": "ddpo+dipod", "task": "cartpole-swingup"},
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, changes: dict[str, object]) -> None:
    given = {key: value for key, value in TINY.items() if not key.startswith("task.") or "task" not in changes}
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    config = overlay(load("track"), {**given, **changed})
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        runs.create(folder, config)
    runs.train(one, Silent())
    with pytest.raises(Interrupted):
        runs.train(two, StopAfter("trained", 3))
    runs.train(two, Silent())
    for file in ("model", "policy", "tensors"):
        left, right = (load_file(f / runs.CHECKPOINTS / "step-4" / f"{file}.safetensors") for f in (one, two))
        assert left.keys() == right.keys()
        for name, tensor in left.items():
            assert torch.equal(tensor, right[name]), f"{file}: {name}"
    rows = [runs.read_metrics(folder) for folder in (one, two)]
    assert [row["step"] for row in rows[0]] == [0, 1, 2, 3, 4]
    for first, second in zip(*rows, strict=True):
        timed = {key for key in first if "seconds" in key or key == "monitor_share"}
        assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


def test_settings_go_from_language_to_control_and_back_and_survive_a_round_trip(tmp_path: Path) -> None:
    config = overlay(load("sudoku"), {"task": "pendulum", "algorithm": "ppo", "seed": 3})
    assert isinstance(config, ControlConfig)
    assert (config.task.name, config.seed, config.trainer.horizon) == ("pendulum", 3, 24)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_run_config(tmp_path / "config.yaml") == config
    back = overlay(config, {"task": "sudoku", "algorithm": "fpo"})
    assert language(back).seed == 3
    with pytest.raises(UserError, match="this is for masked models"):
        language(config)
    with pytest.raises(UserError, match="this is for control policies"):
        control(load("sudoku"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"algorithm": "spg"}, "algorithm = 'spg': choose a base from fpo, fpopp, ddpo, ppo"),
        ({"algorithm": "fpopp+magic"}, r"choose fpopp, fpopp\+dipod, fpopp\+interleave, fpopp\+initial"),
        ({"algorithm": "ppo+initial"}, "there is no bound to tighten"),
        ({"trainer__mini_batches": 100}, "there are 40 transitions"),
        ({"device": "tpu"}, "it cannot be used here"),
        ({"task": "gymnasium", "task__id": "NoSuch-v1"}, "NoSuch"),
        ({"policy__sampling_steps": 0}, r"policy\.sampling_steps = 0"),
        ({"policy__hidden": "16;16"}, r"policy\.hidden"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    given = {k: v for k, v in TINY.items() if "task" not in changes or not k.startswith("task.")}
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    with pytest.raises(UserError, match=complaint):
        runs.create(tmp_path / "run", overlay(load("track"), {**given, **changed}))
    assert not (tmp_path / "run").exists()


def test_the_released_preset_brings_what_the_published_code_does() -> None:
    config = control(overlay(load("track"), {"algorithm": "fpopp", "preset": "released"}))
    trainer = config.trainer
    assert (trainer.timeouts, trainer.reshuffle, config.objective.reduction) == ("released", False, "sqrt")
    check(config)


def test_a_plan_counts_what_a_run_does(tmp_path: Path) -> None:
    config = tiny()
    found = plan(config)
    runs.create(tmp_path / "run", config)
    runs.train(tmp_path / "run", Silent())
    last = runs.read_metrics(tmp_path / "run")[-1]
    parts = ("warmup_transitions", "transitions", "distillation_transitions")
    assert last["transitions"] == sum(found[part] for part in parts)
    assert found["gradient_steps"] == 4 * 2 * 2
    weights = load_file(tmp_path / "run" / runs.CHECKPOINTS / "step-4" / "model.safetensors")
    trained = [w for name, w in weights.items() if name.startswith("policy.network.layers")]
    assert found["policy_parameters"] == sum(w.numel() for w in trained)


def test_a_comparison_needs_no_bases_and_its_report_says_what_happened(tmp_path: Path) -> None:
    cells = compare.plan(tiny(), ["fpopp", "ppo"], [0, 1], tmp_path)
    assert [cell.name for cell in cells] == ["fpopp, seed 0", "fpopp, seed 1", "ppo, seed 0", "ppo, seed 1"]
    for cell in cells:
        runs.create(cell.folder, cell.config)
        runs.train(cell.folder, Silent())
    result = compare.conclude(cells, tmp_path, 1.0)
    assert {"reward", "gap", "episode_length"} <= set(result["medians"]["fpopp"])
    found = read_runs([tmp_path])
    assert "medians over 2 seeds: fpopp from" in sentence(found)
    page = write_report([tmp_path], tmp_path / "page").read_text()
    assert "return, zero noise" in page
    assert "solved" not in page


def test_the_command_line_trains_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{key}={value}" for key, value in TINY.items()]
    assert main(["train", "track", "--dry-run", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["environment"] == "track"
    assert main(["train", "track", "--out", str(tmp_path / "run"), "--json", *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["gap_kind"] == "exact"
    assert Path(printed["report"]).exists()


def test_drift_measures_every_checkpoint_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.create(tmp_path, tiny(trainer__evaluate_every=2))
    runs.train(tmp_path, Silent())
    assert main(["drift", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == [2, 4]
    measured = {row["step"]: row for row in runs.read_metrics(tmp_path)}
    for row in rows:
        assert row["gap"] == pytest.approx(measured[row["step"]]["gap"])
    assert main(["drift", str(tmp_path), "--last", "--actions", "6"]) == 0
    assert "nats, exact" in capsys.readouterr().out
    assert main(["drift", str(tmp_path / "nothing")]) == 2
    assert "give the folder of a run" in capsys.readouterr().err
    assert main(["drift", str(tmp_path), "--paths", "4"]) == 2
    assert "--paths = 4: a control policy decodes no tokens" in capsys.readouterr().err


def test_eval_acts_whole_episodes_of_the_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.create(tmp_path, tiny())
    runs.train(tmp_path, Silent())
    assert main(["eval", str(tmp_path), "--json"]) == 0
    found, last = json.loads(capsys.readouterr().out), runs.read_metrics(tmp_path)[-1]
    for key in ("reward_sampled", "reward_greedy", "length_greedy", "gap"):
        assert found[key] == pytest.approx(last[key])
    assert main(["eval", str(tmp_path), "--problems", "2", "--seed", "1"]) == 0
    assert "2 episodes of track" in capsys.readouterr().out
    assert main(["eval", str(tmp_path), "--lengths", "4"]) == 2
    assert "evaluated on its own task" in capsys.readouterr().err


class Broken:
    """An environment whose third reward is not a number."""

    def __init__(self, whole: Environment) -> None:
        self.whole, self.steps = whole, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.whole, name)

    def step(self, action: Tensor, generator: torch.Generator) -> Step:
        self.steps += 1
        found = self.whole.step(action, generator)
        bad = found.reward.clone()
        bad[2] = float("nan")
        return replace(found, reward=bad) if self.steps == 3 else found


def test_a_reward_that_is_no_number_is_named() -> None:
    policy = make_flow(4, 2, (8,), FlowSettings(3))
    collector = Collector(Broken(make("multigoal", 4)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"reward\[2\] = nan"):
        collector.collect(policy, 5, keyed_generator(0))
