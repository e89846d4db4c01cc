"""The page of a run that is still going, kept fresh as its metrics come."""

from __future__ import annotations

import time
from pathlib import Path

from dipod.loop import Metrics
from dipod.report.page import write_live
from dipod.runs import Listener

EVALUATED = ("gap", "solved_sampled", "reward_greedy", "warning")
"""A row that holds one of these is worth a new page at once."""
SECONDS = 30.0
"""Otherwise a page is this old before there is a new one."""


class Live:
    """A listener for `dipod.runs.train` that keeps ``report.html`` fresh and passes everything on.

    Args:
        folder: the run folder.
        listener: told everything first.
    """

    def __init__(self, folder: Path, listener: Listener) -> None:
        self.folder, self.listener = folder, listener
        self.written = time.monotonic()

    def pretrained(self, step: int, steps: int, elbo: float) -> None:
        """Passed on."""
        self.listener.pretrained(step, steps, elbo)

    def trained(self, metrics: Metrics, steps: int) -> None:
        """Passed on; after an evaluation, or half a minute, the page is written."""
        self.listener.trained(metrics, steps)
        if any(key in metrics for key in EVALUATED) or time.monotonic() - self.written > SECONDS:
            write_live(self.folder)
            self.written = time.monotonic()
