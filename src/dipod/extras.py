"""Optional dependencies: imported where they are needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
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
        raise UserError("module", error.name or module, f'install it with: pip install "dipod[{extra}]"') from error
