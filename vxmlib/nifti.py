"""Read scans, label maps and displacements, and write them as NIfTI files for ITK and others."""

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

_VECTOR = 1007  # NIFTI_INTENT_VECTOR, the intent code of displacement fields of ITK and ANTs
_PAIRED = (".img", ".img.gz")  # files of voxels, whose header is a separate file
_MGH = (".mgz", ".mgh", ".mgh.gz")  # files of FreeSurfer
_AFTER_FLAG = 30  # bytes of such a file up to the end of its flag goodRASFlag
_IMAGES = {348: nib.Nifti1Image, 540: nib.Nifti2Image}  # size of the header in bytes -> class
_LONGEST_HEADER = 2**20  # bytes, including extensions
# A header that declares more numbers is refused before they are read, because a small damaged or
# hostile file can declare, or decompress to, more numbers than fit in memory. A scan of a complete
# head with 0.25 mm voxels has 4e8 numbers. As float64, this limit takes 4 GiB.
_MOST_NUMBERS = 2**29
# Errors that zlib, NumPy and nibabel raise on damaged bytes (a header may declare any size).
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    OverflowError,
    MemoryError,
    zlib.error,
    HeaderDataError,
    ImageFileError,
    WrapStructError,
)


class NiftiError(ValueError):
    """A file cannot be read as the expected kind of NIfTI file; the message names the file."""


def read_image(path):
    """Read a scan.

    Parameters
    ----------
    path : str or Path
        A ``.nii`` or ``.nii.gz`` file, NIfTI-1 or NIfTI-2; the ``.img`` or ``.img.gz`` file of
        a pair, whose header (``.hdr`` or ``.hdr.gz``, NIfTI-1 or Analyze 7.5) is in the same
        folder; or a ``.mgz`` or ``.mgh`` file of FreeSurfer.

    Returns
    -------
    image : numpy.ndarray
        Intensities ``(*vol)``, float32, with the slope and intercept of the file applied, not
        normalised, axes in the order of the file.
    affine : numpy.ndarray
        4 x 4, voxel index to RAS millimetres. An Analyze header stores the voxel size but not the
        directions of the axes, so only the lengths of the columns are meaningful then.

    Raises
    ------
    FileNotFoundError
        If the file, or the header of an ``.img`` file, does not exist.
    NiftiError
        If the file is of no such kind, is damaged or cut off, has no number or more than 2**29,
        has more than one volume, or does not have one number per voxel.
    """
    array, affine, _ = _read(path)
    array = _one_volume(array, path)
    if array.dtype.kind not in "iuf":
        raise NiftiError(f"{path}: expected one number per voxel, found dtype {array.dtype}.")
    return np.ascontiguousarray(array, np.float32), affine


def check_position(path):
    """Raise an error unless the header of a file states the position and directions of its grid.

    Without them, programs assume some position, and not all assume the same.

    Parameters
    ----------
    path : str or Path
        As for `read_image`.

    Raises
    ------
    FileNotFoundError
        As for `read_image`.
    NiftiError
        As for `read_image`; or if the file is an Analyze file, a NIfTI file whose codes of sform
        and qform are both 0, or a file of FreeSurfer whose ``goodRASFlag`` is 0.
    """
    path = Path(path)
    header = _header(path)
    if path.name.lower().endswith(_MGH):  # nibabel's header has 1 even where the file has 0
        codes = _opened(path.read_bytes()).read(_AFTER_FLAG)[-2:]
    else:
        codes = [int(header[name]) for name in ("sform_code", "qform_code") if name in header]
    if not any(codes):
        raise NiftiError(
            f"{path}: found no position of the scan in its header (an Analyze file, or all codes "
            "are 0), expected the affine from voxel index to mm. Convert the original images "
            "again, for example with dcm2niix."
        )


