"""Closed forms and properties of vxmlib.metrics."""

import dataclasses
import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vxmlib import metrics, warp

# --- Dice ---------------------------------------------------------------------------------


def box(shape, start, size, value=1):
    labels = np.zeros(shape, np.int16)
    labels[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = value
    return labels


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0)])
def test_dice_of_shifted_boxes(shift, expected):
    a = box((12, 10, 9), (2, 2, 2), (4, 5, 6), value=17)
    b = box((12, 10, 9), (2 + shift, 2, 2), (4, 5, 6), value=17)
    assert metrics.dice(a, b) == {17: pytest.approx(expected)}


def test_dice_of_boxes_of_two_sizes():
    a, b = box((10, 10), (0, 0), (4, 4)), box((10, 10), (0, 0), (2, 4))
    assert metrics.dice(a, b)[1] == pytest.approx(2 * 8 / (16 + 8))


def test_labels_by_default_are_those_in_either_map_without_background():
    a, b = np.array([[0, 5, 3]]), np.array([[0, 5, 9]])
    assert metrics.dice(a, b) == {3: 0.0, 5: 1.0, 9: 0.0}
    assert list(metrics.dice(a, b, labels=[9, 5])) == [9, 5]
    assert metrics.dice(a, b, labels=[0]) == {0: 1.0}


@pytest.mark.parametrize(("rule", "expected"), [("zero", 0.0), ("one", 1.0), ("nan", np.nan)])
def test_absent_in_both_follows_the_rule(rule, expected):
    a = np.array([1, 1, 2])
    overlap = metrics.dice(a, a, labels=[1, 99], absent=rule)
    assert overlap == {1: 1.0, 99: pytest.approx(expected, nan_ok=True)}


def test_absent_in_both_is_skipped_by_default():
    a = np.array([1, 1, 2])
    assert metrics.dice(a, a, labels=[1, 99]) == {1: 1.0}


@pytest.mark.parametrize("rule", metrics.ABSENT_RULES)
def test_absent_in_one_is_zero_whatever_the_rule(rule):
    a, b = np.array([1, 2]), np.array([1, 1])
    assert metrics.dice(a, b, labels=[2], absent=rule) == {2: 0.0}


def test_mean_dice_by_each_rule():
    a, b = np.array([1, 1, 2, 2]), np.array([1, 1, 2, 0])
    two_thirds = 2 * 1 / (2 + 1)
    asked = {"labels": [1, 2, 50]}
    assert metrics.mean_dice(a, b, **asked) == pytest.approx((1 + two_thirds) / 2)
    assert metrics.mean_dice(a, b, **asked, absent="nan") == pytest.approx((1 + two_thirds) / 2)
    assert metrics.mean_dice(a, b, **asked, absent="zero") == pytest.approx((1 + two_thirds) / 3)
    assert metrics.mean_dice(a, b, **asked, absent="one") == pytest.approx((2 + two_thirds) / 3)
    assert np.isnan(metrics.mean_dice(a, b, labels=[50]))


def test_dice_is_over_every_chunk():
    shape = (3, metrics._CHUNK // 2)  # more voxels than are counted at a time
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, shape), rng.integers(0, 4, shape)
    for label, value in metrics.dice(a, b).items():
        both = np.sum((a == label) & (b == label))
        assert value == pytest.approx(2 * both / (np.sum(a == label) + np.sum(b == label)))


@pytest.mark.parametrize("far", [614_454_277, -(2**31) + 7, 2**62])
def test_dice_of_far_apart_numbers(far):
    """Label numbers of some atlases run into the hundred millions."""
    a, b = np.array([1, far, far, 0, 8]), np.array([1, far, 0, 0, 9])
    assert metrics.dice(a, b) == {
        8: 0.0,
        9: 0.0,
        1: 1.0,
        far: pytest.approx(2 / 3),
    }
    assert metrics.dice(a, b, labels=[7], absent="zero") == {7: 0.0}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int64, np.uint64])
def test_dice_of_every_integer_type(dtype):
    a = np.array([0, 100, 100, 127], dtype)
    assert metrics.dice(a, a) == {100: 1.0, 127: 1.0}
    assert metrics.dice(a, a.astype(np.int32), labels=[127, 300]) == {127: 1.0}


def test_dice_of_masks():
    a, b = np.array([True, True, False]), np.array([True, False, False])
    assert metrics.dice(a, b) == {1: pytest.approx(2 / 3)}


label_maps = arrays(np.int16, (4, 5), elements=st.integers(-2, 6))


@settings(deadline=None)  # the machine may be busy
@given(a=label_maps, b=label_maps)
def test_dice_is_symmetric_and_between_0_and_1(a, b):
    forth, back = metrics.dice(a, b), metrics.dice(b, a)
    assert forth == back
    assert all(0 <= value <= 1 for value in forth.values())


