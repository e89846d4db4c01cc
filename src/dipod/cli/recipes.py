"""``dipod recipes``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from dipod.algorithms import ALGORITHMS
from dipod.control.algorithms import table as control_algorithms
from dipod.errors import UserError
from dipod.recipes import AnyConfig, fields, load, names, summary, to_yaml
from dipod.recipes.settings import FOLDER

NAME = "recipes"
HELP = "list the recipes, the algorithms and the settings"
DESCRIPTION = """List what can be trained and how.

  dipod recipes                  recipes and algorithms
  dipod recipes sudoku           a recipe's settings as YAML, a start for your own
  dipod recipes --fields         every setting of the recipe sudoku: its flag, value and meaning
  dipod recipes gsm8k-llada-spg --fields         likewise of another recipe; text tasks have other settings

On several GPUs of one machine, with a launch file of ours (ddp, fsdp or zero2), and on several machines:

  accelerate launch --config_file $(dipod recipes --launch ddp) -m dipod train RECIPE
  HEAD=node-a bash $(dipod recipes --launch torchrun) RECIPE --out runs/big          (on every node)
  sbatch $(dipod recipes --launch slurm) RECIPE --out runs/big
"""
LAUNCH = FOLDER / "launch"
TIGHTENINGS = "+dipod, +interleave, +initial, +adaptive or +tolerance"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("recipe", nargs="?", help="print the settings of this recipe")
    parser.add_argument("--fields", action="store_true", help="list every setting with its meaning")
    parser.add_argument("--launch", metavar="NAME", help="print the path of a launch file: ddp, torchrun, ...")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print what was asked for."""
    if arguments.launch is not None:
        path = launch_file(arguments.launch)
        print(json.dumps({"launch": str(path)}) if arguments.json else path)
    elif arguments.recipe and not arguments.fields:
        config = load(arguments.recipe)
        print(json.dumps(asdict(config), indent=2) if arguments.json else to_yaml(config).rstrip())
    elif arguments.fields:
        _print_fields(load(arguments.recipe or "sudoku"), arguments.json)
    else:
        listed = {name: summary(name) for name in names()}
        algorithms = {algorithm.name: algorithm.paper for algorithm in ALGORITHMS.values()}
        control = {algorithm.name: algorithm.paper for algorithm in control_algorithms().values()}
        if arguments.json:
            listing = {"recipes": listed, "algorithms": algorithms, "control_algorithms": control}
            print(json.dumps(listing, indent=2))
            return
        tables = {"Recipes": listed, "Algorithms for text and boards": algorithms, "Algorithms for control": control}
        for title, table in tables.items():
            alone = f", alone or with {TIGHTENINGS}" if table is not listed else ""
            print(f"{title}{alone}:")
            width = max(map(len, table))
            for name, about in table.items():
                print(f"  {name:<{width}}  {about}")


def launch_file(name: str) -> Path:
    """The configuration of accelerate, or the script, with this name.

    Raises:
        UserError: there is none.
    """
    known = {path.stem: path for path in sorted(LAUNCH.iterdir())}
    if name not in known:
        raise UserError("launch", name, f"choose one of {', '.join(known)}")
    return known[name]


def _print_fields(config: AnyConfig, as_json: bool) -> None:
    """Every setting of a recipe's kind, two lines each, with the recipe's value."""
    listed = fields(config.task.name)
    rows = [
        {"field": f.path, "values": _values(f.kind), "value": _value(config, f.path), "about": f.about} for f in listed
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"Settings of {config.recipe}. A bare name, such as --steps, means the first field of that name in this list.\n"
    )
    for row in rows:
        print(f"--{row['field']} {row['values']}   ({row['value']!r})\n    {row['about']}")


def _value(config: AnyConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _values(kind: Any) -> str:
    if get_origin(kind) in (dict, tuple):
        return "JSON"
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else str(kind.__name__).upper()
