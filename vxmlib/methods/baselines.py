"""Register pairs by classical methods: identity, SyN (ANTs), greedy (PICSL), demons (SimpleITK).

Each method takes two images on one grid and returns the displacement in the convention of this
package, so that :func:`vxmlib.metrics.evaluate_pairs` can evaluate it in the same way as a network.
The images must already be affinely aligned, because no method here has a rigid or affine stage.
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

# Package -> name by which it is imported.
_MODULES = {"antspyx": "ants", "SimpleITK": "SimpleITK", "picsl-greedy": "picsl_greedy"}
# Metric -> its name in ANTs, and its radius (cc) or number of bins (mattes).
_METRICS = {"cc": ("CC", 4), "mattes": ("mattes", 32)}
# Metric -> its option in greedy. NCC has a radius of 2 voxels, a window of 5.
_GREEDY_METRICS = {"ncc": "NCC {radius}", "nmi": "NMI"}


class BaselineMissing(ImportError):
    """The package that a baseline needs is not installed; the message says how to install it."""


def identity(moving, fixed, *, affine=None):
    """Return a displacement of zero, to measure the affine alignment alone.

    Parameters
    ----------
    moving, fixed : array_like, (*vol)
        Images in [0, 1] on one grid, 2D or 3D.
    affine : array_like, optional
        As for :func:`syn`, but without effect.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` float32, zero everywhere.

    Examples
    --------
    >>> image = np.linspace(0, 1, 16, dtype="float32").reshape(4, 4)
    >>> float(abs(identity(image, image)).max())
    0.0
    """
    moving, fixed = _pair(moving, fixed)
    return no_displacement(fixed.shape)


def syn(moving, fixed, *, affine=None, metric="cc", iterations=(100, 70, 50, 20)):
    """Register by SyN, the symmetric diffeomorphic method of ANTs, without an affine stage.

    Parameters
    ----------
    moving, fixed : array_like, (*vol)
        Images in [0, 1] on one grid, 2D or 3D.
    affine : array_like, optional
        Voxel index -> RAS mm of the grid: 4 x 4 in 3D; 3 x 3 in 2D, in mm of the plane. Default is
        the identity: voxels of 1 mm and axes that are not rotated.
    metric : {"cc", "mattes"}
        "cc": local cross-correlation with radius 4. "mattes": mutual information with 32 bins,
        the default of ANTs.
    iterations : tuple of int
        Largest number of iterations at each resolution, coarse to fine. The last is full
        resolution, and each earlier one is half of the next. ANTs smooths the images by 0 voxels
        at full resolution, and by one voxel more at each coarser one.

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
        The images have different shapes or are not finite, the metric is unknown, or the affine
        has another size, has shear, or cannot be inverted.
    RuntimeError
        ANTs ended without a displacement.

    Notes
    -----
    No random numbers are drawn, because the metric uses all voxels. However, sums over several
    threads may differ in the last digit. All other parameters have ANTs' defaults: gradient step
    0.2, smoothing of the update field by 3 voxels, no smoothing of the total field.

    References
    ----------
    Avants et al., Medical Image Analysis 2008.
    """
    return syn_both(moving, fixed, affine=affine, metric=metric, iterations=iterations)[0]


def syn_both(moving, fixed, *, affine=None, metric="cc", iterations=(100, 70, 50, 20)):
    """Register once by SyN, and return the displacements of both directions.

    SyN moves both images towards a middle, so it also computes the backward displacement. Except
    for rounding, this is what registering the fixed image to the moving one would return.

    Parameters
    ----------
    moving, fixed, affine, metric, iterations
        As for :func:`syn`.

    Returns
    -------
    forward, backward : numpy.ndarray
        Displacements ``(*vol, nd)`` float32 in voxels. The first is that of :func:`syn`; the
        second is on the moving grid and points into the fixed image.

    Raises
    ------
    BaselineMissing, ValueError, RuntimeError
        As for :func:`syn`.
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
    """Return the only displacement field among ANTs' transforms; the other is the identity."""
    fields = [path for path in files if path.endswith("Warp.nii.gz")]
    if len(fields) != 1:
        raise RuntimeError(
            f"ANTs wrote {files}, expected one warp; its output above gives the reason: often an "
            "image is empty, or the images do not overlap"
        )
    return fields[0]


def greedy(moving, fixed, *, affine=None, metric="ncc", iterations=(100, 50, 20)):
    """Register by greedy, a fast diffeomorphic method for brain MRI, without an affine stage.

    Parameters
    ----------
    moving, fixed, affine
        As for :func:`syn`.
    metric : {"ncc", "nmi"}
        Normalised cross-correlation with a radius of 2 voxels, or normalised mutual information.
    iterations : tuple of int
        Number of iterations at each resolution, coarse to fine. The last is full resolution, and
        each earlier one is half of the next.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` float32 in voxels on the fixed grid, pointing into the moving
        image.

    Raises
    ------
    BaselineMissing
        ``picsl-greedy`` or SimpleITK is not installed.
    ValueError
        The images have different shapes or are not finite, the metric is unknown, or the affine
        has another size, has shear, or cannot be inverted.

    Notes
    -----
    The update is smoothed with a Gaussian of 1.7 voxels, and the displacement with one of 0.7
    voxels. The displacement is not rounded (greedy rounds to 0.1 voxels by default). greedy adds a
    little noise to the images, so two calls differ slightly.

    References
    ----------
    Yushkevich et al., Alzheimer's & Dementia 2016 (abstract); https://greedy.readthedocs.io.
    """
    picsl, sitk = _import("picsl-greedy"), _import("SimpleITK")
    moving, fixed = _pair(moving, fixed)
    option = _GREEDY_METRICS[check_choice("metric", metric, _GREEDY_METRICS)]
    axes, *place = _grid(affine, fixed.ndim)
    program = {2: picsl.Greedy2D, 3: picsl.Greedy3D}[fixed.ndim]()
    option = option.format(radius="x".join("2" * fixed.ndim))
    counts = "x".join(str(int(count)) for count in iterations)
    program.execute(
        f"-i fixed moving -m {option} -n {counts} -s 1.7vox 0.7vox -wp 0 -o warp -V 0",
        fixed=_sitk_image(sitk, fixed, *place),
        moving=_sitk_image(sitk, moving, *place),
        warp=None,
    )
    return _to_voxels(_vectors(sitk, program["warp"]), axes)


def demons(moving, fixed, *, affine=None, iterations=(100, 70, 50), smoothing=1.5):
    """Register by SimpleITK's diffeomorphic demons, coarse to fine, after histogram matching.

    Parameters
    ----------
    moving, fixed, affine
        As for :func:`syn`.
    iterations : tuple of int
        Number of iterations at each resolution, coarse to fine. The last is full resolution, and
        each earlier one is half of the next.
    smoothing : float
        Standard deviation, in voxels, of the Gaussian that smooths the displacement after each
        iteration.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` float32 in voxels on the fixed grid, pointing into the moving
        image.

    Raises
    ------
    BaselineMissing
        SimpleITK is not installed.
    ValueError
        The images have different shapes or are not finite, or the affine has another size, has
        shear, or cannot be inverted.

    References
    ----------
    Vercauteren et al., NeuroImage 2009.
    """
    sitk = _import("SimpleITK")
    moving, fixed = _pair(moving, fixed)
    axes, *place = _grid(affine, fixed.ndim)
    target, source = (_sitk_image(sitk, image, *place) for image in (fixed, moving))
    bins, points, without_background = 256, 7, True
    source = sitk.HistogramMatching(source, target, bins, points, without_background)
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
    return _to_voxels(_vectors(sitk, field), axes)


def versions():
    """Return the installed version of each package that a baseline needs, or None if missing.

    Examples
    --------
    >>> sorted(versions())
    ['SimpleITK', 'antspyx', 'picsl-greedy']
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
    """Return both images as float32, or raise an error if they are not finite or on one grid."""
    moving, fixed = (np.ascontiguousarray(image, np.float32) for image in (moving, fixed))
    if moving.shape != fixed.shape or fixed.ndim not in (2, 3):
        raise ValueError(
            f"moving, fixed: found shapes {moving.shape} and {fixed.shape}, expected equal shapes "
            "with 2 or 3 axes; resample both to one grid (vxmlib.preprocess.resample)"
        )
    check_finite(moving, "moving")
    check_finite(fixed, "fixed")
    return moving, fixed


def _grid(affine, ndim):
    """Describe the grid as ITK does; None stands for the identity affine."""
    return itk_grid(np.eye(ndim + 1) if affine is None else affine, ndim)


def _sitk_image(sitk, array, spacing, direction, origin):
    """Return an array as an image of SimpleITK, whose own arrays have the order z, y, x."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def _vectors(sitk, field):
    """Return a field of SimpleITK as an array in the order x, y, z: vectors in LPS mm."""
    ndim = field.GetDimension()
    return np.moveaxis(sitk.GetArrayFromImage(field), range(ndim), range(ndim)[::-1])


def _to_voxels(vectors, axes):
    """Convert vectors from LPS mm to voxels."""
    return np.ascontiguousarray(vectors @ np.linalg.inv(axes).T, np.float32)


def _coarser(sitk, image, factor):
    """Smooth an image, and sample it on voxels that are ``factor`` times as large."""
    if factor == 1:
        return image
    smooth = sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * s for s in image.GetSpacing()])
    return sitk.Shrink(smooth, [factor] * image.GetDimension())


def _on_grid_of(sitk, field, image):
    """Resample a displacement in mm to the grid of an image."""
    return sitk.Resample(
        field, image, sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True
    )
