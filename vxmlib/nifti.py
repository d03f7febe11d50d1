"""Read and write NIfTI files: scans, label maps, and displacements as ITK and ANTs store them."""

import gzip
import math
import zlib
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from vxmlib import files
from vxmlib.axes import RAS_TO_LPS, at_right_angles, itk_grid
from vxmlib.checks import check_affine, check_displacement

_VECTOR = 1007  # NIFTI_INTENT_VECTOR, the intent that ITK and ANTs give their fields
_PAIRED = (".img", ".img.gz")  # voxels whose header is a file of its own
_IMAGES = {348: nib.Nifti1Image, 540: nib.Nifti2Image}  # by the size of the header
_LONGEST_HEADER = 2**20  # bytes, with its extensions
# A header that promises more numbers is refused before they are read: a small damaged or hostile
# file can promise, or unpack to, more than the memory holds. A whole head of 0.25 mm voxels has
# 4e8, and as float64 this limit takes 4 GiB.
_MOST_NUMBERS = 2**29
# What zlib, NumPy and nibabel raise on damaged bytes (a header may promise any size).
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    HeaderDataError,
    ImageFileError,
    WrapStructError,
)


class NiftiError(ValueError):
    """A file that cannot be read as the NIfTI it should be; the message names it."""


def read_image(path):
    """Read a scan.

    Parameters
    ----------
    path : str or Path
        ``.nii`` or ``.nii.gz``, NIfTI-1 or NIfTI-2; or the ``.img`` or ``.img.gz`` of a pair, with
        its header (``.hdr`` or ``.hdr.gz``, NIfTI-1 or Analyze 7.5) beside it.

    Returns
    -------
    image : numpy.ndarray
        Intensities ``(*vol)`` as the file means them (slope and intercept applied), float32,
        not normalised, axes in the order of the file.
    affine : numpy.ndarray
        4 x 4, voxel index to RAS millimetres.  An Analyze header holds the size of a voxel, but
        not where the axes point: then only the lengths of the columns mean something.

    Raises
    ------
    FileNotFoundError
        No such file, or an ``.img`` without its header.
    NiftiError
        Not a NIfTI file, damaged or cut off, more than 2**29 numbers or more than one volume, not
        a scan of numbers.
    """
    array, affine, _ = _read(path)
    array = _one_volume(array, path)
    if array.dtype.kind not in "iuf":
        raise NiftiError(f"{path}: expected one number a voxel, found dtype {array.dtype}.")
    return np.ascontiguousarray(array, np.float32), affine


def header_of(path):
    """Return the path that the header of an ``.img`` or ``.img.gz`` has, or should have.

    Examples
    --------
    >>> header_of(Path("scan.img.gz")).name
    'scan.hdr'
    """
    stem = path.name.removesuffix(".gz").removesuffix(".img")
    beside = [path.with_name(stem + ending) for ending in (".hdr", ".hdr.gz")]
    return beside[1] if beside[1].is_file() and not beside[0].is_file() else beside[0]


def read_labels(path):
    """Read a label map.

    Parameters
    ----------
    path : str or Path
        As for `read_image`. Whole numbers stored as floats are taken as what they are.

    Returns
    -------
    labels : numpy.ndarray
        Label map ``(*vol)``: the file's integer type, int32 for whole numbers stored as floats.
    affine : numpy.ndarray
        4 x 4, voxel index to RAS millimetres.

    Raises
    ------
    FileNotFoundError
        No such file.
    NiftiError
        As `read_image`, and values that are not whole numbers.
    """
    array, affine, _ = _read(path)
    array = _one_volume(array, path)
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not (np.array_equal(whole, array) and np.abs(whole).max(initial=0) < 2**31):
            raise NiftiError(
                f"{path}: expected a label map of whole numbers, found values between them. Is "
                "this a scan, or a label map resampled with linear interpolation?"
            )
        array = whole.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise NiftiError(f"{path}: expected an integer a voxel, found dtype {array.dtype}.")
    # nibabel hands out the file's byte order; everyone else expects the machine's.
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")), affine


def write(path, array, affine):
    """Write a scan or a label map; the file appears complete or not at all.

    Parameters
    ----------
    path : str or Path
        Name that ends in ``.nii`` or ``.nii.gz``.
    array : array_like
        Image or label map ``(x, y, z)``; a slice says where it lies, ``image[:, None, :]``
        for a coronal one. Floats are stored as float32, booleans as uint8, 64-bit integers as
        int32.
    affine : array_like
        4 x 4, voxel index to RAS millimetres.

    Raises
    ------
    ValueError
        Wrong ending, number of axes, dtype or affine; integers beyond 32 bits.
    OSError
        The folder cannot be written to.
    """
    array = np.asarray(array)
    if array.ndim != 3:
        raise ValueError(
            f"array: expected 3 axes (x, y, z), found shape {array.shape}. Give a slice its "
            "third axis: image[:, None, :] for a coronal one."
        )
    _save(path, nib.Nifti1Image(_storable(array), check_affine(affine)))


