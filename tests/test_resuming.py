"""Runs that are resumed from elsewhere, with more updates, after files have changed or moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dipod import runs
from dipod.cli import main
from dipod.errors import UserError
from dipod.recipes import AnyConfig, control, language, load, overlay, settle
from dipod.resuming import extend
from dipod.runs import Silent
from dipod.tasks.text.config import TextConfig
from tests.checkpoints import write_tiny_llada
from tests.control.test_runs import tiny as tiny_control
from tests.test_export import TEXT
from tests.test_trainer import final_files, tiny, without_seconds

CONSTANT = {"optimiser__decay_from": 1.0, "optimiser__warmup": 3}


def run_of(folder: Path, config: AnyConfig) -> Path:
    runs.create(folder, config)
    runs.train(folder, Silent())
    return folder


@pytest.mark.parametrize("algorithm", ["spg+dipod", "fpo+interleave", "fpopp+interleave", "ppo"])
def test_an_extended_run_ends_as_one_with_so_many_updates_from_the_start(algorithm: str, tmp_path: Path) -> None:
    """With a constant learning rate: parameters, moments and all that a checkpoint holds, bit for bit."""
    flow = algorithm in ("fpopp+interleave", "ppo")
    settings = {"algorithm": algorithm} if flow else {"algorithm": algorithm, "beta_ramp": 4, **CONSTANT}

    def config(steps: int) -> AnyConfig:
        make = tiny_control if flow else tiny
        return make(trainer__steps=steps, trainer__save_every=0, trainer__evaluate_every=2, **settings)

    short, long = run_of(tmp_path / "short", config(3)), run_of(tmp_path / "long", config(5))
    assert extend(short, {"steps": "5"}) == ""
    assert runs.read_config(short).trainer.steps == 5
    runs.train(short, Silent())
    extended, whole = (
        {name: content for name, content in final_files(folder).items() if "state" not in name}
        for folder in (short, long)
    )
    assert extended.keys() == whole.keys()
    assert extended == whole
    rows = [without_seconds(runs.read_metrics(folder)) for folder in (short, long)]
    assert [row["reward"] for row in rows[0][1:]] == [row["reward"] for row in rows[1][1:]]


def test_a_schedule_that_depends_on_the_end_says_so(tmp_path: Path) -> None:
    """After 3 of 4 updates half of η is left over, and half again of what falls; of 8 nothing has fallen yet."""
    config = tiny(trainer__steps=4, optimiser__decay_from=0.5, optimiser__final_share=0.2, optimiser__warmup=0)
    run = run_of(tmp_path / "run", config)
    rate = config.optimiser.learning_rate
    note = extend(run, {"trainer.steps": 8})
    assert f"update 4 was {0.6 * rate:.2g} and that of the next is {rate:.2g}" in note
    assert "from 50% of all updates on (optimiser.decay_from)" in note
    assert extend(run, {"trainer.steps": 8}) == ""


def test_only_the_number_of_updates_may_change(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny(trainer__steps=2))
    before = (run / runs.CONFIG).read_text()
    with pytest.raises(UserError, match=r"beta = 9\.0: a resumed run keeps .* all but trainer\.steps"):
        extend(run, {"beta": 9, "steps": 4})
    with pytest.raises(UserError, match=r"trainer\.steps = 1: the run has done 2 updates"):
        extend(run, {"trainer.steps": "1"})
    with pytest.raises(UserError, match="did you mean steps"):
        extend(run, {"step": "4"})
    assert extend(run, {"seed": 0, "trainer.steps": 2}) == ""
    assert (run / runs.CONFIG).read_text() == before


def test_the_default_run_is_extended_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other settings say which run is meant."""
    monkeypatch.chdir(tmp_path)
    run_of(Path("runs/sudoku-fpo-seed3"), tiny(algorithm="fpo", seed=3, trainer__steps=1))
    assert main(["train", "sudoku", "--algorithm", "fpo", "--seed", "3", "--resume", "--steps", "2"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert [row["step"] for row in runs.read_metrics(run)] == [0, 1, 2]


def text_run(folder: Path) -> Path:
    """A run on files and a model of its own folder, named as from there."""
    write_tiny_llada(folder / "model")
    for name in ("train", "test"):
        rows = [{"question": f"{i}?", "answer": str(i)} for i in range(3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"task.name": "custom", "task.style": "chat", "task.rewards": "exact_answer", "task.max_prompt": 99}
    own |= {"task.train_source": "train.jsonl", "task.test_source": "test.jsonl", "task.parser": "strict"}
    config = language(overlay(load("sudoku"), {**TEXT, **own, "model.path": "model", "trainer.steps": 1}))
    return run_of(folder / "run", config)


def test_paths_survive_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the one the command is typed in, and of the one that everything lies in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = text_run(Path())
    config = language(runs.read_config(run))
    assert config.model.path == str(tmp_path / "here" / "model")
    monkeypatch.chdir("/")
    runs.train(tmp_path / "here" / "run", Silent())
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there" / "run"
    assert language(runs.read_config(moved)).model.path == str(tmp_path / "there" / "model")
    extend(moved, {"steps": 2})
    runs.train(moved, Silent())
    assert [row["step"] for row in runs.read_metrics(moved)] == [0, 1, 2]


def test_changed_problems_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = text_run(tmp_path)
    extend(run, {"steps": 2})
    before = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(before.replace("1?", "One?"))
    with pytest.raises(UserError, match=r"task\.train_source = .*train\.jsonl': it has changed since the run began"):
        runs.train(run, Silent())
    (tmp_path / "train.jsonl").write_text(before)
    runs.train(run, Silent())
    (tmp_path / "test.jsonl").write_text(before + "\n")
    extend(run, {"steps": 3})
    with pytest.raises(UserError, match=r"task\.test_source"):
        runs.train(run, Silent())
    (run / "inputs.json").unlink()
    runs.train(run, Silent())
    (run / "inputs.json").write_text("[]")
    with pytest.raises(UserError, match=r"inputs\.json': it cannot be read"):
        runs.train(run, Silent())


def test_sources_of_every_form_are_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl", "generate"):
        Path(name).touch()
    forms = {
        "a.jsonl": f"{tmp_path}/a.jsonl",
        "./a.jsonl*2,easy=b.jsonl*0.5,me/mine": f"{tmp_path}/a.jsonl*2, easy={tmp_path}/b.jsonl*0.5, me/mine",
        "openai/gsm8k": "openai/gsm8k",
        "generate": "generate",
        "": "",
    }
    for given, settled in forms.items():
        config = language(overlay(load("llada"), {"task.name": "countdown", "task.train_source": given}))
        task = language(settle(config)).task
        assert isinstance(task, TextConfig)
        assert task.train_source == settled
    assert control(settle(tiny_control())) == tiny_control()
