"""Exported models: the same function as the run's, loadable, and a card that says what was and was not measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from dipod import runs
from dipod.checkpoints import load_checkpoint
from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.export import CARD, export, locate, upload
from dipod.likelihood.evidence import Corruption
from dipod.policies.lora import load_adapter
from dipod.policies.masked import MaskedPolicy
from dipod.policies.pretrained import load_pretrained
from dipod.policies.tokenizers import ByteTokenizer, load_tokenizer
from dipod.recipes import build_policy, build_task, language, load, overlay, policy_of, to_yaml
from dipod.runs import Silent
from tests.checkpoints import write_tiny_dream, write_tiny_llada
from tests.test_trainer import tiny

TEXT: dict[str, object] = {
    "task.name": "countdown",
    "task.style": "short",
    "task.train_source": "generate",
    "task.test_source": "generate",
    "task.completion_length": 8,
    "task.max_prompt": 64,
    "sampler.block_length": 4,
    "sampler.steps": 4,
    "trainer.steps": 2,
    "trainer.prompts": 4,
    "trainer.group_size": 2,
    "trainer.evaluate_every": 1,
    "trainer.save_every": 1,
    "trainer.evaluate_problems": 5,
    "trainer.gap_problems": 2,
    "trainer.gap_paths": 2,
    "trainer.exact_tokens": 4,
    "trainer.cosine_rollouts": 0,
    "optimiser.learning_rate": 0.02,
    "optimiser.warmup": 1,
    "model.lora_rank": 4,
    "algorithm": "spg+dipod",
}


def text(model: Path, **changes: object) -> RunConfig:
    """A short run of a model in a folder on Countdown, with adapters."""
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return language(overlay(load("sudoku"), {"beta_ramp": 0, "threads": 1, "model.path": str(model), **TEXT, **given}))


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of adapters over a tiny LLaDA, which is in ``model`` beside it."""
    folder = tmp_path_factory.mktemp("llada")
    write_tiny_llada(folder / "model")
    return train(folder / "run", text(folder / "model"))


def train(folder: Path, config: RunConfig) -> Path:
    runs.create(folder, config)
    runs.train(folder, Silent())
    return folder


def token_log_probs(policy: MaskedPolicy, config: RunConfig) -> Tensor:
    """Log-probabilities of a few random answers under random masks, [B, K, L]."""
    task = build_task(config)
    problems = task.held_out(3)
    length = task.completion_length
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(policy.mask_id - 1, (3, length), generator=generator)
    action, _ = task.complete(problems, ids)
    masked = torch.rand(3, 4, length, generator=generator) < 0.5
    corruption = Corruption(masked, torch.ones(3, 4))
    with torch.no_grad():
        return policy.evidence(task.observe(problems), action, corruption).token_log_probs


def config_of(run: Path) -> RunConfig:
    return language(runs.read_config(run))


def trained(run: Path) -> Tensor:
    config = config_of(run)
    policy = build_policy(config, build_task(config))
    load_checkpoint(locate(run).checkpoint, policy.network, {})
    return token_log_probs(policy, config)


def exported(folder: Path, config: RunConfig) -> Tensor:
    own = {"model.lora_rank": 0, **({"model.path": str(folder)} if config.model.path else {"base": str(folder)})}
    return token_log_probs(build_policy(language(overlay(config, own)), build_task(config)), config)


def front_matter(folder: Path) -> dict[str, object]:
    head = (folder / CARD).read_text().split("---\n")[1]
    return dict(yaml.safe_load(head))


