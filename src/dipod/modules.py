"""Things of the user's own, named as ``module:attribute`` or ``file.py:attribute``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dipod.errors import UserError, require
from dipod.noise import derive

_READING: list[Path] = []


def reading() -> bool:
    """Whether a file of the user's is being run for something in it."""
    return bool(_READING)


def see_here() -> None:
    """Let modules of the working folder be imported, after all others."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def absolute(name: str) -> str:
    """The same name with the whole path of its file, so that it means the same in another folder."""
    where, colon, attribute = name.rpartition(":")
    return f"{Path(where).resolve()}{colon}{attribute}" if where.endswith(".py") else name


def find(name: str, field: str) -> Any:
    """What ``module:attribute`` or ``file.py:attribute`` names; the attribute may have dots.

    Args:
        name: what is looked for.
        field: the setting, for complaints.

    Raises:
        UserError: no such module, file or attribute, or one whose import fails.
    """
    where, _, attribute = name.rpartition(":")
    require(bool(where and attribute), field, name, "give module:attribute or file.py:attribute")
    found: Any = load_module(where, name, field)
    for part in attribute.split("."):
        mend = f"{where} has no {attribute}; give the name of a class, a function or an object in it"
        require(hasattr(found, part), field, name, mend)
        found = getattr(found, part)
    return found


def load_module(where: str, name: str, field: str) -> ModuleType:
    """Import a module by name, or a Python file by path; its folder is searched for what the file imports.

    Args:
        where: the module or file.
        name: what the user gave, for complaints.
        field: the setting, for complaints.

    Raises:
        UserError: no such file or module, or an error while it is imported.
    """
    if where.endswith(".py"):
        return _file(Path(where), name, field)
    see_here()
    try:
        return importlib.import_module(where)
    except UserError:
        raise
    except Exception as error:
        mend = f"give module:function of an installed module, or file.py:function ({_reason(error)})"
        raise UserError(field, name, mend) from error


def _file(path: Path, name: str, field: str) -> ModuleType:
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(field, name, f"{path} cannot be read ({reason}); give file.py:function") from error
    try:
        return _imported(path.resolve(), changed)
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        raise UserError(field, name, f"{path} cannot be imported ({_reason(error)}, line {line})") from error


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
    _READING.append(path)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    finally:
        _READING.pop()
    return module


def _reason(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text if len(text) <= 120 else text[:120] + '...'}"
