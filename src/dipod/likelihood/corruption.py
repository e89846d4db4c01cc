"""Corruption processes: which tokens of an action are hidden, and with what weight a sample counts.

A process is ``process(counted, samples, noise, step) -> (masked [B, K, L], weights [B, K])``; `draw` adds the hidden
prompt tokens. ``counted`` [B, L] bool says which tokens belong to the action (n of them in a row). Uniform numbers come
from a `Noise` with one stream a row, so a row's samples do not depend on the batch around it.

A process *bounds* when the mean over K of weight x Σ log p(masked tokens) has the ELBO as its expectation (`bounds`);
the others are what published estimators use in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dipod.errors import require
from dipod.likelihood.evidence import Corruption
from dipod.noise import Noise

Scheme = Literal[
    "own",
    "independent",
    "antithetic",
    "stratified",
    "complement",
    "quadrature",
    "released-fpo",
    "all-masked",
    "block-all",
    "block-random",
    "coupled",
    "structured",
]


@dataclass(frozen=True)
class InnerStep:
    """Which gradient step on the same rollouts a corruption is for: ``index`` of ``count``."""

    index: int = 0
    count: int = 1


UNIFORM_COUNT = ("independent", "antithetic", "stratified", "complement")
"""Processes whose masks are uniform in their number: they bound log π at any length and number of samples."""

Process = Callable[[Tensor, int, Noise, InnerStep], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CorruptionConfig:
    """How corruption samples are drawn.

    Attributes:
        scheme: the process: "independent", "antithetic", "stratified" and "complement" (ESPO) bound log π,
            "quadrature" (GDPO) up to 2K tokens, "block-random" (SPG) within one block; "released-fpo", "all-masked"
            (d1, wd1), "block-all", "coupled" and "structured" (UniGRPO) do not; "own" is the algorithm's own. The
            masks that make a row (d1, wd1, coupled, UniGRPO) stay when this one bounds log π: it then serves the ELBO
            of DiPOD's term alone.
        samples: K masks per rollout; 0 takes the algorithm's own number.
        prompt_share: each prompt token is hidden with this probability, in block processes also each earlier token.
        block_length: tokens per block of the block processes.
        fresh: draw new masks for every gradient step on the same rollouts; otherwise the first ones are kept.
        elbo: masks of DiPOD's term: "bound" draws others beside the estimator's where these do not bound log π;
            "estimator" takes the estimator's whatever they are, as the published code does.
    """

    scheme: Scheme = "own"
    samples: int = 0
    prompt_share: float = 0.0
    block_length: int = 32
    fresh: bool = False
    elbo: Literal["bound", "estimator"] = "bound"

    def __post_init__(self) -> None:
        known = get_args(Scheme)
        require(self.scheme in known, "corruption.scheme", self.scheme, f"choose one of {', '.join(known)}")
        require(self.samples >= 0, "corruption.samples", self.samples, "give a number of masks, or 0 for the usual one")
        share = self.prompt_share
        require(0 <= share < 1, "corruption.prompt_share", share, "give a probability from 0 to below 1")
        require(self.block_length >= 1, "corruption.block_length", self.block_length, "give at least 1 token a block")
        if self.scheme != "own" and self.samples:
            check_samples(self.scheme, self.samples)


def draw(
    config: CorruptionConfig, counted: Tensor, prompt: Tensor | None, noise: Noise, step: InnerStep | None = None
) -> Corruption:
    """Corruption samples of every row.

    Args:
        config: with a scheme and a number of samples (not "own", not 0).
        counted: [B, L] bool, the tokens of each action (at least one in every row).
        prompt: [B, P] bool, the real tokens of each prompt; None leaves prompts alone.
        noise: one stream for each row.
        step: which of how many gradient steps on the same rollouts; matters to "structured" alone.

    Raises:
        UserError: an unknown scheme, a number of samples that it cannot have, or a row without tokens.
    """
    require(config.scheme != "own", "corruption.scheme", config.scheme, "name the process")
    check_samples(config.scheme, config.samples)
    require(bool((counted.sum(-1) > 0).all()), "action", "a row without tokens", "drop rows whose completion is empty")
    process = processes(config)[config.scheme]
    masked, weights = process(counted, config.samples, noise, step or InnerStep())
    tokens = counted.sum(-1)
    if prompt is None or config.prompt_share == 0:
        return Corruption(masked, weights, tokens=tokens)
    hidden = noise.uniform_at(prompt, config.samples) < config.prompt_share
    return Corruption(masked, weights, hidden & prompt[:, None], tokens)


def bounds(config: CorruptionConfig, length: int) -> bool:
    """Whether this process bounds log π of every action of at most ``length`` tokens, at every gradient step.

    It does when the expected weight of every set m of n tokens is the ELBO's, 1/(|m|·C(n,|m|)), and the model sees the
    whole prompt: with hidden prompt tokens the evidence is that of another observation.
    """
    if config.prompt_share > 0:
        return False
    if config.scheme == "quadrature":
        return length <= 2 * config.samples
    if config.scheme == "block-random":
        return length <= config.block_length
    return config.scheme in UNIFORM_COUNT


def check_samples(scheme: str, samples: int) -> None:
    """See that a process can have K samples."""
    require(samples >= 1, "corruption.samples", samples, "give at least one corruption sample (K >= 1)")
    if scheme in ("antithetic", "complement"):
        require(samples % 2 == 0, "corruption.samples", samples, f"{scheme} pairs need an even number")
    if scheme == "coupled":
        require(samples % 3 == 0, "corruption.samples", samples, "coupled samples come in threes")


def processes(config: CorruptionConfig) -> dict[str, Process]:
    """Every process by the name of its scheme."""
    block, share = config.block_length, config.prompt_share
    return {
        "independent": uniform_count,
        "antithetic": antithetic,
        "stratified": partial(uniform_count, stratified=True),
        "complement": complement,
        "quadrature": quadrature,
        "released-fpo": released_fpo,
        "all-masked": all_masked,
        "block-all": partial(blocks, block_length=block, context_share=share, partial_block=False),
        "block-random": partial(blocks, block_length=block, context_share=share, partial_block=True),
        "coupled": coupled,
        "structured": structured,
    }


def _ranks(counted: Tensor, draws: int, noise: Noise) -> Tensor:
    """A uniformly random order of the counted tokens for each draw, [B, K, L]; the others come last."""
    numbers = noise.uniform_at(counted, draws)
    return numbers.masked_fill(~counted[:, None], torch.inf).argsort(-1).argsort(-1)


def _lengths(counted: Tensor) -> Tensor:
    return counted.sum(-1, keepdim=True)


def uniform_count(
    counted: Tensor, samples: int, noise: Noise, step: InnerStep, stratified: bool = False
) -> tuple[Tensor, Tensor]:
    """The unbiased Monte-Carlo ELBO (paper eq. 10): k uniform on 1..n, a uniform subset of k tokens, weight n/k.

    ``stratified`` draws the K values of k from equal strata of 1..n.
    """
    del step
    n = _lengths(counted)
    u = noise.uniform(samples, device=counted.device)
    if stratified:
        u = (u + torch.arange(samples, device=u.device)) / samples
    k = (u * n).floor().long().clamp_max(n - 1) + 1
    return _ranks(counted, samples, noise) < k[..., None], n / k


def antithetic(counted: Tensor, samples: int, noise: Noise, step: InnerStep) -> tuple[Tensor, Tensor]:
    """Pairs (k, n+1-k): the second mask is the complement of the first plus one token of it, unbiased each.

    A pair masks every token at least once.
    """
    del step
    n = _lengths(counted)
    u = noise.uniform(samples // 2, device=counted.device)
    k = (u * n).floor().long().clamp_max(n - 1) + 1
    rank = _ranks(counted, samples // 2, noise)
    pair = [rank < k[..., None], (rank >= k[..., None] - 1) & counted[:, None]]
    masked = torch.stack(pair, 2).flatten(1, 2)
    return masked, n / torch.stack([k, n + 1 - k], 2).flatten(1, 2)


def complement(counted: Tensor, samples: int, noise: Noise, step: InnerStep) -> tuple[Tensor, Tensor]:
    """ESPO's pairs: k uniform on 0..n and the exact complement, weights (n+1)/k and (n+1)/(n-k), unbiased.

    An empty mask says nothing and weighs nothing.
    """
    del step
    n = _lengths(counted)
    u = noise.uniform(samples // 2, device=counted.device)
    k = (u * (n + 1)).floor().long().clamp_max(n)
    first = _ranks(counted, samples // 2, noise) < k[..., None]
    masked = torch.stack([first, ~first & counted[:, None]], 2).flatten(1, 2)
    size = torch.stack([k, n - k], 2).flatten(1, 2)
    return masked, torch.where(size > 0, (n + 1) / size.clamp_min(1), 0.0)


def quadrature(counted: Tensor, samples: int, noise: Noise, step: InnerStep) -> tuple[Tensor, Tensor]:
    """GDPO's ELBO = ∫ (1/t) E[Σ log p] dt: K Gauss-Legendre nodes on (0, 1), each token hidden with probability t.

    The integrand is a polynomial in t of degree n - 1, so the expectation over masks is the exact ELBO for n ≤ 2K
    tokens; beyond that the quadrature's own error is left, on either side. Weight K·w/t.
    """
    del step
    nodes, weights = np.polynomial.legendre.leggauss(samples)
    t = torch.tensor((nodes + 1) / 2, dtype=torch.float32, device=counted.device)
    w = torch.tensor(weights / 2, dtype=torch.float32, device=counted.device)
    numbers = noise.uniform_at(counted, samples)
    masked = (numbers < t[:, None]) & counted[:, None]
    return masked, (samples * w / t).expand(len(counted), -1)


def released_fpo(counted: Tensor, samples: int, noise: Noise, step: InnerStep) -> tuple[Tensor, Tensor]:
    """The released FPO's rule: k = ⌊u·n⌋ in 0..n-1, weight n/max(k, 1).

    Biased: an empty mask is drawn once in n times and counts as zero nats, and all tokens are never masked together.
    """
    del step
    n = _lengths(counted)
    k = (noise.uniform(samples, device=counted.device) * n).floor().long().clamp_max(n - 1)
    return _ranks(counted, samples, noise) < k[..., None], n / k.clamp_min(1)


def all_masked(counted: Tensor, samples: int, noise: Noise, step: InnerStep) -> tuple[Tensor, Tensor]:
    """d1's one-step mean field: every token is hidden and each is predicted on its own, weight 1."""
    del noise, step
    masked = counted[:, None].expand(-1, samples, -1)
    return masked, torch.ones(masked.shape[:2], device=counted.device)


