"""One denoising step's choices: the law of a draw, in every precision, and what confidence means."""

from __future__ import annotations

import math

import pytest
import torch

from dipod.noise import Noise
from dipod.policies.remasking import Precision, confidence, draw_tokens, noise_dtype, uniform_numbers


def draws(logits: torch.Tensor, count: int, temperature: float, precision: Precision) -> torch.Tensor:
    """``count`` tokens from one row of logits [V]."""
    dtype = noise_dtype(logits, precision)
    uniform = Noise.keyed("draws", examples=[0]).uniform(count, len(logits), dtype=dtype)[0]
    return draw_tokens(logits.expand(count, -1), temperature, precision, uniform)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_drawn_tokens_have_tempered_softmax_frequencies(precision: Precision) -> None:
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    share = draws(logits, 40_000, 0.7, precision).bincount(minlength=4) / 40_000
    expected = (logits / 0.7).softmax(-1)
    assert ((share - expected).abs() <= 4 * (expected * (1 - expected) / 40_000).sqrt()).all()


@pytest.mark.parametrize("precision", ["float32", "float64", "released-bf16"])
def test_the_released_noise_is_much_colder_than_its_temperature(precision: Precision) -> None:
    """LLaDA's vocabulary, half of the probability on one token and the rest spread evenly, T = 0.9.

    An exact draw takes that token with its share of softmax(logits / T), 78.7 %. Under the released noise no other
    token is lifted far enough; it loses only when its own number rounds to 1 and becomes 0, once in 2^9 draws.
    """
    vocabulary, count = 126_464, 200
    logits = torch.full((vocabulary,), math.log(0.5 / (vocabulary - 1)))
    logits[777] = math.log(0.5)
    share = 1 - 2**-9 if precision == "released-bf16" else float((logits / 0.9).softmax(-1)[777])
    found = float((draws(logits, count, 0.9, precision) == 777).float().mean())
    assert abs(found - share) < 4 * (share * (1 - share) / count) ** 0.5


def test_released_noise_never_draws_a_barred_token() -> None:
    logits = torch.tensor([-torch.inf, -500.0, -500.0])
    assert (draws(logits, 1000, 0.9, "released-bf16") > 0).all()


def test_confidences_by_hand() -> None:
    p = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0], dtype=torch.float64)
    logits, token = p.log()[None], torch.tensor([1])
    expected = {"low_confidence": 0.25, "entropy": -1.75 * math.log(2), "margin": 0.25}
    for remasking, value in expected.items():
        found = confidence(logits, token, remasking, "float32")  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor([value], dtype=torch.float64))


def test_released_confidences_tie_in_bfloat16() -> None:
    logits = torch.tensor([[8.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    token = torch.zeros(2, dtype=torch.long)
    first, second = confidence(logits, token, "low_confidence", "released-bf16")
    assert first == second
    first, second = confidence(logits, token, "low_confidence", "float32")
    assert first < second


def test_each_row_takes_its_own_count_of_numbers() -> None:
    counts = [2, 0, 3, 2]
    noise, fresh = (Noise.keyed("counts", examples=range(4)) for _ in range(2))
    numbers = uniform_numbers(noise, counts, 5, dtype=torch.float64, device="cpu")
    assert numbers.shape == (4, 3, 5)
    for row, count in enumerate(counts):
        alone = fresh[row : row + 1].uniform(count, 5, dtype=torch.float64)[0]
        assert torch.equal(numbers[row, :count], alone)
        assert (numbers[row, count:] == 0).all()
    assert torch.equal(noise.uniform(1), fresh.uniform(1)), "the streams stand where they stood alone"
