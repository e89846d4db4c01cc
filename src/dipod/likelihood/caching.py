"""Gradients in constant memory: corruption samples go through the network a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from dipod.likelihood.evidence import Corruption, MaskedEvidence

Around = Callable[[bool], AbstractContextManager[Any]]
"""``around(last)``: what a forward and its backward pass are wrapped in; ``last`` says that no other follows."""


def backward_in_parts(
    evidence_of: Callable[[Corruption], MaskedEvidence],
    corruption: Corruption,
    loss_of: Callable[[MaskedEvidence], Tensor],
    samples_per_pass: int,
    backward: Callable[[Tensor, bool], None],
    around: Around,
) -> None:
    """Backward of ``loss_of(evidence)`` through at most ``samples_per_pass`` corruption samples at a time; exact.

    The loss is a function of the [B, K, L] token log-probabilities alone. A pass without gradients fills them into a
    leaf, the loss is taken on the leaf, and each part of the leaf's gradient is pulled through the network in a pass of
    its own: one forward pass more than the plain way, in the memory of one part.

    Args:
        evidence_of: the network, on some of the corruption samples; the same numbers whenever it is asked.
        corruption: all K samples.
        loss_of: from the evidence of all K samples to a scalar; any proxy, any surrogate.
        samples_per_pass: samples of every row that are held at a time.
        backward: ``backward(scalar, last)`` accumulates the gradient.
        around: see `Around`.
    """
    starts = range(0, corruption.samples, samples_per_pass)
    parts = [slice(start, start + samples_per_pass) for start in starts]
    if len(parts) == 1:
        with around(True):
            backward(loss_of(evidence_of(corruption)), True)
        return
    with torch.no_grad():
        leaf = torch.cat([evidence_of(corruption.pick(part)).token_log_probs for part in parts], 1)
    leaf.requires_grad_()
    (upstream,) = torch.autograd.grad(loss_of(corruption.evidence(leaf)), leaf)
    for part in parts:
        last = part is parts[-1]
        with around(last):
            again = evidence_of(corruption.pick(part)).token_log_probs
            backward((again * upstream[:, part]).sum(), last)
