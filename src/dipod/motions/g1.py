"""The Unitree G1 with 29 joints: names in Unitree's order, and where its MuJoCo model is found."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from dipod.errors import UserError

_LEG = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw")

JOINTS = (
    *(f"{side}_{part}_joint" for side in ("left", "right") for part in _LEG),
    *(f"waist_{part}_joint" for part in ("yaw", "roll", "pitch")),
    *(f"{side}_{part}_joint" for side in ("left", "right") for part in _ARM),
)
"""The columns of a CSV after the root's position and quaternion."""

STANDING = 0.6
"""Height of the pelvis in m above which the robot stands on its feet; it is 0.79 with straight legs."""

HEIGHTS = (0.2, 1.6)
"""Median height of the pelvis in m over a motion on a floor, lying ones aside; LAFAN1's are 0.68 to 0.77."""


def other_orders() -> dict[str, tuple[int, ...]]:
    """Orders that the joints have elsewhere: which of `JOINTS` each column is."""
    legs, waist, arms = tuple(range(12)), tuple(range(12, 15)), tuple(range(15, 29))
    return {
        "alphabetical order": tuple(sorted(range(len(JOINTS)), key=lambda i: JOINTS[i])),
        "an order with arms before legs": (*arms, *legs, *waist),
        "an order with the waist last": (*legs, *arms, *waist),
        "an order with right before left": (*legs[6:], *legs[:6], *waist, *arms[7:], *arms[:7]),
    }


_MODEL = Path("asset_zoo/robots/unitree_g1/xmls/g1.xml")


def model_path() -> Path:
    """The model that comes with mjlab, which is looked for and not imported.

    Raises:
        UserError: mjlab is not installed, or has no such file.
    """
    found = find_spec("mjlab")
    for folder in (found and found.submodule_search_locations) or []:
        if (Path(folder) / _MODEL).is_file():
            return Path(folder) / _MODEL
    mend = 'the G1 comes with mjlab: pip install "dipod[mjlab]", or give its MuJoCo model with --model G1.xml'
    raise UserError("model", None, mend)
