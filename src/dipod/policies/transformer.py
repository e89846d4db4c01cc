"""A small bidirectional transformer: the masked diffusion language model of the tests and the Sudoku recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dipod.errors import UserError, require
from dipod.files import write_json
from dipod.policies.tokens import Tokens

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
EMBEDDING_STD, HEAD_STD = 0.5, 0.02

T = TypeVar("T")


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a `MaskedTransformer`.

    Attributes:
        vocab_size: number of token ids, the mask token among them.
        axes: sizes of the position's axes. One axis, the longest sequence, for text; several for positions on a
            board, numbered in reading order: (4, 4) gives each of 16 cells the sum of a row's and a column's embedding.
        width: hidden size, a multiple of ``heads``.
        layers: number of blocks.
        heads: attention heads.
    """

    vocab_size: int
    axes: tuple[int, ...]
    width: int = 64
    layers: int = 3
    heads: int = 4

    @classmethod
    def read(cls, settings: Mapping[str, Any], folder: Path) -> TransformerConfig:
        """What the ``config.json`` of ``folder`` says.

        Raises:
            UserError: fields missing or unknown, or sizes that are refused.
        """
        try:
            return cls(**{**settings, "axes": tuple(settings["axes"])})
        except (KeyError, TypeError) as error:
            raise UserError("model", str(folder / CONFIG_FILE), f"not one of a small model ({error})") from error

    def __post_init__(self) -> None:
        sizes = {"vocab_size": self.vocab_size, "width": self.width, "layers": self.layers, "heads": self.heads}
        for field, value in [*sizes.items(), *(("axes", size) for size in self.axes)]:
            require(isinstance(value, int) and value >= 1, f"model.{field}", value, "give a whole number of at least 1")
        require(self.width % self.heads == 0, "model.width", self.width, f"give a multiple of heads ({self.heads})")


Memory = tuple[Tensor, Tensor]
"""Keys and values of some tokens in one block."""


@dataclass(frozen=True)
class EncodedPrompts:
    """What a `MaskedTransformer` keeps of P prompts.

    Attributes:
        memories: one for each block, [P, heads, S, D/heads].
        valid: [P, S] bool.
    """

    memories: tuple[Memory, ...]
    valid: Tensor


