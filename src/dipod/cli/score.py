"""``dipod score``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dipod.tasks.text.grading import score_file
from dipod.tasks.text.parsers import PARSER_NAMES
from dipod.tasks.text.rows import TASKS

NAME = "score"
HELP = "accuracy of generations in a file, by a published parser or ours"
DESCRIPTION = """Score a JSONL file of generations, with one {"generation": text, "reference": R} on every line.

  dipod score --task gsm8k --parser d1 generations.jsonl     R a number: 18, "1,250"
  dipod score --task math generations.jsonl                  R the answer: "\\\\frac{1}{2}"
  dipod score --task countdown generations.jsonl             R {"numbers": [3, 5, 7], "target": 8}
  dipod score --task sudoku generations.jsonl                R {"puzzle": "16 digits", "solution": "16 digits"}

Parsers: strict takes nothing but the whole content of the last answer tags; d1 and spg repeat the published
evaluations, faults included, and differ on gsm8k alone. Sudoku counts empty cells, as published, and whole boards.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the generations, JSONL")
    parser.add_argument("--task", required=True, choices=TASKS, help="what they answer")
    parser.add_argument("--parser", default="strict", choices=PARSER_NAMES, help="default: strict")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Score and print."""
    result = score_file(arguments.file, arguments.task, arguments.parser)
    if arguments.json:
        print(json.dumps(result))
        return
    cells = "boards" in result
    counts = f"{result['correct']} of {result['total']} {'empty cells' if cells else 'answers'}"
    line = f"{result['task']}, parser {result['parser']}: {result['accuracy']:.2%} ({counts})"
    print(f"{line}; boards entirely right: {result['boards']}" if cells else line)
