"""One update: gradient steps on a batch of rollouts, in passes that fit into memory (Algorithm 2, line 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, reduce

import torch
from torch import Tensor

from dipod.algorithms import Algorithm, Batch
from dipod.config import Settings
from dipod.errors import require
from dipod.guard import blame, gradients, weights
from dipod.likelihood.caching import backward_in_parts
from dipod.likelihood.corruption import CorruptionConfig, InnerStep, bounds, draw
from dipod.likelihood.evidence import Corruption, MaskedEvidence
from dipod.loop import Metrics
from dipod.noise import Noise, derive
from dipod.objectives.surrogates import clip_fractions
from dipod.parallel import Processes
from dipod.policies.masked import MaskedPolicy
from dipod.rollouts import Rollouts

ROW_MAKING = ("all-masked", "coupled", "structured")
"""Processes that are what a row is about: d1's and wd1's mean field, coupled-GRPO's threes, UniGRPO's noise."""

Reference = Callable[[], AbstractContextManager[MaskedPolicy]]
"""Inside it, the policy that a KL penalty refers to."""


def rows_in_passes(rows: int, samples: int, rows_per_pass: int) -> tuple[list[slice], int]:
    """How B rollouts with K corruption samples go through the network, ``rows_per_pass`` completions at a time.

    Returns:
        Slices of rollouts, and how many samples of each are held at a time: all K where a pass has room for them,
        so that no forward pass is done twice.
    """
    room = rows_per_pass or rows * samples
    step = max(1, room // samples)
    return [slice(i, i + step) for i in range(0, rows, step)], min(samples, room)


def estimator_corruption(own: CorruptionConfig, chosen: CorruptionConfig) -> CorruptionConfig:
    """The process of an algorithm whose row says ``own``, under settings that say ``chosen``.

    Where masks of another kind than an ELBO's make the row (`ROW_MAKING`), another kind of mask does not take their
    place; it then serves the ELBO of the β term, if it bounds log π (`elbo_corruption`).
    """
    fresh = chosen.fresh or own.fresh
    if chosen.scheme == "own":
        return replace(chosen, scheme=own.scheme, samples=chosen.samples or own.samples, fresh=fresh)
    if own.scheme in ROW_MAKING and chosen.scheme not in ROW_MAKING:
        return replace(chosen, scheme=own.scheme, samples=own.samples, fresh=fresh)
    return replace(chosen, samples=chosen.samples or own.samples, fresh=fresh)


def elbo_corruption(estimator: CorruptionConfig, chosen: CorruptionConfig, length: int) -> CorruptionConfig | None:
    """The process of an ELBO of actions of up to ``length`` tokens; None where the estimator's own bounds log π.

    The chosen one, else the estimator's with the whole prompt in sight, else antithetic pairs.
    """
    if bounds(estimator, length):
        return None
    for known in (chosen, estimator):
        config = replace(known, samples=known.samples or 2, prompt_share=0.0)
        if bounds(config, length):
            return config
    return CorruptionConfig("antithetic", 2)


@dataclass
class _Seen:
    """What the passes of one gradient step leave behind for the metrics."""

    new: list[Tensor] = field(default_factory=list)
    old: list[Tensor] = field(default_factory=list)
    elbo: list[Tensor] = field(default_factory=list)
    objective: float = 0.0


class Updater:
    """Turns rollouts into gradient steps. Holds no state of its own: noise is keyed by seed and step."""

    def __init__(
        self,
        wrapped: MaskedPolicy,
        policy: MaskedPolicy,
        algorithm: Algorithm,
        settings: Settings,
        seed: int,
        processes: Processes,
        parameters: Sequence[Tensor],
        length: int,
        reference: Reference | None = None,
    ) -> None:
        """Take what an update needs.

        Args:
            wrapped: the policy around the network that gradients go through.
            policy: the same without a wrapper.
            algorithm: the row, with what the settings change in it.
            settings: of the run.
            seed: of the masks.
            processes: among which the rollouts are shared.
            parameters: what is trained.
            length: the most tokens that an action can have; masks that bound shorter ones only do not bound.
            reference: for a KL penalty.
        """
        self.wrapped, self.policy, self.algorithm, self.settings = wrapped, policy, algorithm, settings
        self.seed, self.processes, self.parameters, self.reference = seed, processes, parameters, reference
        bound = elbo_corruption(algorithm.corruption, settings.corruption, length)
        self.bounding = bound or algorithm.corruption
        self.bound = None if settings.corruption.elbo == "estimator" else bound
        self.tells_elbo = bound is None or self.bound is not None
        most = self.samples(beta=1.0)
        whole = settings.trainer.rows_per_pass == 0 or settings.trainer.rows_per_pass >= most
        mend = "with dropout a pass holds whole rollouts; give at least the number of corruption samples, or 0"
        require(whole or not settings.trainer.dropout, "trainer.rows_per_pass", settings.trainer.rows_per_pass, mend)

    def _corruptions(self, beta: float) -> list[CorruptionConfig]:
        """The estimator's corruption, and that of the ELBO where β wants one that the estimator's does not give."""
        own = self.algorithm.corruption
        return [own] if self.bound is None or beta == 0 else [own, self.bound]

    def samples(self, beta: float) -> int:
        """Corruption samples of a rollout in one gradient step, those of the ELBO included."""
        return sum(config.samples for config in self._corruptions(beta))

    def corrupt(self, rollouts: Rollouts, beta: float, step: int, inner: int) -> Corruption:
        """Corruption samples of one gradient step: the estimator's, then those of the ELBO if it needs its own."""
        own = self.algorithm.corruption
        key = (self.seed, "corruption", step, inner if own.fresh and own.scheme != "structured" else 0)
        return self._draw(rollouts, self._corruptions(beta), inner, *key)

    def _draw(self, rollouts: Rollouts, configs: Sequence[CorruptionConfig], inner: int, *key: int | str) -> Corruption:
        """Samples of several processes next to each other, on the rollouts' device, from noise of one key."""
        noise = Noise.keyed(*key, examples=rollouts.example.tolist())
        counted, prompt = rollouts.counted.cpu(), rollouts.observation.valid.cpu()
        index = InnerStep(inner, self.settings.trainer.inner_updates)
        drawn = [draw(config, counted, prompt, noise, index) for config in configs]
        return reduce(Corruption.beside, drawn).to(rollouts.counted.device)

    def evidence(self, rollouts: Rollouts, corruption: Corruption) -> MaskedEvidence:
        """What the network says; the wrapped network where gradients are wanted."""
        policy = self.wrapped if torch.is_grad_enabled() else self.policy
        return policy.evidence(rollouts.observation, rollouts.action, corruption)

    def proxies(self, policy: MaskedPolicy, rollouts: Rollouts, corruption: Corruption) -> Tensor:
        """The proxy of every rollout under ``policy``, without gradients."""
        own = corruption.pick(slice(0, self.algorithm.corruption.samples))
        slices, held = rows_in_passes(len(rollouts), own.samples, self.settings.trainer.rows_per_pass)
        found = []
        with torch.no_grad():
            for rows in slices:
                few, masks = rollouts[rows], own[rows]
                parts = [masks.pick(slice(i, i + held)) for i in range(0, own.samples, held)]
                said = [policy.evidence(few.observation, few.action, part).token_log_probs for part in parts]
                found.append(self.algorithm.proxy(masks.evidence(torch.cat(said, 1)), few.advantage))
        return torch.cat(found)

    def update(self, rollouts: Rollouts, beta: float, optimiser: torch.optim.Optimizer, step: int) -> Metrics:
        """All gradient steps on one batch of rollouts; returns the metrics of the last."""
        trainer, algorithm = self.settings.trainer, self.algorithm
        fresh, ratios = algorithm.corruption.fresh, algorithm.clip is not None
        drawn = [self.corrupt(rollouts, beta, step, i) for i in range(trainer.inner_updates if fresh else 1)]
        old: list[Tensor | None] = [None] * len(drawn)  # the ratio of a first step is 1: no second pass
        if ratios:
            old[1:] = [self.proxies(self.policy, rollouts, corruption) for corruption in drawn[1:]]
        references = self._references(rollouts, drawn)
        self.policy.network.train(trainer.dropout)
        metrics: Metrics = {"beta": beta}
        for i in range(trainer.inner_updates):
            which = i if fresh else 0
            optimiser.zero_grad()
            with self._dropout(step, i):
                seen = self._backward(rollouts, drawn[which], old[which], references[which], beta)
            norm = self.processes.clip(self.parameters, self.settings.optimiser.max_grad_norm)
            metrics["loss"] = -self._finite(rollouts, seen, norm)
            optimiser.step()
            if ratios and not fresh and i == 0:
                old = [torch.cat(seen.new)]
            metrics |= self._metrics(rollouts, seen, norm)
        optimiser.zero_grad()
        self.policy.network.eval()
        return metrics

    @contextmanager
    def _dropout(self, step: int, inner: int) -> Iterator[None]:
        """Dropout draws from torch's own generators: here they are keyed like all other noise, and put back."""
        if not self.settings.trainer.dropout:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(derive(self.seed, "dropout", step, inner, self.processes.rank))
            yield

    def _backward(
        self,
        rollouts: Rollouts,
        corruption: Corruption,
        old: Tensor | None,
        reference: Tensor | None,
        beta: float,
    ) -> _Seen:
        """Accumulate the gradient of eq. 7's objective over all passes and processes."""
        algorithm, objective, seen = self.algorithm, self.settings.objective, _Seen()
        own = algorithm.corruption.samples
        divisor = self._divisor(rollouts, corruption, old)
        slices, held = rows_in_passes(len(rollouts), corruption.samples, self.settings.trainer.rows_per_pass)
        for rows in slices:
            few = rollouts[rows]

            def loss_of(evidence: MaskedEvidence, rows: slice = rows, few: Rollouts = few) -> Tensor:
                estimator, elbo = evidence.pick(slice(0, own)), self._elbo(evidence)
                new = algorithm.proxy(estimator, few.advantage)
                before = new.detach() if old is None else old[rows]
                batch = Batch(before, few.advantage, few.length, elbo, None if reference is None else reference[rows])
                kl = objective.kl if objective.kl != "off" else "k3"
                value = algorithm.contributions(estimator, batch, beta, kl, objective.kl_weight).sum() / divisor
                seen.new.append(new.detach())
                seen.old.append(before)
                if elbo is not None:
                    seen.elbo.append(elbo.detach())
                seen.objective += float(value.detach())
                return -value

            self._pass(few, corruption[rows], loss_of, held, rows is slices[-1])
        return seen

    def _elbo(self, evidence: MaskedEvidence) -> Tensor | None:
        """The ELBO of the β term in what the samples of `corrupt` say, [B] nats; None where no sample is for it."""
        if self.bound is None:
            return evidence.elbo()
        own = self.algorithm.corruption.samples
        return evidence.pick(slice(own, None)).elbo() if evidence.masked.shape[1] > own else None

    def _pass(
        self,
        rollouts: Rollouts,
        corruption: Corruption,
        loss_of: Callable[[MaskedEvidence], Tensor],
        held: int,
        final: bool,
    ) -> None:
        """One pass over some rollouts; gradients are exchanged between processes at the end of the ``final`` one."""
        backward_in_parts(
            partial(self.evidence, rollouts),
            corruption,
            loss_of,
            held,
            lambda loss, last: self.processes.backward(loss, last and final),
            lambda last: self.processes.holding(self.wrapped.network, not (last and final)),
        )

    def _divisor(self, rollouts: Rollouts, corruption: Corruption, old: Tensor | None) -> float:
        """What the sum over the rollouts of all processes is divided by."""
        new = before = rollouts.advantage  # of any values where ratios do not count, or are all 1
        if self.algorithm.self_normalised and old is not None:
            new, before = self.proxies(self.policy, rollouts, corruption), old
        parts = self.algorithm.denominator(new, before, rollouts.length)
        return float(self.processes.total(parts.double().sum()))

    def _references(self, rollouts: Rollouts, drawn: Sequence[Corruption]) -> Sequence[Tensor | None]:
        """The proxies of the reference policy under each set of masks; None without a KL penalty."""
        if self.reference is None or self.settings.objective.kl_weight == 0:
            return [None] * len(drawn)
        with self.reference() as policy:
            return [self.proxies(policy, rollouts, corruption) for corruption in drawn]

    def ascend_elbo(self, rollouts: Rollouts, step: int, inner: int) -> float:
        """Add the gradient of -mean ELBO over the rollouts of all processes, under masks of this inner step's own."""
        corruption = self._draw(rollouts, [self.bounding], inner, self.seed, "distillation corruption", step, inner)
        rows = self.settings.trainer.rows_per_pass
        slices, held = rows_in_passes(len(rollouts), corruption.samples, rows)
        total = float(self.processes.total(torch.tensor(float(len(rollouts)))))
        seen: list[Tensor] = []

        def loss_of(evidence: MaskedEvidence) -> Tensor:
            elbo = evidence.elbo()
            seen.append(elbo.detach().sum())
            return -elbo.sum() / total

        for part in slices:
            self._pass(rollouts[part], corruption[part], loss_of, held, part is slices[-1])
        return float(self.processes.total(torch.stack(seen).sum())) / total

    def _metrics(self, rollouts: Rollouts, seen: _Seen, norm: Tensor | None) -> Metrics:
        metrics: Metrics = {}
        gather = self.processes.gather
        if seen.elbo and self.tells_elbo:
            metrics["train_elbo"] = float(gather(torch.cat(seen.elbo)).double().mean())
        if norm is not None:
            metrics["grad_norm"] = float(norm)
        if self.algorithm.clip is not None:
            new, old = gather(torch.cat(seen.new)), gather(torch.cat(seen.old))
            advantage = gather(rollouts.advantage).reshape(-1, *[1] * (new.dim() - 1)).expand_as(new)
            if new.dim() > 1:
                said = new != 0  # of tokens, only those that a sample masked have a ratio
                advantage, new, old = advantage[said], new[said], old[said]
            shares = clip_fractions(new, old, advantage, self.algorithm.clip)
            metrics |= dict(zip(("clip_fraction_positive", "clip_fraction_negative"), shares, strict=True))
        return metrics

    def _finite(self, rollouts: Rollouts, seen: _Seen, norm: Tensor | None) -> float:
        """The objective over all processes; stops before a number that is not finite reaches the parameters."""
        total = self.processes.total(torch.tensor(seen.objective))
        if bool(torch.isfinite(total)) and (norm is None or bool(torch.isfinite(norm))):
            return float(total)
        networks = [self.policy.network]
        computed = [("reward", rollouts.reward), ("advantage", rollouts.advantage)]
        for name, parts in (("old proxy", seen.old), ("proxy", seen.new), ("ELBO", seen.elbo)):
            computed += [(name, part) for part in parts]
        raise blame([*weights(networks), *computed, *gradients(networks)], otherwise="objective")
