"""Memory of a piece of work on a CPU: as the process has it, and as torch allocates it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def resident(field: str) -> float:
    """Bytes of this process that are in memory (VmRSS), or were at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def resident_before() -> float | None:
    """Forget the most resident memory so far; what there is, or None where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return resident("VmRSS")
    except OSError:
        return None


def allocated(work: Callable[[], None]) -> float:
    """The most bytes of tensors alive at once during ``work``, above those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    level = most = 0.0
    for event in sorted(events, key=lambda event: float(event["ts"])):
        level += event["args"]["Bytes"]
        most = max(most, level)
    return most
