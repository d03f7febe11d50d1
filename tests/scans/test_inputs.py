"""Files of users: each that cannot be registered is refused with its name and what was expected."""

import gzip
import os

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine, from_matvec

from vxmlib.scans import inputs
from vxmlib.scans.inputs import InputError

AFFINE = from_matvec(np.diag([4.0, 5.0, 4.0]), [-40.0, -60.0, -30.0])
SHAPE = (20, 24, 20)


def ball(shape=SHAPE):
    index = np.indices(shape).reshape(3, -1).T - (np.array(shape) - 1) / 2
    image = np.clip(1.2 - np.linalg.norm(index / (0.4 * np.array(shape)), axis=1), 0, 1)
    return (1000 * image.reshape(shape)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    nib.save(nib.Nifti1Image(ball(), AFFINE), tmp_path / "scan.nii.gz")
    labels = (ball() > 300).astype(np.int16) + (ball() > 600)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), AFFINE), tmp_path / "labels.nii.gz")
    return tmp_path


@pytest.fixture
def scan(folder):
    return inputs.read_scan(folder / "scan.nii.gz")


def save(path, array, affine=AFFINE, kind=nib.Nifti1Image):
    nib.save(kind(array, affine), path)
    return path


def test_a_scan_is_read_as_it_lies_in_its_file(scan):
    np.testing.assert_array_equal(scan.image, ball())
    np.testing.assert_allclose(scan.affine, AFFINE)
    np.testing.assert_allclose(scan.spacing, [4, 5, 4])
    assert scan.notes == []


@pytest.mark.parametrize(
    "name",
    ["two words.nii.gz", "Gehirn-ü-脳.nii", "UPPER.NII.GZ", "free.mgz", "free.mgh", "n2.nii"],
)
def test_kinds_and_names_of_files(tmp_path, name):
    kinds = {"free.mgz": nib.MGHImage, "free.mgh": nib.MGHImage, "n2.nii": nib.Nifti2Image}
    made = save(tmp_path / name.lower(), ball(), kind=kinds.get(name, nib.Nifti1Image))
    scan = inputs.read_scan(made.rename(tmp_path / name))
    np.testing.assert_array_equal(scan.image, ball())
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)


def test_one_volume_with_a_fourth_axis_and_scaled_integers(tmp_path):
    image = nib.Nifti1Image(ball()[..., None], AFFINE, dtype=np.int16)
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, tmp_path / "scaled.nii")
    assert nib.load(tmp_path / "scaled.nii").dataobj.slope == 0.5
    np.testing.assert_allclose(
        inputs.read_scan(tmp_path / "scaled.nii").image, ball() / 2, atol=0.3
    )


