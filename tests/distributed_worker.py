"""One of the processes that torchrun starts: it runs commands of `dipod`, and is killed once where it is told to.

    torchrun ... -m tests.distributed_worker PLAN.json

The plan is a list of objects: "arguments" of the command; "kill", a list of [rank, step, place], where the place is
"metrics", when they have been written but not the checkpoint, or "checkpoint", in the middle of writing it; and, if
the processes share a model out, "sharded": "fsdp" or "zero2". What was killed is remembered in a file beside the plan,
so that the process that torchrun starts in its place lives.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dipod import checkpoints, runs, saving
from dipod.cli import main
from dipod.files import write_json
from dipod.parallel import Processes, leave
from tests import sharded_worker


def die(targets: list[list[Any]], marks: Path, step: int, place: str) -> None:
    """Be killed if this is where."""
    here = [int(os.environ["RANK"]), step, place]
    mark = marks.with_name(f"{marks.name}-{'-'.join(map(str, here))}")
    if here in targets and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def run(command: Mapping[str, Any], marks: Path) -> int:
    """One command; its exit status."""
    targets = command["kill"]

    def track(_: Processes, _metrics: Mapping[str, Any], step: int) -> None:
        die(targets, marks, step, "metrics")

    def write(path: Path, value: Any) -> None:
        if path.name == checkpoints.STATE_FILE and "-" in path.parent.name:
            die(targets, marks, value["step"], "checkpoint")
        write_json(path, value)

    with ExitStack() as stack:
        stack.enter_context(patch.object(Processes, "end_tracking", lambda _: None))  # it would part the processes
        stack.enter_context(patch.object(Processes, "track", track))
        for module in (checkpoints, saving):
            stack.enter_context(patch.object(module, "write_json", write))
        if command.get("sharded"):
            stack.enter_context(patch.object(runs, "start", partial(sharded_worker.start, command["sharded"])))
        return main(command["arguments"])


if __name__ == "__main__":
    plan = Path(sys.argv[1])
    for number, each in enumerate(json.loads(plan.read_text())):
        status = run(each, plan.with_name(f"killed-{number}"))
        if status:
            leave(status)
    leave(0)
