"""From settings to a control trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from dipod.control.algorithms import ControlAlgorithm, table
from dipod.control.config import ControlConfig, SelfDistillationConfig
from dipod.control.peers import Peers
from dipod.control.trainer import ControlSettings, ControlTrainer
from dipod.errors import UserError, require
from dipod.likelihood.flow import TimesConfig
from dipod.noise import keyed_generator
from dipod.parallel import Processes
from dipod.policies.flow import FlowPolicy, FlowSettings, make_flow
from dipod.policies.gaussian import GaussianPolicy
from dipod.policies.mlp import Perceptron, parse_widths
from dipod.policies.vae import VaePolicy, VaeSettings
from dipod.tasks.control import Environment, GymnasiumConfig, GymnasiumEpisodes, OwnConfig, WorldEpisodes, build_own
from dipod.tasks.control.gymnasium_interface import make_registered
from dipod.tightening import Tightening, parse_tightening


def parse_algorithm(text: str, config: ControlConfig) -> tuple[ControlAlgorithm, Tightening[SelfDistillationConfig]]:
    """Read ``base`` or ``base+tightening``: an algorithm's row and how its bound is kept tight.

    Raises:
        UserError: a base or a tightening that does not exist, or a stage for a policy that has nothing to distil.
    """
    base, _, suffix = text.partition("+")
    rows = table(config.objective, config.policy.kind)
    if base not in rows:
        other = ", or policy.kind flow" if base in table() else ""
        raise UserError("algorithm", text, f"choose a base from {', '.join(rows)}{other}")
    stages = config.distillation
    tightening = parse_tightening(text, config.beta, config.beta_ramp, stages.every, stages, config.adaptive)
    if rows[base].acting == "gaussian" and suffix:
        raise UserError("algorithm", text, f"{base}'s log-probability is exact: there is no bound to tighten")
    return rows[base], tightening


def check_control(config: ControlConfig) -> None:
    """See that the settings of a control run go together, before anything is written.

    Raises:
        UserError: an algorithm, device or environment that does not exist, or sizes that do not fit.
    """
    parse_algorithm(config.algorithm, config)
    trainer = config.trainer
    total = trainer.environments * trainer.horizon
    require(
        total >= trainer.mini_batches, "trainer.mini_batches", trainer.mini_batches, f"there are {total} transitions"
    )
    build_control_policy(config, build_environment(config, 1))


def build_environment(config: ControlConfig, count: int, render: bool = False) -> Environment:
    """``count`` environments of the run's task.

    Args:
        config: of the run.
        count: N.
        render: ask for frames, of environments that render themselves.

    Raises:
        UserError: an environment that does not exist or whose settings are refused.
    """
    task, device = config.task, device_of(config)
    if isinstance(task, OwnConfig):
        return build_own(task, count, device, render)
    if isinstance(task, GymnasiumConfig):
        make = partial(make_registered, task.id, render, task.arguments)
        limit = task.max_episode_length
        return GymnasiumEpisodes(task.id, count, device, torch.float32, limit, render, task.on_error, make)
    return WorldEpisodes(task, count, device)


def device_of(config: ControlConfig) -> torch.device:
    """Where the run is to be computed.

    Raises:
        UserError: a device that torch does not know or this machine does not have.
    """
    try:
        device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError("device", config.device, f"it cannot be used here ({reason}); leave it out") from error
    return device


def build_control_policy(config: ControlConfig, environment: Environment) -> FlowPolicy | VaePolicy | GaussianPolicy:
    """The policy that the algorithm trains, for the environment's sizes, with a fresh network."""
    row, _ = parse_algorithm(config.algorithm, config)
    chosen, sizes = config.policy, (environment.observation_size, environment.action_size)
    hidden = parse_widths(chosen.hidden, "policy.hidden")
    generator = keyed_generator(config.seed, "policy")
    if row.acting == "gaussian":
        gaussian = GaussianPolicy(*sizes, hidden, chosen.spread * chosen.action_scale, chosen.activation, generator)
        return gaussian.to(device_of(config))
    if row.acting == "vae":
        given = ("latent", "samples", "action_scale", "output_scale", "latent_scale", "spread")
        latent = VaeSettings(**{name: getattr(chosen, name) for name in given})
        return VaePolicy(*sizes, hidden, latent, chosen.activation, generator).to(device_of(config))
    times = TimesConfig(chosen.samples, chosen.times, chosen.times_beta, steps=chosen.sampling_steps)
    settings = FlowSettings(chosen.sampling_steps, chosen.action_scale, chosen.perturbation, chosen.chain_noise, times)
    flow = make_flow(
        *sizes,
        hidden,
        settings,
        generator,
        row.acting == "chain",
        chosen.activation,
        chosen.time_features,
        chosen.output_scale,
    )
    return flow.to(device_of(config))


def build_control_trainer(
    config: ControlConfig, processes: Processes, make: Callable[[int], Environment] | None = None
) -> ControlTrainer:
    """The loop of a control run.

    Args:
        config: of the run.
        processes: those that it runs on.
        make: makes so many environments, in place of the task's.

    Raises:
        UserError: environments or episodes that cannot be shared out among the processes, or a device that they cannot
            exchange tensors of.
    """
    row, tightening = parse_algorithm(config.algorithm, config)
    count, episodes, kind = processes.count, config.trainer.evaluate_episodes, processes.device.type
    reachable = count == 1 or device_of(config).type == kind
    require(reachable, "device", config.device, f"{count} processes exchange tensors on {kind}; leave it out")
    mend = f"give each of the {count} processes at least one, or 0 for no evaluation"
    require(episodes == 0 or episodes >= count, "trainer.evaluate_episodes", episodes, mend)
    mine = processes.share(config.trainer.environments, "trainer.environments")
    held = Peers.of(processes).share(max(episodes, count))
    make = make or partial(build_environment, config)
    environment, held_out = (make(part.stop - part.start) for part in (mine, held))
    policy: Any = build_control_policy(config, environment)
    hidden = parse_widths(config.policy.critic_hidden, "policy.critic_hidden")
    generator = keyed_generator(config.seed, "critic")
    critic: nn.Module = Perceptron(environment.observation_size, 1, hidden, config.policy.activation, generator)
    settings = ControlSettings(
        config.trainer, config.objective, config.optimiser, config.monitor, config.adaptive.rollouts, config.beta
    )
    return ControlTrainer(
        policy, critic.to(device_of(config)), environment, held_out, row, tightening, settings, config.seed, processes
    )
