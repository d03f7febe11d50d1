"""NIfTI round trips, damaged files, and displacements as SimpleITK reads them."""

import contextlib
import gzip
import itertools
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from vxmlib import nifti, warp


def rotation(degrees):
    """Turns about x, then y, then z."""
    x, y, z = np.deg2rad(degrees)
    about_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    about_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    about_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    return np.array(about_z) @ about_y @ about_x


def affine_of(directions, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


AFFINES = {
    "RAS": affine_of(np.eye(3), (1, 1, 1), (0, 0, 0)),
    "LPS, anisotropic": affine_of(np.diag([-1, -1, 1]), (1, 1.5, 2), (30, -7, 4)),
    "axes swapped": affine_of(np.eye(3)[[2, 0, 1]], (0.8, 1.2, 1), (5, 6, 7)),
    "oblique": affine_of(rotation((12, -25, 40)), (1, 1.25, 0.75), (-11, 3, 20)),
    "oblique, left-handed": affine_of(
        rotation((70, 10, -35)) @ np.diag([1, -1, 1]), (2, 1, 1.5), (1, 2, 3)
    ),
}
every_affine = pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)


@every_affine
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_an_image_comes_back(tmp_path, affine, ending):
    image = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    nifti.write(tmp_path / f"scan{ending}", image, affine)
    found, found_affine = nifti.read_image(tmp_path / f"scan{ending}")
    np.testing.assert_array_equal(found, image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found_affine, affine, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [f"scan{ending}"]


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (np.uint8, np.uint8),
        (np.int16, np.int16),
        (np.int32, np.int32),
        (np.int64, np.int32),
        (bool, np.uint8),
        (np.float64, np.int32),
    ],
)
def test_labels_come_back_as_integers(tmp_path, dtype, stored):
    labels = (np.arange(60) % 2 * 17).reshape(3, 4, 5).astype(dtype)
    nifti.write(tmp_path / "labels.nii.gz", labels, np.eye(4))
    found, _ = nifti.read_labels(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == stored


def test_scale_and_byte_order_of_the_file_are_applied(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    stored = nib.Nifti1Image(np.arange(8, dtype=">i2").reshape(2, 2, 2), np.eye(4), header)
    stored.set_data_dtype(">i2")
    nib.save(stored, tmp_path / "big.nii")
    labels, _ = nifti.read_labels(tmp_path / "big.nii")
    assert labels.dtype == np.int16 and labels.dtype.isnative
    np.testing.assert_array_equal(labels.ravel(), np.arange(8))
    raw = bytearray((tmp_path / "big.nii").read_bytes())
    raw[112:120] = np.array([0.5, 10.0], ">f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "scaled.nii").write_bytes(bytes(raw))
    image, _ = nifti.read_image(tmp_path / "scaled.nii")
    np.testing.assert_allclose(image.ravel(), np.arange(8) * 0.5 + 10)


def test_nifti_2_and_a_fourth_axis_of_one_are_read(tmp_path):
    image = np.random.default_rng(0).random((3, 4, 5, 1)).astype(np.float32)
    nib.save(nib.Nifti2Image(image, np.eye(4)), tmp_path / "scan.nii")
    np.testing.assert_array_equal(nifti.read_image(tmp_path / "scan.nii")[0], image[..., 0])


# --- damaged and wrong files --------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.AnalyzeImage])
@pytest.mark.parametrize("packed", list(itertools.product((False, True), repeat=2)))
def test_a_pair_of_header_and_voxels_is_read_compressed_or_not(tmp_path, kind, packed):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = AFFINES["LPS, anisotropic"]
    nib.save(kind(array[..., None], affine), tmp_path / "scan.img")
    for name, pack in zip(("scan.hdr", "scan.img"), packed, strict=True):
        if pack:
            path = tmp_path / name
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    (path,) = tmp_path.glob("scan.img*")
    image, found = nifti.read_image(path)
    np.testing.assert_array_equal(image, array)
    np.testing.assert_array_equal(nifti.read_labels(path)[0], array)
    np.testing.assert_allclose(np.linalg.norm(found[:3, :3], axis=0), (1, 1.5, 2))
    if kind is nib.Nifti1Pair:
        np.testing.assert_allclose(found, affine)


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh", "A.MGZ"])
def test_files_of_freesurfer_are_read(tmp_path, name):
    array = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int32)
    affine = nib.affines.from_matvec([[-1, 0, 0], [0, 0, 2], [0, -3, 0]], [5, 6, 7])
    nib.save(nib.MGHImage(array, affine), tmp_path / name.lower())
    path = (tmp_path / name.lower()).rename(tmp_path / name)
    for read in (nifti.read_image, nifti.read_labels):
        found, found_affine = read(path)
        np.testing.assert_array_equal(found, array)
        np.testing.assert_allclose(found_affine, affine, atol=1e-6)
    nifti.check_position(path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(nifti.NiftiError, match=path.name):
        nifti.read_image(path)


@pytest.mark.parametrize(("sform", "qform"), [(0, 0), (1, 0), (0, 1), (4, 2)])
def test_a_header_has_a_position_if_one_of_its_codes_says_so(tmp_path, sform, qform):
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), None)
    image.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), sform)
    image.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), qform)
    nib.save(image, tmp_path / "a.nii.gz")
    expected = contextlib.nullcontext()
    if not sform + qform:
        expected = pytest.raises(nifti.NiftiError, match=r"a\.nii\.gz: found no position")
    with expected:
        nifti.check_position(tmp_path / "a.nii.gz")


