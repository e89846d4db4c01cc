"""Model folders: the hub's format goes in and out unchanged, and every bad folder is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dipod.errors import UserError
from dipod.policies.dream import Dream, DreamConfig
from dipod.policies.hf_masked import HFMasked
from dipod.policies.llada import LLaDA, LLaDAConfig
from dipod.policies.pretrained import choose_device, load_pretrained, quantise_4bit, save_pretrained
from dipod.policies.tokenizers import load_tokenizer
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer, TransformerConfig
from tests.checkpoints import dream_settings, llada_settings, write_tiny_dream, write_tiny_llada

Writer = Callable[..., dict[str, Tensor]]
WRITERS = pytest.mark.parametrize("write", [write_tiny_llada, write_tiny_dream])
SHARDS = pytest.mark.parametrize("shards", [1, 3])


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@WRITERS
@SHARDS
def test_what_is_read_is_written(write: Writer, shards: int, tmp_path: Path) -> None:
    """Every tensor, every setting and every tokenizer file of a folder is in the folder saved from it."""
    weights = write(tmp_path / "hub", shards)
    network = load_pretrained(tmp_path / "hub")
    save_pretrained(network, tmp_path / "mine", load_tokenizer(tmp_path / "hub"), 10**9 if shards == 1 else 40_000)
    written: dict[str, Tensor] = {}
    files = sorted((tmp_path / "mine").glob("*.safetensors"))
    for file in files:
        written |= load_file(file)
    assert (len(files) > 1) == (shards > 1)
    torch.testing.assert_close(written, weights, atol=0.0, rtol=0.0)
    torch.testing.assert_close(
        load_pretrained(tmp_path / "mine").state_dict(), network.state_dict(), atol=0.0, rtol=0.0
    )
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("hub", "mine"))
    assert before.keys() == after.keys()
    assert {k: v for k, v in before.items() if k != "auto_map"} == {k: v for k, v in after.items() if k != "auto_map"}
    names = {path.name for path in (tmp_path / "hub").iterdir() if "safetensors" not in path.name}
    assert names == {path.name for path in (tmp_path / "mine").iterdir() if "safetensors" not in path.name}
    assert load_tokenizer(tmp_path / "mine").encode("1 + 2") == load_tokenizer(tmp_path / "hub").encode("1 + 2")


def test_saving_over_the_folder_it_was_loaded_from(tmp_path: Path) -> None:
    """The weights may still be mapped from the file; old files of the other layout go."""
    weights = write_tiny_llada(tmp_path)
    network = load_pretrained(tmp_path)
    save_pretrained(network, tmp_path, shard_bytes=60_000)
    assert not (tmp_path / "model.safetensors").exists()
    save_pretrained(load_pretrained(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.glob("*safetensors*")] == ["model.safetensors"]
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), weights, atol=0.0, rtol=0.0)


def test_the_code_for_other_programs_is_named_with_its_repository(tmp_path: Path) -> None:
    write_tiny_dream(tmp_path / "hub")
    network = load_pretrained(tmp_path / "hub")
    network.name_or_path = "apple/DiffuCoder-7B-Instruct"  # type: ignore[assignment]
    save_pretrained(network, tmp_path / "mine", load_tokenizer(tmp_path / "hub"))
    saved = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert saved["auto_map"]["AutoModel"] == "apple/DiffuCoder-7B-Instruct--modeling_dream.DreamModel"
    tokenizer = json.loads((tmp_path / "mine" / "tokenizer_config.json").read_text())
    assert tokenizer["auto_map"]["AutoTokenizer"] == [
        "Dream-org/Dream-v0-Instruct-7B--tokenization_dream.DreamTokenizer",
        None,
    ]


def test_weights_are_cast_and_the_type_is_written(tmp_path: Path) -> None:
    weights = write_tiny_llada(tmp_path / "hub")
    network = load_pretrained(tmp_path / "hub", "bfloat16")
    save_pretrained(network, tmp_path / "mine")
    cast = {name: tensor.bfloat16() for name, tensor in weights.items()}
    torch.testing.assert_close(load_file(tmp_path / "mine" / "model.safetensors"), cast, atol=0.0, rtol=0.0)
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert all(p.requires_grad for p in network.parameters())


def test_new_networks_are_written_complete(tmp_path: Path) -> None:
    """A LLaDA and a Dream made here have all fields that decide how the hub's code reads them."""
    generator = torch.Generator().manual_seed(0)
    llada = LLaDAConfig(d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=24, vocab_size=262, mask_token_id=261)
    dream = DreamConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        vocab_size=262,
        mask_token_id=261,
    )
    for network in (LLaDA(llada, generator), Dream(dream, generator)):
        save_pretrained(network, tmp_path)
        loaded = load_pretrained(tmp_path)
        torch.testing.assert_close(loaded.state_dict(), network.state_dict(), atol=0.0, rtol=0.0)
        saved = json.loads((tmp_path / "config.json").read_text())
        hub = llada_settings() if isinstance(network, LLaDA) else dream_settings()
        decisive = {name for name, values in network.config.SUPPORTED.items() if values[0] is not None}
        assert {name: saved[name] for name in decisive} == {name: hub[name] for name in decisive}


