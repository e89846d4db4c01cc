"""Check the numbers in the documents against the committed JSON, or write the tables anew.

    python docs/check_numbers.py            (says what is wrong, and exits with 1)
    python docs/check_numbers.py --write    (writes every table from its JSON)

A table with numbers stands under a comment that says where they come from:

    <!-- table
    source: docs/sudoku.json
    rows: [fpo, fpo+dipod]                      labels in the JSON, or {shown: label}
    columns:
      solved, sampled: "{solved_sampled:.1%}"   one value a seed, joined by " / "
    -->

or under one that says why nothing can check it: `<!-- no source: reason -->`. Inside braces stand a metric's name,
``before.NAME`` (before training), ``max(NAME)`` or ``mean(NAME, FROM)`` over a curve from some update on,
``best(NAME)`` or ``at(NAME)`` (the highest of all updates, and when); before it perhaps ``100*``, after it a colon and
a format. A column may have a source and a row of its own, {source: .., value: .., row: "fpo beta={}"}, or be
{unchecked: reason}; with ``one: true`` a number that all seeds share is said once. A row may have a value of its own,
{shown: {value: ..}}, and {} in a value or a row stands for the label.

Sentences are checked by `claims.yaml`: a file, a sentence with {} for every number, the JSON (others by ``of(FILE)``),
what the numbers are, and under ``holds`` what must be true for the words ("on every seed") to be right.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/*.md", "benchmarks/*.md")
COMMENT = re.compile(r"<!-- (table|no source)(?::? ?|\n)(.*?)-->\n", re.DOTALL)
SLOT = re.compile(r"\{(100\*)?([^:{}]+)(?::([^{}]*))?\}")
Numbers = Mapping[str, Any]


@cache
def read(source: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a JSON file by label: what `dipod compare` or `dipod flexibility` wrote, one row a seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    content = json.loads((ROOT / source).read_text(encoding="utf-8"))
    for cell in content.get("cells", []):
        found.setdefault(cell.get("label", cell["algorithm"]), []).append(cell)
    for one in content.get("measurements", []):
        rows = {f"{row['decoder']}.{name}": value for row in one["rows"] for name, value in row.items()}
        found.setdefault(one["policy"], []).append({**one, **rows})
    for row in content.get("results", []) if isinstance(content.get("results"), list) else ():
        found.setdefault(" ".join(str(part) for part in list(row.values())[:2]), []).append(row)
    for parser, result in content.get("parsers", {}).items():
        tasks = {f"{task}.{name}": count for task, counts in result["tasks"].items() for name, count in counts.items()}
        found[parser] = [{**tasks, "share": tasks["all.accepted"] / tasks["all.right"]}]
    for key, labels in content.get("equal_cost", {}).items():
        for label, values in labels.items() if isinstance(labels, dict) else ():
            for row, number in zip(found[label], values, strict=True):
                row[f"equal_cost.{key}"] = number
    return {label: sorted(rows, key=lambda row: int(row.get("seed", 0))) for label, rows in found.items()}


def value(row: Numbers, name: str) -> Any:
    """A metric of one run, by the names of the module's docstring.

    Raises:
        KeyError: the JSON does not have it.
    """
    call = re.fullmatch(r"(max|mean|best|at)\(([^,]+)(?:, *(\d+))?\)", name)
    if call is None:
        return row["before"][name[7:]] if name.startswith("before.") else row[name]
    what, key, since = call[1], call[2], int(call[3] or 0)
    if what in ("best", "at"):
        return row["best"][key][what == "best"]
    curve = [number for step, number in row["curves"][key] if step >= since]
    return max(curve) if what == "max" else statistics.fmean(curve)


def filled(template: str, row: Numbers) -> str:
    """A template with the numbers of one run in place of its braces."""

    def put(slot: re.Match[str]) -> str:
        number = value(row, slot[2].strip())
        return format(100 * number if slot[1] else number, slot[3] or "")

    return SLOT.sub(put, template)


def cell(column: Any, label: Any, source: str) -> str | None:
    """What a cell of a table must say; None where nothing can check it."""
    if isinstance(column, Mapping) and "unchecked" in column:
        return None
    spec = {**column} if isinstance(column, Mapping) else {"value": column}
    if isinstance(label, Mapping):
        spec |= label
    rows = read(str(spec.get("source", source)))[str(spec.get("row", "{}")).replace("{}", str(label))]
    texts = [filled(str(spec["value"]).replace("{}", str(label)), row) for row in rows]
    return " / ".join([texts[0]] if spec.get("one") and len(set(texts)) == 1 else texts)


def tables(text: str) -> Iterator[tuple[re.Match[str], list[str], int]]:
    """Every commented table: its comment, its lines, and where they begin."""
    for comment in COMMENT.finditer(text):
        lines = []
        for line in text[comment.end() :].splitlines():
            if not line.startswith("|"):
                break
            lines.append(line)
        yield comment, lines, comment.end()


def wanted(spec: Mapping[str, Any], lines: list[str]) -> list[str]:
    """The lines that a table should have; unchecked cells stay as they are."""
    rows = spec["rows"]
    shown = dict(rows) if isinstance(rows, Mapping) else {str(label): str(label) for label in rows}
    header = [part.strip() for part in lines[0].strip("|").split("|")]
    labels = max(1, len(header) - len(spec["columns"]))
    found = lines[:2]
    for number, (first, label) in enumerate(shown.items()):
        old = [part.strip() for part in lines[2 + number].strip("|").split("|")] if 2 + number < len(lines) else []
        cells = [cell(column, label, str(spec.get("source"))) for column in spec["columns"].values()]
        kept = old[:labels] if labels > 1 and old else [str(first)]
        texts = [*kept, *(text if text is not None else old[labels + i] for i, text in enumerate(cells))]
        found.append(f"| {' | '.join(texts)} |".replace("|  |", "| |"))
    return found


def check_tables(path: Path, write: bool) -> tuple[list[str], int]:
    """What is wrong with the tables of a document, and how many cells were compared."""
    text, wrong, count = path.read_text(encoding="utf-8"), [], 0
    known = set()
    for comment, lines, begin in reversed(list(tables(text))):
        known.add(begin)
        place = f"{path.relative_to(ROOT)}:{text[:begin].count(chr(10)) + 1}"
        if comment[1] == "no source":
            continue
        try:
            right = wanted(yaml.safe_load(comment[2]), lines)
        except (KeyError, IndexError, yaml.YAMLError) as error:
            wrong.append(f"{place}: nothing there to check it by: {error!r}")
            continue
        count += sum(line.count("|") - 2 for line in right[2:])
        wrong += [f"{place}: says {a!r}, the JSON {b!r}" for a, b in zip(lines, right, strict=False) if a != b]
        if len(lines) != len(right):
            wrong.append(f"{place}: {len(lines) - 2} rows, the JSON gives {len(right) - 2}")
        if write:
            end = begin + sum(len(line) + 1 for line in lines)
            text = text[:begin] + "".join(f"{line}\n" for line in right) + text[end:]
    if write:
        path.write_text(text, encoding="utf-8")
    for found in re.finditer(r"(?<=\n)\|[^\n]*\|\n\|[-:| ]+\|\n(?:\|[^\n]*\n)+", text):
        numeric = re.search(r"\| *-?\d[\d.]*( /|%| \|)", found[0])
        if numeric and not write and found.start() not in known:
            place = f"{path.relative_to(ROOT)}:{text[: found.start()].count(chr(10)) + 1}"
            wrong.append(f"{place}: a table of numbers without a comment that says their source")
    return wrong, count


@dataclass(frozen=True)
class Facts:
    """What expressions in `claims.yaml` may use of a claim's JSON, beside functions of Python's own."""

    source: str

    def labels(self) -> list[str]:
        """What rows the file has."""
        return list(read(self.source))

    def all(self, label: str, name: str) -> list[float]:
        """A metric of every seed."""
        return [float(value(row, name)) for row in read(self.source)[label]]

    def median(self, label: str | list[float], name: str = "") -> float:
        """A metric's median over seeds, or that of a list."""
        return statistics.median(self.all(label, name) if isinstance(label, str) else label)

    def ratios(self, above: str, below: str, name: str) -> list[float]:
        """One label's metric over another's, seed by seed."""
        return [one / other for one, other in zip(self.all(above, name), self.all(below, name), strict=True)]

    def percent(self, label: str, name: str) -> list[float]:
        """A share of every seed, times 100."""
        return [100 * share for share in self.all(label, name)]

    def points(self, first: str, second: str, name: str, other: str = "") -> list[float]:
        """One label's share minus another's (which may be of another file), seed by seed, times 100."""
        pairs = zip(self.percent(first, name), Facts(other or self.source).percent(second, name), strict=True)
        return [one - two for one, two in pairs]

    def change(self, label: str, name: str, base: str) -> list[float]:
        """One share minus another of the same label, seed by seed, times 100."""
        return [one - two for one, two in zip(self.percent(label, name), self.percent(label, base), strict=True)]

    def kept(self, label: str, name: str, base: str) -> list[float]:
        """One share as a percentage of another of the same label, seed by seed."""
        return [100 * one / two for one, two in zip(self.all(label, name), self.all(label, base), strict=True)]

    def json(self) -> Any:
        """The whole file."""
        return json.loads((ROOT / self.source).read_text(encoding="utf-8"))


