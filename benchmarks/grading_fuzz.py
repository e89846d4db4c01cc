"""Hostile texts through every parser and every reward: time, agreement, and whether anything of a text is run.

    python benchmarks/grading_fuzz.py                        (100,000 texts)
    python benchmarks/grading_fuzz.py --begin 25000 --texts 25000 --out part-1.json       (a part, on a busy machine)
    python benchmarks/grading_fuzz.py --merge part-0.json part-1.json

A text is made of pieces that are hard on patterns, parsers of LaTeX and evaluators, some of which would leave a file
behind if they were run; one in a thousand has 100,000 characters. Of every call the processor time is taken, that of
the helper process included, which asks math-verify on every fifth text (`--asked 1`: on all). What must hold:

- no call takes more than a second, none raises;
- no code of a text runs: no audit event of Python that would, and no file left behind;
- the released format reward is what its pattern says (on texts short enough for the pattern, which takes the square);
- what the strict parser accepts, `verify` accepts (on MATH: what equals the reference);
- the full reward of the default rewards and "solved" by the default parser are the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import RESULTS, provenance

from dipod.files import make_folder, write_json
from dipod.tasks.text.completions import RewardFunction
from dipod.tasks.text.parsers import PARSER_NAMES, PARSERS, strict_answer
from dipod.tasks.text.references import read_reference
from dipod.tasks.text.released_rewards import released_soft_format
from dipod.tasks.text.rewards import REWARDS, exact_answer, format_tags, numeric_answer, verify
from dipod.tasks.text.symbolic import HELPER, UndecidedAnswers

BOARD = {"puzzle": "0234341221434321", "solution": "1234341221434321"}
SUM = {"numbers": [3, 7, 12], "target": 33}
MATH = (
    "\\frac{1}{2}",
    "5",
    "\\sqrt{2}",
    "(1,2)",
    "[0,1)",
    "x^2+1",
    "\\text{Evelyn}",
    "1,2,3",
    "20\\%",
    "\\pm 3",
    "x=5",
)
PIECES = [
    "<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", " ", "\t", "\\boxed{", "\\boxed ", "\\fbox{",
    "}", "{", "<|eot_id|>", "<|endoftext|>", "<|", "$", "$$", "\\(", "\\)", "\\[", "\\]", "**", "```", "`", "'",
    "\"", ".", ",", ";", ":", "(", ")", "[", "]", "\\{", "\\}", "+", "-", "*", "/", "=", "^", "_", "!", "%", "\\%",
    "|", "&", "\\\\", "~", "#", "@", "0", "1", "2", "3", "7", "12", "18", "33", "9" * 50, "0.5", ".5", "1,000",
    "1,00", "1e999", "3*7+12", "1234341221434321", "\\frac{", "\\frac12", "\\frac", "\\sqrt{", "\\sqrt", "\\sqrt2",
    "\\left(", "\\right)", "\\times", "\\cdot", "\\div", "\\pm", "\\text{", "\\text{ cm}", "\\mathrm{",
    "\\begin{pmatrix}", "\\end{pmatrix}", "\\cup", "\\infty", "\\pi", "\\sum_{k=1}^{9}", "\\int", "\\binom{9}{4}",
    "\\log", "\\sin", "\\le", "<", ">", "\\in", "x", "y", "e", "i", "x^", "9^{9^{9^9}}", "9**9**9**9",
    "(x+1)^{99}", "²", "½", "×", "÷", "−", "π", "∞", "√", "°", "\u200b", "\u00a0", "\ud800", "\U0001d7d9", "٣",
    "１", "\x00", "﷽", "and", "or", "half of", "Row 1:", "The answer is ", "Answer:", "cm", "dollars", "percent",
    "million", "Evelyn", "18 eggs",
]  # fmt: skip
CODE = (
    "__import__('os').system('touch {0}')",
    "open('{0}','w')",
    "exec(\"open('{0}','w')\")",
    "\\input{{{0}}}",
    "{{{{{0}.__class__}}}}",
)
RUNS_CODE = {
    "exec",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
}
RUNS_CODE |= {"import", "socket.connect", "ctypes.dlopen", "os.remove", "os.rename", "shutil.rmtree"}
FUNCTIONS = {
    task: list({f.__name__: f for v in variants.values() for f in v}.values()) for task, variants in REWARDS.items()
}
SHORT = 1_000
"""Characters of a text that the released pattern itself is asked about."""


@dataclass
class Watch:
    """Audit events of Python while a text is graded."""

    on: bool = False
    seen: Counter[str] = field(default_factory=Counter)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what could run code, or write a file."""
        if self.on and (event in RUNS_CODE or (event == "open" and str(arguments[1] or "r")[0] in "wax")):
            self.seen[f"{event} {arguments[:1]}"] += 1


