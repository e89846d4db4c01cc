"""What runs are called: their algorithm, and the settings in which they differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from dipod.errors import UserError
from dipod.recipes import AnyConfig, fields, overlay
from dipod.recipes.settings import ARGUMENTS

UNNAMED = ("algorithm", "seed", "base", "threads", "recipe", "device")
UNNAMED_GROUPS = ("logging.", "monitor.")
"""Settings that no label names: what they change is not what is learned."""
MOST = 3
"""If more settings differ, a label names the fewest that tell the same runs apart."""
TELLING = ("task.name", "task.id", "model.path", "preset")
"""Settings that bring others with them, named before them."""


@dataclass(frozen=True)
class Label:
    """The name of a group of runs.

    Attributes:
        algorithm: as typed.
        settings: names as people type them, and values.
    """

    algorithm: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """For people: ``fpo+dipod beta=0.05``."""
        return " ".join([self.algorithm, *(f"{name}={value_text(value)}" for name, value in self.settings)])

    @property
    def folder(self) -> str:
        """The text as the name of one folder."""
        return self.text.replace("%", "%25").replace("/", quote("/", safe=""))


def value_text(value: Any) -> str:
    """A setting's value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def flat(config: AnyConfig) -> dict[str, Any]:
    """All settings by dotted path."""
    return _flat(asdict(config), "")


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return found


def path_of(name: str, config: AnyConfig) -> str:
    """The dotted path of the setting that ``name`` means, bare or dotted, as `dipod.recipes.overlay` reads it.

    Raises:
        UserError: there is no such setting.
    """
    known = [field.path for field in fields(config.task.name)]
    known += [path for path in flat(config) if path.startswith(f"{ARGUMENTS}.")]
    for fits in (lambda path: name in (path, path.rpartition(".")[2]), lambda path: path.startswith(f"{name}.")):
        found = next(filter(fits, known), None)
        if found is not None:
            return found
    overlay(config, {name: ""})
    raise UserError("field", name, "`dipod recipes --fields` lists the settings")


def shortest(path: str, config: AnyConfig) -> str:
    """The shortest name that means the setting at ``path``."""
    group, _, leaf = path.rpartition(".")
    names = [group] if path in ("task.name", "model.path") else [leaf]
    return next((name for name in names if path_of(name, config) == path), path)


def labels(cells: Sequence[tuple[Path, AnyConfig]]) -> list[Label]:
    """A label for each run, from its folder and its settings.

    A run in ``LABEL/seed-S`` is called by LABEL's settings, in its spelling; beside them come the settings that differ
    between the runs.
    """
    trees = [flat(config) for _, config in cells]
    typed: dict[str, str] = {}
    for folder, config in cells:
        typed |= _typed(folder, config)
    others = [path for path in _differing(trees) if path not in typed]
    if len(others) > MOST:
        others = _fewest(others, list(typed), trees)
    found = []
    for (_, config), tree in zip(cells, trees, strict=True):
        names = {path: typed.get(path) or shortest(path, config) for path in [*typed, *others] if path in tree}
        found.append(Label(config.algorithm, tuple((name, tree[path]) for path, name in names.items())))
    return found


def swept(found: Iterable[Label]) -> str | None:
    """The one setting with numbers for values in which labels differ, whatever else they differ in; else None."""
    settings = [dict(label.settings) for label in found]
    if not settings or any(s.keys() != settings[0].keys() for s in settings):
        return None
    varied = [name for name in settings[0] if len({str(s[name]) for s in settings}) > 1]
    numbers = [name for name in varied if all(isinstance(s[name], int | float) for s in settings)]
    numbers = [name for name in numbers if not any(isinstance(s[name], bool) for s in settings)]
    return numbers[0] if len(numbers) == 1 else None


def without(label: Label, name: str) -> Label:
    """A label that does not name one of its settings: what is the same all along a sweep of it."""
    return replace(label, settings=tuple((n, value) for n, value in label.settings if n != name))


def _typed(folder: Path, config: AnyConfig) -> dict[str, str]:
    """Names by path that the folder above ``folder`` gives to settings which are truly the run's."""
    algorithm, *words = re.split(r" (?=[\w.]+=)", unquote(folder.resolve().parent.name))
    tree = flat(config)
    found: dict[str, str] = {}
    for word in words if algorithm == config.algorithm else []:
        name, _, value = word.partition("=")
        try:
            path = path_of(name, config)
        except UserError:
            continue
        if value_text(tree[path]) == value:
            found[path] = name
    return found


def _differing(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """Paths whose values differ between the runs that have them, the telling ones first."""
    paths = list(dict.fromkeys(path for tree in trees for path in tree))
    kept = [path for path in paths if path not in UNNAMED and not path.startswith(UNNAMED_GROUPS)]
    kept.sort(key=lambda path: TELLING.index(path) if path in TELLING else len(TELLING))
    return [path for path in kept if len({value_text(tree[path]) for tree in trees if path in tree}) > 1]


def _fewest(paths: Sequence[str], given: Sequence[str], trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """A few of ``paths`` that together with ``given`` tell apart the runs that all of them tell apart."""

    def classes(chosen: Sequence[str]) -> int:
        return len({tuple(str(tree.get(path)) for path in chosen) for tree in trees})

    chosen: list[str] = []
    while classes([*given, *chosen]) < classes([*given, *paths]):
        chosen.append(max(paths, key=lambda path: classes([*given, *chosen, path])))
    return chosen
