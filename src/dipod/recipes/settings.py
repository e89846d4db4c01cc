"""From YAML and ``--field value`` to checked settings of a run, and back."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from dipod.config import CommonConfig, RunConfig
from dipod.control.config import ControlConfig
from dipod.errors import UserError, require
from dipod.recipes.elsewhere import ELSEWHERE
from dipod.recipes.reading import SettingsFile, read_settings
from dipod.tasks.configs import ControlTaskConfig, task_config
from dipod.tasks.text.config import Examples, TextConfig
from dipod.tasks.text.mixtures import sources_text
from dipod.tasks.text.rows import TASKS

FOLDER = Path(__file__).parent
PRESETS = FOLDER / "presets" / "released.yaml"
CONTROL_PRESETS = FOLDER / "presets" / "released_control.yaml"
PACES = ({"steps", "trainer.steps"}, {"epochs", "trainer.epochs"})
"""Spellings of two settings of masked models that exclude each other."""
REWARDS_OF_PRESETS = ("verify", "paper", "released", "released_spg")
"""What a preset may replace by its own variant."""
ARGUMENTS = "task.arguments"


AnyConfig = RunConfig | ControlConfig
"""Settings of a run, of a masked model or of a control policy; the task says which."""


def config_class(task: str) -> type[AnyConfig]:
    """The class of the settings of runs on the task called ``task``."""
    return ControlConfig if task_config(task) in get_args(ControlTaskConfig) else RunConfig


def language(config: AnyConfig) -> RunConfig:
    """``config``, which must be that of a masked model.

    Raises:
        UserError: it is that of a control policy.
    """
    if isinstance(config, ControlConfig):
        raise UserError("task.name", config.task.name, "this is for masked models; name a language task, or its run")
    return config


def control(config: AnyConfig) -> ControlConfig:
    """``config``, which must be that of a control policy.

    Raises:
        UserError: it is that of a masked model.
    """
    if not isinstance(config, ControlConfig):
        raise UserError("task.name", config.task.name, "this is for control policies; name a control task, or its run")
    return config


@dataclass(frozen=True)
class Field:
    """One setting: its dotted path, its type, and its line of documentation."""

    path: str
    kind: Any
    about: str


def names() -> list[str]:
    """The recipes that come with the package, the embedded ones first."""
    return [path.stem for path in _files()]


def _files() -> list[Path]:
    return [*sorted(FOLDER.glob("*.yaml")), *sorted((FOLDER / "full_size").glob("*.yaml"))]


def packaged(name: str) -> Path | None:
    """The file of a recipe that comes with the package."""
    return next((path for path in _files() if path.stem == name), None)


def summary(name: str) -> str:
    """The first comment line of a recipe."""
    file = packaged(name)
    return file.read_text().splitlines()[0].lstrip("# ") if file else ""


def load(name: str) -> AnyConfig:
    """The settings of a recipe, by name or by the path of a YAML file.

    Raises:
        UserError: no such recipe, a file that is not YAML, or a field or value that is refused.
    """
    path = packaged(name) or Path(name)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            raise UserError("recipe", name, "there is no such file; give a YAML file, or a name from `dipod recipes`")
        close = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError("recipe", name, f"{hint}`dipod recipes` lists the names; or give the path of a YAML file")
    return read_run_config(path, {"recipe": name})


def read_run_config(path: Path, extra: Mapping[str, str] | None = None) -> AnyConfig:
    """Read a YAML file of settings (a recipe, or the ``config.yaml`` of a run).

    Raises:
        UserError: with file and line of what is refused.
    """
    found = read_settings(path, packaged)
    try:
        return overlay(RunConfig(), _paced(found) | dict(extra or {}))
    except UserError as error:
        raise found.blame(error, extra or {}) from error


def _paced(found: SettingsFile) -> dict[str, Any]:
    """The settings of a file; where it gives epochs, without the steps of a recipe that it inherits, and back."""
    values = found.values
    if config_class(str(values.get("task.name", values.get("task", RunConfig().task.name)))) is not RunConfig:
        return values
    steps, epochs = (min((found.depths[name] for name in names if name in values), default=None) for names in PACES)
    if steps is None or epochs is None or steps == epochs:
        return values
    return {name: value for name, value in values.items() if name not in PACES[steps < epochs]}


def blamed(error: UserError, recipe: str, given: Mapping[str, Any]) -> UserError:
    """An error about settings of a recipe, with the line of the user's own YAML file where that is at fault.

    Args:
        error: what was wrong.
        recipe: as given to `load`.
        given: settings from the command line.
    """
    if packaged(recipe) is not None or not Path(recipe).is_file():
        return error
    return read_settings(Path(recipe), packaged).blame(error, given)


def overlay(config: AnyConfig, settings: Mapping[str, Any]) -> AnyConfig:
    """A copy of ``config`` with some settings replaced, all checked.

    A change of ``task.name`` to a task with other settings starts these from their defaults, and all groups where it
    goes from masked models to control or back. A change of the algorithm
    or the preset brings the preset's settings in; settings given beside it win.

    Args:
        config: to start from.
        settings: values (or their text) by dotted path or by bare name; a bare name means the first field of that
            name in the order of `fields`, and a group's bare name its first field (``model`` is ``model.path``).

    Raises:
        UserError: a field that does not exist or a value that is refused.
    """
    named = {_spelled(name): value for name, value in settings.items()}
    task = str(named.get("task.name", config.task.name))
    made = config_class(task)
    if not isinstance(config, made):
        shared = {field.name: getattr(config, field.name) for field in dataclass_fields(CommonConfig)}
        config = made(**shared)
    tree = asdict(config)
    if task_config(task) is not type(config.task):
        tree["task"] = asdict(task_config(task)(name=task))  # type: ignore[arg-type]
    known = fields(task)
    named = _with_arguments(named, tree["task"])
    resolved = {_find(name, known): value for name, value in named.items()}
    algorithm, preset = (_given(resolved, name, tree[name]) for name in ("algorithm", "preset"))
    if (algorithm, preset) != (config.algorithm, config.preset):
        brought = preset_settings(algorithm, preset, task)
        if task not in TASKS or tree["task"].get("rewards") not in REWARDS_OF_PRESETS:  # the user's own stay
            brought.pop("task.rewards", None)
        resolved = {**{_find(name, known): value for name, value in brought.items()}, **resolved}
    for field, value in resolved.items():
        *group, leaf = field.path.split(".")
        (tree[group[0]] if group else tree)[leaf] = _convert(field, value)
    if made is RunConfig:
        _pace(tree["trainer"], {field.path for field in resolved})
    hints = {**get_type_hints(made), "task": task_config(task)}
    return made(**{key: hints[key](**v) if isinstance(v, dict) else v for key, v in tree.items()})


def _with_arguments(named: dict[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """``task.arguments.NAME`` as entries of ``task.arguments``, beside those that are there."""
    parts = {name: value for name, value in named.items() if name.startswith(ARGUMENTS + ".")}
    if not parts or "arguments" not in task:
        return named
    rest = {name: value for name, value in named.items() if name not in parts}
    whole = _mapping(ARGUMENTS, rest.get(ARGUMENTS, task["arguments"]))
    whole |= {name.removeprefix(ARGUMENTS + "."): _plain(value) for name, value in parts.items()}
    return {**rest, ARGUMENTS: whole}


def _mapping(path: str, value: Any) -> dict[str, Any]:
    """A mapping, from YAML or as JSON."""
    found = _plain(value)
    mend = f'give NAME: VALUE pairs, as JSON such as {{"size": 3}}, or one by one: --{path}.NAME VALUE'
    require(isinstance(found, dict) and all(isinstance(key, str) for key in found), path, value, mend)
    return dict(found)


def _plain(value: Any) -> Any:
    """A value as JSON or YAML reads its text; what is no text already stays."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, yaml.safe_load):
        try:
            return read(value)
        except (ValueError, yaml.YAMLError):
            continue
    return value


