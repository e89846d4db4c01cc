"""The two-token experiment (paper section 4.1, appendix D): a policy so small that nothing has to be estimated.

Two tokens in {A, B}, decoded in uniformly random order, six logits. log π, the bounds, every estimator's expected
gradient and the true policy gradient are exact, so a new estimator can be checked against the truth here:

    from dipod import two_token
    from dipod.tightening import Regularise

    def half_elbo(evidence, advantage):          # [4]: one value for each of AA, AB, BA, BB
        return 0.5 * evidence.elbo()

    history = two_token.run(half_elbo, Regularise(0.2))
    print(history.expected_return[-1], history.gap[-1], history.cosine[-1])
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dipod.algorithms import ALGORITHMS
from dipod.drift import cosine
from dipod.files import make_folder, write_json
from dipod.likelihood.evidence import MaskedEvidence
from dipod.likelihood.exact import all_corruptions, elbo_from_table, log_prob_from_table
from dipod.likelihood.masked import MaskedProxy
from dipod.objectives.baselines import exact_expectation
from dipod.tightening import Distillation, Interleave, Off, Regularise, Tightening, distil

OUTCOMES = ("AA", "AB", "BA", "BB")
REWARDS = (0.8, 1.0, 0.7, 1.0)
INITIAL_LOGIT, LEARNING_RATE, STEPS, BETA = 0.5, 0.1, 1500, 0.2
STAGES = Interleave(every=10, distillation=Distillation(steps=25, learning_rate=4.0))
"""Algorithm 1 here: a stage of full-expectation gradient ascent before every ten policy updates."""

_CORRUPTION = all_corruptions(2, len(OUTCOMES))
_MASKED = _CORRUPTION.masked.double()
_SIGN = torch.tensor([[[1.0 if token == "A" else -1.0 for token in outcome]] for outcome in OUTCOMES]).double()
_LETTER = torch.tensor(
    [
        [[first, 0], [0, second], [1, 3]]  # x1 masked, x2 masked, both masked; the letters a..f count from 0
        for first, second in ((0, 2), (4, 2), (0, 5), (4, 5))
    ]
)
"""Which logit predicts each token of each outcome under each masked set (0 where the token is not masked)."""


class TwoTokenModel:
    """π over AA, AB, BA, BB from six logits of "this token is A", in the paper's order and letters.

    a: x1 given (M, A); b: x1 given (M, M); c: x2 given (A, M); d: x2 given (M, M); e: x1 given (M, B);
    f: x2 given (B, M).
    """

    def __init__(self, logits: Tensor | None = None) -> None:
        start = torch.full((6,), INITIAL_LOGIT) if logits is None else logits
        self.logits = start.detach().double().clone().requires_grad_()

    def table(self) -> Tensor:
        """Log p(x_i | unmasked) for each outcome and masked set {1}, {2}, {1, 2}: [4, 3, 2], differentiable.

        The layout is that of `dipod.likelihood.exact`; entries of unmasked tokens are zero.
        """
        return F.logsigmoid(_SIGN * self.logits[_LETTER]) * _MASKED

    def evidence(self) -> MaskedEvidence:
        """Evidence of the four outcomes under every mask: any proxy's mean over K is its exact expectation."""
        return MaskedEvidence(self.table(), _CORRUPTION.masked, _CORRUPTION.weights)


def log_likelihood(evidence: MaskedEvidence, advantage: Tensor) -> Tensor:
    """The proxy that is no proxy: exact log π, [4], with which the estimator is the policy gradient (eq. 1)."""
    del advantage
    return log_prob_from_table(evidence.token_log_probs)


@dataclass(frozen=True)
class History:
    """What happened; one entry for each of the steps 0..n, measured at the parameters before that step's update.

    Attributes:
        expected_return: E_π[r].
        gap: on-policy, E_π[log π - ELBO], nats.
        cosine: between E_π[g] (the estimator alone, without the β term) and the true policy gradient.
        parameters: the six logits after the last update.
    """

    expected_return: list[float]
    gap: list[float]
    cosine: list[float]
    parameters: list[float]


