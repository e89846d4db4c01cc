"""mjlab's runner configuration with this library's actor and algorithm, and the published values for its tasks."""

from __future__ import annotations

from dataclasses import MISSING, field, fields, make_dataclass, replace
from typing import Any, get_type_hints

from mjlab.rl import RslRlModelCfg, RslRlOnPolicyRunnerCfg, RslRlPpoAlgorithmCfg

from dipod.control.algorithms import ControlObjective
from dipod.control.config import SelfDistillationConfig
from dipod.integrations.rsl_rl.config import FlowActorConfig, FlowAlgorithmConfig

HOUSE = "dipod.integrations.rsl_rl"
NEWEST = 262_144
"""Actions that the released stage keeps with 4096 environments; all 3.3 million take 2.5 GB."""


def _extended(name: str, base: Any, settings: type, kind: str) -> Any:
    """Mjlab's configuration class with every field of ``settings``, so that each is a flag of its ``train``.

    The seed is left to the runner, whose flag there is already.
    """
    hints, made = get_type_hints(settings), []
    for each in fields(settings):
        given = each.default_factory is not MISSING
        value: Any = field(default_factory=each.default_factory) if given else field(default=each.default)
        if each.name != "seed":
            made.append((each.name, hints[each.name], value))
    made.append(("class_name", str, field(default=f"{HOUSE}:{kind}")))
    extended = make_dataclass(name, made, bases=(base,))
    extended.__module__ = __name__
    return extended


FlowActorCfg: Any = _extended("FlowActorCfg", RslRlModelCfg, FlowActorConfig, "FlowActor")
FlowAlgorithmCfg: Any = _extended("FlowAlgorithmCfg", RslRlPpoAlgorithmCfg, FlowAlgorithmConfig, "FlowAlgorithm")

STAGE = SelfDistillationConfig(
    iterations=100, environment_steps=8, batch=16_384, learning_rate=3e-4, weight_decay=1e-4, buffer=NEWEST
)
"""The released stage of Algorithm 3."""
WARM_UP = 100
"""Steps in which only normalisers learn, with or without the stage: on raw observations it tightens next to nothing."""


def velocity(humanoid: bool) -> Any:
    """FPO++ on velocity commands with the released values.

    Args:
        humanoid: the G1's values; else a quadruped's.
    """
    thorough = 32 if humanoid else 16
    return RslRlOnPolicyRunnerCfg(
        actor=FlowActorCfg(hidden_dims=(256, 256, 256), sampling_steps=64, samples=thorough),
        critic=RslRlModelCfg(hidden_dims=(768, 768, 768), obs_normalization=True),
        algorithm=FlowAlgorithmCfg(
            warmup_steps=WARM_UP,
            num_learning_epochs=thorough,
            num_mini_batches=4,
            clip_param=0.05,
            learning_rate=1e-4,
            objective=ControlObjective(
                reduction="sqrt", loss_limit=20.0, negative_loss_limit=20.0, log_ratio_limit=10.0
            ),
            distillation=STAGE,
        ),
        clip_actions=2.0,
        experiment_name=f"dipod_{'g1' if humanoid else 'go1'}_velocity",
        logger="tensorboard",
        max_iterations=2000 if humanoid else 1500,
        num_steps_per_env=24,
        save_interval=50,
    )


def tracking() -> Any:
    """FPO++ on motion tracking with the released values."""
    layers = (1024, 512, 256)
    return RslRlOnPolicyRunnerCfg(
        actor=FlowActorCfg(hidden_dims=layers, sampling_steps=64, samples=16),
        critic=RslRlModelCfg(hidden_dims=layers, obs_normalization=True),
        algorithm=FlowAlgorithmCfg(
            warmup_steps=WARM_UP,
            num_learning_epochs=16,
            num_mini_batches=6,
            clip_param=0.01,
            entropy_coef=1e-5,
            learning_rate=1e-4,
            schedule="adaptive",
            desired_kl=1e-4,
            beta2=0.95,
            objective=ControlObjective(
                reduction="mean", negative_loss_limit=20.0, log_ratio_limit=3.0, entropy_neighbour=5
            ),
            distillation=STAGE,
        ),
        clip_actions=2.0,
        experiment_name="dipod_g1_tracking",
        logger="tensorboard",
        max_iterations=20_000,
        num_steps_per_env=48,
        save_interval=500,
    )


def of_paper(motion: str) -> Any:
    """FPO++ on one of the paper's motions: as `tracking`, for as long as its figures show, logged by the motion's name.

    Args:
        motion: its name, such as "walk1_subject1".
    """
    return replace(tracking(), experiment_name=f"dipod_g1_{motion}", max_iterations=1000)


def with_initial_stage(chosen: Any) -> Any:
    """The same with self-distillation before the first update, Algorithm 3."""
    algorithm = replace(chosen.algorithm, estimator="fpopp+initial")
    return replace(chosen, algorithm=algorithm, experiment_name=f"{chosen.experiment_name}_initial")
