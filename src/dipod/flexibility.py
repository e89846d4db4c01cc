"""What drift costs the user: solved problems and reward under decoders that a policy was not trained with.

All decoders draw from the same noise, that of `dipod.evaluation.evaluate`; what they do not change (guidance, precision
of the noise) is as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dipod.decoders import Given, How, Plan
from dipod.errors import UserError
from dipod.noise import Noise
from dipod.policies.masked import MaskedPolicy
from dipod.tasks import Problems, Task
from dipod.tasks.solutions import solutions


@dataclass(frozen=True)
class Row:
    """What a decoder makes of a policy.

    Attributes:
        name: the decoder's.
        label: in words.
        solved: share of problems solved, sampled and greedily.
        reward: mean reward, likewise.
    """

    name: str
    label: str
    solved: dict[How, float]
    reward: dict[How, float]


def measure(
    policy: MaskedPolicy,
    task: Task,
    problems: Problems,
    plans: Sequence[Plan],
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> list[Row]:
    """Decode every problem by every plan, once at temperature 1 and once at 0.

    As trained, the sampled numbers are those of `dipod.evaluation.evaluate` with the same seed.

    Args:
        policy: what is measured.
        task: what on.
        problems: held-out problems of it.
        plans: from `plan`.
        seed: of the noise.
        tell: called after each decoding with its forward rows.

    Raises:
        UserError: a plan gives part of a right completion, and the task knows none.
    """
    right = solutions(task, problems) if any(row.given != "nothing" for row in plans) else None
    rows = []
    for row in plans:
        solved: dict[How, float] = {}
        reward: dict[How, float] = {}
        for how, sampler in row.samplers.items():
            ids = _decode(policy, task, problems, row, how, seed, right)
            solved[how] = float(task.solved(problems, ids).double().mean())
            reward[how] = float(task.reward(problems, ids).double().mean())
            if tell is not None:
                tell(replace(row, samplers={how: sampler}).forward_rows(ids.shape[1], len(problems)))
        rows.append(Row(row.name, row.label, solved, reward))
    return rows


def _decode(
    policy: MaskedPolicy, task: Task, problems: Problems, row: Plan, how: How, seed: int, right: Tensor | None
) -> Tensor:
    """Completions [B, L]."""
    device = next(policy.network.parameters()).device
    noise = Noise.keyed(seed, "evaluation", how, examples=range(len(problems)), device=device)
    observation, blank, given = task.observe(problems).to(device), task.blank(problems).to(device), None
    if row.given != "nothing":
        if right is None:
            raise UserError("decoders", row.name, "the task knows no right completion of which a part could be given")
        right = right.to(device)
        given = given_places(right, blank.valid, task.eos_id, row.given, seed)
        blank = blank.with_ids(torch.where(given, right, blank.ids))
    return policy.sample(observation, blank, row.samplers[how], noise, task.eos_id, given).ids.cpu()


def given_places(right: Tensor, valid: Tensor, eos_id: int | None, given: Given, seed: int) -> Tensor:
    """Which places of right completions are given: half of each one's tokens, rounded down, and what follows its end.

    Args:
        right: [B, L] int64.
        valid: [B, L] bool.
        eos_id: the token that ends a completion, and is part of it; None where none does.
        given: "random" places or the "suffix".
        seed: of the places.

    Returns:
        [B, L] bool.
    """
    ended = torch.zeros_like(valid) if eos_id is None else (right == eos_id) & valid
    behind = valid & (ended.cumsum(-1) - ended.long() > 0)
    own = valid & ~behind
    half = own.sum(-1, keepdim=True) // 2
    if given == "suffix":
        left = own.flip(-1).cumsum(-1).flip(-1)
        return (own & (left <= half)) | behind
    keys = Noise.keyed(seed, "given", examples=range(len(right)), device=right.device).uniform(right.shape[1])
    rank = keys.masked_fill(~own, torch.inf).argsort(-1).argsort(-1)
    return (own & (rank < half)) | behind


@dataclass(frozen=True)
class Flexibility:
    """What one policy does under every decoder.

    Attributes:
        policy: what it is called: an algorithm, or what came before.
        seed: of its run.
        step: updates done.
        source: the checkpoint.
        gap: of the bound there as its run measured it, nats; None where it did not.
        trained: the row that decodes as it was trained.
        rows: one for each decoder.
    """

    policy: str
    seed: int
    step: int
    source: str
    gap: float | None
    trained: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row | None:
        """The row of a decoder, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def loss(self, name: str, how: How) -> float | None:
        """Share solved as trained, minus that under a decoder, at the same temperature; negative is a gain."""
        row, own = self.row(name), self.row(self.trained)
        return None if row is None or own is None else own.solved[how] - row.solved[how]
