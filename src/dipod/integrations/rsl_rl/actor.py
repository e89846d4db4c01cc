"""A flow policy with the face of rsl_rl's models: observation groups in, actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dipod.errors import require
from dipod.integrations.rsl_rl.config import FlowActorConfig, read
from dipod.likelihood.flow import FlowEvidence
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowPolicy, Record, make_flow
from dipod.policies.flow_export import ZeroNoiseFlow
from dipod.policies.normaliser import EPSILON
from dipod.tasks.control.units import ActionUnits


class FlowActor(nn.Module):
    """``class_name: "dipod.integrations.rsl_rl:FlowActor"``.

    Called, it gives the zero-noise action of each observation; with ``stochastic_output`` it samples.

    Args:
        obs: observations by group, [N, ...] each.
        obs_groups: names of the groups of each set.
        obs_set: the set that the policy sees, "actor".
        output_dim: d.
        settings: see `dipod.integrations.rsl_rl.config.FlowActorConfig`.

    Attributes:
        policy: the library's own.
        units: what becomes of actions between the runner and its environment, inside exported policies.
        obs_groups: groups that the policy sees, in order.
        obs_dim: numbers in them.
        obs_normalization: whether the normaliser ever moves.
        generator: of sampled actions.
    """

    is_recurrent = False

    def __init__(
        self,
        obs: Mapping[str, Tensor],
        obs_groups: Mapping[str, Sequence[str]],
        obs_set: str,
        output_dim: int,
        **settings: Any,
    ) -> None:
        super().__init__()
        config = read(FlowActorConfig, settings, "actor")
        self.obs_groups = list(obs_groups[obs_set])
        for group in self.obs_groups:
            shape = tuple(obs[group].shape)
            flat = len(shape) == 2
            require(flat, f"observation group {group}", shape, "a flow policy takes vectors, [environments, numbers]")
        self.obs_dim = sum(obs[group].shape[-1] for group in self.obs_groups)
        self.obs_normalization = config.obs_normalization
        self.policy = make_flow(
            self.obs_dim,
            output_dim,
            config.hidden_dims,
            config.settings(),
            keyed_generator(config.seed, "policy"),
            act=config.activation,
            time_features=config.time_features,
            output_scale=config.output_scale,
        )
        if not self.obs_normalization:
            self.policy.normaliser.variance.fill_((1 - EPSILON) ** 2)  # so that it divides by 1
        self.units = ActionUnits.plain(output_dim)
        self.generator: torch.Generator | None = None
        self._spread = torch.zeros(output_dim)

    def forward(
        self,
        obs: Mapping[str, Tensor],
        masks: Tensor | None = None,
        hidden_state: Any = None,
        stochastic_output: bool = False,
    ) -> Tensor:
        """Actions [N, d] in the environment's units."""
        del masks, hidden_state
        return self.act(obs)[0] if stochastic_output else self.policy.mode(self.observation(obs))

    def act(self, obs: Mapping[str, Tensor]) -> tuple[Tensor, Record]:
        """Sampled actions [N, d] and their noise samples."""
        seen = self.observation(obs)
        if self.generator is None or self.generator.device.type != seen.device.type:
            self.generator = keyed_generator(0, "inference", device=seen.device)
        action, record = self.policy.act(seen, self.generator)
        self._spread = action.std(0, unbiased=False)
        return action, record

    def evidence(self, obs: Mapping[str, Tensor], action: Tensor, record: Record) -> FlowEvidence:
        """What the policy says of actions at the noise samples of their record."""
        return self.policy.evidence(self.observation(obs), action, record)

    def observation(self, obs: Mapping[str, Tensor]) -> Tensor:
        """The groups that the policy sees as one vector each, [N, o], not yet normalised."""
        return torch.cat([obs[group] for group in self.obs_groups], -1)

    @property
    def output_std(self) -> Tensor:
        """Standard deviation of each action dimension over the last sampled batch, [d]; logged by the runner."""
        return self._spread

    def reset(self, dones: Tensor | None = None, hidden_state: Any = None) -> None:
        """Nothing to forget."""

    def get_hidden_state(self) -> None:
        """None."""

    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        """Nothing to detach."""

    def update_normalization(self, obs: Mapping[str, Tensor]) -> None:
        """Take observations into the normaliser; never during a rollout, or ratios would not begin at 1."""
        if self.obs_normalization:
            self.policy.normaliser.update(self.observation(obs))

    def as_jit(self) -> nn.Module:
        """The zero-noise action of raw observations [N, o], normaliser and clip inside, for ``torch.jit.script``."""
        return _Scripted(self.policy, self.units)

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """The same for the runner's ONNX export, "obs" to "actions"."""
        return _Onnx(self.policy, self.units, verbose)


class _Scripted(ZeroNoiseFlow):
    @torch.jit.export
    def reset(self) -> None:
        """Nothing to forget; rsl_rl's exported models all have it."""


class _Onnx(ZeroNoiseFlow):
    is_recurrent = False
    input_names = ("obs",)
    output_names = ("actions",)

    def __init__(self, policy: FlowPolicy, units: ActionUnits, verbose: bool) -> None:
        super().__init__(policy, units)
        self.verbose, self.input_size = verbose, self.observation_size

    def get_dummy_inputs(self) -> tuple[Tensor]:
        """One observation of zeros."""
        return (torch.zeros(1, self.input_size),)
