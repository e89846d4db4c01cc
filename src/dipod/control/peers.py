"""The processes that train one control policy together: what is each one's, and what they must agree on.

Environments are shared out in contiguous blocks. All processes draw the same numbers, for the environments of all, and
take those of their own; a mini-batch is the same rows of the whole iteration, each process working on those that it
holds. So the number of processes changes results by the order of float32 sums only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dipod.noise import Key, SharedGenerator, derive, keyed_generator
from dipod.objectives.returns import standardise
from dipod.parallel import Processes
from dipod.policies.normaliser import Normaliser


@dataclass(frozen=True)
class Peers:
    """How many processes there are, and which this is; with one, nothing is exchanged.

    Attributes:
        rank: from 0.
        size: how many.
        device: where tensors are exchanged.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, processes: Processes) -> Peers:
        """Those of a run."""
        return cls(processes.rank, processes.count, processes.device)

    def share(self, total: int) -> slice:
        """This process's part of ``total`` rows, as even as can be."""
        return slice(*self._bounds(total)[self.rank : self.rank + 2])

    def _bounds(self, total: int) -> list[int]:
        return [rank * total // self.size for rank in range(self.size + 1)]

    def generator(self, *key: Key, total: int, device: torch.device | str) -> torch.Generator:
        """The generator of a key, for this process's part of ``total`` rows."""
        if self.size == 1:
            return keyed_generator(*key, device=device)
        generator = SharedGenerator(device)
        generator.total, generator.rows = total, self.share(total)
        return generator.manual_seed(derive(*key))

    def own(self, order: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Which rows of an order over the rows of all processes this one holds, and where in the order they stand.

        Args:
            order: rows of [T, size·width], the blocks of all processes side by side.
            width: rows of a block, W.

        Returns:
            Rows of this process's [T, W], and their places in ``order``, [M] each.
        """
        if self.size == 1:
            return order, torch.arange(len(order), device=order.device)
        step, column = order // (self.size * width), order % (self.size * width)
        places = (column // width == self.rank).nonzero()[:, 0]
        return (step * width + column % width)[places], places

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.size == 1:
            return value
        exchanged = value.detach().to(self.device, copy=True)
        dist.all_reduce(exchanged)
        return (exchanged / self.size).to(value.device)

    def gather(self, value: Tensor) -> Tensor:
        """Everyone's tensors of one shape, [size, ...]."""
        if self.size == 1:
            return value[None]
        mine = value.to(self.device).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return torch.stack(parts).to(value.device)

    def gather_rows(self, rows: Tensor, total: int) -> Tensor:
        """The rows of all processes, [total, ...], each having its `share`; other sizes are filled up with zeros."""
        if self.size == 1:
            return rows
        bounds = self._bounds(total)
        sizes = self.gather(torch.tensor([-(-total // self.size), *rows.shape[1:]])).amax(0).tolist()
        filled = rows.new_zeros(sizes)
        filled[tuple(slice(count) for count in rows.shape)] = rows
        parts = self.gather(filled)
        return torch.cat([part[: stop - start] for part, (start, stop) in zip(parts, pairwise(bounds), strict=True)])

    def standardise(self, advantage: Tensor, limit: float) -> Tensor:
        """This process's advantages, standardised over those of all."""
        return standardise(self.gather(advantage), limit)[self.rank]

    def observe(self, normaliser: Normaliser, rows: Tensor) -> None:
        """Take everyone's observations [..., o] into a normaliser that all have a copy of."""
        rows = rows.reshape(-1, rows.shape[-1]).double()
        count = rows.new_full((rows.shape[-1],), len(rows))
        for mean, variance, counts in self.gather(torch.stack([rows.mean(0), rows.var(0, unbiased=False), count])):
            normaliser.merge(mean, variance, counts[0])

    def share_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make gradients their mean over the processes, in one exchange."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        whole = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, whole.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


ALONE = Peers()
