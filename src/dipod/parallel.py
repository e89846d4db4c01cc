"""The processes of one run: who has which rollouts, and what they must agree on. One process is the case of one.

A step's rollouts have the same order and the same noise however many processes there are: each takes a contiguous
share, rewards are gathered before advantages are taken, and losses are divided by totals over all processes.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn

from dipod import partners, sharding
from dipod.errors import Note, RewardFailed, UserError, require
from dipod.launch import HELP, separate_tasks

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """A thin layer over ``accelerate.Accelerator``, which knows DDP, FSDP and DeepSpeed.

    Attributes:
        accelerator: made by `start`.
    """

    accelerator: Accelerator

    @property
    def count(self) -> int:
        """How many processes there are."""
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        return int(self.accelerator.process_index)

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def sharded(self) -> bool:
        """Whether parameters or optimiser states are split over the processes, so that no process holds them all."""
        return self._kind in ("FSDP", "DEEPSPEED")

    @property
    def _kind(self) -> str:
        return str(self.accelerator.distributed_type.value)

    def prepare(
        self, network: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        """The network and its optimisers as their processes share them; see `dipod.sharding` for FSDP and DeepSpeed.

        The network's parameters are other objects afterwards under FSDP; the optimisers have them.
        """
        if self._kind == "FSDP":
            return sharding.shard(self.accelerator, network, optimisers)
        if self._kind == "DEEPSPEED":
            return sharding.start_engine(self.accelerator, network, optimisers)
        wrapped, *rest = self.accelerator.prepare(network, *optimisers)
        return wrapped, rest

    def share(self, total: int, what: str) -> slice:
        """This process's part of ``total`` rows."""
        mend = f"give a multiple of the number of processes ({self.count})"
        require(total % self.count == 0, what, total, mend)
        size = total // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of `share`."""
        gathered: Tensor = self.accelerator.gather(rows.to(self.device)) if self.count > 1 else rows
        return gathered.to(rows.device)

    def gather_uneven(self, rows: Tensor) -> Tensor:
        """The rows of all processes, of which each may have another number, in the order of the processes."""
        if self.count == 1:
            return rows
        most = int(self.gather(torch.tensor([len(rows)])).max())
        marked = torch.zeros(most, dtype=torch.bool)
        marked[: len(rows)] = True
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        return self.gather(padded)[self.gather(marked)]

    def total(self, value: Tensor) -> Tensor:
        """The sum of a number over all processes, in float64."""
        value = value.detach().double()
        return self.gather(value.reshape(1)).sum() if self.count > 1 else value

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the gradient of this process's part of the loss; parts add up to the whole.

        Args:
            loss: a scalar.
            last: no other backward pass follows before the optimiser's step (DeepSpeed must know).
        """
        loss = loss * self.count  # data parallelism averages where we want a sum
        if self._kind == "DEEPSPEED":
            engine = self._engine
            engine.set_gradient_accumulation_boundary(last)
            engine.backward(loss)
        else:
            self.accelerator.backward(loss)

    def holding(self, network: nn.Module, hold: bool) -> AbstractContextManager[Any]:
        """Inside it, gradients stay with this process if ``hold``: one exchange for many backward passes.

        FSDP and DeepSpeed exchange them after every pass: a process that is to hold a part of the parameters has no
        room for the whole gradient.
        """
        return self.accelerator.no_sync(network) if hold and not self.sharded else nullcontext()

    def clip(self, parameters: Iterable[Tensor], norm: float) -> Tensor | None:
        """Clip the gradient to a norm (DeepSpeed: in its next step); returns the norm that it had."""
        if self._kind == "DEEPSPEED":
            return sharding.engine_norm(self._engine, norm)
        if self._kind == "FSDP":
            return sharding.whole(self.accelerator.clip_grad_norm_(parameters, norm)).detach()
        return torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, norm)).detach()

    @property
    def _engine(self) -> Any:
        """DeepSpeed's."""
        return self.accelerator._models[0]

    def save_sharded(self, folder: Path) -> None:
        """Write parameters and optimiser states of all processes into ``folder``, which is made anew.

        Adapters or model are written as in any checkpoint. Under FSDP everything is, so that a run can go on on any
        number of processes; DeepSpeed's own files want as many again.
        """
        if self.main:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.wait()
        if self._kind == "FSDP":
            sharding.write_whole(self.accelerator._models[0], self.accelerator._optimizers, folder, self.main)
        else:
            sharding.write_engine(self._engine, folder, self.main)
        self.wait()

    def load_sharded(self, folder: Path) -> None:
        """Read what `save_sharded` wrote.

        Raises:
            UserError: a file that is missing, damaged, or does not fit.
        """
        if self._kind == "FSDP":
            sharding.read_whole(self.accelerator._models[0], self.accelerator._optimizers, folder)
        else:
            sharding.read_engine(self._engine, folder, self.count)

    def begin_tracking(self, project: str, config: Any) -> None:
        """Open the tracker, if `start` named one."""
        self.accelerator.init_trackers(project, {"config": str(config)})

    def track(self, metrics: Mapping[str, float | int | str], step: int) -> None:
        """Send the numbers of a step to the tracker."""
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        self.accelerator.log(numbers, step=step)

    def end_tracking(self) -> None:
        """Close the tracker."""
        self.accelerator.end_training()

    def together(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on this process; where it fails on one, it does on all, so that none waits for another.

        Raises:
            RewardFailed: on this process or on another one, the same on all.
        """
        result, failure = None, None
        try:
            result = work()
        except RewardFailed as error:
            failure = error
        failed = failure is not None if self.count == 1 else float(self.total(torch.tensor(float(bool(failure))))) > 0
        if failed:
            raise self._first_of(failure)
        return cast(T, result)

    def _first_of(self, failure: RewardFailed | None) -> RewardFailed:
        """What failed on the first process where something did."""
        if failure is not None and self.count == 1:
            return failure
        from accelerate.utils import gather_object

        mine = None if failure is None else (failure.field, failure.value, failure.mend)
        return RewardFailed(*next(found for found in gather_object([mine]) if found is not None))

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()


def first() -> bool:
    """Whether this is the process that talks and writes: alone, or the first of those that were started together."""
    return os.environ.get("RANK", "0") == "0"


def by_first(work: Callable[[], T]) -> T:
    """What ``work`` gives on the first process, on all of them: the others wait for it, as long as it takes.

    Whatever ``work`` raises is raised on all.
    """
    met = partners.join()
    return work() if met is None else met.by_first(work)


def leave(status: int) -> NoReturn:
    """End the program with an exit status; one of several processes ends without taking the interpreter down.

    gloo's threads may still hold tensors when Python is half gone, and abort the process: DTensor's caches keep the
    process group alive after it was destroyed. Everything must be written and closed before.
    """
    if "RANK" not in os.environ:
        sys.exit(status)
    partners.part()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def start(mixed_precision: str = "no", tracker: str | None = None, folder: Path | None = None) -> Processes:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started; alone without them.

    Args:
        mixed_precision: "no", or "bf16": the network runs in bfloat16 over its own weights.
        tracker: "tensorboard", "wandb" or "trackio".
        folder: where a tracker may write.

    Raises:
        UserError: some processes did not come in time, the tracker is not installed, or the launch file asks for
            something that is not.
    """
    from accelerate import Accelerator

    partners.join()
    tasks = separate_tasks()
    if tasks:
        said = f"srun started {tasks} processes that do not know each other, each for a run of its own; {HELP}"
        warnings.warn(said, Note, stacklevel=2)
    on_cpu = not torch.cuda.is_available()
    directory = None if folder is None else str(folder)
    try:
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed_precision, log_with=tracker, project_dir=directory)
    except (ImportError, ValueError) as error:
        field, value = ("launch file", "accelerate") if tracker is None else ("logging.tracker", tracker)
        raise UserError(field, value, f"it cannot be used; is it installed? ({error})") from error
    accelerator.gradient_accumulation_steps = 1  # a launch file may say otherwise; the trainer divides by itself
    return Processes(accelerator)
