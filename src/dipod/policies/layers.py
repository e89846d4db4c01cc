"""What the full-size masked diffusion models share: norm, rotation, attention, the way from tokens to hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dipod.policies.tokens import Tokens

INITIAL_STD = 0.02

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions, [B or 1, 1, T, D/heads] each."""


def block_linears(network: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers inside a network's blocks, which are the modules with a number above them, by full name."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [(name, linear) for name, linear in found if any(part.isdigit() for part in name.split(".")[:-1])]


def widen(values: Tensor) -> Tensor:
    """``values`` in float32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class RMSNorm(nn.Module):
    """x / √(mean x² + eps) in float32, cast back, then times the weight (the order matters in bfloat16)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.weight * F.rms_norm(widen(hidden), hidden.shape[-1:], eps=self.eps).to(hidden.dtype)


def rotation(positions: Tensor, size: int, theta: float) -> Rotation:
    """Rotary tables in float32: pair i of a head of ``size`` turns by position · theta^(-2i/size).

    Args:
        positions: [B or 1, T].
        size: of a head; even.
        theta: base of the wavelengths.
    """
    rates = 1.0 / theta ** (torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size)
    angles = positions[:, None, :, None].float() * rates
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, turn: Rotation) -> Tensor:
    """Turn [B, heads, T, D/heads] by position; a pair is element i of one half with element i of the other."""
    first, second = heads.chunk(2, -1)
    return heads * turn[0] + torch.cat([-second, first], -1) * turn[1]


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """[B, T, D] to [B, heads, T, D/heads]."""
    parts: Tensor = projected.unflatten(-1, (heads, -1))
    return parts.transpose(1, 2)


def attention(query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None) -> Tensor:
    """Scaled dot-product attention, heads merged.

    Args:
        query: [B, H, T, D/H].
        key: [B, G, T, D/H]; each of the G is read by H/G neighbouring query heads.
        value: like ``key``.
        attend: [B, 1, 1, T] bool, what may be attended to; None for everything (the fastest kernels take no mask).

    Returns:
        [B, T, D].
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attend).transpose(1, 2).flatten(2)


def pick(hidden: Tensor, at: Tensor) -> Tensor:
    """``hidden`` [B, T, D] at places ``at`` [B or 1, M]: [B, M, D]."""
    return hidden.gather(1, at[..., None].expand(len(hidden), -1, hidden.shape[-1]))


@dataclass(frozen=True)
class Prompts:
    """Prompts as these models keep them: attention runs both ways, so that nothing can be computed beforehand.

    Attributes:
        tokens: [P, S].
        full: nothing is padding; asked of the device once, here, because every question makes it wait.
    """

    tokens: Tokens
    full: bool


@dataclass(frozen=True)
class Sequences:
    """Prompts with their completions behind them.

    Attributes:
        ids: [B, S + T].
        positions: [B or 1, S + T].
        valid: [B, S + T] bool, or None when nothing is padding.
        start: S, where completions begin.
    """

    ids: Tensor
    positions: Tensor
    valid: Tensor | None
    start: int

    @property
    def attend(self) -> Tensor | None:
        """[B, 1, 1, S + T] bool, or None; a row of nothing but padding attends to itself, to stay finite."""
        if self.valid is None:
            return None
        return (self.valid | ~self.valid.any(-1, keepdim=True))[:, None, None]


def lay_out(tokens: Tokens, prompts: Tokens | None, owner: Tensor | None, full: bool) -> Sequences:
    """Put each completion behind its prompt; positions count valid tokens, unless the tokens say where they stand.

    Args:
        tokens: [B, T] completions.
        prompts: [P, S]; None when there are none.
        owner: [B], the prompt of each row.
        full: nothing is padding, neither in ``tokens`` nor in ``prompts``.
    """
    parts = [tokens] if prompts is None or owner is None else [prompts[owner], tokens]
    ids = torch.cat([part.ids for part in parts], 1)
    start = ids.shape[1] - tokens.ids.shape[1]
    if full:
        valid, positions = None, torch.arange(ids.shape[1], device=ids.device)[None]
    else:
        valid = torch.cat([part.valid for part in parts], 1)
        ids, positions = ids.masked_fill(~valid, 0), (valid.cumsum(-1) - 1).clamp_min(0)
    if any(part.positions is not None for part in parts):
        counted = positions.expand(len(ids), -1).split([part.ids.shape[1] for part in parts], 1)
        given = [part.positions for part in parts]
        positions = torch.cat([c if g is None else g for c, g in zip(counted, given, strict=True)], 1)
    return Sequences(ids, positions, valid, start)


class Fullness:
    """Whether a mask is all true.

    The device is asked once for each mask: the last one is remembered, as a sampler gives the same at every step.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, bool] | None = None

    def __call__(self, valid: Tensor) -> bool:
        """The answer for ``valid``, which nobody writes to."""
        if self._last is None or self._last[0] is not valid:
            self._last = (valid, bool(valid.all()))
        return self._last[1]


class BidirectionalModel(nn.Module, ABC):
    """A masked diffusion language model in which every token attends to every other; a `MaskedModel`.

    Attributes:
        gradient_checkpointing: keep only each block's input for the backward pass and compute the block again there.
        name_or_path: where the weights came from; adapters note it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.name_or_path = ""
        self._full = Fullness()

    @abstractmethod
    def embedded(self, ids: Tensor) -> Tensor:
        """[B, T] to [B, T, D]."""

    @abstractmethod
    def turned(self, positions: Tensor) -> Rotation:
        """The rotary tables that every block takes."""

    @abstractmethod
    def stack(self) -> Iterable[nn.Module]:
        """The blocks, each called with hidden states, tables and attention mask."""

    @abstractmethod
    def normed(self, hidden: Tensor) -> Tensor:
        """The last norm."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""

    def read_from(self, places: Tensor, _sequences: Sequences) -> Tensor:
        """The places [B or 1, M] whose hidden states predict the tokens at ``places``."""
        return places

    def encode(self, prompts: Tokens) -> Prompts:
        """Prompts [P, S], padded on the left."""
        return Prompts(prompts, bool(prompts.valid.all()))

    def forward(
        self, tokens: Tokens, at: Tensor | None = None, prompts: Prompts | None = None, owner: Tensor | None = None
    ) -> Tensor:
        """Hidden states from which `head` makes the logits of completion tokens.

        Args:
            tokens: [B, T] completions.
            at: [B, M] int64 places in ``tokens``; all when None.
            prompts: what `encode` returned; None when there are none.
            owner: [B] int64, the prompt of each row.

        Returns:
            [B, M, D] or [B, T, D].
        """
        full = self._full(tokens.valid) and (prompts is None or prompts.full)
        sequences = lay_out(tokens, None if prompts is None else prompts.tokens, owner, full)
        hidden, turn, attend = self.embedded(sequences.ids), self.turned(sequences.positions), sequences.attend
        for block in self.stack():
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, turn, attend, use_reentrant=False)
            else:
                hidden = block(hidden, turn, attend)
        places = torch.arange(tokens.ids.shape[1], device=hidden.device)[None] if at is None else at
        return self.normed(pick(hidden, self.read_from(places + sequences.start, sequences)))


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw matrices from N(0, 0.02²); biases are zero, norms stay one."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() > 1:
            parameter.normal_(0.0, INITIAL_STD, generator=generator)
