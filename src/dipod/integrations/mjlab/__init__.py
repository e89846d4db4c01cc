"""mjlab's tasks with FPO++ in place of PPO; importing this registers them, and mjlab imports it by itself.

Every task ``Mjlab-X`` below is there as ``Dipod-X``, with the released values, and as ``Dipod-X-Initial``, with
self-distillation before the first update (Algorithm 3). The environments are mjlab's own. The paper's six motions have
tasks of their own, such as ``Dipod-Tracking-Flat-Unitree-G1-walk1_subject1``, that ask for nothing on the command line.
"""

from typing import Any

from dipod.extras import load_extra

load_extra("mjlab.tasks", "mjlab")

from mjlab.tasks.registry import load_env_cfg, register_mjlab_task  # noqa: E402

from dipod.integrations.mjlab.config import of_paper, tracking, velocity, with_initial_stage  # noqa: E402
from dipod.integrations.mjlab.runners import TrackingRunner, VelocityRunner  # noqa: E402

TRACKING = "Tracking-Flat-Unitree-G1"
TASKS = {
    TRACKING: (tracking, TrackingRunner),
    f"{TRACKING}-No-State-Estimation": (tracking, TrackingRunner),
    "Velocity-Flat-Unitree-G1": (lambda: velocity(humanoid=True), VelocityRunner),
    "Velocity-Flat-Unitree-Go1": (lambda: velocity(humanoid=False), VelocityRunner),
    "Velocity-Rough-Unitree-G1": (lambda: velocity(humanoid=True), VelocityRunner),
    "Velocity-Rough-Unitree-Go1": (lambda: velocity(humanoid=False), VelocityRunner),
}
"""mjlab's names without their prefix: the runner's configuration and its class."""

MOTIONS = (
    "dance1_subject1",
    "dance1_subject2",
    "fight1_subject2",
    "jumps1_subject1",
    "run1_subject2",
    "walk1_subject1",
)
"""The motions of the paper's figures 6 and 7."""
ENVIRONMENTS = 4096
"""As many as the paper trains each of them in."""


def register() -> None:
    """Add both versions of every task, and of tracking for every motion of the paper, to mjlab's registry."""
    for name, (configure, runner) in TASKS.items():
        _register(name, name, configure(), runner)
    for motion in MOTIONS:
        _register(f"{TRACKING}-{motion}", TRACKING, of_paper(motion), TrackingRunner, motion)


def _register(name: str, like: str, settings: Any, runner: type, motion: str = "") -> None:
    for suffix, chosen in (("", settings), ("-Initial", with_initial_stage(settings))):
        environment, playing = load_env_cfg(f"Mjlab-{like}"), load_env_cfg(f"Mjlab-{like}", play=True)
        if motion:
            environment.scene.num_envs = ENVIRONMENTS
            environment.commands["motion"].motion_file = f"{motion}.npz"
        register_mjlab_task(f"Dipod-{name}{suffix}", environment, playing, chosen, runner)


register()

__all__ = [
    "ENVIRONMENTS",
    "MOTIONS",
    "TASKS",
    "TrackingRunner",
    "VelocityRunner",
    "of_paper",
    "register",
    "tracking",
    "velocity",
    "with_initial_stage",
]
