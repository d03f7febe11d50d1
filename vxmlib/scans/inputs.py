"""Read scans, label maps and landmarks of the user, and refuse what cannot be registered."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine, voxel_sizes

from vxmlib import nifti
from vxmlib.axes import RAS_TO_LPS, at_right_angles
from vxmlib.checks import check_choice, check_finite, doubts

#: Directions in which the coordinates of landmarks can grow.
DIRECTIONS = ("RAS", "LPS")
_FEWEST = 8  # voxels along each axis
_THINNEST = 40.0  # mm; an adult's brain is at least 100 mm long in each direction
_STRIPPED = "as HD-BET, SynthStrip (mri_synthstrip) or ANTs (antsBrainExtraction.sh) make it"


class InputError(ValueError):
    """A file of the user cannot be used; the message names it and says what was expected."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan, as it lies in its file.

    Attributes
    ----------
    path : pathlib.Path
    image : (i, j, k) float32 ndarray
        Intensities in the order of the file, not normalised; background 0.
    affine : (4, 4) float64 ndarray
        Voxel index -> RAS mm of the scanner.
    notes : list of str
        What a user should know about this file, in sentences.
    """

    path: Path
    image: np.ndarray
    affine: np.ndarray
    notes: list = field(default_factory=list)

    @property
    def spacing(self):
        """Voxel size in mm along each axis of the array."""
        return voxel_sizes(self.affine)


def read_scan(path):
    """Read a skull-stripped scan, and check that it is a volume with a known position.

    Parameters
    ----------
    path : str or Path
        As for :func:`vxmlib.nifti.read_image`.

    Returns
    -------
    Scan

    Raises
    ------
    InputError
        If the path is missing, a folder or a broken link; the file cannot be read or has more than
        one volume; an axis has fewer than 8 voxels or the scan is thinner than 40 mm; an intensity
        is NaN or infinite, or all are equal or at most 0; the header states no position; or its
        axes are not at right angles.
    """
    path = _existing(path)
    try:
        image, affine = nifti.read_image(path)
        nifti.check_position(path)
    except (nifti.NiftiError, FileNotFoundError) as error:  # the header beside it may be missing
        raise InputError(str(error)) from error
    _check_grid(path, image.shape, affine)
    _check_intensities(path, image)
    return Scan(path, image, affine, doubts(image, affine, path.name))


def _existing(path):
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: found a folder, expected a file with a scan")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: found a link to {path.readlink()}, which does not exist")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def _check_grid(path, shape, affine):
    extent = np.array(shape) * voxel_sizes(affine)
    if min(shape) < _FEWEST or extent.min() < _THINNEST:
        size = " x ".join(f"{each:.0f}" for each in extent)
        raise InputError(
            f"{path}: found {' x '.join(map(str, shape))} voxels ({size} mm), expected a volume "
            f"of a whole brain, with at least {_FEWEST} voxels and {_THINNEST:.0f} mm along each "
            "axis. A slice cannot be registered in 3D."
        )
    if not at_right_angles(affine):
        raise InputError(
            f"{path}: found an affine whose axes are not at right angles (shear), expected a grid "
            "that ITK can represent. Resample the scan, for example with "
            "nibabel.processing.resample_to_output."
        )


def _check_intensities(path, image):
    try:
        check_finite(image, path)
    except ValueError as error:
        raise InputError(str(error)) from error
    if image.max() <= 0 or image.min() == image.max():
        raise InputError(
            f"{path}: found intensities from {image.min():g} to {image.max():g}, expected a brain "
            "above a background of 0"
        )
    background = 100 * float((image <= 0).mean())
    if background < 10:
        raise InputError(
            f"{path}: found {background:.1f} % of the voxels at 0 or below, expected a "
            f"skull-stripped brain on a background of 0, {_STRIPPED}"
        )


def read_label_map(path, scan):
    """Read a label map, and check that it lies on the grid of its scan.

    Parameters
    ----------
    path : str or Path
        As for :func:`vxmlib.nifti.read_labels`.
    scan : Scan
        The scan that the label map belongs to.

    Returns
    -------
    (i, j, k) integer ndarray

    Raises
    ------
    InputError
        If the file cannot be read, is no label map, has labels below 0 or no label above 0, or lies
        on another grid than the scan.
    """
    path = _existing(path)
    try:
        labels, affine = nifti.read_labels(path)
    except nifti.NiftiError as error:
        raise InputError(str(error)) from error
    if labels.shape != scan.image.shape or not np.allclose(affine, scan.affine, atol=1e-2):
        raise InputError(
            f"{path}: found {labels.shape} voxels and the affine {affine.round(2).tolist()}, "
            f"expected the grid of {scan.path.name}, {scan.image.shape} voxels and "
            f"{scan.affine.round(2).tolist()}. Resample the label map to the scan with "
            "nearest-neighbour interpolation."
        )
    if labels.min() < 0 or labels.max() == 0:
        raise InputError(
            f"{path}: found labels from {labels.min()} to {labels.max()}, expected a background of "
            "0 and at least one label above 0"
        )
    return labels


def read_landmarks(path, scan):
    """Read landmarks in mm, and check that they lie in the scan.

    Parameters
    ----------
    path : str or Path
        CSV file with a header. The columns ``x_ras``, ``y_ras`` and ``z_ras``, or ``x_lps``,
        ``y_lps`` and ``z_lps``, have the coordinates in mm; other columns are kept.
    scan : Scan
        The scan on which the landmarks were set.

    Returns
    -------
    table : pandas.DataFrame
        The rows of the file.
    points : (n, 3) float64 ndarray
        Positions in RAS mm.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column or has columns of both directions, has no row, or
        a coordinate is no number or lies outside of the scan.
    """
    path = _existing(path)
    try:
        table = pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig")
    except (
        ValueError,
        csv.Error,
    ) as error:  # UnicodeDecodeError and pandas' errors are ValueErrors
        raise InputError(f"{path}: not a CSV file in UTF-8: {error}") from error
    direction = _direction(path, table)
    values = table[_columns(direction)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    points = to_ras(values, direction)
    index = apply_affine(np.linalg.inv(scan.affine), points)
    inside = ((index >= -0.5) & (index <= np.array(scan.image.shape) - 0.5)).all(axis=1)
    if not len(points) or not inside.all():
        row = int(np.argmin(inside)) if len(points) else 0
        found = f"row {row + 1} at {values[row].tolist()}" if len(points) else "no row"
        raise InputError(
            f"{path}: found {found}, expected landmarks in {direction} mm inside of "
            f"{scan.path.name}. Check whether the coordinates are RAS or LPS."
        )
    return table, points


def _direction(path, table):
    """Return the direction of the coordinates that the names of the columns state."""
    found = [each for each in DIRECTIONS if set(_columns(each)) & set(table.columns)]
    if len(found) != 1 or set(_columns(found[0])) - set(table.columns):
        raise InputError(
            f"{path}: found the columns {', '.join(map(str, table.columns))}, expected x_ras, "
            "y_ras, z_ras, or x_lps, y_lps, z_lps. nibabel and FreeSurfer use RAS, ITK and ANTs "
            "use LPS, and 3D Slicer states in its file which it uses."
        )
    return found[0]


def _columns(direction):
    return [f"{axis}_{direction.lower()}" for axis in "xyz"]


def to_ras(points, direction):
    """Convert points between a direction and RAS mm; the conversion is its own inverse.

    Parameters
    ----------
    points : (..., 3) array_like
        Positions in mm.
    direction : {"RAS", "LPS"}

    Returns
    -------
    (..., 3) float64 ndarray

    Examples
    --------
    >>> to_ras([1.0, 2.0, 3.0], "LPS").tolist()
    [-1.0, -2.0, 3.0]
    """
    check_choice("direction", direction, DIRECTIONS)
    turn = RAS_TO_LPS if direction == "LPS" else np.eye(4)
    return apply_affine(turn, np.asarray(points, np.float64))


def with_points(table, points):
    """Return a table of landmarks with other positions.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by :func:`read_landmarks`.
    points : (n, 3) array_like
        Positions in RAS mm.

    Returns
    -------
    pandas.DataFrame
        The same columns, with the positions in the directions of the table.
    """
    direction = _direction("table", table)
    return table.assign(**dict(zip(_columns(direction), to_ras(points, direction).T, strict=True)))


def check_different(moving, fixed):
    """Raise an error if two scans are the same.

    Parameters
    ----------
    moving, fixed : Scan

    Raises
    ------
    InputError
    """
    same = moving.image.shape == fixed.image.shape and np.array_equal(moving.image, fixed.image)
    if same and np.allclose(moving.affine, fixed.affine):
        raise InputError(
            f"{moving.path}: found the same scan as {fixed.path}, expected two different scans"
        )
