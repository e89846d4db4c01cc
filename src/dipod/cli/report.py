"""``dipod report``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dipod.report import read_runs, sentence, write_report

NAME = "report"
HELP = "write the HTML page and the figures of some runs"
DESCRIPTION = """Write report.html (self-contained) and figures/*.png of one or several runs.

  dipod report runs/fpo                       into the run folder itself
  dipod report runs/fpo runs/spg --out both   several runs on one page
  dipod report C                              a comparison made by `dipod compare`
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of comparisons")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (default: the first folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    path = write_report(arguments.runs, arguments.out or arguments.runs[0])
    text = sentence(read_runs(arguments.runs))
    print(json.dumps({"report": str(path), "summary": text}) if arguments.json else f"{text}\nreport: {path}")
