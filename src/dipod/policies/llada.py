"""LLaDA: a masked diffusion language model of the Llama shape with attention both ways (arXiv:2502.09992).

Modules and parameters carry the names of the hub's checkpoints (LLaDA-8B-Base, LLaDA-8B-Instruct, LLaDA-1.5), so that
weights load by name and adapters go both ways.
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
    attention,
    initialise,
    rotate,
    rotation,
    split_heads,
    widen,
)


@dataclass(frozen=True, kw_only=True)
class LLaDAConfig(HubConfig):
    """What LLaDA's ``config.json`` says, under the same names.

    Attributes:
        d_model: hidden size.
        n_layers: blocks.
        n_heads: attention heads.
        mlp_hidden_size: width of the feed-forward.
        vocab_size: token ids.
        n_kv_heads: heads of keys and values; as many as ``n_heads`` when None.
        embedding_size: rows of embedding and head; ``vocab_size`` when None.
        max_sequence_length: tokens that the model was trained on at once.
        rms_norm_eps: of all norms.
        rope_theta: base of the rotary wavelengths.
        rope_full_precision: rotate in float32 whatever the weights are.
        mask_token_id: the token that hides another.
        eos_token_id: end of text.
        pad_token_id: padding.
    """

    d_model: int
    n_layers: int
    n_heads: int
    mlp_hidden_size: int
    vocab_size: int
    n_kv_heads: int | None = None
    embedding_size: int | None = None
    max_sequence_length: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_full_precision: bool = True
    mask_token_id: int = 126336
    eos_token_id: int = 126081
    pad_token_id: int = 126081

    MODEL_TYPE: ClassVar[str] = "llada"
    REPOSITORY: ClassVar[str] = "GSAI-ML/LLaDA-8B-Instruct"
    CODE: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    }
    SUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "architectures": (["LLaDAModelLM"],),
        "activation_type": ("silu",),
        "alibi": (False,),
        "attention_dropout": (0.0,),
        "attention_layer_norm": (False,),
        "bias_for_layer_norm": (False, None),
        "block_group_size": (1,),
        "block_type": ("llama",),
        "embedding_dropout": (0.0,),
        "include_bias": (False,),
        "include_qkv_bias": (False, None),
        "input_emb_norm": (False,),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "multi_query_attention": (None, False),
        "residual_dropout": (0.0,),
        "rope": (True,),
        "scale_logits": (False,),
        "weight_tying": (False,),
    }

    def __post_init__(self) -> None:
        self.check_sizes("d_model", "n_layers", "n_heads", "kv_heads", "mlp_hidden_size", "vocab_size", "rows")
        self.check_sizes("max_sequence_length")
        self.check_multiple("d_model", "n_heads")
        self.check_multiple("n_heads", "kv_heads")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def rows(self) -> int:
        """Rows of embedding and head: the number of logits."""
        return self.vocab_size if self.embedding_size is None else self.embedding_size


class LLaDABlock(nn.Module):
    """Attention and gated feed-forward, both residual after a norm, without biases."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.n_heads, config.kv_heads
        self.rotate_wide = config.rope_full_precision
        width, narrow = config.d_model, config.d_model // config.n_heads * config.kv_heads
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, narrow, bias=False)
        self.v_proj = nn.Linear(width, narrow, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, width, bias=False)

    def forward(self, hidden: Tensor, turn: Rotation, attend: Tensor | None) -> Tensor:
        """[B, T, D] to [B, T, D]; ``attend`` as in `dipod.policies.layers.attention`."""
        normed = self.attn_norm(hidden)
        query = self._turned(split_heads(self.q_proj(normed), self.heads), turn)
        key = self._turned(split_heads(self.k_proj(normed), self.kv_heads), turn)
        value = split_heads(self.v_proj(normed), self.kv_heads)
        hidden = hidden + self.attn_out(attention(query, key, value, attend))
        normed = self.ff_norm(hidden)
        grown: Tensor = hidden + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))
        return grown

    def _turned(self, heads: Tensor, turn: Rotation) -> Tensor:
        return rotate(widen(heads) if self.rotate_wide else heads, turn).to(heads.dtype)


class _Transformer(nn.Module):
    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.rows, config.d_model)
        self.ln_f = RMSNorm(config.d_model, config.rms_norm_eps)
        self.blocks = nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers))
        self.ff_out = nn.Linear(config.d_model, config.rows, bias=False)


class _Model(nn.Module):
    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.transformer = _Transformer(config)


class LLaDA(BidirectionalModel):
    """The network; see `BidirectionalModel` for how it is called. The logits at a place are of that place's token.

    Args:
        config: its shape.
        generator: draws the weights of a new network; without one they are for a checkpoint to fill.
    """

    def __init__(self, config: LLaDAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = _Model(config)
        if generator is not None:
            initialise(self, generator)

    def embedded(self, ids: Tensor) -> Tensor:
        """[B, T] to [B, T, D]."""
        hidden: Tensor = self.model.transformer.wte(ids)
        return hidden

    def turned(self, positions: Tensor) -> Rotation:
        """Rotary tables, in float32 or as the weights are."""
        tables = rotation(positions, self.config.d_model // self.config.n_heads, self.config.rope_theta)
        if self.config.rope_full_precision:
            return tables
        dtype = self.model.transformer.wte.weight.dtype
        return tables[0].to(dtype), tables[1].to(dtype)

    def stack(self) -> Iterable[nn.Module]:
        """The blocks."""
        return self.model.transformer.blocks

    def normed(self, hidden: Tensor) -> Tensor:
        """The last norm."""
        normed: Tensor = self.model.transformer.ln_f(hidden)
        return normed

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        logits: Tensor = self.model.transformer.ff_out(hidden)
        return logits
