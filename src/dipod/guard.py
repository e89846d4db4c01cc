"""Numbers that are not finite: found before they are saved, and named with the step at which they came up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dipod.errors import UserError

Named = Iterable[tuple[str, Tensor | None]]
RATE = "optimiser.learning_rate"


class NotFinite(UserError):  # noqa: N818 - it says what was found
    """A tensor that is infinite or not a number.

    Args:
        field: which, and at which step.
        value: its first such entry.
        mend: what to do about it.
        rate: the setting whose lower value may prevent it.
    """

    def __init__(self, field: str, value: object, mend: str, rate: str = RATE) -> None:
        super().__init__(field, value, mend)
        self.rate = rate

    def at(self, where: str) -> NotFinite:
        """The same, found at a step."""
        return NotFinite(f"{self.field} {where}", self.value, self.mend, self.rate)

    def __reduce__(self) -> tuple[type[UserError], tuple[Any, ...]]:
        return NotFinite, (self.field, self.value, self.mend, self.rate)


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds; any other as it is."""
    held: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # without importing what shards
    return held


def largest(parameters: Iterable[Tensor]) -> Tensor:
    """The largest magnitude among this process's entries of some tensors; not a number if one is none."""
    held = [part for part in (local(parameter.detach()) for parameter in parameters) if part.numel()]
    return torch.stack([torch.linalg.vector_norm(part, math.inf) for part in held]).max()


def first_bad(named: Named) -> tuple[str, float] | None:
    """The name of the first tensor with an entry that is not finite, and this entry; None where there is none."""
    for name, tensor in named:
        if tensor is None:
            continue
        part = local(tensor.detach())
        bad = part[~part.isfinite()]
        if bad.numel():
            return name, float(bad.flatten()[0])
    return None


def weights(networks: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Trained parameters and buffers by name."""
    for network in networks:
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                yield f"parameter {name}", parameter
        for name, buffer in network.named_buffers():
            yield f"buffer {name}", buffer


def gradients(networks: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor | None]]:
    """Gradients of parameters by name."""
    for network in networks:
        for name, parameter in network.named_parameters():
            yield f"gradient of {name}", parameter.grad


def blame(named: Named, rate: str = RATE, otherwise: str = "loss") -> NotFinite:
    """The error that names the first bad of some tensors, given in the order in which they are computed.

    Args:
        named: the tensors.
        rate: the setting of the learning rate.
        otherwise: what is bad where none of them is.
    """
    name, value = first_bad(named) or (otherwise, math.nan)
    return NotFinite(name, value, f"lower {rate}", rate)


def require_finite(network: nn.Module, optimisers: Iterable[torch.optim.Optimizer] = ()) -> None:
    """Raise `NotFinite` if what a checkpoint would hold of these is not finite."""
    moments = (
        (f"{entry} of an optimiser", value)
        for optimiser in optimisers
        for state in optimiser.state.values()
        for entry, value in state.items()
        if isinstance(value, Tensor)
    )
    named = [*weights([network]), *moments]
    if first_bad(named) is not None:
        raise blame(named)
