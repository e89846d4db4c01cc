"""Multi-layer perceptrons of control: a critic, a Gaussian's mean, and the layers that a velocity network shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipod.errors import UserError, require

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"elu": F.elu, "silu": F.silu, "relu": F.relu, "tanh": torch.tanh}

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu_,
    "silu": partial(F.silu, inplace=True),
    "relu": torch.relu_,
    "tanh": torch.tanh_,
}


def parse_widths(text: str, field: str) -> tuple[int, ...]:
    """Widths of hidden layers from "256,256,256".

    Raises:
        UserError: not whole positive numbers separated by commas.
    """
    parts = [part.strip() for part in str(text).split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(field, text, 'give widths separated by commas, such as "256,256,256"')
    return tuple(int(part) for part in parts)


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """An activation by name.

    Raises:
        UserError: there is none of that name.
    """
    require(name in ACTIVATIONS, "activation", name, f"choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def in_place_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The same, written over its argument: no memory of its own, and a gradient from the result where that is enough.

    Raises:
        UserError: there is none of that name.
    """
    activation(name)
    return IN_PLACE[name]


def linear_layers(sizes: Sequence[int], generator: torch.Generator | None = None) -> nn.ModuleList:
    """Layers from each size to the next, drawn uniformly within 1/√inputs (torch's own default), biases too."""
    layers = nn.ModuleList()
    for inputs, outputs in pairwise(sizes):
        require(inputs > 0 and outputs > 0, "layer size", (inputs, outputs), "give at least one input and one output")
        layer = nn.Linear(inputs, outputs)
        bound = inputs**-0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        layers.append(layer)
    return layers


class Perceptron(nn.Module):
    """[..., inputs] to [..., outputs] through hidden layers of given widths."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        act: str = "elu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation(act)
        self.layers = linear_layers([inputs, *hidden, outputs], generator)

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output, without an activation."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        out: Tensor = self.layers[-1](x)
        return out
