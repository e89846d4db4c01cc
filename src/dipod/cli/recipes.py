"""``dipod recipes``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any, get_args

from dipod.algorithms import ALGORITHMS
from dipod.config import RunConfig
from dipod.recipes import fields, load, names, summary, to_yaml

NAME = "recipes"
HELP = "list the recipes, the algorithms and the settings"
DESCRIPTION = """List what can be trained and how.

  dipod recipes                  recipes and algorithms
  dipod recipes sudoku           a recipe's settings as YAML, a start for your own
  dipod recipes --fields         every setting: its flag, default and meaning
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("recipe", nargs="?", help="print the settings of this recipe")
    parser.add_argument("--fields", action="store_true", help="list every setting with its meaning")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print what was asked for."""
    if arguments.recipe:
        config = load(arguments.recipe)
        print(json.dumps(asdict(config), indent=2) if arguments.json else to_yaml(config).rstrip())
    elif arguments.fields:
        _print_fields(arguments.json)
    else:
        listed = {name: summary(name) for name in names()}
        algorithms = {algorithm.name: algorithm.paper for algorithm in ALGORITHMS.values()}
        if arguments.json:
            print(json.dumps({"recipes": listed, "algorithms": algorithms}, indent=2))
            return
        for title, table in (("Recipes", listed), ("Algorithms, alone or with +dipod or +interleave", algorithms)):
            print(f"{title}:")
            for name, about in table.items():
                print(f"  {name:<12} {about}")


def _print_fields(as_json: bool) -> None:
    """Every setting, two lines each."""
    rows = [
        {"field": f.path, "values": _values(f.kind), "default": _default(f.path), "about": f.about} for f in fields()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print("A bare name, such as --steps, means the first field of that name in this list. Recipes change defaults.\n")
    for row in rows:
        print(f"--{row['field']} {row['values']}   (default {row['default']!r})\n    {row['about']}")


def _default(path: str) -> Any:
    value: Any = RunConfig()
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _values(kind: Any) -> str:
    return "|".join(get_args(kind)) or str(kind.__name__).upper()
