"""Model folders in the hub's layout: where they come from, what their settings say, their weights in safetensors."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
WEIGHT_PATTERNS = ("*.safetensors", INDEX_FILE)
TEXT_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")
HUB_NAME = re.compile(r"(?![.-])[\w.-]+/(?![.-])[\w.-]+")

Config = TypeVar("Config", bound="HubConfig")


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """A ``config.json`` whose fields a subclass names as the hub does.

    Attributes:
        others: fields that are read, not used and written again.
    """

    others: dict[str, Any] = field(default_factory=dict)

    MODEL_TYPE: ClassVar[str]
    REPOSITORY: ClassVar[str]
    """Where the modelling code for other programs stands, if the folder's own name does not say."""
    CODE: ClassVar[dict[str, str]]
    """``auto_map`` of that code."""
    SUPPORTED: ClassVar[dict[str, tuple[Any, ...]]]
    """Values that the network honours, of fields that could ask for another network; the first is written."""

    @classmethod
    def from_hub(cls: type[Config], settings: Mapping[str, Any]) -> Config:
        """Read ``config.json``.

        Raises:
            UserError: a field is missing, or asks for something that the network does not do.
        """
        for name, values in cls.SUPPORTED.items():
            if name in settings and settings[name] not in values:
                raise UserError(f"{CONFIG_FILE} {name}", settings[name], f"only {values[0]!r} is supported")
        known = [known for known in fields(cls) if known.name != "others"]
        for known_field in known:
            required = known_field.default is MISSING
            require(
                not required or known_field.name in settings,
                f"{CONFIG_FILE} {known_field.name}",
                None,
                "the field is missing",
            )
        names = {known_field.name for known_field in known}
        given = {name: settings[name] for name in names if name in settings}
        return cls(**given, others={name: value for name, value in settings.items() if name not in names})

    def to_hub(self, repository: str | None = None) -> dict[str, Any]:
        """What ``config.json`` says; other programs find the modelling code in ``repository``."""
        own = {known.name: getattr(self, known.name) for known in fields(self) if known.name != "others"}
        usual = {name: values[0] for name, values in self.SUPPORTED.items() if values[0] is not None}
        code = self.others.get("auto_map", self.CODE)
        return {
            "model_type": self.MODEL_TYPE,
            **(self.others or usual),
            **own,
            "auto_map": located(code, repository or self.REPOSITORY),
        }

    def check_sizes(self, *names: str) -> None:
        """Raise `UserError` unless the named fields are whole numbers of at least 1."""
        for name in names:
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            require(whole, f"{CONFIG_FILE} {name}", value, "give a whole number of at least 1")

    def check_multiple(self, name: str, of: str) -> None:
        """Raise `UserError` unless one field is a multiple of another."""
        value, divisor = getattr(self, name), getattr(self, of)
        require(value % divisor == 0, f"{CONFIG_FILE} {name}", value, f"give a multiple of {of} ({divisor})")


def located(code: Mapping[str, Any], repository: str) -> dict[str, Any]:
    """An ``auto_map`` that names the repository of its modules, for folders that do not hold them."""

    def locate(module: Any) -> Any:
        if isinstance(module, list | tuple):
            return [locate(one) for one in module]
        return module if module is None or "--" in module else f"{repository}--{module}"

    return {role: locate(module) for role, module in code.items()}


