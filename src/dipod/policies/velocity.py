"""The velocity network of a flow policy: an MLP of observation, time and noised action.

What does not depend on x_t is computed once: an observation's part of the first layer for all its noise samples and
sampling steps, the time's part for all observations. The numbers are those of one matrix over the concatenation
[observation, cos(f·t), sin(f·t), x_t], f = 1, 2, 4, ..., the layout of the published networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipod.errors import require
from dipod.policies.mlp import activation, linear_layers


class VelocityNetwork(nn.Module):
    """v(x_t, t | o).

    Attributes:
        observation_size: numbers in an observation.
        action_size: d.
        time_features: size of the time embedding, even.
        output_scale: the output is multiplied by it.
    """

    frequencies: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (256, 256, 256),
        act: str = "elu",
        time_features: int = 8,
        output_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require(action_size >= 1, "action_size", action_size, "a flow policy needs at least one action dimension")
        even = time_features >= 2 and time_features % 2 == 0
        require(even, "policy.time_features", time_features, "give an even number of at least 2")
        self.observation_size, self.action_size, self.output_scale = observation_size, action_size, output_scale
        self.activation = activation(act)
        self.layers = linear_layers([observation_size + time_features + action_size, *hidden, action_size], generator)
        self.register_buffer("frequencies", 2.0 ** torch.arange(time_features // 2), persistent=False)

    @property
    def _first(self) -> nn.Linear:
        layer = self.layers[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def encode(self, observation: Tensor) -> Tensor:
        """The observation's part of the first layer, bias included: [B, o] to [B, H]."""
        return F.linear(observation, self._first.weight[:, : self.observation_size], self._first.bias)

    def embed(self, t: Tensor) -> Tensor:
        """[..., features] of times [...]."""
        angles = t[..., None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)

    def forward(self, encoded: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """[B, S, d] of encoded observations [B, H], noised actions [B, S, d] and times [B, S]."""
        rest = self._first.weight[:, self.observation_size :]
        return self._after_first(encoded[:, None] + F.linear(torch.cat([self.embed(t), x], -1), rest))

    def _after_first(self, hidden: Tensor) -> Tensor:
        hidden = self.activation(hidden)
        for layer in self.layers[1:-1]:
            hidden = self.activation(layer(hidden))
        out: Tensor = self.layers[-1](hidden)
        return out if self.output_scale == 1 else out * self.output_scale

    @torch.no_grad()
    def sample(self, observation: Tensor, noise: Tensor, steps: int) -> Tensor:
        """The Euler sampler (`dipod.likelihood.flow_exact.sample`) with the times' part from a table: [B, d]."""
        by_action = self._first.weight[:, -self.action_size :].t()
        by_time = self._first.weight[:, self.observation_size : -self.action_size]
        grid = torch.linspace(1, 0, steps + 1, dtype=noise.dtype, device=noise.device)[:-1]
        table = F.linear(self.embed(grid), by_time)
        encoded, x = self.encode(observation), noise
        for row in table:
            x = x - self._after_first(torch.addmm(encoded + row, x, by_action)) / steps
        return x
