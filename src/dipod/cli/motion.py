"""``dipod motion``."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path

from dipod.errors import Note, UserError, require
from dipod.motions import sources
from dipod.motions.checks import Allowed, check_frames, check_without_model, doubt
from dipod.motions.convert import convert
from dipod.motions.frames import QuaternionOrder, read_frames
from dipod.motions.g1 import JOINTS, model_path
from dipod.motions.inspection import inspect, recognise, reorder
from dipod.motions.kinematics import Skeleton, load_skeleton
from dipod.motions.motion import load_motion, save_motion

NAME = "motion"
HELP = "reference motions of the Unitree G1 for mjlab: convert, check, download"
DESCRIPTION = """Make and check the motion files that mjlab's tracking tasks read.

  dipod motion convert dance1_subject2.csv         30 fps CSV of the G1 to dance1_subject2.npz at 50 fps
  dipod motion check dance1_subject2.npz           shapes, orders of bodies, joints and quaternions
  dipod motion check other.npz --reorder mine.npz  another simulator's order put right
  dipod motion download --list                     motions, their licence, and the commands that fetch them

A CSV has no header; a line is a frame: root xyz in m, quaternion xyzw, 29 joint angles in rad in Unitree's order.
"""
MODEL = "a MuJoCo model of the G1 (default: mjlab's)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    making = actions.add_parser("convert", help="a CSV of frames to a motion file", allow_abbrev=False)
    making.add_argument("file", type=Path, metavar="X.csv", help="the frames")
    making.add_argument("--out", type=Path, metavar="F.npz", help="default: the CSV's name with .npz, in this folder")
    making.add_argument("--fps", type=float, default=30.0, help="frames a second of the CSV (default: 30)")
    making.add_argument("--lines", default="", metavar="FIRST:LAST", help="these lines alone")
    making.add_argument("--quaternion", choices=("xyzw", "wxyz"), help="of columns 4 to 7 (default: xyzw, checked)")
    making.add_argument("--allow-limits", action="store_true", help="keep angles beyond the joints' limits")
    making.add_argument("--allow-units", action="store_true", help="keep heights and angles that look like other units")
    making.add_argument("--allow-jumps", action="store_true", help="keep jumps between frames")
    checking = actions.add_parser("check", help="is a motion file as mjlab reads it?", allow_abbrev=False)
    checking.add_argument("file", type=Path, metavar="F.npz", help="the motion")
    checking.add_argument("--reorder", type=Path, metavar="OUT.npz", help="write it in MuJoCo's orders instead")
    for action in (making, checking):
        action.add_argument("--model", type=Path, metavar="G1.xml", help=MODEL)
        action.add_argument("--json", action="store_true", help="print JSON")
    fetching = actions.add_parser("download", help="how to get LAFAN1 motions; nothing is fetched", allow_abbrev=False)
    fetching.add_argument("motion", nargs="?", metavar="NAME", help="one of them")
    fetching.add_argument("--list", action="store_true", help="all of them")


def run(arguments: argparse.Namespace) -> None:
    """Convert, check, or say where to download."""
    {"convert": _convert, "check": _check, "download": _download}[arguments.action](arguments)


def _convert(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out or Path(arguments.file.with_suffix(".npz").name)
    require(out.suffix == ".npz", "out", str(out), "give a name that ends in .npz")
    quaternion: QuaternionOrder = arguments.quaternion or "xyzw"
    frames = read_frames(arguments.file, len(JOINTS), arguments.fps, quaternion, arguments.lines)
    allowed = Allowed(arguments.allow_limits, arguments.allow_jumps, bool(arguments.quaternion), arguments.allow_units)
    first = int(arguments.lines.partition(":")[0] or 1)
    check_without_model(frames, JOINTS, allowed, first)
    skeleton = _skeleton(arguments)
    beyond = check_frames(frames, skeleton, allowed, first)
    said = doubt(frames, skeleton)
    if said is not None:
        warnings.warn(Note(f"{arguments.file}: {said}"), stacklevel=2)
    made = convert(frames, skeleton)
    save_motion(out, made.motion)
    result = {
        "file": str(out),
        "frames_in": made.frames,
        "fps_in": frames.rate,
        "frames": len(made.motion.joint_pos),
        "fps": made.motion.fps,
        "seconds": round(made.seconds, 3),
        "bytes": out.stat().st_size,
        "beyond_limits": beyond,
    }
    if arguments.json:
        print(json.dumps(result))
        return
    kept = f"; {beyond} angles beyond limits kept" if beyond else ""
    rates = f"{made.frames} frames at {frames.rate:g} fps to {result['frames']} at {made.motion.fps:g}"
    print(f"{out}: {rates} ({made.seconds:.1f} s), {out.stat().st_size / 1e6:.1f} MB{kept}")


def _check(arguments: argparse.Namespace) -> None:
    skeleton = _skeleton(arguments)
    path: Path = arguments.file
    if arguments.reorder:
        _reorder(path, arguments.reorder, skeleton)
        path = arguments.reorder
    found = inspect(path, skeleton)
    if arguments.json:
        print(json.dumps({"file": str(path), **asdict(found)}))
        return
    print(
        f"{path}: {found.frames} frames at {found.fps:g} fps ({found.seconds:.1f} s), {found.joints} joints, "
        f"{found.bodies} bodies\nbodies and joints in MuJoCo's depth-first order, quaternions wxyz; bodies are where "
        f"the joints put them within {found.position_error:.1g} m and {found.rotation_error:.1g} rad"
    )


def _reorder(path: Path, out: Path, skeleton: Skeleton) -> None:
    require(out.suffix == ".npz", "reorder", str(out), "give a name that ends in .npz")
    motion = load_motion(path, len(skeleton.joints), len(skeleton.bodies))
    save_motion(out, reorder(motion, skeleton, recognise(path, motion, skeleton)))


def _download(arguments: argparse.Namespace) -> None:
    if bool(arguments.motion) == arguments.list:
        raise UserError("motion", arguments.motion, f"give one of {', '.join(sources.MOTIONS)}, or --list alone")
    wanted = [arguments.motion] if arguments.motion else sources.MOTIONS
    commands = [sources.command(name) for name in wanted]
    last = f"dipod motion convert {wanted[0]}.csv" if arguments.motion else f"# all of it:\n{sources.everything()}"
    print("\n".join([f"# LAFAN1 by Ubisoft, retargeted to the G1; {sources.LICENCE}", *commands, last]))


def _skeleton(arguments: argparse.Namespace) -> Skeleton:
    return load_skeleton(arguments.model or model_path(), JOINTS)
