"""How reward functions are called: by keyword and with the columns of the data set, as TRL calls them."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import traceback
import warnings
from collections.abc import Awaitable, Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor

from dipod.errors import RewardFailed, UserError, require
from dipod.tasks.text.completions import RewardFunction, columns_read
from dipod.tasks.text.rows import DataNote, Row, short

RESERVED = ("prompts", "completions", "completion_ids")
"""Arguments of every reward function; a column of such a name is not passed on."""

Prompt = str | Sequence[Mapping[str, str]]
"""As text, or as the conversation that it is."""


def total_reward(
    functions: Sequence[RewardFunction],
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    rows: Sequence[Row],
    weights: Sequence[float] = (),
    completion_ids: Sequence[Sequence[int]] | None = None,
) -> list[float]:
    """The weighted sum of several reward functions for each completion; a None adds nothing.

    Args:
        functions: TRL-style, ``f(prompts, completions, completion_ids=None, **columns) -> list[float | None]``, or
            async functions that give such a list; these run at the same time. Values may be numbers of NumPy or torch,
            and true and false. Of the arguments, a function is given those that it takes.
        prompts: texts or conversations.
        completions: texts; a completion of a conversation is passed as ``[{"role": "assistant", "content": text}]``.
        rows: the problems; every column that one of them has is passed as a list, None where a row lacks it.
        weights: one for each function; none for 1 each.
        completion_ids: tokens of the completions up to their end token, that one included.

    Raises:
        RewardFailed: a function that wants a column that is not there, raises, returns another number of rewards, or
            something that is not a finite number; the message names function and row.
    """
    answers = [_as_asked(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
    offered: dict[str, Any] = {
        "prompts": list(prompts),
        "completions": answers,
        "completion_ids": None if completion_ids is None else [list(ids) for ids in completion_ids],
        **columns_of(rows),
    }
    totals, applied = [0.0] * len(completions), [not functions] * len(completions)
    for scores, function, weight in zip(
        _call_all(functions, offered), functions, weights or [1.0] * len(functions), strict=True
    ):
        for i, score in enumerate(_checked(function, scores, offered)):
            totals[i] += weight * (score or 0.0)
            applied[i] |= score is not None
    if not all(applied):
        said = "no reward function applies to some of the problems (all return None); their reward is 0"
        warnings.warn(said, DataNote, stacklevel=2)
    return totals


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The columns that reward functions are given: all that a row has, None where another lacks it."""
    names = dict.fromkeys(name for row in rows for name in row if name not in RESERVED)
    return {name: [row.get(name) for row in rows] for name in names}


def missing(functions: Sequence[RewardFunction], columns: Collection[str]) -> RewardFailed | None:
    """The complaint about the first function that wants a column which is not among these, before any is called."""
    there = ", ".join(columns) or "none"
    for function in functions:
        for name in (*_required(function), *columns_read(function)):
            if name not in columns and name not in RESERVED:
                mend = f"it takes this argument, and no row has such a column (there are: {there}); add it"
                return RewardFailed(label(function), name, mend)
    return None


def _required(function: RewardFunction) -> list[str]:
    """Arguments of a function that have no default."""
    return [p.name for p in _arguments(function) if p.default is p.empty and p.kind in _NAMED]


def _arguments(function: RewardFunction) -> list[inspect.Parameter]:
    """The arguments of a function; anything at all for one that is built in, of which nothing is known."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [inspect.Parameter("columns", inspect.Parameter.VAR_KEYWORD)]


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def label(function: RewardFunction) -> str:
    """A function's name for complaints, with its file where it is one of the user's."""
    name = getattr(function, "__name__", type(function).__name__)
    file = Path(function.__code__.co_filename) if isinstance(function, FunctionType) else None
    own = file is not None and not file.is_relative_to(Path(__file__).parents[2]) and file.is_file()
    return f"reward function {name}{f' of {file}' if own else ''}"


def _as_asked(prompt: Prompt, text: str) -> Any:
    """A completion in the form of its prompt."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _accepted(function: RewardFunction, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments, those that the function takes."""
    arguments = _arguments(function)
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
        return dict(offered)
    return {a.name: offered[a.name] for a in arguments if a.kind in _NAMED and a.name in offered}


