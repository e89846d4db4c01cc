"""A masked diffusion policy: observation = prompt tokens, action = completion tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dipod.errors import require
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score, evaluate
from dipod.policies.sampling import Sample, SamplerConfig, ancestral, semi_autoregressive
from dipod.policies.tokens import Tokens


class MaskedModel(Protocol):
    """A bidirectional network that predicts tokens: what `MaskedPolicy` wraps."""

    def __call__(
        self,
        ids: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Ids [B, T], valid [B, T] bool or None, at [B, M] or None → logits [B, T or M, V]."""
        ...


@dataclass(frozen=True)
class MaskedPolicy:
    """π(a|o) of a masked diffusion model.

    Attributes:
        network: a `MaskedModel` that is an ``nn.Module``.
        mask_id: the token that hides a completion token.
        barred: further tokens that a completion never holds (padding, say); their probability is zero.
    """

    network: nn.Module
    mask_id: int
    barred: tuple[int, ...] = ()

    def sample(self, observation: Tokens, blank: Tokens, config: SamplerConfig, generator: torch.Generator) -> Sample:
        """Draw one action for each observation.

        Args:
            observation: [B, P] prompts.
            blank: [B, L] the places of the completion's tokens (its length is given, as in the published systems);
                the ids do not matter.
            config: how to decode.
            generator: source of randomness.
        """

        def logits(masked: Tensor, completion: Tensor, at: Tensor | None) -> Tensor:
            return self.completion_logits(observation, blank.with_ids(completion), masked, at)

        training = self.network.training
        self.network.eval()
        try:
            if config.remasking == "random" and config.block_length == 0 and config.steps == 0:
                return ancestral(logits, blank.ids, blank.valid, config.temperature, generator)
            return semi_autoregressive(logits, blank.ids, blank.valid, config, generator)
        finally:
            self.network.train(training)

    def completion_logits(self, observation: Tokens, action: Tokens, masked: Tensor, at: Tensor | None) -> Tensor:
        """Logits [B, M or L, V] at completion places ``at`` [B, M] (all when None), ``masked`` [B, L] hidden."""
        prompt, length = observation.ids.shape[1], action.ids.shape[1]
        whole = observation.join(action.with_ids(action.ids.masked_fill(masked, self.mask_id)))
        if at is None:
            at = torch.arange(length, device=whole.ids.device).expand(len(whole), -1)
        valid = None if bool(whole.valid.all()) else whole.valid
        logits: Tensor = self.network(whole.ids, valid, at + prompt, whole.positions)
        barred = torch.tensor([self.mask_id, *self.barred], device=logits.device)
        return logits.index_fill(-1, barred, -torch.inf)

    def score(self, observation: Tokens, action: Tokens) -> Score:
        """The function from which every bound is made; see `dipod.likelihood.evidence.Score`."""

        def score(rows: Tensor, masked: Tensor) -> Tensor:
            picked = action[rows]
            logits = self.completion_logits(observation[rows], picked, masked, None)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            token = picked.ids.masked_fill(~picked.valid, 0)[..., None]
            log_probs = logits.gather(-1, token)[..., 0] - logits.logsumexp(-1)
            return torch.where(masked & picked.valid, log_probs, 0.0)

        return score

    def evidence(
        self, observation: Tokens, action: Tokens, corruption: Corruption, rows_per_pass: int | None = None
    ) -> MaskedEvidence:
        """Evidence for actions under given corruption samples, [B, K, L]; differentiable."""
        require(len(observation) == len(action), "action", len(action), "give one action for each observation")
        return evaluate(self.score(observation, action), corruption, rows_per_pass)
