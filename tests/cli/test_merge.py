"""`dipod merge` as a user types it, and `dipod eval` on what it wrote."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from dipod.cli import main
from tests.checkpoints import write_tiny_llada
from tests.cli.test_cli import SETTINGS, refuse
from tests.test_export import TEXT

FLAGS = [part for key, value in TEXT.items() for part in (f"--{key}", str(value))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["eval", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def card_flags(model: Path) -> list[str]:
    """The flags that the model card gives for `dipod eval .`."""
    command = (model / "README.md").read_text().partition("```sh\n")[2].partition("```")[0]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["dipod", "eval", "."]
    return words[3:]


def test_a_merged_model_evaluates_as_its_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_llada(here / "model")
    assert main(["train", "sudoku", *FLAGS, "--model.path", "model", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["merge", "run", "--out", "merged", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": "merged",
        "run": "run",
        "step": 2,
        "weights": "merged",
        "url": None,
    }
    run = evaluated(capsys, "run")
    merged = evaluated(capsys, "merged", *card_flags(here / "merged"))
    assert merged["protocol_hash"] == run["protocol_hash"]
    for key in ("problems", "solved_sampled", "solved_greedy", "tokens"):
        assert merged[key] == run[key]
    assert merged["elbo"] == pytest.approx(run["elbo"], abs=1e-4)


def test_a_merged_custom_model_is_evaluated_as_its_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the flags of its card, beside its test problems, and by the YAML file of the run."""
    write_tiny_llada(here / "model")
    for name in ("train", "test"):
        rows = [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(3)]
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {**TEXT, "task.name": "custom", "task.style": "chat", "task.rewards": "exact_answer, my.py:loud"}
    settings |= {
        "task.instruction": "Answer at once,\n'so'.",
        "task.train_source": "train.jsonl",
        "task.max_prompt": 99,
    }
    settings |= {"task.test_source": "test.jsonl", "model.path": "model", "model.dtype": "float32"}
    (here / "my.py").write_text("def loud(prompts, completions, **columns):\n    return [0.5] * len(completions)\n")
    nested: dict[str, object] = {"inherits": "llada"}
    for key, value in settings.items():
        group, _, field = key.rpartition(".")
        inner = nested.setdefault(group, {})
        assert isinstance(inner, dict)
        inner[field] = value
    (here / "mine.yaml").write_text(yaml.safe_dump({**nested.pop("", {}), **nested}))  # type: ignore[dict-item]
    assert main(["train", "mine.yaml", "--trainer.steps", "1", "--out", "run"]) == 0
    assert main(["merge", "run", "--out", "merged"]) == 0
    flags = card_flags(here / "merged")
    assert "--task.test_source" in flags
    assert str(here) not in (here / "merged" / "README.md").read_text()
    run = evaluated(capsys, "run")
    for given in (flags, ["--task", "mine.yaml"]):
        found = evaluated(capsys, "merged", *given)
        assert found["protocol_hash"] == run["protocol_hash"]
        assert (found["problems"], found["tokens"]) == (3, run["tokens"])
        assert found["reward_sampled"] == run["reward_sampled"]
        assert found["elbo"] == pytest.approx(run["elbo"], abs=1e-4)
    (here / "train.jsonl").unlink()  # nobody trains
    assert evaluated(capsys, "merged", *flags)["tokens"] == run["tokens"]
    said = refuse(capsys, "eval", "merged", "--task", "customs")
    assert "task = 'customs': choose one of gsm8k, math, countdown, sudoku, custom, a recipe, or a YAML file" in said
    assert f"did you mean {here / 'merged'}" in refuse(capsys, "eval", str(here / "mergd"), "--task", "gsm8k")


@pytest.mark.usefixtures("here")
def test_a_small_model_needs_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sudoku", *SETTINGS, "--out", "run"]) == 0
    assert main(["merge", "run", "--out", "model"]) == 0
    assert "run after 6 updates: model in model" in capsys.readouterr().out
    assert evaluated(capsys, "model", *card_flags(Path("model")))["elbo"] == evaluated(capsys, "run")["elbo"]


def test_mistakes_are_one_line(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (here / "full").mkdir()
    (here / "full" / "precious").write_text("kept")
    assert main(["train", "sudoku", *SETTINGS, "--trainer.steps", "0", "--out", "run"]) == 0
    assert "run = 'nowhere': no config.yaml there" in refuse(capsys, "merge", "nowhere", "--out", "out")
    assert "out = 'full': it is not empty" in refuse(capsys, "merge", "run", "--out", "full")
    assert "this run trained every weight" in refuse(capsys, "merge", "run", "--out", "out", "--adapter-only")
    assert "push = 'me/mine': log in first" in refuse(capsys, "merge", "run", "--out", "out", "--push", "me/mine")
    assert "push = 'mine'" in refuse(capsys, "merge", "run", "--out", "out", "--push", "mine")
    assert "--out" in refuse(capsys, "merge", "run")
    assert {p.name for p in here.iterdir()} == {"full", "run"}
