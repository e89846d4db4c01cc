"""The dry run: numbers that can be worked out by hand, and no data needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipod.dry_run import as_text, plan
from dipod.errors import UserError
from dipod.policies.plain_tokenizers import ByteTokenizer
from dipod.recipes import build_policy, build_task, language, load, overlay
from tests.checkpoints import write_tiny_llada


def test_an_embedded_recipe() -> None:
    config = language(load("sudoku"))
    found = plan(config)
    network = build_policy(config, build_task(config)).network
    assert found.parameters == found.trained == sum(p.numel() for p in network.parameters())
    assert (found.updates, found.gradient_steps, found.rollouts) == (750, 750, 750 * 32 * 8)
    assert found.scored_rows == 32 * 8 * 2
    assert found.decoding_passes == 8
    assert found.note == ""


def test_a_full_size_recipe_on_a_tiny_checkpoint_without_data(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path / "model")
    settings = {"model": str(tmp_path / "model"), "task.train_source": "nowhere.jsonl", "algorithm": "d1+dipod"}
    found = plan(language(overlay(load("gsm8k-llada-spg"), settings)))
    assert "made-up problem" in found.note
    assert "<|start_header_id|>user" in found.prompt
    layers, width, wide, rank = 2, 32, 48, 128
    assert found.trained == layers * rank * (4 * 2 * width + 3 * (width + wide))
    assert found.gradient_steps == 1500 * 4
    assert found.scored_rows == 16 * 6 * (1 + 2) * 4, "one mean-field mask and a pair for the ELBO"
    text = as_text(found, "settings")
    for part in ("memory", "steps", "prompts", "adapters"):
        assert part in text


def test_a_model_that_is_not_there_is_named() -> None:
    config = language(overlay(load("gsm8k-llada-spg"), {"model": "./no/where"}))
    with pytest.raises(UserError, match="no/where"):
        plan(config)


@pytest.mark.parametrize("kind", ["Bert", "ModernBert", "DistilBert", "Roberta"])
@pytest.mark.parametrize("rank", [0, 3])
def test_a_masked_model_of_transformers(kind: str, rank: int, tmp_path: Path) -> None:
    """The plan of the issue's case; a run trains as many parameters as it says."""
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    if kind == "DistilBert":
        shape = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    ids = {} if kind == "DistilBert" else {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(vocab_size=264, max_position_embeddings=600, **shape, **ids)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(tmp_path)
    ByteTokenizer().save(tmp_path)
    settings = {"model": str(tmp_path), "model.lora_rank": rank, "model.dtype": "float32", "task.max_prompt": 340}
    run = language(overlay(load("gsm8k-llada-spg"), {**settings, "task.train_source": "nowhere.jsonl"}))
    found = plan(run)
    network = build_policy(run, build_task(run)).network
    assert found.trained == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert found.parameters == sum(p.numel() for name, p in network.named_parameters() if "lora_" not in name)
    assert "made-up problem" in found.note
