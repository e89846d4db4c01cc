"""Normalisation of observations by their running mean and standard deviation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 0.01
"""Added to the standard deviation: a constant observation stays small."""


class Normaliser(nn.Module):
    """(x - mean) / (std + 0.01) over all observations that `update` has seen.

    It moves only when told to, between rollouts: a policy that normalised otherwise when its rollouts were drawn would
    see old and new proxies differ before any update.

    Attributes:
        mean: [o].
        variance: [o], of the population.
        count: observations seen.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """[..., o] to [..., o]."""
        mean, spread = self.mean.to(x.dtype), self.variance.sqrt().to(x.dtype)
        return (x - mean) / (spread + EPSILON)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in observations [..., o] (Chan's parallel rule, in float64)."""
        rows = x.reshape(-1, x.shape[-1]).double()
        self.merge(rows.mean(0), rows.var(0, unbiased=False), torch.tensor(float(len(rows)), device=x.device))

    @torch.no_grad()
    def merge(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Take in ``count`` observations of this mean and population variance."""
        total = self.count + count
        delta, share = mean - self.mean, count / total
        self.variance.copy_((1 - share) * self.variance + share * variance + delta.square() * share * (1 - share))
        self.mean.add_(delta * share)
        self.count.copy_(total)
