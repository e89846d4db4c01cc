"""One process at a time in a run folder or in the folder of a comparison.

The lock is the kernel's (``flock``): it dies with its holder, so one killed with -9 leaves nothing behind that blocks.
Processes that `Lock.descriptor` is passed to hold it too: it is free when the last of them is gone.
"""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dipod.errors import Note, UserError
from dipod.files import alive, host

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What file systems without locks say (Lustre without its flock option, some network file systems)."""
POLL_SECONDS = 0.1
_held: set[int] = set()


@dataclass(frozen=True)
class Lock:
    """A lock that is held.

    Attributes:
        descriptor: of the open file; None where the file system has no locks.
    """

    descriptor: int | None


def _forget() -> None:
    """In a forked child: the lock is the parent's alone, whatever becomes of the child."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def hold(folder: Path, patience: float = 30.0) -> Iterator[Lock]:
    """Inside it, no other process is inside it for the same folder.

    Args:
        folder: exists.
        patience: seconds to wait for processes that a holder has left behind, who is gone himself.

    Raises:
        UserError: another process works there; the message names it.
    """
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError("run", str(folder), f"its file {NAME} cannot be written ({reason})") from error
    _held.add(descriptor)
    try:
        locked = _take(descriptor, folder, patience)
        if locked:
            about = {"pid": os.getpid(), "host": host(), "since": datetime.now().astimezone().isoformat("T", "seconds")}
            with suppress(OSError):  # a full disk: nobody would know who it is, but the lock holds
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(about).encode(), 0)
        yield Lock(descriptor if locked else None)
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _take(descriptor: int, folder: Path, patience: float) -> bool:
    """Lock the open file; False where the file system cannot."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no flock on this system")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            left_behind = holder.get("host") == host() and not alive(int(holder.get("pid", 0)))
            if not left_behind or time.monotonic() > deadline:
                raise UserError("run", str(folder), _refusal(holder, left_behind)) from None
            time.sleep(POLL_SECONDS)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            reason = error.strerror or type(error).__name__
            warnings.warn(
                f"{folder}: the file system has no locks ({reason}); see that nothing else works in it",
                Note,
                stacklevel=2,
            )
            return False
        else:
            return True


def _holder(descriptor: int) -> dict[str, Any]:
    """Who wrote himself into the lock's file; nothing where that cannot be read (he may just be writing)."""
    with suppress(OSError, ValueError):
        found = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(found, dict) and isinstance(found.get("pid"), int):
            return found
    return {}


def _refusal(holder: dict[str, Any], left_behind: bool) -> str:
    if not holder:
        return "another process works in it; wait for its end"
    who = f"process {holder['pid']} on {holder.get('host')}, since {holder.get('since')}"
    if left_behind:
        return f"processes that were started by {who}, still work in it though it is gone; wait for their end"
    return f"another process works in it ({who}); wait for its end, or stop it: kill {holder['pid']}"
