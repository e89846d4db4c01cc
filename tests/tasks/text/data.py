"""The data files that tests use where they are present."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[4] / "shared" / "data"


def shared(name: str) -> Path:
    """A shared data file; the test is skipped without it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path