def _call_all(functions: Sequence[RewardFunction], offered: Mapping[str, Any]) -> list[Any]:
    """What each function returns; the async ones together, after the others were called."""
    found: list[Any] = []
    try:
        for function in functions:
            found.append(_call(function, offered))
        waiting = [i for i, result in enumerate(found) if inspect.isawaitable(result)]
        for i, result in zip(waiting, _gather([found[i] for i in waiting]), strict=True):
            if isinstance(result, BaseException):
                raise _raised(functions[i], result, "a batch")
            found[i] = result
    finally:
        for result in found:
            if inspect.iscoroutine(result):
                result.close()
    return found


def _call(function: RewardFunction, offered: Mapping[str, Any]) -> Any:
    """Call one function; where it raises, again row by row, to say which row it is."""
    problem = missing([function], [name for name in offered if name not in RESERVED])
    if problem is not None:
        raise problem
    accepted = _accepted(function, offered)
    try:
        return function(**accepted)
    except UserError as error:
        raise RewardFailed(error.field, error.value, f"{error.mend} ({label(function)})") from error
    except Exception as error:
        for row in range(len(offered["completions"])):
            try:
                alone: dict[str, Any] = {name: values and values[row : row + 1] for name, values in accepted.items()}
                function(**alone)
            except Exception as again:
                raise _raised(function, again, _described(offered, row)) from again
        raise _raised(function, error, f"a batch of {len(offered['completions'])}") from error


def _raised(function: RewardFunction, error: BaseException, where: str) -> RewardFailed:
    """The complaint about a function that raised, with the line of its file where it did."""
    frames = traceback.extract_tb(error.__traceback__)
    own = inspect.unwrap(function).__code__.co_filename if isinstance(function, FunctionType) else ""
    line = next((f" at line {frame.lineno}" for frame in reversed(frames) if frame.filename == own), "")
    first = (str(error).splitlines() or [""])[0]
    mend = f"it raised this{line}, on {where}; mend the function"
    if isinstance(error, TypeError) and "indices must be integers" in first:
        mend += ", or set task.completions to messages if it reads conversations"
    return RewardFailed(label(function), f"{type(error).__name__}: {short(first, 120)}", mend)


def _gather(waiting: Sequence[Awaitable[Any]]) -> list[Any]:
    """Results and exceptions of awaitables that run at the same time; in a thread where a loop runs already."""

    async def together() -> list[Any]:
        return await asyncio.gather(*waiting, return_exceptions=True)

    if not waiting:
        return []
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(together())
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(asyncio.run(together())))
    thread.start()
    thread.join()
    return results


def _checked(function: RewardFunction, scores: Any, offered: Mapping[str, Any]) -> list[float | None]:
    """Rewards as plain numbers, one for each completion."""
    values = scores.tolist() if callable(getattr(scores, "tolist", None)) else scores
    count = len(offered["completions"])
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        mend = f"return a list with one reward for each of the {count} completions"
        raise RewardFailed(label(function), short(scores), mend)
    for row, score in enumerate(values):
        if score is not None and not _finite(score):
            mend = f"return a finite number or None for {_described(offered, row)}"
            raise RewardFailed(label(function), score, mend)
    return [None if score is None else float(score) for score in values]


def _finite(score: object) -> bool:
    """Whether it is true, false or a finite number, of Python, NumPy or torch."""
    if isinstance(score, np.generic | Tensor) and score.reshape(-1).shape == (1,):
        score = score.item()
    try:
        return isinstance(score, Real) and math.isfinite(score)
    except OverflowError:  # a whole number beyond all floats
        return False


def _described(offered: Mapping[str, Any], row: int) -> str:
    """A row of the batch, for complaints."""
    prompt, answer = offered["prompts"][row], offered["completions"][row]
    asked = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")) if prompt else ""
    question = (offered.get("question") or {row: None})[row] or asked
    text = answer if isinstance(answer, str) else answer[0]["content"]
    return f"completion {str(text)[:40]!r} of the problem {str(question)[:60]!r}"


def parse_weights(text: str, names: Sequence[str]) -> tuple[float, ...]:
    """Weights of reward functions as the settings have them: numbers separated by commas, one for each name.

    Raises:
        UserError: something else than finite numbers, or another number of them.
    """
    if not text.strip():
        return (1.0,) * len(names)
    words = [word.strip() for word in text.split(",") if word.strip()]
    mend = f"give one number for each of {', '.join(names)}, separated by commas"
    require(len(words) == len(names), "task.reward_weights", text, mend)
    try:
        weights = tuple(map(float, words))
    except ValueError as error:
        raise UserError("task.reward_weights", text, mend) from error
    require(all(map(math.isfinite, weights)), "task.reward_weights", text, mend)
    return weights
