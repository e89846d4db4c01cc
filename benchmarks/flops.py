"""Floating-point operations of LLaDA's shape, by formula: a matrix product of [n, a] and [a, b] is 2·n·a·b.

Norms, rotations, softmax and sampling are left out, and what is computed a second time to save memory is not counted.
"""

from __future__ import annotations

from dipod.policies.llada import LLaDAConfig

PEAK_BF16 = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second from the data sheets, by a part of the device's name; the first that fits."""


def peak_flops(hardware: str) -> float | None:
    """Of a device by its name; None where it is not in the table."""
    return next((peak for name, peak in PEAK_BF16.items() if name in hardware), None)


def block_parameters(shape: LLaDAConfig) -> int:
    """Weights of all matrices inside the blocks: layers·(2·D² + 2·D·D_kv + 3·D·D_ff)."""
    narrow = shape.d_model // shape.n_heads * shape.kv_heads
    return shape.n_layers * shape.d_model * (2 * shape.d_model + 2 * narrow + 3 * shape.mlp_hidden_size)


def forward_flops(shape: LLaDAConfig, rows: int, tokens: int, predicted: int, adapters: int = 0) -> int:
    """One pass: rows·tokens·(2·(blocks + adapters) + 4·tokens·D·layers) + predicted·2·D·V.

    Args:
        shape: of the network.
        rows: sequences.
        tokens: of each, prompt and completion together.
        predicted: places, over all rows, at which logits are taken.
        adapters: weights of the adapters.
    """
    attention = 4 * tokens * shape.d_model * shape.n_layers
    blocks = rows * tokens * (2 * (block_parameters(shape) + adapters) + attention)
    return blocks + head_flops(shape, predicted)


def head_flops(shape: LLaDAConfig, predicted: int) -> int:
    """Logits at so many places: predicted·2·D·V."""
    return predicted * 2 * shape.d_model * shape.rows


def adapter_step_flops(shape: LLaDAConfig, rows: int, tokens: int, predicted: int, adapters: int) -> int:
    """Forward and backward pass with a frozen base: 2·forward + rows·tokens·2·adapters.

    Every product is done once forward and once for its input's gradient; only adapters have gradients of their own.
    """
    return 2 * forward_flops(shape, rows, tokens, predicted, adapters) + rows * tokens * 2 * adapters
