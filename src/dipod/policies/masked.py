"""A masked diffusion policy: observation = prompt tokens, action = completion tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dipod.errors import require
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score, evaluate
from dipod.policies.sampling import Sample, SamplerConfig, ancestral, semi_autoregressive
from dipod.policies.tokens import Tokens


class MaskedModel(Protocol):
    """A network that predicts masked tokens in two parts, so that what depends on the prompt alone is done once."""

    def encode(self, prompts: Tokens) -> Any:
        """What completions need of prompts [P, S]; for a network that cannot split, the prompts themselves."""
        ...

    def __call__(self, tokens: Tokens, at: Tensor | None, prompts: Any, owner: Tensor) -> Tensor:
        """Logits [B, M or T, V] of completions [B, T] at places ``at`` [B, M] (all when None).

        ``prompts`` is what `encode` returned; ``owner`` [B] says which of them each completion belongs to.
        """
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
        training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode():
                encoded, owner = self._encode(observation)

            def logits(masked: Tensor, completion: Tensor, at: Tensor | None) -> Tensor:
                return self._logits(blank.with_ids(completion), masked, at, encoded, owner)

            if config.any_order:
                return ancestral(logits, blank.ids, blank.valid, config.temperature, generator)
            return semi_autoregressive(logits, blank.ids, blank.valid, config, generator)
        finally:
            self.network.train(training)

    def completion_logits(self, observation: Tokens, action: Tokens, masked: Tensor, at: Tensor | None) -> Tensor:
        """Logits [B, M or L, V] at completion places ``at`` [B, M] (all when None), ``masked`` [B, L] hidden."""
        return self._logits(action, masked, at, *self._encode(observation))

    def _encode(self, observation: Tokens) -> tuple[Any, Tensor]:
        """The different prompts of a batch, encoded, and which of them each row has."""
        places = [] if observation.positions is None else [observation.positions]
        key = torch.cat([observation.ids, observation.valid.long(), *places], 1)
        different, owner = key.unique(dim=0, return_inverse=True)
        first = torch.full((len(different),), len(owner), device=owner.device)
        first = first.scatter_reduce(0, owner, torch.arange(len(owner), device=owner.device), "amin")
        encode: Callable[[Tokens], Any] = self.network.encode  # type: ignore[assignment]
        return encode(observation[first]), owner

    def _logits(self, action: Tokens, masked: Tensor, at: Tensor | None, encoded: Any, owner: Tensor) -> Tensor:
        tokens = action.with_ids(action.ids.masked_fill(masked, self.mask_id))
        logits: Tensor = self.network(tokens, at, encoded, owner)
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
