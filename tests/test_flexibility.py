"""The measure: training's own numbers in training's order, and policies for which the answer is known beforehand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dipod.decoders import NAMED, Decoder, plan, usual_decoders
from dipod.errors import UserError
from dipod.evaluation import evaluate
from dipod.flexibility import Flexibility, Row, given_places, measure
from dipod.parallel import start
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.policies.transformer import MaskedTransformer
from dipod.recipes import build_policy, build_task
from dipod.tasks import Task
from dipod.tasks.sudoku import MASK_ID, VOCAB_SIZE, SudokuConfig, SudokuTask, solution_grids
from tests.conftest import blank, noise
from tests.test_trainer import tiny

MANY = 4000


class Table(nn.Module):
    """A network whose logits are written down in `logits`."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def encode(self, prompts: Tokens) -> Tensor:
        return prompts.ids

    def forward(self, tokens: Tokens, at: Tensor | None, prompts: Tensor, owner: Tensor) -> Tensor:
        everywhere = self.logits(tokens, prompts[owner])
        assert at is not None
        return everywhere.gather(1, at[..., None].expand(-1, -1, everywhere.shape[-1]))

    def head(self, hidden: Tensor) -> Tensor:
        return hidden

    def logits(self, tokens: Tokens, prompts: Tensor) -> Tensor:
        raise NotImplementedError


class Knowing(Table):
    """Every cell for itself: the right digit with probability ``right``, whatever the others hold."""

    right = 0.9

    def logits(self, tokens: Tokens, prompts: Tensor) -> Tensor:
        grids = solution_grids()
        agree = ((grids == prompts[:, None]) | (prompts[:, None] == 0)).all(-1)
        digits = grids[agree.int().argmax(-1)].gather(1, tokens.positions)  # type: ignore[arg-type]
        return nn.functional.one_hot(digits, VOCAB_SIZE) * math.log(3 * self.right / (1 - self.right))


class Alike(Table):
    """All tokens are alike, 0 or 1 with equal probability: dependent, and exactly the same in every order."""

    def logits(self, tokens: Tokens, prompts: Tensor) -> Tensor:
        del prompts
        counts = torch.stack([(tokens.ids == digit).sum(-1) for digit in (0, 1)], -1)
        follow = torch.where(counts.sum(-1, keepdim=True) > 0, 50.0 * counts, 0.0)
        return nn.functional.pad(follow, (0, 1))[:, None].expand(-1, tokens.ids.shape[1], -1)


class Agreement:
    """Four tokens that must be alike."""

    eos_id = None
    completion_length = 4

    def observe(self, problems: range) -> Tokens:
        return Tokens.full(torch.zeros(len(problems), 1, dtype=torch.long))

    def blank(self, problems: range) -> Tokens:
        return blank(torch.ones(len(problems), 4, dtype=torch.bool))

    def solved(self, problems: range, completion: Tensor) -> Tensor:
        assert len(problems) == len(completion)
        return (completion == completion[:, :1]).all(-1)

    reward = solved


def solved_by(policy: MaskedPolicy, task: Any, problems: Any, decoders: list[Decoder], length: int) -> dict[str, Row]:
    rows = measure(policy, task, problems, plan(SamplerConfig(), decoders, length)[1])
    return {row.name: row for row in rows}


def small() -> tuple[MaskedPolicy, Task]:
    config = tiny()
    task = build_task(config)
    policy = build_policy(config, task)
    assert isinstance(policy.network, MaskedTransformer)
    with torch.no_grad():
        policy.network.head.weight.mul_(40.0)
    return policy, task


def test_training_s_order_gives_the_numbers_of_an_evaluation() -> None:
    policy, task = small()
    problems, config = task.held_out(64), tiny(trainer__gap_problems=0)
    for seed in (0, 3):
        known = evaluate(policy, task, problems, SamplerConfig(), config.trainer, start(), seed).metrics
        plans = plan(SamplerConfig(), usual_decoders(task.completion_length, known=True), task.completion_length)[1]
        found = {row.name: row for row in measure(policy, task, problems, plans, seed)}
        for how, name in (("sampled", "random"), ("greedy", "low_confidence")):
            assert found[name].reward[how] == pytest.approx(known[f"reward_{how}"], abs=1e-6)  # type: ignore[index]
            assert found[name].solved[how] == known[f"solved_{how}"]  # type: ignore[index]
    assert len({row.reward["sampled"] for row in found.values()}) > 5, "the decoders must differ"


