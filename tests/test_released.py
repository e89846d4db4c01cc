"""What the published code computes, once more in loops over plain numbers, against the rows and the preset.

Sources: ML-GSAI/ESPO (espo_trainer.py), facebookresearch/SPG (spg_trainer.py), apple/ml-diffucoder (its recipe),
JianyuanZhong/StableDRL (llada_svpo.py and its configurations), huggingface/trl (nanstd).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dipod.algorithms import ALGORITHMS, Batch, table
from dipod.likelihood.evidence import MaskedEvidence
from dipod.likelihood.masked import spg_eubo
from dipod.recipes import language, load, overlay

LENGTHS = (5, 3)
ORDER = 1.5


def evidence(seed: int) -> tuple[MaskedEvidence, Tensor]:
    """Two completions of 5 and 3 tokens under two masks, of which one token of each is in neither; and its leaf."""
    generator = torch.Generator().manual_seed(seed)
    masked = torch.tensor([[[1, 1, 0, 0, 0], [0, 1, 1, 1, 0]], [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]], dtype=torch.bool)
    leaf = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64).sigmoid().log().requires_grad_()
    length = torch.tensor(LENGTHS)
    return MaskedEvidence(leaf * masked, masked, length[:, None] / masked.sum(-1).double(), length), leaf


def per_token(found: MaskedEvidence, row: int) -> tuple[float, float]:
    """SPG's ELBO and EUBO of one row as its code has them, both per token."""
    masks, log_probs = found.masked[row].tolist(), found.token_log_probs[row].tolist()
    elbo, eubo, seen = 0.0, 0.0, 0
    for mask, values in zip(masks, log_probs, strict=True):
        elbo += sum(v for v, hidden in zip(values, mask, strict=True) if hidden) / sum(mask) / len(masks)
    for token in range(LENGTHS[row]):
        average = sum(
            math.exp(values[token]) ** ORDER / (sum(mask) / LENGTHS[row])
            for mask, values in zip(masks, log_probs, strict=True)
            if mask[token]
        ) / len(masks)
        if average > 0:
            eubo, seen = eubo + math.log(average), seen + 1
    return elbo, eubo / seen / ORDER


def test_spg_s_eubo_is_the_mean_over_seen_tokens_times_the_length() -> None:
    found, _ = evidence(0)
    by_hand = [per_token(found, row)[1] * LENGTHS[row] for row in range(2)]
    assert spg_eubo(found, ORDER).tolist() == pytest.approx(by_hand)


def test_espo_s_kl_is_the_square_of_the_sequence_s_over_its_length() -> None:
    """kl.sum() / (batch · length), with k2 of whole ELBOs."""
    found, _ = evidence(0)
    other, _ = evidence(1)
    row, advantage = ALGORITHMS["espo"], torch.zeros(2, dtype=torch.float64)
    new, reference = found.elbo().detach(), other.elbo().detach()
    batch = Batch(new, advantage, torch.tensor(LENGTHS), reference=reference)
    penalty = -row.contributions(found, batch, 0.0, "k2", 0.01).mean()
    squares = [(a - b) ** 2 / 2 / n for a, b, n in zip(new.tolist(), reference.tolist(), LENGTHS, strict=True)]
    assert float(penalty.detach()) == pytest.approx(0.01 * sum(squares) / 2)


def test_espo_s_baseline_leaves_one_out_in_its_code() -> None:
    reward = torch.tensor([[1.0, 0.0, 0.5]])
    assert table(released=True)["espo"].baseline(reward)[0].tolist() == pytest.approx([0.75, -0.75, 0.0])
    assert ALGORITHMS["espo"].baseline(reward)[0].tolist() == pytest.approx([0.5, -0.5, 0.0])


def test_coupled_grpo_clips_at_a_half() -> None:
    row = ALGORITHMS["coupled"]
    assert row.clip == 0.5
    ratio = torch.tensor([1.4, 1.6])
    assert row.surrogate(ratio.log(), torch.zeros(2), torch.ones(2)).tolist() == pytest.approx([1.4, 1.5])


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_released_stabledrl_is_the_code_s_gradient(shift: float) -> None:
    """Σ softmax(min(ΔELBO per token, log 5))·A·∇(SPG's mixture per token): 7.4 counts 5, .1 counts .1.

    Args:
        shift: nats per token by which the first row has become likelier.
    """
    found, leaf = evidence(0)
    advantage = torch.tensor([0.7, -0.4], dtype=torch.float64)
    now = [per_token(found, row)[0] for row in range(2)]
    before = [now[0] - shift, now[1] + math.log(10)]
    weights = [min(math.exp(a - b), 5.0) for a, b in zip(now, before, strict=True)]
    mixture = (found.elbo(), 0.5 * spg_eubo(found, ORDER) + 0.5 * found.elbo())
    loss = sum(
        w * a * m[i] / n for i, (w, a, m, n) in enumerate(zip(weights, advantage, mixture, LENGTHS, strict=True))
    )
    (expected,) = torch.autograd.grad(loss / sum(weights), leaf, retain_graph=True)
    row, length = table(ORDER, released=True)["stabledrl"], torch.tensor(LENGTHS)
    new, old = row.proxy(found, advantage), torch.tensor(before, dtype=torch.float64) * length
    assert new.detach().tolist() == pytest.approx([value * n for value, n in zip(now, LENGTHS, strict=True)])
    total = row.contributions(found, Batch(old, advantage, length)).sum() / row.denominator(new, old, length).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(gradient, expected)
    assert not row.adequate


def test_the_preset_brings_each_difference() -> None:
    def released(algorithm: str) -> dict[str, object]:
        config = language(overlay(load("llada"), {"algorithm": algorithm, "preset": "released"}))
        assert config.objective.form == "released"
        assert (config.trainer.scale_std, config.trainer.scale_advantages) == ("sample", False)
        return {"elbo": config.corruption.elbo, "end": config.task.end_rule}  # type: ignore[union-attr]

    assert released("espo") == {"elbo": "bound", "end": "canvas"}
    assert released("spg+dipod")["elbo"] == "estimator"
    assert released("fpo+dipod")["elbo"] == "estimator"
    for algorithm in ("coupled", "stabledrl", "d1"):
        assert released(algorithm)["elbo"] == "bound"
    paper = language(overlay(load("llada"), {"algorithm": "espo"}))
    assert (paper.objective.form, paper.trainer.scale_std, paper.corruption.elbo) == ("paper", "population", "bound")
