"""LLaDA and Dream once more, as their papers and checkpoints define them: one sequence, loops, float64, numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def norm(rows: Array, weight: Array, eps: float) -> Array:
    return np.stack([row / np.sqrt(np.mean(row**2) + eps) * weight for row in rows])


def silu(values: Array) -> Array:
    return np.asarray(values / (1 + np.exp(-values)))


def turned(head: Array, theta: float) -> Array:
    """One head [T, d]: element i and element i + d/2 are a complex number that turns with its place."""
    half = head.shape[1] // 2
    rates = [theta ** (-2 * i / head.shape[1]) for i in range(half)]
    turns = np.array([[np.exp(1j * place * rate) for rate in rates] for place in range(len(head))])
    numbers = (head[:, :half] + 1j * head[:, half:]) * turns
    return np.concatenate([numbers.real, numbers.imag], 1)


def attended(query: Array, key: Array, value: Array, heads: int, kv_heads: int, theta: float) -> Array:
    size, mixed = query.shape[1] // heads, []
    for head in range(heads):
        shared = head // (heads // kv_heads)
        own, theirs = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
        scores = turned(query[:, own], theta) @ turned(key[:, theirs], theta).T / np.sqrt(size)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        mixed.append(weights / weights.sum(1, keepdims=True) @ value[:, theirs])
    return np.concatenate(mixed, 1)


def llada_logits(weights: Mapping[str, Tensor], settings: Mapping[str, Any], ids: list[int]) -> Array:
    """Logits [T, V]; the row at a place is of that place's token."""
    w = {name.removeprefix("model.transformer."): tensor.double().numpy() for name, tensor in weights.items()}
    eps, hidden = settings["rms_norm_eps"], w["wte.weight"][ids]
    for block in range(settings["n_layers"]):
        own = {name.removeprefix(f"blocks.{block}."): one for name, one in w.items() if f"blocks.{block}." in name}
        normed = norm(hidden, own["attn_norm.weight"], eps)
        query, key, value = (normed @ own[f"{part}_proj.weight"].T for part in "qkv")
        mixed = attended(query, key, value, settings["n_heads"], settings["n_kv_heads"], settings["rope_theta"])
        hidden = hidden + mixed @ own["attn_out.weight"].T
        normed = norm(hidden, own["ff_norm.weight"], eps)
        gated = silu(normed @ own["ff_proj.weight"].T) * (normed @ own["up_proj.weight"].T)
        hidden = hidden + gated @ own["ff_out.weight"].T
    return np.asarray(norm(hidden, w["ln_f.weight"], eps) @ w["ff_out.weight"].T)


def dream_logits(weights: Mapping[str, Tensor], settings: Mapping[str, Any], ids: list[int]) -> Array:
    """Logits [T, V], shifted: the row at a place, which is of its token, was made at the place before."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    eps, hidden = settings["rms_norm_eps"], w["model.embed_tokens.weight"][ids]
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    for layer in range(settings["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        own = {name.removeprefix(prefix): one for name, one in w.items() if name.startswith(prefix)}
        normed = norm(hidden, own["input_layernorm.weight"], eps)
        query, key, value = (
            normed @ own[f"self_attn.{part}_proj.weight"].T + own[f"self_attn.{part}_proj.bias"] for part in "qkv"
        )
        mixed = attended(query, key, value, heads, kv_heads, settings["rope_theta"])
        hidden = hidden + mixed @ own["self_attn.o_proj.weight"].T
        normed = norm(hidden, own["post_attention_layernorm.weight"], eps)
        gated = silu(normed @ own["mlp.gate_proj.weight"].T) * (normed @ own["mlp.up_proj.weight"].T)
        hidden = hidden + gated @ own["mlp.down_proj.weight"].T
    logits = norm(hidden, w["model.norm.weight"], eps) @ w["lm_head.weight"].T
    return np.concatenate([logits[:1], logits[:-1]])
