"""Recipes: named settings in YAML, overlaid by what the user gives."""

from dipod.recipes.build import build_policy, build_pretrainer, build_task, build_trainer, check, parse_algorithm
from dipod.recipes.settings import fields, load, names, overlay, read_run_config, summary, to_yaml

__all__ = [
    "build_policy",
    "build_pretrainer",
    "build_task",
    "build_trainer",
    "check",
    "fields",
    "load",
    "names",
    "overlay",
    "parse_algorithm",
    "read_run_config",
    "summary",
    "to_yaml",
]
