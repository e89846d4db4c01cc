"""Being asked to stop: by a signal, which lets the work save first, or by the end of whoever started this process."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
LIFELINE = "DIPOD_LIFELINE"
"""Names the descriptor whose end of file says that the process is no longer wanted."""


class Interrupted(Exception):  # noqa: N818 - an order obeyed, not an error
    """The work was asked to stop and has saved its state."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP (a closed terminal) instead of dying of them; a second SIGINT interrupts.

    A SIGHUP that was ignored stays ignored: ``nohup``.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.getsignal(number) for number in SIGNALS}
    hangup = getattr(signal, "SIGHUP", None)
    caught = [number for number in SIGNALS if number != hangup or previous[number] is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in caught:
            signal.signal(number, previous[number] or signal.SIG_DFL)


def _leave_terminal() -> None:
    """Writing to a terminal that is gone is an error, which must not come before the work is saved."""
    for descriptor in range(3):  # of the standard streams; a terminal that is gone no longer says that it is one
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


class Lifeline:
    """A pipe that nothing is written to: whoever `follow`s it dies when its owner does, however that dies.

    The kernel closes the owner's end, so that nothing depends on the owner's doing anything, nor on which of two
    processes comes first.
    """

    def __init__(self) -> None:
        self.watched, self._owned = os.pipe()

    def environment(self) -> dict[str, str]:
        """What the environment of a process says that is to follow; `watched` must be passed to it."""
        return {LIFELINE: str(self.watched)}

    def close(self) -> None:
        """End all who follow."""
        os.close(self._owned)
        os.close(self.watched)


def follow() -> None:
    """If this process was started with a `Lifeline`, die with its owner, and with us the rest of our process group."""
    given = os.environ.pop(LIFELINE, None)
    if given is None:
        return
    descriptor = int(given)
    os.set_inheritable(descriptor, False)

    def watch() -> None:
        with suppress(OSError):
            while os.read(descriptor, 1):
                pass
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":  # a cell: it follows before it imports anything that takes long
    follow()
    sys.path.insert(0, os.getcwd())
    from dipod.cli import entry

    entry()
