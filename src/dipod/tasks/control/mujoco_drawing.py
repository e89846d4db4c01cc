"""A MuJoCo robot as a few shapes in the plane, for machines that cannot render."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipod.extras import load_extra
from dipod.tasks.control.protocol import Circle, Drawing, Line

SPHERE, CAPSULE, CYLINDER = 2, 3, 5
"""MuJoCo's numbers of the geometries with a shape of their own here; any other is a disc."""
MARGIN = 0.4


def draw_mujoco(model: Any, data: Any) -> Drawing:
    """The moving bodies from the side, or from above where they lie flat; the picture follows them.

    Args:
        model: an ``mjModel``.
        data: an ``mjData`` of it, at the moment to draw.
    """
    moving = np.flatnonzero(model.geom_bodyid > 0)
    home = _home(model)[moving]
    spread = home.max(0) - home.min(0)
    axes = [0, 2] if spread[2] > spread[1] else [0, 1]
    places = data.geom_xpos[moving][:, axes]
    half = MARGIN + 0.75 * float(spread.max())
    x, y = ((places.max(0) + places.min(0)) / 2).tolist()
    lines, circles = [], []
    for geom, centre in zip(moving, places, strict=True):
        kind, size = model.geom_type[geom], model.geom_size[geom]
        if kind in {CAPSULE, CYLINDER}:
            along = data.geom_xmat[geom].reshape(3, 3)[axes, 2] * size[1]
            lines.append(Line(_tensor(np.stack([centre - along, centre + along])), width=2 * float(size[0])))
        else:
            circles.append(Circle(_tensor(centre), float(size[0] if kind == SPHERE else size.max())))
    if axes == [0, 2]:
        lines.insert(0, Line(torch.tensor([[x - half, 0.0], [x + half, 0.0]]), "scene"))
    return Drawing((x - half, x + half, y - half, y + half), tuple(lines), tuple(circles))


def _home(model: Any) -> NDArray[np.float64]:
    """Where every geometry is in the model's reference posture, [G, 3]."""
    mujoco = load_extra("mujoco", "gymnasium")
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    places: NDArray[np.float64] = data.geom_xpos.copy()
    return places


def _tensor(points: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(points.astype(np.float32))
