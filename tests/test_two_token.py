"""The two-token experiment against the paper's closed forms, its propositions, and an independent re-computation."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipod import two_token
from dipod.likelihood.evidence import MaskedEvidence
from dipod.likelihood.exact import elbo_from_table, log_prob_from_table
from dipod.objectives.baselines import exact_expectation
from dipod.tightening import Distillation, Interleave, Regularise
from dipod.two_token import METHODS, OUTCOMES, REWARDS, TwoTokenModel

Array = NDArray[np.float64]


def reference_bounds(theta: Array) -> tuple[Array, Array, Array]:
    """(log π, ELBO, SPG's EUBO of order 1.5) of AA, AB, BA, BB, written out as in appendix D, in NumPy alone."""
    a, b, c, d, e, f = 1 / (1 + np.exp(-theta))
    paths = {  # (first token, then second) and (second, then first) factors, and the four conditionals
        "AA": (b, c, d, a),
        "AB": (b, 1 - c, 1 - d, e),
        "BA": (1 - b, f, d, 1 - a),
        "BB": (1 - b, 1 - f, 1 - d, 1 - e),
    }
    factors = np.array([paths[o] for o in OUTCOMES])
    x1_alone, x2_known, x2_alone, x1_known = factors.T
    log_prob = np.log(0.5 * x1_alone * x2_known + 0.5 * x2_alone * x1_known)
    elbo = 0.5 * np.log(factors).sum(-1)
    eubo = (np.log(0.5 * x1_alone**1.5 + 0.5 * x1_known**1.5) + np.log(0.5 * x2_alone**1.5 + 0.5 * x2_known**1.5)) / 1.5
    return log_prob, elbo, eubo


def numeric_jacobian(theta: Array, which: int) -> Array:
    """Central differences of one of the three quantities, [4, 6]."""
    columns = []
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-6
        columns.append((reference_bounds(theta + step)[which] - reference_bounds(theta - step)[which]) / 2e-6)
    return np.stack(columns, -1)


def reference_run(method: str, steps: int) -> tuple[list[float], list[float], list[float], Array]:
    """Appendix D's algorithms with numerical gradients: an implementation that shares no line with the library."""
    theta, reward = np.full(6, 0.5), np.array(REWARDS)
    base, _, suffix = method.partition("+")
    returns: list[float] = []
    gaps: list[float] = []
    cosines: list[float] = []
    for step in range(steps + 1):
        log_prob, elbo, _ = reference_bounds(theta)
        policy = np.exp(log_prob)
        advantage = reward - policy @ reward
        true, lower, upper = (numeric_jacobian(theta, i) for i in range(3))
        proxy = {"pg": true, "fpo": lower, "spg": np.where(advantage[:, None] > 0, lower, upper)}[base]
        estimated, exact = (policy * advantage) @ proxy, (policy * advantage) @ true
        returns.append(float(policy @ reward))
        gaps.append(float(policy @ (log_prob - elbo)))
        cosines.append(float(estimated @ exact / np.linalg.norm(estimated) / np.linalg.norm(exact)))
        if step < steps:
            theta = theta + 0.1 * (estimated + (0.2 * policy @ lower if suffix else 0.0))
    return returns, gaps, cosines, theta


def test_bounds_are_those_of_appendix_d() -> None:
    theta = torch.tensor([0.3, -1.2, 0.8, 0.1, -0.5, 1.7], dtype=torch.float64)
    evidence = TwoTokenModel(theta).evidence()
    log_prob, elbo, eubo = reference_bounds(theta.numpy())
    advantage = torch.full((4,), -1.0, dtype=torch.float64)
    computed = (
        log_prob_from_table(evidence.token_log_probs),
        evidence.elbo(),
        METHODS["spg"][0](evidence, advantage),
    )
    for value, expected in zip(computed, (log_prob, elbo, eubo), strict=True):
        np.testing.assert_allclose(value.detach().numpy(), expected)


@pytest.mark.parametrize("method", ["pg", "fpo", "fpo+dipod", "spg", "spg+dipod"])
def test_runs_equal_an_independent_implementation(method: str) -> None:
    returns, gaps, cosines, theta = reference_run(method, 120)
    proxy, tightening = METHODS[method]
    history = two_token.run(proxy, tightening, steps=120)
    np.testing.assert_allclose(history.expected_return, returns, rtol=1e-7)
    np.testing.assert_allclose(history.gap, gaps, atol=1e-8)
    np.testing.assert_allclose(history.cosine, cosines, atol=1e-6)
    np.testing.assert_allclose(history.parameters, theta, atol=1e-6)


def test_pretrained_start_is_tight_and_its_estimators_are_true() -> None:
    for proxy, tightening in METHODS.values():
        history = two_token.run(proxy, tightening, steps=0)
        assert history.gap[0] == pytest.approx(0.0, abs=1e-12)
        assert history.cosine[0] == pytest.approx(1.0)


def test_double_drift_and_its_cure() -> None:
    """The paper's Figure 2 in short: FPO drifts most, SPG less, DiPOD reduces both, Algorithm 1 leaves nothing."""
    runs = {name: two_token.run(*METHODS[name], steps=400) for name in METHODS}
    gap = {name: history.gap[-1] for name, history in runs.items()}
    assert gap["fpo"] > gap["spg"] > gap["spg+dipod"]
    assert gap["fpo"] > 1.5 * gap["fpo+dipod"]
    assert max(runs["fpo+interleave"].gap) < 1e-3 * gap["fpo"]
    assert runs["fpo"].cosine[-1] < runs["fpo+dipod"].cosine[-1] < 1
    assert min(runs["fpo+interleave"].cosine) > 0.9999
    assert all(value == pytest.approx(1.0) for value in runs["pg"].cosine)


def smoothness(function_gradient: torch.Tensor, logits: Tensor) -> float:
    """Largest absolute eigenvalue of the Hessian whose gradient is given."""
    hessian = torch.stack([torch.autograd.grad(g, logits, retain_graph=True)[0] for g in function_gradient])
    return float(torch.linalg.eigvalsh(hessian).abs().max())


def drift_bound(model: TwoTokenModel) -> tuple[float, float, Tensor, Tensor]:
    """(A_max, on-policy gap, G_FPO, ∇J) at a model."""
    table = model.table()
    log_prob, elbo = log_prob_from_table(table), elbo_from_table(table)
    policy = log_prob.exp().detach()
    advantage = exact_expectation(torch.tensor(REWARDS, dtype=torch.float64), policy)
    weight = policy * advantage
    estimated = torch.autograd.grad(weight @ elbo, model.logits, retain_graph=True)[0]
    true = torch.autograd.grad(weight @ log_prob, model.logits, retain_graph=True)[0]
    return float(advantage.abs().max()), float(policy @ (log_prob - elbo).detach()), estimated, true


@lru_cache(maxsize=1)
def gap_smoothness() -> float:
    """L_L: the largest curvature of any outcome's gap over many models, with a tenth to spare."""
    largest = 0.0
    for model in random_models(150):
        table = model.table()
        gap = log_prob_from_table(table) - elbo_from_table(table)
        for value in gap:
            gradient = torch.autograd.grad(value, model.logits, create_graph=True)[0]
            largest = max(largest, smoothness(gradient, model.logits))
    return 1.1 * largest


def random_models(count: int, spread: float = 2.0) -> list[TwoTokenModel]:
    generator = torch.Generator().manual_seed(0)
    return [TwoTokenModel(spread * torch.randn(6, generator=generator)) for _ in range(count)]


def test_proposition_c6_bounds_the_second_drift_by_the_first() -> None:
    """‖G_FPO - ∇J‖ ≤ A_max sqrt(2 L_L D), with L_L estimated over a region that holds the models tested."""
    curvature = gap_smoothness()
    ratios = []
    for model in random_models(60):
        most, gap, estimated, true = drift_bound(model)
        bound = most * (2 * curvature * gap) ** 0.5
        ratios.append(float((estimated - true).norm()) / bound)
    assert max(ratios) <= 1.0
    assert max(ratios) > 0.05, "a bound that is never within 20 times would not be tested"


def test_theorem_c8_ascent_along_algorithm_1() -> None:
    """J(θ_{k+1}) ≥ J(θ̄_k) + η/2 [‖∇J(θ̄_k)‖² - c_g² ε̄_k] (eq. 26) at every cycle, for η ≤ 1/L_J."""
    reward = torch.tensor(REWARDS, dtype=torch.float64)
    rate = 1.0
    stage = Distillation(steps=3, learning_rate=1.0)  # a poor oracle, so that ε̄ is not zero
    model = TwoTokenModel(torch.tensor([1.5, -0.5, 0.2, 1.0, -1.0, 0.4]))
    optimiser = torch.optim.SGD([model.logits], lr=stage.learning_rate)
    curvature = gap_smoothness()

    def expected_return(at: TwoTokenModel) -> Tensor:
        return log_prob_from_table(at.table()).exp() @ reward

    slack, promises = [], []
    for _ in range(40):
        two_token.self_distil(model, stage, optimiser)
        before = expected_return(model)
        gradient = torch.autograd.grad(before, model.logits, create_graph=True)[0]
        assert rate <= 1 / smoothness(gradient, model.logits), "the step must satisfy the theorem's assumption"
        most, gap, estimated, true = drift_bound(model)
        torch.testing.assert_close(true, gradient.detach())  # the policy-gradient theorem
        with torch.no_grad():
            model.logits += rate * estimated
        gained = float((expected_return(model) - before).detach())
        promised = rate / 2 * (float(true.norm()) ** 2 - most**2 * 2 * curvature * gap)
        slack.append(gained - promised)
        promises.append(promised)
        assert gap > 0
    assert min(slack) >= 0
    assert max(promises) > 0, "a promise of no ascent would be kept by anything"


def test_self_distillation_keeps_the_policy_and_closes_the_gap() -> None:
    """Lemma C.7: E[KL(π_ref ‖ π)] + D ≤ ε, where ε = E_ref[log π_ref] - F(θ̄) (eq. 23, 24)."""
    model = TwoTokenModel(torch.tensor([1.5, -0.5, 0.2, 1.0, -1.0, 0.4]))
    before = log_prob_from_table(model.table()).detach()
    gap_before = float(before.exp() @ (before - elbo_from_table(model.table()).detach()))
    stage = Distillation(steps=400, learning_rate=4.0)
    two_token.self_distil(model, stage, torch.optim.SGD([model.logits], lr=4.0))
    after, elbo = log_prob_from_table(model.table()).detach(), elbo_from_table(model.table()).detach()
    divergence, gap = float(before.exp() @ (before - after)), float(before.exp() @ (after - elbo))
    suboptimality = float(before.exp() @ (before - elbo))
    assert gap_before > 0.05
    assert divergence + gap == pytest.approx(suboptimality, abs=1e-12)
    assert suboptimality < 1e-6


def test_a_stranger_plugs_in_an_estimator() -> None:
    """The module docstring's ten lines; half the ELBO points where the ELBO does."""

    def half_elbo(evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
        del advantage
        return 0.5 * evidence.elbo()

    mine = two_token.run(half_elbo, Regularise(0.2), steps=20, learning_rate=0.1)
    fpo = two_token.run(METHODS["fpo"][0], steps=0, logits=torch.tensor(mine.parameters, dtype=torch.float64))
    assert len(mine.gap) == 21
    assert mine.cosine[-1] == pytest.approx(fpo.cosine[-1])


def test_interleave_measures_after_its_stage() -> None:
    loose = torch.tensor([1.5, -0.5, 0.2, 1.0, -1.0, 0.4])
    stages = Interleave(every=2, distillation=Distillation(steps=100, learning_rate=4.0))
    history = two_token.run(METHODS["fpo"][0], stages, steps=4, logits=loose)
    assert history.gap[0] < 1e-3
    assert history.gap[2] < history.gap[1] or history.gap[2] < 1e-4


def test_file_has_the_agreed_shape(tmp_path: Path) -> None:
    path = two_token.write(two_token.experiment(steps=3), tmp_path / "new")
    content = json.loads(path.read_text())
    names = ["pg", "fpo", "fpo+dipod", "spg", "spg+dipod", "fpo+interleave", "spg+interleave"]
    assert list(content["methods"]) == names
    for method in content["methods"].values():
        assert [len(method[key]) for key in ("expected_return", "gap", "cosine", "parameters")] == [4, 4, 4, 6]
