"""Functions of the user's own, named as ``file.py:function`` or ``module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dipod.errors import UserError, require
from dipod.noise import derive
from dipod.tasks.text.rows import short


def is_reference(name: str) -> bool:
    """Whether a name says where a function is."""
    return ":" in name


def absolute(name: str) -> str:
    """The same name with the whole path of its file, so that it means the same in another folder."""
    where, colon, function = name.rpartition(":")
    return f"{Path(where).resolve()}{colon}{function}" if where.endswith(".py") else name


def load_function(name: str, field: str) -> Callable[..., Any]:
    """Import the function that ``file.py:function`` or ``module:function`` names.

    Args:
        name: of the function; the file's folder is searched for what the file imports.
        field: the setting, for complaints.

    Raises:
        UserError: no such file or module, an error while it is imported, or no such function in it.
    """
    where, _, function = name.rpartition(":")
    module = _file(Path(where), name, field) if where.endswith(".py") else _module(where, name, field)
    found = getattr(module, function, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        own = [key for key in there if getattr(getattr(module, key), "__module__", None) == module.__name__]
        raise UserError(field, name, f"{where} has no function {function or 'without a name'}; it has {_listed(own)}")
    called: Callable[..., Any] = found
    return called


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _module(where: str, name: str, field: str) -> ModuleType:
    mend = "give module:function of an installed module, or file.py:function"
    try:
        return importlib.import_module(where)
    except Exception as error:
        raise UserError(field, name, f"{mend} ({type(error).__name__}: {error})") from error


def _file(path: Path, name: str, field: str) -> ModuleType:
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(field, name, f"{path} cannot be read ({reason}); give file.py:function") from error
    try:
        return _imported(path.resolve(), changed)
    except Exception as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())
        ]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        what = f"{type(error).__name__}: {short((str(error).splitlines() or [''])[0], 120)}"
        raise UserError(field, name, f"{path} cannot be imported ({what}, line {line})") from error


@lru_cache(maxsize=64)
def _imported(path: Path, changed: int) -> ModuleType:
    """The module of a file, once for each state of it."""
    spec = importlib.util.spec_from_file_location(f"dipod_user_{path.stem}_{derive(str(path), changed):x}", path)
    require(spec is not None and spec.loader is not None, "file", str(path), "give a Python file")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
