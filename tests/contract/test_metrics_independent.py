"""vxmlib.warp and vxmlib.metrics against voxelmorph, SimpleITK and a plain recomputation."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, map_coordinates

from vxmlib import metrics, warp
from vxmlib.backend import tf, vxm

SHAPES = [(40, 32), (24, 20, 28)]


def smooth_field(shape, *, size, seed=0, sigma=3):
    rng = np.random.default_rng(seed)
    parts = [gaussian_filter(rng.normal(size=shape), sigma, mode="nearest") for _ in shape]
    field = np.stack(parts, axis=-1)
    return (size * field / np.abs(field).max()).astype(np.float32)


def blobs(shape, *, labels=6, seed=0):
    """A label map of smooth regions, with small and large ones."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    edges = np.quantile(noise, np.linspace(0, 1, labels + 2)[1:-1] ** 2)
    return np.digitize(noise, edges).astype(np.int16)


def spatial_transformer(array, field, method):
    layer = vxm.layers.SpatialTransformer(interp_method=method)
    moved = layer([array[None, ..., None].astype(np.float32), field[None]])
    return moved.numpy()[0, ..., 0]


def to_sitk_field(field, spacing):
    """The field in mm as SimpleITK wants it: x is our first axis, vectors in mm along the axes."""
    axes = tuple(range(field.ndim - 2, -1, -1))
    vectors = (field * np.asarray(spacing)).astype(np.float64).transpose(*axes, field.ndim - 1)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing([float(s) for s in spacing])
    return image


def to_sitk(array, spacing=None):
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing([float(s) for s in spacing or [1.0] * array.ndim])
    return image


# --- warp ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0.4, 3.0, 60.0])
def test_linear_warp_is_voxelmorphs(shape, size):
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    field = smooth_field(shape, size=size)
    expected = spatial_transformer(image, field, "linear")
    np.testing.assert_allclose(warp.warp_image(image, field), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0.4, 3.0, 60.0])
