"""The motion file of tracking environments: joints and bodies at equal distances in time, in one npz."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipod.errors import UserError, require
from dipod.files import replacing

RATE = 50.0
"""Frames a second that mjlab's tracking environments step through, whatever the file says."""


@dataclass(frozen=True)
class Motion:
    """T frames of J joints and B bodies, float32, in the world's axes; its fields are the file's.

    Attributes:
        joint_pos: rad, [T, J].
        joint_vel: rad/s, [T, J].
        body_pos_w: m, [T, B, 3].
        body_quat_w: unit quaternions wxyz, [T, B, 4].
        body_lin_vel_w: of the bodies' origins, m/s, [T, B, 3].
        body_ang_vel_w: rad/s, [T, B, 3].
        fps: frames a second.
    """

    joint_pos: NDArray[np.float32]
    joint_vel: NDArray[np.float32]
    body_pos_w: NDArray[np.float32]
    body_quat_w: NDArray[np.float32]
    body_lin_vel_w: NDArray[np.float32]
    body_ang_vel_w: NDArray[np.float32]
    fps: float = RATE


SHAPES = {
    "joint_pos": "T J",
    "joint_vel": "T J",
    "body_pos_w": "T B 3",
    "body_quat_w": "T B 4",
    "body_lin_vel_w": "T B 3",
    "body_ang_vel_w": "T B 3",
}
"""The arrays of a motion file, in the order of `Motion`."""


def save_motion(path: Path, motion: Motion) -> None:
    """Write a motion file, whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    arrays = {name: getattr(motion, name) for name in SHAPES}
    try:
        with replacing(path) as aside:
            np.savez(aside, allow_pickle=False, fps=np.array([motion.fps]), **arrays)
    except OSError as error:
        raise UserError("out", str(path), f"choose a file that can be written ({error.strerror})") from error


def load_motion(path: Path, joints: int, bodies: int) -> Motion:
    """Read a motion file for a robot of so many joints and bodies.

    Raises:
        UserError: it is no such file, or an array is missing, of another shape, or not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError("file", str(path), "it cannot be read as a motion; give an npz") from error
    missing = [name for name in (*SHAPES, "fps") if name not in arrays]
    mend = f"add {', '.join(missing)}; `dipod motion convert X.csv` writes all"
    require(not missing, f"{path.name}", f"holds {', '.join(sorted(arrays)) or 'nothing'}", mend)
    frames = arrays["joint_pos"].shape[0] if arrays["joint_pos"].ndim else 0
    sizes = {"T": frames, "J": joints, "B": bodies, "3": 3, "4": 4}
    for name, shape in SHAPES.items():
        wanted = tuple(sizes[letter] for letter in shape.split())
        if arrays[name].shape != wanted or not np.issubdtype(arrays[name].dtype, np.floating):
            raise UserError(f"{path.name} {name}", _described(arrays[name]), _shape_mend(name, arrays[name], wanted))
        bad = np.argwhere(~np.isfinite(arrays[name]))
        if len(bad):
            place = ", ".join(str(int(index)) for index in bad[0])
            value = float(arrays[name][tuple(bad[0])])
            raise UserError(f"{path.name} {name}[{place}]", value, f"give finite numbers ({len(bad)} are not)")
    fps = np.asarray(arrays["fps"]).reshape(-1)
    good = fps.size == 1 and np.issubdtype(fps.dtype, np.number) and 0 < fps[0] < np.inf
    require(good, f"{path.name} fps", arrays["fps"].tolist(), "give one positive number of frames a second")
    return Motion(**{name: arrays[name].astype(np.float32) for name in SHAPES}, fps=float(fps[0]))


def _described(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} of shape {tuple(array.shape)}"


def _shape_mend(name: str, array: NDArray[np.generic], wanted: tuple[int, ...]) -> str:
    """What to give, and what the array seems to be instead."""
    mend = f"give floats of shape {wanted}"
    if name.startswith("joint") and array.ndim == 2:
        surplus = array.shape[1] - wanted[1]
        if surplus == (7 if name == "joint_pos" else 6):
            return mend + "; the surplus columns look like the root's, which belong to the first body alone"
    if name.startswith("body") and array.ndim == 3 and array.shape[1] == wanted[1] + 1:
        return mend + "; one body more is often MuJoCo's world, which a motion leaves out"
    return mend
