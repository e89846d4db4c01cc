"""``dipod play``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.progress import track

from dipod import runs
from dipod.cli import terminal
from dipod.control.config import ControlConfig
from dipod.control.play import Episode, Moment, load_policy, paths, seconds_per_step, stage, watch
from dipod.errors import UserError, require
from dipod.files import make_folder, replacing
from dipod.tasks.control import Drawing, MultiGoal

NAME = "play"
HELP = "make a video of a control run's policy"
DESCRIPTION = """Watch a control policy act: an animated GIF, or an MP4 where ffmpeg is installed. No display is needed.

  dipod play runs/track-fpopp+initial-seed0
  dipod play runs/track-fpopp+initial-seed0 --checkpoint 50 --noise sampled --out half-way.gif
  dipod play runs/multigoal --paths 200          (a PNG: where sampled actions lead before and after RL)

In tracking, the policy is blue and the reference is orange. Checkpoint 0 is the untrained network.
"""
FPS = 25.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a control run")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="which one (default: the last)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="ends in .gif or .mp4 (default: RUN/play.gif)")
    parser.add_argument("--episodes", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument("--steps", type=int, metavar="N", help="at most so many steps altogether")
    parser.add_argument("--noise", choices=["sampled", "zero"], default="zero", help="which actions (default: zero)")
    parser.add_argument("--seed", type=int, default=0, help="of starts and actions")
    parser.add_argument("--fps", type=float, help=f"frames a second (default: real time, about {FPS:g})")
    parser.add_argument("--frames", action="store_true", help="as a Gymnasium environment renders itself")
    parser.add_argument("--paths", type=int, metavar="N", help="multigoal: a PNG of N paths, before and after")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Load, act, draw and write."""
    config = runs.read_config(arguments.folder)
    if not isinstance(config, ControlConfig):
        mend = "play shows control runs (track, pendulum, ...); `dipod report` shows this one"
        raise UserError("run", str(arguments.folder), mend)
    for name in ("episodes", "steps", "paths"):
        value = getattr(arguments, name)
        require(value is None or value >= 1, f"--{name}", value, "give a whole number of at least 1")
    require(arguments.fps is None or 0 < arguments.fps <= 100, "--fps", arguments.fps, "give a number up to 100")
    checkpoint = _checkpoint(arguments.folder, arguments.checkpoint)
    try:
        (_draw_paths if arguments.paths is not None else _film)(arguments, config, checkpoint)
    except UserError as error:
        if error.field != "render":
            raise
        raise UserError("--frames", error.value, error.mend.replace("give render true", "give --frames")) from error


def _checkpoint(folder: Path, step: int | None) -> Path | None:
    """The folder of a step's checkpoint, the last one's without a step; None for step 0 where it has no folder."""
    if step is None:
        return runs.last_checkpoint(folder)
    found = runs.checkpoints(folder)
    if step == 0 and 0 not in found:
        return None
    require(step in found, "--checkpoint", step, f"there are 0 (untrained), {', '.join(map(str, found))}")
    return found[step]


def _film(arguments: argparse.Namespace, config: ControlConfig, checkpoint: Path | None) -> None:
    """Write the video and say how the episodes went."""
    from dipod.report.pictures import Canvas, Pixels
    from dipod.report.video import check_video, write_video

    file: Path = arguments.out or arguments.folder / "play.gif"
    check_video(file)
    policy = load_policy(config, checkpoint, runs.last_checkpoint(arguments.folder))
    dt = seconds_per_step(config)
    every = max(1, round(1 / (dt * (arguments.fps or FPS))))
    frames: list[Pixels] = []
    episodes: list[Episode] = []
    canvas: Canvas | None = None
    with stage(config, arguments.frames) as environment:
        steps = arguments.steps or arguments.episodes * environment.max_episode_length
        seen = watch(policy, environment, arguments.noise, arguments.seed, arguments.episodes, steps)
        console = terminal.console(stderr=True)
        for found in track(seen, "drawing", total=steps, console=console, transient=True):
            if isinstance(found, Episode):
                episodes.append(found)
            elif found.step % every == 0:
                if isinstance(found.picture, Drawing):
                    canvas = canvas or Canvas(found.picture)
                    frames.append(canvas.draw(found.picture, _caption(found)))
                else:
                    frames.append(found.picture.numpy())
    write_video(file, frames, arguments.fps or 1 / (every * dt))
    step = int(checkpoint.name[5:]) if checkpoint else 0
    if arguments.json:
        rows = [asdict(episode) for episode in episodes]
        print(json.dumps({"file": str(file), "checkpoint": step, "frames": len(frames), "episodes": rows}))
        return
    for episode in episodes:
        print(f"return {episode.reward:.3f}   length {episode.length}   {episode.ended}")
    print(f"{file}: {len(frames)} frames of checkpoint {step}")


def _caption(moment: Moment) -> str:
    episode = f"episode {moment.episode + 1}  " if moment.episode else ""
    return f"{episode}step {moment.step:3d}  return {moment.reward:7.3f}"


def _draw_paths(arguments: argparse.Namespace, config: ControlConfig, checkpoint: Path | None) -> None:
    """Write the figure of paths before and after RL."""
    from dipod.report.pictures import paths_figure

    task = config.task
    if not isinstance(task, MultiGoal):
        raise UserError("--paths", arguments.paths, f"only multigoal has paths; leave it out for {task.name}")
    file: Path = arguments.out or arguments.folder / "paths.png"
    require(file.suffix == ".png", "--out", str(file), "with --paths, give a file that ends in .png")
    last = runs.last_checkpoint(arguments.folder)
    step = int(checkpoint.name[5:]) if checkpoint else 0
    policies = {"untrained": load_policy(config, None, last)}
    if checkpoint is not None:
        policies[f"after {step} iterations"] = load_policy(config, checkpoint)
    panels = {name: paths(policy, task, arguments.paths, arguments.seed) for name, policy in policies.items()}
    make_folder(file.parent, "--out")
    with replacing(file) as aside:
        paths_figure(task, panels).savefig(aside)
    shares = {
        name: [found.goals.count(goal) / len(found.goals) for goal in range(task.goal_count)]
        for name, found in panels.items()
    }
    if arguments.json:
        print(json.dumps({"file": str(file), "checkpoint": step, "shares": shares}))
        return
    for name, parts in shares.items():
        print(f"{name:<24}{'  '.join(f'{share:4.0%}' for share in parts)}   arrive at goals 1 to {task.goal_count}")
    print(file)
