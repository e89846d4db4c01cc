"""Errors that a user can mend: each names the field, the value and what to do about it."""

from __future__ import annotations


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


def require(condition: bool, field: str, value: object, mend: str) -> None:
    """Raise `UserError` unless ``condition`` holds."""
    if not condition:
        raise UserError(field, value, mend)
