"""Register two files, and write the results that ANTs, ITK and 3D Slicer read into one folder."""

import os
import resource
import shutil
import sys
import time
import uuid
from pathlib import Path

import numpy as np

from vxmlib import files, metrics, nifti, preprocess, records, warp
from vxmlib.axes import RAS_TO_LPS
from vxmlib.scans import inputs, report
from vxmlib.scans.inputs import InputError
from vxmlib.scans.mapping import sample
from vxmlib.scans.register import register
from vxmlib.scans.settings import FILES, STEPS


def register_files(
    moving,
    fixed,
    out,
    *,
    moving_labels=None,
    fixed_labels=None,
    landmarks=None,
    weights=None,
    spacing=2.0,
    steps=STEPS,
    alignment="affine",
    check=True,
    overwrite=False,
    say=None,
):
    """Register the scan in one file to the scan in another, and write a folder of results.

    All scans are read and checked before anything is computed. The folder appears complete or not
    at all.

    Parameters
    ----------
    moving, fixed : path
        Skull-stripped T1 scans, see :func:`vxmlib.scans.inputs.read_scan`.
    out : path
        Folder to create. It gets the files of :data:`FILES`; those of label maps and landmarks only
        if they are given.
    moving_labels, fixed_labels : path, optional
        Label maps on the grids of the scans. The first is warped; with both, Dice is measured.
    landmarks : path, optional
        Landmarks of the moving scan, see :func:`vxmlib.scans.inputs.read_landmarks`.
    weights, spacing, steps, alignment, check, say
        As for :func:`vxmlib.scans.register.register`.
    overwrite : bool
        Whether to replace an existing folder that an earlier call wrote.

    Returns
    -------
    dict
        The record in ``report.json``, see :mod:`vxmlib.records`. Its ``metrics`` are:
        ``correlation_affine`` and ``correlation``, of the intensities in the fixed brain, after the
        affine alignment and at the end; ``ncc_affine`` and ``ncc``, the mean local correlation
        (:func:`vxmlib.metrics.local_ncc`) on the network's grid; ``folded_voxels`` and
        ``folding_percent_brain``, of the voxels of the fixed brain; ``overlap``, Dice of the brain
        masks of each scan and the template; ``dice_affine`` and ``dice``, for each label, if both
        label maps are given; ``landmark_error_mm``, if landmarks are given; ``seconds`` of each
        step; and ``memory_gb``, the largest memory of this process.

    Raises
    ------
    InputError
        If a file or the folder cannot be used, or as :func:`vxmlib.scans.register.register`.
    """
    start = time.perf_counter()
    out = Path(out).expanduser()
    _check_folder(out, overwrite)
    scans = {"moving": inputs.read_scan(moving), "fixed": inputs.read_scan(fixed)}
    maps = {
        role: inputs.read_label_map(path, scans[role])
        for role, path in (("moving", moving_labels), ("fixed", fixed_labels))
        if path is not None
    }
    points = None if landmarks is None else inputs.read_landmarks(landmarks, scans["moving"])
    options = {"spacing": spacing, "steps": steps, "alignment": alignment, "check": check}
    found = register(*scans.values(), weights=weights, say=say, **options)
    began = time.perf_counter()
    if say is not None:
        say("write the results")
    part = out.with_name(f".part-{uuid.uuid4().hex}")
    try:
        part.mkdir(parents=True)
        measures, pictures = _write(part, scans, maps, points, found)
        found.seconds["write the results"] = time.perf_counter() - began
        named = {"moving": str(moving), "fixed": str(fixed), "weights": weights and str(weights)}
        record = records.provenance(
            "register",
            cohort="own",
            profile="full",
            seed=0,
            parameters=named | options,
            seconds=time.perf_counter() - start,
        )
        notes = [note for scan in scans.values() for note in scan.notes]
        record["metrics"] = measures | {"seconds": found.seconds, "memory_gb": _memory_gb()}
        record["notes"] = notes
        records.write(part / "report.json", record)
        files.write_text(part / "report.html", report.page(record, pictures, found.mapping))
        _replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return record


