"""Files that are either whole or not there: written aside, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dipod.errors import UserError

ASIDE = re.compile(r"\..*\.(?P<pid>\d+)@(?P<host>[^@.]+)\.[a-z0-9_]{8}(\.\w+)?")
"""Names of files and folders that are being written: ``.NAME.PID@HOST.RANDOM``, perhaps with an ending."""


FILE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EIO,
    errno.ESTALE,
)
"""What the system says of files, and not of pipes, processes or networks."""


def host() -> str:
    """This machine, as names of files spell it."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _prefix(name: str) -> str:
    return f".{name}.{os.getpid()}@{host()}."


def file_error(error: OSError, field: str = "file", value: str = "", mend: str = "") -> Exception:
    """What the system says of a file or a full disk as a `UserError`; any other error as it is.

    Args:
        error: the system's.
        field: what could not be read or written.
        value: where; the system's file if it is not given.
        mend: how to go on, if there is more to say than the reason.
    """
    if error.errno not in FILE_ERRORS:
        return error
    reason = (error.strerror or type(error).__name__).lower()
    where = f" of {error.filename}" if value and error.filename else ""
    return UserError(field, value or str(error.filename or ""), f"{reason}{where}{mend and '; '}{mend}")


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` atomically."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path aside, of the same ending, that takes the place of ``path`` if nothing is raised inside."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path.stem), suffix=path.suffix)
    os.close(descriptor)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder aside that takes the place of ``path`` if nothing is raised inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path.name)))
    try:
        yield aside
        os.chmod(aside, 0o755)
        for inside in aside.iterdir():
            inside.chmod(0o755 if inside.is_dir() else 0o644)
        remove_folder(path)
        os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder, if there is one, so that it is never half there: it is renamed first."""
    if path.exists():
        gone = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path.name)))
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def sweep(*folders: Path) -> list[Path]:
    """Delete what processes of this machine that are gone were writing into ``folders``; returns what it was."""
    swept = []
    for path in (path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        found = ASIDE.fullmatch(path.name)
        if found is None or found["host"] != host() or alive(int(found["pid"])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        swept.append(path)
    return swept


def alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine; one that is dead and not yet buried does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2][:1] not in ("Z", "X")
    return True


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` by the JSON of ``value`` atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_object(path: Path, mend: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        mend: what to do if it is damaged.

    Raises:
        UserError: it cannot be read, or holds no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not JSON"
        raise UserError(path.name, str(path), f"it cannot be read ({reason}); {mend}") from error
    if not isinstance(found, dict):
        raise UserError(path.name, str(path), f"it holds no object; {mend}")
    return found


def make_folder(path: Path, field: str = "out") -> Path:
    """Make ``path`` and its parents and prove that it can be written to.

    Raises:
        UserError: it is a file, or may not be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(field, str(path), f"choose a folder that can be written ({reason})") from error
    return path


def resume_command(folder: Path) -> str:
    """The command that goes on with the run in a folder, as a shell takes it."""
    return f"dipod train --resume {shlex.quote(str(folder))}"
