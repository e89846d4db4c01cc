"""How many right answers each parser accepts, and how many wrong ones: the table of docs/tasks.md.

    python benchmarks/grading.py ../shared/cases/grading.jsonl --references ../shared/data/math500_test.jsonl

Every line of the file has a task, a generation, a reference, whether the answer is right, and its source. Of what was
missed or accepted by mistake the result holds the source, not the text. With ``--references``, MATH problems, every
reference is compared with itself, and 2,500 pairs of references with each other: pairs that the rules of MATH's own
scorer take for different must not be the same for `verify`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, provenance

from dipod.files import make_folder, write_json
from dipod.tasks.text.grading import grade
from dipod.tasks.text.mathematics import is_equivalent
from dipod.tasks.text.parsers import PARSER_NAMES
from dipod.tasks.text.records import json_records
from dipod.tasks.text.rows import TASKS
from dipod.tasks.text.sources import load_rows
from dipod.tasks.text.symbolic import HELPER
from dipod.tasks.text.verify import same_mathematics

PAIRS = 2_500


def count(cases: Sequence[dict[str, Any]], parser: str) -> dict[str, Any]:
    """What a parser makes of the cases: right and wrong answers accepted, by task and in all."""
    verdicts = [grade(case["task"], parser, case["generation"], case["reference"]).solved for case in cases]
    by_task: dict[str, Any] = {}
    for task in (*TASKS, "all"):
        found = [(v, case) for v, case in zip(verdicts, cases, strict=True) if task in {case["task"], "all"}]
        right = [v for v, case in found if case["right"]]
        wrong = [v for v, case in found if not case["right"]]
        by_task[task] = {"right": len(right), "accepted": sum(right), "wrong": len(wrong), "mistaken": sum(wrong)}
    sources = [case.get("source", "") for v, case in zip(verdicts, cases, strict=True) if v != case["right"]]
    return {"tasks": by_task, "errs_on": sources}


def compare(references: Sequence[str]) -> dict[str, int]:
    """References that are themselves, and pairs of different ones that are taken for one another."""
    rng = random.Random(1)
    pairs = [rng.sample(references, 2) for _ in range(PAIRS)]
    different = [pair for pair in pairs if not is_equivalent(*pair)]
    return {
        "references": len(references),
        "themselves": sum(same_mathematics(reference, reference) for reference in references),
        "different_pairs": len(different),
        "taken_for_one_another": sum(same_mathematics(*pair) for pair in different),
    }


def table(parsers: dict[str, dict[str, Any]]) -> str:
    """Markdown: right answers accepted / right answers, wrong ones accepted / wrong ones."""
    lines = [f"| parser | {' | '.join(TASKS)} | right accepted | wrong accepted |", "|---" * (len(TASKS) + 3) + "|"]
    for name, found in parsers.items():
        cells = [f"{found['tasks'][task]['accepted']}/{found['tasks'][task]['right']}" for task in TASKS]
        total = found["tasks"]["all"]
        share = f"{total['accepted']} of {total['right']} ({total['accepted'] / total['right']:.0%})"
        lines.append(f"| `{name}` | {' | '.join(cells)} | {share} | {total['mistaken']} of {total['wrong']} |")
    return "\n".join(lines)


def main() -> None:
    """Grade, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, help="JSONL with task, generation, reference, right and source")
    parser.add_argument("--references", type=Path, metavar="FILE", help="JSONL of MATH problems, with answers")
    parser.add_argument("--out", type=Path, default=RESULTS / "grading.json")
    arguments = parser.parse_args()
    cases = [row for _, row in json_records(arguments.cases)]
    parsers = {name: count(cases, name) for name in PARSER_NAMES}
    result = {**provenance("grading.py", "cpu"), "parsers": parsers, "undecided": HELPER.undecided}
    if arguments.references is not None:
        result["references"] = compare([row["answer"] for row in load_rows("math", "test", str(arguments.references))])
        print(result["references"])
    make_folder(arguments.out.parent)
    write_json(arguments.out, result)
    print(table(parsers))


if __name__ == "__main__":
    main()
