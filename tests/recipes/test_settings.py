"""Settings: read, overlaid, written back, and refused with the field, the value and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipod.algorithms import ALGORITHMS
from dipod.config import OptimiserConfig, RunConfig
from dipod.control.config import ControlConfig
from dipod.errors import UserError
from dipod.recipes import (
    check,
    counted,
    fields,
    language,
    load,
    names,
    overlay,
    parse_algorithm,
    read_run_config,
    to_yaml,
)
from dipod.recipes.elsewhere import ELSEWHERE
from dipod.tightening import Interleave, Off, Regularise


def test_every_recipe_loads_and_goes_together() -> None:
    assert {"sudoku", "countdown-tiny", "gsm8k-llada-spg", "sudoku-3shot-llada-fpo-dipod"} <= set(names())
    for name in names():
        config = load(name)
        if isinstance(config, ControlConfig):
            check(config)
            continue
        parse_algorithm(config.algorithm, config)
        config.sampler.blocks_of(getattr(config.task, "completion_length", 8))
        if not config.model.path:
            check(config)


def test_settings_survive_a_round_trip(tmp_path: Path) -> None:
    config = overlay(load("sudoku"), {"beta": "0.25", "task.blanks": "6-10", "scale_advantages": "false"})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_run_config(tmp_path / "config.yaml") == config


def test_text_and_values_mean_the_same() -> None:
    typed = overlay(
        RunConfig(), {"trainer.steps": 7, "optimiser.learning_rate": 1e-4, "trainer.scale_advantages": False}
    )
    text = overlay(RunConfig(), {"steps": "7", "optimiser.learning_rate": "1e-4", "scale_advantages": "False"})
    assert typed == text
    assert typed.trainer.steps == 7


def test_bare_names_mean_the_first_field_of_that_name() -> None:
    changed = language(overlay(RunConfig(), {"steps": 3, "learning_rate": 0.5}))
    assert (changed.trainer.steps, changed.pretrain.steps) == (3, RunConfig().pretrain.steps)
    assert changed.optimiser.learning_rate == 0.5


def test_every_field_is_documented() -> None:
    assert [field.path for field in fields() if not field.about] == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bta": 1}, "field = 'bta': did you mean beta?"),
        ({"trainer.stps": 1}, "did you mean trainer.steps?"),
        ({"beta": -1}, "beta = -1.0: give a number of at least 0"),
        ({"beta": "much"}, "beta = 'much': give a number"),
        ({"corruption.samples": -1}, "corruption.samples = -1"),
        (
            {"corruption.scheme": "antithetic", "corruption.samples": 3},
            "corruption.samples = 3: antithetic pairs need an even number",
        ),
        ({"scheme": "all"}, "choose one of own, independent, antithetic, stratified"),
        ({"task.name": "chess"}, "task.name = 'chess': choose one of board, gsm8k"),
        ({"objective.kl_weight": 0.1}, "choose an estimator with objective.kl"),
        ({"steps": "1.5"}, "trainer.steps = '1.5': give a whole number"),
        ({"group_size": 1}, "trainer.group_size = 1"),
        ({"task.blanks": 17}, "task.blanks = '17'"),
        ({"task.format": "cells"}, "task.format = 'cells': choose one of blanks, grid"),
        ({"optimiser.learning_rate": 0}, "optimiser.learning_rate = 0.0"),
        ({"scale_advantages": "maybe"}, "give true or false"),
        ({"interleave.every": 0}, "interleave.every = 0"),
    ],
)
def test_refusals_name_field_value_and_mend(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        check(overlay(overlay(RunConfig(), {"algorithm": "fpo+interleave"}), settings))
    assert complaint in str(caught.value)


def test_sampler_must_fit_the_task() -> None:
    with pytest.raises(UserError, match=r"sampler\.block_length = 3: give a divisor of the completion length \(8\)"):
        check(overlay(RunConfig(), {"sampler.block_length": 3}))


@pytest.mark.parametrize("name", ["sudok", "nothing", "recipes/missing.yaml"])
def test_unknown_recipes_are_named(name: str) -> None:
    with pytest.raises(UserError, match="recipe = "):
        load(name)


@pytest.mark.parametrize("text", ["a: [", "just words", "nonsense: 3", "task: {blanks: 99}"])
def test_bad_recipe_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        load(str(path))


def test_algorithms_are_read_with_their_tightening() -> None:
    config = language(overlay(RunConfig(), {"beta": 0.3, "interleave.every": 5, "interleave.tolerance": 0.01}))
    row, off = parse_algorithm("fpo", config)
    assert (row.name, off) == (ALGORITHMS["fpo"].name, Off())
    row, added = parse_algorithm("spg+dipod", config)
    assert (row.name, added) == (ALGORITHMS["spg"].name, Regularise(0.3, config.beta_ramp))
    _, tightening = parse_algorithm("spg-zero+interleave", config)
    assert isinstance(tightening, Interleave)
    assert (tightening.every, tightening.distillation.tolerance) == (5, 0.01)


@pytest.mark.parametrize("text", ["ppo", "", "fpo+", "fpo+magic", "fpo+dipod+dipod"])
def test_unknown_algorithms_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="algorithm = "):
        parse_algorithm(text, RunConfig())


def test_learning_rate_warms_up_and_falls() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup=10, decay_from=0.5, final_share=0.2)
    rates = [config.rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.6)
    assert rates[99] == pytest.approx(0.2, abs=0.02)


def test_names_of_other_systems_get_ours() -> None:
    """Every name that is listed is not one of ours, and leads to a setting that there is."""
    known = {field.path for field in fields("gsm8k")}
    for name, ours in ELSEWHERE.items():
        with pytest.raises(UserError, match=rf"^field = '{name}': this is called {ours} here$"):
            overlay(load("gsm8k-llada-spg"), {name: 1})
        assert ours in known or ours in ("--out", "--resume")
    with pytest.raises(UserError, match=r"this is called trainer\.group_size here"):
        overlay(load("sudoku"), {"trainer.num_generations": 8})
    with pytest.raises(UserError, match="lists the settings"):
        overlay(load("track"), {"num_generations": 8})


def custom_yaml(folder: Path, trainer: str, name: str = "mine.yaml") -> str:
    rows = folder / "rows.jsonl"
    rows.write_text('{"question": "q", "answer": "a"}\n' * 10)
    task = f"task: {{name: custom, tokenizer: bytes, train_source: {rows}, test_source: {rows}, rewards: exact_answer}}"
    (folder / name).write_text(f"inherits: llada\n{task}\ntrainer: {{prompts: 4, {trainer}}}\n")
    return str(folder / name)


@pytest.mark.parametrize(("epochs", "steps"), [(2, 5), (1, 3), (0.4, 1), (0.1, 1), (2.5, 7)])
def test_epochs_are_so_many_steps(epochs: float, steps: int, tmp_path: Path) -> None:
    """Ten problems, four a step: every problem has come ``epochs`` times after the last step, and not a step before."""
    config = language(load(custom_yaml(tmp_path, f"epochs: {epochs}")))
    assert config.trainer.epochs == epochs
    known = language(counted(config))
    assert (known.trainer.steps, known.trainer.epochs) == (steps, 0)
    assert steps == 1 or (steps - 1) * 4 < epochs * 10 <= steps * 4
    assert counted(known) == known
    (tmp_path / "config.yaml").write_text(to_yaml(known))
    assert read_run_config(tmp_path / "config.yaml") == known


def test_steps_and_epochs_exclude_each_other(tmp_path: Path) -> None:
    above = custom_yaml(tmp_path, "epochs: 2")
    (tmp_path / "child.yaml").write_text("inherits: mine.yaml\ntrainer: {steps: 7}\n")
    child = language(load(str(tmp_path / "child.yaml")))
    assert (child.trainer.steps, child.trainer.epochs) == (7, 0)
    assert language(overlay(load(above), {"steps": 9})).trainer.epochs == 0
    assert language(overlay(child, {"epochs": 3})).trainer.epochs == 3
    with pytest.raises(UserError, match=r"trainer\.epochs = 3\.0: trainer\.steps = 9 is given as well; leave one"):
        overlay(child, {"epochs": 3, "steps": 9})
    with pytest.raises(UserError, match=r"trainer\.epochs = 2\.0: trainer\.steps = 3 is given as well"):
        load(custom_yaml(tmp_path, "epochs: 2, steps: 3"))
    for name in ("sudoku", "countdown-tiny"):
        with pytest.raises(UserError, match=r"trainer\.epochs = 2\.0: these problems are drawn without end"):
            counted(overlay(load(name), {"trainer.epochs": 2}))
    (tmp_path / "mine.yaml").write_text("inherits: track\ntrainer: {epochs: 3}\n")
    assert load(str(tmp_path / "mine.yaml")).trainer.steps == load("track").trainer.steps
