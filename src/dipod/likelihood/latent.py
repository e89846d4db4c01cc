"""What a latent-variable policy says of log π: samples of its ELBO, and log π itself by integration over the latent.

π(a|o) = ∫ p(a|z, o) N(z; 0, I) dz, and q(z|a, o) is the encoder's. Shapes: B rows (an observation and an action each),
K latent samples, m latent dimensions. Log-densities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dipod.errors import require

Conditional = Callable[[Tensor], Tensor]
"""``conditional(z [B, K, m]) -> [B, K]``: log p(a|z, o) of B actions and observations that it knows already."""

MAX_GRID_LATENT = 2
"""Up to so many latent dimensions log π is integrated on a grid."""
REACH = 8.0
"""Where the grid ends, in standard deviations: 1e-15 of a Gaussian lies beyond."""
FIRST_CELLS = {1: 512, 2: 64}
"""Cells a dimension that the grid begins with, by the latent's dimension."""
DOUBLINGS = {1: 4, 2: 3}
"""How often it may be refined."""
ONE_GRID = {1: 2048, 2: 128}
"""Cells a dimension of the grid through which log π is differentiated."""
LARGEST_SHARE = 0.5
"""Of an integral, what one node may contribute, a dimension: cells are then at most 1.25 of a Gaussian's standard
deviations wide, and the trapezoid rule errs by less than 1e-5."""
ROWS_PER_PASS = 1 << 16
"""Decoded latents of a pass."""


@dataclass(frozen=True)
class Posterior:
    """q(z|a, o) = N(mean, diag spread²).

    Attributes:
        mean: [B, m].
        log_spread: [B, m].
    """

    mean: Tensor
    log_spread: Tensor

    def place(self, eps: Tensor) -> Tensor:
        """Z = mean + spread·ε of [B, K, m] standard normal numbers, or [1, K, m] for all rows."""
        return self.mean[:, None] + self.log_spread.exp()[:, None] * eps

    def log_prob(self, eps: Tensor) -> Tensor:
        """Log q at `place`, [B, K]."""
        return standard_normal(eps) - self.log_spread.sum(-1, keepdim=True)


def standard_normal(x: Tensor) -> Tensor:
    """Log N(x; 0, I) of [..., m]: [...]."""
    return -0.5 * (x.square().sum(-1) + x.shape[-1] * math.log(2 * math.pi))


@dataclass(frozen=True)
class LatentEvidence:
    """What K latent samples of each action say.

    Attributes:
        log_weights: [B, K] log [p(a|z, o) p(z) / q(z|a, o)] with z from q: the weights' mean is π(a|o), that of their
            logarithms its ELBO.
    """

    log_weights: Tensor

    def elbo(self, per_sample: bool = False) -> Tensor:
        """E_q log [p(a, z|o) / q(z|a, o)] (paper Appendix C), [B], or its K unbiased samples, [B, K]."""
        return self.log_weights if per_sample else self.log_weights.mean(-1)


def latent_evidence(conditional: Conditional, posterior: Posterior, eps: Tensor) -> LatentEvidence:
    """Ask decoder and encoder about actions at their latent samples.

    Args:
        conditional: the decoder of B actions.
        posterior: the encoder's.
        eps: [B, K, m] standard normal, kept by value so that old and new proxies see common random numbers.
    """
    z = posterior.place(eps)
    return LatentEvidence(conditional(z) + standard_normal(z) - posterior.log_prob(eps))


@dataclass(frozen=True)
class LatentDensity:
    """Log π and ELBO by integration; their difference is KL(q(z|a, o) || p(z|a, o)).

    Attributes:
        log_prob: [B] nats.
        elbo: [B] nats.
        valid: [B] bool: twice as fine a grid changes neither by more than the tolerance, and no node alone makes log π.
    """

    log_prob: Tensor
    elbo: Tensor
    valid: Tensor

    @property
    def gap(self) -> Tensor:
        """[B] nats, not negative beyond the tolerance."""
        return self.log_prob - self.elbo