def _pace(trainer: dict[str, Any], given: Collection[str]) -> None:
    """Of steps and epochs, what is given replaces the other; both are refused."""
    if "trainer.epochs" in given and trainer["epochs"] > 0:
        mend = f"trainer.steps = {trainer['steps']} is given as well; leave one of them out"
        require("trainer.steps" not in given, "trainer.epochs", trainer["epochs"], mend)
    elif "trainer.steps" in given:
        trainer["epochs"] = 0.0


def _given(resolved: Mapping[Field, Any], path: str, default: str) -> str:
    return next((str(value) for field, value in resolved.items() if field.path == path), default)


def preset_settings(algorithm: str, preset: str, task: str) -> dict[str, Any]:
    """What a preset of an algorithm sets for a task, by dotted path; nothing for "paper"."""
    if preset == "paper":
        return {}
    file = CONTROL_PRESETS if config_class(task) is ControlConfig else PRESETS
    table: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    base = algorithm.partition("+")[0]
    brought = {**table["all"], **table.get(base, {})}
    text = task_config(task) is TextConfig
    return {field: value for field, value in brought.items() if text or not field.startswith("task.")}


def fields(task: str = RunConfig().task.name) -> list[Field]:
    """Every setting in the order in which bare names are looked up: top level first, then group by group.

    Args:
        task: the task whose settings are listed.
    """
    made = config_class(task)
    hints = {**get_type_hints(made), "task": task_config(task)}
    groups = [f.name for f in dataclass_fields(made) if is_dataclass(hints[f.name])]
    found = [f for f in _fields_of(made, "") if f.path not in groups]
    for group in groups:
        found += _fields_of(hints[group], f"{group}.")
    return found