@settings(deadline=None)  # the machine may be busy
@given(a=label_maps, seed=st.integers(0, 99))
def test_dice_does_not_care_how_labels_are_numbered(a, seed):
    b = np.random.default_rng(seed).permutation(a.ravel()).reshape(a.shape)
    renumbered = metrics.dice(a * 3 + 100, b * 3 + 100)
    expected = metrics.dice(a, b, labels=sorted(set(a.ravel().tolist())))
    assert renumbered == {3 * label + 100: value for label, value in expected.items()}


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), int), {}, "a: expected an integer label map"),
        (np.zeros((2, 2), int), np.zeros((2, 2)), {}, "b: expected an integer label map"),
        (np.zeros((2, 2), int), np.zeros((2, 3), int), {}, r"b: found grid \(2, 3\)"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), {"absent": "drop"}, "absent: found 'drop'"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), {"labels": [2.5]}, "whole numbers"),
    ],
)
def test_dice_refuses(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.dice(a, b, **options)


# --- surfaces -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "spacing", "expected"),
    [
        ((3, 0, 0), (1.0, 1.0, 1.0), 3.0),
        ((2, 0, 0), (2.5, 1.0, 1.0), 5.0),
        ((0, 0, 2), (2.5, 1.0, 0.5), 1.0),
        ((0, 0, 0), (1.0, 2.0, 3.0), 0.0),
        ((12, 0, 0), (1.5, 1.0, 1.0), 18.0),
    ],
)
def test_hausdorff_of_shifted_cubes(shift, spacing, expected):
    """A face of one cube is `shift` from the same face of the other, and no voxel is farther."""
    a = box((30, 16, 16), (3, 3, 3), (8, 8, 8)) > 0
    b = np.roll(a, shift, axis=(0, 1, 2))
    distance = metrics.surface_distance(a, b, spacing=spacing, percentile=100)
    assert distance == pytest.approx(expected)


def test_distance_of_two_points_is_euclidean_in_mm():
    a, b = box((9, 9), (1, 1), (1, 1)), box((9, 9), (4, 5), (1, 1))
    assert metrics.surface_distance(a, b, spacing=2.0) == pytest.approx(10.0)
    assert metrics.surface_distance(a, b, spacing=(1.0, 0.5)) == pytest.approx(np.hypot(3, 2))


def test_the_larger_direction_counts():
    a = box((30, 3), (0, 1), (1, 1))
    b = a + box((30, 3), (20, 1), (1, 1))
    assert metrics.surface_distance(a, b, spacing=1.0, percentile=100) == 20.0
    assert metrics.surface_distance(b, a, spacing=1.0, percentile=100) == 20.0


def test_the_percentile_leaves_out_the_tail():
    a = box((3, 60), (1, 0), (1, 40))
    b = a.copy()
    b[1, 59] = 1  # one voxel of 41 is 20 away: beyond the 95th percentile, not the 100th
    assert metrics.surface_distance(a, b, spacing=1.0) == 0.0
    assert metrics.surface_distance(a, b, spacing=1.0, percentile=100) == 20.0


def test_the_percentile_by_default_is_the_95th():
    line, start = box((3, 101), (1, 0), (1, 101)), box((3, 101), (1, 0), (1, 1))
    # The line's voxels are 0, 1, ..., 100 voxels from its start: the q-th percentile is q.
    assert metrics.surface_distance(line, start, spacing=1.0) == 95.0


def test_the_inside_of_a_mask_is_not_surface():
    solid = box((9, 9), (1, 1), (7, 7)) > 0
    hollow = solid & ~(box((9, 9), (2, 2), (5, 5)) > 0)
    assert metrics.surface_distance(solid, hollow, spacing=1.0, percentile=100) == 0.0


def test_a_diagonal_neighbour_outside_makes_no_surface():
    a = box((9, 9), (1, 1), (7, 7)) - box((9, 9), (1, 1), (3, 3))
    inner_corner = box((9, 9), (4, 4), (1, 1))
    nearest = metrics.surface_distance(a, inner_corner, spacing=1.0, percentile=0)
    assert nearest == 1.0  # not 0: its four face neighbours are all inside


def test_the_border_of_the_image_is_surface():
    full = np.ones((7, 7), bool)
    inner = box((7, 7), (1, 1), (5, 5)) > 0
    assert metrics.surface_distance(full, inner, spacing=1.0, percentile=100) == pytest.approx(
        np.sqrt(2)
    )


@pytest.mark.parametrize("which", ["a", "b", "both"])
def test_no_surface_no_distance(which):
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    a = empty if which != "b" else full
    b = empty if which != "a" else full
    assert np.isnan(metrics.surface_distance(a, b, spacing=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": 0.0}, "spacing"),
        ({"spacing": (1.0, np.nan)}, "spacing"),
        ({"spacing": 1.0, "percentile": 101}, "percentile"),
    ],
)
def test_surface_distance_refuses(options, message):
    mask = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match=message):
        metrics.surface_distance(mask, mask, **options)


# --- Jacobian -----------------------------------------------------------------------------


