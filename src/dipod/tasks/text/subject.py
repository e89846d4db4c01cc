"""What a text task is about: its problems, how they are asked, rewarded and graded. A custom task is one `Subject`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import torch

from dipod.errors import UserError, require
from dipod.tasks.protocol import Split
from dipod.tasks.text.completions import RewardFunction
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.generators import countdown_rows, random_expression, sudoku_rows
from dipod.tasks.text.grading import Grade, grade
from dipod.tasks.text.prompts import messages
from dipod.tasks.text.rewards import REWARDS, exact_answer, format_tags, numeric_answer
from dipod.tasks.text.rows import TASKS, Row
from dipod.tasks.text.sources import PUBLISHED, load_rows, read_rows

GENERATE = "generate"


@dataclass(frozen=True)
class Subject:
    """One text task.

    Attributes:
        name: of the task.
        rows: ``rows(split)``: problems with ``question`` and whatever the rewards read; or None where they are made.
        make: ``make(count, split, generator)``: new problems, where ``rows`` gives none.
        messages: a problem as a conversation, for a split.
        rewards: TRL-style functions; their sum is the reward.
        grade: whether a text answers a problem.
        reference: the right answer of a problem, for people.
        imitate: a text that pre-training of a small model imitates; None where there is none.
    """

    name: str
    rows: Callable[[Split], Sequence[Row] | None]
    make: Callable[[int, Split, torch.Generator], Sequence[Row]] | None
    messages: Callable[[Row, Split], Sequence[Mapping[str, str]]]
    rewards: Sequence[RewardFunction]
    grade: Callable[[str, Row], Grade]
    reference: Callable[[Row], Any]
    imitate: Callable[[Row, torch.Generator], str] | None = None


def build_subject(config: TextConfig) -> Subject:
    """The subject that the settings name.

    Raises:
        UserError: a source that cannot be read, or rewards that do not exist.
    """
    if config.name not in TASKS:
        return _custom(config)
    name = config.name
    sources = {
        "train": config.train_source or _usual_source(name, "train"),
        "test": config.test_source or _usual_source(name, "test"),
    }
    makers: dict[str, Callable[[int, Split, torch.Generator], Sequence[Row]]] = {
        "countdown": partial(_make_countdown, config),
        "sudoku": lambda count, split, generator: sudoku_rows(count, generator, split=split),
    }
    made = GENERATE in sources.values()
    mend = "problems are made for countdown and sudoku only; give a file or a dataset"
    require(not made or name in makers, "task.train_source", GENERATE, mend)
    require(
        config.rewards in REWARDS[name], "task.rewards", config.rewards, f"choose one of {', '.join(REWARDS[name])}"
    )
    return Subject(
        name=name,
        rows=lambda split: (
            None if sources[split] == GENERATE else load_rows(name, split, sources[split], held_back=config.held_back)
        ),
        make=makers.get(name),
        messages=lambda row, split: messages(name, row, "train" if split == "train" else "eval", config.shots),
        rewards=REWARDS[name][config.rewards],
        grade=lambda text, row: grade(name, config.parser, text, reference_of(name, row)),
        reference=partial(reference_of, name),
        imitate=partial(_imitate_countdown, config) if name == "countdown" else None,
    )


def _usual_source(name: str, split: Split) -> str:
    """What an empty source means: the published dataset, or made problems where none is on the hub."""
    return "" if (name, split) in PUBLISHED else GENERATE


def reference_of(name: str, row: Row) -> Any:
    """What `dipod score` would be given as the reference of a problem."""
    if name == "countdown":
        return {"numbers": row["numbers"], "target": row["target"]}
    if name == "sudoku":
        return {"puzzle": row["puzzle"], "solution": row["solution"]}
    return row["answer"]


def _make_countdown(config: TextConfig, count: int, split: Split, generator: torch.Generator) -> Sequence[Row]:
    del split  # new problems every time; whether one was seen before is chance
    return countdown_rows(count, generator, config.numbers, config.low, config.high, target_high=config.target_high)


def _imitate_countdown(config: TextConfig, row: Row, generator: torch.Generator) -> str:
    """An answer in the right form: with ``solution_share`` a right one, else any expression over the numbers."""
    right = float(torch.rand((), generator=generator)) < config.solution_share
    expression = row["solution"] if right else random_expression(row["numbers"], generator)
    if config.style == "short":
        expression = f" {' '.join(re.findall('[0-9]+|[-+*/()]', expression))} "
    return f"<answer>{expression}</answer>"


def _custom(config: TextConfig) -> Subject:
    """A task of the user's own: a file with ``question`` and ``answer`` (and other columns), rewards by name."""
    generic = {f.__name__: f for f in (exact_answer, numeric_answer, format_tags)}
    names = [name.strip() for name in config.rewards.split(",") if name.strip()]
    unknown = [name for name in names if name not in generic]
    require(bool(names) and not unknown, "task.rewards", config.rewards, f"choose from {', '.join(generic)}")
    sources = {"train": config.train_source, "test": config.test_source}
    for split, source in sources.items():
        require(bool(source), f"task.{split}_source", source, "name a JSONL or CSV file with question and answer")

    def ask(row: Row, split: Split) -> Sequence[Mapping[str, str]]:
        del split
        return [{"role": "user", "content": f"{config.instruction}\n\n{row['question']}".strip()}]

    def judge(text: str, row: Row) -> Grade:
        score = exact_answer(prompts=[""], completions=[text], answer=[row["answer"]])[0]
        return Grade(int(bool(score)), 1, bool(score))

    return Subject(
        name="custom",
        rows=lambda split: read_rows(sources[split], ("question", "answer"), split),
        make=None,
        messages=ask,
        rewards=[generic[name] for name in names],
        grade=judge,
        reference=lambda row: row["answer"],
    )


def total_reward(
    functions: Sequence[RewardFunction], prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row]
) -> list[float]:
    """The sum of several reward functions for each completion; a None adds nothing.

    Args:
        functions: TRL-style, ``f(prompts, completions, **columns) -> list[float | None]``.
        prompts: texts.
        completions: texts.
        rows: the problems, whose columns the functions are given as lists.

    Raises:
        UserError: a function that returns another number of rewards, or something that is not a finite number.
    """
    columns = {key: [row.get(key) for row in rows] for key in (rows[0] if rows else {})}
    totals = [0.0] * len(completions)
    for function in functions:
        name = f"reward function {getattr(function, '__name__', type(function).__name__)}"
        scores = function(prompts=list(prompts), completions=list(completions), **columns)
        same = isinstance(scores, Sequence) and len(scores) == len(completions)
        require(same, name, scores, f"return a list with one reward for each of the {len(completions)} completions")
        for i, score in enumerate(scores):
            if score is not None and not _finite(score):
                raise UserError(name, score, f"return a finite number or None for completion {completions[i][:40]!r}")
            totals[i] += float(score or 0.0)
    return totals


def _finite(score: object) -> bool:
    """Whether it is a finite number, of Python or NumPy; true and false are none."""
    if isinstance(score, bool) or not isinstance(score, Real):
        return False
    try:
        return math.isfinite(score)
    except OverflowError:  # a whole number beyond all floats
        return False
