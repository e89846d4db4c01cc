"""What no robot could follow is refused, with the frame, the joint and by how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.motions.checks import Allowed, check_frames
from dipod.motions.frames import Frames
from dipod.motions.kinematics import Skeleton
from dipod.motions.rotations import multiply
from tests.motions.robots import arm, frames

pytest.importorskip("mujoco")
__all__ = ["arm"]


@pytest.fixture
def motion() -> Frames:
    made = frames(60, 3)
    return replace(made, joints=0.03 * made.joints)


def changed(motion: Frames, frame: int, joint: int, value: float) -> Frames:
    joints = motion.joints.copy()
    joints[frame:, joint] = value
    return replace(motion, joints=joints)


def test_a_motion_within_limits_passes(motion: Frames, arm: Skeleton) -> None:
    assert check_frames(motion, arm) == 0


def test_a_joint_beyond_its_limit_is_named_and_may_be_kept(motion: Frames, arm: Skeleton) -> None:
    over = changed(motion, 40, 0, float(np.deg2rad(2)) + 0.25)
    message = r"shoulder in line 141 = 0.2849.*0.2500 rad beyond its limits -0.0349 to 0.0349 \(20 angles of 1 joints"
    with pytest.raises(UserError, match=message):
        check_frames(over, arm, first_line=101)
    assert check_frames(over, arm, Allowed(limits=True)) == 20


def test_rounding_beyond_a_limit_is_no_mistake(motion: Frames, arm: Skeleton) -> None:
    assert check_frames(changed(motion, 40, 0, float(np.deg2rad(2)) + 5e-6), arm) == 0


def test_jumps_are_named_with_both_frames_and_may_be_kept(motion: Frames, arm: Skeleton) -> None:
    with pytest.raises(UserError, match=r"elbow from line 30 to 31 = '\d.\d+ rad': it jumps at \d+ rad/s"):
        check_frames(changed(motion, 30, 1, 3.0), arm)
    assert check_frames(changed(motion, 30, 1, 3.0), arm, Allowed(jumps=True)) == 0
    position, rotation = motion.position.copy(), motion.rotation.copy()
    position[10:, 0] += 2
    with pytest.raises(UserError, match="root position from line 10 to 11"):
        check_frames(replace(motion, position=position), arm)
    rotation[20:] = multiply(rotation[20:], np.array([0.6, 0.8, 0, 0]))
    with pytest.raises(UserError, match="root rotation from line 20 to 21"):
        check_frames(replace(motion, rotation=rotation), arm, Allowed(quaternion=True))


def test_a_change_of_sign_of_the_quaternion_is_no_jump(motion: Frames, arm: Skeleton) -> None:
    rotation = motion.rotation.copy()
    rotation[20:] *= -1
    assert check_frames(replace(motion, rotation=rotation), arm) == 0


@pytest.mark.parametrize("heading", [0.0, 1.0, -1.5, 2.0])
def test_wxyz_read_as_xyzw_is_recognised(motion: Frames, arm: Skeleton, heading: float) -> None:
    """Of a robot that stands, whichever way it faces; the right order passes."""
    turn = np.array([np.cos(heading / 2), 0, 0.03, np.sin(heading / 2)])
    rotation = np.tile(turn / np.linalg.norm(turn), (60, 1))
    assert check_frames(replace(motion, rotation=rotation), arm) == 0
    misread = replace(motion, rotation=np.roll(rotation, 1, axis=1))
    with pytest.raises(UserError, match=r"these look like wxyz: .* say --quaternion wxyz"):
        check_frames(misread, arm)
    assert check_frames(misread, arm, Allowed(quaternion=True)) == 0


def test_a_lying_robot_is_not_taken_for_a_mistake(motion: Frames, arm: Skeleton) -> None:
    position = motion.position.copy()
    position[:, 2] = 0.1
    rotation = np.tile(np.sqrt([0.5, 0.5, 0, 0]), (60, 1))
    assert check_frames(replace(motion, position=position, rotation=rotation), arm) == 0
