"""Functions of the user's own, named as ``file.py:function`` or ``module:function``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dipod.errors import UserError
from dipod.modules import absolute, load_module

__all__ = ["absolute", "is_reference", "load_function"]


def is_reference(name: str) -> bool:
    """Whether a name says where a function is."""
    return ":" in name


def load_function(name: str, field: str) -> Callable[..., Any]:
    """Import the function that ``file.py:function`` or ``module:function`` names.

    Args:
        name: of the function; see `dipod.modules.load_module`.
        field: the setting, for complaints.

    Raises:
        UserError: no such file or module, an error while it is imported, or no such function in it.
    """
    where, _, function = name.rpartition(":")
    module = load_module(where, name, field)
    found = getattr(module, function, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        own = [key for key in there if getattr(getattr(module, key), "__module__", None) == module.__name__]
        raise UserError(field, name, f"{where} has no function {function or 'without a name'}; it has {_listed(own)}")
    called: Callable[..., Any] = found
    return called


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
