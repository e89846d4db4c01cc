"""Forward kinematics against products of rigid motions, velocities against differences in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dipod.errors import UserError
from dipod.motions.g1 import JOINTS
from dipod.motions.kinematics import Skeleton, load_skeleton
from dipod.motions.rotations import Array, angular_velocity
from tests.motions.robots import ARM, arm, smooth, write_g1

pytest.importorskip("mujoco")
__all__ = ["arm"]


def rigid(rotation: Rotation, place: Array) -> Array:
    """A 4 x 4 matrix."""
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation.as_matrix(), place
    return made


def hinge(axis: list[float], angle: float, place: list[float]) -> Array:
    """A turn about a line through ``place``."""
    there = rigid(Rotation.identity(), np.array(place))
    return there @ rigid(Rotation.from_rotvec(angle * np.array(axis)), np.zeros(3)) @ np.linalg.inv(there)


def arm_by_hand(position: Array, rotation: Array, angles: Array) -> list[Array]:
    """Trunk, upper arm, lower arm and head as rigid motions."""
    origin = [0.0, 0.0, 0.0]
    trunk = rigid(Rotation.from_quat(np.roll(rotation, -1)), position)
    upper = trunk @ rigid(Rotation.from_quat([0.6, 0, 0, 0.8]), np.array([0.1, 0.2, 0.3]))
    upper = upper @ hinge([0, 1, 0], angles[0], origin)
    lower = upper @ rigid(Rotation.identity(), np.array([0, 0, -0.4])) @ hinge([1, 0, 0], angles[1], [0, 0.05, 0])
    head = trunk @ rigid(Rotation.identity(), np.array([0, 0, 0.5])) @ hinge([0, 0, 1], angles[2], origin)
    return [trunk, upper, lower, head]


def test_bodies_are_where_rigid_motions_put_them(arm: Skeleton) -> None:
    position, rotation, joints = smooth(np.linspace(0, 3, 10), 3)
    places, turns, _, _ = arm.forward(position, rotation, joints)
    for frame in range(10):
        for body, expected in enumerate(arm_by_hand(position[frame], rotation[frame], joints[frame])):
            found = Rotation.from_quat(np.roll(turns[frame, body], -1)).as_matrix()
            np.testing.assert_allclose(found, expected[:3, :3], atol=1e-9)
            np.testing.assert_allclose(places[frame, body], expected[:3, 3], atol=1e-9)


def test_velocities_are_derivatives_of_places_and_turns(arm: Skeleton) -> None:
    step = 1e-4
    position, rotation, joints = smooth(np.linspace(1, 1 + 4 * step, 5), 3)
    still = arm.forward(position, rotation, joints)
    rates = (np.gradient(position, step, axis=0), angular_velocity(rotation, step), np.gradient(joints, step, axis=0))
    _, _, velocity, spin = arm.forward(position, rotation, joints, *rates)
    expected_spin = np.stack([angular_velocity(still[1][:, body], step) for body in range(4)], 1)
    np.testing.assert_allclose(velocity[2], np.gradient(still[0], step, axis=0)[2], atol=1e-6)
    np.testing.assert_allclose(spin[2], expected_spin[2], atol=1e-6)
    assert np.abs(velocity[2]).min(-1).max() > 0.01


def test_names_limits_and_orders(arm: Skeleton) -> None:
    assert arm.bodies == ("trunk", "upper", "lower", "head")
    assert arm.joints == ("shoulder", "elbow", "neck")
    np.testing.assert_allclose(arm.lower, np.deg2rad([-2, -np.inf, -np.inf]))
    bodies, joints = arm.breadth_first()
    assert [arm.bodies[i] for i in bodies] == ["trunk", "upper", "head", "lower"]
    assert [arm.joints[i] for i in joints] == ["shoulder", "neck", "elbow"]


def test_breadth_first_of_the_g1_goes_left_right_middle(tmp_path: Path) -> None:
    robot = load_skeleton(write_g1(tmp_path), JOINTS)
    bodies, joints = robot.breadth_first()
    assert [robot.joints[i] for i in joints[:6]] == [
        "left_hip_pitch_joint",
        "right_hip_pitch_joint",
        "waist_yaw_joint",
        "left_hip_roll_joint",
        "right_hip_roll_joint",
        "waist_roll_joint",
    ]
    assert [robot.bodies[i] for i in bodies[:3]] == ["pelvis", "left_hip_pitch", "right_hip_pitch"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<mujoco", "MuJoCo refuses it"),
        (ARM.replace("<freejoint/>", ""), "this has 0 free joints"),
        (ARM.replace('axis="0 0 1"', 'type="slide"'), "whose joints are all hinges"),
        (ARM, r"'shoulder' stands where 'left_hip_pitch_joint' should"),
    ],
)
def test_another_model_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "robot.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_skeleton(path, JOINTS)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a MuJoCo model"):
        load_skeleton(tmp_path / "none.xml")
