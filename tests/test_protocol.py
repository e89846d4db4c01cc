"""How a number was measured: two hashes are equal where nothing that an evaluation finds can differ."""

from __future__ import annotations

import pytest

from dipod.protocol import protocol_line
from dipod.recipes import language, load, overlay


def hash_with(**changes: object) -> str:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    config = language(overlay(load("countdown-tiny"), settings))
    return str(protocol_line(config, "cpu", 0)["protocol_hash"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task__rewards", "released"),
        ("task__parser", "d1"),
        ("task__overlong", "drop"),
        ("task__test_source", "mine.jsonl"),
        ("sampler__temperature", 0.5),
        ("trainer__evaluate_problems", 7),
    ],
)
def test_settings_that_an_evaluation_depends_on_change_the_hash(field: str, value: object) -> None:
    assert hash_with(**{field: value}) != hash_with()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task__train_source", "mine.jsonl"),
        ("task__held_back", 7),
        ("sampler__max_rows", 4),
        ("trainer__prompts", 7),
    ],
)
def test_settings_of_training_and_memory_do_not(field: str, value: object) -> None:
    assert hash_with(**{field: value}) == hash_with()
