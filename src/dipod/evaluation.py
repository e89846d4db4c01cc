"""How good a policy is on held-out problems, and how tight its bound is there."""

from __future__ import annotations

import torch

from dipod.drift import measure_gap
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import GREEDY, SamplerConfig
from dipod.tasks import Problems, Task

Metrics = dict[str, float | int | str]


def evaluate(
    policy: MaskedPolicy,
    task: Task,
    problems: Problems,
    sampler: SamplerConfig,
    gap_problems: int,
    exact_tokens: int,
    seed: int = 0,
) -> Metrics:
    """One sampled and one greedy completion for each problem, and the gap on the samples.

    Args:
        policy: what is evaluated.
        task: what it is evaluated on.
        problems: held-out problems of the task.
        sampler: how the policy samples.
        gap_problems: the gap is measured on the samples of the first so many problems.
        exact_tokens: longest completion whose likelihood is computed exactly.
        seed: of the sampling noise; the same noise makes evaluations comparable.

    Returns:
        ``cells_*`` (mean reward) and ``solved_*`` (share solved) for sampled and greedy decoding; ``elbo`` and
        ``gap`` in nats, ``gap_kind``.
    """
    generator = torch.Generator().manual_seed(seed)
    observation, blank = task.observe(problems), task.blank(problems)
    metrics: Metrics = {}
    sampled = blank.with_ids(policy.sample(observation, blank, sampler, generator).ids)
    greedy = blank.with_ids(policy.sample(observation, blank, GREEDY, generator).ids)
    for name, action in (("sampled", sampled), ("greedy", greedy)):
        metrics[f"cells_{name}"] = float(task.reward(problems, action.ids).mean())
        metrics[f"solved_{name}"] = float(task.solved(problems, action.ids).float().mean())
    few = slice(0, gap_problems)
    measured = measure_gap(policy.score(observation[few], sampled[few]), blank.valid[few], generator, exact_tokens)
    return metrics | {"elbo": measured.elbo, "gap": measured.gap, "gap_kind": measured.kind}
