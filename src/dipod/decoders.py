"""Ways to decode that a policy was not trained with: other orders, blocks, tokens a step, parts given beforehand.

A policy whose bound is tight gives every order the same distribution of completions, one token a step. Several tokens
a step are drawn independently of each other, which no bound promises to bear. "low_confidence" is sharper than the
policy even where tokens are independent: it keeps those that came out likely and draws the others again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from dipod.errors import UserError, require
from dipod.policies.remasking import Remasking
from dipod.policies.sampling import SamplerConfig

Order = Literal[Remasking, "left_to_right"]
Given = Literal["nothing", "random", "suffix"]
How = Literal["sampled", "greedy"]
HOWS: tuple[How, ...] = get_args(How)
TOKENS = (1, 2, 4, 8)
"""Tokens a step that are tried by default, where they divide the completion."""
MOST_BLOCKS = 3
"""Block lengths that are tried by default."""
AS_TRAINED = "as_trained"
WORDS: dict[str, str] = {
    "random": "random order",
    "low_confidence": "most confident first",
    "entropy": "lowest entropy first",
    "margin": "largest margin first",
    "left_to_right": "left to right",
    "infill_random": "half given, at random places",
    "infill_suffix": "second half given",
}


@dataclass(frozen=True)
class Decoder:
    """How completions are decoded, temperature aside.

    Attributes:
        order: of the places: a rule of `SamplerConfig`, or one after the other.
        block: tokens per block, decoded left to right; 0 means one block (or the order is left to right anyway).
        tokens: revealed at each step; left to right, the next so many at once.
        given: of a right completion, the half that is visible from the start: "random" places or the "suffix".
    """

    order: Order = "random"
    block: int = 0
    tokens: int = 1
    given: Given = "nothing"

    @property
    def name(self) -> str:
        """As it is typed."""
        block = f"/block{self.block}" if self.block else ""
        return self._plain + block + (f"/tokens{self.tokens}" if self.tokens > 1 else "")

    @property
    def label(self) -> str:
        """In words."""
        block = f", blocks of {self.block}" if self.block else ""
        return WORDS[self._plain] + block + (f", {self.tokens} tokens a step" if self.tokens > 1 else "")

    @property
    def _plain(self) -> str:
        """The name without numbers."""
        return self.order if self.given == "nothing" else f"infill_{self.given}"

    def sampler(self, like: SamplerConfig, length: int, temperature: float) -> SamplerConfig:
        """The settings that decode so completions of ``length`` tokens; the rest is taken from ``like``.

        Raises:
            UserError: a block or tokens a step that do not divide the completion.
        """
        whole = self.block or length
        mend = f"give a block that divides the completion: {_divisors(length)} tokens"
        require(length % whole == 0, "decoders", self.name, mend)
        mend = f"give tokens a step that divide the {'block' if self.block else 'completion'}: {_divisors(whole)}"
        require(whole % self.tokens == 0, "decoders", self.name, mend)
        block = self.tokens if self.order == "left_to_right" else self.block
        remasking: Remasking = "random" if self.order == "left_to_right" else self.order
        steps = 0 if self.tokens == 1 else length // self.tokens
        return replace(like, temperature=temperature, remasking=remasking, block_length=block, steps=steps)


ORDERS = [*map(Decoder, get_args(Remasking)), Decoder("left_to_right")]
INFILLING = [Decoder(given="random"), Decoder(given="suffix")]
NAMED = {decoder.name: decoder for decoder in [*ORDERS, *INFILLING]}


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def parse_decoder(text: str, length: int) -> Decoder:
    """Read ``NAME``, ``NAME/blockN``, ``NAME/tokensN`` or ``NAME/blockN/tokensN``.

    Raises:
        UserError: an unknown name (the known ones are listed), or numbers that do not divide ``length``.
    """
    match = re.fullmatch(r"([a-z_]+)(?:/block([1-9]\d*))?(?:/tokens([1-9]\d*))?", text.strip())
    named = NAMED.get(match[1]) if match else None
    if match is None or named is None:
        mend = f"choose from {', '.join(NAMED)}; the first four also as NAME/blockN/tokensN, the fifth as NAME/tokensN"
        raise UserError("decoders", text, mend)
    block, tokens = int(match[2] or 0), int(match[3] or 1)
    whole = named.given == "nothing" or (not block and tokens == 1)
    require(whole, "decoders", text, f"give {named.name}, which has neither blocks nor tokens a step")
    mend = "left to right has no blocks; give left_to_right/tokensN or random/blockN"
    require(not block or named.order != "left_to_right", "decoders", text, mend)
    decoder = replace(named, block=block, tokens=tokens)
    decoder.sampler(SamplerConfig(), length, 1.0)
    return decoder


def usual_decoders(length: int, known: bool) -> list[Decoder]:
    """Those that fit completions of ``length`` tokens: orders, blocks, tokens a step, and infilling.

    Args:
        length: of a completion, padding included.
        known: whether right completions are known, without which nothing can be given.
    """
    sizes = [size for size in range(2, length) if length % size == 0]
    last = len(sizes) - 1
    chosen = sizes if last < MOST_BLOCKS else [sizes[last * i // (MOST_BLOCKS - 1)] for i in range(MOST_BLOCKS)]
    budgets = [tokens for tokens in TOKENS if 1 < tokens <= length and length % tokens == 0]
    return [
        *ORDERS,
        *(Decoder(block=size) for size in chosen),
        *(Decoder(tokens=tokens) for tokens in budgets),
        *(Decoder("low_confidence", tokens=tokens) for tokens in budgets if tokens < length),
        *(INFILLING if known else []),
    ]


@dataclass(frozen=True)
class Plan:
    """One row of the table before it is measured.

    Attributes:
        name: the decoder's, or `AS_TRAINED`.
        label: in words.
        given: what is visible from the start.
        samplers: the settings at temperature 1 (as trained: at that of training) and at 0.
    """

    name: str
    label: str
    given: Given
    samplers: dict[How, SamplerConfig]

    def forward_rows(self, length: int, problems: int) -> int:
        """Rows that the network is given, at most: one a step and problem, two with guidance."""
        half = length - length // 2
        steps = [half if self.given != "nothing" else s.steps or length for s in self.samplers.values()]
        networks = [2 if s.cfg_scale else 1 for s in self.samplers.values()]
        return problems * sum(a * b for a, b in zip(steps, networks, strict=True))


def plan(trained: SamplerConfig, decoders: Sequence[Decoder], length: int) -> tuple[str, list[Plan]]:
    """What to measure of a policy, and the name of the row that decodes as it was trained.

    That row is put in front where none of ``decoders`` is it.
    """
    rows = []
    for decoder in decoders:
        samplers: dict[How, SamplerConfig] = {
            "sampled": decoder.sampler(trained, length, 1.0),
            "greedy": decoder.sampler(trained, length, 0.0),
        }
        rows.append(Plan(decoder.name, decoder.label, decoder.given, samplers))
    block, steps = trained.block_length, trained.steps
    own = replace(trained, block_length=0 if block == length else block, steps=0 if steps == length else steps)
    same = [row.name for row in rows if row.samplers["sampled"] == own and row.given == "nothing"]
    if same:
        return same[0], rows
    samplers = {"sampled": own, "greedy": replace(own, temperature=0.0)}
    return AS_TRAINED, [Plan(AS_TRAINED, "as trained", "nothing", samplers), *rows]
