"""Reorient, resample, normalise and crop a scan into the form that the network takes.

The steps: reorient to RAS (`reorient`), sample on the common grid through an affine in one
interpolation (`resample`), scale intensities to [0, 1] (`normalise`), make every side a multiple
of 16 (`crop_or_pad`).  The guards of `vxmlib.checks` say what is still wrong.
"""

import nibabel as nib
import numpy as np
from scipy import ndimage

from vxmlib import checks


def reorient(image, affine):
    """Turn and flip an image so that its axes run to the Right, Anterior and Superior.

    Nothing is interpolated: each axis is at most reversed or exchanged, so an oblique scan stays
    oblique.

    Parameters
    ----------
    image : (i, j, k) ndarray
        Intensities or labels.
    affine : (4, 4) ndarray
        Voxel index -> RAS mm.

    Returns
    -------
    image : ndarray
        The same values in RAS order.
    affine : (4, 4) ndarray
        Voxel index -> RAS mm of the new order.

    Examples
    --------
    >>> lpi = np.diag([-1.0, -1.0, -1.0, 1.0])
    >>> turned, affine = reorient(np.arange(3).reshape(3, 1, 1), lpi)
    >>> turned.ravel().tolist(), affine[0].tolist()
    ([2, 1, 0], [1.0, 0.0, 0.0, -2.0])
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(
            f"image: expected three axes, found shape {image.shape}. Take one volume of a series "
            "with image[..., 0]."
        )
    turn = nib.io_orientation(checks.check_affine(affine))
    turned = nib.apply_orientation(image, turn)
    return turned, affine @ nib.orientations.inv_ornt_aff(turn, image.shape)


def resample(
    image, affine, shape, grid_affine, *, matrix=None, labels=False, keep_background=False
):
    """Sample an image on another grid, through an affine of the world, in one interpolation.

    Parameters
    ----------
    image : (i, j, k) ndarray
        Intensities, or integers with ``labels=True``.
    affine : (4, 4) ndarray
        Voxel index of `image` -> mm of its world (RAS).
    shape : tuple of int
        Of the wanted grid.
    grid_affine : (4, 4) ndarray
        Voxel index of the wanted grid -> mm of its world (RAS).
    matrix : (4, 4) ndarray, optional
        Wanted world -> world of `image` (pull; what `vxmlib.sources.align` stores).
        Default: the same.
    labels : bool
        False: linear, smoothed before where the new voxels are larger (anti-aliasing).
        True: the nearest voxel, integers in the image's type.
    keep_background : bool
        For skull-stripped images: a new voxel that is mostly background (0 or below) in the old
        ones is exactly 0.  Interpolation alone leaves a faint rim around the brain.

    Returns
    -------
    shape ndarray
        float32, or the type of a label map.  0 outside the image.

    Notes
    -----
    The smoothing is a Gaussian of standard deviation (r - 1) / 2 voxels, r being the size of a
    new voxel in old ones along each axis; none for r <= 1.

    Examples
    --------
    >>> ramp = np.arange(6.0).reshape(6, 1, 1)
    >>> half_a_voxel = np.eye(4)
    >>> half_a_voxel[0, 3] = 0.5
    >>> resample(ramp, np.eye(4), (3, 1, 1), half_a_voxel).ravel().tolist()
    [0.5, 1.5, 2.5]
    """
    to_voxel = np.linalg.inv(affine) @ (np.eye(4) if matrix is None else matrix) @ grid_affine
    image = np.asarray(image)
    if labels:
        return _sample(image, to_voxel, shape, order=0)
    size = np.linalg.norm(to_voxel[:3, :3], axis=1)  # of a new voxel, along each old axis
    blur = np.maximum(size - 1, 0) / 2
    sampled = _sample(ndimage.gaussian_filter(image.astype(np.float32), blur), to_voxel, shape)
    if keep_background:
        brain = ndimage.gaussian_filter((image > 0).astype(np.float32), blur)
        sampled[_sample(brain, to_voxel, shape) < 0.5] = 0
    return sampled


def _sample(image, to_voxel, shape, order=1):
    """Interpolate at ``to_voxel @ index``; what lies outside is 0."""
    linear, start = to_voxel[:3, :3], to_voxel[:3, 3]
    how = {"output_shape": tuple(shape), "order": order, "mode": "grid-constant"}
    return ndimage.affine_transform(image, linear, start, **how)


def normalise(image, *, percentile=99.5):
    """Scale intensities to [0, 1] by a high percentile of the brain, and cut off what is above.

    A percentile and not the maximum, because one bright vessel would darken everything else.

    Parameters
    ----------
    image : (*vol) ndarray
        Background 0 or below; finite.
    percentile : float
        0 < percentile <= 100; this percentile of the voxels above 0 becomes 1.

    Returns
    -------
    (*vol) float32 ndarray
        In [0, 1]; what was 0 or below is 0.

    Raises
    ------
    ValueError
        NaN or infinite values, or nothing above 0.

    Examples
    --------
    >>> normalise(np.array([-3.0, 0.0, 1.0, 2.0, 4.0]), percentile=100).tolist()
    [0.0, 0.0, 0.25, 0.5, 1.0]
    """
    image = np.asarray(image, np.float32)
    percentile = checks.check_number("percentile", percentile, above=0, most=100)
    checks.check_finite(image, "image")
    brain = image[image > 0]
    if brain.size == 0:
        raise ValueError(
            f"image: no voxel is above 0 (found {image.min():g} to {image.max():g}). The brain "
            "has to be brighter than a background of 0."
        )
    return np.clip(image / np.percentile(brain, percentile), 0, 1).astype(np.float32)


def crop_or_pad(image, shape=None):
    """Cut or fill with 0 on both ends of each axis, so that the middle stays the middle.

    Parameters
    ----------
    image : (*vol) ndarray
    shape : tuple of int, optional
        Wanted; default: the next multiples of 16 (`vxmlib.checks.fitting_shape`).

    Returns
    -------
    result : ndarray of that shape
        A copy of the same type.
    offset : (nd,) int ndarray
        ``result[x] == image[x + offset]`` where both exist.  The result's affine is
        ``affine @ nibabel.affines.from_matvec(numpy.eye(3), offset)``.

    Examples
    --------
    >>> crop_or_pad(np.array([1, 2, 3, 4]), (2,))[0].tolist()
    [2, 3]
    >>> crop_or_pad(np.array([1, 2]), (4,))[0].tolist()
    [0, 1, 2, 0]
    """
    image = np.asarray(image)
    shape = checks.fitting_shape(image.shape) if shape is None else tuple(shape)
    if len(shape) != image.ndim:
        raise ValueError(
            f"shape={shape}: expected {image.ndim} numbers, as the image has shape {image.shape}."
        )
    old, new = np.array(image.shape), np.array(shape)
    offset = np.fix((old - new) / 2).astype(int)  # towards 0: padding undoes cropping
    first, last = np.maximum(offset, 0), np.minimum(offset + new, old)  # shared part, in `image`
    result = np.zeros(shape, image.dtype)
    result[_box(first - offset, last - offset)] = image[_box(first, last)]
    return result, offset


def _box(first, last):
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True))