@torch.no_grad()
def latent_density(conditional: Conditional, posterior: Posterior, tolerance: float = 1e-3) -> LatentDensity:
    """Log π, over the prior's support, and the ELBO, over the encoder's, by the trapezoid rule on ever finer grids.

    Args:
        conditional: the decoder of B actions; give it in float64.
        posterior: the encoder's, [B, m] in float64.
        tolerance: how much a grid twice as fine may change either: nats, or its share where it is more than a nat.

    Raises:
        UserError: more latent dimensions than a grid can fill.
    """
    rows, m = posterior.mean.shape
    require(m <= MAX_GRID_LATENT, "latent", m, f"a grid fills {MAX_GRID_LATENT} dimensions at most")

    def joint(x: Tensor) -> Tensor:
        terms = conditional(x.expand(rows, -1, -1)) + standard_normal(x)
        return torch.stack([terms.logsumexp(-1), terms.amax(-1)])

    def both(one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([torch.logaddexp(one[0], other[0]), torch.maximum(one[1], other[1])])

    def log_integral(total: Tensor, cell: float) -> tuple[Tensor, Tensor]:
        return total[0] + math.log(cell), total[1] - total[0] <= m * math.log(LARGEST_SHARE)

    def weighted(x: Tensor) -> Tensor:
        return (latent_evidence(conditional, posterior, x).log_weights * standard_normal(x).exp()).sum(-1)

    def integral(total: Tensor, cell: float) -> tuple[Tensor, Tensor]:
        return total * cell, torch.ones_like(total, dtype=torch.bool)

    settle = partial(_settle, like=posterior.mean, tolerance=tolerance)
    log_prob, one = settle(joint, both, log_integral)
    elbo, two = settle(weighted, torch.add, integral)
    return LatentDensity(log_prob, elbo, one & two)


def latent_log_prob(conditional: Conditional, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Log π as `latent_density` has it, on one grid and differentiable, [B], and where its nodes are near enough, [B].

    Args:
        conditional: the decoder of B actions.
        posterior: the encoder's, for sizes, dtype and device only.
    """
    rows, m = posterior.mean.shape
    cells = ONE_GRID[m]
    terms = []
    for nodes in _nodes(cells, posterior.mean).split(max(1, ROWS_PER_PASS // max(rows, 1))):
        terms.append(conditional(nodes.expand(rows, -1, -1)) + standard_normal(nodes))
    whole = torch.cat(terms, -1)
    total = whole.logsumexp(-1)
    near = whole.detach().amax(-1) - total.detach() <= m * math.log(LARGEST_SHARE)
    return total + m * math.log(2 * REACH / cells), near


def _settle(
    part: Callable[[Tensor], Tensor],
    merge: Callable[[Tensor, Tensor], Tensor],
    finish: Callable[[Tensor, float], tuple[Tensor, Tensor]],
    like: Tensor,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """An integral on grids that are doubled until it changes no more, [B], and where it does not, [B] bool.

    Args:
        part: what nodes [1, K, m] contribute, [..., B].
        merge: of two contributions.
        finish: from the contributions of all nodes and a cell's volume to the integral, [B], and whether the nodes are
            near enough to each other, [B] bool.
        like: [B, m], for sizes, dtype and device.
        tolerance: see `latent_density`.
    """
    rows, m = like.shape
    total: Tensor | None = None
    before: Tensor | None = None
    settled = torch.zeros(rows, dtype=torch.bool, device=like.device)
    for nodes, cell in _grids(m, like):
        for some in nodes.split(max(1, ROWS_PER_PASS // max(rows, 1))):
            more = part(some[None])
            total = more if total is None else merge(total, more)
        assert total is not None
        value, near = finish(total, cell)
        if before is not None:
            settled = near & ((value - before).abs() <= tolerance * value.abs().clamp_min(1))
            if bool(settled.all()):
                break
        before = value
    return value, settled


def _grids(m: int, like: Tensor) -> Iterator[tuple[Tensor, float]]:
    """The nodes [K, m] that each grid has beyond the one before, and the volume of its cells."""
    for doubling in range(DOUBLINGS[m] + 1):
        cells = FIRST_CELLS[m] << doubling
        yield _nodes(cells, like, only_new=doubling > 0), (2 * REACH / cells) ** m


def _nodes(cells: int, like: Tensor, only_new: bool = False) -> Tensor:
    """The nodes of a grid of so many cells a dimension, [K, m], or only those that a grid of half as many has not."""
    m = like.shape[1]
    index = torch.cartesian_prod(*[torch.arange(cells + 1, device=like.device)] * m).view(-1, m)
    if only_new:
        index = index[(index % 2 == 1).any(-1)]
    return index.to(like.dtype) * (2 * REACH / cells) - REACH
