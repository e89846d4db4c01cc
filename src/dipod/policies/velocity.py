"""The velocity network of a flow policy: an MLP of observation, time and noised action.

What does not depend on x_t is computed once: an observation's part of the first layer for all its noise samples and
sampling steps, the time's part for all observations. The numbers are those of one matrix over the concatenation
[observation, cos(f·t), sin(f·t), x_t], f = 1, 2, 4, ..., the layout of the published networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipod.errors import require
from dipod.likelihood.flow_exact import times
from dipod.policies.mlp import in_place_activation, linear_layers

LANES = 16
"""Numbers in a vector of the widest processors."""


class VelocityNetwork(nn.Module):
    """v(x_t, t | o).

    Attributes:
        observation_size: numbers in an observation.
        action_size: d.
        hidden: widths of the hidden layers.
        activation_name: between the layers.
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
        self.hidden, self.time_features = tuple(hidden), time_features
        self.activation_name, self.activation = act, in_place_activation(act)
        self.layers = linear_layers([observation_size + time_features + action_size, *hidden, action_size], generator)
        self.register_buffer("frequencies", 2.0 ** torch.arange(time_features // 2), persistent=False)

    @property
    def first(self) -> nn.Linear:
        """The layer whose columns are observation, time and noised action."""
        layer = self.layers[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def encode(self, observation: Tensor) -> Tensor:
        """The observation's part of the first layer, bias included: [B, o] to [B, H]."""
        return F.linear(observation, self.first.weight[:, : self.observation_size], self.first.bias)

    def embed(self, t: Tensor) -> Tensor:
        """[..., features] of times [...]."""
        angles = t[..., None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)

    def forward(self, encoded: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """[B, S, d] of encoded observations [B, H], noised actions [B, S, d] and times [B, S]."""
        rows, samples = t.shape
        features = torch.cat([self.embed(t), x], -1).flatten(0, 1)
        rest = self.first.weight[:, self.observation_size :].t()
        hidden = torch.addmm(encoded.repeat_interleave(samples, 0), features, rest)
        return self._after_first(hidden).view(rows, samples, self.action_size)

    def _after_first(self, hidden: Tensor) -> Tensor:
        """The output [R, d] of what goes into the first activation, [R, H], which is overwritten."""
        hidden = self.activation(hidden)
        for layer in self.layers[1:-1]:
            hidden = self.activation(layer(hidden))
        out: Tensor = self.layers[-1](hidden)
        return out if self.output_scale == 1 else out * self.output_scale

    def time_table(self, steps: int) -> Tensor:
        """The time's part of the first layer at the Euler sampler's times 1, 1 - 1/K, ..., 1/K: [K, H]."""
        weight = self.first.weight[:, self.observation_size : -self.action_size]
        return F.linear(self.embed(times(steps, weight)[:-1]), weight)

    @torch.no_grad()
    def sample(self, observation: Tensor, noise: Tensor, steps: int) -> Tensor:
        """The Euler sampler (`dipod.likelihood.flow_exact.sample`) with the times' part from a table: [B, d].

        Actions are padded to whole vectors, which products are fast with; the padding stays zero.
        """
        width, step = self.action_size, self.output_scale / steps
        spare = (0, -width % LANES)
        by_action = F.pad(self.first.weight[:, -width:], spare).t().contiguous()
        *middle, last = [(layer.bias, layer.weight.t()) for layer in cast(list[nn.Linear], list(self.layers)[1:])]
        shift, out = F.pad(last[0], spare), F.pad(last[1], spare)
        encoded, x = self.encode(observation), F.pad(noise, spare)
        for row in self.time_table(steps):
            hidden = self.activation(torch.addmm(encoded + row, x, by_action))
            for bias, weight in middle:
                hidden = self.activation(torch.addmm(bias, hidden, weight))
            x = x.sub(torch.addmm(shift, hidden, out), alpha=step)
        return x[:, :width]
