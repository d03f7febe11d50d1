"""Closed forms and properties of vxmlib.warp."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from vxmlib import warp

SHAPES = [(12, 9), (11, 8, 10)]


def constant(shape, vector):
    return np.broadcast_to(np.asarray(vector, np.float32), (*shape, len(shape))).copy()


def smooth(shape, *, size, seed=0, sigma=4):
    """A smooth random field with a largest component of `size` voxels."""
    rng = np.random.default_rng(seed)
    parts = [gaussian_filter(rng.normal(size=shape), sigma, mode="nearest") for _ in shape]
    field = np.stack(parts, axis=-1)
    return (size * field / np.abs(field).max()).astype(np.float32)


def shifted(array, steps):
    """What a warp by whole voxels has to give: slicing, with the edge repeated."""
    index = [
        np.clip(np.arange(n) + step, 0, n - 1) for n, step in zip(array.shape, steps, strict=True)
    ]
    return array[np.ix_(*index)]


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_warp_is_bit_equal(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    labels = np.random.default_rng(1).integers(-3, 2000, shape).astype(np.int16)
    nothing = warp.identity(shape)
    assert nothing.dtype == np.float32
    assert warp.warp_image(image, nothing).tobytes() == image.tobytes()
    assert warp.warp_labels(labels, nothing).tobytes() == labels.tobytes()


@pytest.mark.parametrize(
    ("shape", "steps"), [((12, 9), (2, -3)), ((11, 8, 10), (-4, 1, 2)), ((20, 5), (17, -4))]
)
def test_integer_shift_is_slicing(shape, steps):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    labels = np.random.default_rng(1).integers(0, 99, shape)
    field = constant(shape, steps)
    np.testing.assert_array_equal(warp.warp_image(image, field), shifted(image, steps))
    np.testing.assert_array_equal(warp.warp_labels(labels, field), shifted(labels, steps))


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_image_is_interpolated_exactly(shape):
    slope = np.arange(1.0, len(shape) + 1)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    field = constant(shape, np.linspace(-0.7, 0.6, len(shape)))
    inside = tuple(slice(1, n - 1) for n in shape)
    warped = warp.warp_image((grid @ slope).astype(np.float64), field)
    np.testing.assert_allclose(warped[inside], ((grid + field) @ slope)[inside], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_image_agrees_with_scipy_regular_grid_interpolator(shape):
    image = np.random.default_rng(0).random(shape)
    field = smooth(shape, size=5.0, sigma=2)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) + field
    clamped = np.clip(places, 0, np.array(shape) - 1)
    expected = RegularGridInterpolator([np.arange(n) for n in shape], image)(clamped)
    np.testing.assert_allclose(warp.warp_image(image, field), expected, atol=1e-12)


def test_slabs_leave_no_seam(monkeypatch):
    """A grid of more rows than a slab, against the same field one row at a time."""
    shape = (25, 6)
    monkeypatch.setattr(warp, "_SLAB", 8 * shape[1])
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    labels = np.random.default_rng(0).integers(0, 50, shape)
    field = smooth(shape, size=4.0)
    places = np.arange(shape[0])[:, None] + field[..., 0]
    columns = np.arange(shape[1]) + field[..., 1]
    nearest_row = np.clip(np.rint(places), 0, shape[0] - 1).astype(int)
    nearest_column = np.clip(np.rint(columns), 0, shape[1] - 1).astype(int)
    expected = labels[nearest_row, nearest_column]
    np.testing.assert_array_equal(warp.warp_labels(labels, field), expected)
    flat = warp.warp_image(image, field)
    for row in range(shape[0]):
        alone = np.zeros_like(field)
        alone[row] = field[row]
        np.testing.assert_array_equal(warp.warp_image(image, alone)[row], flat[row])


def test_an_error_in_one_slab_is_not_lost(monkeypatch):
    monkeypatch.setattr(warp, "_SLAB", 1)

    def work(rows):
        if rows.start == 3:
            raise RuntimeError("row three")

    with pytest.raises(RuntimeError, match="row three"):
        warp.each_slab((6, 2), work)


def test_halves_go_to_the_even_voxel():
    labels = np.arange(6).reshape(6, 1) * np.ones((1, 2), int)
    halves = constant((6, 2), (0.5, 0.0))
    assert warp.warp_labels(labels, halves)[:, 0].tolist() == [0, 2, 2, 4, 4, 5]


def test_positions_are_added_up_in_single_precision():
    """225 + 0.4999999 is 225.5 in float32, which goes to 226 and not to 225."""
    labels = np.arange(300).reshape(300, 1) * np.ones((1, 2), int)
    almost = constant((300, 2), (0.4999999, 0.0))
    assert warp.warp_labels(labels, almost)[[225, 1], 0].tolist() == [226, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, bool])
def test_labels_keep_their_type(dtype):
    labels = (np.arange(20).reshape(4, 5) % 2).astype(dtype)
    warped = warp.warp_labels(labels, constant((4, 5), (0.4, 1.2)))
    assert warped.dtype == dtype


def test_a_far_displacement_takes_the_edge():
    image = np.arange(20.0, dtype=np.float32).reshape(4, 5)
    far = constant((4, 5), (1e20, -1e20))
    np.testing.assert_array_equal(warp.warp_image(image, far), np.full((4, 5), 15.0))
    np.testing.assert_array_equal(warp.warp_labels(image.astype(int), far), np.full((4, 5), 15))


def test_an_integer_image_comes_back_as_floats():
    image = np.array([[0, 1], [2, 3]], np.int16)
    warped = warp.warp_image(image, constant((2, 2), (0.0, 0.5)))
    assert warped.dtype == np.float32
    np.testing.assert_allclose(warped, [[0.5, 1.0], [2.5, 3.0]])


@settings(deadline=None)  # the machine may be busy
@given(
    labels=arrays(np.int16, (5, 6), elements=st.integers(-5, 3000)),
    field=arrays(np.float32, (5, 6, 2), elements=st.floats(-20, 20, width=32)),
)
def test_nearest_keeps_the_label_set(labels, field):
    assert set(warp.warp_labels(labels, field).ravel()) <= set(labels.ravel())


@settings(deadline=None)  # the machine may be busy
@given(field=arrays(np.float32, (5, 6, 2), elements=st.floats(-20, 20, width=32)))
def test_linear_stays_within_the_image_range(field):
    image = np.random.default_rng(0).random((5, 6), dtype=np.float32)
    warped = warp.warp_image(image, field)
    assert image.min() - 1e-6 <= warped.min() and warped.max() <= image.max() + 1e-6


def test_compose_adds_translations_and_warps_in_order():
    shape = (10, 12)
    first, second = constant(shape, (1, -2)), constant(shape, (3, 1))
    np.testing.assert_array_equal(warp.compose(first, second), constant(shape, (4, -1)))
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    bump = np.rint(smooth(shape, size=3.0, sigma=1))  # whole voxels: no interpolation error
    twice = warp.warp_image(warp.warp_image(image, bump), second)
    inside = (slice(0, 7), slice(0, 11))  # where x + second(x) is on the grid
    once = warp.warp_image(image, warp.compose(bump, second))
    np.testing.assert_array_equal(once[inside], twice[inside])


def test_compose_of_affine_fields_is_the_matrix_product():
    shape, centre = (16, 16), 7.5
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - centre
    a, b = np.array([[1.05, 0.1], [-0.05, 0.9]]), np.array([[0.8, -0.1], [0.05, 0.9]])
    joined = warp.compose(grid @ (a - np.eye(2)).T, grid @ (b - np.eye(2)).T)
    np.testing.assert_allclose(joined, grid @ (a @ b - np.eye(2)).T, atol=1e-12)


def test_compose_keeps_single_precision_single():
    field = smooth((9, 9), size=1.0)
    assert warp.compose(field, field).dtype == np.float32
    assert warp.compose(field.astype(float), field.astype(float)).dtype == np.float64


@pytest.mark.parametrize("shape", [(48, 40), (28, 30, 26)])
def test_a_field_and_its_inverse_cancel(shape):
    field = smooth(shape, size=3.0, sigma=6)
    backward = warp.inverse(field)
    assert backward.shape == field.shape and backward.dtype == field.dtype
    inside = tuple(slice(5, -5) for _ in shape)
    assert np.abs(field).max() > 2.9
    assert warp.inversion_error(field, backward)[inside].max() < 2e-3
    assert warp.inversion_error(backward, field)[inside].max() < 2e-2  # interpolated inverse


def test_inverse_of_a_scaling():
    grid = np.stack(np.meshgrid(np.arange(21.0), np.arange(21.0), indexing="ij"), axis=-1) - 10
    backward = warp.inverse(0.25 * grid, tolerance=1e-8)
    np.testing.assert_allclose(backward, -0.2 * grid, atol=1e-6)  # 1 / 1.25 = 1 - 0.2


@pytest.mark.parametrize(("scale", "terms"), [(0.97, 51), (0.5, 14)])
def test_inverse_stops_after_50_rounds_or_at_a_thousandth_of_a_voxel(scale, terms):
    """For u = s x the rounds add the terms of -s x + s^2 x - s^3 x + ..., the first before any.

    With s = 0.97 and |x| up to 10 the 51st term is 2.1 voxels: all 50 rounds are done. With
    s = 0.5 the 14th term is 0.0006 voxels and the 13th 0.0012: the 14th is the last.
    """
    grid = np.stack(np.meshgrid(np.arange(21.0), np.arange(21.0), indexing="ij"), axis=-1) - 10
    partial_sum = sum((-scale) ** term for term in range(1, terms + 1))
    np.testing.assert_allclose(warp.inverse(scale * grid), partial_sum * grid, atol=1e-6)


def test_inversion_error_is_a_length():
    field = constant((4, 5), (3.0, 4.0))
    np.testing.assert_allclose(warp.inversion_error(field, warp.identity((4, 5))), 5.0)


def test_inverse_of_a_fold_is_not_trusted():
    field = np.zeros((20, 20, 2), np.float32)
    field[10, :, 0] = -4.0
    backward = warp.inverse(field, iterations=10)
    assert np.isfinite(backward).all()
    assert warp.inversion_error(field, backward).max() > 1.0


@pytest.mark.parametrize("shape", [(4,), (4, 5, 6, 7), (0, 4)])
def test_identity_refuses_other_grids(shape):
    with pytest.raises(ValueError, match="2 or 3 positive sizes"):
        warp.identity(shape)


IMAGE, LABELS = np.zeros((4, 5), np.float32), np.zeros((4, 5), np.int16)


def test_bad_displacements_are_refused():
    for apply, array in ((warp.warp_image, IMAGE), (warp.warp_labels, LABELS)):
        with pytest.raises(ValueError, match=r"displacement: defined on grid \(2, 3\)"):
            apply(array, np.zeros((2, 3, 2)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 5), np.nan), "NaN or infinite"),
        (np.where(np.eye(4, 5) > 0, -np.inf, 0), "NaN or infinite"),
        (np.where(np.eye(4, 5) > 0, np.inf, 0), "NaN or infinite"),
        (np.zeros((4, 5), bool), "warp_labels"),
        (np.full((4, 5), "a"), "real numbers"),
        (np.zeros((5, 4)), "grid"),
    ],
)
def test_bad_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        warp.warp_image(image, warp.identity((4, 5)))


def test_labels_that_are_not_integers_are_refused():
    with pytest.raises(ValueError, match="integer label map, found dtype float64"):
        warp.warp_labels(np.zeros((4, 5)), warp.identity((4, 5)))


def test_one_nan_is_enough():
    field = warp.identity((4, 5))
    field[3, 4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        warp.compose(warp.identity((4, 5)), field)


def test_fields_of_two_grids_do_not_compose():
    with pytest.raises(ValueError, match="first: defined on grid"):
        warp.compose(warp.identity((4, 5)), warp.identity((4, 6)))


def test_arguments_are_not_changed():
    image = np.random.default_rng(0).random((9, 9), dtype=np.float32)
    field = smooth((9, 9), size=2.0)
    for array in (image, field):
        array.flags.writeable = False
    warp.warp_image(image, field)
    warp.warp_labels((image * 9).astype(int), field)
    warp.compose(field, field)
    warp.inverse(field)
