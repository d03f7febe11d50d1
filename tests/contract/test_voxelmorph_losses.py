"""Our local NCC is voxelmorph's, in value and gradient; its Grad has the scale that we state."""

import types

import numpy as np
import pytest
from scipy import ndimage

from vxmlib.backend import tf, vxm
from vxmlib.losses import LocalNCC

SHAPES = {"2D": (2, 48, 40, 1), "3D": (2, 20, 24, 16, 1), "two channels": (3, 24, 16, 2)}


def images(shape, dtype):
    """Two blurred random textures in [0, 1] with an empty border, the second displaced."""
    rng = np.random.default_rng(7)
    texture = ndimage.gaussian_filter(rng.random(shape), [0, *[1] * (len(shape) - 2), 0])
    # Squared, so that they are darker: the brighter the window, the fewer digits either has left.
    texture = ((texture - texture.min()) / np.ptp(texture)) ** 2
    texture[:, :5] = 0
    return texture.astype(dtype), np.roll(texture, 1, axis=2).astype(dtype)


def value_and_gradients(loss, fixed, warped):
    fixed, warped = tf.constant(fixed), tf.constant(warped)
    with tf.GradientTape() as tape:
        tape.watch([fixed, warped])
        value = loss(fixed, warped)
        weighted = tf.reduce_sum(value * tf.range(1, len(value) + 1, dtype=value.dtype))
    return value.numpy(), [g.numpy() for g in tape.gradient(weighted, [fixed, warped])]


def assert_close(found, expected, tolerance):
    """Relative to the size of the whole gradient: single voxels near 0 have no digits."""
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@pytest.fixture
def voxelmorph_in_float64(monkeypatch):
    """Let vxm.losses.NCC compute in float64: it takes the type of its filter from tf.ones."""
    double = types.ModuleType("tf")
    double.__dict__.update(vars(tf), ones=lambda shape: tf.ones(shape, tf.float64))
    monkeypatch.setattr(vxm.losses, "tf", double)


@pytest.mark.parametrize("window", [5, 9])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ncc_equals_voxelmorphs(shape, window):
    pair = images(shape, np.float32)
    value, gradients = value_and_gradients(LocalNCC(window=window).loss, *pair)
    expected, expected_gradients = value_and_gradients(vxm.losses.NCC(win=window).loss, *pair)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close(found, wanted, 1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ncc_is_the_same_formula(shape, voxelmorph_in_float64):
    pair = images(shape, np.float64)
    value, gradients = value_and_gradients(LocalNCC().loss, *pair)
    expected, expected_gradients = value_and_gradients(vxm.losses.NCC().loss, *pair)
    np.testing.assert_allclose(value, expected, rtol=1e-11)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close(found, wanted, 1e-9)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ncc_in_float32_is_within_rounding_of_the_exact_one(shape, voxelmorph_in_float64):
    value, gradients = value_and_gradients(LocalNCC().loss, *images(shape, np.float32))
    exact, exact_gradients = value_and_gradients(vxm.losses.NCC().loss, *images(shape, np.float64))
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    for found, wanted in zip(gradients, exact_gradients, strict=True):
        assert_close(found, wanted, 1e-5)


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6)])
def test_grad_is_the_mean_over_voxels_components_and_axes(shape):
    """Of the linear field u(x) = A x it is the sum of the squares of A over nd²."""
    nd = len(shape)
    matrices = np.random.default_rng(0).normal(size=(2, nd, nd))  # two pairs in a batch
    points = np.moveaxis(np.indices(shape), 0, -1)
    fields = np.stack([points @ matrix.T for matrix in matrices]).astype(np.float32)
    expected = (matrices**2).sum(axis=(1, 2)) / nd**2
    found = vxm.losses.Grad("l2").loss(None, tf.constant(fields))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
