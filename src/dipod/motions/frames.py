"""Frames of a motion as retargeting gives them: a table without a header, one frame a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dipod.errors import UserError, require
from dipod.motions.rotations import Array

QuaternionOrder = Literal["xyzw", "wxyz"]
ROOT = 7
"""Columns of the root: position xyz in m and a quaternion."""


@dataclass(frozen=True)
class Frames:
    """T frames of one robot.

    Attributes:
        position: of the root in the world, m, [T, 3].
        rotation: of the root, unit quaternions wxyz, [T, 4].
        joints: angles in rad, [T, J].
        rate: frames a second.
    """

    position: Array
    rotation: Array
    joints: Array
    rate: float


def read_frames(
    path: Path, joints: int, rate: float = 30.0, quaternion: QuaternionOrder = "xyzw", lines: str = ""
) -> Frames:
    """Read a CSV without a header: root xyz, quaternion, joint angles.

    Args:
        path: the file.
        joints: how many angles a line holds.
        rate: frames a second.
        quaternion: the order of columns 4 to 7.
        lines: "120:720" for these lines alone, both counted; "" for all.

    Raises:
        UserError: the file, a line, a column or a number is not as it should be, with where it stands.
    """
    require(0 < rate < float("inf"), "fps", rate, "give a positive number of frames a second")
    table, first = _table(path, joints, lines)
    norms = np.linalg.norm(table[:, 3:ROOT], axis=1)
    worst = int(np.abs(norms - 1).argmax())
    if abs(norms[worst] - 1) > 0.01:
        field = f"{path.name} line {first + worst}, quaternion in columns 4 to 7"
        raise UserError(field, _short(table[worst, 3:ROOT]), f"its norm is {norms[worst]:.3g}; give a unit quaternion")
    rotation = table[:, 3:ROOT] / norms[:, None]
    if quaternion == "xyzw":
        rotation = np.roll(rotation, 1, axis=1)
    return Frames(table[:, :3], rotation, table[:, ROOT:], float(rate))


def _table(path: Path, joints: int, lines: str) -> tuple[Array, int]:
    """The chosen lines as numbers, [T, 7 + J], and the first one's number, from 1."""
    try:
        text = path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("file", str(path), "it cannot be read as text; give a CSV of frames") from error
    require(bool(text), "file", str(path), "it is empty; give a CSV with one frame a line")
    first, last = _range(lines, len(text))
    width = ROOT + joints
    rows = [_row(line, number, path, width, joints) for number, line in enumerate(text[first - 1 : last], first)]
    table = np.array(rows, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        line, column = bad[0]
        field = f"{path.name} line {first + line}, column {column + 1}"
        raise UserError(field, float(table[line, column]), f"give a finite number ({len(bad)} of {table.size} are not)")
    return table, first


def _row(line: str, number: int, path: Path, width: int, joints: int) -> list[float]:
    cells = line.split(",")
    field = f"{path.name} line {number}"
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        if len(cells) == 1:
            raise UserError(field, line[:60], "separate the columns by commas") from None
        if number == 1 and not any(_is_number(cell) for cell in cells):
            raise UserError(field, line[:60], "this is a header; delete it, frames begin at line 1") from None
        column = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        raise UserError(f"{field}, column {column + 1}", cells[column].strip(), "give a number") from None
    if len(numbers) != width:
        wanted = f"give {width}: root xyz, quaternion xyzw, {joints} joint angles"
        raise UserError(field, f"{len(numbers)} columns", wanted + _guess(len(numbers) - width))
    return numbers


def _guess(surplus: int) -> str:
    """What a wrong number of columns may come from."""
    known = {
        1: "; one more is often a frame number or a time in front",
        -1: "; one less is often a root orientation in three Euler angles",
        -6: "; six less is often the G1 with 23 joints, whose model is another one",
    }
    return known.get(surplus, "")


def _range(lines: str, count: int) -> tuple[int, int]:
    if not lines:
        return 1, count
    first, colon, last = lines.partition(":")
    good = bool(colon) and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= count
    require(good, "lines", lines, f"give FIRST:LAST between 1 and {count}")
    return int(first), int(last)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _short(values: Array) -> str:
    return " ".join(f"{value:.4g}" for value in values)
