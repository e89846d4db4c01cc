"""Are two answers the same where it takes algebra to tell? Asked of math-verify, in a process of its own.

Text that a model wrote never reaches sympy in the process that trains. The helper (`symbolic_worker`) is started where
it is first needed, once for each process that asks, and ends with it, however that one ends. What takes too long, needs
too much memory or breaks the helper is not the same, is counted, and is said.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from dipod.errors import Note, UserError
from dipod.extras import require_extra

SECONDS = 0.5
"""Processor time of one comparison; usual ones take a hundredth of it."""
PATIENCE = 60.0
"""Seconds that a comparison, or the helper's start, may take by the clock before the helper is killed."""
REMEMBERED = 4096
"""Verdicts kept, so that a reward and an evaluation of the same answer ask once."""
_WORKER = Path(__file__).with_name("symbolic_worker.py")


class UndecidedAnswers(Note):
    """Answers count as wrong because comparing them took too long or too much memory."""


@dataclass
class Helper:
    """The helper of this process.

    Attributes:
        undecided: how many comparisons ended without a verdict, and counted as "not the same".
    """

    undecided: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: OrderedDict[tuple[str, str], bool] = field(default_factory=OrderedDict)

    def same(self, answer: str, reference: str) -> bool:
        """Whether two answers, spelled in LaTeX, are the same; False where that is not found within the limits.

        Raises:
            UserError: math-verify is not installed, or its process does not start.
        """
        with self._lock:
            pair = (answer, reference)
            if pair not in self._known:
                verdict = self._ask(json.dumps(pair))
                self._known[pair] = verdict == "same"
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
                if verdict not in {"same", "different"}:
                    self._count(answer, verdict)
            self._known.move_to_end(pair)
            return self._known[pair]

    def stop(self) -> None:
        """End the helper; it starts again where it is needed."""
        process, self._process = self._process, None
        if process is None:
            return
        _close(process)
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def forget_process(self) -> None:
        """In a forked process: the helper is the parent's, so this one starts its own."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            process.returncode = 0  # not a child of this process
            _close(process)

    def _ask(self, request: str) -> str:
        """The helper's word; a helper that is gone is started again, once."""
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                self.stop()
                self._process = _start()
            with contextlib.suppress(OSError):
                _write(self._process, request.encode() + b"\n")
                word = _line(self._process)
                if word:
                    return word
            self._process.kill()
            self.stop()
        return "failed"

    def _count(self, answer: str, verdict: str) -> None:
        """Count an answer without a verdict, and say so at 1, 10, 100, ..."""
        self.undecided += 1
        if str(self.undecided).rstrip("0") == "1":
            what = {"time": f"took more than {SECONDS:g} s", "memory": "took too much memory"}.get(verdict, verdict)
            many = f"{self.undecided} answer{'s' if self.undecided > 1 else ''} could not be compared"
            warnings.warn(
                f"{many} and count as wrong; the last {what}: {answer[:60]!r}", UndecidedAnswers, stacklevel=4
            )


def require_symbolic() -> None:
    """Raise `UserError` unless math-verify is installed; it is not imported."""
    require_extra("math_verify")


def _start() -> subprocess.Popen[bytes]:
    require_symbolic()
    process = subprocess.Popen(
        [sys.executable, "-P", str(_WORKER), str(SECONDS)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    if _line(process) != "ready":
        process.kill()
        _close(process)
        process.wait()
        raise UserError("module", "math_verify", "its process does not start; see: python -c 'import math_verify'")
    return process


def _write(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    while data:
        data = data[process.stdin.write(data) :]


def _line(process: subprocess.Popen[bytes]) -> str:
    """One line of the helper; empty where it is gone, or silent for too long."""
    assert process.stdout is not None
    line, end = b"", time.monotonic() + PATIENCE
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        part = process.stdout.read(64) if ready else b""
        if not part:
            return ""
        line += part
    return line.decode().strip()


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


HELPER = Helper()
"""The one of this process."""
atexit.register(HELPER.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HELPER.forget_process)
