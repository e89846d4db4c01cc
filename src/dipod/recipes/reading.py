"""YAML files of settings, with the line of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dipod.errors import UserError, require

INHERITS = "inherits"


@dataclass
class SettingsFile:
    """What a YAML file and those that it inherits from say.

    Attributes:
        values: settings by dotted path.
        places: where each was written, as ``file:line``.
        depths: how many files it was inherited through; 0 for one of the file itself.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)

    def blame(self, error: UserError, given: Mapping[str, Any]) -> UserError:
        """The same error with file and line, if a line of the file is what it complains of.

        Args:
            error: names a setting, or a field that does not exist.
            given: settings from elsewhere, which are not the file's fault.
        """
        wanted = str(error.value) if error.field == "field" else error.field
        short = wanted.rpartition(".")[2]
        if short in {name.rpartition(".")[2] for name in given}:
            return error
        alike = [name for name in self.places if name.rpartition(".")[2] == short]
        for name in (wanted, short, *alike):
            if name in self.places:
                return UserError(f"{self.places[name]}: {error.field}", error.value, error.mend)
        return error


def read_settings(path: Path, packaged: Callable[[str], Path | None], above: tuple[Path, ...] = ()) -> SettingsFile:
    """Settings of a YAML file by dotted path, on top of those of the recipe that it ``inherits``.

    Args:
        path: the file.
        packaged: the file of a recipe that comes with the package, if there is one of that name.
        above: files that inherit from this one.

    Raises:
        UserError: a file that cannot be read, is not YAML (with the line), holds no settings, or says one twice.
    """
    content, lines = _parse(path)
    found = SettingsFile()
    parent = content.pop(INHERITS, None)
    if parent is not None:
        chain = (*above, path)
        file = packaged(str(parent)) or path.parent / str(parent)
        place = f"{path}:{lines[INHERITS]}: {INHERITS}"
        require(file.is_file() and file not in chain, place, parent, "name another recipe or YAML file")
        found = read_settings(file, packaged, chain)
        found.depths = {name: depth + 1 for name, depth in found.depths.items()}
    for key, value in content.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, item in inner.items():
            dotted = f"{key}.{name}" if isinstance(value, dict) else str(key)
            found.values[dotted], found.depths[dotted] = item, 0
            found.places[dotted] = f"{path}:{lines.get(dotted, lines.get(str(key), 1))}"
    return found


def _parse(path: Path) -> tuple[dict[Any, Any], dict[str, int]]:
    """The mapping in a file, and the line of each key and of each key within it."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError("recipe", place, f"not YAML: {error.problem or error.context}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("recipe", str(path), f"not a readable YAML file ({str(error).splitlines()[0]})") from error
    mend = "it holds no settings; begin with `inherits: RECIPE` (`dipod recipes` lists them) and say what differs"
    require(content not in (None, {}), "recipe", str(path), mend)
    if not isinstance(root, yaml.MappingNode) or not isinstance(content, dict):
        raise UserError("recipe", f"{path}:1", "give a mapping of settings, `name: value` on each line")
    lines: dict[str, int] = {}
    for key, value in root.value:
        _note(lines, str(key.value), key.start_mark.line + 1, path)
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else ():
            _note(lines, f"{key.value}.{inner.value}", inner.start_mark.line + 1, path)
    return content, lines


def _note(lines: dict[str, int], name: str, line: int, path: Path) -> None:
    require(name not in lines, f"{path}:{line}: {name}", "given twice", f"keep this line or line {lines.get(name)}")
    lines[name] = line