class Block(nn.Module):
    """Pre-norm attention and SiLU feed-forward, both residual, without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(
        self, hidden: Tensor, attend: Tensor | None, at: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """One block.

        Args:
            hidden: [B, T, D].
            attend: [B, 1, 1, S + T] bool, what may be attended to; None for everything.
            at: [B, M] the places whose result is wanted; all when None.
            memory: keys and values of S earlier tokens, [B, heads, S, D/heads] each.

        Returns:
            [B, T, D] or [B, M, D].
        """
        normed = self.attention_norm(hidden)
        key, value = self._key_value(normed)
        if memory is not None:
            key, value = torch.cat([memory[0], key], 2), torch.cat([memory[1], value], 2)
        query = self._heads(self.query(normed if at is None else _pick(normed, at)))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        hidden = hidden if at is None else _pick(hidden, at)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        grown: Tensor = hidden + self.down(F.silu(self.up(self.feed_forward_norm(hidden))))
        return grown

    def remember(self, hidden: Tensor) -> Memory:
        """Keys and values of tokens: [B, T, D] to two of [B, heads, T, D/heads]."""
        return self._key_value(self.attention_norm(hidden))

    def _key_value(self, normed: Tensor) -> Memory:
        key, value = self.key_value(normed).chunk(2, dim=-1)
        return self._heads(key), self._heads(value)

    def _heads(self, projected: Tensor) -> Tensor:
        """[B, T, D] to [B, heads, T, D/heads]."""
        heads: Tensor = projected.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


def _attend(valid: Tensor) -> Tensor | None:
    """[B, S] bool as an attention mask, [B, 1, 1, S]; None when nothing is padding, which is faster."""
    return None if bool(valid.all()) else valid[:, None, None, :]


def _pick(hidden: Tensor, at: Tensor) -> Tensor:
    """Rows of ``hidden`` [B, T, D] at positions ``at`` [B, M]: [B, M, D]."""
    return hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))


class MaskedTransformer(nn.Module):
    """Transformer with bidirectional attention, learned positions and RMSNorm; padding is never attended to.

    A prompt's tokens attend to the prompt, a completion's to the prompt and to the whole completion. So a prompt is
    encoded once, exactly, for all rollouts, corruption samples and decoding steps that share it. Positions count valid
    tokens only: padding on either side changes no logit of a valid token.

    Attributes:
        gradient_checkpointing: keep only each block's input for the backward pass and compute the block again there.
    """

    def __init__(self, config: TransformerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.ModuleList(nn.Embedding(size, config.width) for size in config.axes)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self._initialise(generator)

    @property
    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        """Set deviations for embeddings and head, 1/√fan-in for matrices, residual branches over √(2·layers)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            if name.startswith(("token", "positions")):
                std = EMBEDDING_STD
            else:
                std = HEAD_STD if name == "head.weight" else parameter.shape[1] ** -0.5
            if name.endswith(("out.weight", "down.weight")):
                std /= (2 * self.config.layers) ** 0.5
            parameter.normal_(0.0, std, generator=generator)

    def encode(self, prompts: Tokens) -> EncodedPrompts:
        """What completions attend to, for prompts [P, S]."""
        hidden, attend = self._embed(prompts, None), _attend(prompts.valid)
        *blocks, last = self._blocks
        memories: list[Memory] = []
        for block in blocks:
            memories.append(self._run(block.remember, hidden))
            hidden = self._run(block, hidden, attend)
        return EncodedPrompts((*memories, self._run(last.remember, hidden)), prompts.valid)

    def forward(
        self,
        tokens: Tokens,
        at: Tensor | None = None,
        prompts: EncodedPrompts | None = None,
        owner: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states of every token, or only where they are asked for; ``head`` makes logits of them.

        Args:
            tokens: [B, T].
            at: [B, M] int64 places in ``tokens`` that are wanted; all when None.
            prompts: P encoded prompts; None when ``tokens`` have none.
            owner: [B] int64, the prompt of each row.

        Returns:
            [B, T, D] or [B, M, D], normalised.
        """
        memories: list[Memory | None] = [None] * len(self.blocks)
        valid, before = tokens.valid, None
        if prompts is not None and owner is not None:
            memories = [(key[owner], value[owner]) for key, value in prompts.memories]
            valid, before = torch.cat([prompts.valid[owner], valid], 1), prompts.valid.sum(-1, keepdim=True)[owner]
        hidden, attend = self._embed(tokens, before), _attend(valid)
        *blocks, last = self._blocks
        for block, memory in zip(blocks, memories, strict=False):
            hidden = self._run(block, hidden, attend, None, memory)
        hidden = self._run(last, hidden, attend, at, memories[-1])  # nothing reads the last block's other places
        normed: Tensor = self.norm(hidden)
        return normed

    def _run(self, part: Callable[..., T], *inputs: Tensor | Memory | None) -> T:
        """``part`` of these inputs, computed once more in the backward pass where gradients are checkpointed."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return part(*inputs)
        again: T = checkpoint(part, *inputs, use_reentrant=False)
        return again

    def _embed(self, tokens: Tokens, before: Tensor | None) -> Tensor:
        """Token embedding plus that of each coordinate of the position: [B, T] → [B, T, D].

        Without positions of their own, tokens count from ``before`` [B, 1] on.
        """
        positions = tokens.positions
        if positions is None:
            positions = (tokens.valid.cumsum(-1) - 1).clamp_min(0) + (0 if before is None else before)
        outer, *inner = self.positions
        hidden: Tensor = self.token(tokens.ids)
        for embedding, size in zip(reversed(inner), reversed(self.config.axes[1:]), strict=True):
            hidden = hidden + embedding(positions % size)
            positions = positions // size
        embedded: Tensor = hidden + outer(positions)
        return embedded

    def save_pretrained(self, folder: Path | str) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, asdict(self.config))
        save_file(self.state_dict(), folder / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> MaskedTransformer:
        """Read what `save_pretrained` wrote.

        Raises:
            UserError: files missing or damaged, or weights that do not fit the configuration.
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / CONFIG_FILE).read_text())
            model = cls(TransformerConfig.read(settings, folder))
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except UserError:
            raise
        except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError("model", str(folder), f"not a readable checkpoint ({reason})") from error
        return model
