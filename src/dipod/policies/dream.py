"""Dream: a masked diffusion language model grown from Qwen2.5 (arXiv:2508.15487); DiffuCoder has the same shape.

Modules and parameters carry the names of the hub's checkpoints, so that weights load by name and adapters go both ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipod.policies.hub import HubConfig
from dipod.policies.layers import (
    BidirectionalModel,
    RMSNorm,
    Rotation,
    Sequences,
    attention,
    initialise,
    rotate,
    rotation,
    split_heads,
)


@dataclass(frozen=True, kw_only=True)
class DreamConfig(HubConfig):
    """What Dream's ``config.json`` says, under the same names.

    Attributes:
        hidden_size: hidden size.
        num_hidden_layers: layers.
        num_attention_heads: attention heads.
        num_key_value_heads: heads of keys and values.
        intermediate_size: width of the feed-forward.
        vocab_size: token ids, and logits.
        max_position_embeddings: tokens that the model was made for at once.
        rms_norm_eps: of all norms.
        rope_theta: base of the rotary wavelengths.
        mask_token_id: the token that hides another.
        bos_token_id: beginning of text.
        eos_token_id: end of text.
        pad_token_id: padding.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1000000.0
    mask_token_id: int = 151666
    bos_token_id: int = 151643
    eos_token_id: int = 151643
    pad_token_id: int = 151643

    MODEL_TYPE: ClassVar[str] = "Dream"
    REPOSITORY: ClassVar[str] = "Dream-org/Dream-v0-Instruct-7B"
    CODE: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_dream.DreamConfig",
        "AutoModel": "modeling_dream.DreamModel",
    }
    SUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "architectures": (["DreamModel"],),
        "attention_dropout": (0.0,),
        "hidden_act": ("silu",),
        "rope_scaling": (None,),
        "rope_parameters": (None,),
        "tie_word_embeddings": (False,),
        "use_mrope": (False,),
        "use_sliding_window": (False,),
    }

    def __post_init__(self) -> None:
        self.check_sizes("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        self.check_sizes("intermediate_size", "vocab_size", "max_position_embeddings")
        self.check_multiple("hidden_size", "num_attention_heads")
        self.check_multiple("num_attention_heads", "num_key_value_heads")


class DreamAttention(nn.Module):
    """Attention both ways; queries, keys and values have biases, and several query heads share a key head."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        width, narrow = config.hidden_size, config.hidden_size // self.heads * self.kv_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, narrow)
        self.v_proj = nn.Linear(width, narrow)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, normed: Tensor, turn: Rotation, attend: Tensor | None) -> Tensor:
        """[B, T, D] to [B, T, D]; ``attend`` as in `dipod.policies.layers.attention`."""
        query = rotate(split_heads(self.q_proj(normed), self.heads), turn)
        key = rotate(split_heads(self.k_proj(normed), self.kv_heads), turn)
        value = split_heads(self.v_proj(normed), self.kv_heads)
        mixed: Tensor = self.o_proj(attention(query, key, value, attend))
        return mixed


class DreamMLP(nn.Module):
    """Gated feed-forward."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, normed: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        made: Tensor = self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed))
        return made


class DreamLayer(nn.Module):
    """Attention and feed-forward, both residual after a norm."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.self_attn = DreamAttention(config)
        self.mlp = DreamMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, turn: Rotation, attend: Tensor | None) -> Tensor:
        """[B, T, D] to [B, T, D]; ``attend`` as in `dipod.policies.layers.attention`."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), turn, attend)
        grown: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return grown


class _Model(nn.Module):
    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DreamLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Dream(BidirectionalModel):
    """The network; see `BidirectionalModel` for how it is called. The token before a place predicts that place's token.

    Args:
        config: its shape.
        generator: draws the weights of a new network; without one they are for a checkpoint to fill.
    """

    def __init__(self, config: DreamConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = _Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if generator is not None:
            initialise(self, generator)

    def embedded(self, ids: Tensor) -> Tensor:
        """[B, T] to [B, T, D]."""
        hidden: Tensor = self.model.embed_tokens(ids)
        return hidden

    def turned(self, positions: Tensor) -> Rotation:
        """Rotary tables as precise as the weights."""
        size = self.config.hidden_size // self.config.num_attention_heads
        cos, sin = rotation(positions, size, self.config.rope_theta)
        dtype = self.model.embed_tokens.weight.dtype
        return cos.to(dtype), sin.to(dtype)

    def stack(self) -> Iterable[nn.Module]:
        """The layers."""
        return self.model.layers

    def normed(self, hidden: Tensor) -> Tensor:
        """The last norm."""
        normed: Tensor = self.model.norm(hidden)
        return normed

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        logits: Tensor = self.lm_head(hidden)
        return logits

    def read_from(self, places: Tensor, sequences: Sequences) -> Tensor:
        """The valid token before each place; the first token reads from itself, having none before it."""
        if sequences.valid is None:
            return (places - 1).clamp_min(0)
        index = torch.arange(sequences.valid.shape[1], device=places.device)
        latest = torch.where(sequences.valid, index, -1).cummax(-1).values
        before = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], 1)
        source = torch.where(before < 0, index, before)
        return source.gather(1, places.expand(len(source), -1))
