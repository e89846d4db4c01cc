"""A batch of text problems: rows with their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dipod.errors import UserError
from dipod.tasks.text.rows import Row

EXAMPLES: dict[str, Row] = {
    "gsm8k": {
        "question": "A shelf has 4 rows of 6 books, and 5 books are lent out. How many are left?",
        "answer": "19",
    },
    "math": {"question": "Find the sum of the roots of $x^2 - 7x + 10 = 0$.", "answer": "7"},
    "custom": {"question": "What is the question?", "answer": "the answer"},
}
"""A problem for each task that cannot make one."""


@dataclass(frozen=True)
class Questions:
    """Problems with their prompts.

    Attributes:
        rows: the problems.
        prompts: their tokens.
        parts: of each problem, the index of the source that it is from; empty where there is one source.
    """

    rows: tuple[Row, ...]
    prompts: tuple[tuple[int, ...], ...]
    parts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> Questions:
        return self.pick(range(len(self))[rows])

    def pick(self, places: Iterable[int]) -> Questions:
        """The problems at some places, in that order."""
        chosen = tuple(places)
        parts = tuple(self.parts[i] for i in chosen) if self.parts else ()
        return Questions(tuple(self.rows[i] for i in chosen), tuple(self.prompts[i] for i in chosen), parts)

    def exchange(self, places: Sequence[int], others: Questions) -> Questions:
        """These problems with others at some places."""
        both = Questions(self.rows + others.rows, self.prompts + others.prompts, self.parts + others.parts)
        order = list(range(len(self)))
        for new, place in enumerate(places, start=len(self)):
            order[place] = new
        return both.pick(order)

    def repeat_interleave(self, times: int) -> Questions:
        """Each problem ``times`` times in a row."""
        return self.pick(i for i in range(len(self)) for _ in range(times))


def short_question(row: Row) -> str:
    """A problem without instructions, for small vocabularies.

    Raises:
        UserError: it is not a Countdown or Sudoku problem.
    """
    if row.get("numbers") is not None:
        return f"numbers {' '.join(map(str, row['numbers']))} target {row['target']}"
    if row.get("puzzle") is not None:
        return str(row["puzzle"])
    raise UserError("task.style", "short", "countdown and sudoku have a short form; use chat")
