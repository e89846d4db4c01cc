"""An entropy bonus from nearest neighbours, for policies that have no closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dipod.errors import require

SMALLEST, LARGEST = 1e-6, 1e9


def nearest_neighbour_entropy(samples: Tensor, k: int = 1) -> Tensor:
    """Kozachenko and Leonenko's estimate ψ(S) - ψ(k) + log c_d + (d/S) Σ_i log ρ_k(i), [B] nats.

    ρ_k(i) is sample i's distance to its k-th neighbour, c_d the unit ball's volume. FPO++ takes the one-step
    predictions of S noise levels for samples: a bonus, not the policy's entropy.

    Args:
        samples: [B, S, d], differentiable.
        k: which neighbour, below S.

    Raises:
        UserError: too few samples.
    """
    _, count, d = samples.shape
    require(1 <= k < count, "objective.entropy_neighbour", k, f"give a whole number from 1 to below {count} samples")
    apart = samples[:, :, None] - samples[:, None]
    squared = apart.square().sum(-1) + torch.eye(count, device=samples.device) * LARGEST**2
    distance = squared.kthvalue(k, dim=-1).values.clamp(SMALLEST**2, LARGEST**2).sqrt()
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = torch.digamma(torch.tensor([float(count), float(k)], dtype=torch.float64))
    return float(digamma[0] - digamma[1]) + ball + d * distance.log().mean(-1)
