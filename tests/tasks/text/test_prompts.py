"""Prompts: one user message with everything a parser relies on, and worked examples that are right."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dipod.errors import UserError
from dipod.tasks.text.grading import grade
from dipod.tasks.text.prompts import DEMONSTRATIONS, Demonstration, messages
from dipod.tasks.text.rewards import soft_format, strict_format
from dipod.tasks.text.rows import TASKS


@pytest.mark.parametrize("stage", ["train", "eval"])
@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_is_one_user_message_that_ends_with_the_question(task: str, stage: Any) -> None:
    (message,) = messages(task, {"question": "THE QUESTION?", "answer": "SECRET"}, stage)
    assert message["role"] == "user"
    assert message["content"].endswith("\n\nTHE QUESTION?")
    assert "SECRET" not in message["content"]
    for tag in ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>"):
        assert message["content"].count(tag) == 1


def test_the_layout_that_is_shown_earns_the_format_rewards() -> None:
    content = messages("gsm8k", {"question": ""})[0]["content"]
    layout = content[content.index("<reasoning>\n") :].strip() + "\n"
    assert strict_format([""], [layout]) == soft_format([""], [layout]) == [0.5]


def test_a_box_is_asked_for_in_evaluations_and_on_math() -> None:
    asked = {
        (task, stage): "\\boxed{your answer}" in messages(task, {"question": ""}, stage)[0]["content"]
        for task in TASKS
        for stage in ("train", "eval")
    }
    assert {key for key, box in asked.items() if box} == {
        ("gsm8k", "eval"),
        ("math", "train"),
        ("math", "eval"),
        ("countdown", "eval"),
    }


def test_the_countdown_example_is_right() -> None:
    for stage in ("train", "eval"):
        content = messages("countdown", {"question": ""}, stage)[0]["content"]
        found = re.search(r"numbers ([\d, ]+) and the target (\d+), (\S+) is right", content)
        assert found
        reference = {"numbers": [int(n) for n in found[1].split(",")], "target": int(found[2])}
        assert grade("countdown", "strict", f"<answer>{found[3]}</answer>", reference).solved


@pytest.mark.parametrize("shown", DEMONSTRATIONS, ids=lambda shown: shown.puzzle)
def test_every_step_of_a_worked_example_is_forced(shown: Demonstration) -> None:
    cells = [int(digit) for digit in shown.puzzle]
    rows = ["".join(line.split()) for line in shown.reasoning.splitlines()[1:5]]
    assert "".join(rows) == shown.puzzle, "it begins with the grid"
    for line in shown.reasoning.splitlines()[5:]:
        step = re.search(r"r(\d)c(\d) = (\d)\.$", line)
        assert step, line
        row, column, digit = int(step[1]) - 1, int(step[2]) - 1, int(step[3])
        assert cells[4 * row + column] == 0
        units = {
            "row": {cells[4 * row + c] for c in range(4)} - {0},
            "column": {cells[4 * r + column] for r in range(4)} - {0},
            "box": {cells[4 * r + c] for r in range(4) for c in range(4) if (r // 2, c // 2) == (row // 2, column // 2)}
            - {0},
        }
        assert {1, 2, 3, 4} - units["row"] - units["column"] - units["box"] == {digit}, line
        check_reason(line, row, column, digit, units)
        cells[4 * row + column] = digit
    assert "".join(map(str, cells)) == shown.solution


def check_reason(line: str, row: int, column: int, digit: int, units: dict[str, set[int]]) -> None:
    """What a step gives as its reason is true: the unit it names, and the digits it says that this has or lacks."""
    reason = line.rpartition(":")[0]
    if reason.startswith(f"r{row + 1}c{column + 1} meets"):
        stated = re.findall(r"((?:\d and )?\d) in its (row|column|box)", reason)
        met = {unit: {int(d) for d in re.findall(r"\d", digits)} for digits, unit in stated}
        assert all(digits <= units[unit] for unit, digits in met.items())
        assert set().union(*met.values()) == {1, 2, 3, 4} - {digit}
        return
    side = f"{'upper' if row < 2 else 'lower'} {'left' if column < 2 else 'right'} box"
    names = {f"row {row + 1}": "row", f"column {column + 1}": "column", side: "box"}
    (unit,) = [kind for name, kind in names.items() if name in reason.lower()]
    assert units[unit] == {1, 2, 3, 4} - {digit}
    has = re.search(r"has (\d, \d and \d)$", reason)
    if has:
        assert {int(d) for d in re.findall(r"\d", has[1])} == units[unit]
    else:
        assert re.search(rf"lacks only {digit}$|leaves {digit} in", reason)


@pytest.mark.parametrize("shots", [0, 1, 2, 3])
def test_sudoku_shows_as_many_examples_as_asked_for(shots: int) -> None:
    content = messages("sudoku", {"question": "Puzzle: 0"}, "eval", shots)[0]["content"]
    for at, shown in enumerate(DEMONSTRATIONS):
        assert (f"Puzzle: {shown.puzzle}\n<reasoning>" in content) == (at < shots)
        assert (f"<answer>\n{shown.solution}\n</answer>" in content) == (at < shots)


def test_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="shots = 1: gsm8k has 0 worked examples"):
        messages("gsm8k", {"question": ""}, shots=1)
    with pytest.raises(UserError, match="shots = 4: sudoku has 3 worked examples"):
        messages("sudoku", {"question": ""}, shots=4)
    with pytest.raises(UserError, match="stage = 'test': choose train or eval"):
        messages("math", {"question": ""}, "test")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="task = 'chess'"):
        messages("chess", {"question": ""})
