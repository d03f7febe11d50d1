"""Mirror images lie where anatomy puts them: about x = 0, on every grid, whatever its affine."""

import nibabel as nib
import numpy as np
import pytest

from vxmlib import axes, cohorts, metrics
from vxmlib.sources import template, vxm2018

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([1.3, 0.9, 2.0]), [-40.0, -50.0, -60.0]
)
#: Shape and affine: the project's grids, left-handed ones, and one that is turned and stretched.
GRIDS = {
    "3D, 1 mm": template.grid(1.0),
    "3D, 2 mm": template.grid(2.0),
    "the authors' (2018)": (vxm2018.SHAPE, vxm2018.affine()),
    "LAS, anisotropic": (
        (90, 70, 60),
        nib.affines.from_matvec(np.diag([-2.0, 2.5, 3.0]), [88.5, -90, -80]),
    ),
    "oblique": ((80, 120, 70), OBLIQUE),
}


def head(points):
    """An image of a head that is symmetric about x = 0: (..., 3) RAS mm -> intensity."""
    x, y, z = np.moveaxis(points, -1, 0)
    skull = (x / 60) ** 2 + ((y + 10) / 75) ** 2 + ((z - 5) / 60) ** 2
    eyes = sum(np.exp(-((x - s) ** 2 + (y - 40) ** 2 + z**2) / 200) for s in (25, -25))
    return np.exp(-(skull**2)) + eyes


def spot(points, centre):
    return np.exp(-((points - centre) ** 2).sum(axis=-1) / 100)


def points_of(shape, affine):
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def inside(points, shape, affine):
    """Voxels whose mirror image lies on the grid."""
    index = nib.affines.apply_affine(np.linalg.inv(affine), points * [-1, 1, 1])
    return ((index >= 0) & (index <= np.array(shape) - 1)).all(axis=-1)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_symmetric_head_is_its_own_mirror_image(grid):
    shape, affine = grid
    points = points_of(shape, affine)
    image, seen = head(points), inside(points, shape, affine)
    assert seen.mean() > 0.4
    assert np.abs(axes.mirror(image, affine) - image)[seen].max() < 0.02


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_spot_on_the_right_lands_at_the_same_distance_on_the_left(grid):
    shape, affine = grid
    points = points_of(shape, affine)
    right, left = (spot(points, (side * 22.0, -15.0, 10.0)) for side in (1, -1))
    assert np.abs(axes.mirror(right, affine) - left).max() < 0.05
    assert np.abs(right - left).max() > 0.9


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_a_coronal_slice_is_mirrored_as_the_volume_is(spacing):
    shape, affine = template.plane(spacing)
    image = spot(points_of(shape, affine), (22.0, template.PLANE_MM, 10.0))
    volume, flat = axes.mirror(image, affine), axes.mirror(image[:, 0], affine)
    np.testing.assert_allclose(flat, volume[:, 0])
    expected = spot(points_of(shape, affine), (-22.0, template.PLANE_MM, 10.0))
    assert np.abs(flat - expected[:, 0]).max() < 0.05


def test_the_reflection_undoes_itself():
    for _, affine in GRIDS.values():
        matrix = axes.mirror_matrix(affine)
        np.testing.assert_allclose(matrix @ matrix, np.eye(4), atol=1e-9)


def test_no_label_is_lost_where_the_midplane_lies_between_two_voxels():
    """At 2 mm index i is reflected to 80.5 - i, between two voxels; each is used exactly once."""
    shape, affine = template.plane(2.0)
    labels = np.tile(np.arange(shape[0], dtype=np.int16)[:, None], (1, shape[2]))
    names = {int(n): f"row {n}" for n in range(1, shape[0])}
    found = axes.mirror_labels(labels, affine, names)[:, 0]
    assert found[2:].tolist() == list(range(79, 1, -1))


def test_labels_change_sides_with_the_image():
    people = cohorts.load("mni", ndim=3, spacing=1.0, people=6)
    subject = people.subjects[0]
    labels = people.labels(subject)
    mirrored = axes.mirror_labels(labels, people.affine, people.structures)
    points = points_of(people.shape, people.affine)
    for label, other in ((17, 53), (53, 17), (16, 16)):
        before, after = points[labels == other].mean(axis=0), points[mirrored == label].mean(axis=0)
        np.testing.assert_allclose(after, before * [-1, 1, 1], atol=0.2)
    again = axes.mirror_labels(mirrored, people.affine, people.structures)
    assert np.array_equal(again[5:-5], labels[5:-5])


