"""``dipod score``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dipod.errors import UserError, require
from dipod.files import make_folder
from dipod.recipes import language, load
from dipod.tasks.text.config import TextConfig
from dipod.tasks.text.grading import Grade, Verdict, grade_file, summary
from dipod.tasks.text.parsers import PARSER_NAMES
from dipod.tasks.text.references import answer_text
from dipod.tasks.text.rows import TASKS
from dipod.tasks.text.subject import build_subject
from dipod.tasks.text.symbolic import HELPER, require_symbolic

NAME = "score"
HELP = "accuracy of generations in a file, by a published parser or ours"
DESCRIPTION = """Score a JSONL file of generations, with one {"generation": G, "reference": R} on every line.

  dipod score --task gsm8k --parser d1 generations.jsonl     R a number (18, "1,250") or a solution ("... #### 18")
  dipod score --task math generations.jsonl                  R the answer ("\\\\frac{1}{2}"), or a solution with a box
  dipod score --task countdown generations.jsonl             R {"numbers": [3, 5, 7], "target": 8}
  dipod score --task sudoku generations.jsonl                R {"puzzle": "16 digits", "solution": "16 digits"}
  dipod score --task my.yaml generations.jsonl               R the column answer of a custom task
  dipod score --task math --verdicts - generations.jsonl     one JSON line a generation, then the accuracy

G is the text, or a number that is the answer itself.

Parsers: verify takes an answer as right however it is written, and is what training rewards and evaluations use; strict
takes one way of writing it; d1 and spg repeat the published evaluations, faults included, and differ on gsm8k
alone. Sudoku counts empty cells, as published, and whole boards.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the generations, JSONL")
    parser.add_argument(
        "--task", required=True, metavar="T", help=f"{', '.join(TASKS)}, or a YAML file with a text task"
    )
    parser.add_argument("--parser", choices=PARSER_NAMES, help="default: verify, or what the YAML file says")
    parser.add_argument("--verdicts", metavar="FILE", help="write a JSON object for every line; - prints them")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Score and print."""
    undecided = HELPER.undecided
    name, parser, verdicts = _graded(arguments)
    result = summary(verdicts, name, parser)
    if HELPER.undecided > undecided:
        result["undecided"] = HELPER.undecided - undecided
    if arguments.verdicts is not None:
        _tell(verdicts, arguments.verdicts)
    if arguments.json:
        print(json.dumps(result))
        return
    cells = "boards" in result
    counts = f"{result['correct']} of {result['total']} {'empty cells' if cells else 'answers'}"
    line = f"{result['task']}, parser {result['parser']}: {result['accuracy']:.2%} ({counts})"
    line += f"; boards entirely right: {result['boards']}" if cells else ""
    print(
        line + (f"; not compared within the limits, so wrong: {result['undecided']}" if "undecided" in result else "")
    )


def _graded(arguments: argparse.Namespace) -> tuple[str, str, list[Verdict]]:
    """(task, parser, verdicts) of a task by name or of one in a YAML file."""
    if arguments.task in TASKS:
        parser = arguments.parser or TextConfig.parser
        return arguments.task, parser, grade_file(arguments.file, arguments.task, parser)
    known = f"choose one of {', '.join(TASKS)}, or give a YAML file with a text task"
    require(Path(arguments.task).suffix in {".yaml", ".yml"}, "task", arguments.task, known)
    config = language(load(arguments.task)).task
    if not isinstance(config, TextConfig):
        raise UserError("task", arguments.task, known)
    parser = arguments.parser or config.parser
    if config.name in TASKS:
        return config.name, parser, grade_file(arguments.file, config.name, parser)
    subject = build_subject(replace(config, parser=parser))
    if parser == "verify":
        require_symbolic()

    def judge(text: str, reference: Any, where: str) -> Grade:
        return subject.grade(text, {"question": "", "answer": answer_text(reference, where)}) or Grade(0, 1, False)

    return config.name, parser, grade_file(arguments.file, config.name, parser, judge)


def _tell(verdicts: Sequence[Verdict], where: str) -> None:
    """Every verdict as a line of JSON, into a file or to standard output."""
    lines = "".join(json.dumps(verdict.as_json(), ensure_ascii=False) + "\n" for verdict in verdicts)
    if where == "-":
        sys.stdout.write(lines)
        return
    path = Path(where)
    make_folder(path.parent)
    try:
        path.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise UserError("verdicts", where, f"it cannot be written ({error.strerror or error})") from error