def affine_field(matrix, shape, shift=0.0):
    """The displacement x -> A x + shift - x; its determinant is det A everywhere."""
    matrix = np.asarray(matrix, float)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return grid @ (matrix - np.eye(len(shape))).T + shift


TURN = np.deg2rad(30)
MATRICES = {
    "identity 2-D": np.eye(2),
    "scaling 2-D": np.diag([2.0, 0.5]),
    "shear 2-D": [[1, 0.7], [0, 1]],
    "rotation 2-D": [[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]],
    "swap of axes 2-D": [[0, 1], [1, 0]],
    "reflection 2-D": np.diag([-1.0, 1.0]),
    "collapse 2-D": np.diag([0.0, 1.0]),
    "general 2-D": [[1.1, -0.2], [0.3, 0.8]],
    "identity 3-D": np.eye(3),
    "scaling 3-D": np.diag([2.0, 0.5, 1.5]),
    "cyclic permutation 3-D": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "swap of axes 3-D": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    "other swap 3-D": [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
    "reflection 3-D": np.diag([1.0, -1.0, 1.0]),
    "general 3-D": [[1.1, -0.2, 0.3], [0.4, 0.9, -0.1], [-0.3, 0.2, 1.2]],
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_determinant_of_an_affine_field_is_det_a(matrix, dtype):
    shape = (11, 7, 6)[: len(matrix)]
    field = affine_field(matrix, shape, shift=3.0).astype(dtype)
    determinant = metrics.jacobian_determinant(field)
    assert determinant.shape == shape and determinant.dtype == np.float32
    np.testing.assert_allclose(determinant, np.linalg.det(matrix), atol=3e-6)


def test_determinant_of_a_quadratic_field():
    """u = x^2 / 10 along the first axis: central differences give 1 + x / 5 exactly."""
    x = np.arange(10.0)
    field = np.zeros((10, 4, 2))
    field[..., 0] = (x**2 / 10)[:, None]
    expected = 1 + x / 5
    expected[0], expected[-1] = 1 + 0.1, 1 + (81 - 64) / 10  # one-sided at the border
    determinant = metrics.jacobian_determinant(field)
    np.testing.assert_allclose(determinant, np.tile(expected[:, None], (1, 4)), rtol=1e-6)


@pytest.mark.parametrize("rows", [2, 3, *range(4, 14)])
def test_slabs_leave_no_seam_in_the_determinant(rows, monkeypatch):
    """Slabs of four rows, against one pass of numpy.gradient over the whole field."""
    monkeypatch.setattr(warp, "_SLAB", 4 * 5)
    field = np.random.default_rng(rows).normal(size=(rows, 5, 2))
    (a, b), (c, d) = (np.gradient(field[..., i]) for i in range(2))
    expected = (1 + a) * (1 + d) - b * c
    np.testing.assert_allclose(metrics.jacobian_determinant(field), expected, rtol=1e-5, atol=1e-6)


def test_a_long_shift_costs_no_precision():
    field = affine_field(np.diag([1.2, 0.9, 1.0]), (9, 9, 9), shift=500.0).astype(np.float32)
    np.testing.assert_allclose(metrics.jacobian_determinant(field), 1.08, atol=2e-4)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (np.zeros((1, 5, 2)), "at least 2 voxels"),
        (np.zeros((4, 5, 3)), "expected shape"),
        (np.full((4, 5, 2), np.inf), "NaN or infinite"),
    ],
)
def test_jacobian_refuses(field, message):
    for measure in (
        metrics.jacobian_determinant,
        metrics.folding,
        metrics.digital_folding,
        metrics.sd_log_jacobian,
    ):
        with pytest.raises(ValueError, match=message):
            measure(field)


def folded_row():
    """10 x 10 grid; row 6 jumps back, so that the central differences fold row 5 (10 voxels)."""
    field = np.zeros((10, 10, 2), np.float32)
    field[6:, :, 0] = -4.0
    return field


def test_folding_by_three_denominators():
    field = folded_row()
    determinant = metrics.jacobian_determinant(field)
    assert sorted(set(determinant.ravel().tolist())) == [-1.0, 1.0]  # 1 + (-4 - 0) / 2 = -1
    brain = np.zeros((10, 10), bool)
    brain[4:8, 2:7] = True  # 20 voxels, 10 of them in rows 5 and 6, which both fold
    assert metrics.folding(field) == (20, 20.0, None)
    assert metrics.folding(field, brain) == (20, 20.0, 50.0)
    assert metrics.folding(field, brain).percent_in_mask == 50.0


