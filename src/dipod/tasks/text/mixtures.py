"""Several sources in one setting: mixtures with weights for training, named sets for evaluations."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import torch

from dipod.errors import UserError, require
from dipod.noise import keyed_generator
from dipod.tasks.text.rows import Row

_NAMED = re.compile(r"([A-Za-z][\w-]*)\s*=\s*(.+)")
_WEIGHTED = re.compile(r"(.+?)\s*\*\s*([^*\s]+)")
_BLOCK = 4096
"""Places of a mixture whose sources are drawn together."""


@dataclass(frozen=True)
class Source:
    """One of the sources in a setting.

    Attributes:
        place: a file, or a dataset on the hub.
        name: of the set, for metrics.
        weight: its share of the problems drawn is this over the sum of all; None where no source has a weight.
    """

    place: str
    name: str
    weight: float | None = None


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Problems of several sources, one source after the other.

    Attributes:
        rows: the problems.
        parts: of each problem, the index of its source.
        sources: where they come from.
    """

    rows: Sequence[Row]
    parts: Sequence[int]
    sources: Sequence[Source]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...

    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        return self.rows[at]


def parse_sources(text: str, field: str) -> list[Source]:
    """The sources that a setting names: ``place``, ``place*weight`` or ``name=place``, separated by commas.

    A name that is that of a file as a whole is taken as it stands.

    Raises:
        UserError: a weight that is no positive number, or two sets of one name.
    """
    words = [text] if Path(text).is_file() else [word.strip() for word in text.split(",") if word.strip()]
    found = [_source(word, field, text) for word in words]
    if any(source.weight is not None for source in found):
        found = [Source(s.place, s.name, 1.0 if s.weight is None else s.weight) for s in found]
    names = [source.name for source in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, field, text, f"two sources are called {twice}; name them: easy=FILE, hard=FILE")
    return found


def _source(word: str, field: str, text: str) -> Source:
    name, weight, place = "", None, word
    if not Path(place).exists() and (match := _NAMED.fullmatch(place)):
        name, place = match[1], match[2]
    if not Path(place).exists() and (match := _WEIGHTED.fullmatch(place)):
        try:
            place, weight = match[1], float(match[2])
        except ValueError as error:
            raise UserError(field, text, "give a positive number as the weight: FILE*2") from error
        require(0 < weight < math.inf, field, text, "give a positive number as the weight: FILE*2")
    return Source(place, name or Path(place).stem, weight)


def sources_text(value: Any, field: str) -> str:
    """Sources as YAML has them, a list or a mapping {place: weight} or {name: place}, as the text of the setting.

    Raises:
        UserError: something else.
    """
    if isinstance(value, Mapping):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value.values())
        require(
            numbers or all(isinstance(v, str) for v in value.values()), field, value, "give FILE: weight, or name: FILE"
        )
        return ", ".join(f"{key}*{v:g}" if numbers else f"{key}={v}" for key, v in value.items())
    return ", ".join(map(str, value))


def read_all(sources: Sequence[Source], read: Callable[[str], Sequence[Row]]) -> Sequence[Row]:
    """The problems of all sources; ``read`` gives those of one place."""
    if len(sources) == 1:
        return read(sources[0].place)
    each = [read(source.place) for source in sources]
    parts = [part for part, rows in enumerate(each) for _ in rows]
    return Rows([row for rows in each for row in rows], parts, sources)


def places(parts: Sequence[int], weights: Sequence[float], seed: int, wanted: range) -> list[int]:
    """Which problems come at some places of the order in which a run sees them.

    Every source is shuffled anew in every epoch of its own. Without weights all problems are one source; with them a
    source is drawn for every place.

    Args:
        parts: the source of each problem, in order, so that a source's problems stand together.
        weights: of the sources; none for no weights.
        seed: of the order.
        wanted: places, from 0.
    """
    if not weights:
        return _shuffled(len(parts), 0, wanted, seed, "order")
    sizes = [bisect_left(parts, part + 1) - bisect_left(parts, part) for part in range(len(weights))]
    chosen = []
    for place in wanted:
        part, rank = _drawn(tuple(weights), seed, place)
        chosen += _shuffled(sizes[part], bisect_left(parts, part), range(rank, rank + 1), seed, "order", part)
    return chosen


def _shuffled(size: int, first: int, wanted: range, *key: int | str) -> list[int]:
    return [first + _order(size, *key, place // size)[place % size] for place in wanted]


@lru_cache(maxsize=16)
def _order(size: int, *key: int | str) -> list[int]:
    order: list[int] = torch.randperm(size, generator=keyed_generator(*key)).tolist()
    return order


def _drawn(weights: tuple[float, ...], seed: int, place: int) -> tuple[int, int]:
    """The source at a place, and how many problems of it came before."""
    block, at = divmod(place, _BLOCK)
    sources = _sources_of(weights, seed, block)
    part = sources[at]
    before = sum(_counts(weights, seed, earlier)[part] for earlier in range(block))
    return part, before + sources[:at].count(part)


@lru_cache(maxsize=65_536)
def _counts(weights: tuple[float, ...], seed: int, block: int) -> tuple[int, ...]:
    sources = _sources_of(weights, seed, block)
    return tuple(sources.count(part) for part in range(len(weights)))


@lru_cache(maxsize=16)
def _sources_of(weights: tuple[float, ...], seed: int, block: int) -> tuple[int, ...]:
    shares = torch.tensor(weights, dtype=torch.float64)
    generator = keyed_generator(seed, "mixture", block)
    return tuple(torch.multinomial(shares, _BLOCK, replacement=True, generator=generator).tolist())
