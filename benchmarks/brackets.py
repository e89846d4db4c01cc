"""How often the bracket of the gap is wrong: random models of 8 to 12 tokens, whose exact gap is known.

    python benchmarks/brackets.py

For each model the gap of fresh own completions is bracketed from K' decoding orders, one of which is the sample's own,
and compared with the exact mean gap of many other completions. An end of the bracket errs where it passes the exact
gap by more than its one-sided 95 % interval, both samples' errors counted; of valid ends at most one in twenty do.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, provenance

from dipod.drift.gap import Gap, measure_gap
from dipod.files import make_folder, write_json
from dipod.likelihood.exact import MAX_EXACT_TOKENS
from dipod.noise import Noise, keyed_generator
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer, TransformerConfig

TOKENS, PROMPT = 4, 2
ONE_SIDED = 1.645
EXACT_ROWS = 260_000
"""Forward rows that the exact mean of a model may take."""


def random_policy(seed: int, length: int) -> MaskedPolicy:
    """A small transformer over four tokens, of a sharpness that is drawn as well: gaps from 0.001 to several nats."""
    generator = keyed_generator(seed, "brackets")
    sharpness = 3.0 * 30.0 ** float(torch.rand((), generator=generator))
    config = TransformerConfig(TOKENS + 1, (PROMPT + length,), width=16, layers=2, heads=2)
    network = MaskedTransformer(config, generator)
    with torch.no_grad():
        network.head.weight.mul_(sharpness)
    return MaskedPolicy(network.eval(), TOKENS)


def measured(policy: MaskedPolicy, length: int, count: int, paths: int, seed: int, purpose: str) -> Gap:
    """The gap on ``count`` own completions: bracketed, or exact where ``paths`` is 0."""
    prompts = Tokens.full(torch.zeros(count, PROMPT, dtype=torch.int64))
    valid = torch.ones(count, length, dtype=torch.bool)
    places = Tokens(torch.full((count, length), TOKENS), valid)
    noise = Noise.keyed(seed, purpose, examples=range(count))
    sample = policy.sample(prompts, places, SamplerConfig(), noise)
    score = policy.score(prompts, Tokens(sample.ids, valid))
    exact = 0 if paths else MAX_EXACT_TOKENS
    return measure_gap(score, valid, noise, exact, max(paths, 2), 16_384, sample.order)


def trial(seed: int, length: int, count: int, paths: list[int], exact_rows: int) -> dict[str, Any]:
    """One model: its exact gap and its brackets."""
    policy = random_policy(seed, length)
    exact = measured(policy, length, max(32, exact_rows // 2**length), 0, seed, "exact")
    row: dict[str, Any] = {"seed": seed, "tokens": length, "gap": exact.gap, "gap_error": exact.error, "brackets": {}}
    for number in paths:
        found = measured(policy, length, count, number, seed, "bracket")
        assert found.high is not None
        margins = [ONE_SIDED * math.hypot(error, exact.error) for error in (found.low_error, found.high_error)]
        sides = {"low": (found.low - exact.gap, margins[0]), "high": (exact.gap - found.high, margins[1])}
        row["brackets"][number] = {
            "low": found.low,
            "high": found.high,
            **{f"{side}_errs": past > margin for side, (past, margin) in sides.items()},
        }
    return row


def main() -> None:
    """Run all trials and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--actions", type=int, default=64, help="completions of a bracket (default: %(default)s)")
    parser.add_argument("--paths", type=int, nargs="+", default=[4, 16], metavar="K'")
    parser.add_argument("--exact-rows", type=int, default=EXACT_ROWS, help="forward rows a model (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "brackets-cpu.json", help="JSON file (%(default)s)")
    arguments = parser.parse_args()
    origin = provenance("brackets.py", "cpu")
    lengths = [8, 8, 8, 9, 10, 12]
    trials = [
        trial(seed, lengths[seed % len(lengths)], arguments.actions, arguments.paths, arguments.exact_rows)
        for seed in range(arguments.models)
    ]
    rates = {
        number: {
            side: sum(row["brackets"][number][side] for row in trials) / len(trials)
            for side in ("low_errs", "high_errs")
        }
        for number in arguments.paths
    }
    widths = {
        number: sorted((r["brackets"][number]["high"] - r["brackets"][number]["low"]) / r["gap"] for r in trials)
        for number in arguments.paths
    }
    summary = {
        "share_that_errs": rates,
        "median_width_over_gap": {number: values[len(values) // 2] for number, values in widths.items()},
        "gaps": [min(row["gap"] for row in trials), max(row["gap"] for row in trials)],
    }
    make_folder(arguments.out.parent)
    write_json(arguments.out, {**origin, **summary, "models": trials})
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
