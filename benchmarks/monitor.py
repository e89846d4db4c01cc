"""What watching drift costs: the share of a run's time that the monitor takes, against its budget.

    python benchmarks/monitor.py

Each recipe is trained for some updates as it comes, with the monitor as it is by default, from a base that has been
pre-trained for a few steps only: neither cost depends on how good the policy is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESULTS, provenance

from dipod.files import make_folder, write_json
from dipod.parallel import start
from dipod.recipes import build_policy, build_pretrainer, build_task, build_trainer, language, load, overlay

KEPT = ("monitor_gap", "monitor_gap_kind", "monitor_cosine", "monitor_drift_share", "monitor_share")


def watched(recipe: str, steps: int, exact_tokens: int) -> dict[str, Any]:
    """Train a recipe and read the monitor's own clock and what it has seen last."""
    sizes = {"trainer.steps": steps, "trainer.evaluate_problems": 0, "trainer.cosine_rollouts": 0, "pretrain.steps": 20}
    config = language(overlay(load(recipe), {**sizes, "trainer.exact_tokens": exact_tokens}))
    task = build_task(config)
    policy = build_policy(config, task)
    for _ in build_pretrainer(config, policy, task).run():
        pass
    trainer = build_trainer(config, policy, task, start())
    rows = list(trainer.run())
    looks = [row for row in rows if "monitor_gap" in row]
    return {
        "recipe": recipe,
        "exact": exact_tokens > 0,
        "updates": steps,
        "looks": len(looks),
        "budget": config.monitor.budget,
        "share": trainer.spent.share,
        "seconds_a_look": trainer.spent.seconds / len(looks),
        "seconds_an_update": (trainer.spent.total - trainer.spent.seconds) / steps,
        "last": {name: looks[-1][name] for name in KEPT if name in looks[-1]},
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", default=["sudoku", "countdown-tiny"], help="default: both embedded ones"
    )
    parser.add_argument("--steps", type=int, default=200, help="updates (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "monitor-cpu.json", help="JSON file (%(default)s)")
    arguments = parser.parse_args()
    origin = provenance("monitor.py", "cpu")
    results = [watched(recipe, arguments.steps, exact) for recipe in arguments.recipes for exact in (10, 0)]
    make_folder(arguments.out.parent)
    write_json(arguments.out, {**origin, "results": results})
    for row in results:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