def test_an_analyze_file_and_freesurfers_without_its_flag_have_no_position(tmp_path):
    zeros = np.zeros((3, 3, 3), np.float32)
    nib.save(nib.AnalyzeImage(zeros, np.eye(4)), tmp_path / "a.img")
    with pytest.raises(nifti.NiftiError, match=r"a\.img: found no position"):
        nifti.check_position(tmp_path / "a.img")
    image = nib.MGHImage(zeros, np.eye(4))
    image.header["goodRASFlag"] = 0
    nib.save(image, tmp_path / "a.mgh")
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "a.mgh").write_bytes(content)
    with pytest.raises(nifti.NiftiError, match=r"a\.mgh: found no position"):
        nifti.check_position(tmp_path / "a.mgh")


def test_a_pair_without_its_header_or_with_another_is_named(tmp_path):
    path = tmp_path / "scan.img"
    nib.save(nib.AnalyzeImage(np.ones((2, 3, 4), np.int16), np.eye(4)), path)
    (tmp_path / "scan.hdr").write_bytes(b"\x1c\x02\0\0" + bytes(536))  # of NIfTI-2
    with pytest.raises(nifti.NiftiError, match=r"scan\.img: .*is not a NIfTI-1 or Analyze"):
        nifti.read_image(path)
    (tmp_path / "scan.hdr").unlink()
    with pytest.raises(FileNotFoundError, match=r"scan\.hdr"):
        nifti.read_image(path)


@pytest.fixture
def scan(tmp_path):
    image = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    for ending in (".nii", ".nii.gz"):
        nifti.write(tmp_path / f"scan{ending}", image, np.eye(4))
    return tmp_path


def damage(path, change):
    """Write a changed copy of a file beside it and return its path."""
    broken = path.with_name(f"broken_{path.name}")
    broken.write_bytes(change(path.read_bytes()))
    return broken


