"""Reference motions of a robot: from a table of joint angles to the motion file that tracking environments read."""

from dipod.motions.checks import Allowed, check_frames
from dipod.motions.convert import Conversion, convert
from dipod.motions.frames import Frames, read_frames
from dipod.motions.inspection import Inspection, inspect
from dipod.motions.kinematics import Skeleton, load_skeleton
from dipod.motions.motion import Motion, load_motion, save_motion

__all__ = [
    "Allowed",
    "Conversion",
    "Frames",
    "Inspection",
    "Motion",
    "Skeleton",
    "check_frames",
    "convert",
    "inspect",
    "load_motion",
    "load_skeleton",
    "read_frames",
    "save_motion",
]
