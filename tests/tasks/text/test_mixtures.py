"""Data in the forms that users have: files of four kinds, conversations, mixtures, several test sets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from scipy.stats import chi2

from dipod.errors import UserError
from dipod.model_card import _spelled
from dipod.recipes import (
    build_policy,
    build_task,
    build_trainer,
    check,
    language,
    load,
    overlay,
    read_run_config,
    to_yaml,
)
from dipod.tasks.text.mixtures import Source, parse_sources, places
from dipod.tasks.text.rows import DataNote, Row
from dipod.tasks.text.sources import load_rows, read_rows
from dipod.tasks.text.task import OverlongPrompts, TextTask
from tests.checkpoints import write_tiny_llada
from tests.tasks.text.test_task import ROWS, custom

TURNS = [{"role": "user", "content": "Capital of France?"}]
CHAT: list[Row] = [
    {"messages": TURNS, "answer": "Paris"},
    {"messages": [*TURNS, {"role": "assistant", "content": "Paris"}]},
    {"prompt": TURNS, "answer": "Paris"},
]


def write(path: Path, rows: list[Row]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows, indent=1))
    return str(path)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows{ending}", ROWS)
    assert read_rows(path, ("question", "answer")) == ROWS
    numbers = write(tmp_path / f"numbers{ending}", [{"nums": [3, 7, 1], "target": 11}])
    assert load_rows("countdown", "test", numbers)[0]["numbers"] == [3, 7, 1]
    said = write(tmp_path / f"chat{ending}", [CHAT[0]])
    assert read_rows(said, ("question",)) == [CHAT[0]]


def test_json_in_its_other_forms(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}))
    assert read_rows(str(path), ("question",)) == ROWS
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read_rows(str(path), ("question",)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("rows.json", b"[{", "not a JSON file in UTF-8"),
        ("rows.json", b"[1]", "rows.json entry 1 = 1: give a list of JSON objects"),
        ("rows.json", b'[{"question": "q"}, {}]', "rows.json entry 2 = []: add the column question"),
        ("rows.json", b"7", "give a list of JSON objects"),
        ("rows.parquet", b"PAR1", "not a parquet file that can be read"),
        ("rows.txt", b"", "give a .jsonl, .json, .csv, .parquet file, or a dataset on the hub"),
    ],
)
def test_bad_files_are_named(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_rows(str(tmp_path / name), ("question",))
    assert complaint in str(caught.value)


def test_conversations_are_asked_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", CHAT)
    assert read_rows(path, ("question",)) == [CHAT[0]] * 3
    plain = write(tmp_path / "plain.jsonl", [{"prompt": "Capital of France?", "answer": "Paris"}])
    assert read_rows(plain, ("question",)) == [{"question": "Capital of France?", "answer": "Paris"}]
    task = custom(tmp_path, CHAT, system="Be brief.")
    assert task.tokenizer.decode(task.held_out(1).prompts[0], keep_special=True) == task.tokenizer.decode(
        task.tokenizer.chat([{"role": "system", "content": "Be brief."}, *TURNS]), keep_special=True
    )
    own = [{"role": "system", "content": "Rhyme."}, *TURNS]
    task = custom(tmp_path, [{"messages": own, "answer": "Paris"}], system="Be brief.")
    assert list(task.held_out(1).prompts[0]) == task.tokenizer.chat(own)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": "hello"}, "line 1, messages = 'hello': give a conversation"),
        ({"messages": [{"role": "user"}]}, "give a conversation: a list of"),
        ({"messages": []}, "end it with a user's turn"),
        ({"messages": [{"role": "assistant", "content": "Paris"}]}, "end it with a user's turn"),
    ],
)
def test_bad_conversations_are_named(row: Row, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(write(tmp_path / "rows.jsonl", [row]), ("question",))
    assert complaint in str(caught.value)


def test_examples_come_before_the_problem_as_turns(tmp_path: Path) -> None:
    shown = (("1 + 1?", "<answer>2</answer>"), ("2 + 2?", "<answer>4</answer>"))
    task = custom(tmp_path, ROWS, system="S", examples=shown, instruction="Add.", max_prompt=400)
    expected = [{"role": "system", "content": "S"}]
    for question, answer in shown:
        expected += [{"role": "user", "content": f"Add.\n\n{question}"}, {"role": "assistant", "content": answer}]
    expected.append({"role": "user", "content": "Add.\n\n0 + 0?"})
    assert list(task.held_out(1).prompts[0]) == task.tokenizer.chat(expected)


def test_examples_and_sources_in_yaml_survive_a_round_trip(tmp_path: Path) -> None:
    written = {
        "inherits": "llada",
        "task": {
            "name": "custom",
            "train_source": {"a.jsonl": 3, "b.jsonl": 1.5},
            "test_source": {"easy": "a.jsonl", "hard": "b.jsonl"},
            "rewards": ["exact_answer", "format_tags"],
            "reward_weights": [1, 0.5],
            "system": "S",
            "examples": [{"question": "1 + 1?", "answer": 2}],
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(written))
    config = language(load(str(path)))
    task: Any = config.task
    assert task.train_source == "a.jsonl*3, b.jsonl*1.5"
    assert task.test_source == "easy=a.jsonl, hard=b.jsonl"
    assert (task.rewards, task.reward_weights) == ("exact_answer, format_tags", "1, 0.5")
    assert task.examples == (("1 + 1?", "2"),)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert read_run_config(tmp_path / "again.yaml") == config
    typed = overlay(config, {"task.examples": '[{question: "1 + 1?", answer: 2}]'})
    assert typed == config
    assert overlay(config, {"task.examples": _spelled("task.examples", task.examples)}) == config, "as a card says it"
    for bad in ("[1]", "{", "7", "[{question: q}]"):
        with pytest.raises(UserError, match=r"task\.examples = .*give a list of"):
            overlay(config, {"task.examples": bad})


def test_sources_are_read_from_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_sources("a.jsonl", "f") == [Source("a.jsonl", "a")]
    assert parse_sources("a.jsonl*3, o/b", "f") == [Source("a.jsonl", "a", 3.0), Source("o/b", "b", 1.0)]
    assert parse_sources("easy=a.jsonl,b.jsonl", "f") == [Source("a.jsonl", "easy"), Source("b.jsonl", "b")]
    odd = tmp_path / "x=a, b*2.jsonl"
    odd.write_text("")
    assert parse_sources(odd.name, "f") == [Source(odd.name, "x=a, b*2")]
    for bad in ("a.jsonl*0", "a.jsonl*x", "a.jsonl*inf", "d/a.jsonl, e/a.jsonl"):
        with pytest.raises(UserError, match=r"^f = "):
            parse_sources(bad, "f")


def test_a_mixture_draws_its_sources_by_weight_and_every_problem_of_a_source_in_turn() -> None:
    """Shares against a chi-square test; within a source, each of its epochs holds every problem once."""
    parts, weights = [0] * 10 + [1] * 40 + [2] * 5, [3.0, 1.0, 0.5]
    drawn = places(parts, weights, 7, range(9000))
    counts = Counter(parts[at] for at in drawn)
    expected = [9000 * weight / sum(weights) for weight in weights]
    statistic = sum((counts[part] - wanted) ** 2 / wanted for part, wanted in enumerate(expected))
    assert statistic < chi2.ppf(0.999, 2)
    assert statistic < 0.1 * sum((counts[p] - 3000) ** 2 / 3000 for p in range(3)), "it can tell other shares"
    for part in range(3):
        own = [at for at in drawn if parts[at] == part]
        size = parts.count(part)
        epochs = [tuple(own[i : i + size]) for i in range(0, len(own) - size + 1, size)]
        assert all(sorted(epoch) == [at for at, its in enumerate(parts) if its == part] for epoch in epochs)
        assert len(set(epochs)) > 1
    one_by_one = [place for at in range(8000, 8010) for place in places(parts, weights, 7, range(at, at + 1))]
    assert one_by_one == drawn[8000:8010]


def test_without_weights_a_mixture_is_one_file(tmp_path: Path) -> None:
    halves = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", ROWS[:4]), ("b", ROWS[4:]))]
    together = custom(tmp_path, ROWS)
    mixed = custom(tmp_path, ROWS, train_source=", ".join(halves))
    assert mixed.size() == together.size() == 10
    assert mixed.draw(7, "train", 3, 2).rows == together.draw(7, "train", 3, 2).rows


def test_a_source_that_loses_all_its_problems_is_named(tmp_path: Path) -> None:
    short = write(tmp_path / "a.jsonl", ROWS)
    long = write(tmp_path / "b.jsonl", [{"question": "x" * 300, "answer": "0"}])
    task = custom(tmp_path, ROWS, train_source=f"{short}*1, {long}*1", overlong="drop")
    said = r"task\.train_source = '.*b\.jsonl': all its prompts are longer than task\.max_prompt"
    with pytest.raises(UserError, match=said), pytest.warns(OverlongPrompts):
        task.draw(1, "train", 0, 0)


def test_columns_of_a_mixture_may_differ(tmp_path: Path) -> None:
    numbers = {"question": "Reach 33 with 3, 7 and 12.", "numbers": [3, 7, 12], "target": 33}
    sources = {"a": write(tmp_path / "a.jsonl", ROWS), "b": write(tmp_path / "b.json", [numbers])}
    task = custom(tmp_path, ROWS, train_source=f"{sources['a']}*1, {sources['b']}*1", rewards="exact_answer, countdown")
    drawn = task.draw(40, "train", 0, 0)
    assert 10 <= sum(row["numbers"] is not None for row in drawn.rows) <= 30
    texts = ["<answer>3*7+12</answer>" if row["numbers"] else f"<answer>{row['answer']}</answer>" for row in drawn.rows]
    ids = [[*task.tokenizer.encode(text), task.tokenizer.eos_id] for text in texts]
    completion = torch.tensor([row + [task.tokenizer.eos_id] * (30 - len(row)) for row in ids])
    assert task.reward(drawn, completion).tolist() == [1.0] * 40
    assert task.solved(drawn, completion).all()
    held = task.held_out(2)
    assert held.rows[0]["numbers"] is None, "the test set has the columns of the training set where rewards want them"
    assert task.reward(held, completion[:2]).shape == (2,)


def test_several_test_sets_are_evaluated_by_name(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path / "model")
    sizes = {"easy": 3, "hard": 5}
    files = {name: write(tmp_path / f"{name}.jsonl", ROWS[:size]) for name, size in sizes.items()}
    given = {
        "task.name": "custom",
        "model.path": str(tmp_path / "model"),
        "model.lora_rank": 0,
        "model.dtype": "float32",
        "task.train_source": files["easy"],
        "task.test_source": files,
        "task.rewards": "exact_answer, format_tags",
        "task.completion_length": 4,
        "sampler.block_length": 2,
        "sampler.steps": 2,
        "trainer.evaluate_problems": 4,
        "trainer.gap_problems": 0,
    }
    config = language(overlay(load("llada"), given))
    check(config)
    task = build_task(config)
    assert isinstance(task, TextTask)
    held = task.held_out(4)
    assert task.sets(held) == ["easy"] * 3 + ["hard"] * 4
    trainer = build_trainer(config, build_policy(config, task), task)
    found = trainer.evaluate()
    for name in ("reward_sampled", "solved_greedy", "tokens"):
        easy, hard = float(found[f"{name}/easy"]), float(found[f"{name}/hard"])
        assert found[name] == pytest.approx((3 * easy + 4 * hard) / 7)


def test_countdown_files_are_taken_by_the_setting_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    numbers = [[3, 7, 12, 2], [3, 7, 1], [3, 7, 1, 5]]
    rows: list[Row] = [{"nums": several, "target": 11} for several in numbers]
    mixed, four = write(tmp_path / "mixed.jsonl", rows), write(tmp_path / "four.jsonl", [rows[0], rows[2]])

    def sizes(source: str, numbers: int) -> list[int]:
        given = {"task.train_source": source, "task.numbers": numbers, "task.held_back": 0, "task.tokenizer": "bytes"}
        config = language(overlay(load("sudoku"), {"task.name": "countdown", **given}))
        task = build_task(config)
        assert isinstance(task, TextTask)
        return sorted(len(row["numbers"]) for row in task.rows("train") or [])

    assert sizes(four, 4) == [4, 4]
    assert sizes(mixed, 0) == [3, 4, 4]
    with pytest.warns(
        DataNote, match=r"2 of 3 problems of .* are left out: .*task\.numbers \(3\) numbers; 0 takes all"
    ):
        assert sizes(mixed, 3) == [3]
    with pytest.raises(UserError, match=r"task\.numbers = 3: no problem .* number \(they have 4\), or 0 for all"):
        sizes(four, 3)
    with pytest.raises(UserError, match=r"task\.numbers = 0: generated problems have 2 to 6"):
        check(overlay(load("countdown-tiny"), {"task.numbers": 0}))
