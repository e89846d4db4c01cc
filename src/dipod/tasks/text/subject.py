"""What a text task is about: its problems, how they are asked, rewarded and graded. A custom task is one `Subject`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dipod.errors import UserError, require
from dipod.tasks.protocol import Split
from dipod.tasks.text.calling import parse_weights, total_reward
from dipod.tasks.text.completions import RewardFunction, columns_read, is_ours
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.functions import is_reference, load_function
from dipod.tasks.text.generators import countdown_rows, random_expression, sudoku_rows
from dipod.tasks.text.grading import Grade, grade
from dipod.tasks.text.mixtures import parse_sources, read_all
from dipod.tasks.text.prompts import messages
from dipod.tasks.text.references import read_reference
from dipod.tasks.text.rewards import (
    REWARDS,
    exact_answer,
    format_tags,
    numeric_answer,
    verified_math_correctness,
    verify,
)
from dipod.tasks.text.rows import TASKS, Row, short
from dipod.tasks.text.sources import PUBLISHED, load_rows, read_rows
from dipod.tasks.text.symbolic import require_symbolic

__all__ = ["Subject", "build_subject", "reference_of", "total_reward"]

GENERATE = "generate"
GENERIC: Mapping[str, RewardFunction] = {f.__name__: f for f in (verify, exact_answer, numeric_answer, format_tags)}
"""Rewards for tasks of one's own; those of the other tasks can be named as well."""


@dataclass(frozen=True)
class Subject:
    """One text task.

    Attributes:
        name: of the task.
        rows: ``rows(split)``: problems with ``question`` and whatever the rewards read; or None where they are made.
        make: ``make(count, split, generator)``: new problems, where ``rows`` gives none.
        messages: a problem as a conversation, for a split.
        rewards: TRL-style functions; their weighted sum is the reward.
        weights: of the functions, one for each; none for 1 each.
        grade: whether a text answers a problem; None where the problem has no right answer.
        reference: the right answer of a problem, for people.
        imitate: a text that pre-training of a small model imitates; None where there is none.
        solved_at: the reward from which a problem without a right answer (``grade`` gives None) counts as solved.
    """

    name: str
    rows: Callable[[Split], Sequence[Row] | None]
    make: Callable[[int, Split, torch.Generator], Sequence[Row]] | None
    messages: Callable[[Row, Split], Sequence[Mapping[str, str]]]
    rewards: Sequence[RewardFunction]
    grade: Callable[[str, Row], Grade | None]
    reference: Callable[[Row], Any]
    imitate: Callable[[Row, torch.Generator], str] | None = None
    weights: Sequence[float] = ()
    solved_at: float = 1.0


def build_subject(config: TextConfig) -> Subject:
    """The subject that the settings name.

    Raises:
        UserError: a source that cannot be read, rewards that do not exist, or math-verify is needed and not installed.
    """
    if config.name not in TASKS:
        return _custom(config)
    name = config.name
    sources = {
        "train": parse_sources(config.train_source or _usual_source(name, "train"), "task.train_source"),
        "test": parse_sources(config.test_source or _usual_source(name, "test"), "task.test_source"),
    }
    makers: dict[str, Callable[[int, Split, torch.Generator], Sequence[Row]]] = {
        "countdown": partial(_make_countdown, config),
        "sudoku": lambda count, split, generator: sudoku_rows(count, generator, split=split),
    }
    made = {split: any(source.place == GENERATE for source in several) for split, several in sources.items()}
    for split, several in sources.items():
        mend = "problems are made for countdown and sudoku only; give a file or a dataset"
        require(not made[split] or name in makers, f"task.{split}_source", GENERATE, mend)
        mend = "problems are made without end; leave the other sources out"
        require(not made[split] or len(several) == 1, f"task.{split}_source", GENERATE, mend)
    rewards, weights = chosen_rewards(config)
    if name == "math" and (config.parser == "verify" or verified_math_correctness in rewards):
        require_symbolic()
    return Subject(
        name=name,
        rows=lambda split: None if made[split] else read_all(sources[split], partial(_load, config, split)),
        make=makers.get(name),
        messages=lambda row, split: messages(name, row, "train" if split == "train" else "eval", config.shots),
        rewards=rewards,
        weights=weights,
        solved_at=config.solved_at,
        grade=lambda text, row: grade(name, config.parser, text, reference_of(name, row)),
        reference=partial(reference_of, name),
        imitate=partial(_imitate_countdown, config) if name == "countdown" else None,
    )


def _load(config: TextConfig, split: Split, place: str) -> Sequence[Row]:
    return load_rows(config.name, split, place, numbers=config.numbers, held_back=config.held_back)


def chosen_rewards(config: TextConfig) -> tuple[list[RewardFunction], list[float]]:
    """The reward functions that the settings name, and their weights; a variant's functions share its weight.

    Raises:
        UserError: one that does not exist or cannot be imported, or weights that are no numbers or not as many.
    """
    variants = REWARDS.get(config.name, {})
    published = (f for by_variant in REWARDS.values() for functions in by_variant.values() for f in functions)
    known = {**GENERIC, **{f.__name__: f for f in published}}
    names = [name.strip() for name in config.rewards.split(",") if name.strip()]
    unknown = [name for name in names if name not in variants and name not in known and not is_reference(name)]
    listed = ", ".join([*variants, *known])
    mend = f"choose from {listed}, or name your own as file.py:function"
    require(bool(names) and not unknown, "task.rewards", config.rewards, mend)
    functions: list[RewardFunction] = []
    weights: list[float] = []
    for name, weight in zip(names, parse_weights(config.reward_weights, names), strict=True):
        functions += variants.get(name) or (known.get(name) or load_function(name, "task.rewards"),)
        weights += [weight] * (len(functions) - len(weights))
    return functions, weights