def write_displacement(path, displacement, affine):
    """Write a displacement that ITK, ANTs, 3D Slicer and SimpleITK read as a transform.

    Parameters
    ----------
    path : str or Path
        Name that ends in ``.nii`` or ``.nii.gz``.
    displacement : array_like
        Displacement ``(x, y, z, 3)`` in voxels on the fixed grid, pointing into the moving image.
    affine : array_like
        4 x 4 of the fixed grid, voxel index to RAS millimetres; any orientation, oblique too.

    Raises
    ------
    ValueError
        Not a 3-D displacement, wrong ending or affine.
    OSError
        The folder cannot be written to.

    Notes
    -----
    The file holds ``(x, y, z, 1, 3)`` float32 with the NIfTI intent "vector" (1007); each vector
    is in millimetres along Left, Posterior, Superior, whatever way the grid lies. ITK wants
    voxel axes at right angles, so an affine with shear is refused.
    """
    field = check_displacement(displacement)
    if field.shape[-1] != 3:
        raise ValueError(
            f"displacement: expected a 3-D field (x, y, z, 3), found {field.shape}; the ITK "
            "convention has no place for a slice in space."
        )
    vectors = field @ itk_grid(check_affine(affine))[0].T
    image = nib.Nifti1Image(vectors[:, :, :, None, :].astype(np.float32), affine)
    image.header.set_intent(_VECTOR)
    _save(path, image)


def read_displacement(path):
    """Read a displacement in the convention of ITK and ANTs back to voxels.

    Parameters
    ----------
    path : str or Path
        A file as `write_displacement` or ANTs (``...Warp.nii.gz``) writes it.

    Returns
    -------
    displacement : numpy.ndarray
        ``(x, y, z, 3)`` float32 in voxels on the fixed grid.
    affine : numpy.ndarray
        4 x 4 of the fixed grid, voxel index to RAS millimetres.

    Raises
    ------
    FileNotFoundError
        No such file.
    NiftiError
        As `read_image`, and a file that is not a field of vectors.
    """
    array, affine, intent = _read(path)
    if array.shape[3:] != (1, 3) or intent != _VECTOR:
        raise NiftiError(
            f"{path}: expected a displacement, shape (x, y, z, 1, 3) with intent {_VECTOR} "
            f"(vector), found shape {array.shape} with intent {intent}."
        )
    to_voxels = np.linalg.inv((RAS_TO_LPS @ affine)[:3, :3])
    return (array[:, :, :, 0, :] @ to_voxels.T).astype(np.float32), affine


def _read(path):
    """Array, affine and intent code of a file, or an error that names it."""
    path = Path(path)
    content = path.read_bytes()
    header = header_of(path).read_bytes() if path.name.endswith(_PAIRED) else None
    try:
        stream = _opened(content)
        image = _image(stream, header)
        numbers = math.prod(image.shape)
        if not 0 < numbers <= _MOST_NUMBERS:
            raise ValueError(
                f"its header promises {numbers} numbers, expected 1 to {_MOST_NUMBERS}"
            )
        array = np.asanyarray(image.dataobj)  # reads no more than was promised
        while stream.read(2**20):  # to the end of a compressed file, where its checksum is compared
            pass
        intent = int(image.header.get("intent_code", 0))  # Analyze has none
    except _DAMAGED as error:
        raise NiftiError(
            f"{path}: not a readable NIfTI file of {len(content)} bytes ({error}). Expected a "
            "complete .nii or .nii.gz; if it was downloaded, delete it and fetch it again."
        ) from error
    try:
        return array, check_affine(image.affine), intent
    except ValueError as error:
        raise NiftiError(f"{path}: {error}") from error


def _image(stream, header):
    """The image of a file, or of a header and its voxels, which are not read yet."""
    start = stream.read(540) if header is None else _opened(header).read(_LONGEST_HEADER)
    stream.seek(0)
    kind = _image_class(start, paired=header is not None)
    if header is None:
        return kind.from_stream(stream)
    parts = {"header": BytesIO(start), "image": stream}
    return kind.from_file_map({k: FileHolder(fileobj=part) for k, part in parts.items()})


def _opened(content):
    """The bytes as a stream, behind gzip if they are."""
    stream = BytesIO(content)
    return gzip.GzipFile(fileobj=stream) if content[:2] == b"\x1f\x8b" else stream


def _image_class(start, *, paired):
    """The kind of image, by the size of the header that opens the file."""
    sizes = (int.from_bytes(start[:4], order) for order in ("little", "big"))
    size = next((size for size in sizes if size in _IMAGES), None)
    if paired and size == 348:
        return nib.Nifti1Pair if start[344:348] == b"ni1\0" else nib.AnalyzeImage
    if not paired and size is not None:
        return _IMAGES[size]
    problem = "the .hdr beside it is no header of NIfTI-1 or Analyze 7.5"
    raise ValueError(problem if paired else "the file does not open with a NIfTI header")


def _one_volume(array, path):
    """Drop empty fourth and later axes; refuse a series of volumes."""
    if array.ndim < 2 or any(size != 1 for size in array.shape[3:]):
        raise NiftiError(f"{path}: expected one volume (x, y, z), found shape {array.shape}.")
    return array.reshape(array.shape[:3])


def _storable(array):
    """The array in a type that every NIfTI reader knows."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind not in "iu":
        raise ValueError(f"array: expected numbers, found dtype {array.dtype}.")
    if array.dtype.itemsize < 4 or array.dtype == np.int32:
        return array
    limits = np.iinfo(np.int32)
    if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
        raise ValueError(f"array: found integers beyond 32 bits, up to {array.max()}.")
    return array.astype(np.int32)


def _save(path, image):
    """Write beside the final name and rename, so that no half-written file is left."""
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"path: expected a name ending in .nii or .nii.gz, found {path.name}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder, to write {path.name} to.")
    image.set_sform(image.affine, code=1)
    if at_right_angles(image.affine):  # the other form cannot hold a shear and would drop it
        image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    with files.whole(path) as part:
        nib.save(image, part)