def _spelled(name: str) -> str:
    """``model`` means ``model.path``, ``task`` ``task.name``: the group's first field."""
    return {"model": "model.path", "task": "task.name"}.get(name, name)


def to_yaml(config: AnyConfig) -> str:
    """The settings as YAML that `read_run_config` reads back to equal settings."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def _fields_of(cls: Any, prefix: str) -> list[Field]:
    """The fields of a configuration class with the lines of its docstring's Attributes section, and its parents'."""
    attributes = "".join((inspect.getdoc(kind) or "").partition("Attributes:")[2] for kind in cls.__mro__[:-1])
    about = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", attributes, flags=re.MULTILINE))
    hints = get_type_hints(cls)
    return [
        Field(prefix + f.name, hints[f.name], re.sub(r"\s+", " ", about.get(f.name, ""))) for f in dataclass_fields(cls)
    ]


def _find(name: str, known: list[Field]) -> Field:
    for field in known:
        if name in (field.path, field.path.rpartition(".")[2]):
            return field
    elsewhere = ELSEWHERE.get(name.rpartition(".")[2], "")
    if elsewhere.startswith("--") or any(elsewhere == field.path for field in known):
        raise UserError("field", name, f"this is called {elsewhere} here")
    spellings = [f.path for f in known] + [f.path.rpartition(".")[2] for f in known]
    close = difflib.get_close_matches(name, spellings, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if name.startswith("task.") and any(field.path == ARGUMENTS for field in known):
        hint += f"the environment's own arguments are --{ARGUMENTS}.{name.removeprefix('task.')}; "
    raise UserError("field", name, f"{hint}`dipod recipes RECIPE --fields` lists the settings")


def _convert(field: Field, value: Any) -> Any:
    """``value`` as the field's type; text is read as on the command line, YAML's own types are kept."""
    kind = field.kind
    if get_origin(kind) is dict:
        return _mapping(field.path, value)
    if kind == Examples:
        return _examples(field, value)
    if kind is str and isinstance(value, list | dict):
        value = sources_text(value, field.path)
    text = str(value).strip()
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UserError(field.path, value, f"choose one of {', '.join(get_args(kind))}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(field.path, value, "give true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise UserError(field.path, value, f"give {wanted}") from error


def _examples(field: Field, value: Any) -> Examples:
    """Questions with their answers: objects or pairs, or their YAML as text."""
    mend = "give a list of {question: .., answer: ..}"
    try:
        given = yaml.safe_load(value) or () if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise UserError(field.path, value, mend) from error
    require(isinstance(given, list | tuple), field.path, value, mend)
    pairs = [(x.get("question"), x.get("answer")) if isinstance(x, dict) else x for x in given]
    good = all(isinstance(pair, list | tuple) and len(pair) == 2 and None not in pair for pair in pairs)
    require(good, field.path, value, mend)
    return tuple((str(question), str(answer)) for question, answer in pairs)
