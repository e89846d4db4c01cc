"""Randomness that depends on what it is for, never on who computes it or in what order.

Every rollout, corruption sample and problem draws from a generator of its own, keyed by (seed, purpose, step, example,
...). So one process and eight, one pass and ten micro-batches, a run and its resumption see the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Key = int | str
Drawn = TypeVar("Drawn")


def derive(*key: Key) -> int:
    """A seed that only this key has: a 63-bit hash of its parts."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_generator(*key: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that this key has (on the CPU torch keeps 32 bits of a seed, so two keys in billions share one)."""
    return torch.Generator(device).manual_seed(derive(*key))


@dataclass(frozen=True)
class Noise:
    """One stream of randomness per row of a batch.

    Attributes:
        generators: one for each row, on the device where the numbers are wanted or on the CPU.
    """

    generators: tuple[torch.Generator, ...]

    @classmethod
    def keyed(cls, *key: Key, examples: Iterable[int], device: torch.device | str = "cpu") -> Noise:
        """Streams keyed by ``key`` and each example's global index."""
        return cls(tuple(keyed_generator(*key, example, device=device) for example in examples))

    def __len__(self) -> int:
        return len(self.generators)

    def __getitem__(self, rows: Sequence[int] | slice) -> Noise:
        """The streams of some rows, at the point where they are."""
        if isinstance(rows, slice):
            return Noise(self.generators[rows])
        return Noise(tuple(self.generators[row] for row in rows))

    def uniform(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tensor:
        """The next uniform numbers of every row in [0, 1): [B, *shape]."""
        where = self.generators[0].device if self.generators else torch.device("cpu")
        numbers = torch.empty(len(self), *shape, dtype=dtype, device=where)
        for row, generator in zip(numbers, self.generators, strict=True):
            row.uniform_(generator=generator)
        return numbers.to(device) if device is not None else numbers

    def uniform_at(self, places: Tensor, draws: int) -> Tensor:
        """Uniform numbers for some places of every row, in their order, ``draws`` times over: [B, draws, L].

        A row takes exactly ``draws`` times its own number of places from its stream, so padding changes neither these
        numbers nor later ones. Where every place is wanted they are those of ``uniform(draws, L)``.

        Args:
            places: [B, L] bool; other places get zeros.
            draws: numbers for each place.
        """
        if bool(places.all()):
            return self.uniform(draws, places.shape[1], device=places.device)
        where = self.generators[0].device if self.generators else torch.device("cpu")
        wanted = places.to(where)
        numbers = torch.zeros(len(self), draws, places.shape[1], device=where)
        for row, own, count, generator in zip(numbers, wanted, wanted.sum(-1).tolist(), self.generators, strict=True):
            row[:, own] = torch.empty(draws, count, device=where).uniform_(generator=generator)
        return numbers.to(places.device)


class SharedGenerator(torch.Generator):
    """A generator of numbers for rows that several processes share: all draw the same, and each takes those of its own.

    Attributes:
        total: rows of all processes together.
        rows: this process's.
    """

    total: int
    rows: slice


def draw_rows(generator: torch.Generator, count: int, draw: Callable[[int], Drawn]) -> Drawn:
    """What ``draw`` gives for ``count`` rows; of a shared generator, this process's rows of what it gives for all."""
    if not isinstance(generator, SharedGenerator):
        return draw(count)
    whole: Any = draw(generator.total)
    own: Drawn = whole[generator.rows]
    return own


def normal_rows(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, one row for each of ``shape[0]``, on the generator's device; see `draw_rows`."""
    rest, device = shape[1:], generator.device
    return draw_rows(
        generator, shape[0], lambda n: torch.randn(n, *rest, generator=generator, device=device, dtype=dtype)
    )


def uniform_rows(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), likewise, in float32."""
    rest, device = shape[1:], generator.device
    return draw_rows(generator, shape[0], lambda n: torch.rand(n, *rest, generator=generator, device=device))
