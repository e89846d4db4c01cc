"""Padded token sequences: ids with the mask of what is real, and where each token stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences.

    Attributes:
        ids: [B, T] int64.
        valid: [B, T] bool, false at padding (whose ids mean nothing).
        positions: [B, T] int64, for sequences that are not a line (the cells of a board); None counts the valid
            tokens from the first.
    """

    ids: Tensor
    valid: Tensor
    positions: Tensor | None = None

    @classmethod
    def full(cls, ids: Tensor) -> Tokens:
        """Sequences without padding, in a line."""
        return cls(ids, torch.ones_like(ids, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor | slice) -> Tokens:
        return Tokens(self.ids[rows], self.valid[rows], None if self.positions is None else self.positions[rows])

    def with_ids(self, ids: Tensor) -> Tokens:
        """The same places with other tokens."""
        return Tokens(ids, self.valid, self.positions)

    def to(self, device: torch.device | str) -> Tokens:
        """The same on another device."""
        positions = None if self.positions is None else self.positions.to(device)
        return Tokens(self.ids.to(device), self.valid.to(device), positions)