def test_other_models_are_told_apart(tmp_path: Path) -> None:
    small = MaskedTransformer(TransformerConfig(7, (12,), width=16, layers=1, heads=2))
    save_pretrained(small, tmp_path)
    loaded = load_pretrained(tmp_path, "bfloat16")
    assert isinstance(loaded, MaskedTransformer)
    assert next(loaded.parameters()).dtype == torch.bfloat16
    assert loaded.name_or_path == str(tmp_path)


def test_a_masked_language_model_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    bert = transformers.BertForMaskedLM(config)
    save_pretrained(HFMasked(bert), tmp_path)
    loaded = load_pretrained(tmp_path)
    assert isinstance(loaded, HFMasked)
    torch.testing.assert_close(loaded.model.state_dict(), bert.state_dict())
    change_weights(tmp_path, lambda weights: weights.pop("bert.encoder.layer.0.output.dense.weight"))
    with pytest.raises(UserError, match=r"weights are missing: bert\.encoder\.layer\.0\.output\.dense\.weight"):
        load_pretrained(tmp_path)


def test_a_causal_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="model_type = 'gpt2': give LLaDA, Dream"):
        load_pretrained(tmp_path)


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path)

    def rename(weights: dict[str, Tensor]) -> None:
        for part in ("q", "k", "v", "up"):
            weights[f"{part}.weight"] = weights.pop(f"model.transformer.blocks.1.{part}_proj.weight")

    change_weights(tmp_path, rename)
    with pytest.raises(UserError) as caught:
        load_pretrained(tmp_path)
    assert "4 missing: model.transformer.blocks.1.k_proj.weight, " in caught.value.mend
    assert "and 1 more; 4 not expected: k.weight, q.weight, up.weight and 1 more" in caught.value.mend


def test_another_vocabulary_is_named(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(llada_settings(embedding_size=300, vocab_size=300)))
    with pytest.raises(
        UserError, match=r"has shape \[264, 32\], another vocabulary than config.json says \(\[300, 32\]\)"
    ):
        load_pretrained(tmp_path)


def test_other_sizes_are_named(tmp_path: Path) -> None:
    write_tiny_dream(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dream_settings(intermediate_size=40)))
    with pytest.raises(UserError, match=r"mlp\.\w+\.weight has shape .*, other sizes than config.json says"):
        load_pretrained(tmp_path)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path)
    with pytest.raises(UserError, match="dtype = 'int8': choose from float32, bfloat16, float16"):
        load_pretrained(tmp_path, "int8")
    with pytest.raises(UserError, match="device_map = 'tpu'"):
        load_pretrained(tmp_path, device_map="tpu")
    with pytest.raises(UserError, match="nothing is not in the folder"):
        load_pretrained(tmp_path / "nothing")
    with pytest.raises(UserError, match="network = 'Linear'"):
        save_pretrained(nn.Linear(1, 1), tmp_path)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` is one device for each process."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="has 0 CUDA devices"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("auto") == choose_device("cuda:3") == torch.device("cuda", 3)
    with pytest.raises(UserError, match="has 4 CUDA devices"):
        choose_device("cuda:4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without CUDA")
def test_four_bits_need_cuda() -> None:
    with pytest.raises(UserError, match="needs a CUDA device"):
        quantise_4bit(nn.Linear(1, 1))


def test_one_copy_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is built without memory: its parameters are the tensors that were read."""
    write_tiny_dream(tmp_path)
    devices: list[str] = []
    load = Dream.load_state_dict

    def spy(network: Dream, *args: Any, **kwargs: Any) -> Any:
        devices.extend(p.device.type for p in network.parameters())
        return load(network, *args, **kwargs)

    monkeypatch.setattr(Dream, "load_state_dict", spy)
    network = load_pretrained(tmp_path)
    assert set(devices) == {"meta"}
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert network(Tokens.full(torch.tensor([[1, 2]]))).shape == (1, 2, 32)