def wrong_files(folder):
    """Path of a file that is refused -> words of its error."""
    image = ball()
    text = folder / "text.nii.gz"
    text.write_text("not an image")
    cut = folder / "cut.nii.gz"
    cut.write_bytes((folder / "scan.nii.gz").read_bytes()[:400])
    (folder / "folder.nii.gz").mkdir()
    (folder / "link.nii.gz").symlink_to(folder / "gone.nii.gz")
    nan, full = image.copy(), image + 1
    nan[10, 10, 10] = np.nan
    infinite = image.copy()
    infinite[10, 10, 10] = np.inf
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    flat, thin = AFFINE.copy(), AFFINE.copy()
    flat[:3, 2] = 0
    thin[:3, 2] /= 4
    shear = AFFINE @ [[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    return {
        folder / "missing.nii.gz": "no such file",
        folder / "folder.nii.gz": "found a folder",
        folder / "link.nii.gz": "found a link to .*gone.nii.gz",
        text: "not a readable NIfTI file",
        cut: "not a readable NIfTI file",
        save(folder / "slice.nii", image[:, :, 10:11]): "A slice cannot be registered in 3D",
        save(folder / "thin.nii", image, thin): r"80 x 120 x 20 mm",
        save(folder / "series.nii", np.stack([image] * 2, axis=-1)): "expected one volume",
        save(folder / "colour.nii", colours): "expected one number per voxel",
        save(folder / "complex.nii", image.astype(np.complex64)): "expected one number per voxel",
        save(folder / "constant.nii", 0 * image + 5): "intensities from 5 to 5",
        save(folder / "zeros.nii", 0 * image): "intensities from 0 to 0",
        save(folder / "nan.nii", nan): "NaN or infinite",
        save(folder / "inf.nii", infinite): "NaN or infinite",
        save(folder / "full.nii", full): "0.0 % of the voxels at 0 or below.*skull-stripped",
        save(folder / "nowhere.nii", image, None): "no position of the scan in its header",
        save(folder / "shear.nii", image, shear): "not at right angles",
        save(
            folder / "analyze.img", image, np.diag([4, 5, 4, 1.0]), nib.AnalyzeImage
        ): "no position",
    }


def test_each_wrong_file_is_refused_by_its_name(folder):
    for path, words in wrong_files(folder).items():
        with pytest.raises(InputError, match=words) as error:
            inputs.read_scan(path)
        assert str(path) in str(error.value), path


def test_voxels_without_a_size_are_refused(folder):
    path = folder / "scan.nii"
    nib.save(nib.Nifti1Image(ball(), AFFINE), path)
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)  # the rows of the sform
    path.write_bytes(content)
    with pytest.raises(InputError, match="each axis needs a direction and a length"):
        inputs.read_scan(path)


def test_an_analyze_header_beside_it_may_be_missing(folder):
    path = save(folder / "pair.img", ball(), kind=nib.Nifti1Pair)
    assert inputs.read_scan(path).image.shape == SHAPE
    path.with_suffix(".hdr").unlink()
    with pytest.raises(InputError, match=r"pair\.hdr"):
        inputs.read_scan(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_without_permission_is_refused(folder):
    path = folder / "scan.nii.gz"
    path.chmod(0)
    with pytest.raises(OSError, match=r"scan\.nii\.gz"):
        inputs.read_scan(path)


def test_what_may_be_wrong_is_noted(folder):
    standard = (ball() - ball().mean()) / ball().std()
    assert inputs.read_scan(save(folder / "z.nii", standard)).notes[0].startswith("z.nii:")
    sixty = np.pad(ball(), 20)
    noted = inputs.read_scan(save(folder / "one.nii", sixty, np.eye(4))).notes
    assert len(noted) == 1 and "identity" in noted[0]
    few = ball()
    few[0, 0, 0] = -3.0
    assert inputs.read_scan(save(folder / "few.nii", few)).notes == []


def test_label_maps_keep_their_type_and_large_labels(folder, scan):
    labels = inputs.read_label_map(folder / "labels.nii.gz", scan)
    assert labels.dtype == np.int16 and set(np.unique(labels)) == {0, 1, 2}
    large = labels.astype(np.int32) * 70_000
    read = inputs.read_label_map(save(folder / "large.nii", large), scan)
    assert read.max() == 140_000


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (np.ones((5, 5, 5), np.int16), AFFINE, "expected the grid of scan.nii.gz"),
        (np.ones(SHAPE, np.int16), AFFINE + np.diag([0.1, 0, 0, 0]), "expected the grid of"),
        (np.zeros(SHAPE, np.int16), AFFINE, "found labels from 0 to 0"),
        (-np.ones(SHAPE, np.int16), AFFINE, "found labels from -1"),
        (np.full(SHAPE, 0.5, np.float32), AFFINE, "whole numbers"),
    ],
)
def test_wrong_label_maps_are_refused_by_their_name(folder, scan, array, affine, words):
    path = save(folder / "wrong.nii.gz", array, affine)
    with pytest.raises(InputError, match=words) as error:
        inputs.read_label_map(path, scan)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("direction", inputs.DIRECTIONS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_landmarks_are_read_and_written_in_their_direction(tmp_path, scan, direction, separator):
    points = apply_affine(AFFINE, [[3, 4, 5], [10.5, 2, 7]])
    columns = [f"{axis}_{direction.lower()}" for axis in "xyz"]
    written = points * ([1, 1, 1] if direction == "RAS" else [-1, -1, 1])
    table = pd.DataFrame(written, columns=columns).assign(name=["größer", "b"])
    table.to_csv(tmp_path / "points.csv", index=False, sep=separator)
    read, found = inputs.read_landmarks(tmp_path / "points.csv", scan)
    np.testing.assert_allclose(found, points)
    assert read["name"].tolist() == ["größer", "b"]
    moved = inputs.with_points(read, found + [1, 2, 3])
    signs = np.array([1, 2, 3]) * ([1, 1, 1] if direction == "RAS" else [-1, -1, 1])
    np.testing.assert_allclose(moved[columns].to_numpy() - written, np.tile(signs, (2, 1)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y,z\n0,0,0\n", "found the columns x, y, z, expected x_ras"),
        ("x_ras,y_ras\n0,0\n", "found the columns x_ras, y_ras"),
        ("x_ras,y_ras,z_ras,x_lps\n0,0,0,0\n", "expected x_ras"),
        ("x_ras,y_ras,z_ras\n0,0,0\n500,0,0\n", r"row 2 at \[500.0, 0.0, 0.0\]"),
        ("x_ras,y_ras,z_ras\n0,0,\n", r"row 1 at \[0.0, 0.0, nan\]"),
        ("x_ras,y_ras,z_ras\n0,zero,0\n", "row 1"),
        ("x_ras,y_ras,z_ras\n", "found no row"),
        ("", "not a CSV file"),
    ],
)
def test_wrong_landmarks_are_refused_by_the_name_of_their_file(tmp_path, scan, text, words):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        inputs.read_landmarks(path, scan)
    assert str(path) in str(error.value)


def test_landmarks_in_latin_1_are_refused(tmp_path, scan):
    path = tmp_path / "points.csv"
    path.write_bytes("x_ras,y_ras,z_ras,größe\n0,0,0,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        inputs.read_landmarks(path, scan)


def test_a_scan_cannot_be_registered_to_itself(folder, scan):
    copy = folder / "copy.nii"
    copy.write_bytes(gzip.decompress((folder / "scan.nii.gz").read_bytes()))
    with pytest.raises(InputError, match=r"copy\.nii: found the same scan as .*scan\.nii\.gz"):
        inputs.check_different(inputs.read_scan(copy), scan)
    moved = inputs.read_scan(save(copy, ball(), AFFINE + np.diag([0, 0, 0.1, 0])))
    inputs.check_different(moved, scan)