def test_a_determinant_of_exactly_zero_is_folded():
    collapse = affine_field(np.diag([0.0, 1.0]), (5, 4))
    assert metrics.folding(collapse).count == 20
    assert metrics.folding(affine_field(np.diag([1e-3, 1.0]), (5, 4))).count == 0


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_digital_folding_of_an_affine_field_is_all_or_nothing(matrix):
    field = affine_field(matrix, (6, 5, 4)[: len(matrix)], shift=3.0)
    every = 0.0 if np.linalg.det(matrix) > 1e-9 else 100.0
    assert metrics.digital_folding(field).percent == every
    assert metrics.folding(field).percent == every


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
@pytest.mark.parametrize(("height", "folds"), [(0.49, False), (0.5, True), (0.6, True)])
def test_a_checkerboard_folds_everywhere_and_central_differences_do_not_see_it(
    shape, height, folds
):
    """u = ±height along the first axis: one side of each voxel has det 1 - 2 height."""
    field = np.zeros((*shape, len(shape)))
    field[..., 0] = height * (-1.0) ** np.indices(shape).sum(axis=0)
    inside = np.pad(np.ones([n - 2 for n in shape], bool), 1)
    np.testing.assert_allclose(metrics.jacobian_determinant(field)[inside], 1)
    assert metrics.folding(field, inside).percent_in_mask == 0
    assert metrics.digital_folding(field, inside).percent_in_mask == 100 * folds


@pytest.mark.parametrize(("degrees", "folded"), [(89, 0), (91, 46)])
def test_a_twist_folds_tetrahedra_inside_cubes_that_no_one_sided_difference_sees(degrees, folded):
    """Slices turned by an angle against each other: det 1 at each corner of a cube, for any angle.

    The tetrahedron inside the cube has a diagonal of its lower face and the other diagonal of its
    upper face as edges; it is flat when they become parallel, at 90 degrees.
    """
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(grid, -1, 0)
    angle = np.deg2rad(degrees) * z
    turned = [np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, z]
    field = np.stack(turned, axis=-1) - grid
    # A cube's tetrahedra belong to its first and its last corner: 27 + 27 voxels, 8 of them twice.
    assert metrics.digital_folding(field).count == folded
    middle = metrics.jacobian_determinant(field)[:, :, 1:-1]
    assert (middle > 0).all()


def folded_by_hand(field):
    """Which voxels own a triangle or tetrahedron of grid points that is not the right way round.

    Cell by cell with the points' new positions: the right-angled corner owns its triangle or
    tetrahedron, and the first and the last corner of a cube own the two inside it.
    """
    nd = field.shape[-1]
    grid = field.shape[:-1]
    position = np.stack(np.indices(grid), axis=-1) + field
    folded = np.zeros(grid, bool)
    corners = list(itertools.product((0, 1), repeat=nd))
    for cell in np.ndindex(*(n - 1 for n in grid)):
        simplices = []
        for corner in corners:
            neighbours = [
                tuple(c ^ (axis == k) for k, c in enumerate(corner)) for axis in range(nd)
            ]
            simplices.append((corner, *neighbours))
        if nd == 3:
            simplices.append(((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1)))
            simplices.append(((1, 1, 1), (0, 0, 1), (1, 0, 0), (0, 1, 0)))
        for simplex in simplices:
            start = np.array([np.add(cell, corner) for corner in simplex])
            end = np.array([position[tuple(point)] for point in start])
            before, after = (np.linalg.det(points[1:] - points[0]) for points in (start, end))
            folded[tuple(start[0])] |= after * np.sign(before) <= 0
    return folded


@pytest.mark.parametrize("shape", [(7, 6), (5, 4, 3), (2, 2), (2, 2, 2)])
@pytest.mark.parametrize("size", [0.2, 0.35, 0.6])
def test_digital_folding_agrees_with_every_triangle_and_tetrahedron(shape, size):
    random = np.random.default_rng(int(100 * size))
    field = size * random.normal(size=(*shape, len(shape)))
    expected = folded_by_hand(field)
    mask = random.random(shape) < 0.7
    found = metrics.digital_folding(field, mask)
    central = metrics.jacobian_determinant(field) <= 0
    assert not (central & ~expected).any()  # the mean of what is positive is positive
    assert found.count == expected.sum()
    assert found.percent == pytest.approx(100 * expected.mean())
    assert found.percent_in_mask == pytest.approx(100 * expected[mask].mean())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((10, 10)), "expected bool"),
        (np.ones((10, 9), bool), "found grid"),
        (np.zeros((10, 10), bool), "no voxel"),
    ],
)
def test_masks_are_checked(mask, message):
    field = folded_row()
    image = np.zeros((10, 10))
    for measure in (
        lambda: metrics.folding(field, mask),
        lambda: metrics.digital_folding(field, mask),
        lambda: metrics.sd_log_jacobian(field, mask),
        lambda: metrics.endpoint_error(field, field, mask),
        lambda: metrics.inverse_consistency(field, field, mask),
        lambda: metrics.local_ncc(image, image, mask=mask),
    ):
        with pytest.raises(ValueError, match=message):
            measure()


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_sd_log_jacobian_of_a_uniform_scaling_is_zero(scale):
    field = affine_field(scale * np.eye(3), (6, 7, 8))
    assert metrics.sd_log_jacobian(field) == pytest.approx(0.0, abs=1e-6)


