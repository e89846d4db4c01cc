"""The processes that were started together with this one: met once, ended together, named when they are lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from dipod.errors import UserError, require
from dipod.launch import START, WAIT, Launch, minutes
from dipod.meeting import AGAIN_SECONDS, Meeting, connect, in_background, meet

MEET_TO_FAIL_SECONDS = 60.0
"""How long a process that fails before it has met the others waits for them, so that one speaks for all."""

_met: dict[Launch, Meeting | None] = {}
"""The meeting that `join` has made, or None where it has failed."""


def join() -> Meeting | None:
    """Meet the processes that were started with this one, once, and make torch's process group; None without any.

    Raises:
        UserError: the environment says a part only, or some did not come in time.
    """
    launch = Launch.found()
    if launch is None:
        return None
    found = _met.get(launch)
    if found is not None:
        return found
    on_gpu = torch.cuda.is_available()
    known = launch.size == 1 or not on_gpu or "LOCAL_RANK" in os.environ
    require(known, "LOCAL_RANK", None, "set it to the GPU of this process; torchrun does")
    wait = minutes(WAIT)
    _met[launch] = None
    _met[launch] = meeting = meet(launch, 60 * minutes(START))
    own = PrefixStore(meeting.name, connect(launch, AGAIN_SECONDS))
    in_background(partial(meeting.watch, own))
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=PrefixStore("exchange", meeting.store),
            rank=launch.rank,
            world_size=launch.size,
            timeout=timedelta(minutes=wait),
        )
    return meeting


def fail(status: int) -> list[int] | None:
    """End the processes that were started with this one; see `Meeting.fail`. It may not have met them yet."""
    try:
        launch = Launch.found()
        if launch is None:
            return []
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher sends it as soon as one process is gone
        if launch not in _met:
            _met[launch] = meet(launch, MEET_TO_FAIL_SECONDS)
        meeting = _met[launch]
        return [] if meeting is None else meeting.fail(status)
    except SystemExit:
        return None
    except (UserError, RuntimeError):
        return []


def elsewhere() -> str:
    """Words that say where this process is, if it is not the one that usually talks."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f" on rank {rank} ({socket.gethostname()})"


def part() -> None:
    """Before this process ends: see `Meeting.part`."""
    for meeting in _met.values():
        if meeting is not None:
            meeting.part()


def broke(error: Exception) -> bool:
    """Whether an exchange between processes failed, rather than what this one does."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def loss(error: Exception, silent: list[int]) -> str:
    """One line on an exchange that failed.

    Args:
        error: of which `broke` holds.
        silent: the ranks that do not answer, as `fail` says.
    """
    who, meeting = "another process", next(iter(_met.values()), None)
    if meeting is not None and silent:
        try:
            who = meeting.names(silent)
        except RuntimeError:
            who = ", ".join(f"rank {rank}" for rank in silent)
    me = f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}"
    if "timed out" in str(error).lower() or "timeout" in str(error).lower():
        late = f"{who} does not answer" if silent else f"all answer, so one is slow: raise {WAIT}"
        return f"{me} waited {minutes(WAIT):g} minutes for the others in vain; {late}"
    return f"{me} lost {who}, and all stop; the same command with --resume auto goes on from the last checkpoint"
