"""Conversion to 50 frames a second against a motion that is known at every time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dipod.errors import UserError
from dipod.motions.checks import check_frames
from dipod.motions.convert import convert, resample
from dipod.motions.frames import read_frames
from dipod.motions.g1 import JOINTS, model_path
from dipod.motions.inspection import inspect
from dipod.motions.kinematics import Skeleton, load_skeleton
from dipod.motions.motion import SHAPES, load_motion, save_motion
from dipod.motions.rotations import angle_between
from tests.motions.robots import DATA, arm, frames, smooth

pytest.importorskip("mujoco")
__all__ = ["arm"]


def test_frames_between_lie_on_the_motion() -> None:
    """Linear interpolation at 30 fps is off by h²/8 times the second derivative, here at most 2."""
    fine = resample(frames(61, 3))
    assert fine.rate == 50
    assert len(fine.joints) == 100
    position, rotation, joints = smooth(np.arange(100) / 50, 3)
    bound = 2 / 30**2 / 8 + 1e-9
    np.testing.assert_allclose(fine.position, position, atol=bound)
    np.testing.assert_allclose(fine.joints, joints, atol=bound)
    assert angle_between(fine.rotation, rotation).max() < bound


def test_a_motion_at_fifty_is_kept_but_for_its_end() -> None:
    given = frames(40, 3, 50.0)
    fine = resample(given)
    np.testing.assert_allclose(fine.joints, given.joints[:-1], atol=1e-12)
    np.testing.assert_allclose(fine.rotation, given.rotation[:-1], atol=1e-12)


@pytest.mark.parametrize(("count", "rate"), [(31, 30.0), (3945, 30.0), (7840, 30.0), (100, 60.0), (50, 120.0)])
def test_the_number_of_frames_is_that_of_a_half_open_interval(count: int, rate: float) -> None:
    """Of times k/50 below (count - 1)/rate."""
    expected = -(-(count - 1) * 50 // int(rate))
    assert len(resample(frames(count, 1, rate)).joints) == expected


def test_velocities_are_the_motions_own(arm: Skeleton) -> None:
    """From frames fine enough that interpolation adds nothing: central differences at 50 are off by h²/6 f'''."""
    made = convert(frames(101, 3, 50.0), arm).motion
    times = np.arange(100) / 50
    step = 1e-5
    joint_rate = (smooth(times + step, 3)[2] - smooth(times - step, 3)[2]) / (2 * step)
    np.testing.assert_allclose(made.joint_vel[1:-1], joint_rate[1:-1], atol=1e-3)
    after, before = (arm.forward(*smooth(times + s, 3)) for s in (step, -step))
    np.testing.assert_allclose(made.body_lin_vel_w[1:-1], ((after[0] - before[0]) / (2 * step))[1:-1], atol=2e-3)
    spin = angle_between(after[1], before[1]) / (2 * step)
    np.testing.assert_allclose(np.linalg.norm(made.body_ang_vel_w, axis=-1)[1:-1], spin[1:-1], atol=2e-3)


def test_a_file_gives_the_motion_back(arm: Skeleton, tmp_path: Path) -> None:
    made = convert(frames(40, 3), arm).motion
    save_motion(tmp_path / "m.npz", made)
    read = load_motion(tmp_path / "m.npz", 3, 4)
    assert read.fps == 50
    for name in SHAPES:
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert [path.name for path in tmp_path.glob("*npz*")] == ["m.npz"]


@pytest.mark.parametrize(("count", "rate"), [(1, 30.0), (2, 30.0), (5, 120.0)])
def test_too_few_frames_are_refused(count: int, rate: float, arm: Skeleton) -> None:
    with pytest.raises(UserError, match=f"frames = {count}: give more"):
        convert(frames(count, 3, rate), arm)


@pytest.mark.skipif(not DATA.exists() or find_spec("mjlab") is None, reason="no LAFAN1 motions or no G1 here")
def test_a_lafan1_motion_becomes_one_that_passes(tmp_path: Path) -> None:
    robot = load_skeleton(model_path(), JOINTS)
    given = read_frames(DATA / "dance1_subject2.csv", 29, lines="1:300")
    assert check_frames(given, robot) == 0
    save_motion(tmp_path / "m.npz", convert(given, robot).motion)
    found = inspect(tmp_path / "m.npz", robot)
    assert (found.frames, found.joints, found.bodies) == (499, 29, 30)
    assert found.position_error < 1e-5