def flip_a_byte(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


DAMAGE = {
    "half downloaded": ("scan.nii.gz", lambda content: content[: len(content) // 2]),
    "last bytes missing": ("scan.nii.gz", lambda content: content[:-4]),
    "a byte flipped": ("scan.nii.gz", flip_a_byte),
    "a stretch overwritten": ("scan.nii.gz", lambda content: content[:30] + b"\xff" * 90),
    "an unknown kind of number": (
        "scan.nii",
        lambda content: content[:70] + b"\x0f\x27" + content[72:],
    ),
    "half of an uncompressed file": ("scan.nii", lambda content: content[: len(content) // 2]),
    "only a header": ("scan.nii", lambda content: content[:352]),
    "half a header": ("scan.nii", lambda content: content[:100]),
    "nothing": ("scan.nii", lambda content: b""),
    "a web page": ("scan.nii.gz", lambda content: b"<!DOCTYPE html><title>404</title>"),
    "a zipped text": ("scan.nii.gz", lambda content: gzip.compress(b"no scan in here" * 99)),
}


@pytest.mark.parametrize(("name", "change"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(
    "read", [nifti.read_image, nifti.read_labels, nifti.read_displacement], ids=lambda f: f.__name__
)
def test_a_damaged_file_is_named(scan, name, change, read):
    broken = damage(scan / name, change)
    with pytest.raises(nifti.NiftiError, match=f"{broken.name}: not a readable NIfTI"):
        read(broken)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(place=st.integers(0, 351), value=st.integers(0, 255), length=st.integers(300, 4000))
def test_no_damage_to_a_header_escapes(scan, place, value, length):
    """Whatever the bytes, the answer is an array or the one error that names the file."""

    def change(content):
        return (content[:place] + bytes([value]) + content[place + 1 :])[:length]

    broken = damage(scan / "scan.nii", change)
    try:
        answer = nifti.read_image(broken)[0].dtype.name
    except nifti.NiftiError as error:
        answer = str(error)
    assert answer == "float32" or broken.name in answer


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.nii"):
        nifti.read_image(tmp_path / "nowhere.nii")


def test_a_series_is_not_a_scan(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), tmp_path / "run.nii")
    with pytest.raises(nifti.NiftiError, match=r"run.nii: expected one volume.*\(3, 4, 5, 2\)"):
        nifti.read_image(tmp_path / "run.nii")


def test_colours_are_not_intensities(tmp_path):
    colour = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
    with pytest.raises(nifti.NiftiError, match=r"colour\.nii: expected one number per voxel"):
        nifti.read_image(tmp_path / "colour.nii")
    with pytest.raises(nifti.NiftiError, match=r"colour\.nii: expected one integer per voxel"):
        nifti.read_labels(tmp_path / "colour.nii")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e12])
def test_a_scan_is_not_a_label_map(tmp_path, value):
    image = np.zeros((3, 4, 5), np.float32)
    image[1, 2, 3] = value
    nifti.write(tmp_path / "scan.nii", image, np.eye(4))
    with pytest.raises(nifti.NiftiError, match=r"scan\.nii: expected a label map of whole numbers"):
        nifti.read_labels(tmp_path / "scan.nii")


def test_a_label_map_of_floats_may_use_all_of_32_bits_and_no_more(tmp_path):
    labels = np.zeros((3, 4, 5))
    for largest in (2**31 - 1, 2**31):
        labels[1, 2, 3] = largest
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / f"{largest}.nii")
    assert nifti.read_labels(tmp_path / "2147483647.nii")[0].max() == 2**31 - 1
    with pytest.raises(nifti.NiftiError, match=r"2147483648\.nii: expected a label map"):
        nifti.read_labels(tmp_path / "2147483648.nii")


def test_an_affine_that_cannot_be_inverted_is_refused_with_the_files_name(scan):
    flat = damage(scan / "scan.nii", lambda content: content[:280] + bytes(48) + content[328:])
    for read in (nifti.read_image, nifti.read_labels, nifti.read_displacement):
        with pytest.raises(
            nifti.NiftiError, match=r"broken_scan\.nii: affine: found .* invertible"
        ):
            read(flat)


@pytest.mark.parametrize(
    ("shape", "intent"),
    [((3, 4, 5), 1007), ((3, 4, 5, 1, 3), 0), ((3, 4, 5, 2, 3), 1007), ((3, 4, 5, 1, 2), 1007)],
)
def test_only_vectors_of_three_with_their_intent_are_a_displacement(tmp_path, shape, intent):
    image = nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4))
    image.header.set_intent(intent)
    nib.save(image, tmp_path / "warp.nii")
    with pytest.raises(nifti.NiftiError, match=rf"found shape \({shape[0]}.* intent {intent}\."):
        nifti.read_displacement(tmp_path / "warp.nii")


# --- files that would fill the memory -----------------------------------------------------


@contextlib.contextmanager
def memory_below(limit):
    """Fail if Python allocates more bytes than the limit at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes"


@pytest.fixture(scope="module")
def zeros():
    """100 MiB of zeros behind gzip: 100 KiB."""
    return gzip.compress(bytes(100 * 2**20), compresslevel=1)


def with_dimensions(content, *sizes):
    """The same file with other sizes of its three axes in the header."""
    return content[:42] + np.array(sizes, "<i2").tobytes() + content[48:]


def test_what_does_not_begin_as_an_image_is_not_unpacked(tmp_path, zeros):
    (tmp_path / "scan.nii.gz").write_bytes(zeros)
    with memory_below(5 * 2**20), pytest.raises(nifti.NiftiError, match="NIfTI header"):
        nifti.read_image(tmp_path / "scan.nii.gz")


def test_no_more_is_kept_than_the_header_promises(scan, zeros):
    path = scan / "scan.nii.gz"
    image, _ = nifti.read_image(path)
    path.write_bytes(path.read_bytes() + zeros)  # gzip reads both parts as one file
    with memory_below(5 * 2**20):
        np.testing.assert_array_equal(nifti.read_image(path)[0], image)


@pytest.mark.parametrize("sizes", [(1024, 1024, 513), (-8, 9, 10), (0, 9, 10)])
def test_a_header_that_promises_too_much_or_nothing_is_refused(scan, zeros, sizes):
    path = scan / "scan.nii.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(with_dimensions(content, *sizes)) + zeros)
    numbers = np.prod(sizes, dtype=int)
    with memory_below(5 * 2**20), pytest.raises(nifti.NiftiError, match=f"declares {numbers} n"):
        nifti.read_image(path)


def test_a_pair_promises_in_its_header(tmp_path, zeros):
    path = tmp_path / "scan.img"
    nib.save(nib.AnalyzeImage(np.ones((2, 3, 4), np.int16), np.eye(4)), path)
    path.with_suffix(".img.gz").write_bytes(gzip.compress(path.read_bytes()) + zeros)
    path.unlink()
    with memory_below(5 * 2**20):
        assert nifti.read_image(path.with_suffix(".img.gz"))[0].sum() == 24
    (tmp_path / "scan.hdr").unlink()
    (tmp_path / "scan.hdr.gz").write_bytes(zeros)
    with memory_below(5 * 2**20), pytest.raises(nifti.NiftiError, match="or Analyze"):
        nifti.read_image(path.with_suffix(".img.gz"))


# --- writing ------------------------------------------------------------------------------

IMAGE = np.zeros((3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("name", "array", "affine", "message"),
    [
        ("a.nii", IMAGE[None], np.eye(4), "array: expected 3 axes"),
        ("a.nii", IMAGE[0], np.eye(4), "image\\[:, None, :\\] for a coronal"),
        ("a.nii", IMAGE.astype(complex), np.eye(4), "array: expected numbers"),
        ("a.nii", np.full((3, 4, 5), 2**40), np.eye(4), "beyond 32 bits"),
        ("a.nii", IMAGE, np.eye(3), "affine: found .* expected an invertible 4 x 4"),
        ("a.nii", IMAGE, np.diag([1, 1, 0, 1]), "affine: found .* expected an invertible 4 x 4"),
        ("a.nii", IMAGE, np.full((4, 4), np.nan), "affine: found .* expected an invertible 4 x 4"),
        ("a.mgz", IMAGE, np.eye(4), "expected a name ending in .nii"),
    ],
)
def test_write_refuses_and_leaves_nothing(tmp_path, name, array, affine, message):
    with pytest.raises(ValueError, match=message):
        nifti.write(tmp_path / name, array, affine)
    assert not list(tmp_path.iterdir())


def no_space(*arguments):
    raise OSError("No space left on device")


@pytest.mark.parametrize("step", ["nifti.nib.save", "files.os.replace"])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "scan.nii"
    nifti.write(path, IMAGE, np.eye(4))
    before = path.read_bytes()
    monkeypatch.setattr(f"vxmlib.{step}", no_space)
    with pytest.raises(OSError, match="No space"):
        nifti.write(path, IMAGE + 1, np.eye(4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        nifti.write(tmp_path / "nowhere" / "scan.nii", IMAGE, np.eye(4))


# --- displacements ------------------------------------------------------------------------


def smooth_field(shape, *, size, seed=0):
    rng = np.random.default_rng(seed)
    parts = [gaussian_filter(rng.normal(size=shape), 3, mode="nearest") for _ in shape]
    field = np.stack(parts, axis=-1)
    return (size * field / np.abs(field).max()).astype(np.float32)


@every_affine
def test_a_displacement_comes_back(tmp_path, affine):
    field = smooth_field((6, 7, 8), size=3.0)
    nifti.write_displacement(tmp_path / "warp.nii.gz", field, affine)
    found, found_affine = nifti.read_displacement(tmp_path / "warp.nii.gz")
    np.testing.assert_allclose(found, field, atol=1e-5)
    np.testing.assert_allclose(found_affine, affine, atol=1e-5)
    assert nib.load(tmp_path / "warp.nii.gz").shape == (6, 7, 8, 1, 3)


@every_affine
def test_one_vector_by_hand(tmp_path, affine):
    """SimpleITK maps the centre of a voxel to where our convention says, in mm."""
    field = np.zeros((6, 7, 8, 3), np.float32)
    field[...] = [1.0, -2.0, 0.5]
    nifti.write_displacement(tmp_path / "warp.nii", field, affine)
    image = sitk.ReadImage(str(tmp_path / "warp.nii"), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(image)
    ras_to_lps = np.diag([-1, -1, 1, 1])
    start, end = [3, 3, 3, 1], [4, 1, 3.5, 1]
    point = (ras_to_lps @ affine @ start)[:3]
    expected = (ras_to_lps @ affine @ end)[:3]
    np.testing.assert_allclose(transform.TransformPoint(point), expected, atol=1e-4)


@every_affine
def test_simpleitk_warps_an_image_as_we_do(tmp_path, affine):
    shape = (16, 14, 15)
    image = gaussian_filter(np.random.default_rng(0).random(shape), 1).astype(np.float32)
    field = smooth_field(shape, size=2.0)
    nifti.write(tmp_path / "scan.nii.gz", image, affine)
    nifti.write_displacement(tmp_path / "warp.nii.gz", field, affine)
    scan = sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
    vectors = sitk.ReadImage(str(tmp_path / "warp.nii.gz"), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(vectors)
    resampled = sitk.Resample(scan, scan, transform, sitk.sitkLinear, -1.0)
    expected = sitk.GetArrayFromImage(resampled).T
    inside = tuple(slice(2, -2) for _ in shape)  # beyond the image we repeat the edge, ITK fills
    np.testing.assert_allclose(warp.warp_image(image, field)[inside], expected[inside], atol=1e-4)


def test_a_slice_is_no_displacement_in_space(tmp_path):
    with pytest.raises(ValueError, match="expected a 3-D field"):
        nifti.write_displacement(tmp_path / "warp.nii", np.zeros((4, 5, 2)), np.eye(4))


def test_shear_is_refused_for_itk_and_kept_for_images(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    with pytest.raises(ValueError, match="right angles"):
        nifti.write_displacement(tmp_path / "warp.nii", np.zeros((4, 5, 6, 3)), sheared)
    nifti.write(tmp_path / "scan.nii", IMAGE, sheared)
    np.testing.assert_allclose(nifti.read_image(tmp_path / "scan.nii")[1], sheared)
    header = nib.load(tmp_path / "scan.nii").header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)  # no second, unsheared affine


def test_a_file_says_that_its_unit_is_the_millimetre(tmp_path):
    nifti.write(tmp_path / "scan.nii", IMAGE, np.eye(4))
    nifti.write_displacement(tmp_path / "warp.nii", np.zeros((3, 4, 5, 3)), np.eye(4))
    for name in ("scan.nii", "warp.nii"):
        assert nib.load(tmp_path / name).header.get_xyzt_units()[0] == "mm"
