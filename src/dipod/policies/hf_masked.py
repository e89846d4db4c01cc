"""Any masked language model of transformers (BERT, ModernBERT, RoBERTa, ...) as a masked diffusion model."""

from __future__ import annotations

import inspect
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
from dipod.policies.hub import first_few, locate_weights
from dipod.policies.layers import Fullness, Prompts, lay_out, pick
from dipod.policies.tokens import Tokens


class HFMasked(nn.Module):
    """A `MaskedModel` around an ``AutoModelForMaskedLM``.

    The hidden states are those that the model's last layer turns into logits, which is the head. Rows with padding are
    moved to the left edge, so that padding shifts the positions of no model, whichever way it counts them. Tokens that
    say where they stand (`Tokens.positions`) are given ``position_ids``; windows of local attention count places all
    the same. Prompt and completion are one segment: ``token_type_ids`` are left at zero.

    Args:
        model: the model of transformers.

    Attributes:
        gradient_checkpointing: keep only each block's input for the backward pass and compute the block again there.
            transformers' own switch works in training mode alone, and gradients are taken in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for causal in ("is_decoder", "is_encoder_decoder"):
            both = not getattr(self.config, causal, False)
            require(both, f"config.json {causal}", True, "give an encoder, whose attention runs both ways")
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
        transformers = _transformers(kind)
        locate_weights(folder)
        try:
            model, read = transformers.AutoModelForMaskedLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError("model", str(folder), f"cannot be read ({str(error).splitlines()[0]})") from error
        missing = sorted(read["missing_keys"])
        require(not missing, "model", str(folder), f"weights are missing: {first_few(missing)}")
        return cls(model)

    @classmethod
    def described(cls, folder: Path, kind: str) -> HFMasked:
        """The model that ``config.json`` describes, without weights and without memory (on the meta device).

        Raises:
            UserError: as `from_pretrained`.
        """
        transformers = _transformers(kind)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            with torch.device("meta"):
                return cls(transformers.AutoModelForMaskedLM.from_config(config, trust_remote_code=False))
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise UserError("model", str(folder), f"cannot be built ({str(error).splitlines()[0]})") from error

    @property
    def config(self) -> Any:
        """The configuration of transformers."""
        return self.model.config

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        weight: Any = self._output().weight
        return int(weight.shape[0])

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that it has positions for; None where nothing limits them."""
        table = self._table
        if table is not None:
            return table.num_embeddings - self._first
        most = getattr(self.config, "max_position_embeddings", None)
        return int(most) if most and most > 0 else None

    @property
    def _table(self) -> nn.Embedding | None:
        """The embeddings of positions, where the model learns them."""
        named = (module for name, module in self.model.named_modules() if name.endswith("position_embeddings"))
        return next((module for module in named if isinstance(module, nn.Embedding)), None)

    @property
    def _first(self) -> int:
        """The number of the first position: RoBERTa and its kin count from behind that of padding."""
        table = self._table
        return 0 if table is None or table.padding_idx is None else table.padding_idx + 1

    def encode(self, prompts: Tokens) -> Prompts:
        """Prompts [P, S], padded on the left; attention runs both ways, so that nothing is computed beforehand."""
        return Prompts(prompts, bool(prompts.valid.all()))

    def forward(
        self, tokens: Tokens, at: Tensor | None = None, prompts: Prompts | None = None, owner: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, M, D] of completions [B, T] at places ``at`` [B, M]; all when None."""
        full = self._full(tokens.valid) and (prompts is None or prompts.full)
        laid = lay_out(tokens, None if prompts is None else prompts.tokens, owner, full)
        line = tokens.positions is None and (prompts is None or prompts.tokens.positions is None)
        positions = None if line else laid.positions + self._first
        places = torch.arange(tokens.ids.shape[1], device=laid.ids.device)[None] if at is None else at
        places = places + laid.start
        if laid.valid is None:
            return pick(self._last(laid.ids, None, positions), places)
        order = laid.valid.long().argsort(stable=True, dim=-1, descending=True)
        moved = order.argsort(-1).gather(1, places.expand(len(order), -1))
        positions = None if positions is None else positions.gather(1, order)
        return pick(self._last(laid.ids.gather(1, order), laid.valid.gather(1, order), positions), moved)

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

    def _last(self, ids: Tensor, valid: Tensor | None, positions: Tensor | None) -> Tensor:
        """What the output layer is given, [B, T, D], caught on its way; the layer itself is given nothing to do."""
        caught: list[Tensor] = []

        def catch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            caught.append(inputs[0])
            return (inputs[0][:, :0], *inputs[1:])

        given = {} if positions is None else {"position_ids": positions}
        if given and "position_ids" not in inspect.signature(self.model.forward).parameters:
            raise UserError("model", str(self.config.model_type), "it takes no position_ids, which these tokens have")
        again = _blocks(self.model) if self.gradient_checkpointing and torch.is_grad_enabled() else []
        handle = self._output().register_forward_pre_hook(catch)
        try:
            with _computed_again(again):
                self.model(input_ids=ids, attention_mask=None if valid is None else valid.long(), **given)
        finally:
            handle.remove()
        return caught[0]


def _transformers(kind: str) -> Any:
    """The library, which has a masked language model of this kind; or a `UserError`."""
    mapping = load_extra("transformers.models.auto.modeling_auto").MODEL_FOR_MASKED_LM_MAPPING_NAMES
    known = "LLaDA, Dream, a model saved by dipod, or a masked language model of transformers"
    require(kind in mapping, "config.json model_type", kind, f"give {known}")
    return load_extra("transformers")


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
