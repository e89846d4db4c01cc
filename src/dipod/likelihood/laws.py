"""What corruption processes do on average: their masks enumerated, for completions that are short enough.

An estimator draws K masks and trains on what they say. Its expected gradient is a sum over everything that the process
may draw. Two sums are enough for the published rows: over single masks, for a proxy that adds up over samples
(`expected_weights`), and over sets of K masks, for one that does not (`tuples`).

A set of masked tokens is an integer whose bit i says that token i of the action is masked, as in
`dipod.likelihood.exact`; 0 is the empty mask, which says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.exact import all_masks

BLOCKS = ("block-all", "block-random")
"""Processes whose masks follow from one order of the blocks, each of which has its turn."""

MOST_TUPLES = 2**19
"""Sets of K masks beyond this number are not enumerated: about half a second of one core."""


@dataclass(frozen=True)
class Units:
    """Everything that one independent draw of a process may give: s masks that come together (1, or a pair).

    Attributes:
        sets: [U, s] int64.
        weights: [U, s] float64, what each mask's log-probabilities are multiplied by.
        probability: [U] float64, which sum to 1.
    """

    sets: Tensor
    weights: Tensor
    probability: Tensor


@dataclass(frozen=True)
class Tuples:
    """Some of the sets of K masks that a process may draw: [T, K] sets and weights, [T] probability."""

    sets: Tensor
    weights: Tensor
    probability: Tensor


def expected_weights(config: CorruptionConfig, counted: Tensor) -> Tensor:
    """W(m) = E[mean_k w_k 1{mask k is m}] over all sets m of the n counted tokens, [2^n - 1] float64.

    A proxy that adds up over samples has the expectation Σ_m W(m) Σ_{i∈m} log p(x_i | x_{not m}). It is the ELBO where
    W is that of uniform counts, 1/(|m|·C(n,|m|)). Prompt tokens are taken to be visible.

    Args:
        config: with a scheme and a number of samples.
        counted: [L] bool, the tokens of one action; block processes need to know where they stand.
    """
    n = int(counted.sum())
    size = all_masks(n).sum(-1).double()
    if config.scheme == "quadrature":
        nodes, weights = _legendre(config.samples, 0.0, 1.0)
        return (weights * nodes ** (size[:, None] - 1) * (1 - nodes) ** (n - size[:, None])).sum(-1)
    if config.scheme == "coupled":  # half of everything hidden; a part and the rest have the same law
        nodes, weights = _legendre(n, 0.2, 0.8)
        part = (weights * nodes ** (size[:, None] - 1) * (1 - nodes) ** (n - size[:, None])).sum(-1) / 0.6
        return part + 0.5 * (size == n)
    if config.scheme == "stratified":  # each stratum differs, their mean does not
        return _uniform_counts(n)[1:] * n / size
    one = replace(config, samples=1) if config.scheme in BLOCKS else config  # each of the K has the law of one
    units = units_of(one, counted)
    if units is None:
        raise UserError("corruption.scheme", config.scheme, "no law of this process is known")
    total = torch.zeros(2**n, dtype=torch.float64)
    share = units.probability[:, None] * units.weights / units.sets.shape[1]
    total.index_add_(0, units.sets.flatten(), share.flatten())
    return total[1:]


def units_of(config: CorruptionConfig, counted: Tensor) -> Units | None:
    """What one independent draw may give; None for processes whose K masks all depend on each other."""
    n = int(counted.sum())
    sets = torch.arange(2**n)
    size = ((sets[:, None] >> torch.arange(n)) & 1).sum(-1)
    everything = 2**n - 1
    if config.scheme in ("independent", "structured"):
        return Units(sets[1:, None], (n / size[1:, None]).double(), _uniform_counts(n)[1:])
    if config.scheme == "released-fpo":
        some = sets[:-1]
        chance = torch.tensor([1 / (n * math.comb(n, s)) for s in range(n)], dtype=torch.float64)
        return Units(some[:, None], (n / size[:-1, None].clamp_min(1)).double(), chance[size[:-1]])
    if config.scheme == "all-masked":
        one = torch.ones(1, dtype=torch.float64)
        return Units(torch.tensor([[everything]]), one[:, None], one)
    if config.scheme in ("complement", "antithetic"):
        return _pairs(config.scheme, n)
    if config.scheme in BLOCKS:
        several = len((counted.nonzero()[:, 0] // config.block_length).unique()) > 1
        return None if several and config.samples > 1 else _block_units(config, counted)
    return None


def _pairs(scheme: str, n: int) -> Units:
    """Two masks that come together: complements, or of the second one token is in the first as well."""
    sets, everything = torch.arange(2**n), 2**n - 1
    size = ((sets[:, None] >> torch.arange(n)) & 1).sum(-1)
    if scheme == "complement":
        pair = torch.stack([sets, everything - sets], -1)
        many = torch.stack([size, n - size], -1)
        weights = torch.where(many > 0, (n + 1) / many.clamp_min(1), 0.0).double()
        chance = torch.tensor([1 / ((n + 1) * math.comb(n, s)) for s in range(n + 1)], dtype=torch.float64)
        return Units(pair, weights, chance[size])
    first, pivot = ((sets[:, None] >> torch.arange(n)) & 1).nonzero().unbind(-1)
    pair = torch.stack([first, everything - first + (1 << pivot)], -1)
    many = torch.stack([size[first], n + 1 - size[first]], -1)
    return Units(pair, (n / many).double(), _uniform_counts(n)[first] / size[first])


def _block_units(config: CorruptionConfig, counted: Tensor) -> Units:
    """One mask of a block process."""
    n = int(counted.sum())
    place = counted.nonzero()[:, 0] // config.block_length
    used = place.unique().tolist()
    bits = ((torch.arange(1, 2**n)[:, None] >> torch.arange(n)) & 1).bool()
    chance = torch.zeros(2**n - 1, dtype=torch.float64)
    for block in used:
        inside, later = place == block, place > block
        fits = bits[:, later].all(-1) & ~bits[:, place < block].any(-1)
        size, hidden = int(inside.sum()), bits[:, inside].sum(-1)
        if config.scheme == "block-all":
            chance += (fits & (hidden == size)).double() / len(used)
        else:
            one = torch.tensor([0.0] + [1 / (size * math.comb(size, s)) for s in range(1, size + 1)])
            chance += fits * one.double()[hidden] / len(used)
    kept = chance.nonzero()[:, 0]
    return Units(kept[:, None] + 1, (n / bits[kept].sum(-1, keepdim=True)).double(), chance[kept])


def tuples(config: CorruptionConfig, counted: Tensor, at_a_time: int = 2**15) -> Iterator[Tuples] | None:
    """Every set of K masks that a process may draw, some at a time; None where there are more than `MOST_TUPLES`.

    Order does not matter to a mean over samples: sets that differ in it come once, with their probabilities added.

    Args:
        config: with a scheme and a number of samples.
        counted: [L] bool, the tokens of one action.
        at_a_time: sets in one of the parts.
    """
    units = units_of(config, counted)
    if units is None:
        return None
    together = config.samples // units.sets.shape[1]
    if math.comb(len(units.sets) + together - 1, together) > MOST_TUPLES:
        return None
    return _parts(units, together, at_a_time)


def _parts(units: Units, together: int, at_a_time: int) -> Iterator[Tuples]:
    count = len(units.sets)
    if together <= 2:  # the usual numbers, without a loop over tuples
        indices = torch.combinations(torch.arange(count), together, with_replacement=True).reshape(-1, together)
    else:
        indices = torch.tensor(list(combinations_with_replacement(range(count), together)))
    for part in indices.split(at_a_time):
        times = torch.full((len(part),), float(math.factorial(together)), dtype=torch.float64)
        repeated = torch.ones(len(part), dtype=torch.float64)
        run = torch.ones(len(part), dtype=torch.float64)
        for j in range(1, together):  # divided by r! for every unit that is there r times
            run = torch.where(part[:, j] == part[:, j - 1], run + 1, 1.0)
            repeated = repeated * run
        probability = units.probability[part].prod(-1) * times / repeated
        yield Tuples(units.sets[part].flatten(1), units.weights[part].flatten(1), probability)


def _uniform_counts(n: int) -> Tensor:
    """P(m) for a count uniform on 1..n and a uniform subset of that size, [2^n] float64 by set."""
    chance = torch.tensor([0.0] + [1 / (n * math.comb(n, s)) for s in range(1, n + 1)], dtype=torch.float64)
    size = torch.cat([torch.zeros(1, dtype=torch.long), all_masks(n).sum(-1)])
    return chance[size]


def _legendre(count: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on an interval, float64."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    middle, half = (low + high) / 2, (high - low) / 2
    return torch.from_numpy(middle + half * nodes), torch.from_numpy(half * weights)
