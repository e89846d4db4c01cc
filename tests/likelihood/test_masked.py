"""The bounds of the paper's equations 17 to 21 and the proxies made of them."""

from __future__ import annotations

import pytest
import torch

from dipod.errors import UserError
from dipod.likelihood.corruption import CorruptionConfig, draw
from dipod.likelihood.evidence import MaskedEvidence
from dipod.likelihood.exact import all_corruptions, exact_table
from dipod.likelihood.masked import elbo_proxy, sandwich, spg_eubo
from dipod.policies.tokens import Tokens
from tests.conftest import build_policy, every_completion, noise, prompts


def two_token_evidence(first: tuple[float, float], second: tuple[float, float]) -> MaskedEvidence:
    """One completion of two tokens: (p given nothing, p given the other) for each token."""
    table = torch.tensor([[[first[1], 1.0], [1.0, second[1]], [first[0], second[0]]]], dtype=torch.float64).log()
    corruption = all_corruptions(2, 1)
    return MaskedEvidence(table, corruption.masked, corruption.weights)


def test_spg_eubo_formula_on_two_tokens() -> None:
    """Eq. 21 by hand: each token is masked alone and with the other half of the time."""
    value = spg_eubo(two_token_evidence((0.3, 0.6), (0.5, 0.2)), 1.5)
    by_hand = sum(
        torch.tensor(0.5 * alone**1.5 + 0.5 * known**1.5).log() / 1.5 for alone, known in ((0.3, 0.6), (0.5, 0.2))
    )
    assert float(value[0]) == pytest.approx(float(by_hand), abs=1e-6)


def test_spg_eubo_is_exact_where_the_tokens_are_independent() -> None:
    evidence = two_token_evidence((0.3, 0.3), (0.5, 0.5))
    assert float(spg_eubo(evidence, 1.5)) == pytest.approx(float(torch.tensor(0.15).log()), abs=1e-6)


def test_spg_eubo_never_falls_below_the_elbo() -> None:
    completions = every_completion(4)
    score = build_policy(4).score(prompts(len(completions)), Tokens.full(completions))
    table = exact_table(score, torch.ones_like(completions, dtype=torch.bool))
    corruption = all_corruptions(4, len(completions))
    evidence = MaskedEvidence(table, corruption.masked, corruption.weights)
    assert (spg_eubo(evidence, 1.0) >= evidence.elbo()).all()
    assert (spg_eubo(evidence, 2.0) >= spg_eubo(evidence, 1.0)).all()


@pytest.mark.parametrize("order", [1.0, 1.5, 3.0])
def test_at_a_tight_model_spg_s_eubo_is_never_below_the_likelihood(order: float) -> None:
    """Conditionals of 200 random joints of three bits, all masks in expectation; equal only where tokens are free."""
    joint = torch.rand(200, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    joint = joint / joint.sum((1, 2, 3), keepdim=True)
    free = torch.einsum("bi,bj,bk->bijk", joint.sum((2, 3)), joint.sum((1, 3)), joint.sum((1, 2)))
    for law, independent in ((joint, False), (free, True)):
        table = torch.zeros(200, 7, 3, dtype=torch.float64)  # of the completion 000
        for m in range(1, 8):
            hidden = [i for i in range(3) if m >> i & 1]
            seen = law[(slice(None), *(slice(None) if i in hidden else 0 for i in range(3)))]
            for place, token in enumerate(hidden):
                others = [axis + 1 for axis in range(len(hidden)) if axis != place]
                each = seen.sum(others) if others else seen
                table[:, m - 1, token] = (each[:, 0] / each.sum(1)).log()
        corruption = all_corruptions(3, 200)
        evidence = corruption.evidence(table)
        log_prob = law[:, 0, 0, 0].log()
        torch.testing.assert_close(evidence.elbo(), log_prob)  # tight
        above = spg_eubo(evidence, order) - log_prob
        assert float(above.min()) > -1e-12
        assert float(above.max()) < 1e-12 if independent else float(above.max()) > 0.01


def test_where_the_bound_is_loose_spg_s_eubo_may_lie_below_the_likelihood() -> None:
    """Orders that disagree (one confident path): log π = log(½·0.81 + ½·0.01), a gap of .3 nats."""
    evidence = two_token_evidence((0.9, 0.1), (0.1, 0.9))
    log_prob = torch.tensor(0.5 * 0.9 * 0.9 + 0.5 * 0.1 * 0.1).log()
    assert float(spg_eubo(evidence, 1.5)) < float(log_prob)
    assert float(log_prob - evidence.elbo()) > 0.2, "not a tight model"


def test_unseen_tokens_are_left_out_without_nan() -> None:
    logits = torch.zeros(1, 1, 3, requires_grad=True)
    masked = torch.tensor([[[True, False, True]]])
    evidence = MaskedEvidence(torch.where(masked, logits - 1.0, 0.0), masked, torch.full((1, 1), 1.5))
    value = spg_eubo(evidence, 1.5)
    value.sum().backward()
    assert value.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[[1.0, 0.0, 1.0]]]


def test_sandwich_takes_its_bound_by_the_sign_of_the_advantage() -> None:
    action = Tokens.full(every_completion(4)[:3])
    evidence = build_policy(4).evidence(
        prompts(3), action, draw(CorruptionConfig("independent", 2), action.valid, None, noise(len(action)))
    )
    advantage = torch.tensor([1.0, -1.0, 2.0])
    lower, upper = evidence.elbo(), spg_eubo(evidence, 1.5)
    torch.testing.assert_close(sandwich(evidence, advantage), torch.where(advantage > 0, lower, upper))
    mixed = sandwich(evidence, advantage, eubo_weight=0.25)
    torch.testing.assert_close(mixed[1], 0.25 * upper[1] + 0.75 * lower[1])
    torch.testing.assert_close(sandwich(evidence, advantage, eubo_weight=0.0), elbo_proxy(evidence, advantage))
    assert sandwich(evidence, advantage, keep_negative=False)[1] == 0


def test_orders_below_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"order = 0\.5"):
        spg_eubo(two_token_evidence((0.3, 0.3), (0.5, 0.5)), 0.5)