def _usual_source(name: str, split: Split) -> str:
    """What an empty source means: the published dataset, or made problems where none is on the hub."""
    return PUBLISHED.get((name, split), GENERATE)


def reference_of(name: str, row: Row) -> Any:
    """What `dipod score` would be given as the reference of a problem."""
    if name == "countdown":
        return {"numbers": row["numbers"], "target": row["target"]}
    if name == "sudoku":
        return {"puzzle": row["puzzle"], "solution": row["solution"]}
    return row["answer"]


def _make_countdown(config: TextConfig, count: int, split: Split, generator: torch.Generator) -> Sequence[Row]:
    mend = f"generated problems have 2 to 6; choose a number, or give task.{split}_source a file"
    require(config.numbers > 0, "task.numbers", config.numbers, mend)
    return countdown_rows(count, generator, config.numbers, config.low, config.high, target_high=config.target_high)


def _imitate_countdown(config: TextConfig, row: Row, generator: torch.Generator) -> str:
    """An answer in the right form: with ``solution_share`` a right one, else any expression over the numbers."""
    right = float(torch.rand((), generator=generator)) < config.solution_share
    expression = row["solution"] if right else random_expression(row["numbers"], generator)
    if config.style == "short":
        expression = f" {' '.join(re.findall('[0-9]+|[-+*/()]', expression))} "
    return f"<answer>{expression}</answer>"


def _custom(config: TextConfig) -> Subject:
    """A task of the user's own: a file with ``question`` (and ``answer``, and other columns), rewards by name."""
    rewards, weights = chosen_rewards(config)
    mend = "choose verify or strict; the published parsers are those of the published tasks"
    require(config.parser in {"verify", "strict"}, "task.parser", config.parser, mend)
    judges = [exact_answer]
    if config.parser == "verify":
        judges = [verify, *(f for f in (exact_answer, numeric_answer) if f in rewards)]
    sources = {
        "train": parse_sources(config.train_source, "task.train_source"),
        "test": parse_sources(config.test_source, "task.test_source"),
    }
    for split, several in sources.items():
        require(bool(several), f"task.{split}_source", "", "name a file with question and answer (.jsonl, .csv, ...)")

    def ask(row: Row, split: Split) -> Sequence[Mapping[str, str]]:
        del split
        if row.get("messages") is not None:
            conversation: Sequence[Mapping[str, str]] = row["messages"]
            return conversation
        return [{"role": "user", "content": f"{config.instruction}\n\n{row['question']}".strip()}]

    def read(split: Split) -> Sequence[Row]:
        check = partial(_check_references, rewards)
        rows = read_all(sources[split], lambda place: read_rows(place, ("question",), split, check))
        if verify in {*judges, *rewards} and any(row.get("answer") is not None for row in rows):
            require_symbolic()
        return rows

    return Subject(
        name="custom",
        rows=read,
        make=None,
        messages=ask,
        rewards=rewards,
        weights=weights,
        grade=partial(_judge, config.parser, judges),
        reference=lambda row: next((row[key] for key in _REFERENCES if row.get(key) is not None), None),
        solved_at=config.solved_at,
    )


_REFERENCES = ("answer", "target", "solution")
"""Columns that hold the right answer of a custom problem."""


def _judge(parser: str, judges: Sequence[RewardFunction], text: str, row: Row) -> Grade | None:
    """Whether a text has a custom problem's right answer, which its columns say; None where they say nothing."""
    if row.get("answer") is not None:
        solved = any(f(prompts=[""], completions=[text], answer=[row["answer"]])[0] for f in judges)
        return Grade(int(solved), 1, solved)
    kind = _kind(row)
    return None if kind is None else grade(kind, parser, text, reference_of(kind, row))


def _kind(row: Row) -> str | None:
    """The task whose right answer a custom problem's columns hold; None for none."""
    columns = {"countdown": ("numbers", "target"), "sudoku": ("puzzle", "solution")}
    return next((name for name, wanted in columns.items() if all(row.get(c) is not None for c in wanted)), None)


def _check_references(rewards: Sequence[RewardFunction], where: str, row: Row) -> None:
    """See that our own reward functions can read what they read of a row, and that one of them applies to it.

    Raises:
        UserError: it names the row's file and line.
    """
    kind, reading = _kind(row), [function for function in rewards if columns_read(function)]
    if kind is not None:
        read_reference(kind, reference_of(kind, row), where)
    applied = False
    for function in reading:
        names = columns_read(function)
        if any(row.get(name) is None for name in names):
            continue
        applied = True
        try:
            function(prompts=[""], completions=[""], **{name: [row[name]] for name in names})
        except UserError as error:
            raise UserError(f"{where}, {error.field}", error.value, f"{error.mend} ({function.__name__})") from error
        except Exception as error:
            shown = {name: short(row[name]) for name in names}
            raise UserError(where, shown, f"{function.__name__} cannot read this ({error})") from error
    if reading and not applied and all(is_ours(function) for function in rewards):
        wanted = dict.fromkeys(" and ".join(columns_read(function)) for function in reading)
        raise UserError(where, short(sorted(row)), f"add the column {' or '.join(wanted)}, which the rewards read")
