"""FSDP2 and DeepSpeed ZeRO-2: what a policy needs that is called in parts and not equally often on every process.

A policy asks its network for hidden states and then, outside of that call, the network's head for logits, in as many
chunks as the masks of a process need; and rollouts end early on one process but not on another. Whatever exchanges
parameters in such places waits for ever. So under FSDP2

- embedding, last norm and head stay in the root's unit, which is gathered by the root's call and let go at the end of
  the backward pass; only the blocks, which every process calls equally often, are gathered and let go one by one;
- a call without gradients gathers everything first and keeps it, so that the calls after it exchange nothing: while
  rollouts are drawn, a process holds the whole network (of a gradient pass, one or two blocks).

Under ZeRO-2 every process holds all parameters and exchanges gradients only; the engine's step is taken when the
trainer takes it, with the trainer's clip.

Both were run on two CPU processes over gloo, where accelerate by itself leaves them out; nothing here was run on
several GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dipod.checkpoints import (
    ENGINE,
    engine_parts,
    flat_optimiser,
    reading,
    refuse_engine,
    restore_optimiser,
    save_network,
)
from dipod.errors import UserError, require
from dipod.policies.hub import load_weights
from dipod.policies.layers import BidirectionalModel
from dipod.policies.lora import ADAPTER_WEIGHTS, base_network, has_adapters

if TYPE_CHECKING:
    from accelerate import Accelerator

OPTIMISERS = ("policy", "distillation")
"""The trainer's, in the order in which it prepares them; files of a checkpoint carry these names."""


