"""Resampling and normalisation by closed forms."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from vxmlib import preprocess
from vxmlib.sources import template

ORIENTATIONS = [
    "".join(signs[k] for k in order)
    for signs in itertools.product("RL", "AP", "SI")
    for order in itertools.permutations(range(3))
]
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([1.0, 1.5, 2.0]), [10.0, -5.0, 3.0]
)


def stored_as(orientation, array, affine):
    """The same picture in the world, with its axes in another order and direction."""
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(orientation)
    )
    turned = nib.apply_orientation(array, turn)
    return turned, affine @ nib.orientations.inv_ornt_aff(turn, array.shape)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorient_undoes_every_order_and_direction_of_the_axes(orientation):
    array = np.arange(24).reshape(2, 3, 4)
    turned, affine = preprocess.reorient(*stored_as(orientation, array, OBLIQUE))
    np.testing.assert_array_equal(turned, array)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-12)


def test_reorient_refuses_a_series_and_a_broken_affine():
    with pytest.raises(ValueError, match=r"three axes, found shape \(2, 2, 2, 5\)"):
        preprocess.reorient(np.zeros((2, 2, 2, 5)), np.eye(4))
    with pytest.raises(ValueError, match=r"affine: found .* each axis needs a direction"):
        preprocess.reorient(np.zeros((2, 2, 2)), np.diag([1.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize("labels", [False, True])
def test_resampling_by_a_whole_shift_is_slicing(labels):
    array = np.random.default_rng(0).integers(0, 9, (6, 7, 8))
    shifted = nib.affines.from_matvec(np.eye(3), [1.0, 2.0, 3.0])
    found = preprocess.resample(array, np.eye(4), (4, 4, 4), shifted, labels=labels)
    np.testing.assert_array_equal(found, array[1:5, 2:6, 3:7])


@pytest.mark.parametrize("orientation", ["LAS", "PSR", "IRA"])
def test_the_order_of_axes_in_the_file_does_not_matter(orientation):
    array = np.random.default_rng(1).random((9, 8, 7))
    grid = (8, 8, 8), np.diag([1.0, 1.3, 1.7, 1.0])
    straight = preprocess.resample(array, OBLIQUE, *grid)
    turned = preprocess.resample(*stored_as(orientation, array, OBLIQUE), *grid)
    np.testing.assert_allclose(turned, straight, atol=1e-5)


def test_a_linear_image_is_reproduced_exactly_through_affine_and_matrix():
    plane = np.array([0.5, -1.0, 2.0])  # brightness = plane . position in the scan's world
    world = nib.affines.apply_affine(OBLIQUE, np.moveaxis(np.indices((20, 20, 20)), 0, -1))
    matrix = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.0, 0.2), [11.0, 6.0, 20.0])
    grid = np.diag([0.9, 0.9, 0.9, 1.0])
    found = preprocess.resample(world @ plane, OBLIQUE, (6, 6, 6), grid, matrix=matrix)
    there = nib.affines.apply_affine(matrix @ grid, np.moveaxis(np.indices((6, 6, 6)), 0, -1))
    inside = nib.affines.apply_affine(np.linalg.inv(OBLIQUE), there)
    inside = ((inside >= 0) & (inside <= 19)).all(axis=-1)
    assert inside.sum() > 100
    np.testing.assert_allclose(found[inside], (there @ plane)[inside], atol=2e-4)


def test_resampling_agrees_with_simpleitk():
    array = np.random.default_rng(2).random((12, 13, 14)).astype(np.float32)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing((2.0, 2.0, 2.0))
    wanted = sitk.Resample(
        image, (10, 10, 10), sitk.Transform(), sitk.sitkLinear, (2.5, 3.0, 3.5), (1.8, 1.9, 2.0)
    )
    grid = np.diag([1.8, 1.9, 2.0, 1.0])
    grid[:3, 3] = 2.5, 3.0, 3.5
    found = preprocess.resample(array, np.diag([2.0, 2.0, 2.0, 1.0]), (10, 10, 10), grid)
    expected = sitk.GetArrayFromImage(wanted).transpose(2, 1, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_larger_voxels_are_smoothed_before_they_are_sampled():
    stripes = np.zeros((64, 8, 8), np.float32)
    stripes[::2] = 1  # finer than the new grid can show: mean 0.5
    coarse = np.diag([4.0, 1.0, 1.0, 1.0])
    found = preprocess.resample(stripes, np.eye(4), (16, 8, 8), coarse)
    np.testing.assert_allclose(found[2:-2], 0.5, atol=0.02)
    assert preprocess.resample(stripes, np.eye(4), (16, 8, 8), coarse, labels=True).all()
    on_its_side = preprocess.resample(*stored_as("ASR", stripes, np.eye(4)), (16, 8, 8), coarse)
    np.testing.assert_allclose(on_its_side, found, atol=1e-6)


@pytest.mark.parametrize("labels", [False, True])
def test_outside_of_the_image_is_0_and_its_border_voxels_are_whole(labels):
    array = np.full((4, 4, 4), 8)
    grid = nib.affines.from_matvec(np.eye(3), [-3.4, 0, 0])  # voxel k lies at k - 3.4
    found = preprocess.resample(array, np.eye(4), (12, 4, 4), grid, labels=labels)
    expected = [0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 0]
    if not labels:  # linear, as if a 0 followed
        expected = [0, 0, 0, 4.8, 8, 8, 8, 3.2, 0, 0, 0, 0]
    np.testing.assert_allclose(found[:, 2, 2], expected, atol=1e-5)


def test_the_background_stays_0_and_the_brain_keeps_its_size():
    brain = np.zeros((64, 64, 64), np.float32)
    brain[16:48, 16:48, 16:48] = 1
    coarse = nib.affines.from_matvec(np.eye(3) * 2, [0.5, 0.5, 0.5])
    blurred = preprocess.resample(brain, np.eye(4), (32, 32, 32), coarse)
    assert (blurred > 0).sum() > 16**3
    kept = preprocess.resample(brain, np.eye(4), (32, 32, 32), coarse, keep_background=True)
    assert (kept > 0).sum() == 16**3
    np.testing.assert_array_equal(kept[kept > 0], blurred[kept > 0])


@pytest.mark.parametrize("background", [0.0, -5.0])
@pytest.mark.parametrize(("part", "kept"), [(0.49, False), (0.5, True), (0.6, True)])
def test_a_voxel_that_is_mostly_background_is_exactly_0(background, part, kept):
    """The middle one of three new voxels holds the brain, 10, to the given part."""
    image = np.array([background] * 3 + [10.0] * 3).reshape(6, 1, 1)
    grid = nib.affines.from_matvec(np.eye(3), [1 + part, 0, 0])
    sampled = preprocess.resample(image, np.eye(4), (3, 1, 1), grid, keep_background=True)
    expected = [0, (1 - part) * background + part * 10 if kept else 0, 10]
    np.testing.assert_allclose(sampled.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize(("width", "kept"), [(1, False), (3, True)])
def test_the_background_is_judged_on_the_smoothed_brain(width, kept):
    """Voxels of 3 are smoothed by a Gaussian of deviation 1; at its middle one voxel weighs 0.4."""
    image = np.zeros((21, 1, 1))
    image[10 - width // 2 : 11 + width // 2] = 1
    grid = nib.affines.from_matvec(np.diag([3.0, 1.0, 1.0]), [1.0, 0, 0])
    sampled = preprocess.resample(image, np.eye(4), (7, 1, 1), grid, keep_background=True)
    assert (sampled[3] > 0) == kept
    assert not sampled[[0, 1, 5, 6]].any()


def test_labels_keep_their_set_and_type():
    array = np.random.default_rng(3).choice(np.array([0, 3, 42, 1035], np.int16), (9, 9, 9))
    found = preprocess.resample(array, OBLIQUE, (16, 16, 16), np.eye(4), labels=True)
    assert found.dtype == np.int16
    assert set(np.unique(found)) <= {0, 3, 42, 1035}


def test_resample_to_template_puts_a_world_position_where_the_grid_says():
    point = np.zeros((5, 5, 5), np.int16)
    point[2, 2, 2] = 7
    affine = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), np.array([20.5, -30.5, 10.5]) - 4)
    found = template.resample_to_template(point, affine, spacing=2.0, labels=True)
    shape, grid = template.grid(2.0)
    assert found.shape == shape
    where = np.argwhere(found == 7).mean(0)
    np.testing.assert_allclose(nib.affines.apply_affine(grid, where), [20.5, -30.5, 10.5], atol=1)


def test_normalise_uses_the_brain_alone_and_cuts_off_the_rest():
    image = np.zeros((10, 10))
    image[2:8, 2:8] = 50
    image[2, 2] = 1000  # a vessel; 1 of 36 brain voxels, 1 of 100 of all
    found = preprocess.normalise(image, percentile=95)
    assert found.dtype == np.float32
    assert found.max() == 1
    assert np.median(found[image == 50]) == 1
    assert (found[image == 0] == 0).all()


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), -1.0)])
def test_normalise_refuses_an_image_without_a_brain(bad):
    with pytest.raises(ValueError, match="no voxel is above 0"):
        preprocess.normalise(bad)


def test_normalise_refuses_nan_and_a_wrong_percentile():
    with pytest.raises(ValueError, match="1 of 2 voxels are NaN"):
        preprocess.normalise(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="percentile: found 0, expected a finite number above 0"):
        preprocess.normalise(np.array([1.0, 2.0]), percentile=0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.data())
def test_crop_or_pad_keeps_the_middle_and_can_be_undone_where_it_padded(old, data):
    new = [data.draw(st.integers(1, 40)) for _ in old]
    array = np.arange(1, np.prod(old) + 1).reshape(old)
    found, offset = preprocess.crop_or_pad(array, new)
    assert found.shape == tuple(new)
    back, undone = preprocess.crop_or_pad(found, old)
    np.testing.assert_array_equal(undone, -offset)
    middle = tuple(np.array(found.shape) // 2)
    source = tuple(middle + offset)
    if all(0 <= k < n for k, n in zip(source, old, strict=True)):
        assert found[middle] == array[source]
    smaller = np.minimum(old, new)
    kept = back > 0
    assert kept.sum() == np.prod(smaller)
    np.testing.assert_array_equal(back[kept], array[kept])


def test_crop_or_pad_by_default_makes_sides_fit_and_wants_a_size_for_each_axis():
    assert preprocess.crop_or_pad(np.ones((17, 16, 1)))[0].shape == (32, 16, 16)
    with pytest.raises(ValueError, match="expected 2 numbers"):
        preprocess.crop_or_pad(np.ones((4, 4)), (4, 4, 4))
