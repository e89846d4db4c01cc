"""A motion file of another simulator is told by its kinematics and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.motions.convert import convert
from dipod.motions.inspection import inspect, recognise, reorder
from dipod.motions.kinematics import Skeleton
from dipod.motions.motion import Motion, load_motion, save_motion
from tests.motions.robots import arm, frames

pytest.importorskip("mujoco")
__all__ = ["arm"]

BODIES, JOINTS = [0, 1, 3, 2], [0, 2, 1]
"""Breadth-first: trunk, upper arm, head, lower arm; shoulder, neck, elbow."""


@pytest.fixture
def motion(arm: Skeleton) -> Motion:
    return convert(frames(40, 3), arm).motion


def foreign(motion: Motion, bodies: bool, joints: bool, quaternion: bool) -> Motion:
    """The same motion as another simulator would write it."""
    arrays = {name: value for name, value in vars(motion).items() if name != "fps"}
    for name, array in arrays.items():
        places = (BODIES if bodies else [0, 1, 2, 3]) if name.startswith("body") else (JOINTS if joints else [0, 1, 2])
        arrays[name] = array[:, places]
    if quaternion:
        arrays["body_quat_w"] = arrays["body_quat_w"][..., [1, 2, 3, 0]]
    return Motion(**arrays)


def test_a_good_file_passes(motion: Motion, arm: Skeleton, tmp_path: Path) -> None:
    save_motion(tmp_path / "m.npz", motion)
    found = inspect(tmp_path / "m.npz", arm)
    assert (found.frames, found.fps, found.joints, found.bodies) == (65, 50, 3, 4)
    assert max(found.position_error, found.rotation_error) < 1e-5
    assert found.velocity_error < 1e-3


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ((True, True, False), "bodies and joints in Isaac Lab's breadth-first order"),
        ((True, False, False), "bodies in Isaac Lab's breadth-first order"),
        ((False, False, True), "quaternions in xyzw"),
        ((True, True, True), "breadth-first order and quaternions in xyzw"),
    ],
)
def test_another_order_is_named_and_put_right(
    other: tuple[bool, bool, bool], name: str, motion: Motion, arm: Skeleton, tmp_path: Path
) -> None:
    path = tmp_path / "other.npz"
    save_motion(path, foreign(motion, *other))
    with pytest.raises(UserError, match=name):
        inspect(path, arm)
    read = load_motion(path, 3, 4)
    right = reorder(read, arm, recognise(path, read, arm))
    for field in ("joint_pos", "joint_vel", "body_pos_w", "body_quat_w", "body_lin_vel_w", "body_ang_vel_w"):
        np.testing.assert_array_equal(getattr(right, field), getattr(motion, field))


def test_bodies_that_no_order_explains_are_named(motion: Motion, arm: Skeleton, tmp_path: Path) -> None:
    moved = motion.body_pos_w.copy()
    moved[:, 2] += 0.3
    save_motion(tmp_path / "m.npz", replace(motion, body_pos_w=moved))
    with pytest.raises(UserError, match=r"lower in frame \d+ = .*0.52 m from where the joints put it"):
        inspect(tmp_path / "m.npz", arm)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"joint_pos": None}, "add joint_pos"),
        ({"joint_pos": np.zeros((65, 10))}, r"shape \(65, 3\); the surplus columns look like the root's"),
        ({"body_pos_w": np.zeros((65, 5, 3))}, "one body more is often MuJoCo's world"),
        ({"joint_vel": np.zeros((65, 2))}, r"joint_vel = 'float64 of shape \(65, 2\)'"),
        ({"joint_vel": np.full((65, 3), np.nan)}, r"joint_vel\[0, 0\] = nan: give finite numbers \(195 are not\)"),
        ({"fps": np.array([30.0])}, "fps = 30.0: give 50"),
        ({"fps": np.array(["fast"])}, "give one positive number"),
    ],
)
def test_a_wrong_array_is_named(
    change: dict[str, Any], complaint: str, motion: Motion, arm: Skeleton, tmp_path: Path
) -> None:
    arrays = {**vars(motion), "fps": np.array([50.0]), **change}
    np.savez(tmp_path / "m.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(UserError, match=complaint):
        inspect(tmp_path / "m.npz", arm)


def test_what_is_no_npz_is_refused(arm: Skeleton, tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_text("0,0")
    for name in ("m.npz", "none.npz"):
        with pytest.raises(UserError, match="cannot be read as a motion"):
            inspect(tmp_path / name, arm)
