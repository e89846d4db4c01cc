"""Moving pictures: animated GIF by Pillow, MP4 by ffmpeg."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dipod.errors import UserError, require
from dipod.files import make_folder, replacing
from dipod.report.pictures import Pixels

ENDINGS = (".gif", ".mp4")
COLOURS = 128
LEAST_DURATION = 20
"""Milliseconds; many viewers show a GIF's shorter frames for longer."""


def check_video(file: Path) -> None:
    """See, before anything is drawn, that ``file`` can be written.

    Raises:
        UserError: another ending than .gif or .mp4, no ffmpeg for .mp4, or a folder that cannot be written.
    """
    require(file.suffix in ENDINGS, "--out", str(file), f"give a file that ends in {' or '.join(ENDINGS)}")
    if file.suffix == ".mp4":
        _ffmpeg(file)
    make_folder(file.parent, "--out")


def write_video(file: Path, frames: Sequence[Pixels], fps: float, pause: float = 0.7) -> None:
    """Write frames [height, width, 3] of one size, whole or not at all.

    Args:
        file: ends in .gif or .mp4.
        frames: at least one.
        fps: frames a second; a GIF shows at most 50.
        pause: seconds for which the last frame stays.

    Raises:
        UserError: see `check_video`; or ffmpeg fails.
    """
    check_video(file)
    with replacing(file) as aside:
        if file.suffix == ".gif":
            _write_gif(aside, frames, fps, pause)
        else:
            _write_mp4(aside, [*frames, *[frames[-1]] * round(pause * fps)], fps)


def _write_gif(file: Path, frames: Sequence[Pixels], fps: float, pause: float) -> None:
    images = [Image.fromarray(frame).quantize(COLOURS, dither=Image.Dither.NONE) for frame in frames]
    each = max(round(1000 / fps), LEAST_DURATION)
    durations = [each] * (len(images) - 1) + [each + round(1000 * pause)]
    images[0].save(file, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)


def _write_mp4(file: Path, frames: Sequence[Pixels], fps: float) -> None:
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    command = [_ffmpeg(file), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-", "-an"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(file)]
    pixels = b"".join(frame[:height, :width].tobytes() for frame in frames)
    done = subprocess.run(command, input=pixels, capture_output=True, check=False)
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").splitlines() or ["no reason given"])[-1]
        raise UserError("--out", str(file), f"ffmpeg failed ({reason}); give a .gif")


def _ffmpeg(file: Path) -> str:
    """The program: that of imageio-ffmpeg if it is installed, else the system's."""
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except ModuleNotFoundError:
        found = shutil.which("ffmpeg")
    if found is None:
        raise UserError("--out", str(file), "mp4 needs ffmpeg: pip install imageio-ffmpeg, or give a .gif")
    return found
