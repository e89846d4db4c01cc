"""The helper process: limits, restarts, forks, and an end with the process that asked."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipod.errors import UserError
from dipod.tasks.text import symbolic
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.rewards import verify
from dipod.tasks.text.subject import build_subject
from dipod.tasks.text.symbolic import Helper, UndecidedAnswers

SAME = (r"\frac{3}{\sqrt{2}}", r"\frac{3\sqrt{2}}{2}")


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    found = Helper()
    yield found
    found.stop()


def pid(helper: Helper) -> int:
    assert helper._process is not None
    return helper._process.pid


def gone(process: int, seconds: float = 10.0) -> bool:
    """Whether a process ends in time; it need not be a child of this one."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    ended = bool(select.select([descriptor], [], [], seconds)[0])
    os.close(descriptor)
    return ended


def test_what_takes_too_long_or_too_much_memory_is_not_the_same_and_is_said(helper: Helper) -> None:
    assert helper.same(*SAME)
    begun = pid(helper)
    with pytest.warns(UndecidedAnswers, match=r"1 answer could not be compared and count as wrong; the last took more"):
        assert not helper.same("9^{9^{9^{9}}}", r"\sqrt{2}")
    assert not helper.same("9^{9^{9^{9}}}", r"\sqrt{2}"), "asked once"
    assert not helper.same("(x+y+z+w)^{700}", r"\sqrt{2}")
    assert helper.undecided == 2
    assert helper.same(*SAME[::-1])
    assert pid(helper) == begun, "a request that is ended takes nothing with it"


def test_a_helper_that_is_killed_is_started_again(helper: Helper) -> None:
    helper.same(*SAME)
    before = pid(helper)
    os.kill(before, signal.SIGKILL)
    helper._known.clear()
    assert helper.same(*SAME)
    assert pid(helper) != before


def test_text_is_never_run_nor_written(helper: Helper, tmp_path: Path) -> None:
    canary = f"{tmp_path}/canary"
    for text in (f"__import__('os').system('touch {canary}')", f"\\input{{{canary}}}", f"open('{canary}','w')"):
        assert not helper.same(text, "x")
        assert verify([""], [f"<answer>{text}</answer>"], answer=["x"]) == [0.0]
    assert not os.path.exists(canary)


SCRIPT = """
import importlib.util, os, signal, sys

spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker._bare_packages()
from dipod.tasks.text.symbolic import HELPER

same = r"\\frac{3}{\\sqrt{2}}", r"\\frac{3\\sqrt{2}}{2}"
assert HELPER.same(*same)
HELPER._known.clear()
child = os.fork()
if child == 0:  # it has a helper of its own, and the parent's goes on
    assert HELPER._process is None
    assert HELPER.same(*same)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert HELPER.same(*same)
assert not {"sympy", "math_verify", "torch"} & set(sys.modules)
print(HELPER._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_helper_ends_with_the_process_that_asked_killed_or_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(symbolic._WORKER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert gone(int(done.stdout))


def test_math_asks_for_the_extra_and_the_others_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"module = 'math_verify': install it with: pip install .*dipod\[language\]"):
        build_subject(TextConfig(name="math"))
    with pytest.raises(UserError, match="math_verify"):
        Helper().same(*SAME)
    for name in ("countdown", "sudoku", "gsm8k"):
        build_subject(TextConfig(name=name))
    build_subject(TextConfig(name="math", rewards="paper", parser="strict"))


def test_a_helper_that_does_not_start_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(symbolic, "_WORKER", tmp_path / "worker.py")
    with pytest.raises(UserError, match=r"math_verify.*its process does not start"):
        Helper().same(*SAME)
