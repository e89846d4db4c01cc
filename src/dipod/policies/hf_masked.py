"""Any masked language model of transformers (BERT, ModernBERT, RoBERTa, ...) as a masked diffusion model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.policies.hub import first_few
from dipod.policies.layers import Fullness, Prompts, lay_out, pick
from dipod.policies.tokens import Tokens


class HFMasked(nn.Module):
    """A `MaskedModel` around an ``AutoModelForMaskedLM``.

    The hidden states are those that the model's last layer turns into logits, which is the head. Rows with padding are
    moved to the left edge, so that padding shifts the positions of no model, whichever way it counts them. Prompt and
    completion are one segment: ``token_type_ids`` are left at zero.

    Args:
        model: the model of transformers.

    Attributes:
        gradient_checkpointing: keep only each block's input for the backward pass and compute the block again there.
            transformers' own switch works in training mode alone, and gradients are taken in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.gradient_checkpointing = False
        self.name_or_path = ""
        self._full = Fullness()

    @classmethod
    def from_pretrained(cls, folder: Path, kind: str, dtype: torch.dtype) -> HFMasked:
        """Load a folder in the hub's layout; safetensors only, and no code of the folder is executed.

        Args:
            folder: the model.
            kind: its ``model_type``.
            dtype: of the weights.

        Raises:
            UserError: transformers has no masked language model of this kind, or the folder cannot be read.
        """
        transformers = load_extra("transformers")
        mapping = load_extra("transformers.models.auto.modeling_auto").MODEL_FOR_MASKED_LM_MAPPING_NAMES
        known = "LLaDA, Dream, a model saved by dipod, or a masked language model of transformers"
        require(kind in mapping, "config.json model_type", kind, f"give {known}")
        try:
            model, read = transformers.AutoModelForMaskedLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError("model", str(folder), f"cannot be read ({str(error).splitlines()[0]})") from error
        missing = sorted(read["missing_keys"])
        require(not missing, "model", str(folder), f"weights are missing: {first_few(missing)}")
        return cls(model)

    @property
    def config(self) -> Any:
        """The configuration of transformers."""
        return self.model.config

    def encode(self, prompts: Tokens) -> Prompts:
        """Prompts [P, S], padded on the left; attention runs both ways, so that nothing is computed beforehand."""
        return Prompts(prompts, bool(prompts.valid.all()))

    def forward(
        self, tokens: Tokens, at: Tensor | None = None, prompts: Prompts | None = None, owner: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, M, D] of completions [B, T] at places ``at`` [B, M]; all when None."""
        full = self._full(tokens.valid) and (prompts is None or prompts.full)
        laid = lay_out(tokens, None if prompts is None else prompts.tokens, owner, full)
        places = torch.arange(tokens.ids.shape[1], device=laid.ids.device)[None] if at is None else at
        places = places + laid.start
        if laid.valid is None:
            return pick(self._last(laid.ids, None), places)
        order = laid.valid.long().argsort(stable=True, dim=-1, descending=True)
        moved = order.argsort(-1).gather(1, places.expand(len(order), -1))
        return pick(self._last(laid.ids.gather(1, order), laid.valid.gather(1, order)), moved)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        logits: Tensor = self._output()(hidden)
        return logits

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder as transformers does."""
        save: Any = self.model.save_pretrained
        save(folder)

    def saved_state(self, folder: Path) -> dict[str, Tensor]:
        """What `save_pretrained` wrote, under the names of this module: transformers has others, and ties weights.

        Raises:
            UserError: the folder cannot be read.
        """
        kind, dtype = str(self.config.model_type), next(self.parameters()).dtype
        return type(self).from_pretrained(folder, kind, dtype).state_dict()

    def _output(self) -> nn.Module:
        get: Any = self.model.get_output_embeddings
        output: nn.Module = get()
        return output

    def _last(self, ids: Tensor, valid: Tensor | None) -> Tensor:
        """What the output layer is given, [B, T, D], caught on its way; the layer itself is given nothing to do."""
        caught: list[Tensor] = []

        def catch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            caught.append(inputs[0])
            return (inputs[0][:, :0], *inputs[1:])

        again = _blocks(self.model) if self.gradient_checkpointing and torch.is_grad_enabled() else []
        handle = self._output().register_forward_pre_hook(catch)
        try:
            with _computed_again(again):
                self.model(input_ids=ids, attention_mask=None if valid is None else valid.long())
        finally:
            handle.remove()
        return caught[0]


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in a list: the layers of the model."""
    listed = isinstance(module, nn.ModuleList)
    return [
        block
        for child in module.children()
        for block in ([child] if listed and not isinstance(child, nn.ModuleList) else _blocks(child))
    ]


@contextmanager
def _computed_again(blocks: list[nn.Module]) -> Iterator[None]:
    """Inside it, these blocks keep their inputs for the backward pass and compute the rest again."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
