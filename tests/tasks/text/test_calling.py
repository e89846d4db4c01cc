"""Reward functions as TRL users have them: what they are given, what they may return, and what bad ones are told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipod.errors import RewardFailed, UserError
from dipod.recipes import check, language, load, overlay
from dipod.tasks.text.calling import total_reward
from dipod.tasks.text.rewards import countdown, gsm8k_correctness
from dipod.tasks.text.rows import DataNote, Row
from dipod.tasks.text.task import TextTask
from tests.tasks.text.test_task import ROWS, custom

ROW: Row = {"question": "q", "answer": "1"}


def reward_of(function: Any, *texts: str, prompts: Any = None, rows: Any = None, **more: Any) -> list[float]:
    return total_reward([function], prompts or ["p"] * len(texts), texts, rows or [ROW] * len(texts), **more)


def test_a_column_that_one_row_has_reaches_the_functions_for_all() -> None:
    def hinted(completions: Any, hint: Any = None, **columns: Any) -> list[float]:
        del columns
        return [float(h is not None) for h in hint or [None] * len(completions)]

    plain, rich = {"question": "a", "answer": "5"}, {"question": "b", "answer": "6", "hint": "h"}
    assert reward_of(hinted, "x", "y", rows=[rich, plain]) == [1, 0]
    assert reward_of(hinted, "x", "y", rows=[plain, rich]) == [0, 1]
    mixed: list[Row] = [{"question": "a", "answer": "5"}, {"question": "b", "numbers": [3, 7, 12], "target": 33}]
    texts = ["<answer>5</answer>", "<answer>3*7+12</answer>"]
    assert total_reward([gsm8k_correctness, countdown], ["", ""], texts, mixed) == [2, 1]
    assert total_reward([gsm8k_correctness, countdown], ["", ""], texts[::-1], mixed[::-1]) == [1, 2]


def test_a_batch_without_a_column_of_the_file_has_it_all_the_same(tmp_path: Path) -> None:
    seen: list[Any] = []

    def note(completions: Any, hint: Any, **columns: Any) -> list[float]:
        del columns
        seen.append(hint)
        return [0.0] * len(completions)

    task = custom(tmp_path, [*ROWS, {**ROWS[0], "hint": "h"}], rewards="exact_answer")
    task = TextTask(task.config, task.tokenizer, _with(task, note))
    problems = task.held_out(2)
    task.reward(problems, torch.full((2, 12), task.tokenizer.eos_id))
    assert seen == [[None, None]]


def _with(task: TextTask, *functions: Any) -> Any:
    from dataclasses import replace

    return replace(task.subject, rewards=list(functions), weights=())


@pytest.mark.parametrize("name", ["prompts", "completions", "completion_ids"])
def test_a_column_with_the_name_of_an_argument_is_left_out_and_said(name: str, tmp_path: Path) -> None:
    task = custom(tmp_path, [{**row, name: 1} for row in ROWS])
    with pytest.warns(DataNote, match=f"not given the column '{name}'"):
        problems = task.held_out(1)
    ids = torch.tensor([task.tokenizer.encode("<answer>0</answer>"[:12])])
    assert task.reward(problems, ids).tolist() == [0.0]


def conversation(completions: Any, **columns: Any) -> list[float]:
    del columns
    return [float(len(c[0]["content"])) for c in completions]


def test_completions_have_the_form_of_their_prompts(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Hello?"}]
    assert reward_of(conversation, "four", prompts=[asked]) == [4.0]
    with pytest.raises(RewardFailed, match=r"set task\.completions to messages"):
        reward_of(conversation, "four")
    for form, expected in (("messages", 4.0), ("text", None), ("auto", None)):
        task = custom(tmp_path, ROWS, completions=form)
        task = TextTask(task.config, task.tokenizer, _with(task, conversation))
        ids = torch.tensor([[*task.tokenizer.encode("four"), task.tokenizer.eos_id]])
        if expected is None:
            with pytest.raises(RewardFailed):
                task.reward(task.held_out(1), ids)
        else:
            assert task.reward(task.held_out(1), ids).tolist() == [expected]


def test_tokens_are_given_up_to_the_end_token_and_with_it(tmp_path: Path) -> None:
    def tokens(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        del prompts, completions, columns
        return [float(len(ids)) for ids in completion_ids]

    task = custom(tmp_path, ROWS)
    task = TextTask(task.config, task.tokenizer, _with(task, tokens))
    end = task.tokenizer.eos_id
    ids = torch.tensor([[65, 66, end, end], [end] * 4, [65, 66, 67, 68]])
    assert task.reward(task.held_out(3), ids).tolist() == [3.0, 1.0, 4.0]


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        (1, 0),
        [np.float32(1), 0],
        [np.bool_(True), np.int64(0)],
        np.array([1.0, 0.0]),
        torch.eye(2)[0],
    ],
)
def test_numbers_of_every_kind(values: Any) -> None:
    assert reward_of(lambda completions, **columns: values, "a", "b") == [1.0, 0.0]  # noqa: ARG005


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), "1", [1.0], np.ones(2), 1j])
def test_anything_but_a_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(RewardFailed, match="return a finite number or None for completion 'b' of the problem 'q'"):
        reward_of(lambda completions: [1.0, value], "a", "b")  # noqa: ARG005


def test_functions_are_given_what_they_take() -> None:
    def exact(completions: Any, answer: Any) -> list[bool]:
        return [a in c for a, c in zip(answer, completions, strict=True)]

    def only_keyword(*, prompts: Any) -> list[int]:
        return [len(p) for p in prompts]

    assert reward_of(exact, "1", "2") == [1.0, 0.0]
    assert reward_of(only_keyword, "1", prompts=["four"]) == [4.0]
    with pytest.raises(RewardFailed, match=r"= 'hint': it takes this argument, and no row has .*question, answer"):
        reward_of(lambda completions, hint: [1.0], "a")  # noqa: ARG005


def test_async_functions_run_at_the_same_time_also_inside_a_loop() -> None:
    def meeting() -> list[Any]:
        running: list[int] = []

        def make(me: int) -> Any:
            async def later(completions: Any, **columns: Any) -> list[float]:
                del columns
                running.append(me)
                for _ in range(100):
                    await asyncio.sleep(0)
                return [float(me) if len(running) == 2 else -1.0] * len(completions)

            return later

        return [make(1), make(2)]

    def total() -> list[float]:
        return total_reward(meeting(), ["p"], ["a"], [ROW], weights=(1.0, 0.5))

    async def inside() -> list[float]:
        return total()

    assert total() == [2.0]
    assert asyncio.run(inside()) == [2.0]

    async def broken(completions: Any) -> list[float]:
        raise OSError(f"{len(completions)} lost")

    with pytest.raises(RewardFailed, match=r"broken of .*test_calling\.py = 'OSError: 1 lost': .*at line \d+"):
        reward_of(broken, "a")


def test_rewards_are_weighted_and_those_that_do_not_apply_add_nothing() -> None:
    functions: list[Any] = [lambda **columns: [1.0, None], lambda **columns: [3.0, 4.0]]  # noqa: ARG005
    assert total_reward(functions, ["p"] * 2, ["a"] * 2, [ROW] * 2, weights=(2.0, 0.5)) == [3.5, 2.0]
    with pytest.warns(DataNote, match="no reward function applies to some"):
        assert reward_of(lambda completions: [None] * len(completions), "a") == [0.0]


def test_a_function_that_raises_is_named_with_its_row() -> None:
    def picky(completions: Any, **columns: Any) -> list[float]:
        del columns
        return [1.0 / (c != "bad") for c in completions]

    with pytest.raises(RewardFailed) as caught:
        reward_of(picky, "good", "bad", rows=[ROW, {**ROW, "question": "second"}])
    said = str(caught.value)
    assert said.startswith(f"reward function picky of {__file__} = 'ZeroDivisionError: ")
    assert "at line " in said
    assert "completion 'bad' of the problem 'second'" in said
    assert "\n" not in said


FILE = """
import numpy as np
from my_helper import scale


