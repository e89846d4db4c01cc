"""From frames at any rate to a motion at 50: interpolation, differences in time, forward kinematics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dipod.errors import require
from dipod.motions.frames import Frames
from dipod.motions.kinematics import Skeleton
from dipod.motions.motion import RATE, SHAPES, Motion
from dipod.motions.rotations import Array, angular_velocity, slerp


@dataclass(frozen=True)
class Conversion:
    """A motion, and what became of the frames.

    Attributes:
        motion: at 50 frames a second.
        frames: how many were given.
        seconds: how long the motion lasts.
    """

    motion: Motion
    frames: int
    seconds: float


def resample(frames: Frames, rate: float = RATE) -> Frames:
    """The same motion at another rate: linear between positions and angles, along the arc between rotations.

    Frame k is at k/rate seconds; the last given frame is the end, which is left out as in half-open intervals.
    """
    count = int(np.ceil((len(frames.joints) - 1) * rate / frames.rate - 1e-9))
    phase = np.arange(count) * frames.rate / rate
    before = np.minimum(np.floor(phase + 1e-9).astype(int), len(frames.joints) - 2)
    share = np.clip(phase - before, 0.0, 1.0)

    def between(values: Array) -> Array:
        found: Array = values[before] + share[:, None] * (values[before + 1] - values[before])
        return found

    rotation = slerp(frames.rotation[before], frames.rotation[before + 1], share)
    return Frames(between(frames.position), rotation, between(frames.joints), rate)


def convert(frames: Frames, skeleton: Skeleton) -> Conversion:
    """Make the motion that ``frames`` describe.

    Velocities are central differences at the new rate, one-sided at the ends; those of bodies follow from the root's
    and the joints' by the model.

    Raises:
        UserError: there are too few frames to have velocities.
    """
    given = len(frames.joints)
    enough = (given - 1) * RATE / frames.rate > 2
    require(enough, "frames", given, f"give more: a motion needs three at {RATE:.0f} a second")
    fine = resample(frames)
    step = 1 / fine.rate
    joint_velocity = np.gradient(fine.joints, step, axis=0)
    velocity = np.gradient(fine.position, step, axis=0)
    spin = angular_velocity(fine.rotation, step)
    bodies = skeleton.forward(fine.position, fine.rotation, fine.joints, velocity, spin, joint_velocity)
    arrays = zip(SHAPES, (fine.joints, joint_velocity, *bodies), strict=True)
    motion = Motion(**{name: array.astype(np.float32) for name, array in arrays}, fps=RATE)
    return Conversion(motion, given, len(fine.joints) * step)
