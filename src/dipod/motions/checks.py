"""What frames must hold before they become a motion: the quaternion's order, the joints' limits, no jumps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dipod.errors import UserError
from dipod.motions.frames import Frames
from dipod.motions.g1 import STANDING
from dipod.motions.kinematics import Skeleton
from dipod.motions.rotations import Array, angle_between, upness

ROOT_SPEED, ROOT_TURN, JOINT_SPEED = 15.0, 30.0, 45.0
"""What lies beyond is a jump: m/s, rad/s and rad/s. Retargeted LAFAN1 motions stay under 4, 12 and 37."""
ROUNDING = 1e-5
"""Radians beyond a limit that a file with six decimals may have without meaning it."""


@dataclass(frozen=True)
class Allowed:
    """What the user says is meant.

    Attributes:
        limits: angles beyond the joints' limits stay as they are.
        jumps: so do jumps between frames.
        quaternion: the quaternion's order is as given.
    """

    limits: bool = False
    jumps: bool = False
    quaternion: bool = False


def check_frames(frames: Frames, skeleton: Skeleton, allowed: Allowed | None = None, first_line: int = 1) -> int:
    """Refuse frames that no robot could follow.

    Args:
        frames: T of them.
        skeleton: whose limits hold.
        allowed: what is let through.
        first_line: the file's line of the first frame, for messages.

    Returns:
        How many angles lie beyond a limit, where that is allowed.

    Raises:
        UserError: with the frame, the joint and by how much.
    """
    allowed = allowed or Allowed()
    if not allowed.quaternion:
        _check_quaternion(frames)
    beyond = _check_limits(frames, skeleton, allowed.limits, first_line)
    if not allowed.jumps:
        _check_jumps(frames, skeleton, first_line)
    return beyond


def _check_quaternion(frames: Frames) -> None:
    """A standing robot is upright; if it is so only in the other order of components, that is the file's."""
    standing = frames.position[:, 2] > STANDING
    if not standing.any():
        return
    given = frames.rotation[standing]
    as_given = float(upness(given).mean())
    in_other_order = float(upness(np.roll(given, -1, axis=1)).mean())
    if in_other_order > 0.8 and in_other_order - as_given > 0.3:
        mend = (
            f"these look like wxyz: read as xyzw a standing robot's own z axis points up by {as_given:.2f} on average, "
            f"as wxyz by {in_other_order:.2f}; give xyzw, or say --quaternion wxyz, or --quaternion xyzw if it is meant"
        )
        x, y, z, w = np.roll(frames.rotation[0], -1)
        raise UserError("quaternion in columns 4 to 7", f"{x:.3f} {y:.3f} {z:.3f} {w:.3f}", mend)


def _check_limits(frames: Frames, skeleton: Skeleton, allowed: bool, first_line: int) -> int:
    over = np.maximum(skeleton.lower - frames.joints, frames.joints - skeleton.upper)
    beyond = over > ROUNDING
    count = int(beyond.sum())
    if count and not allowed:
        frame, joint = np.unravel_index(over.argmax(), over.shape)
        low, high = skeleton.lower[joint], skeleton.upper[joint]
        joints = int(beyond.any(0).sum())
        mend = (
            f"it is {over[frame, joint]:.4f} rad beyond its limits {low:.4f} to {high:.4f} ({count} angles of {joints} "
            "joints are beyond theirs); mend the retargeting, or keep them with --allow-limits"
        )
        field = f"{skeleton.joints[joint]} in line {first_line + frame}"
        raise UserError(field, round(float(frames.joints[frame, joint]), 6), mend)
    return count


def _check_jumps(frames: Frames, skeleton: Skeleton, first_line: int) -> None:
    if len(frames.joints) < 2:
        return
    steps: list[tuple[str, str, float, Array]] = [
        ("root position", "m", ROOT_SPEED, np.linalg.norm(np.diff(frames.position, axis=0), axis=1)[:, None]),
        ("root rotation", "rad", ROOT_TURN, angle_between(frames.rotation[1:], frames.rotation[:-1])[:, None]),
        ("", "rad", JOINT_SPEED, np.abs(np.diff(frames.joints, axis=0))),
    ]
    for name, unit, most, size in steps:
        frame, column = np.unravel_index(size.argmax(), size.shape)
        jump = float(size[frame, column])
        if jump * frames.rate > most:
            line = first_line + int(frame)
            field = f"{name or skeleton.joints[column]} from line {line} to {line + 1}"
            mend = (
                f"it jumps at {jump * frames.rate:.0f} {unit}/s, and at most {most:.0f} is a motion; "
                f"convert a part with --lines FIRST:LAST, or keep it with --allow-jumps"
            )
            raise UserError(field, f"{jump:.3f} {unit}", mend)
