"""How the processes of one run meet, and how all of them end when one does.

Where they meet (`dipod.launch`) stands a store of keys, torch's `TCPStore`: the launcher's, or one of rank 0. Rank 0
calls the roll in it before anything else is exchanged. From then on every process watches one key, under which the
first that fails says so, because whoever waits inside an exchange hears nothing else.

A launcher that starts everything anew keeps the store with all that the dead have written in it. So rank 0 gives a name
to every meeting and tells it to those that ask with a word of their own; all that follows stands under that name.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TypeVar

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from dipod.errors import UserError, require
from dipod.launch import START, Launch

T = TypeVar("T")

ANSWER_SECONDS = 2.0
"""How long a process that fails waits for the others to answer, which takes a live one milliseconds."""
FIRST_SECONDS = 0.2
"""How long the others let rank 0 go first: most mistakes are made by all."""
LINGER_SECONDS = 5.0
"""How long the end of the store is not taken for the end of the run: rank 0 may be done first."""
AGAIN_SECONDS = 60.0
"""How long a further connection to a store that has answered may take."""
LOOK_SECONDS = 0.5
"""How often a process looks whether another has failed."""

_over = threading.Event()
_threads: list[threading.Thread] = []


@atexit.register
def _end_threads() -> None:
    """Before the interpreter goes: a thread inside of the store would take it down."""
    _over.set()
    for thread in _threads:
        thread.join(LINGER_SECONDS)


def in_background(work: Callable[[], None]) -> None:
    """Run ``work`` beside this thread; it is to end when `_over` is set."""
    thread = threading.Thread(target=work, daemon=True)
    _threads.append(thread)
    thread.start()


@dataclass
class Meeting:
    """The processes that have met.

    Attributes:
        launch: who this one is.
        name: under which the keys of this meeting stand.
        store: of these keys.
        asked: how often `by_first` was called, the same on all.
        ending: held once this process has said, or heard, that it ends.
    """

    launch: Launch
    name: str
    store: Store
    asked: int = 0
    ending: threading.Lock = field(default_factory=threading.Lock)

    def by_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on rank 0, or raises there, on all of them; the others wait as long as it takes."""
        self.asked += 1
        key = f"first/{self.asked}"
        if self.launch.rank == 0:
            try:
                found = work()
            except Exception as error:
                self.store.set(key, pickle.dumps((None, _passable(error))))  # type: ignore[arg-type]
                raise
            self.store.set(key, pickle.dumps((found, None)))  # type: ignore[arg-type]
            return found
        _until(lambda: self.store.check([key]), float("inf"))
        answer, failure = pickle.loads(self.store.get(key))
        if failure is not None:
            raise failure
        given: T = answer
        return given

    def names(self, ranks: list[int]) -> str:
        """Ranks, with their hosts and process numbers where they are known."""
        known = [rank for rank in ranks if self.store.check([f"where/{rank}"])]
        where = {rank: f" ({self.store.get(f'where/{rank}').decode()})" for rank in known}
        return ", ".join(f"rank {rank}{where.get(rank, '')}" for rank in ranks)

    def fail(self, status: int) -> list[int] | None:
        """End the other processes with an exit status.

        Returns:
            None if another has failed before: this one is to end without a word. Else the ranks that do not answer.
        """
        if not self.ending.acquire(blocking=False):
            return None
        rank, others = self.launch.rank, [r for r in range(self.launch.size) if r != self.launch.rank]
        time.sleep(FIRST_SECONDS if rank else 0.0)
        mine = json.dumps({"rank": rank, "status": status})
        try:
            if self.store.compare_set("failed", "", mine).decode() != mine:
                self.leave(self.store, ANSWER_SECONDS)
                return None
            _until(lambda: self.store.check([f"left/{r}" for r in others]), ANSWER_SECONDS)
            silent = [r for r in others if not self.store.check([f"left/{r}"])]
            self.store.set(f"left/{rank}", "")
            return silent
        except RuntimeError:  # the store is gone
            return [] if self.launch.hosted else [0]

    def watch(self, store: Store) -> None:
        """End this process when another fails, or when there is no store any more.

        Args:
            store: of this meeting's keys, over a connection of its own: it waits.
        """
        rank, status = self.launch.rank, 1
        try:
            while not store.check(["failed"]):
                if _over.wait(LOOK_SECONDS):
                    return
            told = json.loads(store.get("failed"))
            if told["rank"] == rank or not self.ending.acquire(blocking=False):
                return
            status = told["status"]
            self.leave(store, ANSWER_SECONDS)
        except RuntimeError:
            if _over.wait(LINGER_SECONDS) or not self.ending.acquire(blocking=False):
                return
            if os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"dipod: error: nobody answers at {self.launch.place} any more", file=sys.stderr)
        if sys.stderr.isatty():
            print("\x1b[?25h", end="", file=sys.stderr)  # a bar may have hidden the cursor
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def leave(self, store: Store, seconds: float) -> None:
        """Say that this process ends; rank 0 stays so long for the others to hear all, if the store is its own."""
        store.set(f"left/{self.launch.rank}", "")
        if self.launch.rank == 0 and not self.launch.hosted:
            everyone = [f"left/{rank}" for rank in range(self.launch.size)]
            _until(lambda: store.check(everyone), seconds)

    def part(self) -> None:
        """Before this process ends well."""
        if self.launch.hosted or not self.ending.acquire(blocking=False):
            return
        with suppress(RuntimeError):
            self.leave(self.store, LINGER_SECONDS)


