"""Classical registration methods: identity, SyN (ANTs) and demons (SimpleITK).

Each takes two images on one grid and returns the displacement in the convention of this package, so
that :func:`vxmlib.metrics.evaluate_pairs` measures it as it measures a network. The images have to
be affinely aligned already; nothing here moves them rigidly first.
"""

import contextlib
import importlib
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from vxmlib.axes import itk_grid
from vxmlib.checks import check_choice, check_finite
from vxmlib.warp import identity as no_displacement

# The packages that do the work, and the names by which they are imported.
_MODULES = {"antspyx": "ants", "SimpleITK": "SimpleITK"}
_METRICS = {"cc": ("CC", 4), "mattes": ("mattes", 32)}  # metric -> name in ANTs, radius or bins


class BaselineMissing(ImportError):
    """The package behind a baseline is not installed; the message says which and how to get it."""


def identity(moving, fixed, *, affine=None):
    """Move nothing: the overlap that the affine alignment has given already.

    Parameters
    ----------
    moving, fixed : array_like, (*vol)
        Images in [0, 1] on one grid.
    affine : array_like, optional
        As for :func:`syn`; without effect.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` float32, zero.

    Examples
    --------
    >>> image = np.linspace(0, 1, 16, dtype="float32").reshape(4, 4)
    >>> float(abs(identity(image, image)).max())
    0.0
    """
    moving, fixed = _pair(moving, fixed)
    return no_displacement(fixed.shape)


def syn(moving, fixed, *, affine=None, metric="cc", iterations=(100, 70, 50, 20)):
    """Symmetric diffeomorphic registration of ANTs, deformable stage alone.

    Parameters
    ----------
    moving, fixed : array_like, (*vol)
        Images in [0, 1] on one grid, 2D or 3D.
    affine : array_like, optional
        Voxel index to RAS millimetres of that grid, 4 x 4 (3D) or 3 x 3 (2D: of the plane). Without
        one: voxels of 1 mm, axes straight.
    metric : {"cc", "mattes"}
        Local correlation with radius 4, or ANTs' default, mutual information with 32 bins.
    iterations : tuple of int
        At most so many at each resolution, coarse to fine; the last is full size, each earlier
        one half of the next. Smoothing is ``level`` voxels, ANTs' own rule.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` float32 in voxels on the fixed grid, pointing into the moving
        image.

    Raises
    ------
    BaselineMissing
        ``antspyx`` is not installed.
    ValueError
        Images that do not fit together, unknown metric, or an affine that does not fit.
    RuntimeError
        ANTs ended without a result.

    Notes
    -----
    Nothing here is random: the metric sees all voxels. The sum over threads may differ in the last
    digit. ANTs' other parameters are its defaults (gradient step 0.2, smoothing of the update by
    3 voxels, none of the total field).

    References
    ----------
    Avants et al., Medical Image Analysis 2008.
    """
    return syn_both(moving, fixed, affine=affine, metric=metric, iterations=iterations)[0]


def syn_both(moving, fixed, *, affine=None, metric="cc", iterations=(100, 70, 50, 20)):
    """Register once by SyN and return both displacements.

    SyN moves both images towards a middle and so has the way back, too: registering the fixed
    image onto the moving one gives the same, but for rounding.

    Parameters
    ----------
    moving, fixed, affine, metric, iterations
        As for :func:`syn`.

    Returns
    -------
    forward, backward : numpy.ndarray
        Displacements ``(*vol, nd)`` float32 in voxels: that of :func:`syn`, and the one on the
        grid of the moving image that points into the fixed one.

    Raises
    ------
    BaselineMissing, ValueError, RuntimeError
        As :func:`syn`.
    """
    ants = _import("antspyx")
    moving, fixed = _pair(moving, fixed)
    name, sampling = _METRICS[check_choice("metric", metric, _METRICS)]
    axes, spacing, direction, origin = _grid(affine, fixed.ndim)
    place = {"spacing": tuple(spacing), "direction": direction, "origin": tuple(origin)}
    with tempfile.TemporaryDirectory() as folder:
        files = ants.registration(
            fixed=ants.from_numpy(fixed, **place),
            moving=ants.from_numpy(moving, **place),
            type_of_transform="SyNOnly",
            initial_transform="Identity",
            syn_metric=name,
            syn_sampling=sampling,
            reg_iterations=tuple(iterations),
            outprefix=str(Path(folder) / "syn"),
        )
        return tuple(
            _to_voxels(ants.image_read(_only_warp(files[way])).numpy(), axes)
            for way in ("fwdtransforms", "invtransforms")
        )


