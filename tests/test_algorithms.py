"""Adequacy (Definition 2.1): at a tight model every row's gradient is Â·∇log π; and eq. 7's added term."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dipod.algorithms import ALGORITHMS
from dipod.likelihood.evidence import MaskedEvidence
from dipod.likelihood.exact import elbo_from_table, log_prob_from_table
from dipod.two_token import OUTCOMES, TwoTokenModel

INDEPENDENT = {"a": 0.3, "b": 0.3, "c": 0.6, "d": 0.6, "e": 0.3, "f": 0.6}


def tight_logits(joint: dict[str, float]) -> Tensor:
    """The six logits whose conditionals are those of one joint distribution: tight, whatever the dependence."""
    first = joint["AA"] + joint["AB"]
    second = joint["AA"] + joint["BA"]
    probabilities = torch.tensor(
        [
            joint["AA"] / second,
            first,
            joint["AA"] / first,
            second,
            joint["AB"] / (1 - second),
            joint["BA"] / (1 - first),
        ],
        dtype=torch.float64,
    )
    return probabilities.logit()


def gradients(model: TwoTokenModel, values: Tensor) -> Tensor:
    """∇ of each of the four values, [4, 6]."""
    return torch.stack([torch.autograd.grad(v, model.logits, retain_graph=True)[0] for v in values])


def estimate(name: str, evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
    """The surrogate of a row on-policy, [4]."""
    proxy = ALGORITHMS[name].proxy(evidence, advantage)
    return ALGORITHMS[name].surrogate(proxy, proxy.detach(), advantage)


@pytest.mark.parametrize("name", ["fpo", "spg-elbo"])
def test_elbo_estimators_are_adequate_at_any_tight_model(name: str) -> None:
    model = TwoTokenModel(tight_logits({"AA": 0.4, "AB": 0.1, "BA": 0.2, "BB": 0.3}))
    evidence, advantage = model.evidence(), torch.tensor([0.5, -1.0, 2.0, -0.3], dtype=torch.float64)
    log_prob = log_prob_from_table(evidence.token_log_probs)
    torch.testing.assert_close(elbo_from_table(evidence.token_log_probs), log_prob)  # tight indeed
    expected = advantage[:, None] * gradients(model, log_prob)
    torch.testing.assert_close(gradients(model, estimate(name, evidence, advantage)), expected)


@pytest.mark.parametrize("name", ["fpo", "spg", "spg-eubo", "spg-elbo"])
def test_every_estimator_is_adequate_where_the_tokens_are_independent(name: str) -> None:
    model = TwoTokenModel(torch.tensor(list(INDEPENDENT.values()), dtype=torch.float64))
    evidence, advantage = model.evidence(), torch.tensor([0.5, -1.0, 2.0, -0.3], dtype=torch.float64)
    expected = advantage[:, None] * gradients(model, log_prob_from_table(evidence.token_log_probs))
    torch.testing.assert_close(gradients(model, estimate(name, evidence, advantage)), expected)


def test_spg_with_the_path_eubo_is_adequate_at_any_tight_model() -> None:
    """Eq. 5 with eq. 19's bound: what the paper's proof is about."""
    model = TwoTokenModel(tight_logits({"AA": 0.4, "AB": 0.1, "BA": 0.2, "BB": 0.3}))
    table, advantage = model.table(), torch.tensor([0.5, -1.0, 2.0, -0.3], dtype=torch.float64)
    proxy = torch.where(advantage > 0, elbo_from_table(table), log_prob_from_table(table, order=1.5))
    expected = advantage[:, None] * gradients(model, log_prob_from_table(table))
    torch.testing.assert_close(gradients(model, advantage * proxy), expected)


def test_spg_with_its_surrogate_is_not_adequate_where_tokens_depend_on_each_other() -> None:
    """Eq. 21 factorises over tokens: tightness of the ELBO does not make it exact. A fact worth knowing, so a test."""
    model = TwoTokenModel(tight_logits({"AA": 0.4, "AB": 0.1, "BA": 0.2, "BB": 0.3}))
    evidence, advantage = model.evidence(), torch.full((4,), -1.0, dtype=torch.float64)
    expected = advantage[:, None] * gradients(model, log_prob_from_table(evidence.token_log_probs))
    difference = gradients(model, estimate("spg-eubo", evidence, advantage)) - expected
    assert float(difference.norm() / expected.norm()) > 0.05


def test_rewards_below_the_mean_teach_nothing_without_negatives() -> None:
    model = TwoTokenModel()
    advantage = torch.tensor([0.5, -1.0, 2.0, -0.3], dtype=torch.float64)
    gradient = gradients(model, estimate("spg-zero", model.evidence(), advantage))
    assert (gradient[advantage < 0] == 0).all()
    assert (gradient[advantage > 0] != 0).any()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_objective_is_equation_7(name: str) -> None:
    """∇ objective = (1/m) Σ [g + β∇ELBO], β in units of the advantage."""
    model = TwoTokenModel(torch.linspace(-1, 1, 6))
    evidence, advantage = model.evidence(), torch.tensor([0.5, -1.0, 2.0, -0.3], dtype=torch.float64)
    row, elbo = ALGORITHMS[name], evidence.elbo()
    new = row.proxy(evidence, advantage)
    (total,) = torch.autograd.grad(
        row.objective(new, new.detach(), advantage, elbo, 0.3), model.logits, retain_graph=True
    )
    separate = gradients(model, estimate(name, evidence, advantage)) + 0.3 * gradients(model, elbo)
    torch.testing.assert_close(total, separate.sum(0) / len(OUTCOMES))
