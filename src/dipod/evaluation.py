"""How good a policy is on held-out problems, and how tight its bound is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dipod.config import TrainerConfig
from dipod.drift import measure_gap
from dipod.drift.gap import ENTROPY_KINDS, GapKind
from dipod.errors import require
from dipod.loop import Metrics
from dipod.noise import Noise
from dipod.parallel import Processes
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.tasks import Problems, Task
from dipod.tasks.text.questions import Questions
from dipod.tasks.text.task import TextTask

ROWS_PER_PASS = 4096


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: ``reward_*`` (mean) and ``solved_*`` (share) for sampled and greedy decoding, ``tokens`` (mean length
            of a sampled action), each also as ``name/set`` where there are several test sets; ``elbo`` and ``gap`` in
            nats with ``gap_kind``, and ``entropy``, the mean -log π of the sampled actions in nats a token, with
            ``entropy_kind``, where measured.
        shown: a few problems with their sampled and greedy completions, for people.
    """

    metrics: Metrics
    shown: list[dict[str, Any]]


def evaluate(
    policy: MaskedPolicy,
    task: Task,
    problems: Problems,
    sampler: SamplerConfig,
    config: TrainerConfig,
    processes: Processes,
    seed: int = 0,
    show: int = 0,
) -> Evaluation:
    """One sampled and one greedy completion for each problem, and the gap on the samples.

    Args:
        policy: what is evaluated.
        task: what it is evaluated on.
        problems: held-out problems of the task.
        sampler: how the policy samples; greedy decoding takes the likeliest token at the most confident place, with the
            same blocks and steps.
        config: on how many problems the gap is measured, and how.
        processes: share the problems out; the metrics are those of all of them.
        seed: of the sampling noise; the same noise makes evaluations comparable.
        show: of so many problems, the completions are returned for people.
    """
    mine = _share(len(problems), processes)
    here = problems[mine]
    index = torch.arange(len(problems))[mine]
    observation, blank = task.observe(here), task.blank(here)
    device = next(policy.network.parameters()).device
    metrics: Metrics = {}
    shown: list[dict[str, Any]] = []
    values: dict[str, Tensor] = {}
    actions = {}
    greedy = replace(sampler, temperature=0.0, remasking="low_confidence", noise="float32")
    for name, how in (("sampled", sampler), ("greedy", greedy)):
        noise = Noise.keyed(seed, "evaluation", name, examples=index.tolist(), device=device)
        ids = policy.sample(observation.to(device), blank.to(device), how, noise, task.eos_id).ids.cpu()
        actions[name] = task.complete(here, ids)
        values[f"reward_{name}"] = processes.together(partial(task.reward, here, ids))
        values[f"solved_{name}"] = task.solved(here, ids).float()
        for i, row in enumerate(task.show(here[:show], ids[:show])):
            if len(shown) <= i:
                shown.append({key: value for key, value in row.items() if key not in ("filled", "completion")})
            shown[i][name] = row.get("filled", row.get("completion"))
    action, counted = actions["sampled"]
    values["tokens"] = counted.sum(-1).float()
    sets = task.sets(problems) if isinstance(task, TextTask) and isinstance(problems, Questions) else []
    for name, value in values.items():
        found = processes.gather_uneven(value).double()
        metrics[name] = float(found.mean())
        for of in dict.fromkeys(sets):
            metrics[f"{name}/{of}"] = float(found[torch.tensor([its == of for its in sets])].mean())
    few = int((index < config.gap_problems).sum())
    if config.gap_problems:
        measured = Measured(observation[:few].to(device), action[:few].to(device), counted[:few], index[:few])
        metrics |= _gap(policy, measured, config, processes)
    return Evaluation(metrics, shown)


@dataclass(frozen=True)
class Measured:
    """Rollouts that the gap is measured on, and which of the held-out problems they answer."""

    observation: Tokens
    action: Tokens
    counted: Tensor
    index: Tensor


def _gap(policy: MaskedPolicy, on: Measured, config: TrainerConfig, processes: Processes) -> Metrics:
    """The mean gap over the problems of all processes, and the entropy that goes with it."""
    longest = on.counted.sum(-1).max() if len(on.index) else torch.tensor(0)
    exact = int(processes.gather_uneven(longest.reshape(1)).max()) <= config.exact_tokens
    totals = torch.zeros(4, dtype=torch.float64)
    if len(on.index):
        found = measure_gap(
            policy.score(on.observation, on.action),
            on.counted.to(on.action.ids.device),
            Noise.keyed("gap", examples=on.index.tolist()),
            config.exact_tokens if exact else 0,
            config.gap_paths,
            config.rows_per_pass or ROWS_PER_PASS,
        )
        tokens = float(on.counted.sum(-1).double().mean())
        totals = torch.tensor([found.gap, found.elbo, tokens, 1.0], dtype=torch.float64) * len(on.index)
    gap, elbo, tokens, count = processes.gather_uneven(totals[None]).sum(0).tolist()
    kind: GapKind = "exact" if exact else "lower_bound"
    return {
        "elbo": elbo / count,
        "gap": gap / count,
        "gap_kind": kind,
        "entropy": -(elbo + gap) / tokens,
        "entropy_kind": ENTROPY_KINDS[kind],
    }


def _share(total: int, processes: Processes) -> slice:
    """Rows of this process, as even as can be."""
    rank, count = processes.rank, processes.count
    require(total >= count, "trainer.evaluate_problems", total, f"give each of the {count} processes at least one")
    return slice(rank * total // count, (rank + 1) * total // count)
