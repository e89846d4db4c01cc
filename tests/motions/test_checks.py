"""What no robot could follow is refused, with the frame, the joint and by how much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.motions.checks import Allowed, check_frames, check_without_model, doubt
from dipod.motions.frames import Frames, read_frames
from dipod.motions.g1 import JOINTS, other_orders
from dipod.motions.kinematics import Skeleton, load_skeleton
from dipod.motions.rotations import multiply
from tests.motions.robots import DATA, arm, frames, write_g1

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


def retargeted(count: int = 90) -> Frames:
    """A robot that walks ahead, bent a little, on a floor."""
    times = np.arange(count) / 30
    position = np.stack([0.5 * times, 0.0 * times, 0.76 + 0.0 * times], -1)
    swing = np.sin(4 * times)[:, None] * np.linspace(0.05, 0.15, len(JOINTS))
    middle = [0.6 if "knee" in name else 0.9 if "elbow" in name else 0.1 for name in JOINTS]
    return Frames(position, np.tile([1.0, 0, 0, 0], (count, 1)), np.array(middle) + swing, 30.0)


@pytest.mark.parametrize(
    ("position", "named"),
    [
        (lambda p: 100 * p, r"root height in column 3 = '76 \(median\)': this looks like centimetres; give metres"),
        (lambda p: 1000 * p, r"'760 \(median\)': this looks like millimetres; .* divided by 1000"),
        (lambda p: 0.2 * 100 * p, r"'15.2 \(median\)': no robot on a floor is so high"),
        (lambda p: p[:, [0, 2, 1]], r"'0 \(median\)': column 2 is at 0.76: y looks like the way up"),
        (lambda p: p - [0, 0, 0.76], r"the pelvis of a robot that stands is not on the ground"),
        (lambda p: p - [0, 0, 2], r"'-1.24 \(median\)': the pelvis .* nor below it"),
    ],
)
def test_units_and_axes_of_the_root_are_named_without_a_model(position: Any, named: str) -> None:
    right = retargeted()
    check_without_model(right, JOINTS)
    wrong = replace(right, position=position(right.position))
    with pytest.raises(UserError, match=f"{named}.*--allow-units"):
        check_without_model(wrong, JOINTS)
    check_without_model(wrong, JOINTS, Allowed(units=True, jumps=True))


def test_y_up_is_named_however_the_quaternion_is_meant() -> None:
    """As y-up software writes it: the root's own z axis points along y."""
    right = retargeted()
    rotation = np.tile(np.sqrt([0.5, 0, 0, 0]) - np.sqrt([0, 0.5, 0, 0]), (90, 1))
    turned = replace(right, position=right.position[:, [0, 2, 1]] * [1, 1, -1], rotation=rotation)
    with pytest.raises(UserError, match="y looks like the way up"):
        check_without_model(turned, JOINTS)


def test_degrees_are_named() -> None:
    right = retargeted()
    with pytest.raises(UserError, match=r"joint angles = 'up to 5\d.*29 of 29 joints go beyond π: .* like degrees"):
        check_without_model(replace(right, joints=np.rad2deg(right.joints)), JOINTS)
    one = right.joints.copy()
    one[:, 4] = 3.3  # one joint alone is for the limits to say
    check_without_model(replace(right, joints=one), JOINTS)


LIMITS = {
    "hip_roll": (-0.5, 2.9),
    "knee": (-0.09, 2.9),
    "ankle_pitch": (-0.87, 0.52),
    "ankle_roll": (-0.26, 0.26),
    "waist_roll": (-0.52, 0.52),
    "waist_pitch": (-0.52, 0.52),
}


def test_joints_in_another_order_are_named_where_the_limits_tell(tmp_path: Path) -> None:
    """Limits as the G1 has them; the order is named if it is a known one, and suspected if it is not."""
    skeleton = load_skeleton(write_g1(tmp_path), JOINTS)
    pairs = [next((ends for part, ends in LIMITS.items() if part in name), (-2.6, 2.6)) for name in JOINTS]
    robot = replace(skeleton, lower=np.array(pairs)[:, 0], upper=np.array(pairs)[:, 1])
    right = retargeted()
    spread = replace(right, joints=0.4 * (right.joints + 1.5 * np.sin(np.arange(90)[:, None] / 20 + np.arange(29))))
    joints = np.clip(spread.joints, robot.lower, robot.upper)
    assert check_frames(replace(right, joints=joints), robot) == 0
    orders = {"Isaac Lab's breadth-first order": robot.breadth_first()[1], **other_orders()}
    assert all(sorted(order) == list(range(29)) for order in orders.values())
    names = {name: [JOINTS[i] for i in order[:2]] for name, order in orders.items()}
    assert names["Isaac Lab's breadth-first order"] == ["left_hip_pitch_joint", "right_hip_pitch_joint"]
    assert names["an order with right before left"][0] == "right_hip_pitch_joint"
    order = orders["Isaac Lab's breadth-first order"]
    with pytest.raises(UserError, match="none is if the columns are in Isaac Lab's breadth-first order: bring them"):
        check_frames(replace(right, joints=joints[:, order]), robot)
    shuffled = np.random.default_rng(0).permutation(29)
    with pytest.raises(UserError, match="so many that the columns may be in another order than Unitree's"):
        check_frames(replace(right, joints=joints[:, shuffled]), robot)


def test_feet_that_wander_are_doubted_and_those_of_another_robot_are_not(tmp_path: Path, arm: Skeleton) -> None:
    skeleton, right = load_skeleton(write_g1(tmp_path), JOINTS), retargeted()
    right = replace(right, joints=np.tile(right.joints[0], (90, 1)))
    lowest = skeleton.forward(right.position, right.rotation, right.joints)[0][:, :, 2].min()
    standing = replace(right, position=right.position - [0, 0, lowest])
    assert doubt(standing, skeleton) is None
    height = np.stack([0 * right.joints[:, 0], 0 * right.joints[:, 0], 0.1 * np.sin(np.arange(90) / 8)], -1)
    said = doubt(replace(standing, position=standing.position + height), skeleton)
    assert said is not None
    assert "look whether the joints stand in Unitree's order" in said
    assert doubt(frames(60, 3), arm) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="no retargeted motions here")
def test_retargeted_motions_pass_and_their_mistakes_do_not() -> None:
    for name in ("walk1_subject1", "fallAndGetUp1_subject1"):
        right = read_frames(DATA / f"{name}.csv", 29, lines="1:2000")
        check_without_model(right, JOINTS)
        for change, named in (
            ({"position": 100 * right.position}, "centimetres"),
            ({"joints": np.rad2deg(right.joints)}, "degrees"),
        ):
            with pytest.raises(UserError, match=named):
                check_without_model(replace(right, **change), JOINTS)
