"""Files that settings name: spelled out where a run begins, found again where they were moved, known by their content.

A run folder keeps absolute paths, so that it can be resumed from any folder. ``inputs.json`` beside its settings says
where each file stood as seen from the run, and what a file of problems or of adapters held.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dipod.control.config import ControlConfig
from dipod.errors import UserError
from dipod.files import write_json
from dipod.recipes.settings import AnyConfig, overlay
from dipod.tasks.text.functions import absolute as absolute_function
from dipod.tasks.text.subject import GENERATE

INPUTS = "inputs.json"
MODELS = ("base", "model.path", "model.adapter")
SOURCES = ("task.train_source", "task.test_source", "task.train_csv", "task.test_csv")
REWARDS = "task.rewards"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def settle(config: AnyConfig) -> AnyConfig:
    """The settings as a run folder keeps them: what depends on where the command was typed is spelled out."""
    changed: dict[str, Any] = {}
    for field, text in _texts(config):
        if field == REWARDS:
            changed[field] = ", ".join(absolute_function(name.strip()) for name in text.split(",") if name.strip())
        elif field in MODELS or Path(text).exists():
            changed[field] = os.path.abspath(text) if Path(text).exists() else text
        else:
            changed[field] = ", ".join(_absolute(word.strip()) for word in text.split(",")) if "," in text else text
    return overlay(config, changed)


def record(folder: Path, config: AnyConfig) -> None:
    """Write ``inputs.json``: the files that settled settings name."""
    found = {}
    for field, path in _files(config):
        about, digest = {"from_run": os.path.relpath(path, folder)}, _digest(path)
        found[f"{field} {path}"] = about if digest is None else {**about, "sha256": digest}
    write_json(folder / INPUTS, found)


def relocate(folder: Path, config: AnyConfig) -> AnyConfig:
    """The settings of a run that was moved together with files it names: paths that lead nowhere, from the run's."""
    changed: dict[str, Any] = {}
    texts = dict(_texts(config))
    for field, path, about in _recorded(folder):
        there = Path(os.path.abspath(folder / about["from_run"]))
        if field in texts and not path.exists() and there.exists():
            changed[field] = changed.get(field, texts[field]).replace(str(path), str(there))
    return overlay(config, changed) if changed else config


def verify(folder: Path) -> None:
    """See that the problems and adapters which a run began with are what they were.

    Raises:
        UserError: a file has changed.
    """
    for field, path, about in _recorded(folder):
        place = path if path.exists() else Path(os.path.abspath(folder / about["from_run"]))
        if "sha256" in about and place.exists() and _digest(place) != about["sha256"]:
            mend = f"it has changed since the run began; put it back, or delete {folder / INPUTS} to go on with the new"
            raise UserError(field, str(place), mend)


def by_content(config: AnyConfig) -> dict[str, str]:
    """The settings that name files of problems or rewards, with what these hold in place of where they stand."""
    settled = settle(config)
    found = {field: text for field, text in _texts(settled) if field in (*SOURCES, REWARDS)}
    files = [Path(name.rpartition(":")[0].strip()) for name in found.get(REWARDS, "").split(",")]
    code = [(REWARDS, path) for path in files if path.suffix == ".py" and path.is_file()]
    for field, path in [*_files(settled), *code]:
        if field in found:
            found[field] = found[field].replace(str(path), f"sha256:{_digest(path)}")
    return found


def without_folders(field: str, value: Any) -> Any:
    """A setting that may name files, with the last part of absolute paths alone; other settings as they are."""
    if isinstance(value, str) and field in (*SOURCES, REWARDS):
        return re.sub(r"(^|[,=]\s*)/(?:[^,=]*/)?", r"\1", value)
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _texts(config: AnyConfig) -> Iterator[tuple[str, str]]:
    """The settings that may name files, with their text, where they have one."""
    if isinstance(config, ControlConfig):
        return
    tree = asdict(config)
    for field in (*MODELS, *SOURCES, REWARDS):
        group, _, name = field.rpartition(".")
        text = (tree[group] if group else tree).get(name)
        if text and text != GENERATE:
            yield field, str(text)


def _files(config: AnyConfig) -> Iterator[tuple[str, Path]]:
    """The files and folders that settled settings name."""
    for field, text in _texts(config):
        words = [text] if field in MODELS or Path(text).exists() else text.split(",")
        for word in words if field != REWARDS else []:
            path = next((Path(place) for place in _readings(word.strip()) if Path(place).exists()), None)
            if path is not None:
                yield field, path


def _readings(word: str) -> list[str]:
    """What may be the file in ``file``, ``file*weight`` and ``name=file``."""
    named = word.partition("=")[2].strip()
    return [word, named, *(place.rpartition("*")[0].strip() for place in (word, named))]


def _absolute(word: str) -> str:
    place = next((place for place in _readings(word) if place and Path(place).is_file()), None)
    whole = "" if place is None else os.path.abspath(place)
    plain = place is not None and not set(whole) & set(",*=")  # in a mixture these have a meaning
    return word.replace(str(place), whole, 1) if plain else word


def _content(path: Path) -> Path | None:
    """The file whose content counts: weights of models are too large to be read for it."""
    if path.is_file():
        return path
    adapters = path / ADAPTER_WEIGHTS
    return adapters if adapters.is_file() else None


def _digest(path: Path) -> str | None:
    content = _content(path)
    if content is None:
        return None
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded(folder: Path) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """Field, path and the rest of each entry of ``inputs.json``; none in runs that are older than it."""
    file = folder / INPUTS
    if not file.is_file():
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        entries = [(*key.split(" ", 1), {str(k): str(v) for k, v in about.items()}) for key, about in found.items()]
        read = [(field, Path(path), about) for field, path, about in entries if about["from_run"]]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        mend = "it cannot be read; delete it to go on without looking for changed files"
        raise UserError("inputs", str(file), mend) from error
    yield from read
