"""Tasks and rewards of one's own from the command line: bad starts leave nothing, bad rewards lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dipod import runs
from dipod.cli import main
from tests.checkpoints import write_tiny_llada
from tests.cli.test_cli import refuse
from tests.test_trainer import final_files, without_seconds

YAML = """
inherits: llada
algorithm: fpo+dipod
model: {path: model, lora_rank: 0, dtype: float32}
task:
  name: custom
  train_source: rows.jsonl
  test_source: rows.jsonl
  rewards: my.py:shout, format_tags
  completion_length: 4
  max_prompt: 64
sampler: {block_length: 2, steps: 2, remasking: random, temperature: 1.0}
trainer: {steps: 3, prompts: 2, group_size: 2, inner_updates: 1, evaluate_problems: 2, gap_problems: 0, save_every: 0}
monitor: {every: 0}
"""
MINE = """
calls = 0


def shout(prompts, completions, hint=None, **columns):
    global calls
    calls += 1
    if calls == CALLS:
        raise RuntimeError("out of breath")
    return [float(sum(map(str.isupper, text))) for text in completions]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_tiny_llada(tmp_path / "model")
    (tmp_path / "run.yaml").write_text(YAML)
    (tmp_path / "my.py").write_text(MINE.replace("CALLS", "0"))
    rows = [{"question": "Name?", "hint": "h"}, {"question": "Town?"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_reward_that_raises_loses_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It fails in the third update; mended, the run ends as one that was never disturbed, from any folder."""
    assert main(["train", "run.yaml", "--out", "whole"]) == 0
    (here / "my.py").write_text(MINE.replace("CALLS", "5"))  # two evaluate step 0, then one an update
    said = refuse(capsys, "train", "run.yaml", "--out", "broken")
    assert f"reward function shout of {here / 'my.py'} = 'RuntimeError: out of breath': " in said
    assert "step 2 is saved, go on with `dipod train --resume broken`" in said
    assert [row["step"] for row in runs.read_metrics(here / "broken")] == [0, 1, 2]
    stored = yaml.safe_load((here / "broken" / runs.CONFIG).read_text())
    assert stored["task"]["rewards"] == f"{here / 'my.py'}:shout, format_tags"
    (here / "my.py").write_text(MINE.replace("CALLS", "-1"))
    (here / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as moved:
        for name in ("rows.jsonl", "model"):
            (here / "elsewhere" / name).symlink_to(here / name)
        moved.chdir(here / "elsewhere")
        assert main(["train", "--resume", "../broken"]) == 0
    assert final_files(here / "broken") == final_files(here / "whole")
    metrics = [without_seconds(runs.read_metrics(here / name)) for name in ("broken", "whole")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("row", "flags", "complaint"),
    [
        ({"question": "3 quarters?", "answer": "3/4"}, ["--task.rewards", "numeric_answer"], "rows.jsonl line 3"),
        ({"question": "long " * 90}, ["--task.overlong", "error"], "task.max_prompt = 64: 1 of 3 train prompts"),
        ({"question": "Name?"}, ["--task.rewards", "my.py:nothing"], "my.py has no function nothing; it has shout"),
    ],
)
def test_a_failed_start_leaves_the_folder_free(
    row: dict[str, str], flags: list[str], complaint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (here / "rows.jsonl").read_text().replace("}", ', "answer": "2"}')
    (here / "rows.jsonl").write_text(good + json.dumps(row) + "\n")
    assert complaint in refuse(capsys, "train", "run.yaml", "--out", "run", *flags)
    assert not (here / "run").exists()
    (here / "rows.jsonl").write_text(good)
    assert main(["train", "run.yaml", "--out", "run", "--trainer.steps", "1", "--task.overlong", "error"]) == 0
