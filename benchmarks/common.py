"""What the benchmarks share: where they ran, how they time, in what form results are kept."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dipod", "torch", "accelerate", "peft")
GB, MB = 10**9, 10**6

T = TypeVar("T")


def hardware(device: str) -> str:
    """The name of the processor or of the GPU."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def provenance(script: str, device: str) -> dict[str, Any]:
    """How a result came about: the command, the machine, how busy it was, versions, threads."""
    return {
        "command": shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
        "hardware": hardware(device),
        "device": device,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def timed(work: Callable[[], T], device: str) -> tuple[T, float, float | None]:
    """(result, seconds, most bytes allocated on the GPU meanwhile or None on a CPU)."""
    cuda = device == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return result, seconds, float(torch.cuda.max_memory_allocated()) if cuda else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "repeats": len(values)}
