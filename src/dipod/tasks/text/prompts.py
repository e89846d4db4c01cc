r"""What a problem looks like to a model: one user message, instructions first.

The published prompts ask for the same things in other words: tags in training; in evaluation also ``\boxed`` inside
the answer tags, apart from Sudoku. Published evaluations began the model's turn with ``<reasoning>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dipod.errors import require
from dipod.tasks.text.rows import Row, require_task

Stage = Literal["train", "eval"]


@dataclass(frozen=True)
class Demonstration:
    """A Sudoku solved step by step, every step forced by the cells before it."""

    puzzle: str
    solution: str
    reasoning: str


DEMONSTRATIONS = (
    Demonstration(
        "3014002020004130",
        "3214142323414132",
        """As a grid, with rNcM for row N, column M:
3 0 1 4
0 0 2 0
2 0 0 0
4 1 3 0
Row 1 lacks only 2: r1c2 = 2.
Row 4 lacks only 2: r4c4 = 2.
Column 1 lacks only 1: r2c1 = 1.
The upper left box now has 3, 2 and 1: r2c2 = 4.
Row 2 has 1, 4 and 2: r2c4 = 3.
Column 2 has 2, 4 and 1: r3c2 = 3.
Column 3 has 1, 2 and 3: r3c3 = 4.
That leaves 1 in row 3: r3c4 = 1.""",
    ),
    Demonstration(
        "0000100420013142",
        "4213132424313142",
        """As a grid, with rNcM for row N, column M:
0 0 0 0
1 0 0 4
2 0 0 1
3 1 4 2
Column 1 has 1, 2 and 3: r1c1 = 4.
Column 4 has 4, 1 and 2: r1c4 = 3.
The lower left box has 2, 3 and 1: r3c2 = 4.
The lower right box has 1, 4 and 2: r3c3 = 3.
r1c2 meets 4 and 3 in its row and 1 in its box: r1c2 = 2.
Row 1 lacks only 1: r1c3 = 1.
The upper left box has 4, 2 and 1: r2c2 = 3.
Row 2 lacks only 2: r2c3 = 2.""",
    ),
    Demonstration(
        "2001403002001420",
        "2341413232141423",
        """As a grid, with rNcM for row N, column M:
2 0 0 1
4 0 3 0
0 2 0 0
1 4 2 0
Row 4 lacks only 3: r4c4 = 3.
Column 1 lacks only 3: r3c1 = 3.
r1c2 meets 2 and 1 in its row and 4 in its box: r1c2 = 3.
Row 1 lacks only 4: r1c3 = 4.
The upper left box has 2, 3 and 4: r2c2 = 1.
Row 2 lacks only 2: r2c4 = 2.
Column 3 has 4, 3 and 2: r3c3 = 1.
That leaves 4 in row 3: r3c4 = 4.""",
    ),
)

_LAYOUT = """Write your thoughts and your answer between tags, each tag on a line of its own:
<reasoning>
how you get there
</reasoning>
<answer>
{answer}
</answer>"""

_SUDOKU_RULES = """Complete a 4x4 Sudoku. You are given its 16 cells in one string, row after row from the top left, \
with 0 for an empty cell. In the solution each of the digits 1, 2, 3 and 4 stands once in every row, once in every \
column and once in every 2x2 box. Answer with all 16 digits in the same order and nothing between them."""

_TRAIN_TASKS = {
    "gsm8k": "Solve this word problem. The answer is one number.",
    "math": "Work through this mathematics problem carefully. Put the final result into \\boxed{}.",
    "countdown": """Combine the given numbers with +, -, *, / and parentheses so that the result is the target. Use \
every number exactly once. Answer with the expression alone, without = and the target: for the numbers 6, 2, 5 and \
the target 7, 6*2-5 is right.""",
    "sudoku": _SUDOKU_RULES,
}
_EVAL_TASKS = {
    "gsm8k": "Solve this word problem step by step. The answer is one number; put it into \\boxed{}.",
    "math": "Work through this mathematics problem step by step. Put the final result into \\boxed{}.",
    "countdown": _TRAIN_TASKS["countdown"].replace("6*2-5 is right.", "\\boxed{6*2-5} is right."),
    "sudoku": _SUDOKU_RULES,
}
_TASKS: dict[str, dict[str, str]] = {"train": _TRAIN_TASKS, "eval": _EVAL_TASKS}


def messages(task: str, row: Row, stage: Stage = "train", shots: int = 0) -> list[dict[str, str]]:
    """A problem as a conversation of one user message.

    Args:
        task: gsm8k, math, countdown or sudoku.
        row: a problem with its ``question``.
        stage: "train" or "eval".
        shots: worked examples before the question; Sudoku has 3, the other tasks none.

    Raises:
        UserError: an unknown task or stage, or more examples than there are.
    """
    require_task(task)
    require(stage in get_args(Stage), "stage", stage, "choose train or eval")
    available = len(DEMONSTRATIONS) if task == "sudoku" else 0
    require(0 <= shots <= available, "shots", shots, f"{task} has {available} worked examples")
    boxed = task == "math" or (stage == "eval" and task != "sudoku")
    layout = _LAYOUT.format(answer="\\boxed{your answer}" if boxed else "your answer")
    examples = [_example(demonstration) for demonstration in DEMONSTRATIONS[:shots]]
    content = "\n\n".join([_TASKS[stage][task], layout, *examples, str(row["question"])])
    return [{"role": "user", "content": content}]


def with_context(
    asked: Sequence[Mapping[str, str]], system: str, examples: Sequence[tuple[Sequence[Mapping[str, str]], str]]
) -> list[dict[str, str]]:
    """A conversation with a system's turn and worked examples before it.

    Args:
        asked: the conversation; a system's turn of its own stays the only one.
        system: the system's turn; empty for none.
        examples: conversations with their answers.
    """
    opening = [dict(turn) for turn in asked if turn["role"] == "system"]
    if system and not opening:
        opening = [{"role": "system", "content": system}]
    shown = [turn for turns, answer in examples for turn in (*turns, {"role": "assistant", "content": answer})]
    return [*opening, *(dict(turn) for turn in (*shown, *asked) if turn["role"] != "system")]


def sudoku_question(puzzle: str) -> str:
    """The question that shows a puzzle."""
    return f"Puzzle: {puzzle}"


def countdown_question(numbers: list[int], target: int) -> str:
    """The question that shows a Countdown problem."""
    return f"Numbers: {', '.join(map(str, numbers))}\nTarget: {target}"


def _example(shown: Demonstration) -> str:
    return (
        f"{sudoku_question(shown.puzzle)}\n<reasoning>\n{shown.reasoning}\n</reasoning>\n"
        f"<answer>\n{shown.solution}\n</answer>"
    )
