"""A map between scans: closed forms, then the same files read by ANTs and SimpleITK."""

import ants
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vxmlib import nifti
from vxmlib.scans.mapping import CLOSE_MM, Mapping, sample
from vxmlib.scans.outputs import itk_affine

GRID = from_matvec(np.diag([2.0, 2.0, 2.0]), [-40.0, -50.0, -45.0])  # 40 x 50 x 45 voxels


def turned(degrees, sizes, middle, shape):
    """An affine with turned axes, whose middle voxel lies at a position in mm."""
    axes = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(sizes)
    return from_matvec(axes, np.array(middle) - axes @ ((np.array(shape) - 1) / 2))


GRIDS = {
    "straight": ((44, 40, 36), turned([0, 0, 0], [2.0, 2.0, 2.0], [3, -2, 5], (44, 40, 36))),
    "oblique": ((44, 40, 36), turned([10, -20, 30], [2.0, 2.0, 2.0], [15, 5, 5], (44, 40, 36))),
    "anisotropic": ((70, 30, 24), turned([0, 5, 0], [1.2, 2.9, 3.3], [0, 0, 0], (70, 30, 24))),
    "flipped": ((40, 44, 36), turned([0, 0, 0], [-2.0, 1.7, -2.1], [-9, 2, 4], (40, 44, 36))),
}


def smooth(rng, shape, size):
    field = rng.standard_normal((*shape, 3))
    field = ndimage.gaussian_filter(field, (6, 6, 6, 0))
    return (size * field / np.abs(field).max()).astype(np.float32)


@pytest.fixture(scope="module")
def mapping():
    """An affine with a tilt, a shift and a scale, and a smooth displacement of up to 3 voxels."""
    rng = np.random.default_rng(4)
    before = from_matvec(Rotation.from_euler("zx", [7, -4], degrees=True).as_matrix(), [2, -3, 4])
    after = from_matvec(1.05 * np.eye(3), [30, -20, 10])
    return Mapping(before, smooth(rng, (40, 50, 45), 3.0), GRID, after)