@pytest.mark.mirror
@pytest.mark.parametrize(("scan", "least"), [("1000", 0.70), ("1001", 0.75)])
def test_a_real_brain_overlaps_its_mirror_image(scan, least):
    """Reversing the array, which is 3 mm off the midplane, gives 0.47 and 0.50."""
    people = cohorts.load("malf", ndim=3, spacing=2.0)
    labels = people.labels(scan)
    mirrored = axes.mirror_labels(labels, people.affine, people.structures)
    assert metrics.mean_dice(mirrored, labels, people.structures) >= least


@pytest.mark.parametrize("grid", [name for name in GRIDS if name != "oblique"])
def test_reversed_and_rolled_is_the_mirror_image_to_half_a_voxel(grid):
    shape, affine = GRIDS[grid]
    points = points_of(shape, affine)
    axis, roll = axes.reverse_and_roll(affine, shape)
    right = np.array([22.0, -15.0, 10.0])
    moved = np.roll(np.flip(spot(points, right), axis), roll, axis)
    centre = points[moved == moved.max()].mean(axis=0)
    voxel = np.linalg.norm(affine[:3, axis])
    assert np.abs(centre - right * [-1, 1, 1]).max() <= 1.01 * max(voxel, 1.5)
    inside = np.roll(np.flip(head(points), axis), roll, axis)
    plainly = np.flip(head(points), axis)
    truth = axes.mirror(head(points), affine)
    assert np.abs(inside - truth).mean() <= np.abs(plainly - truth).mean()


def test_in_a_slice_it_is_the_same_axis_and_roll():
    affine = GRIDS["LAS, anisotropic"][1]
    assert axes.reverse_and_roll(affine, (90, 60)) == axes.reverse_and_roll(affine, (90, 70, 60))
    assert axes.reverse_and_roll(affine, (90, 70, 60)) == (0, -1)


def test_an_oblique_array_cannot_be_reversed():
    with pytest.raises(ValueError, match="expected a grid with one axis from left to right"):
        axes.reverse_and_roll(OBLIQUE, (80, 120, 70))


def test_a_label_that_the_type_cannot_hold_is_refused():
    sides = {1: "Left X", 1001: "Right X"}
    with pytest.raises(ValueError, match="found type uint8, which cannot hold the mirrored label"):
        axes.mirror_labels(np.array([[1]], np.uint8), np.eye(4), sides)


def test_what_cannot_be_mirrored_is_refused():
    with pytest.raises(ValueError, match="'Left X' has no partner 'Right X'"):
        axes.mirror_labels(np.array([[1]]), np.eye(4), {1: "Left X"})
    with pytest.raises(ValueError, match="expected an invertible 4 x 4 matrix"):
        axes.mirror(np.zeros((4, 4, 4)), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="oblique to the midplane"):
        axes.mirror_matrix(OBLIQUE, ndim=2)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_itk_finds_each_voxel_where_the_affine_puts_it(grid):
    _, affine = grid
    steps, spacing, direction, origin = axes.itk_grid(affine)
    index = np.array([3.0, 5.0, 7.0])
    right, anterior, superior = nib.affines.apply_affine(affine, index)
    found = origin + direction @ (spacing * index)
    np.testing.assert_allclose(found, [-right, -anterior, superior])
    np.testing.assert_allclose(steps, direction * spacing)
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)


def test_the_axes_of_a_plane_keep_their_sense():
    steps, spacing, direction, origin = axes.itk_grid([[0, -2, 5], [3, 0, 6], [0, 0, 1]], ndim=2)
    assert steps.tolist() == [[0, -2], [3, 0]]
    assert spacing.tolist() == [3, 2]
    assert direction.tolist() == [[0, -1], [1, 0]]
    assert origin.tolist() == [5, 6]


def test_a_grid_that_itk_cannot_represent_is_refused():
    sheared = np.eye(4)
    sheared[0, 1] = 0.1
    with pytest.raises(ValueError, match=r"affine: found .* not at right angles"):
        axes.itk_grid(sheared)
    for affine in (np.eye(3), np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match=r"affine: found .* expected an invertible 4 x 4"):
            axes.itk_grid(affine)


def test_labels_without_a_side_or_a_structure_stay_and_may_exceed_the_listed_ones():
    names = {1: "Left X", 2: "Right X"}
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = -1.0
    labels = np.array([[1, 7], [0, 9], [2, 1]], np.uint8)
    found = axes.mirror_labels(labels, affine, names)
    assert found.tolist() == [[1, 2], [0, 9], [2, 7]]
    assert found.dtype == np.uint8


def test_listed_structures_may_be_absent_and_exceed_the_type_of_the_map():
    names = {1: "Left X", 2: "Right X", 2035: "Insula"}
    assert axes.mirror_labels(np.array([[1]], np.uint8), np.eye(4), names).tolist() == [[2]]