def test_independent_tokens_are_solved_alike_in_every_order() -> None:
    """p^n in every order whose choice of places does not look at the drawn tokens, and with any number a step.

    Most confident first looks: with k places left it keeps a right token if any of k was drawn.
    """
    task = SudokuTask(SudokuConfig(blanks="4"))
    policy = MaskedPolicy(Knowing(), MASK_ID, task.vocabulary.barred)
    problems = task.held_out(MANY)
    expected = dict.fromkeys((decoder.name for decoder in usual_decoders(4, known=True)), Knowing.right**4)
    wrong = 1 - Knowing.right
    expected["low_confidence"] = math.prod(1 - wrong**left for left in (4, 3, 2, 1))
    expected["infill_random"] = expected["infill_suffix"] = Knowing.right**2
    del expected["low_confidence/tokens2"]
    found = solved_by(policy, task, problems, usual_decoders(4, known=True), 4)
    for name, share in expected.items():
        error = math.sqrt(share * (1 - share) / MANY)
        assert abs(found[name].solved["sampled"] - share) < 4.5 * error, name
        assert found[name].solved["greedy"] == 1, name


def test_dependent_tokens_of_a_tight_policy_bear_any_order_but_not_several_at_once() -> None:
    policy = MaskedPolicy(Alike(), 2)
    decoders = usual_decoders(4, known=False)
    found = solved_by(policy, Agreement(), range(MANY), decoders, 4)
    for decoder in decoders:
        if decoder.tokens == 1:
            assert found[decoder.name].solved["sampled"] == 1, decoder.name
    for tokens, share in ((2, 1 / 2), (4, 1 / 8)):
        error = math.sqrt(share * (1 - share) / MANY)
        assert abs(found[f"random/tokens{tokens}"].solved["sampled"] - share) < 4.5 * error


def test_greedy_left_to_right_is_a_plain_loop() -> None:
    policy, task = small()
    problems: Any = task.held_out(12)
    observation, places = task.observe(problems), task.blank(problems)
    completion = places.ids.clone()
    for row in range(12):
        masked = places.valid[row].clone()[None]
        one = slice(row, row + 1)
        for place in range(task.completion_length):
            if masked[0, place]:
                action = places[one].with_ids(completion[one])
                with torch.no_grad():
                    logits = policy.completion_logits(observation[one], action, masked, torch.tensor([[place]]))
                completion[row, place] = logits[0, 0].argmax()
                masked[0, place] = False
    sampler = Decoder("left_to_right").sampler(SamplerConfig(), task.completion_length, 0.0)
    assert torch.equal(policy.sample(observation, places, sampler, noise(12)).ids, completion)
    rows = solved_by(policy, task, problems, [Decoder("left_to_right")], task.completion_length)
    assert rows["left_to_right"].reward["greedy"] == pytest.approx(float(task.reward(problems, completion).mean()))


def test_half_of_each_completion_is_given() -> None:
    right = torch.tensor([[4, 5, 4, 5, 4, 9, 9, 9], [4, 5, 4, 5, 4, 5, 4, 0], [9, 9, 9, 9, 9, 9, 9, 9]])
    valid = torch.ones_like(right, dtype=torch.bool)
    valid[1, 7] = False
    suffix = given_places(right, valid, 9, "suffix", 0)
    assert suffix.int().tolist() == [
        [0, 0, 0, 1, 1, 1, 1, 1],  # six tokens with the end; what follows it is given too
        [0, 0, 0, 0, 1, 1, 1, 0],  # seven tokens and no end
        [0, 1, 1, 1, 1, 1, 1, 1],
    ]
    places = torch.stack([given_places(right, valid, 9, "random", seed) for seed in range(300)])
    assert torch.equal(places.sum(-1), suffix.sum(-1).expand(300, -1))
    assert (places[:, 0, 6:]).all()
    assert not places[:, 1, 7].any()
    assert torch.allclose(places[:, 0, :6].double().mean(0), torch.full((6,), 0.5).double(), atol=0.13)
    assert torch.equal(given_places(right, valid, 9, "random", 5), places[5]), "the seed says which"


def test_a_task_without_right_completions_cannot_give_a_part() -> None:
    with pytest.raises(UserError, match="infill_random"):
        solved_by(MaskedPolicy(Alike(), 2), Agreement(), range(4), [NAMED["infill_random"]], 4)


def test_the_cost_is_what_the_network_is_given() -> None:
    config = tiny(task__blanks="4")
    task = build_task(config)
    policy = build_policy(config, task)
    rows: list[int] = []
    policy.network.register_forward_hook(lambda _module, inputs, _hidden: rows.append(len(inputs[0])))
    plans = plan(SamplerConfig(), usual_decoders(4, known=True), 4)[1]
    told: list[int] = []
    measure(policy, task, task.held_out(6), plans, tell=told.append)
    assert sum(rows) == sum(told) == sum(one.forward_rows(4, 6) for one in plans)


def test_loss_is_against_the_row_of_training_at_the_same_temperature() -> None:
    rows = (
        Row("random", "", {"sampled": 0.75, "greedy": 0.5}, {"sampled": 0.0, "greedy": 0.0}),
        Row("margin", "", {"sampled": 0.5, "greedy": 1.0}, {"sampled": 0.0, "greedy": 0.0}),
    )
    one = Flexibility("fpo", 0, 10, "run", None, "random", rows)
    assert one.loss("margin", "sampled") == 0.25
    assert one.loss("margin", "greedy") == -0.5
    assert one.loss("entropy", "greedy") is None
