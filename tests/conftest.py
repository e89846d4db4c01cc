"""Small real objects that the tests are made from."""

from __future__ import annotations

import signal
from itertools import product

import pytest
import torch

from dipod.noise import Noise
from dipod.policies.masked import MaskedPolicy
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer, TransformerConfig

VOCAB, MASK = 4, 3

for number in (
    signal.SIGINT,
    signal.SIGHUP,
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def build_policy(length: int = 4, prompt: int = 2, seed: int = 0, sharpness: float = 20.0) -> MaskedPolicy:
    """A random float64 policy over 3 tokens whose conditionals depend strongly on what is visible."""
    generator = torch.Generator().manual_seed(seed)
    network = MaskedTransformer(TransformerConfig(VOCAB, (prompt + length,), width=16, layers=2, heads=2), generator)
    network = network.double()
    with torch.no_grad():
        network.head.weight.mul_(sharpness)
    return MaskedPolicy(network, MASK)


def every_completion(length: int, tokens: int = 3) -> torch.Tensor:
    """All completions, [tokens^length, length]."""
    return torch.tensor(list(product(range(tokens), repeat=length)))


def prompts(count: int, prompt: int = 2, seed: int = 0) -> Tokens:
    """Random prompts of one seed, the same in every row."""
    ids = torch.randint(3, (1, prompt), generator=torch.Generator().manual_seed(seed))
    return Tokens.full(ids.expand(count, -1))


def blank(valid: torch.Tensor) -> Tokens:
    """Completions of which only the places are known."""
    return Tokens(torch.full(valid.shape, MASK), valid)


def noise(count: int, seed: int = 0) -> Noise:
    """One stream for each of ``count`` rows."""
    return Noise.keyed("test", seed, examples=range(count))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
