"""What becomes of a policy's action before an environment receives it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ActionUnits:
    """An environment receives clip(offset + factor · action, low, high), dimension by dimension.

    Attributes:
        offset: what a policy's 0 is, in the environment's units, [d] float64.
        factor: what a step of 1 is, [d] float64.
        low: least value that is received, −∞ where nothing is clipped, [d] float64.
        high: greatest, likewise.
    """

    offset: Tensor
    factor: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def plain(cls, size: int, limit: float = math.inf) -> ActionUnits:
        """Actions as they are, clipped at ± ``limit``."""
        ones = torch.ones(size, dtype=torch.float64)
        return cls(torch.zeros_like(ones), ones, -limit * ones, limit * ones)

    @classmethod
    def spread(cls, low: Tensor, high: Tensor) -> ActionUnits:
        """From −1 to 1 over [low, high] where both ends are finite, as they are elsewhere; clipped at either end."""
        low, high = low.double(), high.double()
        bounded = low.isfinite() & high.isfinite()
        offset = torch.where(bounded, low / 2 + high / 2, 0.0)
        factor = torch.where(bounded, high / 2 - low / 2, 1.0)
        return cls(offset, factor, low, high)

    @classmethod
    def of(cls, environment: Any) -> ActionUnits:
        """Those of an environment; actions as they are where it does not say (``action_units``)."""
        said = getattr(environment, "action_units", None)
        return said if isinstance(said, cls) else cls.plain(environment.action_size)

    def __call__(self, action: Tensor) -> Tensor:
        """What is received for actions [..., d], float64."""
        return (self.offset + self.factor * action.double()).clamp(self.low, self.high)

    def state(self) -> dict[str, list[float | None]]:
        """As JSON; None is no bound."""
        found = {name: getattr(self, name).tolist() for name in ("offset", "factor", "low", "high")}
        return {name: [value if math.isfinite(value) else None for value in row] for name, row in found.items()}

    @classmethod
    def from_state(cls, state: dict[str, list[float | None]]) -> ActionUnits:
        """What `state` wrote.

        Raises:
            KeyError: or TypeError, ValueError: it is none.
        """
        ends = {"low": -math.inf, "high": math.inf}
        rows = {
            name: [ends.get(name, math.nan) if value is None else value for value in state[name]]
            for name in ("offset", "factor", "low", "high")
        }
        return cls(**{name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()})
