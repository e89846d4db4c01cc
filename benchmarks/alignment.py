"""Whether the measured angle is right: at a tight model, where its drift is known, and sampled against exact.

    python benchmarks/alignment.py

1. Every row of the table at a tight two-token model whose tokens depend on each other, π(AA, AB, BA, BB) = .4, .1, .2,
   .3: at the masks and the K that the row is trained with, an adequate row has cosine 1 and no drift.
2. Random policies whose exact angle is known, looked at as the monitor does, many times on the same rollouts: mean and
   spread of the sampled cosine, the error that it states, and how often it is below noise; and all looks pooled.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from brackets import PROMPT, TOKENS, random_policy
from common import RESULTS, provenance
from torch import Tensor

from dipod.algorithms import ALGORITHMS
from dipod.drift import Estimator, exact_alignment, pooled, sampled_alignment
from dipod.drift.monitor import MonitorConfig
from dipod.files import make_folder, write_json
from dipod.likelihood.evidence import Score
from dipod.noise import Noise, keyed_generator
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.two_token import TwoTokenModel

JOINT = {"AA": 0.4, "AB": 0.1, "BA": 0.2, "BB": 0.3}
ADVANTAGE = torch.tensor([0.5, -1.0, 2.0, -0.3], dtype=torch.float64)


def tight_model() -> TwoTokenModel:
    """The model whose six conditionals all belong to `JOINT`."""
    first, second = JOINT["AA"] + JOINT["AB"], JOINT["AA"] + JOINT["BA"]
    given = [JOINT["AA"] / second, first, JOINT["AA"] / first, second]
    given += [JOINT["AB"] / (1 - second), JOINT["BA"] / (1 - first)]
    return TwoTokenModel(torch.tensor(given, dtype=torch.float64).logit())


def at_a_tight_model() -> list[dict[str, Any]]:
    """Cosine and drift share of every row, exact, at its own masks."""
    model = tight_model()
    valid, rows = torch.ones(4, 2, dtype=torch.bool), []

    def score(outcomes: Tensor, hidden: Tensor | None) -> Score:
        del hidden
        place = torch.tensor([1, 2])
        return lambda r, masked: model.table()[outcomes[r], ((masked * place).sum(-1) - 1).clamp_min(0)] * masked

    for name, row in ALGORITHMS.items():
        estimator = Estimator(row.on_policy, row.corruption, row.weight)
        noise = Noise.keyed("tight", examples=range(4))
        found = exact_alignment(score, valid, ADVANTAGE, estimator, [model.logits], noise)
        rows.append({"algorithm": name, "adequate": row.adequate, "samples": row.corruption.samples, **found.numbers()})
    return rows


def looked_at(seed: int, tokens: int, actions: int, paths: int, looks: int) -> dict[str, Any]:
    """One policy: its exact cosine on some own actions, and sampled ones."""
    policy, row = random_policy(seed, tokens), ALGORITHMS["fpo"]
    policy.network.double()
    prompts = Tokens.full(torch.zeros(actions, PROMPT, dtype=torch.int64))
    valid = torch.ones(actions, tokens, dtype=torch.bool)
    places = Tokens(torch.full((actions, tokens), TOKENS), valid)
    sample = policy.sample(prompts, places, SamplerConfig(), Noise.keyed(seed, "own", examples=range(actions)))
    action = Tokens(sample.ids, valid)
    reward = torch.randn(actions, generator=keyed_generator(seed, "reward"), dtype=torch.float64)
    advantage, parameters = reward - reward.mean(), list(policy.network.parameters())

    def score(rows: Tensor, hidden: Tensor | None) -> Score:
        return policy.score(policy.hide(prompts[rows], hidden), action[rows])

    estimator = Estimator(row.on_policy, row.corruption, row.weight)
    noise = Noise.keyed(seed, "exact", examples=range(actions))
    truth = exact_alignment(score, valid, advantage, estimator, parameters, noise)
    found = [
        sampled_alignment(
            score,
            valid,
            advantage,
            estimator,
            parameters,
            sample.order,
            Noise.keyed(seed, "look", look, examples=range(actions)),
            None,
            paths,
            rows_per_pass=4096,
        )
        for look in range(looks)
    ]
    clear = [each for each in found if not each.below_noise]
    together = pooled([each.products for each in found if each.products is not None])
    return {
        "seed": seed,
        "tokens": tokens,
        "exact": truth.cosine,
        "below_noise": 1 - len(clear) / looks,
        "mean": statistics.fmean(each.cosine for each in clear) if clear else None,
        "spread": statistics.stdev(each.cosine for each in clear) if len(clear) > 1 else None,
        "stated_error": statistics.median(each.cosine_error for each in clear) if clear else None,
        "pooled": None if together.below_noise else together.cosine,
        "pooled_error": None if together.below_noise else together.cosine_error,
    }


def main() -> None:
    """Measure and write the result."""
    usual = MonitorConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=12, help="random policies (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=6, help="of a completion (default: %(default)s)")
    parser.add_argument("--actions", type=int, default=usual.aligned, help="a look (default: the monitor's)")
    parser.add_argument("--paths", type=int, default=usual.paths, help="orders an action (default: the monitor's)")
    parser.add_argument("--looks", type=int, default=20, help="at each policy (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "alignment-cpu.json", help="JSON file (%(default)s)")
    arguments = parser.parse_args()
    origin = provenance("alignment.py", "cpu")
    tight = at_a_tight_model()
    sizes = (arguments.tokens, arguments.actions, arguments.paths, arguments.looks)
    sampled = [looked_at(seed, *sizes) for seed in range(arguments.models)]
    told = [row for row in sampled if row["pooled"] is not None]
    within = [abs(row["pooled"] - row["exact"]) <= 1.96 * row["pooled_error"] + 1e-3 for row in told]
    summary = {"policies": len(sampled), "pooled_told": len(told), "pooled_within_its_interval": sum(within)}
    make_folder(arguments.out.parent)
    write_json(arguments.out, {**origin, **summary, "tight": tight, "sampled": sampled})
    for row in [*tight, *sampled, summary]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
