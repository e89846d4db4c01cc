"""Recipes: named settings in YAML, overlaid by what the user gives."""

from dipod.recipes.build import (
    build_policy,
    build_pretrainer,
    build_task,
    build_trainer,
    check,
    counted,
    in_steps,
    parse_algorithm,
    policy_of,
)
from dipod.recipes.paths import record, relocate, settle, verify
from dipod.recipes.settings import (
    AnyConfig,
    blamed,
    control,
    fields,
    language,
    load,
    names,
    overlay,
    read_run_config,
    summary,
    to_yaml,
)

__all__ = [
    "AnyConfig",
    "blamed",
    "build_policy",
    "build_pretrainer",
    "build_task",
    "build_trainer",
    "check",
    "control",
    "counted",
    "fields",
    "in_steps",
    "language",
    "load",
    "names",
    "overlay",
    "parse_algorithm",
    "policy_of",
    "read_run_config",
    "record",
    "relocate",
    "settle",
    "summary",
    "to_yaml",
    "verify",
]