def header_of(path):
    """Return the path of the header that belongs to an ``.img`` or ``.img.gz`` file.

    Parameters
    ----------
    path : Path
        Name of the ``.img`` or ``.img.gz`` file.

    Returns
    -------
    Path
        The ``.hdr.gz`` file if only that one exists, and otherwise the ``.hdr`` file, even if it
        does not exist.

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
        As for `read_image`. Labels may be stored as floats if all of them are whole numbers.

    Returns
    -------
    labels : numpy.ndarray
        Label map ``(*vol)`` of the file's integer type, or int32 if labels are stored as floats.
    affine : numpy.ndarray
        4 x 4, voxel index to RAS millimetres.

    Raises
    ------
    FileNotFoundError
        As for `read_image`.
    NiftiError
        As for `read_image`; or if a value is not a whole number, or the absolute value of a label
        stored as a float is 2**31 or more.
    """
    array, affine, _ = _read(path)
    array = _one_volume(array, path)
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not (np.array_equal(whole, array) and np.abs(whole).max(initial=0) < 2**31):
            raise NiftiError(
                f"{path}: expected a label map of whole numbers below 2**31, found other values. "
                "Is this a scan, or a label map resampled with linear interpolation?"
            )
        array = whole.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise NiftiError(f"{path}: expected one integer per voxel, found dtype {array.dtype}.")
    # nibabel keeps the byte order of the file; other code expects that of the machine.
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")), affine


def write(path, array, affine):
    """Write a scan or a label map.

    The file appears complete or not at all.

    Parameters
    ----------
    path : str or Path
        Name that ends in ``.nii`` or ``.nii.gz``, in an existing folder.
    array : array_like
        Image or label map ``(x, y, z)``. Give a slice its third axis, for example with
        ``image[:, None, :]`` for a coronal slice. Floats are stored as float32, booleans as
        uint8, and uint32 and 64-bit integers as int32.
    affine : array_like
        4 x 4, voxel index to RAS millimetres.

    Raises
    ------
    ValueError
        If the ending, the number of axes, the dtype or the affine is wrong, or an integer does
        not fit in int32.
    OSError
        If the folder does not exist or the file cannot be written.
    """
    array = np.asarray(array)
    if array.ndim != 3:
        raise ValueError(
            f"array: expected 3 axes (x, y, z), found shape {array.shape}. Give a slice its "
            "third axis, for example image[:, None, :] for a coronal slice."
        )
    _save(path, nib.Nifti1Image(_storable(array), check_affine(affine)))


def write_displacement(path, displacement, affine):
    """Write a displacement that ITK, ANTs, 3D Slicer and SimpleITK read as a transform.

    The file appears complete or not at all.

    Parameters
    ----------
    path : str or Path
        Name that ends in ``.nii`` or ``.nii.gz``, in an existing folder.
    displacement : array_like
        Displacement ``(x, y, z, 3)`` in voxels on the fixed grid, pointing into the moving image.
    affine : array_like
        4 x 4 of the fixed grid, voxel index to RAS millimetres, in any orientation, also oblique.

    Raises
    ------
    ValueError
        If the displacement is not a valid 3-D one, or the ending or the affine is wrong.
    OSError
        If the folder does not exist or the file cannot be written.

    Notes
    -----
    The file has the shape ``(x, y, z, 1, 3)``, the type float32 and the NIfTI intent "vector"
    (1007). Each vector is in millimetres along Left, Posterior and Superior, whatever the
    orientation of the grid. ITK requires voxel axes at right angles, so an affine with shear is
    refused.
    """
    field = check_displacement(displacement)
    if field.shape[-1] != 3:
        raise ValueError(
            f"displacement: expected a 3-D field (x, y, z, 3), found {field.shape}; the field of "
            "a slice cannot be stored in the ITK convention."
        )
    vectors = field @ itk_grid(check_affine(affine))[0].T
    image = nib.Nifti1Image(vectors[:, :, :, None, :].astype(np.float32), affine)
    image.header.set_intent(_VECTOR)
    _save(path, image)