def _check_folder(out, overwrite):
    """Refuse a folder that exists, unless it is one of ours, or that cannot be created."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: found a file, expected a folder to create")
    if out.exists() and any(out.iterdir()):
        strange = sorted(path.name for path in out.iterdir() if path.name not in FILES)
        if not overwrite:
            raise InputError(f"{out}: this folder exists; name another one, or use --overwrite")
        if strange:
            raise InputError(
                f"{out}: found {', '.join(strange[:3])}, expected only files of an earlier "
                "registration; name another folder"
            )
    parent = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        raise InputError(f"{out}: no permission to write in {parent}")


def _replace(part, out):
    """Put the finished folder in place of the old one."""
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)


def _write(folder, scans, maps, points, found):
    """Write the files of :data:`FILES` without the report, and return measures and pictures."""
    moving, fixed = scans["moving"], scans["fixed"]
    field = found.mapping.on_grid(fixed.image.shape, fixed.affine)
    nifti.write_displacement(folder / "warp.nii.gz", field, fixed.affine)
    backward = found.mapping.inverse().on_grid(moving.image.shape, moving.affine)
    nifti.write_displacement(folder / "inverse_warp.nii.gz", backward, moving.affine)
    files.write_text(folder / "affine.txt", itk_affine(found.mapping.linear))

    def warped(array, **how):
        return sample(array, moving.affine, field, fixed.affine, **how)

    def aligned(array, **how):
        grid = fixed.image.shape, fixed.affine
        return preprocess.resample(array, moving.affine, *grid, matrix=found.mapping.linear, **how)

    pictures = {"fixed": fixed.image, "affine": fixed.affine}
    pictures |= {"aligned": aligned(moving.image), "warped": warped(moving.image)}
    nifti.write(folder / "warped.nii.gz", pictures["warped"], fixed.affine)
    measures = _similarity(pictures, found) | _folding(field, fixed.image > 0)
    if "moving" in maps:
        labels = pictures["warped labels"] = warped(maps["moving"], labels=True)
        nifti.write(folder / "warped_labels.nii.gz", labels, fixed.affine)
        if "fixed" in maps:
            before = aligned(maps["moving"], labels=True)
            measures["dice_affine"] = metrics.dice(before, maps["fixed"])
            measures["dice"] = metrics.dice(labels, maps["fixed"])
    if "fixed" in maps:
        pictures["labels"] = maps["fixed"]
    if points is not None:
        table, positions = points
        moved, error = found.mapping.invert_points(positions)
        inputs.with_points(table, moved).to_csv(folder / "landmarks.csv", index=False)
        measures["landmark_error_mm"] = error.max()
    return measures, pictures


def _similarity(pictures, found):
    """Return correlations in the fixed brain, after the affine alignment and at the end."""
    brain, inner = pictures["fixed"] > 0, found.fixed > 0
    warped = warp.warp_image(found.moving, found.mapping.displacement)

    def correlation(image):
        return np.corrcoef(image[brain], pictures["fixed"][brain])[0, 1]

    return {
        "correlation_affine": correlation(pictures["aligned"]),
        "correlation": correlation(pictures["warped"]),
        "ncc_affine": metrics.local_ncc(found.moving, found.fixed, mask=inner),
        "ncc": metrics.local_ncc(warped, found.fixed, mask=inner),
        "overlap": {role: each["mask_dice"] for role, each in found.overlap.items()},
    }


def _folding(field, brain):
    folded = (metrics.jacobian_determinant(field) <= 0)[brain]
    return {
        "folded_voxels": int(folded.sum()),
        "folding_percent_brain": 100 * float(folded.mean()),
    }


def itk_affine(matrix):
    """Return a matrix as the text of an affine transform of ITK.

    Parameters
    ----------
    matrix : (4, 4) array_like
        RAS mm of the fixed scan -> RAS mm of the moving scan.

    Returns
    -------
    str
        Content of a ``.txt`` or ``.tfm`` file, in LPS mm, with the centre at 0.

    Examples
    --------
    >>> shift = np.eye(4)
    >>> shift[:3, 3] = 1, 2, 3
    >>> print(itk_affine(shift).splitlines()[3])
    Parameters: 1.0 0.0 0.0 0.0 1.0 0.0 0.0 0.0 1.0 -1.0 -2.0 3.0
    """
    lps = RAS_TO_LPS @ np.asarray(matrix, np.float64) @ RAS_TO_LPS
    numbers = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    return (
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(repr(float(number) + 0.0) for number in numbers)}\n"
        "FixedParameters: 0 0 0\n"
    )


def _memory_gb():
    """Return the largest memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