def run(
    proxy: MaskedProxy,
    tightening: Tightening[Distillation] | None = None,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    logits: Tensor | None = None,
) -> History:
    """Gradient ascent with exact expectations: θ ← θ + η·E_π[A ∇proxy + β ∇ELBO] (eq. 7), A = r - E_π[r].

    Args:
        proxy: ``proxy(evidence, advantage) -> [4]``: what stands in for log π.
        tightening: `Regularise` (Algorithm 2), `Interleave` (Algorithm 1); nothing when None. A stage of
            self-distillation that is due at a step comes before that step's measurement, and the last entry is
            measured after the stage due there, if any.
        steps: policy updates n.
        learning_rate: η.
        logits: [6] to start from; all `INITIAL_LOGIT` when None.
    """
    tightening = tightening or Off()
    model = TwoTokenModel(logits)
    reward = torch.tensor(REWARDS, dtype=torch.float64)
    stage_optimiser: torch.optim.SGD | None = None
    beta: float | None = None
    returns: list[float] = []
    gaps: list[float] = []
    cosines: list[float] = []
    for step in range(steps + 1):
        stage = tightening.distillation_before(step, gaps[-1] if gaps else None)
        if stage is not None:
            stage_optimiser = stage_optimiser or torch.optim.SGD([model.logits], lr=stage.learning_rate)
            self_distil(model, stage, stage_optimiser)
        evidence = model.evidence()
        log_prob = log_prob_from_table(evidence.token_log_probs)
        elbo = elbo_from_table(evidence.token_log_probs)
        policy = log_prob.exp().detach()
        advantage = exact_expectation(reward, policy)
        estimated = _gradient((policy * advantage * proxy(evidence, advantage)).sum(), model.logits)
        true = _gradient((policy * advantage * log_prob).sum(), model.logits)
        returns.append(float(policy @ reward))
        gaps.append(float(policy @ (log_prob - elbo).detach()))
        cosines.append(cosine(estimated, true))
        beta = tightening.next_beta(step, beta, gaps[-1], gaps[-2] if step else None)
        if step < steps:
            direction = estimated if beta == 0 else estimated + beta * _gradient(policy @ elbo, model.logits)
            with torch.no_grad():
                model.logits += learning_rate * direction
    return History(returns, gaps, cosines, model.logits.tolist())


def self_distil(model: TwoTokenModel, stage: Distillation, optimiser: torch.optim.Optimizer) -> None:
    """Maximise E_ref[ELBO_θ] exactly, ref being the model as it comes in (Algorithm 1, line 4)."""
    reference = log_prob_from_table(model.table()).exp().detach()

    def ascend(step: int) -> float:
        del step
        elbo = reference @ elbo_from_table(model.table())
        (-elbo).backward()
        return float(elbo.detach())

    distil(ascend, lambda: None, optimiser, stage)


def _gradient(value: Tensor, parameters: Tensor) -> Tensor:
    return torch.autograd.grad(value, parameters, retain_graph=True)[0]


METHODS: dict[str, tuple[MaskedProxy, Tightening[Distillation]]] = {
    "pg": (log_likelihood, Off()),
    "fpo": (ALGORITHMS["fpo"].proxy, Off()),
    "fpo+dipod": (ALGORITHMS["fpo"].proxy, Regularise(BETA)),
    "spg": (ALGORITHMS["spg-eubo"].proxy, Off()),
    "spg+dipod": (ALGORITHMS["spg-eubo"].proxy, Regularise(BETA)),
    "fpo+interleave": (ALGORITHMS["fpo"].proxy, STAGES),
    "spg+interleave": (ALGORITHMS["spg-eubo"].proxy, STAGES),
}
"""The paper's comparison and Algorithm 1. SPG is eq. 5 with the EUBO surrogate of eq. 21, order 1.5 (appendix D)."""


def experiment(steps: int = STEPS) -> dict[str, History]:
    """Run every method of `METHODS`."""
    return {name: run(proxy, tightening, steps) for name, (proxy, tightening) in METHODS.items()}


def write(histories: dict[str, History], out: Path) -> Path:
    """Write ``two_token.json`` into ``out``, which is made if need be; returns the file's path."""
    make_folder(out)
    path = out / "two_token.json"
    write_json(path, {"methods": {name: asdict(history) for name, history in histories.items()}})
    return path
