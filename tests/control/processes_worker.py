"""One of several processes that train run folders on the CPU, one folder after the other.

    torchrun --nproc-per-node 2 -m tests.control.processes_worker RUN...

What each process is left with is written beside the run's files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

from safetensors.torch import save_file

from dipod import runs
from dipod.control.trainer import ControlTrainer
from dipod.parallel import Processes, leave
from dipod.runs import Session, Silent, improve


def kept(session: Session, trainer: ControlTrainer) -> None:
    """`dipod.runs.improve`, and what it ends with on this process."""
    improve(session, trainer)
    weights = {name: value.contiguous() for name, value in trainer.network.state_dict().items()}
    save_file(weights, session.folder / f"rank-{session.processes.rank}.safetensors")


if __name__ == "__main__":
    together = patch.object(Processes, "end_tracking", lambda _: None)  # it would part the processes
    with together, patch.object(runs, "improve", kept):
        for folder in sys.argv[1:]:
            runs.train(Path(folder), Silent())
    leave(0)