def two_halves(left, right):
    """Scaled by `left` along the second axis in half of the rows and by `right` in the other."""
    field = np.zeros((8, 6, 2))
    column = np.arange(6.0)
    field[:4, :, 1], field[4:, :, 1] = (left - 1) * column, (right - 1) * column
    return field


def test_sd_log_jacobian_of_two_halves():
    """Half of the voxels at det 2, half at det 1/2: logs +-ln 2, so SD ln 2."""
    assert metrics.sd_log_jacobian(two_halves(2.0, 0.5)) == pytest.approx(np.log(2), rel=1e-6)
    upper = np.zeros((8, 6), bool)
    upper[:4] = True
    assert metrics.sd_log_jacobian(two_halves(2.0, 0.5), upper) == pytest.approx(0.0, abs=1e-6)


def test_what_becomes_of_folds_in_sd_log_jacobian_is_named():
    folded = two_halves(2.0, -1.0)
    assert metrics.sd_log_jacobian(folded) == pytest.approx(0.0, abs=1e-6)  # half of it unseen
    floored = metrics.sd_log_jacobian(folded, nonpositive="floor", floor=0.5)
    assert floored == pytest.approx(np.log(2), rel=1e-6)
    default_floor = metrics.sd_log_jacobian(folded, nonpositive="floor")
    assert default_floor == pytest.approx((np.log(2) - np.log(1e-9)) / 2, rel=1e-6)
    assert np.isnan(metrics.sd_log_jacobian(two_halves(-1.0, -1.0)))


def test_sd_log_jacobian_takes_lists():
    upper = np.repeat([True, False], 4)[:, None] & np.ones(6, bool)
    field = two_halves(2.0, 0.5)
    assert metrics.sd_log_jacobian(field.tolist()) == pytest.approx(np.log(2), rel=1e-6)
    assert metrics.sd_log_jacobian(field.tolist(), upper) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"nonpositive": "ignore"}, "ignore"), ({"nonpositive": "floor", "floor": 0}, "floor")],
)
def test_sd_log_jacobian_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.sd_log_jacobian(folded_row(), **options)


# --- similarity and distance of fields ----------------------------------------------------

IMAGE = np.random.default_rng(3).random((20, 18))
CORE = np.pad(np.ones((12, 10), bool), 4)  # windows that hold no zeros from beyond the border


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (IMAGE, 1.0),
        (0.3 * IMAGE + 0.6, 1.0),
        (1 - IMAGE, 0.0),  # negative covariance counts as none
        (np.full_like(IMAGE, 0.5), 0.0),
    ],
    ids=["identical", "other gain and offset", "inverted", "constant"],
)
def test_local_ncc_closed_forms(other, expected):
    assert metrics.local_ncc(IMAGE, other, mask=CORE) == pytest.approx(expected, abs=1e-4)


def test_flat_background_scores_one():
    """Why the mask matters: where nothing is, both images agree perfectly."""
    a, b = np.zeros((40, 40)), np.zeros((40, 40))
    a[18:22, 18:22] = np.random.default_rng(0).random((4, 4))
    b[18:22, 18:22] = np.random.default_rng(1).random((4, 4))
    assert metrics.local_ncc(a, b) > 0.85
    assert metrics.local_ncc(a, b, mask=a > 0) < 0.7


def test_local_ncc_of_one_window_by_hand():
    a, b = np.random.default_rng(0).random((2, 3, 3))
    centre = np.zeros((3, 3), bool)
    centre[1, 1] = True
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    score = metrics.local_ncc(a, b, window=3, mask=centre)
    assert score == pytest.approx(max(expected, 0) ** 2, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "window", "message"),
    [
        (IMAGE, IMAGE[:5], 9, "b: found shape"),
        (IMAGE, IMAGE * np.nan, 9, "b: 360 of 360 voxels are NaN"),
        (IMAGE, IMAGE, 4, "odd number"),
        (IMAGE, IMAGE, 0, "odd number"),
    ],
)
def test_local_ncc_refuses(a, b, window, message):
    with pytest.raises(ValueError, match=message):
        metrics.local_ncc(a, b, window)


def test_endpoint_error_arithmetic():
    truth = np.zeros((4, 5, 6, 3), np.float32)
    displaced = truth + np.array([1.0, 2.0, 2.0], np.float32)
    assert metrics.endpoint_error(displaced, truth) == pytest.approx(3.0)
    displaced[0] = 0.0
    part = np.zeros((4, 5, 6), bool)
    part[:2] = True
    assert metrics.endpoint_error(displaced, truth) == pytest.approx(3 * 3 / 4)
    assert metrics.endpoint_error(displaced, truth, part) == pytest.approx(3 / 2)


def test_inverse_consistency_looks_both_ways():
    there, back = np.zeros((9, 9, 2)), np.zeros((9, 9, 2))
    there[..., 0], back[..., 0] = 2.0, -1.5
    assert metrics.inverse_consistency(there, back) == pytest.approx(0.5)
    assert metrics.inverse_consistency(there, -there) == 0.0
    scaled = affine_field(1.5 * np.eye(2), (9, 9))
    forth = warp.inversion_error(scaled, -scaled).mean()
    other = warp.inversion_error(-scaled, scaled).mean()
    assert forth != pytest.approx(other)
    assert metrics.inverse_consistency(scaled, -scaled) == pytest.approx((forth + other) / 2)


