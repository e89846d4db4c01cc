"""What is wrong with a YAML file is said with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipod.errors import UserError
from dipod.recipes import blamed, check, load, names, overlay


def complaint(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("beta: 0.1\ntrainer:\n  steps: many\n", 3, "trainer.steps = 'many': give a whole number"),
        ("beta: 0.1\nnonsense: 3\n", 2, "field = 'nonsense'"),
        ("trainer:\n  step: 3\n", 2, "did you mean"),
        ("beta: 0.1\n\nbeta: 0.2\n", 3, "keep this line or line 1"),
        ("inherits: sudoku\nbeta: -1\n", 2, "beta = -1.0"),
        ("beta: 0.1\ninherits: nothing\n", 2, "name another recipe or YAML file"),
        ("task:\n  blanks: [\n", 3, "not YAML"),
        ("- one\n- two\n", 1, "mapping"),
    ],
)
def test_the_line_is_named(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "mine.yaml"
    said = complaint(path, text)
    assert f"{path}:{line}" in said
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "{}\n"])
def test_a_file_without_settings_trains_nothing(tmp_path: Path, text: str) -> None:
    assert "it holds no settings" in complaint(tmp_path / "empty.yaml", text)


def test_a_line_of_the_parent_is_that_of_the_parents_file(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text("beta: 0.1\ntrainer: {steps: many}\n")
    assert f"{tmp_path / 'parent.yaml'}:2" in complaint(tmp_path / "child.yaml", "inherits: parent.yaml\nseed: 1\n")


def test_what_came_from_the_command_line_is_not_the_files_fault(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("inherits: sudoku\nsampler:\n  block_length: 3\n")
    for given, place in (({}, f"{path}:3: "), ({"sampler.block_length": 5}, "")):
        with pytest.raises(UserError) as caught:
            check(overlay(load(str(path)), given))
        said = str(blamed(caught.value, str(path), given))
        assert said.startswith(f"{place}sampler.block_length = ")


@pytest.mark.parametrize(
    ("name", "words"), [("mine.yaml", "no such file"), ("a/b", "no such file"), ("sudok", "sudoku")]
)
def test_a_missing_recipe_is_one_short_line(name: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 160
    assert sum(recipe in str(caught.value) for recipe in names()) <= 4
