"""Errors that a user can mend: each names the field, the value and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable


class UserError(ValueError):
    """A mistake in what the user gave; the command line prints it as one line and exits with status 2.

    Args:
        field: what was wrong, as the user spells it (a setting, a file, a column).
        value: the value that was refused.
        mend: what to give instead, as a short sentence without a full stop.
    """

    def __init__(self, field: str, value: object, mend: str) -> None:
        super().__init__(f"{field} = {value!r}: {mend}")
        self.field = field
        self.value = value
        self.mend = mend

    def __reduce__(self) -> tuple[type[UserError], tuple[str, object, str]]:
        """So that it passes between processes."""
        return UserError, (self.field, self.value, self.mend)


class RewardFailed(UserError):  # noqa: N818 - it says what happened
    """A reward function that cannot be used as it is; a run that meets it keeps the state from before the step."""


class Note(UserWarning):
    """What a user should know though the work goes on; the command line prints it as one line, once."""


def require(condition: bool, field: str, value: object, mend: str) -> None:
    """Raise `UserError` unless ``condition`` holds."""
    if not condition:
        raise UserError(field, value, mend)


def at_least(config: object, group: str, least: int, *names: str) -> None:
    """Raise `UserError` unless whole numbers of a configuration reach ``least``.

    Args:
        config: whose fields they are.
        group: of settings, as the user spells it before the dot; empty for none.
        least: the smallest number allowed.
        names: the fields.
    """
    _all(lambda value: value >= least, config, group, names, f"give a whole number of at least {least}")


def not_negative(config: object, group: str, *names: str) -> None:
    """The same for numbers of at least 0."""
    _all(lambda value: value >= 0, config, group, names, "give a number of at least 0")


def positive(config: object, group: str, *names: str) -> None:
    """The same for numbers above 0."""
    _all(lambda value: 0 < value < math.inf, config, group, names, "give a positive number")


def shares(config: object, group: str, *names: str) -> None:
    """The same for numbers from 0 to 1."""
    _all(lambda value: 0 <= value <= 1, config, group, names, "give a number from 0 to 1")


def below_one(config: object, group: str, *names: str) -> None:
    """The same for numbers from 0 to below 1."""
    _all(lambda value: 0 <= value < 1, config, group, names, "give a number from 0 to below 1")


def _all(holds: Callable[[float], bool], config: object, group: str, names: tuple[str, ...], mend: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(holds(value), f"{group}.{name}" if group else name, value, mend)
