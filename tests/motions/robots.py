"""Small robots and motions that the tests are made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dipod.motions.frames import Frames
from dipod.motions.g1 import JOINTS
from dipod.motions.kinematics import Skeleton, load_skeleton
from dipod.motions.rotations import Array

DATA = Path(__file__).parents[2] / "../shared/data/lafan1_g1"

ARM = """<mujoco>
  <worldbody>
    <geom type="plane" size="1 1 1"/>
    <body name="trunk" pos="0 0 1">
      <freejoint/>
      <geom size=".1" pos=".02 .03 .04"/>
      <body name="upper" pos=".1 .2 .3" quat=".8 .6 0 0">
        <joint name="shoulder" axis="0 1 0" range="-2 2" limited="true"/>
        <geom size=".05" mass="2"/>
        <body name="lower" pos="0 0 -.4">
          <joint name="elbow" axis="1 0 0" pos="0 .05 0"/>
          <geom size=".05" pos="0 0 -.2"/>
        </body>
      </body>
      <body name="head" pos="0 0 .5">
        <joint name="neck" axis="0 0 1"/>
        <geom size=".05"/>
      </body>
    </body>
  </worldbody>
</mujoco>"""
"""A trunk with an arm of two joints and a head, in a world with a floor."""


@pytest.fixture
def arm(tmp_path: Path) -> Skeleton:
    path = tmp_path / "arm.xml"
    path.write_text(ARM)
    return load_skeleton(path)


def write_g1(folder: Path) -> Path:
    """A robot with the G1's joints and tree, and limbs of sticks."""
    legs, waist, arms = JOINTS[:12], JOINTS[12:15], JOINTS[15:]
    inside = _limb(legs[:6], "0 .1 0") + _limb(legs[6:], "0 -.1 0")
    inside += _limb(waist, "0 0 .1", _limb(arms[:7], "0 .2 0") + _limb(arms[7:], "0 -.2 0"))
    body = f'<body name="pelvis"><freejoint/><geom size=".1"/>{inside}</body>'
    path = folder / "g1.xml"
    path.write_text(f'<mujoco><compiler angle="radian"/><worldbody>{body}</worldbody></mujoco>')
    return path


def _limb(joints: tuple[str, ...], place: str, inner: str = "") -> str:
    axes = {"pitch": "0 1 0", "knee": "0 1 0", "elbow": "0 1 0", "roll": "1 0 0"}
    for i, joint in reversed(list(enumerate(joints))):
        axis = next((axes[part] for part in axes if part in joint), "0 0 1")
        pos = place if i == 0 else ".03 .01 -.1"
        hinge = f'<joint name="{joint}" axis="{axis}" range="-2.6 2.6"/>'
        inner = f'<body name="{joint.removesuffix("_joint")}" pos="{pos}">{hinge}<geom size=".02"/>{inner}</body>'
    return inner


def smooth(times: Array, joints: int) -> tuple[Array, Array, Array]:
    """Position [T, 3], rotation wxyz [T, 4] and joint angles [T, J] of a smooth motion at given times."""
    position = np.stack([np.sin(times), 0.5 * np.cos(2 * times), 0.8 + 0.1 * np.sin(times)], -1)
    turn = np.stack([0.2 * np.sin(times), 0.3 * np.cos(times), 0.7 * times], -1)
    angle = np.linalg.norm(turn, axis=-1, keepdims=True)
    rotation = np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * turn / np.maximum(angle, 1e-12)], -1)
    return position, rotation, np.sin(times[:, None] + np.arange(joints))


def frames(count: int, joints: int, rate: float = 30.0) -> Frames:
    """The smooth motion at equal distances."""
    return Frames(*smooth(np.arange(count) / rate, joints), rate)


def write_csv(path: Path, motion: Frames) -> Path:
    """As retargeting gives it, quaternion xyzw."""
    table = np.concatenate([motion.position, np.roll(motion.rotation, -1, axis=1), motion.joints], 1)
    np.savetxt(path, table, delimiter=",", fmt="%.6f")
    return path