def _only_warp(files):
    """The one field among the transforms that ANTs wrote; the other is the identity."""
    fields = [path for path in files if path.endswith("Warp.nii.gz")]
    if len(fields) != 1:
        raise RuntimeError(
            f"ANTs wrote {files}, expected one warp; its output above says why: often an image is "
            "empty, or lies outside of the other"
        )
    return fields[0]


def demons(moving, fixed, *, affine=None, iterations=(100, 70, 50), smoothing=1.5):
    """Diffeomorphic demons of SimpleITK, coarse to fine, after matching the histograms.

    Parameters
    ----------
    moving, fixed, affine
        As for :func:`syn`.
    iterations : tuple of int
        At each resolution, coarse to fine; the last is full size, each earlier one half of the
        next.
    smoothing : float
        SD in voxels of the Gaussian that smooths the field after each iteration.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` float32 in voxels on the fixed grid.

    Raises
    ------
    BaselineMissing
        SimpleITK is not installed.
    ValueError
        Images or an affine that do not fit.

    References
    ----------
    Vercauteren et al., NeuroImage 2009.
    """
    sitk = _import("SimpleITK")
    moving, fixed = _pair(moving, fixed)
    axes, spacing, direction, origin = _grid(affine, fixed.ndim)

    def as_image(array):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))  # SimpleITK counts z, y, x
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(origin.tolist())
        image.SetDirection(direction.ravel().tolist())
        return image

    target = as_image(fixed)
    bins, points, without_background = 256, 7, True
    source = sitk.HistogramMatching(as_image(moving), target, bins, points, without_background)
    field = None
    for level, count in zip(range(len(iterations))[::-1], iterations, strict=True):
        target_now, source_now = (_coarser(sitk, image, 2**level) for image in (target, source))
        step = sitk.DiffeomorphicDemonsRegistrationFilter()
        step.SetNumberOfIterations(int(count))
        step.SetSmoothDisplacementField(True)
        step.SetStandardDeviations(float(smoothing))
        if field is None:
            field = step.Execute(target_now, source_now)
        else:
            field = step.Execute(target_now, source_now, _on_grid_of(sitk, field, target_now))
    vectors = sitk.GetArrayFromImage(field)
    return _to_voxels(np.moveaxis(vectors, range(fixed.ndim), range(fixed.ndim)[::-1]), axes)


def versions():
    """Return the installed version of each package that a baseline needs, None where it is missing.

    Examples
    --------
    >>> sorted(versions())
    ['SimpleITK', 'antspyx']
    """
    installed = dict.fromkeys(_MODULES)
    for package in installed:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def _import(package):
    try:
        return importlib.import_module(_MODULES[package])
    except ImportError as error:
        raise BaselineMissing(
            f"{package} is not installed ({error}): pip install {package}, or `make env`; the "
            "other methods work without it"
        ) from error


def _pair(moving, fixed):
    """Two finite float32 images on one grid."""
    moving, fixed = (np.ascontiguousarray(image, np.float32) for image in (moving, fixed))
    if moving.shape != fixed.shape or fixed.ndim not in (2, 3):
        raise ValueError(
            f"moving, fixed: found shapes {moving.shape} and {fixed.shape}, expected one shape "
            "with 2 or 3 axes; resample both to one grid (vxmlib.preprocess.resample)"
        )
    check_finite(moving, "moving")
    check_finite(fixed, "fixed")
    return moving, fixed


def _grid(affine, ndim):
    """The grid as ITK describes it; without an affine, one of straight axes and 1 mm."""
    return itk_grid(np.eye(ndim + 1) if affine is None else affine, ndim)


def _to_voxels(vectors, axes):
    """Vectors in LPS mm to voxels."""
    return np.ascontiguousarray(vectors @ np.linalg.inv(axes).T, np.float32)


def _coarser(sitk, image, factor):
    """The image smoothed and on a grid with voxels ``factor`` times as large."""
    if factor == 1:
        return image
    smooth = sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * s for s in image.GetSpacing()])
    return sitk.Shrink(smooth, [factor] * image.GetDimension())


def _on_grid_of(sitk, field, image):
    """A displacement in mm, resampled to the grid of an image."""
    return sitk.Resample(
        field, image, sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True
    )
