"""mjlab's runners with the stages of self-distillation in their log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mjlab.tasks.tracking.rl import MotionTrackingOnPolicyRunner
from mjlab.tasks.velocity.rl import VelocityOnPolicyRunner

from dipod.integrations.rsl_rl import StageLogging
from dipod.motions.g1 import JOINTS, model_path
from dipod.motions.inspection import inspect
from dipod.motions.kinematics import load_skeleton


class VelocityRunner(StageLogging, VelocityOnPolicyRunner):  # type: ignore[misc]
    """For velocity commands."""


class TrackingRunner(StageLogging, MotionTrackingOnPolicyRunner):  # type: ignore[misc]
    """For motion tracking; it looks at the motion first.

    mjlab itself takes any file of the right shapes, another simulator's order of bodies too, and trains on nonsense.

    Raises:
        UserError: the motion is none of the G1's as mjlab reads it.
    """

    def __init__(self, env: Any, *arguments: Any, **options: Any) -> None:
        motion = Path(env.unwrapped.command_manager.get_term("motion").cfg.motion_file)
        inspect(motion, load_skeleton(model_path(), JOINTS))
        super().__init__(env, *arguments, **options)