def test_the_merged_model_is_the_adapted_one(llada: Path, tmp_path: Path) -> None:
    config = config_of(llada)
    out = tmp_path / "model"
    assert export(locate(llada), out).what == "merged"
    adapted = trained(llada)
    torch.testing.assert_close(exported(out, config), adapted, rtol=1e-6, atol=1e-6)
    base = language(overlay(config, {"model.lora_rank": 0}))
    moved = token_log_probs(build_policy(base, build_task(base)), base) - adapted
    assert moved.abs().max() > 1e-3, "training has changed something"
    assert load_tokenizer(out).encode("3 + 4") == ByteTokenizer().encode("3 + 4")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_adapters_alone_go_back_onto_the_base(llada: Path, tmp_path: Path) -> None:
    config = config_of(llada)
    export(locate(llada), tmp_path / "adapters", adapter_only=True)
    assert {p.name for p in (tmp_path / "adapters").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        CARD,
    }
    network = load_adapter(load_pretrained(config.model.path), tmp_path / "adapters").eval()
    policy = policy_of(network, build_task(config))
    torch.testing.assert_close(token_log_probs(policy, config), trained(llada), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_small_model_is_exported_with_and_without_adapters(tmp_path: Path, rank: int) -> None:
    run = train(tmp_path / "run", tiny(trainer__steps=2, model__lora_rank=rank))
    assert export(locate(run), tmp_path / "out").what == ("merged" if rank else "whole")
    torch.testing.assert_close(exported(tmp_path / "out", config_of(run)), trained(run), rtol=1e-6, atol=1e-6)


def test_every_weight_of_a_named_model_is_exported(tmp_path: Path) -> None:
    write_tiny_dream(tmp_path / "model")
    run = train(tmp_path / "run", text(tmp_path / "model", model__lora_rank=0))
    export(locate(run), tmp_path / "out")
    torch.testing.assert_close(exported(tmp_path / "out", config_of(run)), trained(run), rtol=1e-6, atol=1e-6)


def test_the_card_says_what_was_measured_and_what_was_not(llada: Path, tmp_path: Path) -> None:
    export(locate(llada), tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text()
    last = [row for row in runs.read_metrics(llada) if "gap" in row][-1]
    assert f"| {last['gap']:.4f} | 2 |" in card
    assert f"{last['gap_kind']} bound".replace("_bound bound", " bound") in card
    missing = card.partition("## Not measured")[2].partition("##")[0]
    assert "- cosine of proxy gradient" in missing
    assert "- the model after merging" in missing
    assert "2606.13795" in card
    assert str(tmp_path.parent) not in card, "folders of this machine are nobody's business"
    assert front_matter(tmp_path / "out") == {
        "library_name": "dipod",
        "tags": ["dipod", "reinforcement-learning", "masked-diffusion", "spg", "countdown"],
    }
    settings = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert settings["optimiser"]["learning_rate"] == 0.02
    assert settings["model"]["path"] == "model"


def test_metrics_after_the_checkpoint_are_left_out(llada: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(llada, run)
    shutil.rmtree(run / runs.CHECKPOINTS / "step-2")
    source = locate(run)
    export(source, tmp_path / "out")
    assert source.step < 2
    assert "| 2 |" not in (tmp_path / "out" / CARD).read_text().partition("## Measured")[2].partition("##")[0]


def with_settings(run: Path, copy: Path, **changes: object) -> Path:
    """A copy of a run whose config.yaml was edited."""
    shutil.copytree(run, copy)
    config = overlay(runs.read_config(run), {key.replace("__", "."): value for key, value in changes.items()})
    (copy / runs.CONFIG).write_text(to_yaml(config))
    return copy


def test_mistakes_are_named_and_nothing_is_written(llada: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    untrained = tmp_path / "untrained"
    runs.create(untrained, tiny())
    with pytest.raises(UserError, match=r"run = .*it has no checkpoint yet"):
        locate(untrained)
    with pytest.raises(UserError, match=r"no config\.yaml there"):
        locate(tmp_path)
    whole = train(tmp_path / "whole", tiny(trainer__steps=0))
    with pytest.raises(UserError, match=r"adapter-only = .*this run trained every weight"):
        export(locate(whole), out, adapter_only=True)
    quantised = with_settings(llada, tmp_path / "quantised", model__load_in_4bit=True)
    with pytest.raises(UserError, match=r"model\.load_in_4bit = True: .*--adapter-only"):
        export(locate(quantised), out)
    write_tiny_llada(tmp_path / "wider", d_model=64)
    other = with_settings(llada, tmp_path / "other", model__path=str(tmp_path / "wider"))
    with pytest.raises(UserError, match=r"adapter = .*trained on another base"):
        export(locate(other), out)
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
    out.mkdir()
    (out / "precious").write_text("kept")
    with pytest.raises(UserError, match=r"out = .*it is not empty"):
        export(locate(llada), out)
    assert [p.name for p in out.iterdir()] == ["precious"]


def test_adapters_of_a_4bit_run_go_out_alone(llada: Path, tmp_path: Path) -> None:
    quantised = with_settings(llada, tmp_path / "quantised", model__load_in_4bit=True)
    export(locate(quantised), tmp_path / "out", adapter_only=True)
    own, source = (f / "adapter_model.safetensors" for f in (tmp_path / "out", locate(llada).checkpoint))
    assert own.read_bytes() == source.read_bytes()


class Hub:
    """A hub that remembers what it was told, or is out of reach."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.told = error, list[object]()

    def create_repo(self, name: str, private: bool) -> str:
        if self.error is not None:
            raise self.error
        self.told += [name, private]
        return f"https://hub/{name}"

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        self.told += [repo_id, folder_path]


def test_an_upload_makes_a_private_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    assert upload(tmp_path, "me/mine") == "https://hub/me/mine"
    assert hub.told == ["me/mine", True, "me/mine", tmp_path]


def test_an_upload_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="push = 'mine': give a name on the hub"):
        upload(tmp_path, "mine")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="push = 'me/mine': log in first"):
        upload(tmp_path, "me/mine")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(ConnectionError("no route\nto the hub")))
    with pytest.raises(UserError, match=r"push = 'me/mine': not uploaded \(no route\); the model is complete in"):
        upload(tmp_path, "me/mine")