def shard(
    accelerator: Accelerator, network: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """Split the network and its optimisers' states over the processes with FSDP2; the network is changed in place.

    Raises:
        UserError: the first FSDP, a torch without what is needed, or a network whose parts cannot be called apart.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

    plugin: Any = accelerator.state.fsdp_plugin
    require(accelerator.is_fsdp2, "fsdp_version", plugin.fsdp_version, "set fsdp_version: 2 in the launch file")
    able = hasattr(FSDPModule, "set_reshard_after_forward")
    require(able, "torch", torch.__version__, "FSDP needs a newer torch; or use ddp")
    base = base_network(network)
    kind = type(base).__name__
    if not isinstance(base, BidirectionalModel):
        raise UserError("model.path", kind, "FSDP is for LLaDA and Dream; use ddp")
    network._no_split_modules = sorted({type(block).__name__ for block in base.stack()})  # type: ignore[assignment]
    if plugin.mixed_precision_policy is not None:
        dtype = plugin.mixed_precision_policy.param_dtype
        # sums of gradients and rotary tables stay in float32
        plugin.mixed_precision_policy = MixedPrecisionPolicy(dtype, torch.float32, None, cast_forward_inputs=False)
    before = list(network.parameters())
    wrapped, *rest = accelerator.prepare(network, *optimisers)
    kept = {id(parameter) for parameter in wrapped.parameters()}
    for parameter in before:
        if id(parameter) not in kept:
            parameter.data = parameter.data.new_empty(0)  # whoever still holds it holds no memory
    wrapped.register_forward_pre_hook(_gather_once, prepend=True)
    return wrapped, rest


def _gather_once(root: nn.Module, _inputs: object) -> None:
    """Before the root's call: gather everything and keep it, unless gradients are wanted."""
    from torch.distributed.fsdp import FSDPModule

    learning = torch.is_grad_enabled()
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(learning and module is not root, recurse=False)
            if not learning:
                with torch.inference_mode(False), torch.no_grad():  # what inference mode makes knows no gradients
                    module.unshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which every process holds a part; all processes call this together."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(full: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a whole tensor, split as ``parameter`` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or full.shape != parameter.shape:
        return full
    return distribute_tensor(full.to(parameter.device), parameter.device_mesh, parameter.placements)


def write_whole(network: nn.Module, optimisers: Sequence[Any], folder: Path, main: bool) -> None:
    """Write adapters or model as `save_network` does, and the optimisers' states, from all processes' parts.

    Args:
        network: sharded.
        optimisers: in the order of `OPTIMISERS`.
        folder: exists; its files will be those of an unsharded run's checkpoint.
        main: this process writes; all take part.
    """
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    full = {name: _on_cpu(tensor, main) for name, tensor in network.state_dict().items() if name in learned}
    if main:

        def put(_module: nn.Module, tensors: dict[str, Tensor], _prefix: str, _local: object) -> None:
            tensors.update(cast(dict[str, Tensor], full))

        handle = network.register_state_dict_post_hook(put)
        try:
            save_network(network, folder)
        finally:
            handle.remove()
    for name, optimiser in zip(OPTIMISERS, optimisers, strict=False):
        state = {key: _on_cpu(value, main) for key, value in flat_optimiser(optimiser).items()}
        if main:
            save_file(cast(dict[str, Tensor], state), folder / f"{name}.safetensors")


def _on_cpu(tensor: Tensor, keep: bool) -> Tensor | None:
    full = whole(tensor)
    return full.cpu().contiguous() if keep else None


@torch.no_grad()
def read_whole(network: nn.Module, optimisers: Sequence[Any], folder: Path) -> None:
    """Put a checkpoint's parameters and optimiser states back, on any number of processes.

    Raises:
        UserError: a file that is missing, damaged, or does not fit; or DeepSpeed has the optimisers' states.
    """
    refuse_engine(folder)
    with reading(folder):
        saved = _saved_parameters(network, folder)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(_like(saved[name].to(parameter.device, parameter.dtype), parameter))
        for file, optimiser in zip(OPTIMISERS, optimisers, strict=False):
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            flat = load_file(folder / f"{file}.safetensors")
            mine = {key: _like(value, parameters[int(key.partition(".")[0])]) for key, value in flat.items()}
            restore_optimiser(optimiser, mine)


def _saved_parameters(network: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Tensors of `save_network` under the names that they have in the network."""
    if not has_adapters(network):
        return load_weights(folder)
    from peft import get_peft_model_state_dict

    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    numbered = {name: torch.tensor(number) for number, name in enumerate(names)}
    short = get_peft_model_state_dict(network, numbered, save_embedding_layers=False)
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    return {names[int(number)]: tensors[name] for name, number in short.items()}


def start_engine(
    accelerator: Accelerator, network: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """Hand the network and its optimiser to DeepSpeed's engine.

    The optimiser that comes back steps when it is asked to; accelerate's steps inside the last backward pass, before
    a bad gradient could be noticed.

    Raises:
        UserError: another stage than 2, or a second optimiser, of which the engine has no room.
    """
    mend = "DeepSpeed takes one optimiser; use ddp or fsdp for +interleave"
    require(len(optimisers) == 1, "algorithm", f"{len(optimisers)} optimisers", mend)
    plugin: Any = accelerator.state.deepspeed_plugin
    require(plugin.zero_stage == 2, "zero_stage", plugin.zero_stage, "the loop is written for ZeRO stage 2")
    # passes differ in size, and the trainer scales and counts them itself
    plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    wrapped, optimiser = accelerator.prepare(network, optimisers[0])
    optimiser.step = wrapped.step
    return wrapped, [optimiser]


def engine_norm(engine: Any, norm: float) -> Tensor:
    """Have the engine's next step clip to ``norm``; returns the gradient's norm, NaN where it is not finite."""
    optimiser = engine.optimizer
    optimiser.clip_grad = norm
    had = torch.as_tensor(optimiser.scaled_global_norm()).detach() / optimiser.loss_scale
    return torch.where(had >= 0, had, torch.nan)  # DeepSpeed says -1 of a norm that is not finite


def write_engine(engine: Any, folder: Path, main: bool) -> None:
    """Write the engine's parts (pickled, by DeepSpeed) and the network as an unsharded run writes it."""
    engine.save_checkpoint(str(folder), tag=ENGINE, exclude_frozen_parameters=has_adapters(engine.module))
    if main:
        save_network(engine.module, folder)


def read_engine(engine: Any, folder: Path, processes: int) -> None:
    """Put what `write_engine` wrote back.

    Raises:
        UserError: another number of processes wrote it, or none under DeepSpeed; or a file is damaged.
    """
    parts = engine_parts(folder)
    mend = "it was not written under DeepSpeed, which cannot read it; go on without, or with ddp or fsdp"
    require(parts > 0, "checkpoint", str(folder), mend)
    mend = f"{folder} was written by {parts} processes under DeepSpeed; start as many"
    require(parts == processes, "number of processes", processes, mend)
    with reading(folder):
        engine.load_checkpoint(str(folder), tag=ENGINE, load_module_strict=False)
