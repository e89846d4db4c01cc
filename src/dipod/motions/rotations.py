"""Unit quaternions, wxyz, in NumPy: products, interpolation, and the angular velocity of a sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def multiply(left: Array, right: Array) -> Array:
    """Hamilton's product of [..., 4] and [..., 4]: first ``right``, then ``left``."""
    w, v = left[..., :1], left[..., 1:]
    w_right, v_right = right[..., :1], right[..., 1:]
    real = w * w_right - (v * v_right).sum(-1, keepdims=True)
    return np.concatenate([real, w * v_right + w_right * v + np.cross(v, v_right)], -1)


def conjugate(rotation: Array) -> Array:
    """The inverse of unit quaternions [..., 4]."""
    inverse: Array = rotation * np.array([1.0, -1.0, -1.0, -1.0])
    return inverse


def rotate(rotation: Array, vector: Array) -> Array:
    """Vectors [..., 3] turned by [..., 4]."""
    twice = 2 * np.cross(rotation[..., 1:], vector)
    return vector + rotation[..., :1] * twice + np.cross(rotation[..., 1:], twice)


def rotation_vector(rotation: Array) -> Array:
    """Axis times angle, [..., 3], with the angle in [0, π]."""
    shortest = np.where(rotation[..., :1] < 0, -rotation, rotation)
    sine = np.linalg.norm(shortest[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, shortest[..., :1])
    vector: Array = shortest[..., 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)
    return vector


def angle_between(left: Array, right: Array) -> Array:
    """The angle in rad that turns one into the other, [...]."""
    angle: Array = np.linalg.norm(rotation_vector(multiply(left, conjugate(right))), axis=-1)
    return angle


def slerp(start: Array, end: Array, share: Array) -> Array:
    """Spherical interpolation along the shorter arc.

    Args:
        start: [..., 4].
        end: [..., 4].
        share: [...], 0 for ``start`` and 1 for ``end``.
    """
    cosine = (start * end).sum(-1, keepdims=True)
    end = np.where(cosine < 0, -end, end)
    angle = np.arccos(np.clip(np.abs(cosine), 0.0, 1.0))
    sine = np.sin(angle)
    share = share[..., None]
    near = sine < 1e-7
    safe = np.where(near, 1.0, sine)
    first = np.where(near, 1 - share, np.sin((1 - share) * angle) / safe)
    second = np.where(near, share, np.sin(share * angle) / safe)
    turned: Array = first * start + second * end
    turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
    return turned


def angular_velocity(rotation: Array, step: float) -> Array:
    """Central differences of orientations [T, 4], in the world's axes, rad/s, [T, 3]; the ends repeat their neighbours.

    Args:
        rotation: orientations at equal distances in time, T of at least 3.
        step: the distance in s.
    """
    inner = rotation_vector(multiply(rotation[2:], conjugate(rotation[:-2]))) / (2 * step)
    return np.concatenate([inner[:1], inner, inner[-1:]])


def upness(rotation: Array) -> Array:
    """The vertical part of the body's own z axis, [...]: 1 upright, 0 lying, -1 upside down."""
    return 1 - 2 * (rotation[..., 1] ** 2 + rotation[..., 2] ** 2)
