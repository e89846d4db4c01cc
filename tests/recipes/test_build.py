"""From settings to a run: what cannot work is said before anything is written, loaded or decoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dipod.config import RunConfig
from dipod.dry_run import plan
from dipod.errors import UserError
from dipod.noise import Noise
from dipod.parallel import Processes, start
from dipod.policies.lora import base_network
from dipod.policies.plain_tokenizers import ByteTokenizer
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer, TransformerConfig
from dipod.recipes import build, build_policy, build_task, build_trainer, check, language, load, overlay
from dipod.tasks.text import task as text_task
from tests.checkpoints import llada_settings, write_tiny_dream, write_tiny_llada

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


def padded_dream(folder: Path) -> RunConfig:
    """Dream with 300 logits over 261 ids of a tokenizer, those beyond them large; the case of the issue."""
    weights = write_tiny_dream(folder / "dream", vocab_size=300)
    weights["lm_head.weight"][261:] *= 6
    save_file(weights, folder / "dream" / "model.safetensors")
    return config(folder, [GOOD], model=str(folder / "dream"), model__lora_rank=0, model__dtype="float64")


@torch.no_grad()
def test_ids_without_a_token_are_neither_drawn_nor_scored(tmp_path: Path) -> None:
    """Sampler and likelihood have the same law, which sums to one over the ids that the tokenizer has."""
    settings = padded_dream(tmp_path)
    task = build_task(settings)
    assert isinstance(task, text_task.TextTask)
    policy = build_policy(settings, task)
    observation = Tokens.full(torch.tensor([[1, 2, 3]]).expand(300, -1))
    every = Tokens.full(torch.arange(300)[:, None])
    masked = torch.ones(300, 1, dtype=torch.bool)
    scored = policy.score(observation, every)(torch.arange(300), masked)[:, 0].exp()
    drawn = policy.completion_logits(observation[:1], every[:1], masked[:1], None)[0, 0].softmax(-1)
    torch.testing.assert_close(scored, drawn, atol=1e-12, rtol=0.0)
    assert float(scored[:261].sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(scored[261:].sum() + scored[task.tokenizer.mask_id]) == 0.0
    plain = replace(policy, barred=()).completion_logits(observation[:1], every[:1], masked[:1], None)[0, 0].softmax(-1)
    assert float(plain[261:].sum()) > 0.05
    allowed = torch.tensor([token != task.tokenizer.mask_id for token in range(261)])
    torch.testing.assert_close(scored[:261][allowed], plain[:261][allowed] / plain[:261].sum(), atol=1e-9, rtol=0.0)
    blank = Tokens.full(torch.full((300, 2), task.tokenizer.mask_id))
    ways: list[dict[str, Any]] = [{}, {"cfg_scale": 1.0}, {"temperature": 0.0}, {"noise": "released-bf16"}]
    for way in ways:
        noise = Noise.keyed("drawn", examples=range(300))
        assert int(policy.sample(observation, blank, SamplerConfig(**way), noise).ids.max()) < task.tokenizer.mask_id


def test_a_tokenizer_with_gaps_bars_them(tmp_path: Path) -> None:
    """BERT's vocabulary of the issue, without the ids 7 and 9, in a model of 110 logits."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = [index for index in range(102) if index not in (7, 9)]
    words = dict(zip([*special, *map(chr, range(32, 127))], ids, strict=True))
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[], unk_token="[UNK]"))
    core.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in special])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, **named, chat_template="{{ messages[0].content }}"
    ).save_pretrained(tmp_path / "bert")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertConfig(vocab_size=110, max_position_embeddings=999, **shape)
    transformers.BertForMaskedLM(bert).save_pretrained(tmp_path / "bert")
    settings = config(tmp_path, [GOOD], model=str(tmp_path / "bert"), model__lora_rank=0, model__dtype="float32")
    task = build_task(settings)
    pad = 0
    assert task.vocabulary.barred == (pad, 7, 9)
    assert build_policy(settings, task).barred == (pad, 7, 9, *range(102, 110))


@pytest.mark.parametrize("kind", ["llada", "dream", "bert", "small"])
def test_a_model_without_enough_places_is_refused_at_the_start(kind: str, tmp_path: Path) -> None:
    """By the settings alone, in a check, a dry run and when it is built; one token fewer is fine."""
    if kind == "llada":
        write_tiny_llada(tmp_path / kind, max_sequence_length=700)
    elif kind == "dream":
        write_tiny_dream(tmp_path / kind, max_position_embeddings=700)
    elif kind == "small":
        MaskedTransformer(TransformerConfig(264, (70, 10), width=8, layers=1, heads=1)).save_pretrained(tmp_path / kind)
        ByteTokenizer().save(tmp_path / kind)
    else:
        transformers = pytest.importorskip("transformers")
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        bert = transformers.BertConfig(vocab_size=264, max_position_embeddings=700, **shape)
        transformers.BertForMaskedLM(bert).save_pretrained(tmp_path / kind)
        ByteTokenizer().save(tmp_path / kind)
    fits = {"model": str(tmp_path / kind), "task__max_prompt": 444, "task__completion_length": 256}
    fits |= {"model__lora_rank": 0, "model__dtype": "float32"}
    check(config(tmp_path, [GOOD], **fits))
    long = config(tmp_path, [GOOD], **{**fits, "task__max_prompt": 445})
    for way in (check, plan, lambda settings: build_policy(settings, build_task(settings))):
        with pytest.raises(
            UserError, match=r"task\.max_prompt = 445: .* the model has 700 places \(.*; give at most 444"
        ):
            way(long)
    wide = {"task__completion_length": 704, "sampler__block_length": 32, "sampler__steps": 44}
    with pytest.raises(UserError, match=r"task\.completion_length = 704: the model has 700 places"):
        check(config(tmp_path, [GOOD], **{**fits, **wide}))


def test_a_trainer_in_python_joins_the_others_with_the_precision_of_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def join(precision: str) -> Processes:
        asked.append(precision)
        return start()

    monkeypatch.setattr(build, "start", join)
    settings = config(tmp_path, [GOOD], model__mixed_precision="bf16")
    task = build_task(settings)
    build_trainer(settings, build_policy(settings, task), task)
    assert asked == ["bf16"]
