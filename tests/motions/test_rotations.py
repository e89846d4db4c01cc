"""Quaternions against SciPy's rotations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from dipod.motions import rotations
from dipod.motions.rotations import Array


def scipy_rotation(q: Array) -> Rotation:
    return Rotation.from_quat(np.roll(q, -1, axis=-1))


@pytest.fixture
def pair() -> tuple[Array, Array]:
    drawn = np.random.default_rng(0).normal(size=(2, 50, 4))
    first, second = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return first, second


def test_products_turns_and_angles(pair: tuple[Array, Array]) -> None:
    a, b = pair
    vector = np.random.default_rng(1).normal(size=(50, 3))
    product = scipy_rotation(rotations.multiply(a, b)).as_matrix()
    np.testing.assert_allclose(product, (scipy_rotation(a) * scipy_rotation(b)).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(rotations.rotate(a, vector), scipy_rotation(a).apply(vector), atol=1e-12)
    np.testing.assert_allclose(rotations.rotation_vector(a), scipy_rotation(a).as_rotvec(), atol=1e-12)
    between = (scipy_rotation(a) * scipy_rotation(b).inv()).magnitude()
    np.testing.assert_allclose(rotations.angle_between(a, b), between, atol=1e-7)
    np.testing.assert_allclose(rotations.upness(a), scipy_rotation(a).as_matrix()[:, 2, 2], atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_slerp_takes_the_shorter_arc(pair: tuple[Array, Array], share: float) -> None:
    for a, b in zip(*pair, strict=True):
        found = rotations.slerp(a, b, np.asarray(share))
        expected = Slerp([0, 1], scipy_rotation(np.stack([a, b])))(share)
        np.testing.assert_allclose(scipy_rotation(found).as_matrix(), expected.as_matrix(), atol=1e-9)


def test_slerp_of_the_same_rotation_and_of_its_negative() -> None:
    q = np.array([0.6, 0.0, 0.8, 0.0])
    for other in (q, -q):
        np.testing.assert_allclose(rotations.slerp(q, other, np.asarray(0.7)), q, atol=1e-12)


def test_angular_velocity_of_a_steady_turn_is_in_the_worlds_axes() -> None:
    """A body tilted first and then turned about the world's z axis: ω is along the world's z, wherever it points."""
    tilt = Rotation.from_rotvec([0.5, 0, 0])
    turned = [Rotation.from_rotvec([0, 0, 3.0 * t]) * tilt for t in np.arange(20) * 0.02]
    q = np.stack([np.roll(each.as_quat(), 1) for each in turned])
    q[::3] *= -1  # the same rotations
    expected = np.tile([0, 0, 3.0], (20, 1))
    np.testing.assert_allclose(rotations.angular_velocity(q, 0.02), expected, atol=1e-9)
