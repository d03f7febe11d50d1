"""Every guard returns what fits and names argument, value and expectation of what does not."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest

from vxmlib import checks

# --- numbers and choices ------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_become_ints(value):
    answer = checks.check_whole("steps", value)
    assert answer == 3 and type(answer) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 1.0, np.float32(1), "1", None, [1]])
def test_what_is_no_whole_number_is_refused(value):
    message = f"steps: found {value!r}, expected a whole number of at least 0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.check_whole("steps", value)


def test_both_bounds_of_a_whole_number_are_inclusive():
    assert checks.check_whole("steps", 2, least=2) == 2
    assert checks.check_whole("steps", 5, least=2, most=5) == 5
    with pytest.raises(
        ValueError, match=r"^steps: found 1, expected a whole number of at least 2$"
    ):
        checks.check_whole("steps", 1, least=2)
    for outside in (1, 6):
        message = f"^steps: found {outside}, expected a whole number from 2 to 5$"
        with pytest.raises(ValueError, match=message):
            checks.check_whole("steps", outside, least=2, most=5)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int16(2), Fraction(4, 2)])
def test_numbers_become_floats(value):
    answer = checks.check_number("lam", value)
    assert answer == 2 and type(answer) is float


@pytest.mark.parametrize(
    "value", [True, math.nan, math.inf, -math.inf, np.float32(np.nan), 1j, "1", None]
)
def test_what_is_no_finite_number_is_refused(value):
    message = f"lam: found {value!r}, expected a finite number"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.check_number("lam", value)


def test_least_and_most_are_inclusive_and_above_is_not():
    assert checks.check_number("lam", 0, least=0) == 0
    assert checks.check_number("lam", 100, above=0, most=100) == 100
    refused = [
        (-0.5, {"least": 0}, "of at least 0"),
        (0, {"above": 0}, "above 0"),
        (1.5, {"most": 1}, "of at most 1"),
        (0, {"above": 0, "most": 100}, "above 0 and of at most 100"),
    ]
    for value, limits, wanted in refused:
        message = f"^lam: found {value}, expected a finite number {wanted}$"
        with pytest.raises(ValueError, match=message):
            checks.check_number("lam", value, **limits)


def test_the_choice_that_equals_the_value_is_returned():
    assert checks.check_choice("loss", "ncc", ("ncc", "mse")) == "ncc"
    assert type(checks.check_choice("ndim", np.int64(2), (2, 3))) is int
    assert type(checks.check_choice("spacing", 1, (1.0, 2.0))) is float
    assert checks.check_choice("flip", False, (True, False)) is False


@pytest.mark.parametrize(
    ("value", "choices"),
    [("nc", ("ncc", "mse")), (True, (1, 2)), (1.0, (1, 2)), (True, (1.0, 2.0)), (1, (True, False))],
)
def test_other_choices_are_refused(value, choices):
    expected = ", ".join(map(str, choices))
    message = f"option: found {value!r}, expected one of: {expected}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.check_choice("option", value, choices)


# --- arrays -------------------------------------------------------------------------------

SLICE = np.zeros((4, 5, 2), np.float32)


def test_a_good_affine_comes_back_as_float64():
    answer = checks.check_affine([[2, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert answer.dtype == np.float64
    np.testing.assert_array_equal(answer, [[2, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "affine",
    [np.eye(3), np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan), np.diag([1, np.inf, 1, 1])],
)
def test_other_affines_are_refused(affine):
    message = f"^grid: found {re.escape(str(affine.tolist()))}, expected an invertible 4 x 4"
    with pytest.raises(ValueError, match=message):
        checks.check_affine(affine, name="grid")


def test_a_good_displacement_comes_back_as_floats():
    assert checks.check_displacement(SLICE, shape=(4, 5)) is SLICE
    assert checks.check_displacement(np.ones((4, 5, 6, 3), int)).dtype == np.float32


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (SLICE[None], r"\(\*vol, nd\).* found \(1, 4, 5, 2\).*batch axis"),
        (np.zeros((4, 5, 3)), "one component"),
        (np.zeros((4, 5)), "one component"),
        (np.zeros((2, 3, 2)), r"grid \(2, 3\), expected \(4, 5\).*half-resolution"),
        (np.where(SLICE.cumsum().reshape(SLICE.shape) < 0, 0, np.nan), "NaN or infinite"),
        (SLICE - np.inf, "NaN or infinite"),
        (SLICE + np.inf, "NaN or infinite"),
        (SLICE.astype(complex), "real numbers, found dtype complex"),
    ],
)
def test_other_displacements_are_refused(field, message):
    with pytest.raises(ValueError, match=f"^u: .*{message}"):
        checks.check_displacement(field, shape=(4, 5), name="u")


def test_good_labels_come_back_and_booleans_become_0_and_1():
    labels = np.array([[0, 3], [7, 7]], np.int16)
    assert checks.check_labels(labels, shape=(2, 2), least=0, most=7) is labels
    mask = checks.check_labels(np.array([True, False]))
    assert mask.dtype == np.uint8 and mask.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((16, 32), np.float32), "integer label map, found dtype float32"),
        (np.full((16, 32), -1), "found label -1, expected 0"),
        (np.full((16, 32), 8), "found label 8, expected at most 7"),
        (np.zeros((16, 16), int), r"grid \(16, 16\), expected \(16, 32\)"),
    ],
)
def test_other_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"^a_map: .*{message}"):
        checks.check_labels(labels, shape=(16, 32), name="a_map", least=0, most=7)


GOOD = np.random.default_rng(4).random((16, 32)).astype(np.float32)


def with_one_voxel(value):
    image = GOOD.copy()
    image[3, 5] = value
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GOOD[None, ..., None], r"shape \(1, 16, 32, 1\).*batch and channel"),
        (GOOD.astype(str), "array of numbers"),
        (GOOD[1:], r"\(15, 32\) does not fit.*makes it \(16, 32\)"),
        (with_one_voxel(np.nan), "1 of 512 voxels are NaN or infinite"),
        (with_one_voxel(np.inf), "1 of 512 voxels are NaN or infinite"),
        (np.full((16, 16), 0.5), "every voxel is 0.5"),
        (with_one_voxel(-0.1), r"from -0\.1 to .*expected \[0, 1\].*normalise"),
        (with_one_voxel(1.01), r"to 1\.01, expected \[0, 1\]"),
        (with_one_voxel(700), r"to 700, expected \[0, 1\]"),
        (0.049 * (GOOD > 0.5), r"from 0 to 0\.049, expected to span"),
    ],
)
def test_other_images_are_refused(image, message):
    with pytest.raises(ValueError, match=f"^a_scan: .*{message}"):
        checks.check_image(image, name="a_scan")


def test_a_good_image_comes_back_unchanged():
    assert checks.check_image(GOOD) is GOOD
    faint = 0.051 * (GOOD > 0.5)
    assert checks.check_image(faint) is faint


def test_an_image_has_to_lie_on_the_models_grid():
    assert (
        checks.check_image_on_grid(GOOD.astype(np.float64), name="a", shape=[16, 32]).dtype == "f4"
    )
    with pytest.raises(ValueError, match=r"^a has shape \(16, 32\), expected the grid \(32, 32\)"):
        checks.check_image_on_grid(GOOD, name="a", shape=(32, 32))


def test_a_pair_has_one_shape_and_its_bad_image_is_named():
    with pytest.raises(ValueError, match=r"moving has shape \(16, 32\) and fixed has shape \(16,"):
        checks.check_pair(GOOD, GOOD[:, :16])
    with pytest.raises(ValueError, match=r"^fixed: every voxel is 0"):
        checks.check_pair(GOOD, np.zeros_like(GOOD))
    moving, fixed = checks.check_pair(GOOD, GOOD * 0.5)
    assert moving is GOOD
    assert fixed.max() <= 0.5


def test_a_copy_of_an_image_is_the_same_image():
    with pytest.raises(ValueError, match=r"^moving and fixed are the same image"):
        checks.check_pair(GOOD, GOOD.copy())


def test_a_mask_is_boolean_on_the_grid_and_holds_something():
    assert checks.check_mask(None, (4, 5)) is None
    assert checks.check_mask(np.eye(4, 5) > 0, (4, 5)).sum() == 4
    for mask, message in [
        (np.eye(4, 5), "found dtype float64, expected bool"),
        (np.eye(5, 4) > 0, r"found grid \(5, 4\), expected \(4, 5\)"),
        (np.zeros((4, 5), bool), "found no voxel that is True, expected at least one"),
    ]:
        with pytest.raises(ValueError, match=f"^mask: {message}"):
            checks.check_mask(mask, (4, 5))


def test_the_fitting_shape_is_the_next_multiple_of_16():
    assert checks.fitting_shape((1, 16, 17)) == (16, 16, 32)
