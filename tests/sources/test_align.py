"""Alignment: the matrix convention by closed forms, a known pose recovered, the stored 35."""

import json

import ants
import nibabel as nib
import numpy as np
import pytest

from vxmlib import nifti, preprocess
from vxmlib.sources import align, malf, simulate, template

POSE = nib.affines.from_matvec(  # template RAS mm -> scanner RAS mm
    nib.eulerangles.euler2mat(0.15, -0.1, 0.05) @ np.diag([0.9, 0.95, 0.88]), [12.0, -20.0, 31.0]
)


@pytest.fixture(scope="module")
def posed():
    """A simulated head that lies in a scanner under POSE: image and affine."""
    brightness, _ = simulate.anatomy(3, 2.0)
    affine = nib.affines.from_matvec(np.diag([-3.0, 3.0, 3.0]), [100.0, -140.0, -70.0])
    world = preprocess.resample(
        1000 * brightness, template.grid(2.0)[1], (64, 72, 64), affine, matrix=np.linalg.inv(POSE)
    )
    return world, affine


def test_a_matrix_of_itk_becomes_one_on_ras():
    turn = ants.create_ants_transform(
        transform_type="AffineTransform",
        matrix=nib.eulerangles.euler2mat(0.2, 0.3, -0.1) * 1.1,
        translation=(3.0, -4.0, 5.0),
        center=(10.0, 20.0, -30.0),
    )
    point = np.array([7.0, -8.0, 9.0])  # RAS
    itk = np.array(ants.apply_ants_transform_to_point(turn, (-7.0, 8.0, 9.0)))
    found = align.ras_matrix(turn.parameters, turn.fixed_parameters)
    np.testing.assert_allclose(nib.affines.apply_affine(found, point), itk * [-1, -1, 1], atol=1e-5)


def test_ants_is_told_where_the_voxels_are():
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([-1.0, 1.5, 2.0]), [5.0, 6.0, 7.0]
    )
    image = align._ants_image(np.zeros((4, 5, 6), np.float32), affine)
    assert image.spacing == pytest.approx((1.0, 1.5, 2.0))
    corner = ants.transform_index_to_physical_point(image, [1, 2, 3])
    expected = nib.affines.apply_affine(affine, [1, 2, 3]) * [-1, -1, 1]
    np.testing.assert_allclose(corner, expected, atol=1e-5)


def test_a_known_pose_is_recovered(posed):
    found = align.affine_to_template(*posed, spacing=4.0)
    error = align.displacement_between(found, POSE)
    assert error.mean() < 1.0
    assert np.linalg.det(found[:3, :3]) == pytest.approx(np.linalg.det(POSE[:3, :3]), rel=0.03)
    measured = align.quality(*posed, found)
    assert measured["after"]["mask_dice"] > 0.95 > measured["before"]["mask_dice"]
    assert measured["after"]["correlation"] > 0.8 > measured["before"]["correlation"]


@pytest.mark.parametrize("degrees", [0, 45])
def test_simpleitk_recovers_a_known_pose_even_of_a_turned_head(posed, degrees):
    image, affine = posed
    turn = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0, np.deg2rad(degrees), 0), [30.0, 0.0, -40.0]
    )
    found = align.affine_by_simpleitk(image, turn @ affine)
    assert align.displacement_between(found, turn @ POSE).mean() < 0.5
    again = align.affine_by_simpleitk(image, turn @ affine)
    np.testing.assert_array_equal(found, again)


@pytest.mark.mirror
@pytest.mark.parametrize("scan", ["1003", "1018"])
def test_simpleitk_agrees_with_ants_on_real_scans(scan):
    image, affine = nifti.read_image(malf.scan_path(scan))
    apart = align.displacement_between(
        align.affine_by_simpleitk(image, affine), malf.matrices()[scan]
    )
    assert apart.mean() < 0.7 and apart.max() < 1.5


def test_centring_puts_the_centres_of_mass_on_each_other(posed):
    matrix = align.centring(*posed)
    centred = template.resample_to_template(*posed, matrix, spacing=2.0)
    brain = template.resample_to_template(*nifti.read_image(template.brain_path()), spacing=2.0)
    grid = template.grid(2.0)[1]
    centres = [
        np.average(np.argwhere(x > 0), axis=0, weights=x[x > 0]) @ grid[:3, :3]
        for x in (centred, brain)
    ]
    np.testing.assert_allclose(centres[0], centres[1], atol=0.5)


