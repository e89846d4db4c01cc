"""The lock of a run folder: one holder, named to others, and none left behind by one that was killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from dipod import locks, runs
from dipod.errors import Note, UserError
from dipod.files import host
from dipod.locks import hold
from dipod.runs import Silent
from tests.test_files import dead
from tests.test_trainer import tiny

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@contextmanager
def child_that(inside: Callable[[], AbstractContextManager[object]]) -> Iterator[int]:
    """A forked process that is inside a context until it is killed with -9."""
    there, told = os.pipe()
    child = os.fork()
    if child == 0:
        with inside():
            os.write(told, b"x")
            signal.pause()
    try:
        os.read(there, 1)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(there)
        os.close(told)


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with child_that(lambda: hold(tmp_path)) as child:
        who = rf"process {child} on {host()}, since .*kill {child}"
        with pytest.raises(UserError, match=who), hold(tmp_path):
            pass
    with hold(tmp_path, patience=0.0):
        assert json.loads((tmp_path / locks.NAME).read_text())["pid"] == os.getpid()


def test_neither_training_nor_making_a_run_goes_on_in_a_folder_that_is_held(tmp_path: Path) -> None:
    """Two `--resume` of one run at once both trained."""
    folder = tmp_path / "run"
    runs.create(folder, tiny())
    with hold(folder):
        before = sorted(path.name for path in folder.rglob("*"))
        with pytest.raises(UserError, match="another process works in it"):
            runs.train(folder, Silent())
        assert sorted(path.name for path in folder.rglob("*")) == before
    with hold(tmp_path), pytest.raises(UserError, match="another process works in it"):
        runs.create(tmp_path, tiny())


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    with ExitStack() as held:
        held.enter_context(hold(tmp_path))
        with child_that(nullcontext):
            held.close()
            with hold(tmp_path, patience=0.0):
                pass


def test_the_lock_is_held_until_the_last_process_that_it_was_passed_to_is_gone(tmp_path: Path) -> None:
    with hold(tmp_path) as lock:
        assert lock.descriptor is not None
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor])
        os.pwrite(lock.descriptor, json.dumps({"pid": dead(), "host": host()}).encode().ljust(200), 0)
    with pytest.raises(UserError, match="still work in it though it is gone"), hold(tmp_path, patience=0.0):
        pass
    cat.communicate()
    with hold(tmp_path, patience=0.0):
        pass


def test_where_there_are_no_locks_the_work_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(Note, match="no locks"), hold(tmp_path) as lock:
        assert lock.descriptor is None


def test_a_lock_file_that_cannot_be_read_names_nobody(tmp_path: Path) -> None:
    with hold(tmp_path):
        for content in ("", "{", "[1]", '{"pid": "x"}'):
            (tmp_path / locks.NAME).write_text(content)
            with pytest.raises(UserError, match="another process works in it; wait"), hold(tmp_path):
                pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / locks.NAME).mkdir()
    with pytest.raises(UserError, match=r"\.lock cannot be written"), hold(tmp_path / "other"):
        pass
