"""Runs in environments of the user's own: from Python and by commands, and what is measured of success and errors."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dipod import runs
from dipod.cli.main import main
from dipod.control.build import build_control_trainer
from dipod.control.config import ControlConfig
from dipod.control.evaluation import evaluate
from dipod.control.rollouts import Collector
from dipod.environments import configure, train
from dipod.errors import UserError
from dipod.parallel import start
from dipod.recipes import control, load, overlay, read_run_config, to_yaml
from dipod.report import read_runs
from dipod.report.tables import finals
from dipod.tasks.control import EnvironmentNote, OwnConfig, Step, WorldEpisodes, build_own
from tests.tasks.control import seeded
from tests.tasks.control.test_own import Reach

TOYS = "tests.tasks.control.toys"
SMALL: dict[str, Any] = {
    "algorithm": "fpopp",
    "policy.hidden": "8",
    "policy.critic_hidden": "8",
    "policy.sampling_steps": 3,
    "trainer.steps": 2,
    "trainer.save_every": 1,
    "trainer.environments": 4,
    "trainer.horizon": 6,
    "trainer.warmup_steps": 2,
    "trainer.evaluate_episodes": 3,
    "trainer.gap_actions": 0,
    "monitor.every": 0,
}


def test_an_object_in_python_is_a_run_that_every_command_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    report = train(folder, Reach(speed=0.2), SMALL)
    assert report.is_file()
    config = runs.read_config(folder)
    assert isinstance(config.task, OwnConfig)
    assert config.task.name == "tests.tasks.control.test_own:Reach"
    assert config.task.arguments["speed"] == 0.2
    assert not (folder / runs.COMPLETIONS).exists()
    page = re.sub(r"<script.*?</script>|<style.*?</style>|<pre.*?</pre>", " ", report.read_text(), flags=re.DOTALL)
    said = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "return, training" in said
    assert not re.search(r"(?i)completion|problem|prompt|token|solved|greedy|decod", said)
    with monkeypatch.context() as patch:
        patch.setattr("dipod.environments.write_report", lambda *_: report)
        assert train(folder, Reach(speed=0.2), SMALL) == report  # nothing is left to do
    with pytest.raises(UserError, match=r"folder = .* it holds a run with other settings"):
        train(folder, Reach(speed=0.3), SMALL)
    runs.train(folder, runs.Silent())
    capsys.readouterr()
    assert main(["eval", str(folder), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    assert main(["eval", str(folder), "--task", "sudoku"]) == 2
    assert "--task = 'sudoku': a control run is evaluated on its own task" in capsys.readouterr().err
    assert main(["export", str(folder), "--format", "torchscript", "--out", str(tmp_path / "p.pt")]) == 0
    assert "observations [N, 4] as Reach gives them, to actions [N, 2] as its step takes them, without" in (
        capsys.readouterr().out
    )
    assert main(["play", str(folder)]) == 2
    assert "Reach has no draw that works" in capsys.readouterr().err


def test_a_script_s_own_environment_is_found_in_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run says which file; one that does not guard its call would train whenever it is read, and is told."""
    text = "from tests.tasks.control.test_own import Reach\nclass Mine(Reach):\n    pass\n"
    script = tmp_path / "script.py"
    script.write_text(text)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script))
    mine = type("Mine", (Reach,), {"__module__": "__main__"})
    config = configure(mine, SMALL)
    assert config.task.name == f"{script.resolve()}:Mine"
    assert isinstance(config.task, OwnConfig)
    assert build_own(config.task, 2).name == "Mine"
    (tmp_path / "bad.py").write_text(f"{text}from dipod.environments import train\ntrain('run', Mine)\n")
    with pytest.raises(UserError, match=r"train = 'run': this file is being read .* call it under `if __name__"):
        configure(f"{tmp_path}/bad.py:Mine", SMALL) and build_own(OwnConfig(f"{tmp_path}/bad.py:Mine"), 2)
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    with pytest.raises(UserError, match="it is typed in; put it into a file"):
        configure(mine, SMALL)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (partial(Reach, 0.2), "give a class or function, at the top of a module"),
        (object(), "give a class or function, at the top of a module"),
        ("tests.tasks.control.test_own:Nothing", "has no Nothing"),
    ],
)
def test_what_nobody_could_find_again_is_refused(environment: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        train(tmp_path / "run", environment, SMALL)
    assert not (tmp_path / "run").exists()


def test_the_trainer_takes_environments_that_are_made_by_hand() -> None:
    config = configure("tests.tasks.control.test_own:Reach", SMALL)
    made: list[int] = []

    def make(count: int) -> WorldEpisodes:
        made.append(count)
        return WorldEpisodes(Reach(), count)  # type: ignore[arg-type]

    trainer = build_control_trainer(control(config), start(), make)
    assert made == [4, 3]
    assert trainer.collector.environment.name == "Reach"


def test_arguments_come_from_yaml_json_and_flags(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"inherits: track\ntask:\n  name: {TOYS}:Point\n  arguments:\n    goal: 0.5\n    reach: 0.1\n"
    )
    config = load(str(tmp_path / "mine.yaml"))
    assert config.task.arguments == {"goal": 0.5, "reach": 0.1}  # type: ignore[union-attr]
    changed = overlay(config, {"task.arguments.reach": "2e-1", "task.arguments.kind": "dense"})
    assert changed.task.arguments == {"goal": 0.5, "reach": 0.2, "kind": "dense"}  # type: ignore[union-attr]
    whole = overlay(load("halfcheetah"), {"task.arguments": '{"a": [1, null], "b": true}'})
    assert whole.task.arguments == {"a": [1, None], "b": True}  # type: ignore[union-attr]
    (tmp_path / "again.yaml").write_text(to_yaml(changed))
    assert read_run_config(tmp_path / "again.yaml") == changed
    for settings, named in (
        ({"task.arguments": "[1]"}, r"task.arguments = '\[1\]': give NAME: VALUE pairs"),
        ({"task.env_name": "reach-v3"}, "the environment's own arguments are --task.arguments.env_name"),
        ({"task.on_error": "ignore"}, "choose one of stop, reset"),
    ):
        with pytest.raises(UserError, match=named):
            overlay(load("halfcheetah"), settings)


def test_the_old_interface_is_refused_before_there_is_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    assert main(["train", "track", "--task.name", f"{TOYS}:OldStep", "--out", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert "step = 'returned 4 values': OldStep must give" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


class Still:
    """Acts by nothing at all, or by the same for ever."""

    def __init__(self, action: float = 0.0) -> None:
        self.action = action

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def act(self, observation: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, tuple[()]]:
        del generator
        return self.mode(observation), ()

    def mode(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.full((len(observation), 2), self.action)


@dataclass
class Recorded:
    """An environment whose steps are kept."""

    inner: Any
    steps: list[Step]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self, action: torch.Tensor, generator: torch.Generator) -> Step:
        self.steps.append(self.inner.step(action, generator))
        return self.steps[-1]


def test_success_is_the_share_of_episodes_in_which_it_was_said() -> None:
    """Counted by hand from the steps; a checkpoint in the middle of an episode does not forget what was said in it."""
    config = OwnConfig(f"{TOYS}:Point", arguments={"reach": 0.6})

    def recorded() -> Recorded:
        return Recorded(build_own(config, 5), [])

    environment = recorded()
    collector = Collector(environment)
    generator = seeded()
    collector.start(generator)
    for _ in range(5):
        collector.collect(Still(0.3), 7, generator)
    ended: list[float] = []
    running = [0.0] * 5
    for step in environment.steps:
        assert step.success is not None
        for i in range(5):
            running[i] = max(running[i], float(step.success[i]))
            if step.done[i]:
                ended.append(running[i])
                running[i] = 0.0
    assert 0 < sum(ended) < len(ended)
    assert collector.episodes()["success"] == pytest.approx(sum(ended) / len(ended))
    other = Collector(build_own(config, 5))
    other.load_state(collector.state())
    pairs = ((collector, generator), (other, generator.clone_state()))
    both = [(one.collect(Still(0.3), 5, numbers), one.episodes())[1] for one, numbers in pairs]
    assert both[0]["success"] == both[1]["success"]

    environment = recorded()
    found = evaluate(Still(1.0), environment, seed=2)
    first = torch.stack([step.success for step in environment.steps if step.success is not None])[:12]
    assert found["success_greedy"] == pytest.approx(float(first.amax(0).mean()))
    assert found["success_end_greedy"] == pytest.approx(float(first[-1].mean()))
    assert not first.amax(0).equal(first[-1])


def test_a_run_counts_successes_and_errors_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SMALL, "task.arguments": {"border": 0.0}, "task.on_error": "reset", "trainer.steps": 1}
    monkeypatch.setattr("dipod.environments.write_report", lambda *_: tmp_path)
    with pytest.warns(EnvironmentNote, match="Failing fails in its step"):
        train(tmp_path / "bad", f"{TOYS}:Failing", settings)
    last = runs.read_metrics(tmp_path / "bad")[-1]
    assert last["environment_errors"] > 0
    assert {"success", "success_sampled", "success_greedy"} <= last.keys()
    table = finals({"bad": read_runs([tmp_path / "bad"])})
    for head in ("success, training", "success, zero noise", "environment errors"):
        assert head in table
    plain = control(overlay(load("track"), {**SMALL, "task.name": "multigoal"}))
    assert isinstance(plain, ControlConfig)
    runs.create(tmp_path / "plain", plain)
    runs.train(tmp_path / "plain", runs.Silent())
    assert not [key for key in runs.read_metrics(tmp_path / "plain")[-1] if "success" in key or "errors" in key]


def test_an_evaluation_names_the_environment_that_gives_no_number() -> None:
    environment = build_own(OwnConfig(f"{TOYS}:Failing", arguments={"how": "nan", "border": -0.5}), 3)
    with pytest.raises(UserError, match=r"observation\[\d, 1\] = nan: environment \d of Failing gave a number"):
        evaluate(Still(), environment, seed=2)
