"""What the processes of a run that rsl_rl spread over several devices must agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dipod.control.update import Learner, Transitions
from dipod.objectives.returns import standardise
from dipod.policies.normaliser import Normaliser


@dataclass(frozen=True)
class World:
    """How many processes there are, and which this is; with one, nothing is exchanged."""

    rank: int = 0
    size: int = 1

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Everyone's tensors of one shape, [size, ...]."""
        if self.size == 1:
            return value[None]
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous())
        return torch.stack(parts)

    def standardise(self, advantage: Tensor, limit: float) -> Tensor:
        """This process's advantages, standardised over those of all."""
        return standardise(self.gather(advantage), limit)[self.rank]

    def observe(self, normaliser: Normaliser, rows: Tensor) -> None:
        """Take everyone's observations [R, o] into a normaliser that all have a copy of."""
        rows = rows.double()
        count = rows.new_full((rows.shape[-1],), len(rows))
        for mean, variance, counts in self.gather(torch.stack([rows.mean(0), rows.var(0, unbiased=False), count])):
            normaliser.merge(mean, variance, counts[0])

    @contextmanager
    def shared_gradients(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Inside it, every backward pass leaves the mean of everyone's gradients."""

        def share(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self.mean(parameter.grad)

        shared = parameters if self.size > 1 else ()
        handles = [parameter.register_post_accumulate_grad_hook(share) for parameter in shared]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class ProcessLearner(Learner):
    """The library's gradient steps on observations by group, with rsl_rl's exchange of gradients.

    Attributes:
        world: the processes.
        reduce: makes gradients the mean over the processes.
        per_mini_batch: standardise advantages in every mini-batch.
    """

    world = World()
    reduce: Callable[[], None] | None = None
    per_mini_batch = False

    def value(self, observation: Any) -> Tensor:
        """V of observations by group, [B]."""
        found: Tensor = self.critic(observation)[..., 0]
        return found

    def share_gradients(self) -> None:
        """The mean over the processes."""
        if self.world.size > 1 and self.reduce is not None:
            self.reduce()

    def over_processes(self, value: float) -> float:
        """The mean over the processes."""
        device = self.parameters[0].device
        return float(self.world.mean(torch.tensor(value, device=device))) if self.world.size > 1 else value

    def _step(self, batch: Transitions, beta: float) -> dict[str, float]:
        if self.per_mini_batch:
            batch = replace(batch, advantage=standardise(batch.advantage, self.trainer.advantage_limit))
        return super()._step(batch, beta)