# --- what is imported ---------------------------------------------------------------------


def test_measuring_imports_neither_tensorflow_nor_more_of_scipy_than_it_needs():
    code = """if True:
        import sys, scipy.ndimage
        before = set(sys.modules)
        from vxmlib import metrics, records, warp
        from vxmlib.experiments import compare, statistics
        more = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(*sorted(more & {"scipy", "tensorflow", "tf_keras", "nibabel", "matplotlib"}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


# --- the table ----------------------------------------------------------------------------


STRUCTURES = {4: "box", 7: "other box", 9: "never there"}


class TwoBoxes:
    """A cohort of three people who have one or two boxes."""

    structures = STRUCTURES
    spacing = 1.5
    unlabelled = ()

    def labels(self, person):
        labels = box((16, 16), (2, {"a": 2, "b": 4, "c": 2}[person]), (4, 4), value=4)
        return labels if person == "c" else labels + box((16, 16), (10, 8), (4, 4), value=7)

    def image(self, person):
        return (self.labels(person) > 0).astype(np.float32)

    def brain(self, person):
        return self.image(person) > 0


def test_identity_measures_the_overlap_before():
    table = metrics.evaluate_pairs(TwoBoxes(), [("a", "b"), ("a", "c")], "identity")
    assert tuple(table.columns) == metrics.COLUMNS
    assert table[["moving", "fixed", "label", "structure"]].values.tolist() == [
        ["a", "b", 4, "box"],
        ["a", "b", 7, "other box"],
        ["a", "c", 4, "box"],
    ]
    assert table["dice"].tolist() == [0.5, 1.0, 1.0]
    for name in ("folds", "folding_percent", "folding_percent_brain", "seconds"):
        assert (table[name] == 0).all()
    assert table["sd_log_jacobian"].tolist() == [0.0, 0.0, 0.0]


def test_a_method_gets_moving_and_fixed_and_its_field_is_measured():
    cohort, seen = TwoBoxes(), []

    def shift(moving, fixed):
        seen.append((moving, fixed))
        field = np.zeros((16, 16, 2), np.float32)
        field[..., 1] = -2.0
        return field

    table = metrics.evaluate_pairs(cohort, [("a", "b")], shift)
    np.testing.assert_array_equal(seen[0][0], cohort.image("a"))
    np.testing.assert_array_equal(seen[0][1], cohort.image("b"))
    assert table["dice"].tolist() == [1.0, 0.5]
    assert (table["seconds"] > 0).all()


def test_a_structure_the_warp_wipes_out_scores_zero():
    away = np.full((16, 16, 2), [0.0, -30.0], np.float32)
    table = metrics.evaluate_pairs(TwoBoxes(), [("a", "b")], lambda moving, fixed: away)
    assert table["dice"].tolist() == [0.0, 0.0]


def test_folding_columns_are_of_the_fixed_brain():
    field = np.zeros((16, 16, 2), np.float32)
    field[4:, :, 0] = -4.0  # folds rows 3 and 4
    field[8:, :, 1] = np.arange(16)  # twice as wide, but outside the brain
    table = metrics.evaluate_pairs(TwoBoxes(), [("a", "c")], lambda moving, fixed: field)
    row = table.iloc[0]
    assert row["folds"] == 32
    assert row["folding_percent"] == pytest.approx(100 * 32 / 256)
    assert row["folding_percent_brain"] == pytest.approx(50.0)  # rows 2 to 5 of the box
    assert row["sd_log_jacobian"] == 0.0


@pytest.mark.filterwarnings("error")
def test_dice_is_measured_where_both_people_have_labels():
    """Somebody without a label map takes away the Dice of their own pairs alone."""
    cohort = TwoBoxes()
    cohort.unlabelled = ("c",)
    pairs = [("a", "b"), ("c", "a"), ("a", "c")]
    table = metrics.evaluate_pairs(cohort, pairs, "identity", measures=metrics.MEASURES)
    assert table["moving"].tolist() == ["a", "a", "c", "a"]
    assert table["dice"][:2].tolist() == [0.5, 1.0]
    missing = table[["label", "structure", "dice", "surface_mm"]].iloc[2:]
    assert missing.isna().all(axis=None)
    means = metrics.summary(table)
    assert (means["pairs"], means["dice_mean"]) == (3, 0.75)
    assert means["folding_percent_brain"] == 0.0
    assert np.isnan(metrics.summary(table.iloc[2:])["dice_mean"])


def test_an_unlabelled_validation_scan_leaves_the_dice_of_test_pairs(tiny_cohort):
    pairs = [tiny_cohort.split["test"]]
    cohort = dataclasses.replace(tiny_cohort, unlabelled=tiny_cohort.split["validation"])
    table = metrics.evaluate_pairs(cohort, pairs, "identity").drop(columns="seconds")
    labelled = metrics.evaluate_pairs(tiny_cohort, pairs, "identity").drop(columns="seconds")
    pd.testing.assert_frame_equal(table, labelled)
    assert table["dice"].between(0.1, 1.0).all()


def both_ways_by_two(a, b):
    """Displacements of a onto b and back that undo each other, and the seconds of one."""
    right = np.full((16, 16, 2), [0.0, 2.0], np.float32)
    return -right, right, 7.0


def test_a_method_of_both_directions_gives_the_rows_of_both():
    table = metrics.evaluate_pairs(
        TwoBoxes(), [("a", "b")], both_ways_by_two, measures=metrics.MEASURES, both_ways=True
    )
    assert tuple(table.columns) == metrics.COLUMNS + metrics.MEASURES
    assert table[["moving", "fixed", "label"]].values.tolist() == [
        ["a", "b", 4],
        ["a", "b", 7],
        ["b", "a", 4],
        ["b", "a", 7],
    ]
    # Box 4 of b lies two voxels to the right of a's, which is undone; box 7 is moved away.
    assert table["dice"].tolist() == [1.0, 0.5, 1.0, 0.5]
    assert table["surface_mm"].tolist() == [0.0, 3.0, 0.0, 3.0]  # two voxels of 1.5 mm
    assert table["length_mm"].tolist() == [3.0] * 4
    assert table["inverse_consistency_mm"].tolist() == [0.0] * 4
    assert table["digital_folding_percent_brain"].tolist() == [0.0] * 4
    assert table["seconds"].tolist() == [7.0] * 4


def test_the_table_holds_the_digital_folding_of_the_fixed_brain():
    """A checkerboard folds every cell, although central differences see no displacement."""
    parity = np.indices((16, 16)).sum(axis=0) % 2
    board = (0.75 * (1 - 2 * parity)[..., None] * [1.0, 0.0]).astype(np.float32)
    table = metrics.evaluate_pairs(
        TwoBoxes(), [("a", "b")], lambda *_: board, measures=["digital_folding_percent_brain"]
    )
    brain = TwoBoxes().brain("b")
    expected = metrics.digital_folding(board, brain).percent_in_mask
    assert table["digital_folding_percent_brain"].tolist() == [expected] * len(table)
    assert expected > 50 > table["folding_percent_brain"].max()
    assert metrics.summary(table)["digital_folding_percent_brain"] == expected


def test_the_identity_is_its_own_way_back():
    table = metrics.evaluate_pairs(
        TwoBoxes(), [("a", "c")], "identity", measures=["inverse_consistency_mm"], both_ways=True
    )
    assert table["moving"].tolist() == ["a", "c"]
    assert table["inverse_consistency_mm"].tolist() == [0.0, 0.0]


def test_what_is_left_is_measured_in_the_fixed_brain_after_going_forward_first():
    """Doubling the first coordinate and then going back two voxels is no shift by two."""
    cohort, rows = TwoBoxes(), np.arange(16.0)
    doubling, back = np.zeros((16, 16, 2)), np.full((16, 16, 2), [-2.0, 0.0])
    doubling[..., 0] = 0.25 * rows[:, None]
    measured = metrics.measure_displacement(
        cohort, "a", "c", back, reverse=doubling, measures=["inverse_consistency_mm", "length_mm"]
    )
    # The brain of c is rows 2 to 5. From row x to x - 2, and from there by (x - 2) / 4.
    left = np.abs(-2 + 0.25 * (rows[2:6] - 2))
    assert measured["inverse_consistency_mm"] == pytest.approx(1.5 * left.mean())
    assert measured["length_mm"] == pytest.approx(3.0)


def test_structures_may_be_restricted_and_named():
    table = metrics.evaluate_pairs(TwoBoxes(), [("a", "b")], "identity", structures={7: "seven"})
    assert table[["label", "structure", "dice"]].values.tolist() == [[7, "seven", 1.0]]


def test_parcels_give_one_mean():
    parcels = TwoBoxes()
    parcels.labels = lambda person: TwoBoxes().labels(person) + 100
    second = (parcels, {104: "parcel", 107: "other parcel", 109: "never there"})
    table = metrics.evaluate_pairs(
        TwoBoxes(), [("a", "b")], "identity", structures={7: "other box"}, parcels=second
    )
    assert table["dice"].tolist() == [1.0]
    assert table["dice_parcels"].tolist() == [0.75]  # of 0.5 and 1, by the same rule of structures


def test_one_displacement_of_one_pair():
    shift = np.full((16, 16, 2), [0.0, -2.0], np.float32)
    measured = metrics.measure_displacement(TwoBoxes(), "a", "b", shift, measures=["surface_mm"])
    assert measured == {
        "dice": 0.75,
        "folds": 0,
        "folding_percent": 0.0,
        "folding_percent_brain": 0.0,
        "sd_log_jacobian": 0.0,
        "surface_mm": 1.5,
        "structures": {
            4: {"structure": "box", "dice": 1.0, "surface_mm": 0.0},
            7: {"structure": "other box", "dice": 0.5, "surface_mm": 3.0},
        },
    }


@pytest.mark.filterwarnings("error")
def test_a_structure_that_was_wiped_out_has_no_surface():
    away = np.zeros((16, 16, 2), np.float32)
    away[8:, :, 1] = -30.0
    measured = metrics.measure_displacement(TwoBoxes(), "a", "b", away, measures=["surface_mm"])
    assert measured["structures"][7]["dice"] == 0.0
    assert np.isnan(measured["structures"][7]["surface_mm"])
    assert measured["dice"] == 0.25
    assert measured["surface_mm"] == 3.0  # of box 4 alone, which is two voxels of 1.5 mm off


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        (["surface"], "measures: found 'surface', expected one of: surface_mm"),
        (
            ["inverse_consistency_mm"],
            "measures: found inverse_consistency_mm without",
        ),
    ],
)
def test_measures_that_cannot_be_measured_are_refused(measures, message):
    def never(moving, fixed):
        pytest.fail("registered, although the measures are wrong")

    still = np.zeros((16, 16, 2))
    with pytest.raises(ValueError, match=f"^{message}"):
        metrics.evaluate_pairs(TwoBoxes(), [("a", "b")], never, measures=measures)
    with pytest.raises(ValueError, match=message):
        metrics.measure_displacement(TwoBoxes(), "a", "b", still, measures=measures)


@pytest.mark.parametrize(
    ("pairs", "method", "message"),
    [
        ([], "identity", "pairs: found none"),
        ([("a", "b")], "demons", "method: found 'demons'"),
        ([("a", "b")], lambda m, f: np.zeros((8, 8, 2)), "pair a -> b: displacement"),
        ([("a", "b")], lambda m, f: np.full((16, 16, 2), np.nan), "pair a -> b: .*NaN"),
    ],
)
def test_evaluate_pairs_refuses(pairs, method, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate_pairs(TwoBoxes(), pairs, method)


def test_labels_of_a_person_are_named_when_wrong():
    cohort = TwoBoxes()
    cohort.image = TwoBoxes().image
    cohort.brain = TwoBoxes().brain
    cohort.labels = lambda person: np.zeros((16, 16))
    with pytest.raises(ValueError, match="pair a -> b: labels of a: expected an integer"):
        metrics.evaluate_pairs(cohort, [("a", "b")], "identity")


def test_labels_on_another_grid_are_named():
    cohort, whole = TwoBoxes(), TwoBoxes().labels
    cohort.image, cohort.brain = TwoBoxes().image, TwoBoxes().brain
    cohort.labels = lambda person: whole(person)[:8] if person == "b" else whole(person)
    with pytest.raises(ValueError, match=r"pair a -> b: labels of b: found grid \(8, 16\)"):
        metrics.evaluate_pairs(cohort, [("a", "b")], "identity")


def table_of(*rows):
    common = dict.fromkeys(metrics.COLUMNS, 0.0) | {"structure": "s"}
    return pd.DataFrame([common | row for row in rows])


def test_summary_averages_structures_first_and_pairs_after():
    table = table_of(
        {"moving": "a", "fixed": "b", "dice": 0.2, "folds": 6, "seconds": 1.0},
        {"moving": "a", "fixed": "b", "dice": 0.4, "folds": 6, "seconds": 1.0},
        {"moving": "a", "fixed": "b", "dice": 0.6, "folds": 6, "seconds": 1.0},
        {"moving": "b", "fixed": "a", "dice": 0.8, "folds": 0, "seconds": 9.0},
        {"moving": "a", "fixed": "c", "dice": 0.6, "folds": 0, "seconds": 2.0},
    )
    means = SimpleNamespace(**metrics.summary(table))
    assert means.pairs == 3
    assert means.dice_mean == pytest.approx(0.6)  # of 0.4, 0.8, 0.6; the rows' mean is 0.52
    assert means.dice_sd_pairs == pytest.approx(np.std([0.4, 0.8, 0.6]))
    assert means.dice_sd_pooled == pytest.approx(np.std([0.2, 0.4, 0.6, 0.8, 0.6]))
    assert means.folds == pytest.approx(2.0)
    assert means.seconds == 2.0


def test_summary_refuses_other_tables():
    with pytest.raises(ValueError, match="seconds"):
        metrics.summary(table_of({}).drop(columns="seconds"))
    with pytest.raises(ValueError, match="0 rows"):
        metrics.summary(table_of({}).iloc[:0])


def test_measures_may_be_an_iterator():
    cohort = TwoBoxes()
    still = warp.identity(cohort.image("a").shape)
    names = iter(["length_mm"])
    measured = metrics.measure_displacement(cohort, "a", "c", still, measures=names)
    assert measured["length_mm"] == 0
