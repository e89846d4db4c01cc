"""The process that compares answers with math-verify; started by `dipod.tasks.text.symbolic`.

It reads one request a line, `[answer, reference]` in JSON, and writes one line each: "same", "different", or why there
is no verdict: "time", "memory", "failed". Every request has a process of its own, forked from this one: all begin in
the same state, so a verdict depends on the request alone, and what a text does to its process ends with it. A request
has a limit of processor time, which does not depend on what else the machine does, and one of memory, and may not write
files.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

MEMORY = 1 << 30
"""Bytes of address space that a request may use."""
NEAR = 1.5e-6
"""Two numbers are the same within this share of the larger one, which is where math-verify rounds decimals."""
WARM_UP = (
    (r"\frac{3}{\sqrt{2}}", r"\frac{3\sqrt{2}}{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"2\pi r", r"\pi\cdot 2r"),
    ("x<2", "2>x"),
    (r"[1,\infty)", r"x\ge 1"),
    ("2x+4y=3", "x+2y=1.5"),
    (r"(\log_2 3, \sin x)", r"(\frac{\ln 3}{\ln 2}, \sin{x})"),
)
"""Asked before the first request, so that no request pays for parser tables and caches that all of them use."""


def compare(answer: str, reference: str) -> bool:
    """Whether two expressions in LaTeX are the same, by math-verify and by a check of its yes."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    rules = NormalizationConfig(units=False, malformed_operators=True, nits=True)  # its units are letters, e among them
    how = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)]
    wanted, given = (
        parse(f"$\\boxed{{{text}}}$", how, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (reference, answer)
    )
    if not wanted or not given:
        return False
    if not verify(wanted, given, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return _confirmed(wanted[0], given[0])


def _confirmed(wanted: Any, given: Any) -> bool:
    """Whether a yes holds: math-verify drops tiny differences, and does not check every part of some equations."""
    from sympy import Expr, simplify
    from sympy.core.relational import Relational

    if isinstance(wanted, Relational) and isinstance(given, Relational):
        sides = [side.lhs - side.rhs for side in (wanted, given)]
        ratio = simplify(sides[0] / sides[1])
        return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)
    sides = [_named(side) if isinstance(side, Relational) else side for side in (wanted, given)]
    if any(isinstance(side, Expr) for side in sides):
        return all(isinstance(side, Expr) for side in sides) and all(_near(*pair) for pair in _values(*sides))
    return True


def _named(relation: Any) -> Any:
    """What an equation gives a name to; the relation itself where it does something else, as in 3x = 5."""
    from sympy import Eq

    return relation.rhs if isinstance(relation, Eq) and relation.lhs.is_Symbol else relation


def _values(wanted: Any, given: Any) -> Iterator[tuple[Any, Any]]:
    """Both expressions at two points, one of them with negative values."""
    from sympy import Rational

    symbols = sorted(wanted.free_symbols | given.free_symbols, key=str)
    for sign in (1, -1):
        point = {symbol: Rational(sign ** (at + 1) * (7 + 3 * at), 5 + at) for at, symbol in enumerate(symbols)}
        yield tuple(side.doit().subs(point).evalf(30) for side in (wanted, given))
        if not symbols:
            return


def _near(wanted: Any, given: Any) -> bool:
    if not (wanted.is_number and given.is_number and wanted.is_finite and given.is_finite):
        return bool(wanted == given or (wanted - given).is_zero)
    return bool(abs(wanted - given) <= NEAR * max(abs(wanted), abs(given)))


def _same(answer: str, reference: str) -> bool:
    """Whether two spelled answers are the same, expressions inside lists and tuples included."""
    from dipod.tasks.text.answers import same_spelled

    return same_spelled(answer, reference, compare)


def _bare_packages() -> None:
    """Make the modules of text tasks importable without what their packages import, torch above all."""
    folder = Path(__file__).resolve().parent
    for name, where in (("dipod", folder.parents[1]), ("dipod.tasks", folder.parent), ("dipod.tasks.text", folder)):
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(where)]


def _confine(seconds: float) -> None:
    """End this process at its limits: by a signal at that of time, by MemoryError at that of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(request: str, seconds: float) -> str:
    """The verdict on a request, from a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        verdict = b"failed"
        try:
            _confine(seconds)
            verdict = b"same" if _same(*json.loads(request)) else b"different"
        except MemoryError:
            verdict = b"memory"
        except BaseException:  # whatever a hostile text provokes: this process ends here
            verdict = b"failed"
        finally:
            os.write(writing, verdict)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        verdict = pipe.read()
    _, status = os.waitpid(child, 0)
    if verdict:
        return verdict.decode()
    return "time" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF else "failed"


def _requests() -> Iterator[str]:
    """Lines of standard input, until it ends or the process that started this one is gone."""
    parent, rest = os.getppid(), b""
    while os.getppid() == parent:
        if not select.select([0], [], [], 2.0)[0]:
            continue
        part = os.read(0, 1 << 16)
        if not part:
            return
        *lines, rest = (rest + part).split(b"\n")
        yield from (line.decode() for line in lines)


def main() -> None:
    """Serve requests; the argument is the limit of processor time of one, in seconds."""
    seconds = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    logging.disable(logging.CRITICAL)
    _bare_packages()
    for pair in WARM_UP:
        with contextlib.suppress(Exception):
            _same(*pair)
    gc.collect()
    gc.freeze()
    os.write(1, b"ready\n")
    for request in _requests():
        os.write(1, _answer(request, seconds).encode() + b"\n")


if __name__ == "__main__":
    main()
