"""From settings to a run: what cannot work is said before anything is written, loaded or decoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.policies.lora import base_network
from dipod.recipes import build_policy, build_task, build_trainer, check, language, load, overlay
from dipod.tasks.text import task as text_task
from tests.checkpoints import llada_settings, write_tiny_llada

GOOD = {"question": "1 + 1?", "answer": "#### 2"}


def config(folder: Path, rows: list[dict[str, str]], **changes: object) -> RunConfig:
    """A run of a tiny model on its own file of problems."""
    if not (folder / "model").exists():
        write_tiny_llada(folder / "model", shards=2)
    for name, content in ("train", rows), ("test", [GOOD]):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    sources = {f"task.{name}_source": str(folder / f"{name}.jsonl") for name in ("train", "test")}
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return language(overlay(load("gsm8k-llada-spg"), {"model": str(folder / "model"), **sources, **given}))


def test_what_goes_together_passes(tmp_path: Path) -> None:
    check(config(tmp_path, [GOOD]))
    check(config(tmp_path, [GOOD], model__lora_rank=0, model__dtype="float64", task__overlong="error"))


@pytest.mark.parametrize(
    ("rows", "changes", "complaint"),
    [
        ([GOOD, {"question": "1?"}], {}, r"train\.jsonl line 2 = \['question'\]: add the column answer"),
        ([GOOD], {"task__train_source": "none.jsonl"}, r"file = 'none\.jsonl': it cannot be read"),
        ([GOOD], {"task__test_source": "none.jsonl"}, r"file = 'none\.jsonl': it cannot be read"),
        ([GOOD], {"model__lora_targets": "query"}, r"lora\.targets = 'query': choose from attn_out"),
        ([GOOD], {"model__load_in_4bit": True, "model__lora_rank": 0}, r"load_in_4bit = True: train adapters"),
    ],
)
def test_problems_and_adapters_are_looked_at(
    rows: list[dict[str, str]], changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        check(config(tmp_path, rows, **changes))


def test_without_evaluations_no_test_problems_are_wanted(tmp_path: Path) -> None:
    check(config(tmp_path, [GOOD], task__test_source="none.jsonl", trainer__evaluate_problems=0))


def test_files_of_the_model_are_looked_at(tmp_path: Path) -> None:
    settings = config(tmp_path, [GOOD])
    (tmp_path / "model" / "config.json").write_text(json.dumps(llada_settings(mlp_hidden_size=64)))
    with pytest.raises(UserError, match=r"has shape \[.*48.*\], other sizes than config.json says \(.*64"):
        check(settings)
    (tmp_path / "model" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors': this shard is missing"):
        check(settings)


def test_training_problems_without_a_prompt_are_found_before_the_first_evaluation(tmp_path: Path) -> None:
    settings = config(tmp_path, [{**GOOD, "question": "x" * 600}], trainer__steps=1)
    task = build_task(settings)
    with pytest.raises(UserError, match=r"task\.max_prompt = 512: every train prompt is longer"):
        build_trainer(settings, build_policy(settings, task), task)


def test_the_tokenizer_is_of_the_models_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def note(name: str, revision: str | None = None) -> None:
        asked.append((name, revision))

    monkeypatch.setattr(text_task, "load_tokenizer", note)
    settings = language(load("gsm8k-llada-spg"))
    build_task(settings)
    build_task(replace(settings, model=replace(settings.model, revision="v2")))
    assert asked == [("GSAI-ML/LLaDA-8B-Instruct", None), ("GSAI-ML/LLaDA-8B-Instruct", "v2")]


def test_gradient_checkpointing_reaches_every_kind_of_network(tmp_path: Path) -> None:
    named = config(tmp_path, [GOOD], model__gradient_checkpointing=True)
    small = language(overlay(load("countdown-tiny"), {"model.gradient_checkpointing": True}))
    for settings in named, small:
        assert base_network(build_policy(settings, build_task(settings)).network).gradient_checkpointing
    plain = language(load("countdown-tiny"))
    assert not build_policy(plain, build_task(plain)).network.gradient_checkpointing