def _passable(error: Exception) -> Exception:
    """An error that another process can read."""
    try:
        same: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(str(error))
    return same


def _until(met: Callable[[], bool], seconds: float) -> bool:
    """Whether something holds within so many seconds; asked for ever more rarely, a second apart at last."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not met():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(1.5 * pause, 1.0)
    return True


def connect(launch: Launch, seconds: float) -> TCPStore:
    """The store where the processes meet; rank 0 opens it where the launcher has not.

    Raises:
        UserError: it does not answer in time, or cannot be opened.
    """
    host = launch.rank == 0 and not launch.hosted

    def answers() -> bool:
        try:
            socket.create_connection((launch.address, launch.port), timeout=5).close()
        except OSError:
            return False
        return True

    if not host and not _until(answers, seconds):
        mend = f"{'the launcher' if launch.hosted else 'rank 0'} did not answer there within {_time(seconds)}"
        raise UserError("MASTER_ADDR", launch.place, f"{mend}; start it, or raise {START}")
    limit = timedelta(seconds=max(seconds, 1.0))
    try:
        return TCPStore(launch.address, launch.port, None, host, limit, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:
        reason = "another program has it" if "EADDRINUSE" in str(error) else str(error).splitlines()[0]
        raise UserError("MASTER_PORT", launch.port, f"choose another, the same on all ({reason})") from error


def meet(launch: Launch, seconds: float) -> Meeting:
    """Wait until all processes are there.

    Args:
        launch: who this one is.
        seconds: how long.

    Raises:
        UserError: some did not come, or do not fit.
        SystemExit: another process has said so.
    """
    deadline = time.monotonic() + seconds
    store = connect(launch, seconds)
    meeting = _invite(launch, store, deadline) if launch.rank == 0 else _ask(launch, store, deadline, seconds)
    shared, rank, ranks = meeting.store, launch.rank, range(launch.size)
    if shared.check(["closed"]):
        raise UserError(
            "MASTER_ADDR", launch.place, "all of a run have met there without this one; choose another port"
        )
    with _one_says(meeting):
        size = int(shared.get("size"))
        mend = f"it is {size} on rank 0 and {launch.size} on rank {rank}; give all the same"
        require(size == launch.size, "WORLD_SIZE", launch.size, mend)
        require(shared.add(f"claimed/{rank}", 1) == 1, "RANK", rank, "two processes have it; give each its own")
        shared.set(f"where/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
        shared.set(f"here/{rank}", "")
        here = [f"here/{r}" for r in ranks]
        if not _until(lambda: shared.check(["failed"]) or shared.check(here), deadline - time.monotonic()):
            missing = [f"rank {r}" for r in ranks if not shared.check([f"here/{r}"])]
            names = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            mend = f"{names} did not come to {launch.place} within {_time(seconds)}; start it, or raise {START}"
            raise UserError("WORLD_SIZE", launch.size, mend)
        if shared.check(["failed"]):
            meeting.leave(shared, ANSWER_SECONDS)
            raise SystemExit(json.loads(shared.get("failed"))["status"])
    shared.set("closed", "")
    return meeting


def _time(seconds: float) -> str:
    return f"{seconds / 60:g} minutes"


@contextmanager
def _one_says(meeting: Meeting) -> Iterator[None]:
    """Inside it, a mistake ends all processes, and one of them says it."""
    try:
        yield
    except UserError as error:
        if meeting.fail(2) is None:
            raise SystemExit(2) from error
        raise


def _invite(launch: Launch, store: Store, deadline: float) -> Meeting:
    """Rank 0's part: name a meeting and tell the name, in a thread of its own, to all that ask."""
    name = f"dipod/{uuid.uuid4().hex}"
    meeting = Meeting(launch, name, PrefixStore(name, store))
    meeting.store.set("size", str(launch.size))
    own = connect(launch, AGAIN_SECONDS)

    def tell() -> None:
        told: set[int] = set()

        def tell_new() -> bool:
            for number in range(1, own.add("dipod/asked", 0) + 1):
                if number not in told and own.check([f"dipod/asked/{number}"]):
                    own.set(f"dipod/name/{own.get(f'dipod/asked/{number}').decode()}", name)
                    told.add(number)
            return _over.is_set() or own.check([f"{name}/closed"])

        try:
            _until(tell_new, deadline - time.monotonic())
        except RuntimeError:
            return

    in_background(tell)
    return meeting


def _ask(launch: Launch, store: Store, deadline: float, seconds: float) -> Meeting:
    """The others' part: ask rank 0 for the meeting's name, again where those of that name have met already."""
    late = False
    while True:
        word = uuid.uuid4().hex
        store.set(f"dipod/asked/{store.add('dipod/asked', 1)}", word)
        if not _until(partial(store.check, [f"dipod/name/{word}"]), deadline - time.monotonic()):
            who = "all of a run have met there without this one" if late else "rank 0 of this run did not come there"
            mend = f"{who} within {_time(seconds)}; start it, or raise {START}"
            raise UserError("MASTER_ADDR", launch.place, mend)
        name = store.get(f"dipod/name/{word}").decode()
        meeting = Meeting(launch, name, PrefixStore(name, store))
        late = meeting.store.check(["closed"])
        if not late:
            return meeting
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