def check_claims(path: Path) -> tuple[list[str], int]:
    """What is wrong with the sentences, and how many numbers and statements were compared."""
    wrong, count = [], 0
    for claim in yaml.safe_load(path.read_text(encoding="utf-8")):
        facts = Facts(claim["source"])
        known = {name: getattr(facts, name) for name in vars(Facts) if not name.startswith("_") and name != "source"}
        known |= {function.__name__: function for function in (min, max, abs, sum, len, round, sorted, zip)}
        known |= {"__builtins__": {}, "of": Facts, "every": all}
        sentence, texts = re.sub(r"\s+", " ", claim["text"]).strip(), []
        try:
            for expression, form in claim.get("numbers", []):
                found = eval(f"({expression})", dict(known))
                texts += [format(number, form) for number in (found if isinstance(found, list) else [found])]
            false = [one for one in claim.get("holds", []) if eval(f"({one})", dict(known)) is not True]
        except (ArithmeticError, LookupError, NameError, OSError, SyntaxError, TypeError, ValueError) as error:
            wrong.append(f"{claim['file']}: nothing there to check {sentence!r} by: {error!r}")
            continue
        right, page = sentence.format(*texts), (ROOT / claim["file"]).read_text(encoding="utf-8")
        count += len(texts) + len(claim.get("holds", []))
        wrong += [f"{claim['file']}: {right!r} is not so: {one}" for one in false]
        if right not in re.sub(r"\s+", " ", page):
            wrong.append(f"{claim['file']}: should say {right!r}")
    return wrong, count


def main() -> int:
    """Check everything; 0 if nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables anew")
    arguments = parser.parse_args()
    wrong, cells = [], 0
    for path in (path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))):
        found, count = check_tables(path, arguments.write)
        wrong, cells = wrong + found, cells + count
    found, numbers = check_claims(ROOT / "docs" / "claims.yaml")
    for line in wrong + found:
        print(line, file=sys.stderr)
    print(f"checked {cells} cells of tables, {numbers} numbers and statements in prose: {len(wrong + found)} wrong")
    return 1 if wrong + found else 0


if __name__ == "__main__":
    sys.exit(main())