def text_of(number: int, canary: str) -> str:
    """One hostile text, always the same for a number."""
    rng = random.Random(number)
    pieces = [*PIECES, *(code.format(canary) for code in CODE)]
    length = 100_000 if number % 1000 == 0 else rng.choice((20, 60, 200, 200, 1000, 5000 if number % 10 == 0 else 300))
    way = rng.randrange(4)
    if way == 0:
        parts: Iterator[str] = iter(lambda: rng.choice(pieces), None)
    elif way == 1:
        parts = itertools.repeat(rng.choice(pieces))
    else:
        parts = itertools.cycle(rng.choices(pieces, k=rng.choice((2, 2, 3, 5, 9))))
    body, size = [], 0
    while size < length:
        body.append(next(parts))
        size += len(body[-1])
    start, end = rng.choice(
        (("<answer>", "</answer>"), ("<answer>\\boxed{", "}</answer>"), ("<answer>", ""), ("<reasoning>", ""), ("", ""))
    )
    return f"{start}{''.join(body)[:length]}{end}"


def helper_seconds() -> float:
    """Processor time of the helper and of what it started."""
    process = HELPER._process
    if process is None:
        return 0.0
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


class Meter:
    """How often the helper is asked, and the processor time that it takes."""

    def __init__(self, every: int) -> None:
        self.asked, self.text, self.before, ask = 0, 0, helper_seconds(), HELPER._ask

        def count(request: str) -> str:
            if self.text % every != 1 % every:
                return "different"
            self.asked += 1
            return ask(request)

        setattr(HELPER, "_ask", count)  # noqa: B010

    def spent(self) -> float:
        """Seconds since the last look."""
        before, self.before = self.before, helper_seconds()
        return self.before - before


@dataclass
class Findings:
    """What came out."""

    helper: Meter
    calls: int = 0
    seconds: float = 0.0
    slowest: list[dict[str, Any]] = field(default_factory=list)
    over: int = 0
    broken: list[str] = field(default_factory=list)

    def call(self, name: str, number: int, text: str, work: Callable[..., Any], *given: Any) -> Any:
        """What ``work(*given)`` gives; its time is taken, an exception is noted."""
        asked, begin = self.helper.asked, time.process_time()
        try:
            return work(*given)
        except Exception as error:
            self.broken.append(f"text {number}: {name} raised {error!r}"[:300])
        finally:
            took = time.process_time() - begin
            if self.helper.asked != asked:
                took += self.helper.spent()
            self.calls += 1
            self.seconds += took
            self.over += took > 1
            if took > 0.01:
                row = {"seconds": round(took, 3), "function": name, "text": number, "characters": len(text)}
                self.slowest.append(row)
        return None

    def trim(self) -> None:
        """Keep the slowest calls."""
        if len(self.slowest) > 10:
            self.slowest = sorted(self.slowest, key=lambda row: -row["seconds"])[:10]