def brief(completions, **columns):
    return np.array([scale(-len(c)) for c in completions])


LIMIT = 3
"""


@pytest.fixture
def my(tmp_path: Path) -> Path:
    (tmp_path / "my_helper.py").write_text("def scale(x):\n    return x / 10\n")
    (tmp_path / "my.py").write_text(FILE)
    return tmp_path / "my.py"


def test_functions_come_from_files_and_modules(my: Path, tmp_path: Path) -> None:
    task = custom(tmp_path, ROWS, rewards=f"exact_answer, {my}:brief", reward_weights="2, 1")
    text = "<answer>0</answer>"
    ids = torch.tensor([[*task.tokenizer.encode(text), task.tokenizer.eos_id]])
    assert task.reward(task.held_out(1), ids).tolist() == [pytest.approx(2 - len(text) / 10)]
    task = custom(tmp_path, ROWS, rewards="dipod.tasks.text.rewards:format_tags, gsm8k_correctness")
    assert task.reward(task.held_out(1), ids).tolist() == [2.0]
    known = language(
        overlay(load("countdown-tiny"), {"task.rewards": f"paper, {my}:brief", "task.reward_weights": "2,1"})
    )
    check(known)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("{my}:missing", "my.py has no function missing; it has brief"),
        ("{my}:LIMIT", "has no function LIMIT"),
        ("{my}:", "has no function without a name"),
        ("{folder}/none.py:f", "none.py cannot be read (No such file or directory); give file.py:function"),
        ("{folder}/broken.py:f", "broken.py cannot be imported (SyntaxError: "),
        ("{folder}/raises.py:f", "raises.py cannot be imported (ValueError: no, line 2)"),
        ("no_such_module:f", "give module:function of an installed module"),
        ("exact_answer, nothing", "choose from verify"),
    ],
)
def test_functions_that_cannot_be_had_are_named_at_the_start(
    name: str, complaint: str, my: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "raises.py").write_text("\nraise ValueError('no')\n")
    with pytest.raises(UserError, match=r"^task\.rewards = ") as caught:
        custom(tmp_path, ROWS, rewards=name.format(my=my, folder=tmp_path))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("weights", ["1", "1,2,3", "a,b", "1,nan"])
def test_weights_are_one_number_for_each_function(weights: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.reward_weights = .*one number for each of exact_answer, format_tags"):
        custom(tmp_path, ROWS, rewards="exact_answer, format_tags", reward_weights=weights)


@pytest.mark.parametrize(
    ("row", "rewards", "complaint"),
    [
        (
            {"question": "3 quarters?", "answer": "3/4"},
            "numeric_answer",
            "line 2, column answer = '3/4': give a",
        ),
        ({"question": "q", "puzzle": "12", "solution": "1"}, "sudoku", "line 2, puzzle = '12': give 16 digits"),
        ({"question": "q"}, "exact_answer", "line 2 = ['question']: add the column answer"),
        ({"question": "q", "answer": None}, "exact_answer, format_tags", "add the column answer"),
        ({"question": "q", "target": 3}, "exact_answer, countdown", "add the column answer or numbers and target"),
    ],
)
def test_bad_references_are_refused_at_the_start(row: Row, rewards: str, complaint: str, tmp_path: Path) -> None:
    good = {"question": "2?", "answer": "2", "numbers": [1, 2], "target": 3, "puzzle": "1234341221434320"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**good, "solution": "1234341221434321"}) + "\n" + json.dumps(row) + "\n")
    given = {"task.name": "custom", "task.tokenizer": "bytes", "task.rewards": rewards}
    config = overlay(load("sudoku"), {**given, "task.train_source": str(path), "task.test_source": str(path)})
    with pytest.raises(UserError) as caught:
        check(config)
    assert str(caught.value).startswith(f"{path} line 2")
    assert complaint in str(caught.value)


def test_a_preset_leaves_the_users_own_rewards(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    given = {"task.name": "custom", "task.tokenizer": "bytes", "task.rewards": "exact_answer"}
    sources = {"task.train_source": str(path), "task.test_source": str(path)}
    config = language(overlay(overlay(load("sudoku"), {**given, **sources}), {"preset": "released"}))
    assert getattr(config.task, "rewards") == "exact_answer"  # noqa: B009
    assert config.sampler.noise == "released-bf16"
    check(config)
    published = overlay(load("gsm8k-llada-spg"), {"preset": "released"})
    own = overlay(overlay(load("gsm8k-llada-spg"), {"task.rewards": "xml_count, integer"}), {"preset": "released"})
    assert getattr(published.task, "rewards") == "released"  # noqa: B009
    assert getattr(own.task, "rewards") == "xml_count, integer"  # noqa: B009
