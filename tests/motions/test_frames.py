"""Reading frames: the numbers come back, and what is wrong is named with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.motions.frames import read_frames
from tests.motions.robots import frames, write_csv

GOOD = "0,0,1,0,0,0,1,.1,.2"


def test_a_file_gives_its_frames_back_in_either_order_of_the_quaternion(tmp_path: Path) -> None:
    motion = frames(20, 3)
    read = read_frames(write_csv(tmp_path / "x.csv", motion), 3)
    for name in ("position", "rotation", "joints"):
        np.testing.assert_allclose(getattr(read, name), getattr(motion, name), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(read.rotation, axis=1), 1, atol=1e-12)
    as_given = read_frames(tmp_path / "x.csv", 3, quaternion="wxyz").rotation
    np.testing.assert_allclose(np.roll(as_given, 1, axis=1), read.rotation, atol=1e-12)


def test_lines_are_counted_from_one_and_both_ends_belong(tmp_path: Path) -> None:
    motion = frames(20, 3)
    read = read_frames(write_csv(tmp_path / "x.csv", motion), 3, lines="3:5")
    np.testing.assert_allclose(read.joints, motion.joints[2:5], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "lines", "complaint"),
    [
        ("", "", "it is empty"),
        ("x,y,z,qx,qy,qz,qw,a,b\n" + GOOD, "", "line 1 = .*this is a header; delete it"),
        (GOOD.replace(",", ";"), "", "separate the columns by commas"),
        (GOOD + ",.3", "", "line 1 = '10 columns': give 9: .* 2 joint angles; one more is often a frame number"),
        (f"{GOOD}\n{GOOD[:-3]}", "", "line 2 = '8 columns': .*one less is often a root orientation in three Euler"),
        (f"{GOOD}\n{GOOD.replace('.1', 'nan')}", "", r"line 2, column 8 = nan: give a finite number \(1 of 18"),
        (f"{GOOD}\n{GOOD.replace('.1', 'one')}", "", "line 2, column 8 = 'one': give a number"),
        (f"{GOOD}\n0,0,1,0,0,0,2,.1,.2", "", "line 2, quaternion .* = '0 0 0 2': its norm is 2"),
        (GOOD, "2:3", "lines = '2:3': give FIRST:LAST between 1 and 1"),
        (GOOD, "all", "lines = 'all'"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, lines: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_frames(path, 2, lines=lines)


@pytest.mark.parametrize("rate", [0.0, -30.0, float("nan"), float("inf")])
def test_the_rate_is_positive(rate: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fps"):
        read_frames(tmp_path / "x.csv", 2, rate)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_frames(tmp_path / "none.csv", 2)
