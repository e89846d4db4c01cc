"""Chunked log-probabilities: values and gradients of the plain formula, with no more logits at once than allowed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dipod.policies.head import token_log_probs

ROWS, WIDTH, VOCAB = 11, 6, 9
BARRED = torch.tensor([4, 8])


def build(dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCAB, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(dtype).requires_grad_()
    return head, hidden, torch.randint(4, (ROWS,), generator=generator)


def plain(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """log(exp l_target / Σ exp l) over the tokens that are not barred."""
    weights = (hidden @ head.weight.T + head.bias).exp()
    allowed = [token for token in range(VOCAB) if token not in BARRED.tolist()]
    return (weights[torch.arange(len(targets)), targets] / weights[:, allowed].sum(-1)).log()


@pytest.mark.parametrize("chunk_values", [1, 2 * VOCAB, 5 * VOCAB + 1, ROWS * VOCAB, 10**6])
def test_values_and_gradients_are_those_of_the_plain_formula(chunk_values: int) -> None:
    head, hidden, targets = build()
    found = token_log_probs(head, hidden, targets, BARRED, chunk_values)
    expected = plain(head, hidden, targets)
    torch.testing.assert_close(found, expected)
    inputs = [hidden, head.weight, head.bias]
    upstream = torch.linspace(-1, 1, ROWS, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found @ upstream, inputs), torch.autograd.grad(expected @ upstream, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(token_log_probs(head, hidden, targets, BARRED, chunk_values), expected)


def test_no_more_logits_at_once_than_allowed_and_none_kept() -> None:
    head, hidden, targets = build()
    sizes, kept = [], []

    def watched(some: Tensor) -> Tensor:
        logits: Tensor = head(some)
        sizes.append(logits.numel())
        return logits

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = token_log_probs(watched, hidden, targets, BARRED, 3 * VOCAB)
    assert max(sizes) == 3 * VOCAB
    assert max(kept, default=0) <= hidden.numel()
    before = len(sizes)
    value.sum().backward()
    assert len(sizes) - before == 4, "each chunk is computed once more"


def test_bfloat16_logits_are_summed_in_float32() -> None:
    head, hidden, targets = build(torch.bfloat16)
    found = token_log_probs(head, hidden, targets, BARRED)
    assert found.dtype == torch.float32
    logits = head(hidden).float()
    logits[:, BARRED] = -torch.inf
    torch.testing.assert_close(found, logits.log_softmax(-1)[torch.arange(ROWS), targets])


def test_no_rows_and_barred_targets() -> None:
    head, hidden, targets = build()
    assert token_log_probs(head, hidden[:0], targets[:0], BARRED).shape == (0,)
    assert token_log_probs(head, hidden[:1], torch.tensor([8]), BARRED).item() == -torch.inf
