"""Tasks and rewards of one's own from the command line: bad starts leave nothing, bad rewards lose nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"
SMALL = {
    "model.path": "model",
    "model.lora_rank": 0,
    "model.dtype": "float32",
    "algorithm": "fpo",
    "task.completion_length": 4,
    "task.max_prompt": 400,
    "sampler.block_length": 2,
    "sampler.steps": 2,
    "trainer.prompts": 4,
    "trainer.group_size": 2,
    "trainer.inner_updates": 1,
    "trainer.evaluate_problems": 2,
    "trainer.gap_problems": 0,
    "monitor.every": 0,
}


def test_the_examples_of_the_docs_train(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both YAML files as they stand, with the files that they name, on a tiny model."""
    sums = [{"question": f"{i} + {i}?", "answer": str(2 * i), "level": 1} for i in range(6)]
    chats = [{"messages": [{"role": "user", "content": f"{i} * {i}?"}], "answer": str(i * i)} for i in range(2)]
    (here / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    (here / "chats.json").write_text(json.dumps(chats))
    pq.write_table(pa.Table.from_pylist(chats), here / "chats.parquet")
    for name in ("my_train.jsonl", "my_test.jsonl"):
        (here / name).write_text((here / "sums.jsonl").read_text())
    (here / "my.py").write_text(
        "def brief(completions, completion_ids, answer, level=None):\n"
        "    assert {len(completions), len(answer), len(level)} == {len(completion_ids)}\n"
        "    return [len(ids) / 4 for ids in completion_ids]\n"
    )
    first, second = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    (here / "first.yaml").write_text(first)
    (here / "second.yaml").write_text(second)
    small = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["train", "first.yaml", "--dry-run", *small]) == 0
    assert main(["train", "second.yaml", "--out", "two", *small]) == 0
    rows = runs.read_metrics(here / "two")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4], "two epochs of eight problems, four a step"
    assert {"solved_sampled/easy", "solved_greedy/hard", "reward_sampled/hard"} <= set(rows[-1])
    assert "resampled_groups" in rows[1]
    capsys.readouterr()
    assert main(["eval", "two"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith("greedy")][1:] == ["easy", "hard"]
    assert "top-p 0.95" in printed
