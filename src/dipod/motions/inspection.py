"""Is a motion file what tracking environments take? Its orders are told by forward kinematics."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np

from dipod.errors import UserError, require
from dipod.motions.kinematics import Skeleton
from dipod.motions.motion import RATE, Motion, load_motion
from dipod.motions.rotations import Array, angle_between

FRAMES = 32
"""Frames that are compared, evenly over the motion."""
CLOSE = 0.01
"""Metres, and radians, of a body from the model's that rounding and small differences of models explain."""
BREADTH, DEPTH = "Isaac Lab's breadth-first order", "MuJoCo's depth-first order"


@dataclass(frozen=True)
class Inspection:
    """What a good motion file holds.

    Attributes:
        frames: T.
        fps: frames a second.
        seconds: how long it lasts.
        joints: J.
        bodies: B.
        position_error: largest distance in m of a body from where the joints put it.
        rotation_error: largest angle in rad of a body from how the joints turn it.
        velocity_error: largest difference in rad/s of a joint's velocity from the angles' central differences.
    """

    frames: int
    fps: float
    seconds: float
    joints: int
    bodies: int
    position_error: float
    rotation_error: float
    velocity_error: float


@dataclass(frozen=True)
class Reading:
    """One way to read a file; ``True`` is another simulator's."""

    bodies: bool = False
    joints: bool = False
    quaternion: bool = False

    def describe(self) -> str:
        """What the file holds if this reading is right."""
        orders = [name for name in ("bodies", "joints") if getattr(self, name)]
        parts = [f"{' and '.join(orders)} in {BREADTH}"] if orders else []
        return " and ".join([*parts, *(["quaternions in xyzw"] if self.quaternion else [])])

    def mend(self) -> str:
        """What is wanted instead."""
        orders = [f"{DEPTH} of bodies and joints"] if self.bodies or self.joints else []
        wanted = " and ".join([*orders, *(["quaternions in wxyz"] if self.quaternion else [])])
        ways = "convert the CSV again, or this file with `dipod motion check F.npz --reorder OUT.npz`"
        return f"{ways} ({wanted})"


def inspect(path: Path, skeleton: Skeleton) -> Inspection:
    """Check a motion file for a robot.

    Raises:
        UserError: what is wrong, and whose order of bodies, joints or quaternion it is.
    """
    motion = load_motion(path, len(skeleton.joints), len(skeleton.bodies))
    require(len(motion.joint_pos) >= 3, f"{path.name} frames", len(motion.joint_pos), "give at least three")
    mend = f"give {RATE:.0f}: tracking environments step through the frames at that rate whatever the file says"
    require(motion.fps == RATE, f"{path.name} fps", motion.fps, mend)
    reading = recognise(path, motion, skeleton)
    if reading != Reading():
        raise UserError(f"{path.name}", reading.describe(), reading.mend())
    distance, turn = _errors(motion, skeleton, Reading())
    velocity = np.gradient(motion.joint_pos.astype(np.float64), 1 / motion.fps, axis=0)
    return Inspection(
        frames=len(motion.joint_pos),
        fps=motion.fps,
        seconds=len(motion.joint_pos) / motion.fps,
        joints=len(skeleton.joints),
        bodies=len(skeleton.bodies),
        position_error=float(distance.max()),
        rotation_error=float(turn.max()),
        velocity_error=float(np.abs(velocity - motion.joint_vel).max()),
    )


def recognise(path: Path, motion: Motion, skeleton: Skeleton) -> Reading:
    """How a file is to be read: the first reading under which its bodies are where its joints put them.

    Raises:
        UserError: there is none, with the body that is farthest off.
    """
    for reading in sorted((Reading(*flags) for flags in product((False, True), repeat=3)), key=_strangeness):
        distance, turn = _errors(motion, skeleton, reading)
        if distance.max() < CLOSE and turn.max() < CLOSE:
            return reading
    distance, turn = _errors(motion, skeleton, Reading())
    wrong, unit = (distance, "m") if distance.max() >= CLOSE else (turn, "rad")
    frame, body = np.unravel_index(wrong.argmax(), wrong.shape)
    line = int(_sampled(motion)[frame])
    mend = f"{wrong.max():.3g} {unit} from where the joints put it, in no order known here; give a motion of this model"
    raise UserError(f"{path.name} {skeleton.bodies[body]} in frame {line}", "elsewhere", f"it is {mend}")


def reorder(motion: Motion, skeleton: Skeleton, reading: Reading) -> Motion:
    """The same motion as tracking environments read it."""
    bodies, joints = skeleton.breadth_first()
    to_bodies = np.argsort(bodies) if reading.bodies else slice(None)
    to_joints = np.argsort(joints) if reading.joints else slice(None)
    arrays = {f.name: getattr(motion, f.name) for f in fields(motion) if f.name != "fps"}
    chosen = {name: a[:, to_bodies if name.startswith("body") else to_joints] for name, a in arrays.items()}
    if reading.quaternion:
        chosen["body_quat_w"] = np.roll(chosen["body_quat_w"], 1, axis=-1)
    return Motion(**chosen, fps=motion.fps)


def _strangeness(reading: Reading) -> int:
    return sum((reading.bodies, reading.joints, reading.quaternion))


def _sampled(motion: Motion) -> Array:
    return np.unique(np.linspace(0, len(motion.joint_pos) - 1, FRAMES).round())


def _errors(motion: Motion, skeleton: Skeleton, reading: Reading) -> tuple[Array, Array]:
    """Distances in m and angles in rad between the file's bodies and the model's, [F, B]."""
    read = reorder(motion, skeleton, reading)
    frames = _sampled(motion).astype(int)
    places, turns = read.body_pos_w[frames].astype(np.float64), read.body_quat_w[frames].astype(np.float64)
    norms = np.linalg.norm(turns, axis=-1, keepdims=True)
    turns = turns / np.maximum(norms, 1e-9)
    found = skeleton.forward(places[:, 0], turns[:, 0], read.joint_pos[frames].astype(np.float64))
    distance = np.linalg.norm(places - found[0], axis=-1)
    return distance, angle_between(turns, found[1]) + np.abs(norms[..., 0] - 1)
