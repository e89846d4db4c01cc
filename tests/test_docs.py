"""Numbers in the documents are those of the committed JSON, and the check that says so can fail."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "check_numbers.py"
TABLE = """Some words.

<!-- table
source: docs/some.json
rows: [fpo, {"with β": fpo+dipod}]
columns:
  solved: "{100*solved:.1f}"
  before: "{before.gap:.2f}"
  highest: "{max(gap):.1f}"
  late: "{mean(gap, 5):.1f}"
  best: "{best(reward):.2f} at {at(reward)}"
  steps: {value: "{steps}", one: true}
-->
| | solved | before | highest | late | best | steps |
|---|---|---|---|---|---|---|
| fpo | 50.0 / 25.0 | 0.10 / 0.10 | 3.0 / 3.0 | 2.5 / 2.5 | 0.90 at 7 / 0.90 at 7 | 9 |
"""


def module(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_numbers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    found.ROOT = root  # type: ignore[attr-defined]
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    rest = {
        "before": {"gap": 0.1},
        "curves": {"gap": [[0, 0.1], [5, 2.0], [9, 3.0]]},
        "best": {"reward": [7, 0.9]},
        "steps": 9,
    }
    cells = [{"algorithm": "fpo", "seed": seed, "solved": 0.5 / (seed + 1), **rest} for seed in (1, 0)]
    (tmp_path / "docs" / "some.json").write_text(json.dumps({"cells": cells}))
    (tmp_path / "README.md").write_text(TABLE.replace(', {"with β": fpo+dipod}', ""))
    (tmp_path / "docs" / "claims.yaml").write_text("[]")
    return tmp_path


def test_every_number_of_ours_is_that_of_its_json() -> None:
    check = module(SCRIPT.parents[1])
    pages = [path for pattern in check.DOCUMENTS for path in check.ROOT.glob(pattern)]
    wrong = [line for path in pages for line in check.check_tables(path, False)[0]]
    wrong += check.check_claims(check.ROOT / "docs" / "claims.yaml")[0]
    assert wrong == []


def test_a_right_table_is_right_and_a_wrong_number_is_found(root: Path) -> None:
    check, page = module(root), root / "README.md"
    assert check.check_tables(page, False) == ([], 6)
    right = page.read_text()
    page.write_text(right.replace("25.0", "26.0"))
    (said,) = check.check_tables(page, False)[0]
    assert "README.md:14" in said
    assert "26.0" in said
    assert "25.0" in said
    check.check_tables(page, True)
    assert page.read_text() == right


def test_a_table_without_a_source_is_found(root: Path) -> None:
    page = root / "README.md"
    page.write_text("Words.\n\n| | solved |\n|---|---|\n| fpo | 0.5 / 0.3 |\n")
    assert "without a comment" in module(root).check_tables(page, False)[0][0]
    page.write_text("Words.\n\n<!-- no source: because -->\n| | solved |\n|---|---|\n| fpo | 0.5 / 0.3 |\n")
    assert module(root).check_tables(page, False)[0] == []


def test_a_metric_that_the_json_lacks_is_named(root: Path) -> None:
    page = root / "README.md"
    page.write_text(page.read_text().replace("max(gap)", "max(speed)"))
    assert "speed" in module(root).check_tables(page, False)[0][0]


def test_sentences_are_checked(root: Path) -> None:
    (root / "README.md").write_text("FPO solves\n50 % and 25 % of them.")
    claims = root / "docs" / "claims.yaml"
    claims.write_text(
        """- file: README.md
  text: FPO solves {} % and {} %
  source: docs/some.json
  numbers: [["percent('fpo', 'solved')", .0f]]
"""
    )
    assert module(root).check_claims(claims) == ([], 2)
    (root / "README.md").write_text("FPO solves 51 % and 25 %.")
    assert "50 % and 25 %" in module(root).check_claims(claims)[0][0]


def test_statements_are_checked(root: Path) -> None:
    (root / "README.md").write_text("More on every seed, by 25 points.")
    other = json.loads((root / "docs" / "some.json").read_text())["cells"]
    (root / "docs" / "other.json").write_text(json.dumps({"cells": [{**cell, "solved": 0.25} for cell in other]}))
    claims = root / "docs" / "claims.yaml"
    claim = """- file: README.md
  text: More on every seed, by {} points
  source: docs/some.json
  numbers: [["points('fpo', 'fpo', 'solved', 'docs/other.json')[0]", .0f]]
  holds:
    - "len(all('fpo', 'solved')) == 2 and every(one > 0 for label in labels() for one in all(label, 'solved'))"
    - "min(points('fpo', 'fpo', 'solved', 'docs/other.json')) >= 0"
"""
    claims.write_text(claim)
    assert module(root).check_claims(claims) == ([], 3)
    claims.write_text(claim.replace(">= 0", "> 0"))  # the second seed is level
    (said,) = module(root).check_claims(claims)[0]
    assert "is not so: min(points(" in said


def test_a_list_is_no_statement_and_a_claim_without_its_number_is_named(root: Path) -> None:
    (root / "README.md").write_text("More.")
    claims = root / "docs" / "claims.yaml"
    claims.write_text("""- {file: README.md, text: More, source: docs/some.json, holds: ["all('fpo', 'solved')"]}\n""")
    assert "is not so" in module(root).check_claims(claims)[0][0]
    claims.write_text("""- {file: README.md, text: More, source: docs/some.json, holds: ["all('ppo', 'solved')"]}\n""")
    assert "nothing there to check 'More'" in module(root).check_claims(claims)[0][0]
