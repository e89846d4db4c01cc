"""What a control run would do, without doing it."""

from __future__ import annotations

from typing import Any

from dipod.control.build import build_control_policy, build_environment, device_of
from dipod.control.config import ControlConfig


def plan(config: ControlConfig) -> dict[str, Any]:
    """Sizes and counts of a run: environment, parameters, transitions, gradient steps, and what distillation adds.

    Raises:
        UserError: settings that do not go together.
    """
    environment = build_environment(config, 1)
    policy, trainer, stage = build_control_policy(config, environment), config.trainer, config.distillation
    name = config.algorithm.partition("+")[2]
    stages = {"initial": min(trainer.steps, 1), "interleave": -(-trainer.steps // stage.every)}.get(name, 0)
    return {
        "environment": environment.name,
        "observation_size": environment.observation_size,
        "action_size": environment.action_size,
        "episode_length": environment.max_episode_length,
        "device": str(device_of(config)),
        "policy_parameters": sum(p.numel() for p in policy.parameters()),
        "warmup_transitions": trainer.warmup_steps * trainer.environments,
        "transitions": trainer.steps * trainer.horizon * trainer.environments,
        "gradient_steps": trainer.steps * trainer.epochs * trainer.mini_batches,
        "distillation_stages": stages,
        "distillation_transitions": stages * stage.iterations * stage.environment_steps * trainer.environments,
    }


def as_text(found: dict[str, Any], settings: str) -> str:
    """The plan for people, under the settings."""
    shown = {name.replace("_", " "): f"{v:,}" if isinstance(v, int) else str(v) for name, v in found.items()}
    return "\n".join([settings, *(f"{name:<26}{value}" for name, value in shown.items())])
