"""A masked diffusion policy: observation = prompt tokens, action = completion tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from dipod.errors import require
from dipod.likelihood.evidence import Corruption, MaskedEvidence, Score, evaluate, score_in_passes
from dipod.noise import Noise
from dipod.policies.head import token_log_probs
from dipod.policies.sampling import Logits, Sample, SamplerConfig, decode
from dipod.policies.tokens import Tokens


class MaskedModel(Protocol):
    """A network that predicts masked tokens in three parts.

    What depends on the prompt alone is done once, and logits are taken only where they are wanted.
    """

    def encode(self, prompts: Tokens) -> Any:
        """What completions need of prompts [P, S]; for a network that cannot split, the prompts themselves."""
        ...

    def __call__(self, tokens: Tokens, at: Tensor | None, prompts: Any, owner: Tensor) -> Tensor:
        """Final hidden states [B, M or T, D] of completions [B, T] at places ``at`` [B, M] (all when None).

        ``prompts`` is what `encode` returned; ``owner`` [B] says which of them each completion belongs to.
        """
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of final hidden states [..., D]."""
        ...


@dataclass(frozen=True)
class MaskedPolicy:
    """π(a|o) of a masked diffusion model.

    Attributes:
        network: a `MaskedModel` that is an ``nn.Module``, or a wrapper of one that keeps it as ``module`` (as
            DistributedDataParallel does) or passes attributes on (as peft does).
        mask_id: the token that hides a completion token.
        barred: further tokens that a completion never holds (padding, say); their probability is zero.
    """

    network: nn.Module
    mask_id: int
    barred: tuple[int, ...] = ()

    @property
    def model(self) -> MaskedModel:
        """The network without the wrapper around it."""
        return cast(MaskedModel, getattr(self.network, "module", self.network))

    def sample(
        self,
        observation: Tokens,
        blank: Tokens,
        config: SamplerConfig,
        noise: Noise,
        eos_id: int | None = None,
        given: Tensor | None = None,
    ) -> Sample:
        """Draw one action for each observation, in evaluation mode and without gradients.

        A text that completions are to begin with belongs at the end of the prompt.

        Args:
            observation: [B, P] prompts.
            blank: [B, L] the places of the completion's tokens (its length is given, as in the published systems);
                the ids do not matter, unless they are given.
            config: how to decode.
            noise: B streams; a row's sample depends on its own alone.
            eos_id: the end-of-text token, for ``config.eos_stop``.
            given: [B, L] bool, places that keep their ids and are visible from the start; None for none.

        Raises:
            UserError: settings that do not fit the completion.
        """
        size = config.max_rows or max(len(observation), 1)
        slices = [slice(first, first + size) for first in range(0, max(len(observation), 1), size)]
        parts = []
        with _evaluating(self.network), torch.inference_mode():
            for some in slices:
                logits = self._sampler_logits(observation[some], config.cfg_scale)
                kept = None if given is None else given[some]
                parts.append(decode(logits, blank[some], config, noise[some], eos_id, kept))
        return Sample(torch.cat([part.ids for part in parts]), torch.cat([part.order for part in parts]))

    def completion_logits(self, observation: Tokens, action: Tokens, masked: Tensor, at: Tensor | None) -> Tensor:
        """Logits [B, M or L, V] at completion places ``at`` [B, M] (all when None), ``masked`` [B, L] hidden."""
        logits = self._head(self._hidden(observation, action, masked, at))
        return logits.index_fill(-1, self._barred(logits.device), -torch.inf)

    def _sampler_logits(self, observation: Tokens, cfg_scale: float) -> Logits:
        """The model as `decode` asks for it, with prompts encoded once and classifier-free guidance if wanted.

        Guidance is u + (s + 1)(c - u), u being the logits where every prompt token is masked.
        """
        batch = len(observation)
        if cfg_scale > 0:
            hidden_prompts = observation.ids.masked_fill(observation.valid, self.mask_id)
            twice = torch.arange(batch, device=observation.ids.device).repeat(2)
            observation = observation[twice].with_ids(torch.cat([observation.ids, hidden_prompts]))
        encoded, owner = self._encode(observation)
        barred = self._barred(observation.ids.device)

        def logits(rows: Tensor, completion: Tokens, masked: Tensor, at: Tensor) -> Tensor:
            tokens = completion.with_ids(completion.ids.masked_fill(masked, self.mask_id))
            values = self._head(self.model(tokens, at, encoded, owner[rows]))
            if cfg_scale > 0:
                free = self._head(self.model(tokens, at, encoded, owner[rows + batch]))
                values = free + (cfg_scale + 1) * (values - free)
            return values.index_fill_(-1, barred, -torch.inf)

        return logits

    def _encode(self, observation: Tokens) -> tuple[Any, Tensor]:
        """The different prompts of a batch, encoded, and which of them each row has."""
        places = [] if observation.positions is None else [observation.positions]
        key = torch.cat([observation.ids, observation.valid.long(), *places], 1)
        different, owner = key.unique(dim=0, return_inverse=True)
        first = torch.full((len(different),), len(owner), device=owner.device)
        first = first.scatter_reduce(0, owner, torch.arange(len(owner), device=owner.device), "amin")
        return self.model.encode(observation[first]), owner

    def _hidden(self, observation: Tokens, action: Tokens, masked: Tensor, at: Tensor | None = None) -> Tensor:
        """Final hidden states [B, M or L, D] with ``masked`` [B, L] places hidden, through the network's wrapper."""
        tokens = action.with_ids(action.ids.masked_fill(masked, self.mask_id))
        hidden: Tensor = self.network(tokens, at, *self._encode(observation))
        return hidden

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, which mixed precision hands over in another dtype than that of the weights."""
        return self.model.head(hidden.to(next(self.network.parameters()).dtype))

    def _barred(self, device: torch.device) -> Tensor:
        return torch.tensor([self.mask_id, *self.barred], device=device)

    def score(self, observation: Tokens, action: Tokens) -> Score:
        """The function from which every bound is made; see `dipod.likelihood.evidence.Score`.

        Logits are computed only at the masked places.
        """

        def score(rows: Tensor, masked: Tensor) -> Tensor:
            picked = action[rows]
            hidden = self._hidden(observation[rows], picked, masked).flatten(0, 1)
            at = (masked & picked.valid).flatten().nonzero()[:, 0]
            token = picked.ids.flatten().index_select(0, at)
            log_probs = token_log_probs(self._head, hidden.index_select(0, at), token, self._barred(hidden.device))
            return log_probs.new_zeros(masked.numel()).index_copy(0, at, log_probs).view(masked.shape)

        return score

    def hide(self, observation: Tokens, hidden: Tensor | None) -> Tokens:
        """Prompts with some of their tokens [B, P] behind the mask."""
        if hidden is None:
            return observation
        return observation.with_ids(observation.ids.masked_fill(hidden, self.mask_id))

    def evidence(
        self, observation: Tokens, action: Tokens, corruption: Corruption, rows_per_pass: int | None = None
    ) -> MaskedEvidence:
        """Evidence for actions under given corruption samples, [B, K, L]; differentiable.

        Prompt tokens under ``corruption.prompt`` [B, K, P] are hidden too, in that sample.
        """
        require(len(observation) == len(action), "action", len(action), "give one action for each observation")
        if corruption.prompt is None:
            return evaluate(self.score(observation, action), corruption, rows_per_pass)
        batch, samples, length = corruption.masked.shape
        rows = torch.arange(batch, device=action.ids.device).repeat_interleave(samples)
        seen = self.hide(observation[rows], corruption.prompt.flatten(0, 1))
        each = torch.arange(len(rows), device=rows.device)
        score = self.score(seen, action[rows])
        flat = score_in_passes(score, each, corruption.masked.flatten(0, 1), rows_per_pass)
        return corruption.evidence(flat.reshape(batch, samples, length))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module back in its own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