def blocks(
    counted: Tensor,
    samples: int,
    noise: Noise,
    step: InnerStep,
    block_length: int,
    context_share: float,
    partial_block: bool,
) -> tuple[Tensor, Tensor]:
    """SPG's blockwise masks: a block j is drawn, what follows it is hidden, and of the block all or a random part.

    Blocks are drawn without repetition until every block that holds counted tokens had its turn. Earlier tokens are
    hidden with probability ``context_share``. Weight n over the number hidden: an estimate per token times n. With
    several blocks later tokens weigh more than earlier ones (1.583 and .417 for 1 in two blocks of two), so only one
    block, partly hidden, bounds log π.
    """
    del step
    n, length = _lengths(counted), counted.shape[1]
    block = torch.arange(length, device=counted.device) // block_length
    used = (counted[:, None] & (block == torch.arange(int(block.max()) + 1, device=block.device)[:, None])).any(-1)
    order = noise.uniform_at(used, 1)[:, 0].masked_fill(~used, torch.inf).argsort(-1)
    turn = torch.arange(samples, device=counted.device) % used.sum(-1, keepdim=True)
    chosen = order.gather(1, turn)[..., None]
    inside = (block == chosen) & counted[:, None]
    if partial_block:
        size = inside.sum(-1)
        k = (noise.uniform(samples, device=counted.device) * size).floor().long().clamp_max(size - 1) + 1
        numbers = noise.uniform_at(counted, samples)
        inside = numbers.masked_fill(~inside, torch.inf).argsort(-1).argsort(-1) < k[..., None]
    masked = inside | ((block > chosen) & counted[:, None])
    if context_share > 0:
        perturbed = noise.uniform_at(counted, samples) < context_share
        masked = masked | (perturbed & (block < chosen) & counted[:, None])
    return masked, n / masked.sum(-1)


