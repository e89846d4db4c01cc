"""Draw the figures of docs/ again, those whose numbers are committed beside them.

    python benchmarks/figures.py

Sweeps are drawn from the last values of every cell in a comparison's JSON, heat maps from those of `dipod flexibility`,
and lines over updates where the JSON holds curves, as those of newer comparisons do; without them the runs themselves
are needed (`dipod report`), and the figure is named and left as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillation import draw

from dipod.decoders import HOWS
from dipod.flexibility import Flexibility, Row
from dipod.recipes import load, overlay
from dipod.report import Run
from dipod.report.data import labelled
from dipod.report.figures import overview, sweep
from dipod.report.flexibility import heat_map
from dipod.report.palette import looks, sweep_looks
from dipod.report.panels import panels, sweep_panels

ROOT = Path(__file__).parents[1]
COMPARISONS = {
    "sudoku": "sudoku",
    "countdown-tiny": "countdown-tiny",
    "track": "track",
    "halfcheetah": "halfcheetah",
    "vae": "vae-bandit",
    "studies/beta": "countdown-tiny",
    "studies/cost": "sudoku",
    "studies/long": "countdown-tiny",
    "studies/negative": "countdown-tiny",
    "studies/scaling": "countdown-tiny",
}
"""Files of comparisons that have a figure, and their recipes."""
HEAT_MAPS = ("flexibility", "flexibility-countdown")


def runs_of(found: Mapping[str, Any], recipe: str) -> list[Run]:
    """A comparison's cells as runs that know their last numbers, and the curves that the JSON holds."""
    runs = []
    for cell in found["cells"]:
        base = overlay(load(recipe), {"algorithm": cell["algorithm"], "seed": cell["seed"], **cell.get("settings", {})})
        rows: dict[int, dict[str, Any]] = {base.trainer.steps: {"gap_kind": "exact"}}
        for key, points in cell.get("curves", {}).items():
            for step, value in points:
                rows.setdefault(step, {})[key] = value
        last = max(rows)
        rows[last] |= {key: value for key, value in cell.items() if isinstance(value, int | float) and key != "seed"}
        rows[last] |= {key: value for key, value in cell.items() if key.endswith("_kind")}
        metrics = [{"step": step, **row} for step, row in sorted(rows.items())]
        runs.append(Run(Path(cell["run"]), overlay(base, {"trainer.steps": last}), metrics, {}))
    return runs


def comparison(name: str, recipe: str, docs: Path) -> bool:
    """Draw a comparison's figure; whether its numbers suffice."""
    found = json.loads((docs / f"{name}.json").read_text())
    groups = labelled(runs_of(found, found.get("recipe", recipe)))
    styles = looks(list(groups))
    figures = sweep(sweep_panels(groups), sweep_looks(list(groups))) or overview(panels(groups), styles)
    for figure in figures.values():
        figure.savefig(docs / f"{name}.png", dpi=150)
    return bool(figures)


def flexibility(path: Path) -> list[Flexibility]:
    """What `dipod flexibility` wrote."""
    return [
        Flexibility(
            **{key: one[key] for key in ("policy", "seed", "step", "source", "gap", "trained")},
            rows=tuple(
                Row(
                    row["decoder"],
                    row["label"],
                    {how: row[f"solved_{how}"] for how in HOWS},
                    {how: row[f"reward_{how}"] for how in HOWS},
                )
                for row in one["rows"]
            ),
        )
        for one in json.loads(path.read_text())["measurements"]
    ]


def main() -> None:
    """Draw all, and say which could not be drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where JSON and figures are (%(default)s)")
    docs = parser.parse_args().docs
    for name, recipe in COMPARISONS.items():
        if not (docs / f"{name}.json").exists():
            continue
        drawn = comparison(name, recipe, docs)
        print(f"{name}: {'drawn' if drawn else 'not drawn, the JSON holds no curves'}")
    for name in filter(lambda name: (docs / f"{name}.json").exists(), HEAT_MAPS):
        heat_map(flexibility(docs / f"{name}.json")).savefig(docs / f"{name}.png", dpi=150)
        print(f"{name}: drawn")
    found = json.loads((ROOT / "benchmarks" / "results" / "distillation-cpu.json").read_text())
    draw(found["results"]).savefig(docs / "flow-gap.png", dpi=150)
    print("flow-gap: drawn")


if __name__ == "__main__":
    main()
