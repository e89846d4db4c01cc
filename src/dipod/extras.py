"""Optional dependencies: imported where they are needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from dipod.errors import UserError


def load_extra(module: str, extra: str = "language") -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name of the module, dots allowed.
        extra: the extra of this package that brings it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error.name or module, extra) from error


def require_extra(module: str, extra: str = "language") -> None:
    """Raise the same error without importing the module, for one that another process imports."""
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra)


def _missing(module: str, extra: str) -> UserError:
    return UserError("module", module, f'install it with: pip install "dipod[{extra}]"')