def coupled(counted: Tensor, samples: int, noise: Noise, step: InnerStep) -> tuple[Tensor, Tensor]:
    """coupled-GRPO's threes: everything hidden; each token with probability q ~ U(0.2, 0.8); the rest of them.

    Weights 3/2, 3/(2q) and 3/(2(1-q)): the mean over K of weight x log p is half the one-step log-probability of each
    token and half its re-weighted partly masked one.
    """
    del step
    threes = samples // 3
    q = 0.2 + 0.6 * noise.uniform(threes, device=counted.device)
    hidden = noise.uniform_at(counted, threes) < q[..., None]
    every = counted[:, None].expand(-1, threes, -1)
    masked = torch.stack([every, every & hidden, every & ~hidden], 2).flatten(1, 2)
    weights = torch.stack([torch.ones_like(q), 1 / q, 1 / (1 - q)], 2).flatten(1, 2)
    return masked, 1.5 * weights


def structured(counted: Tensor, samples: int, noise: Noise, step: InnerStep) -> tuple[Tensor, Tensor]:
    """UniGRPO's structured noise: a uniform mask ratio at the first gradient step, then evenly on from it to 1.

    At step i of μ the ratio is r + (1 - r)·i/(μ - 1), r uniform: the later steps see more and more hidden. Weight n/k.
    ``noise`` must give the same numbers at every step, apart from which tokens are hidden: r is its first draw.
    """
    n = _lengths(counted)
    first = noise.uniform(samples, device=counted.device)
    ratio = first + (1 - first) * step.index / max(step.count - 1, 1)
    ranks = [_ranks(counted, samples, noise) for _ in range(step.index + 1)][-1]
    k = (ratio * n).floor().long().clamp_max(n - 1) + 1
    return ranks < k[..., None], n / k
