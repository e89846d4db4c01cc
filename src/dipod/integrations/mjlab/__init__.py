"""mjlab's tasks with FPO++ in place of PPO; importing this registers them, and mjlab imports it by itself.

Every task ``Mjlab-X`` below is there as ``Dipod-X``, with the released values, and as ``Dipod-X-Initial``, with
self-distillation before the first update (Algorithm 3). The environments are mjlab's own.
"""

from dipod.extras import load_extra

load_extra("mjlab.tasks", "mjlab")

from mjlab.tasks.registry import load_env_cfg, register_mjlab_task  # noqa: E402

from dipod.integrations.mjlab.config import tracking, velocity, with_initial_stage  # noqa: E402
from dipod.integrations.mjlab.runners import TrackingRunner, VelocityRunner  # noqa: E402

TASKS = {
    "Tracking-Flat-Unitree-G1": (tracking, TrackingRunner),
    "Tracking-Flat-Unitree-G1-No-State-Estimation": (tracking, TrackingRunner),
    "Velocity-Flat-Unitree-G1": (lambda: velocity(humanoid=True), VelocityRunner),
    "Velocity-Flat-Unitree-Go1": (lambda: velocity(humanoid=False), VelocityRunner),
    "Velocity-Rough-Unitree-G1": (lambda: velocity(humanoid=True), VelocityRunner),
    "Velocity-Rough-Unitree-Go1": (lambda: velocity(humanoid=False), VelocityRunner),
}
"""mjlab's names without their prefix: the runner's configuration and its class."""


def register() -> None:
    """Add both versions of every task to mjlab's registry."""
    for name, (configure, runner) in TASKS.items():
        for suffix, settings in (("", configure()), ("-Initial", with_initial_stage(configure()))):
            environment, playing = load_env_cfg(f"Mjlab-{name}"), load_env_cfg(f"Mjlab-{name}", play=True)
            register_mjlab_task(f"Dipod-{name}{suffix}", environment, playing, settings, runner)


register()

__all__ = ["TASKS", "TrackingRunner", "VelocityRunner", "register", "tracking", "velocity", "with_initial_stage"]