def read_displacement(path):
    """Read a displacement in the convention of ITK and ANTs, and convert it to voxels.

    Parameters
    ----------
    path : str or Path
        File that `write_displacement` or ANTs (``...Warp.nii.gz``) wrote.

    Returns
    -------
    displacement : numpy.ndarray
        Displacement ``(x, y, z, 3)``, float32, in voxels on the fixed grid.
    affine : numpy.ndarray
        4 x 4 of the fixed grid, voxel index to RAS millimetres.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    NiftiError
        If the file is not a NIfTI file, is damaged or cut off, or does not hold one vector per
        voxel with the intent "vector".
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
    """Return the array, affine and intent code of a file; every error names the file."""
    path = Path(path)
    content = path.read_bytes()
    try:
        stream = _opened(content)
        image = _image(stream, path)
        numbers = math.prod(image.shape)
        if not 0 < numbers <= _MOST_NUMBERS:
            raise ValueError(
                f"its header declares {numbers} numbers, expected 1 to {_MOST_NUMBERS}"
            )
        array = np.asanyarray(image.dataobj)  # reads no more numbers than the header declares
        while stream.read(2**20):  # gzip verifies the checksum at the end of the file
            pass
        intent = int(image.header.get("intent_code", 0))  # an Analyze header has no intent
    except FileNotFoundError:  # of the header beside the voxels
        raise
    except _DAMAGED as error:
        raise _damaged(path, len(content), error) from error
    try:
        return array, check_affine(image.affine), intent
    except ValueError as error:
        raise NiftiError(f"{path}: {error}") from error


def _damaged(path, size, error):
    return NiftiError(
        f"{path}: not a readable NIfTI file ({size} bytes; {error}). Expected a complete .nii or "
        ".nii.gz; if it was downloaded, delete it and download it again."
    )


def _header(path):
    """Return the header of a file, without reading its voxels."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            return _image(gzip.GzipFile(fileobj=file) if packed else file, path).header
        except FileNotFoundError:
            raise
        except _DAMAGED as error:
            raise _damaged(path, path.stat().st_size, error) from error


def _image(stream, path):
    """Return the image in a stream, with the header beside it if it has one; read no voxels."""
    name = path.name.lower()
    if name.endswith(_MGH):
        return nib.MGHImage.from_stream(stream)
    if not path.name.endswith(_PAIRED):
        kind = _image_class(stream.read(540), paired=False)
        stream.seek(0)
        return kind.from_stream(stream)
    start = _opened(header_of(path).read_bytes()).read(_LONGEST_HEADER)
    parts = {"header": BytesIO(start), "image": stream}
    kind = _image_class(start, paired=True)
    return kind.from_file_map({k: FileHolder(fileobj=part) for k, part in parts.items()})


def _opened(content):
    """Return the bytes as a stream, which decompresses them if they are gzipped."""
    stream = BytesIO(content)
    return gzip.GzipFile(fileobj=stream) if content[:2] == b"\x1f\x8b" else stream


def _image_class(start, *, paired):
    """Choose nibabel's image class by the header size, the first number of the file."""
    sizes = (int.from_bytes(start[:4], order) for order in ("little", "big"))
    size = next((size for size in sizes if size in _IMAGES), None)
    if paired and size == 348:
        return nib.Nifti1Pair if start[344:348] == b"ni1\0" else nib.AnalyzeImage
    if not paired and size is not None:
        return _IMAGES[size]
    problem = "the .hdr beside it is not a NIfTI-1 or Analyze 7.5 header"
    raise ValueError(problem if paired else "the file does not begin with a NIfTI header")


def _one_volume(array, path):
    """Drop the fourth and later axes if their length is 1; refuse a series of volumes."""
    if array.ndim < 2 or any(size != 1 for size in array.shape[3:]):
        raise NiftiError(f"{path}: expected one volume (x, y, z), found shape {array.shape}.")
    return array.reshape(array.shape[:3])


def _storable(array):
    """Convert the array to a type that every NIfTI reader supports."""
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
        raise ValueError(
            f"array: found integers beyond 32 bits, from {array.min()} to {array.max()}."
        )
    return array.astype(np.int32)


def _save(path, image):
    """Write under a temporary name and rename, so that no incomplete file is left."""
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"path: expected a name ending in .nii or .nii.gz, found {path.name}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it to write {path.name}.")
    image.set_sform(image.affine, code=1)
    if at_right_angles(image.affine):  # a qform cannot store shear and would drop it
        image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    with files.whole(path) as part:
        nib.save(image, part)
