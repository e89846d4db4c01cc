"""Adapters of other programs: peft's own forward on the same files, and what is more than adapters is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dipod import runs
from dipod.dry_run import plan
from dipod.errors import UserError
from dipod.export import export, locate
from dipod.policies.hf_masked import HFMasked
from dipod.policies.lora import check_adapter, load_adapter, merge_adapter, reference, save_adapter
from dipod.policies.pretrained import load_pretrained, meta_network
from dipod.policies.tokens import Tokens
from dipod.recipes import build_policy, build_task, check, language, load, overlay
from dipod.resuming import extend
from dipod.runs import Silent
from dipod.trainer import frozen
from tests.checkpoints import write_tiny_dream, write_tiny_llada
from tests.policies.test_lora import logits
from tests.test_export import TEXT

peft: Any = pytest.importorskip("peft")
transformers: Any = pytest.importorskip("transformers")

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 5, r"\w+\.1\.(self_attn\.)?v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "layers": {"layers_to_transform": [1]},
    "regex": {"target_modules": r".*\.(q|k)_proj"},
    "head": {"target_modules": ["v_proj", "lm_head", "ff_out"]},
    "dora": {"use_dora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
}


def write_adapter(model: nn.Module, folder: Path, **settings: Any) -> Path:
    """Adapters as another program trains and saves them, with second halves that are not zero."""
    given = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1, **settings}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**given))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data.normal_(0.0, 0.3, generator=generator)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    adapted.unload()
    return folder


@pytest.fixture(params=["llada", "dream"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    {"llada": write_tiny_llada, "dream": write_tiny_dream}[request.param](tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_that_of_peft(kind: str, base: Path, tmp_path: Path) -> None:
    folder = write_adapter(load_pretrained(base), tmp_path / "adapter", **KINDS[kind])
    wanted = logits(peft.PeftModel.from_pretrained(load_pretrained(base), folder).eval())
    assert float((wanted - logits(load_pretrained(base))).abs().max()) > 0.01
    loaded = load_adapter(load_pretrained(base), folder).eval()
    torch.testing.assert_close(logits(loaded), wanted, atol=0.0, rtol=0.0)
    saved = load_file(folder / "adapter_model.safetensors")
    described = meta_network(base)
    assert check_adapter(described, folder) == sum(tensor.numel() for tensor in saved.values())
    assert check_adapter(described, folder) == sum(p.numel() for p in loaded.parameters() if p.requires_grad)
    save_adapter(loaded, tmp_path / "again")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    torch.testing.assert_close(again, saved, atol=0.0, rtol=0.0)
    torch.testing.assert_close(logits(merge_adapter(loaded)), wanted, atol=1e-4, rtol=1e-4)


def build(kind: str) -> Any:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, **ids, intermediate_size=24)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForMaskedLM")(config).eval()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft of transformers
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Bert", {"target_modules": ["query", "value"]}),
        ("Bert", {"target_modules": r"bert\.encoder\.layer\.\d\.attention\.self\.key", "use_rslora": True}),
        ("Bert", {"target_modules": ["query", "dense"], "rank_pattern": {"query": 2}}),
        ("ModernBert", {"target_modules": ["Wqkv", "Wo"]}),
    ],
)
def test_adapters_of_a_model_of_transformers(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """They were trained on the model itself, whose modules lie one further down here; ours go back and forth too."""
    folder = write_adapter(build(kind), tmp_path / "theirs", **settings)
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    wanted = peft.PeftModel.from_pretrained(build(kind), folder).eval()(input_ids=ids).logits.detach()
    loaded: Any = load_adapter(HFMasked(build(kind)), folder).eval()
    torch.testing.assert_close(loaded.head(loaded(Tokens.full(ids))).detach(), wanted, atol=1e-6, rtol=1e-5)
    save_adapter(loaded, tmp_path / "ours")
    again: Any = load_adapter(HFMasked(build(kind)), tmp_path / "ours").eval()
    torch.testing.assert_close(again.head(again(Tokens.full(ids))).detach(), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\]: only adapters beside linear layers"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices = \[3\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3': give LoRA adapters"),
        ({"something_new": {"on": True}}, "something_new"),
        ({"target_modules": ["query"]}, "does not fit this base"),
        ({"target_modules": ["q_proj"]}, r"v_proj\.lora_A\.weight has shape \[4, 32\], this base has no such adapted"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, r"k_proj\.lora_A\.weight is missing, this base needs"),
        ({"r": 3}, r"has shape \[4, 32\], this base needs \[3, 32\]"),
    ],
)
def test_what_is_not_an_adapter_of_this_base_is_refused(
    changed: dict[str, Any], said: str, base: Path, tmp_path: Path
) -> None:
    """By name, at the start and when it is loaded; the base is left as it was."""
    folder = write_adapter(load_pretrained(base), tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    network = load_pretrained(base)
    before = logits(network)
    for call in (lambda: check_adapter(meta_network(base), folder), lambda: load_adapter(network, folder)):
        with pytest.raises(UserError, match=said):
            call()
    torch.testing.assert_close(logits(network), before, atol=0.0, rtol=0.0)


def test_other_tensors_in_the_file_are_refused(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(load_pretrained(base), tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"base_model\.model\.lm_head\.weight has shape \[2, 2\], this base has no such"
    ):
        load_adapter(load_pretrained(base), folder)


def test_the_reference_of_a_start_from_adapters_is_the_start(base: Path, tmp_path: Path) -> None:
    """And not the base without them; what is trained, saved and merged is the other copy alone."""
    folder = write_adapter(load_pretrained(base), tmp_path / "adapter")
    network = load_adapter(load_pretrained(base), folder, keep_start=True).eval()
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".default." in name for name in trained)
    start = logits(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in trained:
                parameter.mul_(1.5)
    moved: Tensor = logits(network)
    assert float((moved - start).abs().max()) > 0.01
    with reference(network):
        torch.testing.assert_close(logits(network), start, atol=0.0, rtol=0.0)
    torch.testing.assert_close(logits(network), moved, atol=0.0, rtol=0.0)
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == trained
    save_adapter(network, tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir() if path.suffix in {".json", ".safetensors"}) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    torch.testing.assert_close(logits(load_adapter(load_pretrained(base), tmp_path / "saved").eval()), moved)
    torch.testing.assert_close(logits(merge_adapter(network)), moved, atol=1e-4, rtol=1e-4)


def test_a_run_starts_from_adapters_and_goes_on_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rank holds, whatever lora_rank says; at the start the policy is its own reference; changes are noticed."""
    monkeypatch.chdir(tmp_path)
    write_tiny_llada(tmp_path / "base")
    write_adapter(load_pretrained(tmp_path / "base"), tmp_path / "adapter", use_rslora=True)
    own = {"model.path": "base", "model.adapter": "adapter", "model.lora_rank": 9, "trainer.steps": 1}
    config = language(overlay(load("sudoku"), {**TEXT, **own, "objective.kl": "k2", "objective.kl_weight": 0.1}))
    runs.create(tmp_path / "run", config)
    runs.train(tmp_path / "run", Silent())
    policy = build_policy(config, build_task(config))
    with frozen(policy)() as base:
        begun = logits(base.network)
    torch.testing.assert_close(logits(policy.network), begun, atol=0.0, rtol=0.0)
    assert float((begun - logits(load_pretrained("base"))).abs().max()) > 0.01
    sizes = {name: tensor.shape for name, tensor in load_file("adapter/adapter_model.safetensors").items()}
    assert plan(config).trained == sum(shape.numel() for shape in sizes.values())
    assert export(locate(tmp_path / "run"), tmp_path / "alone", adapter_only=True).what == "adapters"
    trained = load_file("alone/adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in trained.items()} == sizes
    start = load_file("adapter/adapter_model.safetensors")
    assert any(not torch.equal(tensor, start[name]) for name, tensor in trained.items())
    assert export(locate(tmp_path / "run"), tmp_path / "merged").what == "merged"
    assert "started from adapter" in (tmp_path / "merged" / "README.md").read_text()
    adapted = logits(load_adapter(load_pretrained("base"), tmp_path / "alone").eval())
    torch.testing.assert_close(logits(load_pretrained("merged")), adapted, atol=1e-4, rtol=1e-4)
    extend(tmp_path / "run", {"steps": 2})
    write_adapter(load_pretrained(tmp_path / "base"), tmp_path / "adapter", r=5)
    with pytest.raises(UserError, match=r"model\.adapter = .*adapter': it has changed since the run began"):
        runs.train(tmp_path / "run", Silent())
    refused = overlay(config, {"model.adapter": "./nowhere"})
    with pytest.raises(UserError, match=r"model\.adapter = '\./nowhere': give a folder or a hub name"):
        check(refused)
    with pytest.raises(UserError, match=r"model\.adapter = 'adapter': name its base too"):
        overlay(load("sudoku"), {"model.adapter": "adapter"})
