"""How often the monitor warns of a policy that does not change, and how soon of one whose gap grows.

    python benchmarks/alarms.py

Fixed: small Sudoku bases whose gap is near 0.1 nats are looked at twenty times, on fresh rollouts, in many series.
Growing: a base is trained by FPO alone and looked at between updates, in as many series of looks at the same policies.
Beside the monitor's rule stands the former one, which compared a gap with the least of the looks before and took every
single cosine at its word.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, provenance

from dipod.drift import Gap
from dipod.drift.monitor import GROWTH, NEGLIGIBLE, SLANT, Beta, Look, MonitorConfig, Spent, Watch, look
from dipod.files import make_folder, write_json
from dipod.parallel import start
from dipod.recipes import build_policy, build_pretrainer, build_task, build_trainer, language, load, overlay
from dipod.trainer import Trainer

MONITOR = MonitorConfig(every=1, budget=1.0)
FIXED: dict[str, dict[str, Any]] = {
    "exact": {"task.blanks": "5", "pretrain.steps": 60},
    "exact, longer pre-training": {"task.blanks": "5", "pretrain.steps": 80},
    "bracket": {"trainer.exact_tokens": 0, "pretrain.steps": 40},
}
GROWING: dict[str, Any] = {
    "task.blanks": "5",
    "pretrain.steps": 60,
    "optimiser.learning_rate": 1e-3,
    "trainer.prompts": 32,
}
ALONE = Beta(0.0, 0.4)
RESAMPLED = 200
"""Further series at a fixed policy, drawn from all looks at it with replacement."""


def trainer_of(settings: dict[str, Any]) -> Trainer:
    """A small Sudoku base and its trainer."""
    common = {"algorithm": "fpo", "trainer.evaluate_problems": 0, "trainer.cosine_rollouts": 0, "monitor.every": 0}
    sizes = {"trainer.prompts": 8, "trainer.group_size": 8}
    config = language(overlay(load("sudoku"), {**common, **sizes, **settings}))
    task = build_task(config)
    policy = build_policy(config, task)
    for _ in build_pretrainer(config, policy, task).run():
        pass
    return build_trainer(config, policy, task, start())


def looks_at(trainer: Trainer, key: int, count: int) -> list[Look]:
    """Some looks at a policy as it is, each on rollouts of its own."""
    before, found = trainer.state.step, []
    for i in range(count):
        trainer.state.step = 1_000_000 + key * count + i  # rollouts that no update is made on
        found.append(trainer.meter.look(trainer.collect("look"), MONITOR, trainer.state.step, 0.0))
    trainer.state.step = before
    return found


def said(series: Sequence[Look]) -> Iterator[str]:
    """What the monitor says at each look of a series."""
    watch, spent = Watch(), Spent()
    for i, seen in enumerate(series):
        yield str(look(MONITOR, watch, spent, i, ALONE, lambda seen=seen: seen, bool).get("warning", ""))  # type: ignore[misc]


def said_formerly(series: Sequence[Look]) -> Iterator[str]:
    """The same by the former rule: the kind of warning."""
    least = math.inf
    for gap, cosine in ((seen.gap, _cosine(seen)) for seen in series):
        assert gap is not None
        least = min(least, gap.gap)
        grown = gap.gap > NEGLIGIBLE and gap.gap >= GROWTH * max(least, NEGLIGIBLE / GROWTH)
        yield "gap" if grown else "angle" if cosine < math.cos(math.radians(SLANT)) else ""


def _cosine(seen: Look) -> float:
    found = 1.0 if seen.alignment is None else seen.alignment.cosine
    return 1.0 if math.isnan(found) else found


def summary(series: Sequence[Sequence[Look]]) -> dict[str, Any]:
    """What the looks measured, and the share of series in which something is said."""
    gaps = [_gap(seen).gap for each in series for seen in each]
    cosines = [_cosine(seen) for each in series for seen in each]
    every = [seen for each in series for seen in each]
    draw = random.Random(0)
    mixed = [[draw.choice(every) for _ in series[0]] for _ in range(RESAMPLED)]
    rates = {
        "warned_resampled": sum(any(said(each)) for each in mixed) / RESAMPLED,
        "warned": sum(any(said(each)) for each in series) / len(series),
        "warned_formerly": sum(any(said_formerly(each)) for each in series) / len(series),
    }
    return {
        "series": len(series),
        "looks": len(series[0]),
        "gap": {"mean": statistics.fmean(gaps), "sd": statistics.stdev(gaps), "kind": _gap(series[0][0]).kind},
        "cosine": {"mean": statistics.fmean(cosines), "sd": statistics.stdev(cosines), "least": min(cosines)},
        **rates,
    }


def _gap(seen: Look) -> Gap:
    assert seen.gap is not None
    return seen.gap


def fixed(settings: dict[str, Any], series: int, looks: int) -> dict[str, Any]:
    """A policy that stays as it is."""
    trainer = trainer_of(settings)
    every = looks_at(trainer, 0, series * looks)
    return {"settings": settings, **summary([every[i * looks : (i + 1) * looks] for i in range(series)])}


def growing(settings: dict[str, Any], series: int, looks: int, updates: int) -> dict[str, Any]:
    """A policy whose gap grows under FPO: so many updates between two looks."""
    trainer = trainer_of(settings)
    taken = []
    for i in range(looks):
        taken.append(looks_at(trainer, i, series))
        for _ in range(updates):
            trainer.train_step()
            trainer.state.step += 1
    each = [[at[s] for at in taken] for s in range(series)]
    course = [statistics.fmean(_gap(seen).gap for seen in at) for at in taken]
    firsts = [next((i for i, text in enumerate(said(one)) if "has grown" in text), None) for one in each]
    warned = [i for i in firsts if i is not None]
    return {
        "settings": {**settings, "updates between two looks": updates},
        "series": series,
        "gaps": course,
        "warned_of_growth": len(warned) / series,
        "true_gap_at_the_first_warning": sorted(course[i] for i in warned),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=40, help="of looks at a fixed policy (default: %(default)s)")
    parser.add_argument("--looks", type=int, default=20, help="in a series (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=20, help="between looks at a growing gap (default: %(default)s)")
    parser.add_argument("--pretraining", type=int, help="steps of a base's pre-training (default: each part's own)")
    parser.add_argument("--only", nargs="+", default=[*FIXED, "growing"], help="parts (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "alarms-cpu.json", help="JSON file (%(default)s)")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text())["results"] if arguments.out.exists() else {}
    origin = provenance("alarms.py", "cpu")
    make_folder(arguments.out.parent)
    for name in arguments.only:
        changed = {} if arguments.pretraining is None else {"pretrain.steps": arguments.pretraining}
        if name == "growing":
            results[name] = growing({**GROWING, **changed}, arguments.series, arguments.looks, arguments.updates)
        else:
            results[name] = fixed({**FIXED[name], **changed}, arguments.series, arguments.looks)
        results[name]["command"] = origin["command"]
        write_json(arguments.out, {**origin, "results": results})
        print(name, json.dumps(results[name]), flush=True)


if __name__ == "__main__":
    main()
