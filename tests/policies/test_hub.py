"""Folders in the hub's layout: what can be read is read as it stands, and every bad folder is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dipod.errors import UserError
from dipod.policies.dream import DreamConfig
from dipod.policies.llada import LLaDAConfig
from dipod.policies.pretrained import load_pretrained, save_pretrained
from dipod.policies.tokenizers import load_tokenizer
from tests.checkpoints import dream_settings, llada_settings, write_tiny_llada


def test_a_sharded_folder_is_laid_out_as_on_the_hub(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path / "hub")
    save_pretrained(load_pretrained(tmp_path / "hub"), tmp_path / "mine", shard_bytes=60_000)
    index = json.loads((tmp_path / "mine" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "mine").glob("*.safetensors"))
    assert files == [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    for file in files:
        tensors = load_file(tmp_path / "mine" / file)
        assert set(tensors) == {name for name, where in index["weight_map"].items() if where == file}
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 60_000
    assert index["metadata"]["total_size"] == sum(
        t.nbytes for t in load_pretrained(tmp_path / "hub").state_dict().values()
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_type", "sequential"),
        ("layer_norm_type", "default"),
        ("activation_type", "swiglu"),
        ("alibi", True),
        ("weight_tying", True),
        ("include_bias", True),
        ("scale_logits", True),
        ("residual_dropout", 0.1),
        ("block_group_size", 2),
        ("architectures", ["LLaDAMoEModelLM"]),
        ("n_heads", 5),
        ("n_kv_heads", 3),
        ("n_layers", 0),
        ("d_model", "32"),
    ],
)
def test_llada_settings_that_are_not_supported(field: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        LLaDAConfig.from_hub(llada_settings(**{field: value}))
    named = {"n_heads": "config.json d_model", "n_kv_heads": "config.json n_heads"}
    assert caught.value.field == named.get(field, f"config.json {field}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("tie_word_embeddings", True),
        ("use_sliding_window", True),
        ("architectures", ["DreamForCausalLM"]),
        ("vocab_size", -1),
    ],
)
def test_dream_settings_that_are_not_supported(field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"config.json {field}"):
        DreamConfig.from_hub(dream_settings(**{field: value}))


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(UserError, match=r"config\.json mlp_hidden_size = None: the field is missing"):
        LLaDAConfig.from_hub({k: v for k, v in llada_settings().items() if k != "mlp_hidden_size"})


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors.*this shard is missing"):
        load_pretrained(tmp_path)


def test_a_shard_that_lacks_what_the_index_promises_is_named(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path, shards=3)
    save_file({"other": torch.zeros(1)}, tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors.*tensors are missing"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("shard", ["../model-00001-of-00002.safetensors", "/etc/passwd", "a/b", "..", "", 5, ["x"]])
@pytest.mark.parametrize("kind", ["llada", "bert"])
def test_a_shard_outside_the_folder_is_refused(shard: object, kind: str, tmp_path: Path) -> None:
    """Ours and transformers' own loader alike, before anything is read from there."""
    write_tiny_llada(tmp_path / "model", shards=2)
    if kind == "bert":
        (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 9}))
    file = tmp_path / "model" / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], shard)
    file.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"shard.*shards are files beside the index|this shard is missing"):
        load_pretrained(tmp_path / "model")


def test_a_mistyped_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[str] = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return str(tmp_path / "models" / "llada")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    write_tiny_llada(tmp_path / "models" / "llada")
    (tmp_path / "models" / "file").touch()
    mistyped = {
        "./lada": "give a folder or a hub name",
        "../nothing": "is not in the folder",
        str(tmp_path / "modles"): "did you mean .*models",
        "models/lada": "lada is not in the folder models; did you mean models/llada",
        "models/file": "file is a file",
        "modles/llada": "did you mean models/llada",
        "lada": "give a folder or a hub name",
        "nowhere/at/all": "give a folder or a hub name",
    }
    for name, message in mistyped.items():
        for read in (load_pretrained, load_tokenizer):
            with pytest.raises(UserError, match=message):
                read(name)
    assert asked == []
    load_pretrained("GSAI-ML/LLaDA-8B-Instruct")
    load_pretrained("models/lada", revision="main")
    assert asked == ["GSAI-ML/LLaDA-8B-Instruct", "models/lada"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "give a readable JSON file"),
        (lambda folder: (folder / "config.json").write_text("{"), "give a readable JSON file"),
        (lambda folder: (folder / "config.json").write_text("[]"), "one JSON object"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "not a readable safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights found"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled files are not"),
    ],
)
def test_bad_folders_are_named(spoil: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    write_tiny_llada(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        load_pretrained(tmp_path)


def test_hub_names_are_downloaded_without_code_or_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    write_tiny_llada(tmp_path)
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    network = load_pretrained("GSAI-ML/LLaDA-8B-Instruct", revision="main")
    load_tokenizer("GSAI-ML/LLaDA-8B-Instruct")
    assert network.name_or_path == "GSAI-ML/LLaDA-8B-Instruct"
    assert asked[0][:2] == ("GSAI-ML/LLaDA-8B-Instruct", "main")
    assert "*.safetensors" in asked[0][2]
    assert "*.safetensors" not in asked[1][2]
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked[0][2])


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def download(*_: object, **__: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(UserError, match=r"no such folder, and the hub does not give it \(no connection\)"):
        load_pretrained("runs/none")