def test_coarser_voxels_keep_the_field_of_view(posed):
    image, affine = align._coarsened(*posed, 6.0)
    assert image.shape == (32, 36, 32)
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    ends = [-0.5] * 3, np.array(image.shape) - 0.5
    corners = (nib.affines.apply_affine(affine, end) for end in ends)
    _, fine = preprocess.reorient(*posed)
    for corner, end in zip(corners, ([-0.5] * 3, np.array([64, 72, 64]) - 0.5), strict=True):
        np.testing.assert_allclose(corner, nib.affines.apply_affine(fine, end), atol=1e-9)
    before, after = (align._centre_of_mass(*one) for one in (posed, (image, affine)))
    np.testing.assert_allclose(before, after, atol=0.3)
    same, _ = align._coarsened(*posed, 2.0)
    assert same.shape == posed[0].shape


@pytest.fixture
def counted(monkeypatch):
    """Stand in for the minute that one scan takes; collects who was asked for."""
    asked = []
    entry = {
        "matrix": np.eye(4).tolist(),
        "determinant": 1.0,
        "before": {"mask_dice": 0.8, "correlation": 0.5},
        "after": {"mask_dice": 0.9, "correlation": 0.6},
        "seconds": 60.0,
    }
    monkeypatch.setattr(align, "_align_scan", lambda scan: asked.append(scan) or entry)
    return asked


def test_an_interrupted_run_goes_on_where_it_was(counted, tmp_path, capsys):
    path = tmp_path / "affines.json"
    assert align.main(["malf", "--scans", "1003", "1000", "--output", str(path)]) == 0
    assert align.main(["malf", "--scans", "1000", "1001", "--output", str(path)]) == 0
    assert counted == ["1003", "1000", "1001"]
    assert list(json.loads(path.read_text())["scans"]) == ["1000", "1001", "1003"]
    assert [p.name for p in tmp_path.iterdir()] == ["affines.json"]
    assert "[1/2] 1000: stored already" in capsys.readouterr().out
    assert align.main(["malf", "--check", "--output", str(path)]) == 0
    assert "1003: brain Dice 0.800 -> 0.900" in capsys.readouterr().out


def test_matrices_of_another_method_are_not_mixed(counted, tmp_path):
    path = tmp_path / "affines.json"
    align.align_malf(path, scans=["1000"], say=lambda text: None)
    stored = json.loads(path.read_text())
    stored["method"]["seed"] = 2
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="another method"):
        align.align_malf(path, scans=["1001"])
    assert counted == ["1000"]


def test_the_35_stored_matrices_are_sane():
    stored = json.loads(malf.AFFINES_FILE.read_text())
    assert set(stored["scans"]) == set(malf.SCANS)
    for scan, entry in stored["scans"].items():
        matrix = np.array(entry["matrix"])
        stretch = np.linalg.svd(matrix[:3, :3])[1]
        assert 0.55 < np.linalg.det(matrix) < 1.05, scan  # heads are smaller than the template
        assert 0.75 < stretch.min() < stretch.max() < 1.15, scan
        assert entry["after"]["mask_dice"] > 0.94 > entry["before"]["mask_dice"], scan
        assert entry["after"]["correlation"] > entry["before"]["correlation"] + 0.05, scan


def test_a_person_scanned_twice_has_about_the_same_size():
    for first, again in zip(malf.VALIDATION, malf.REPEATS, strict=True):
        ratio = np.linalg.det(malf.matrices()[first]) / np.linalg.det(malf.matrices()[again])
        assert ratio == pytest.approx(1, abs=0.06)


@pytest.mark.mirror
@pytest.mark.parametrize("scan", ["1000", "1019", "1113"])
def test_a_real_scan_lies_on_the_template(scan):
    image, affine = nifti.read_image(malf.scan_path(scan))
    measured = align.quality(image, affine, malf.matrices()[scan])
    assert measured["after"]["mask_dice"] > 0.94
    entry = json.loads(malf.AFFINES_FILE.read_text())["scans"][scan]
    assert entry["after"]["mask_dice"] == pytest.approx(measured["after"]["mask_dice"], abs=1e-3)
