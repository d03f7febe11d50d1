"""Reorient, resample, normalise and crop a scan into the form that the network takes.

The steps are: reorient the scan to RAS (`reorient`), resample it through an affine on the common
grid with one interpolation (`resample`), scale its intensities to [0, 1] (`normalise`), and make
the size of every axis a multiple of 16 (`crop_or_pad`). `vxmlib.checks` reports any problem that
is left.
"""

import nibabel as nib
import numpy as np
from scipy import ndimage

from vxmlib import checks


def reorient(image, affine):
    """Permute and flip the axes of an image so that they run to the Right, Anterior and Superior.

    Nothing is interpolated: axes are only exchanged or reversed, so an oblique scan stays
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
        Voxel index -> RAS mm, for the new order of the axes.

    Raises
    ------
    ValueError
        If the image does not have three axes, or the affine is invalid.

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
            f"image: expected three axes, found shape {image.shape}. Select one volume of a "
            "series, for example with image[..., 0]."
        )
    turn = nib.io_orientation(checks.check_affine(affine))
    turned = nib.apply_orientation(image, turn)
    return turned, affine @ nib.orientations.inv_ornt_aff(turn, image.shape)


def resample(
    image, affine, shape, grid_affine, *, matrix=None, labels=False, keep_background=False
):
    """Resample an image on another grid, through an optional affine, with one interpolation.

    Parameters
    ----------
    image : (i, j, k) ndarray
        Intensities, or integers with ``labels=True``.
    affine : (4, 4) ndarray
        Voxel index of `image` -> RAS mm in the world space of `image`.
    shape : tuple of int
        Shape of the new grid.
    grid_affine : (4, 4) ndarray
        Voxel index of the new grid -> RAS mm in the world space of the new grid.
    matrix : (4, 4) ndarray, optional
        World space of the new grid -> world space of `image`, in mm. This is the pull direction,
        in which `vxmlib.sources.align` stores its matrices. By default, the two spaces are equal.
    labels : bool
        If false, interpolation is linear, and the image is smoothed first where the new voxels
        are larger (anti-aliasing). If true, each new voxel takes the value of the nearest voxel.
    keep_background : bool
        For skull-stripped images: whether to set a new voxel to exactly 0 if the original voxels
        around it are mostly background (0 or below). Interpolation alone leaves a faint rim
        around the brain. It has no effect on labels.

    Returns
    -------
    (*shape) ndarray
        float32, or the type of the label map; 0 outside the image.

    Notes
    -----
    The smoothing is a Gaussian with a standard deviation of (r - 1) / 2 voxels, where r is the
    size of a new voxel in original voxels along each axis; there is no smoothing for r <= 1.

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
    size = np.linalg.norm(to_voxel[:3, :3], axis=1)  # of a new voxel, along each axis of `image`
    blur = np.maximum(size - 1, 0) / 2
    sampled = _sample(ndimage.gaussian_filter(image.astype(np.float32), blur), to_voxel, shape)
    if keep_background:
        brain = ndimage.gaussian_filter((image > 0).astype(np.float32), blur)
        sampled[_sample(brain, to_voxel, shape) < 0.5] = 0
    return sampled


def _sample(image, to_voxel, shape, order=1):
    """Interpolate at ``to_voxel @ index``, with zeros outside the image."""
    linear, start = to_voxel[:3, :3], to_voxel[:3, 3]
    how = {"output_shape": tuple(shape), "order": order, "mode": "grid-constant"}
    return ndimage.affine_transform(image, linear, start, **how)


def normalise(image, *, percentile=99.5):
    """Scale intensities to [0, 1] by a high percentile of the brain, and clip values above it.

    A percentile is used instead of the maximum, because a single bright vessel would otherwise
    darken the rest of the image.

    Parameters
    ----------
    image : (*vol) ndarray
        Finite intensities, 0 or below in the background.
    percentile : float
        Percentile of the voxels above 0 that becomes 1; above 0, at most 100.

    Returns
    -------
    (*vol) float32 ndarray
        Intensities in [0, 1]; values of 0 or below become 0.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, no value is above 0, or `percentile` is out of range.

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
            "must have intensities above 0, and the background 0 or below."
        )
    return np.clip(image / np.percentile(brain, percentile), 0, 1).astype(np.float32)


def crop_or_pad(image, shape=None):
    """Crop or zero-pad each axis at both ends, so that the centre stays the centre.

    Parameters
    ----------
    image : (*vol) ndarray
        Intensities or labels.
    shape : tuple of int, optional
        New shape. By default, each size is rounded up to a multiple of 16
        (`vxmlib.checks.fitting_shape`).

    Returns
    -------
    result : (*shape) ndarray
        Copy of the same type.
    offset : (nd,) int ndarray
        ``result[x] == image[x + offset]`` where both exist. In 3D, the affine of the result is
        ``affine @ nibabel.affines.from_matvec(numpy.eye(3), offset)``.

    Raises
    ------
    ValueError
        If `shape` does not have one size for each axis of the image.

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
            f"shape: found {shape}, expected {image.ndim} numbers, because the image has shape "
            f"{image.shape}."
        )
    old, new = np.array(image.shape), np.array(shape)
    offset = np.fix((old - new) / 2).astype(int)  # towards 0: padding undoes cropping
    first, last = np.maximum(offset, 0), np.minimum(offset + new, old)  # kept part of `image`
    result = np.zeros(shape, image.dtype)
    result[_box(first - offset, last - offset)] = image[_box(first, last)]
    return result, offset


def _box(first, last):
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True))
