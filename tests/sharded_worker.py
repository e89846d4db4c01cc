"""One of several processes that train a run folder under FSDP or DeepSpeed on the CPU.

accelerate shards on accelerators only; here its state is told otherwise, and everything after that is its own code.

    torchrun --nproc-per-node 2 -m tests.sharded_worker fsdp RUN
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from accelerate import Accelerator, DeepSpeedPlugin, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from dipod import runs
from dipod.parallel import Processes, leave
from dipod.partners import join
from dipod.policies import head, masked
from dipod.runs import Silent

FEW_LOGITS = 3 * 264
"""So few at a time that processes need different numbers of chunks."""


def fsdp(mixed_precision: str) -> Accelerator:
    """An accelerator that shards with FSDP2 over gloo."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    for state in (AcceleratorState._shared_state, PartialState._shared_state, accelerator.state.__dict__):
        state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def zero2(mixed_precision: str) -> Accelerator:
    """An accelerator that hands over to DeepSpeed, stage 2, over gloo."""
    gloo = InitProcessGroupKwargs(backend="gloo")
    plugin = DeepSpeedPlugin(zero_stage=2)
    return Accelerator(mixed_precision=mixed_precision, deepspeed_plugin=plugin, kwargs_handlers=[gloo])


def start(kind: str, mixed_precision: str = "no", tracker: str | None = None, folder: Path | None = None) -> Processes:
    """In place of `dipod.parallel.start`."""
    del tracker, folder
    join()
    return Processes({"fsdp": fsdp, "zero2": zero2}[kind](mixed_precision))


if __name__ == "__main__":
    few_at_a_time = partial(head.token_log_probs, chunk_values=FEW_LOGITS)
    begin = partial(start, sys.argv[1])
    with patch.object(runs, "start", begin), patch.object(masked, "token_log_probs", few_at_a_time):
        runs.train(Path(sys.argv[2]), Silent())
    leave(0)
