"""What frames must hold before they become a motion: units, axes, orders, the joints' limits, no jumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dipod.errors import UserError, require
from dipod.motions.frames import Frames
from dipod.motions.g1 import HEIGHTS, JOINTS, STANDING, other_orders
from dipod.motions.kinematics import Skeleton
from dipod.motions.rotations import Array, angle_between, rotate, upness

ROOT_SPEED, ROOT_TURN, JOINT_SPEED = 15.0, 30.0, 45.0
"""What lies beyond is a jump: m/s, rad/s and rad/s. Retargeted LAFAN1 motions stay under 4, 12 and 37."""
ROUNDING = 1e-5
"""Radians beyond a limit that a file with six decimals may have without meaning it."""
UPRIGHT = 0.8
"""Mean cosine between an axis of the root and the vertical of a robot that stands."""
MANY, SEVERAL = 0.25, 3
"""Share of joints beyond half a turn that is no motion, and joints beyond their limits that may be an order's fault."""
DOUBTED, WANDERING, SUNK = 64, 0.05, 0.03
"""Frames that are looked at, and m that the lowest body of a robot on the ground wanders or sinks in at most."""


@dataclass(frozen=True)
class Allowed:
    """What the user says is meant.

    Attributes:
        limits: angles beyond the joints' limits stay as they are.
        jumps: so do jumps between frames.
        quaternion: the quaternion's order is as given.
        units: so are units and axes, in m, rad and z up.
    """

    limits: bool = False
    jumps: bool = False
    quaternion: bool = False
    units: bool = False


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
    _check_conventions(frames, allowed)
    beyond = _check_limits(frames, skeleton, allowed.limits, first_line)
    if not allowed.jumps:
        _check_jumps(frames, skeleton.joints, first_line)
    return beyond


def check_without_model(
    frames: Frames, joints: Sequence[str], allowed: Allowed | None = None, first_line: int = 1
) -> None:
    """The part of `check_frames` that needs no skeleton, only the joints' names.

    Raises:
        UserError: as there.
    """
    allowed = allowed or Allowed()
    _check_conventions(frames, allowed)
    if not allowed.jumps:
        _check_jumps(frames, joints, first_line)


def doubt(frames: Frames, skeleton: Skeleton) -> str | None:
    """What looks wrong though it may be meant: feet that are not where the ground is.

    Of the retargeted LAFAN1 motions, the lowest body stays within 3 cm in half of the frames and above the ground in
    nearly all; with joints in another order it does not.

    Returns:
        A sentence, or None; None of another robot than the G1.
    """
    if tuple(skeleton.joints) != JOINTS:
        return None
    few = np.linspace(0, len(frames.joints) - 1, min(DOUBTED, len(frames.joints))).astype(int)
    places = skeleton.forward(frames.position[few], frames.rotation[few], frames.joints[few])[0]
    deep, first, third = np.quantile(places[:, :, 2].min(1), [0.05, 0.25, 0.75])
    if third - first <= WANDERING and deep >= -SUNK:
        return None
    return (
        f"the lowest part of the robot is {first:.2f} to {third:.2f} m above the ground in half of the frames, and "
        f"{deep:.2f} m or lower in one of twenty; look whether the joints stand in Unitree's order, or whether it jumps"
    )


def _check_conventions(frames: Frames, allowed: Allowed) -> None:
    """Units, axes and the quaternion's order."""
    if not allowed.units:
        _check_height(frames)
        _check_degrees(frames)
    if not allowed.quaternion:
        _check_quaternion(frames)


def _check_height(frames: Frames) -> None:
    """The root's median height in metres, z up, is that of a robot on a floor, or says what it is instead."""
    across, height = (float(np.median(frames.position[:, axis])) for axis in (1, 2))
    keep = "or keep it with --allow-units"
    low, high = HEIGHTS
    field, shown = "root height in column 3", f"{height:.3g} (median)"
    for name, factor in (("centimetres", 100), ("millimetres", 1000)):
        mend = f"this looks like {name}; give metres (columns 1 to 3 divided by {factor}), {keep}"
        require(not low * factor <= height <= high * factor, field, shown, mend)
    mend = f"no robot on a floor is so high; give metres above it, z up, {keep}"
    require(height <= high, field, shown, mend)
    if height >= low:
        return
    upright = float(upness(frames.rotation).mean()) > UPRIGHT
    along_y = float(rotate(frames.rotation, np.array([0.0, 0.0, 1.0]))[:, 1].mean()) > UPRIGHT
    below = height < -low
    sideways = low <= across <= high and (upright or along_y or below)
    mend = f"column 2 is at {across:.3g}: y looks like the way up; give z up, positions and quaternions, {keep}"
    require(not sideways, field, shown, mend)
    mend = f"the pelvis of a robot that stands is not on the ground, nor below it; give its height, {keep}"
    require(not (below or (upright and height < low / 4)), field, shown, mend)


def _check_degrees(frames: Frames) -> None:
    """No joint of the robot turns by more than half a turn from its middle."""
    far = np.abs(frames.joints).max(0) > np.pi
    mend = f"{int(far.sum())} of {len(far)} joints go beyond π: this looks like degrees; give rad (times π/180)"
    largest = float(np.abs(frames.joints).max())
    require(far.mean() < MANY, "joint angles", f"up to {largest:.4g}", f"{mend}, or keep it with --allow-units")


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
        other = _other_order(frames, skeleton) if joints >= SEVERAL else ""
        mend = (
            f"it is {over[frame, joint]:.4f} rad beyond its limits {low:.4f} to {high:.4f} ({count} angles of {joints} "
            f"joints are beyond theirs{other}); mend the retargeting, or keep them with --allow-limits"
        )
        field = f"{skeleton.joints[joint]} in line {first_line + frame}"
        raise UserError(field, round(float(frames.joints[frame, joint]), 6), mend)
    return count


def _other_order(frames: Frames, skeleton: Skeleton) -> str:
    """What to say where several joints are beyond their limits: the order in which none is, or that it may be one."""
    if tuple(skeleton.joints) == JOINTS:
        for name, order in {"Isaac Lab's breadth-first order": skeleton.breadth_first()[1], **other_orders()}.items():
            read = frames.joints[:, np.argsort(order)]
            if ((read >= skeleton.lower - ROUNDING) & (read <= skeleton.upper + ROUNDING)).all():
                return f", and none is if the columns are in {name}: bring them into Unitree's"
    return "; so many that the columns may be in another order than Unitree's"


def _check_jumps(frames: Frames, joints: Sequence[str], first_line: int) -> None:
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
            field = f"{name or joints[int(column)]} from line {line} to {line + 1}"
            mend = (
                f"it jumps at {jump * frames.rate:.0f} {unit}/s, and at most {most:.0f} is a motion; "
                f"convert a part with --lines FIRST:LAST, or keep it with --allow-jumps"
            )
            raise UserError(field, f"{jump:.3f} {unit}", mend)