def fetch(name: str | Path, revision: str | None = None, weights: bool = True, field: str = "model") -> Path:
    """The folder of a model: ``name`` itself, or the hub's model of that name, downloaded unless it is cached.

    Code and pickles are never downloaded. A mistyped path is not asked of the hub; see `refuse_mistyped`.

    Args:
        name: as above.
        revision: branch, tag or commit on the hub.
        weights: download them too.
        field: the setting, for complaints.

    Raises:
        UserError: no such folder, and the hub does not give it either.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if not revision:
        escape = "give model.revision too" if field == "model" else "start in another folder"
        refuse_mistyped(field, str(name), f"where that name on the hub is meant, {escape}")
    require(bool(HUB_NAME.fullmatch(str(name))), field, str(name), "give a folder or a hub name such as owner/model")
    hub = load_extra("huggingface_hub")
    patterns = [*TEXT_PATTERNS, *(WEIGHT_PATTERNS if weights else ())]
    try:
        return Path(hub.snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(field, str(name), f"no such folder, and the hub does not give it ({reason})") from error


def refuse_mistyped(field: str, name: str, escape: str) -> None:
    """Raise `UserError` if ``name``, which is not there, was meant as a path: its folder is there, or a similar one is.

    Args:
        field: what is named.
        name: a path or a name on the hub.
        escape: what to do where the hub was meant all the same.
    """
    path = Path(name)
    parent = path.parent
    if parent.is_dir() and parent != Path():
        near = difflib.get_close_matches(path.name, sorted(one.name for one in parent.iterdir()), n=1)
        meant = f"; did you mean {parent / near[0]}?" if near else ""
        kind = "is a file" if path.exists() else f"is not in the folder {parent}{meant}"
        raise UserError(field, name, f"{path.name} {kind}" + (f" ({escape})" if HUB_NAME.fullmatch(name) else ""))
    if HUB_NAME.fullmatch(name):
        here = [f"{one.name}/{path.name}" for one in Path().iterdir() if (one / path.name).exists()]
        near = difflib.get_close_matches(name, sorted(here), n=1, cutoff=0.8)
        require(not near, field, name, f"no such folder; did you mean {''.join(near[:1])}? ({escape})")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        UserError: missing, or not an object in JSON; ``what`` names the field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(what, str(path), f"give a readable JSON file ({str(error).splitlines()[0]})") from error
    require(isinstance(content, dict), what, str(path), "the file should hold one JSON object")
    return dict(content)


def locate_weights(folder: Path) -> dict[str, Path]:
    """The file of every tensor, from ``model.safetensors`` or the index of its shards.

    Raises:
        UserError: no safetensors, a shard missing or unreadable, or a tensor not where the index says.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.exists():
        return dict.fromkeys(tensor_names(single), single)
    if not index.exists():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth"})
        mend = "convert the weights to safetensors; pickled files are not loaded" if pickled else "no weights found"
        raise UserError("model", str(folder), f"{mend} (neither {WEIGHTS_FILE} nor {INDEX_FILE})")
    weight_map = read_json(index, "model").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError("model", str(index), "the index holds no weight_map")
    for shard in sorted(set(map(str, weight_map.values()))):
        path = folder / shard
        mend = f"the weight_map names the shard {shard!r}; shards are files beside the index"
        require(Path(shard).name == shard and shard not in {"", ".."}, "model", str(index), mend)
        require(path.is_file(), "model", str(path), f"this shard is missing; {INDEX_FILE} names it")
        lost = sorted({name for name, file in weight_map.items() if file == shard} - set(tensor_names(path)))
        require(not lost, "model", str(path), f"tensors are missing that {INDEX_FILE} puts there: {first_few(lost)}")
    return {str(name): folder / str(shard) for name, shard in weight_map.items()}


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    return list(tensor_shapes(path))


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors in a safetensors file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError) as error:
        raise UserError("model", str(path), f"not a readable safetensors file ({error})") from error


def load_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of `locate_weights`, on the CPU."""
    paths = sorted(set(locate_weights(folder).values()))
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def first_few(names: list[str]) -> str:
    """Up to three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def save_weights(folder: Path, tensors: Mapping[str, Tensor], max_shard_bytes: int) -> None:
    """Write ``model.safetensors``, or numbered shards and their index when it would exceed ``max_shard_bytes``.

    Every file is written aside and renamed, so that a network may be saved over the files that it was loaded from.
    """
    shards = list(_shards(tensors, max_shard_bytes))
    total = len(shards)
    files = [WEIGHTS_FILE] if total == 1 else [f"model-{i + 1:05}-of-{total:05}.safetensors" for i in range(total)]
    stale = {path.name for path in folder.glob("model*.safetensors")} | {INDEX_FILE}
    for file, shard in zip(files, shards, strict=True):
        aside = folder / f".{file}.part"
        save_file(shard, aside, metadata={"format": "pt"})
        os.replace(aside, folder / file)
    if total > 1:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        size = sum(tensor.nbytes for tensor in tensors.values())
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": where})
        stale.discard(INDEX_FILE)
    for name in stale.difference(files):
        (folder / name).unlink(missing_ok=True)


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().contiguous()
        size += tensor.nbytes
    yield shard
