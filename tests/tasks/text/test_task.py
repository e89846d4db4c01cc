"""A text task as the trainer sees it: what counts, what the model sees, and what bad input is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from dipod.errors import UserError
from dipod.recipes import build_task, check, language, load, overlay
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.grading import grade
from dipod.tasks.text.rows import Row
from dipod.tasks.text.subject import total_reward
from dipod.tasks.text.task import OverlongPrompts, TextTask, build_text_task


def countdown(**changes: Any) -> TextTask:
    config = load("countdown-tiny").task
    assert isinstance(config, TextConfig)
    return build_text_task(replace(config, **changes))


def custom(folder: Path, rows: list[Row], **changes: Any) -> TextTask:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "name": "custom",
        "train_source": str(path),
        "test_source": str(path),
        "rewards": "exact_answer",
        "tokenizer": "bytes",
        "max_prompt": 120,
        "completion_length": 12,
    }
    return build_text_task(TextConfig(**{**settings, **changes}))


ROWS: list[Row] = [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(10)]


def test_prompts_are_padded_on_the_left_and_read_back() -> None:
    task = countdown()
    problems = task.draw(5, "train", 0, 0)
    observation = task.observe(problems)
    assert observation.valid[:, -1].all()
    for ids, valid, row in zip(observation.ids, observation.valid, problems.rows, strict=True):
        text = task.tokenizer.decode(ids[valid].tolist())
        assert text == f"numbers {' '.join(map(str, row['numbers']))} target {row['target']}"


@pytest.mark.parametrize(
    ("rule", "counts"), [("inclusive", [3, 1, 6]), ("exclusive", [2, 1, 6]), ("canvas", [6, 6, 6])]
)
def test_end_rules(rule: str, counts: list[int]) -> None:
    """EOS at place 2, at place 0, and nowhere; never an action without a token."""
    task = countdown(completion_length=6, end_rule=rule)
    end, mask = task.tokenizer.eos_id, task.tokenizer.mask_id
    ids = torch.tensor([[4, 5, end, 4, end, 4], [end] * 6, [4] * 6])
    action, counted = task.complete(task.draw(3, "train", 0, 0), ids)
    assert counted.sum(-1).tolist() == counts
    assert (counted == (torch.arange(6) < torch.tensor(counts)[:, None])).all()
    assert (action.ids[counted] == ids[counted]).all()
    assert (action.ids[~counted] == mask).all()
    assert action.valid.all()
    kept, _ = countdown(completion_length=6, end_rule=rule, after_end="keep").complete(task.draw(3, "train", 0, 0), ids)
    assert torch.equal(kept.ids, ids)
    dropped, _ = countdown(completion_length=6, end_rule=rule, after_end="drop").complete(
        task.draw(3, "train", 0, 0), ids
    )
    assert torch.equal(dropped.valid, counted)


def test_rewards_and_grades_are_taken_on_the_text_up_to_the_end() -> None:
    task = countdown()
    problems = task.draw(3, "train", 0, 0)
    right = [f"<answer> {' '.join(_spaced(row['solution']))} </answer>" for row in problems.rows]
    texts = [right[0], right[1].replace("<answer>", ""), right[2]]
    rows = []
    for text in texts:
        ids = [*task.tokenizer.encode(text.strip()), task.tokenizer.eos_id]
        rows.append((ids + task.tokenizer.encode("</answer> 1 1 1 1"))[:10])
    width = max(map(len, rows))
    completion = torch.tensor([row + [task.tokenizer.eos_id] * (width - len(row)) for row in rows])
    torch.testing.assert_close(task.reward(problems, completion), torch.tensor([1.0, 0.0, 1.0]))
    assert task.solved(problems, completion).tolist() == [True, False, True]
    shown = task.show(problems, completion)
    assert shown[0]["completion"] == texts[0]
    assert shown[0]["reference"] == {key: problems.rows[0][key] for key in ("numbers", "target")}


def _spaced(expression: str) -> list[str]:
    words: list[str] = []
    for letter in expression:
        if letter.isdigit() and words and words[-1].isdigit():
            words[-1] += letter
        else:
            words.append(letter)
    return words


def test_the_prior_has_the_form_and_a_share_of_the_solutions() -> None:
    for share in (0.0, 0.5, 1.0):
        task = countdown(solution_share=share)
        generator = torch.Generator().manual_seed(0)
        _, action, counted = task.prior(150, generator)
        assert counted.all(), "the whole canvas is the action"
        texts = task.texts(action.ids)
        assert all(text.startswith("<answer> ") and text.endswith(" </answer>") for text in texts)
        problems = task._made(150, "train", torch.Generator().manual_seed(0))
        solved = float(task.solved(problems, action.ids).float().mean())
        assert solved == pytest.approx(share + (1 - share) * 0.06, abs=0.12)


def test_files_are_shuffled_anew_every_epoch_and_every_problem_comes_once(tmp_path: Path) -> None:
    task = custom(tmp_path, ROWS)
    epochs = [[row["answer"] for s in range(5) for row in task.draw(2, "train", 3, 5 * e + s).rows] for e in range(2)]
    assert all(sorted(epoch, key=int) == [row["answer"] for row in ROWS] for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [row["answer"] for row in task.held_out(3).rows] == ["0", "2", "4"]
    assert task.draw(2, "train", 3, 1).rows == task.draw(2, "train", 3, 1).rows
    one_by_one = [row for step in range(50) for row in task.draw(1, "train", 3, step).rows]
    assert [row for step in range(2) for row in task.draw(25, "train", 3, step).rows] == one_by_one


EXAMPLES_WORKED_OUT = {"gsm8k": str(4 * 6 - 5), "math": str(2 + 5)}


@pytest.mark.parametrize("name", get_args(get_type_hints(TextConfig)["name"]))
def test_the_example_of_every_subject_is_solved_by_its_own_answer(name: Any, tmp_path: Path) -> None:
    known = TextConfig(name=name, tokenizer="bytes", max_prompt=4000)
    task = custom(tmp_path, ROWS) if name == "custom" else build_text_task(known)
    (row,) = task.example().rows
    answer = row.get("solution") or row["answer"]
    assert answer == EXAMPLES_WORKED_OUT.get(name, answer)
    said = rf"\boxed{{{answer}}}" if name == "math" else answer
    text = f"<reasoning>\nSo it is.\n</reasoning>\n<answer>\n{said}\n</answer>\n"
    grade = task.subject.grade(text, row)
    assert grade is not None
    assert grade.solved
    highest = {"gsm8k": 4.0, "math": 3.0}.get(name, 1.0)
    assert total_reward(task.subject.rewards, [""], [text], [row]) == [highest]
    if name == "sudoku":
        assert all(clue in ("0", digit) for clue, digit in zip(row["puzzle"], answer, strict=True))
        lines = [answer[4 * i : 4 * i + 4] for i in range(4)] + [answer[i::4] for i in range(4)]
        boxes = [answer[i : i + 2] + answer[i + 4 : i + 6] for i in (0, 2, 8, 10)]
        assert all(sorted(group) == list("1234") for group in lines + boxes)


def test_a_custom_task_is_asked_rewarded_and_graded(tmp_path: Path) -> None:
    task = custom(tmp_path, ROWS, instruction="Add.", eval_prefill="<answer>")
    problems = task.held_out(2)
    text = task.tokenizer.decode(problems.prompts[1], keep_special=True)
    assert "Add.\n\n1 + 1?" in text
    assert text.endswith("<answer>")
    assert not task.tokenizer.decode(task.draw(1, "train", 0, 0).prompts[0]).endswith("<answer>")
    with pytest.raises(UserError, match=r"task\.rewards = 'mine': choose from verify"):
        custom(tmp_path, ROWS, rewards="mine")
    with pytest.raises(UserError, match="question"):
        custom(tmp_path, [{"answer": "1"}]).draw(1, "train", 0, 0)
    with pytest.raises(UserError, match=r"task\.test_source = '': name a file with question and answer"):
        custom(tmp_path, ROWS, test_source="")


def test_prompts_that_are_too_long_are_an_error_or_what_the_settings_say(tmp_path: Path) -> None:
    rows = [*ROWS, {"question": "x" * 300, "answer": "0"}]
    with pytest.raises(UserError, match=r"task\.max_prompt = 120: 1 of 11 train prompts are longer, up to \d+ tokens"):
        custom(tmp_path, rows).draw(1, "train", 0, 0)
    dropped = custom(tmp_path, rows, overlong="drop")
    said = r"1 of 11 test prompts are longer than task\.max_prompt \(120 tokens\) and "
    with pytest.warns(OverlongPrompts, match=said + "left out"):
        assert len(dropped.held_out(100)) == 10
    assert list(dropped.notes) == ["test"]
    with pytest.warns(OverlongPrompts, match=said + "cut at their beginning"):
        cut = custom(tmp_path, rows, overlong="truncate-left").held_out(100)
    assert max(map(len, cut.prompts)) == 120
    assert len(cut) == 11
    with pytest.raises(UserError, match=r"every test prompt is longer, from \d+ tokens on"):
        custom(tmp_path, ROWS, overlong="drop", max_prompt=3).held_out(1)


def test_problems_that_are_made_are_never_left_out() -> None:
    """A step asks for so many, and a group would be missing."""
    with pytest.raises(UserError, match=r"train prompts are longer, .*set task\.overlong to truncate-left"):
        countdown(max_prompt=3, overlong="drop").draw(4, "train", 0, 0)


class Reward:
    """A reward function with a name."""

    __name__ = "mine"

    def __init__(self, result: object) -> None:
        self.result = result

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> Any:
        del prompts, completions, columns
        return self.result


def test_rewards_add_up_and_none_adds_nothing() -> None:
    functions: list[Any] = [Reward([1.0, None]), Reward([0.5, 0.25])]
    assert total_reward(functions, ["p", "p"], ["a", "b"], [{}, {}]) == [1.5, 0.25]


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ([1.0], "return a list with one reward for each of the 2 completions"),
        ([1.0, float("nan")], "return a finite number or None for completion 'b'"),
        ([1.0, "high"], "return a finite number or None"),
        ([1.0, 10**400], "return a finite number or None"),
        ([1.0, np.float32("inf")], "return a finite number or None"),
        (3.0, "return a list"),
    ],
)
def test_bad_rewards_are_named(result: object, complaint: str) -> None:
    functions: list[Any] = [Reward(result)]
    with pytest.raises(UserError, match="reward function mine = ") as caught:
        total_reward(functions, ["p", "p"], ["a", "b"], [{}, {}])
    assert complaint in str(caught.value)


def test_settings_that_do_not_go_together_are_refused() -> None:
    for settings, complaint in (
        ({"task.name": "gsm8k", "task.tokenizer": "words"}, "its words are those of countdown"),
        ({"task.name": "gsm8k"}, "name the model whose tokenizer is used"),
        ({"task.name": "gsm8k", "task.tokenizer": "bytes", "task.train_source": "generate"}, "countdown and sudoku"),
        ({"task.name": "gsm8k", "task.rewards": "generous"}, "task.rewards = 'generous'"),
        ({"task.name": "gsm8k", "task.shots": 2}, "task.shots = 2: gsm8k has 0 worked examples"),
    ):
        with pytest.raises(UserError) as caught:
            check(
                overlay(load("sudoku"), {"task.tokenizer": "bytes" if "rewards" in complaint else "model", **settings})
            )
        assert complaint in str(caught.value)


def test_board_and_text_tasks_share_the_recipe_mechanism() -> None:
    assert build_task(language(load("sudoku"))).completion_length == 8
    assert build_task(language(load("countdown-tiny"))).completion_length == 10


@pytest.mark.parametrize("read", ["strict", "released rewards", "d1"])
def test_training_and_scoring_read_the_same_text(read: str) -> None:
    """An end of turn inside an answer ends it; the released rewards read on, the published parser as it is given."""
    settings = {"rewards": "released"} if read == "released rewards" else {"parser": read}
    task = build_text_task(TextConfig(tokenizer="bytes", max_prompt=999, completion_length=60, **settings))  # type: ignore[arg-type]
    said = ["<answer>4<|eot_id|>2</answer>", "<answer>42</answer><|eot_id|>", r"<|endoftext|>\boxed{42}"]
    said += ["<|startoftext|><answer>42</answer>", "<answer>4<|start_header_id|>2</answer>"]
    rows = [[*task.tokenizer.encode(text), *[task.tokenizer.eos_id] * 60][:60] for text in said]
    problems = replace(task.example()[:1].repeat_interleave(5), rows=({"question": "?", "answer": "42"},) * 5)
    completion = torch.tensor(rows)
    parser = task.config.parser
    scored = [grade("gsm8k", parser, task.tokenizer.decode(ids, keep_special=True), "42").solved for ids in rows]
    assert task.solved(problems, completion).tolist() == scored
    assert scored == {"d1": [False, True, True, True, False]}.get(read, [False, True, False, True, False])
    full = {"released rewards": [True, True, False, True, True]}.get(read, [False, True, False, True, False])
    assert (task.reward(problems, completion) >= 2).tolist() == full
    assert task.texts(completion) == ["<answer>4", "<answer>42</answer>", "", "<answer>42</answer>", said[4]]
    own = {f.__name__: f(prompts=[""] * 5, completions=said, answer=["42"] * 5) for f in task.subject.rewards}
    correct = next(scores for name, scores in own.items() if "correctness" in name)
    assert [score == 2.0 for score in correct] == full