def grade_all(found: Findings, number: int, text: str) -> None:
    """Every parser and every reward on one text, and what must hold between them."""
    reference = MATH[number % len(MATH)]
    references: dict[str, Any] = {"gsm8k": 18, "math": reference, "countdown": SUM, "sudoku": BOARD}
    columns = {"numbers": [[3, 7, 12]], "target": [33], **{key: [value] for key, value in BOARD.items()}}
    solved: dict[tuple[str, str], bool] = {}
    for task, value in references.items():
        wanted = read_reference(task, value)
        for name in PARSER_NAMES:
            parser = PARSERS[task][name]
            answer = found.call(f"{task} {name} read", number, text, parser.read, text)
            right = found.call(f"{task} {name}", number, text, parser.accepts, answer, wanted)
            solved[task, name] = answer is not None and bool(right)
        given = {**columns, "answer": [str(value)]}
        for function in FUNCTIONS[task]:
            name = function.__name__
            (reward,) = found.call(name, number, text, _rewarded, function, text, given) or (None,)
            full = 2.0 if task in {"gsm8k", "math"} else 1.0
            if name.startswith("verified") and (reward == full) != solved[task, "verify"]:
                found.broken.append(f"text {number}: {name} gives {reward}, solved {solved[task, 'verify']}")
            if function is released_soft_format and len(text) <= SHORT:
                said = re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", re.sub(r"<\|\w+\|>", "", text))
                if (reward == 0.5) != bool(said):
                    found.broken.append(f"text {number}: {name} gives {reward}")
    for function in (verify, exact_answer, numeric_answer, format_tags):
        given = {"answer": ["5" if function is numeric_answer else reference]}
        found.call(function.__name__, number, text, _rewarded, function, text, given)
    for task in references:
        must = strict_answer(text) == reference if task == "math" else solved[task, "strict"]
        if must and not solved[task, "verify"]:
            found.broken.append(f"text {number}: strict accepts it on {task}, verify does not")


def _rewarded(function: RewardFunction, text: str, columns: dict[str, list[Any]]) -> list[float | None]:
    return function([""], [text], **columns)


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One result of several parts: sums, and the slowest calls of all."""
    whole = {**parts[0], "command": [part["command"] for part in parts]}
    for key, value in parts[0].items():
        rest = [part[key] for part in parts[1:]]
        if key in {"threads", "load_average", "first_text"}:
            whole[key] = [value, *rest]
        elif isinstance(value, (int, float)):
            whole[key] = round(value + sum(rest), 1)
        elif key in {"broken", "files_left_behind", "slowest"}:
            whole[key] = value + [row for more in rest for row in more]
        elif key == "events_that_run_code":
            whole[key] = dict(sum((Counter(part[key]) for part in parts), Counter()))
    return {**whole, "slowest": sorted(whole["slowest"], key=lambda row: -row["seconds"])[:10]}


def main() -> None:
    """Grade, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--begin", type=int, default=0, help="the number of the first text")
    parser.add_argument("--asked", type=int, default=5, help="ask math-verify on every so many texts")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this long, with fewer texts")
    parser.add_argument("--out", type=Path, default=RESULTS / "grading-fuzz-cpu.json")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="PART", help="put results of parts together")
    arguments = parser.parse_args()
    if arguments.merge:
        parts = sorted((json.loads(path.read_text()) for path in arguments.merge), key=lambda part: part["first_text"])
        write_json(arguments.out, merged(parts))
        return
    warnings.simplefilter("ignore", UndecidedAnswers)
    where = provenance("grading_fuzz.py", "cpu")
    watch = Watch()
    HELPER.same("x+1", "1+x")
    found = Findings(Meter(arguments.asked))
    sys.addaudithook(watch)
    texts, began = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        canary = f"{folder}/canary"
        grade_all(Findings(found.helper), 0, text_of(0, canary))  # what is imported where it is first needed
        for number in range(arguments.begin, arguments.begin + arguments.texts):
            text = text_of(number, canary)
            found.helper.text = number
            watch.on = True
            grade_all(found, number, text)
            watch.on = False
            found.trim()
            texts += 1
            if time.perf_counter() - began > arguments.seconds:
                break
        left = os.listdir(folder)
    found.trim()
    result = {
        **where,
        "texts": texts,
        "first_text": arguments.begin,
        "calls": found.calls,
        "texts_on_which_math_verify_was_asked": sum(
            (arguments.begin + at) % arguments.asked == 1 % arguments.asked for at in range(texts)
        ),
        "asked_of_math_verify": found.helper.asked,
        "asked_of_math_verify_without_a_verdict": HELPER.undecided,
        "calls_over_a_second": found.over,
        "processor_seconds": round(found.seconds, 1),
        "wall_seconds": round(time.perf_counter() - began, 1),
        "events_that_run_code": dict(watch.seen),
        "files_left_behind": left,
        "broken": found.broken[:50],
        "slowest": found.slowest,
    }
    make_folder(arguments.out.parent)
    write_json(arguments.out, result)
    print(f"{found.calls} calls on {texts} texts, {found.over} over a second; slowest {found.slowest[:1]}")
    print(f"{len(found.broken)} broken, {sum(watch.seen.values())} events, files left: {left}")
    HELPER.stop()


if __name__ == "__main__":
    main()