def head(shape, affine, place):
    """A lopsided head of smooth detail at a place in mm, and labels of four parts."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    x = apply_affine(np.linalg.inv(place), apply_affine(affine, index))
    inside = (x**2 / np.array([30.0, 40.0, 32.0]) ** 2).sum(axis=-1) < 1
    detail = np.sin(x[..., 0] / 7) + np.cos(x[..., 1] / 6) + np.sin((x[..., 2] + x[..., 0]) / 8)
    labels = 1 + (x[..., 0] > 3).astype(np.int16) + 2 * (x[..., 1] > -6)
    return (inside * (600 + 150 * detail)).astype(np.float32), labels * inside


@pytest.fixture(scope="module")
def moving():
    shape = (50, 46, 42)
    affine = turned([0, 0, 12], [1.9, 2.2, 2.1], [30, -20, 10], shape)
    return *head(shape, affine, from_matvec(np.eye(3), [30, -20, 10])), affine


def test_a_map_without_displacement_is_its_matrices(mapping):
    straight = Mapping(mapping.before, 0 * mapping.displacement, GRID, mapping.after)
    points = np.random.default_rng(0).uniform(-60, 60, (20, 3))
    expected = 1.05 * apply_affine(mapping.before, points) + [30, -20, 10]
    np.testing.assert_allclose(straight(points), expected)
    np.testing.assert_allclose(apply_affine(mapping.linear, points), expected)


def test_a_constant_displacement_shifts_by_its_millimetres():
    shift = np.full((5, 6, 7, 3), [1.0, -2.0, 0.5])
    mapping = Mapping(np.eye(4), shift, np.diag([2.0, 3.0, 4.0, 1.0]), np.eye(4))
    np.testing.assert_allclose(mapping([[3.0, 4.0, 5.0]]), [[5.0, -2.0, 7.0]])


def test_outside_of_its_grid_the_displacement_is_that_of_the_edge(mapping):
    last_and_beyond = apply_affine(GRID, [[39, 20, 20], [60, 20, 20]])
    points = apply_affine(np.linalg.inv(mapping.before), last_and_beyond)
    moves = apply_affine(np.linalg.inv(mapping.after), mapping(points)) - last_and_beyond
    np.testing.assert_allclose(moves[0], moves[1], atol=1e-5)
    assert np.abs(moves[0]).max() > 0.1


def test_a_point_goes_there_and_back(mapping):
    points = np.random.default_rng(1).uniform(-25, 25, (50, 3))
    found, error = mapping.invert_points(mapping(points))
    np.testing.assert_allclose(found, points, atol=CLOSE_MM)
    assert error.max() < CLOSE_MM
    np.testing.assert_allclose(mapping.inverse()(mapping(points)), points, atol=0.1)


@pytest.mark.parametrize(("slope", "converges"), [(2.5, True), (9.0, False)])
def test_the_error_of_a_point_says_whether_the_iteration_converged(slope, converges):
    field = np.zeros((41, 9, 9, 3))
    field[..., 0] = slope * np.clip(np.arange(41) - 20, -5, 5)[:, None, None]
    mapping = Mapping(np.eye(4), field, np.eye(4), np.eye(4))
    found, error = mapping.invert_points(mapping([[21.0, 4.0, 4.0]]))
    assert (error[0] < CLOSE_MM) == converges
    assert (abs(found[0, 0] - 21) < CLOSE_MM) == converges


@pytest.mark.parametrize("name", GRIDS)
def test_a_displacement_on_a_grid_is_the_map_at_its_voxels(mapping, name):
    shape, affine = GRIDS[name]
    field = mapping.on_grid(shape, affine)
    index = np.array([[0, 0, 0], [20, 15, 12], np.array(shape) - 1])
    there = apply_affine(affine, index + field[tuple(index.T)])
    np.testing.assert_allclose(there, mapping(apply_affine(affine, index)), atol=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_ants_and_simpleitk_reproduce_the_warped_scan_and_labels(mapping, moving, name, tmp_path):
    shape, affine = GRIDS[name]
    image, labels, moving_affine = moving
    field = mapping.on_grid(shape, affine)
    ours = sample(image, moving_affine, field, affine)
    ours_labels = sample(labels, moving_affine, field, affine, labels=True)
    fixed, _ = head(shape, affine, from_matvec(np.eye(3), [0, 0, 0]))
    files = {"fixed": fixed, "moving": image, "labels": labels}
    for role, array in files.items():
        nifti.write(
            tmp_path / f"{role}.nii.gz", array, affine if role == "fixed" else moving_affine
        )
    nifti.write_displacement(tmp_path / "warp.nii.gz", field, affine)
    assert len(np.unique(ours_labels)) == 5
    assert np.mean(ours > 0) > 0.05
    assert (ours > 0).any(axis=(1, 2)).sum() < shape[0] or name == "anisotropic"
    for tool in (by_ants, by_simpleitk):
        theirs, their_labels = tool(tmp_path)
        assert np.abs(theirs - ours).max() < 0.01 * image.max()
        assert np.mean(their_labels == ours_labels) >= 0.995


def by_ants(folder):
    read = [
        ants.image_read(str(folder / f"{role}.nii.gz")) for role in ("fixed", "moving", "labels")
    ]
    warp = [str(folder / "warp.nii.gz")]
    image = ants.apply_transforms(read[0], read[1], warp)
    labels = ants.apply_transforms(read[0], read[2], warp, interpolator="nearestNeighbor")
    return image.numpy(), labels.numpy()


def by_simpleitk(folder):
    field = sitk.Cast(sitk.ReadImage(str(folder / "warp.nii.gz")), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    fixed = sitk.ReadImage(str(folder / "fixed.nii.gz"))
    results = []
    for role, how in (("moving", sitk.sitkLinear), ("labels", sitk.sitkNearestNeighbor)):
        image = sitk.ReadImage(str(folder / f"{role}.nii.gz"))
        result = sitk.Resample(image, fixed, transform, how, 0.0)
        results.append(sitk.GetArrayFromImage(result).T)
    return results


def test_ants_moves_landmarks_as_we_do(mapping, tmp_path):
    import pandas as pd

    moving_affine = turned([0, 10, 0], [2.0, 2.0, 2.0], [40, -10, 20], (48, 48, 48))
    points = np.random.default_rng(3).uniform(-15, 15, (12, 3)) + [40, -10, 20]
    ours, _ = mapping.invert_points(points)
    backward = mapping.inverse().on_grid((48, 48, 48), moving_affine)
    nifti.write_displacement(tmp_path / "inverse_warp.nii.gz", backward, moving_affine)
    lps = pd.DataFrame(points * [-1, -1, 1], columns=["x", "y", "z"])
    theirs = ants.apply_transforms_to_points(3, lps, [str(tmp_path / "inverse_warp.nii.gz")])
    theirs = theirs[["x", "y", "z"]].to_numpy() * [-1, -1, 1]
    assert np.linalg.norm(theirs - ours, axis=1).max() < 0.1
    assert np.linalg.norm(ours - points, axis=1).min() > 5  # the wrong direction would be far off


def test_simpleitk_reads_the_affine_part(mapping, tmp_path):
    path = tmp_path / "affine.txt"
    path.write_text(itk_affine(mapping.linear))
    transform = sitk.ReadTransform(str(path))
    ants_transform = ants.read_transform(str(path))
    point = np.array([10.0, -20.0, 30.0])
    ours = apply_affine(mapping.linear, point) * [-1, -1, 1]
    np.testing.assert_allclose(transform.TransformPoint(point * [-1, -1, 1]), ours, atol=1e-9)
    theirs = ants_transform.apply_to_point((point * [-1, -1, 1]).tolist())
    np.testing.assert_allclose(theirs, ours, atol=1e-9)


def test_sampling_outside_of_the_moving_scan_is_zero_beyond_half_a_voxel():
    scan = np.full((3, 3, 3), 7.0)
    for shift, expected in ((0.4, 7.0), (0.6, 0.0)):
        for sign, edge in ((1, 2), (-1, 0)):
            field = np.full((3, 3, 3, 3), [sign * shift, 0, 0])
            assert sample(scan, np.eye(4), field, np.eye(4))[edge, 1, 1] == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"before": np.zeros((4, 4))}, "before"),
        ({"after": np.eye(3)}, "after"),
        ({"displacement": np.zeros((4, 4, 2))}, "displacement"),
        ({"displacement": np.full((4, 4, 4, 3), np.nan)}, "displacement"),
    ],
)
def test_a_map_of_wrong_parts_is_refused(change, named):
    parts = {"before": np.eye(4), "displacement": np.zeros((4, 4, 4, 3)), "affine": np.eye(4)}
    with pytest.raises(ValueError, match=named):
        Mapping(**{**parts, "after": np.eye(4)} | change)
