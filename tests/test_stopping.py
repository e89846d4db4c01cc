"""Signals ask to stop; the end of whoever started a process ends it and all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dipod.stopping import Lifeline, stop_requests

CELL = """
import subprocess, sys, time
from dipod.stopping import follow
follow()
subprocess.Popen(["sleep", "600"])
print("ready", flush=True)
time.sleep(600)
"""


def test_a_first_signal_is_noted_and_a_second_interrupt_interrupts() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with stop_requests() as stop:
        for number in (signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop == [signal.SIGHUP, signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("before", [False, True])
def test_a_process_and_what_it_started_die_with_the_owner_of_their_lifeline(before: bool) -> None:
    """Also where the owner is gone before the process has begun to look."""
    lifeline = Lifeline()
    with subprocess.Popen(
        [sys.executable, "-c", CELL],
        stdout=subprocess.PIPE,
        env={**os.environ, **lifeline.environment()},
        pass_fds=[lifeline.watched],
        start_new_session=True,
    ) as cell:
        assert cell.stdout is not None
        if not before:
            assert cell.stdout.readline() == b"ready\n"
        lifeline.close()
        cell.stdout.read()  # ends when the last process that could write is gone
        assert cell.wait() == -signal.SIGKILL
