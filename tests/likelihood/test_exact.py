"""The subset recursion against brute force over all decoding orders, and the laws that it must obey."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from dipod.errors import UserError
from dipod.likelihood.evidence import MaskedEvidence, Score
from dipod.likelihood.exact import (
    MAX_EXACT_TOKENS,
    all_corruptions,
    all_masks,
    elbo_from_table,
    exact_likelihood,
    exact_path_eubo,
    exact_table,
    log_prob_from_table,
)
from dipod.likelihood.masked import spg_eubo
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, prompts


def path_log_probs(score: Score, length: int) -> Tensor:
    """Log p along every decoding order of row 0, [n!], one model call a token: no table, no recursion."""
    totals = []
    for order in permutations(range(length)):
        masked = torch.ones(1, length, dtype=torch.bool)
        total = torch.zeros((), dtype=torch.float64)
        for position in order:
            total = total + score(torch.tensor([0]), masked)[0, position]
            masked = masked.clone()
            masked[0, position] = False
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_equals_brute_force_over_orders(length: int) -> None:
    policy = build_policy(length)
    action = Tokens.full(every_completion(length)[-2:-1])
    score = policy.score(prompts(1), action)
    paths = path_log_probs(score, length).detach()
    exact = exact_likelihood(score, action.valid)
    count = torch.tensor(float(len(paths)), dtype=torch.float64)
    torch.testing.assert_close(exact.log_prob[0], paths.logsumexp(0) - count.log())
    torch.testing.assert_close(exact.elbo[0], paths.mean())
    order = 1.7
    eubo = ((order * paths).logsumexp(0) - count.log()) / order
    torch.testing.assert_close(exact_path_eubo(score, action.valid, order)[0], eubo)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_probabilities_of_all_completions_sum_to_one(seed: int) -> None:
    completions = every_completion(4)
    policy = build_policy(4, seed=seed)
    score = policy.score(prompts(len(completions)), Tokens.full(completions))
    likelihood = exact_likelihood(score, torch.ones_like(completions, dtype=torch.bool), rows_per_pass=100)
    torch.testing.assert_close(likelihood.log_prob.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(5))
def test_elbo_below_log_prob_below_path_eubo(seed: int) -> None:
    completions = every_completion(4)
    score = build_policy(4, seed=seed).score(prompts(len(completions)), Tokens.full(completions))
    valid = torch.ones_like(completions, dtype=torch.bool)
    likelihood = exact_likelihood(score, valid)
    uppers = [exact_path_eubo(score, valid, order) for order in (1.0, 1.5, 3.0)]
    assert (likelihood.gap > 1e-4).all(), "the random model should not be tight"
    torch.testing.assert_close(uppers[0], likelihood.log_prob)  # order 1 is log π
    assert (uppers[1] > likelihood.log_prob).all()
    assert (uppers[2] > uppers[1]).all(), "the bound grows with its order"


def test_enumerated_corruptions_give_the_exact_elbo() -> None:
    completions = every_completion(3)[:7]
    score = build_policy(3).score(prompts(7), Tokens.full(completions))
    table = exact_table(score, torch.ones(7, 3, dtype=torch.bool))
    corruption = all_corruptions(3, 7)
    evidence = MaskedEvidence(table, corruption.masked, corruption.weights)
    torch.testing.assert_close(evidence.elbo(), elbo_from_table(table))


def test_tight_model_makes_every_bound_equal() -> None:
    """Conditionals of one joint distribution: order does not matter, so ELBO = log π = path EUBO."""
    joint = torch.rand(2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    joint = joint / joint.sum()
    outcome = (1, 0, 1)
    table = torch.zeros(1, 7, 3, dtype=torch.float64)
    for row, masked in enumerate(all_masks(3).tolist()):
        fixed = tuple(slice(None) if m else outcome[i] for i, m in enumerate(masked))
        rest = [i for i, m in enumerate(masked) if m]
        conditional = joint[fixed]
        for axis, position in enumerate(rest):
            others = [a for a in range(len(rest)) if a != axis]
            marginal = conditional.sum(others) if others else conditional
            table[0, row, position] = (marginal[outcome[position]] / conditional.sum()).log()
    truth = joint[outcome].log()
    torch.testing.assert_close(log_prob_from_table(table)[0], truth)
    torch.testing.assert_close(elbo_from_table(table)[0], truth)
    torch.testing.assert_close(log_prob_from_table(table, 2.5)[0], truth)
    corruption = all_corruptions(3, 1)
    surrogate = spg_eubo(MaskedEvidence(table, corruption.masked, corruption.weights), 1.5)
    assert abs(float(surrogate[0] - truth)) > 1e-3, "SPG's surrogate is not tight where tokens depend on each other"


def test_padding_and_mixed_lengths_change_nothing() -> None:
    policy = build_policy(5)
    ids = every_completion(5)[[3, 77, 160, 242]]
    lengths = torch.tensor([2, 5, 3, 5])
    valid = torch.arange(5) < lengths[:, None]
    together = exact_likelihood(policy.score(prompts(4), Tokens(ids, valid)), valid)
    for row, length in enumerate(lengths.tolist()):
        alone = Tokens.full(ids[row : row + 1, :length])
        single = exact_likelihood(policy.score(prompts(1), alone), alone.valid)
        torch.testing.assert_close(together.log_prob[row], single.log_prob[0])
        torch.testing.assert_close(together.elbo[row], single.elbo[0])


def test_passes_do_not_change_the_result() -> None:
    completions = every_completion(4)[:9]
    score = build_policy(4).score(prompts(9), Tokens.full(completions))
    valid = torch.ones_like(completions, dtype=torch.bool)
    whole, parts = exact_likelihood(score, valid, None), exact_likelihood(score, valid, 7)
    torch.testing.assert_close(whole.log_prob, parts.log_prob)


def test_gradient_is_that_of_log_prob() -> None:
    table = -torch.rand(1, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = (table * all_masks(3)).requires_grad_()
    assert torch.autograd.gradcheck(log_prob_from_table, (table,))


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match="tokens = "):
        all_masks(MAX_EXACT_TOKENS + 1)
    with pytest.raises(UserError, match="order"):
        log_prob_from_table(torch.zeros(1, 3, 2), order=0.5)