def test_nearest_warp_is_voxelmorphs(shape, size):
    labels = blobs(shape)
    field = smooth_field(shape, size=size)
    expected = spatial_transformer(labels, field, "nearest")
    np.testing.assert_array_equal(warp.warp_labels(labels, field), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_rounds_exact_halves_like_voxelmorph(shape):
    labels = np.arange(np.prod(shape)).reshape(shape) % 1999
    steps = np.random.default_rng(0).integers(-7, 8, (*shape, len(shape)))
    field = (steps / 2).astype(np.float32)
    expected = spatial_transformer(labels, field, "nearest")
    np.testing.assert_array_equal(warp.warp_labels(labels, field), expected)


def test_nearest_adds_up_in_single_precision_like_voxelmorph():
    labels = np.repeat(np.arange(300)[:, None], 2, axis=1)
    field = np.zeros((300, 2, 2), np.float32)
    field[..., 0] = np.float32(0.4999999)
    expected = spatial_transformer(labels, field, "nearest")
    np.testing.assert_array_equal(warp.warp_labels(labels, field), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_warp_is_scipys(shape):
    image = np.random.default_rng(1).random(shape)
    field = smooth_field(shape, size=4.0)
    places = np.moveaxis(field, -1, 0).astype(float) + np.indices(shape)
    expected = map_coordinates(image, places, order=1, mode="nearest")
    np.testing.assert_allclose(warp.warp_image(image, field), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_composition_is_that_of_voxelmorph(shape):
    first, second = smooth_field(shape, size=2.0, seed=1), smooth_field(shape, size=2.0, seed=2)
    expected = vxm.utils.compose([tf.constant(first), tf.constant(second)]).numpy()
    np.testing.assert_allclose(warp.compose(first, second), expected, atol=2e-5)


def test_inverse_is_simpleitks():
    field = smooth_field((40, 32), size=2.5, sigma=5)
    options = {"maximumNumberOfIterations": 50, "maxErrorToleranceThreshold": 1e-4}
    inverted = sitk.InvertDisplacementField(to_sitk_field(field, (1, 1)), **options)
    expected = sitk.GetArrayFromImage(inverted).transpose(1, 0, 2)
    inside = (slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(warp.inverse(field)[inside], expected[inside], atol=0.02)


# --- Jacobian -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*SHAPES, (9, 5), (6, 7, 3)])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_determinant_is_voxelmorphs_border_included(shape, size):
    field = smooth_field(shape, size=size, sigma=1)
    expected = vxm.py.utils.jacobian_determinant(field)
    determinant = metrics.jacobian_determinant(field)
    np.testing.assert_allclose(determinant, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    if size == 30.0:
        assert metrics.folding(field).count == np.sum(expected <= 0) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_determinant_is_simpleitks_on_the_interior(shape):
    spacing = (1.0, 1.5, 2.0)[: len(shape)]  # in mm or in voxels: the determinant is the same
    field = smooth_field(shape, size=4.0, sigma=2)
    theirs = sitk.DisplacementFieldJacobianDeterminant(to_sitk_field(field, spacing))
    expected = sitk.GetArrayFromImage(theirs).T
    inside = tuple(slice(1, -1) for _ in shape)  # SimpleITK has another rule at the border
    determinant = metrics.jacobian_determinant(field)
    np.testing.assert_allclose(determinant[inside], expected[inside], atol=1e-5)


# --- overlap and surfaces -----------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_dice_is_voxelmorphs(shape):
    a, b = blobs(shape, seed=1), blobs(shape, seed=2)
    labels = [1, 2, 3, 4, 5, 6, 77]
    overlaps = metrics.dice(a, b, labels, absent="zero")
    np.testing.assert_allclose(list(overlaps.values()), vxm.py.utils.dice(a, b, labels), rtol=1e-12)
    by_default = list(metrics.dice(a, b).values())
    np.testing.assert_allclose(by_default, vxm.py.utils.dice(a, b), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_dice_is_simpleitks(shape):
    a, b = blobs(shape, seed=1), blobs(shape, seed=2)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(to_sitk(a), to_sitk(b))
    for label, value in metrics.dice(a, b).items():
        assert value == pytest.approx(overlap.GetDiceCoefficient(int(label)), rel=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.25, 3.0)])
def test_hausdorff_of_separate_masks_is_simpleitks(spacing):
    """SimpleITK measures from filled masks; from the surface it is the same when they are apart."""
    a, b = np.zeros((2, 30, 30, 30), bool)
    a[3:9, 4:12, 5:10] = b[15:24, 14:19, 17:29] = True
    distance = sitk.HausdorffDistanceImageFilter()
    distance.Execute(to_sitk(a.astype(np.uint8), spacing), to_sitk(b.astype(np.uint8), spacing))
    ours = metrics.surface_distance(a, b, spacing=spacing, percentile=100)
    assert ours == pytest.approx(distance.GetHausdorffDistance(), rel=1e-6)


@pytest.mark.parametrize("percentile", [50, 95, 100])
def test_surface_distance_is_that_of_all_pairs_of_points(percentile):
    """Brute force over overlapping blobs, with the surface found by looking at neighbours."""
    spacing = np.array([1.0, 2.5])
    a, b = (blobs((26, 22), seed=seed) == 1 for seed in (1, 2))

    def surface(mask):
        padded = np.pad(mask, 1)
        sides = [np.roll(padded, step, axis)[1:-1, 1:-1] for axis in (0, 1) for step in (1, -1)]
        return np.argwhere(mask & ~np.logical_and.reduce(sides)) * spacing

    lengths = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    directed = [np.percentile(lengths.min(axis=axis), percentile) for axis in (0, 1)]
    ours = metrics.surface_distance(a, b, spacing=spacing, percentile=percentile)
    assert ours == pytest.approx(max(directed)) and ours > 0


# --- local correlation --------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [5, 9])
@pytest.mark.parametrize("contrast", [1.0, 0.002])  # the second so low that eps counts
def test_local_ncc_is_minus_voxelmorphs_loss(shape, window, contrast):
    a, b = contrast * np.random.default_rng(0).random((2, *shape))
    b = 0.5 * a + 0.5 * b
    batched = [tf.constant(x[None, ..., None], tf.float32) for x in (a, b)]
    loss = vxm.losses.NCC(win=window).loss(*batched).numpy()[0]
    assert metrics.local_ncc(a, b, window) == pytest.approx(-loss, rel=1e-4)
