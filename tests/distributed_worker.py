"""One of the processes that torchrun starts: it runs commands of `dipod`, and is killed once where it is told to.

    torchrun ... -m tests.distributed_worker PLAN.json

The plan is a list of objects: "arguments" of the command, "kill" as [rank, step] or null. What has been killed once is
remembered in a file beside the plan, so that the process that torchrun starts in its place lives.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dipod.cli import main
from dipod.parallel import Processes, leave

if __name__ == "__main__":
    plan = Path(sys.argv[1])
    for number, command in enumerate(json.loads(plan.read_text())):
        done = plan.with_name(f"killed-{number}")

        def die(
            self: Processes, _: Mapping[str, Any], step: int, target: Any = command["kill"], done: Path = done
        ) -> None:
            if [self.rank, step] == target and not done.exists():
                done.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        together = patch.object(Processes, "end_tracking", lambda _: None)  # it would part the processes
        with together, patch.object(Processes, "track", die):  # between the line of metrics and the checkpoint
            status = main(command["arguments"])
        if status:
            leave(status)
    leave(0)
