"""Write the files that two pages start from: one raw scan, and the brains of the one-page script.

A real cohort has raw scans. For the simulated people one is written: a person in a scanner at a
known :func:`pose`, stored as 16-bit integers on another grid.
"""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from vxmlib import cohorts, files, nifti, preprocess
from vxmlib.experiments import runs
from vxmlib.sources import malf, own

SCANNER_SHAPE = (180, 150, 160)
SCANNER_SPACING = 1.2  # mm


def scan(settings, folder) -> Path:
    """The path of one unprepared scan of the settings' cohort.

    Parameters
    ----------
    settings : vxmlib.experiments.settings.Settings
        Their ``cohort`` and ``root``.
    folder : path
        Where the simulated scan is written; a real one stays where it is.

    Returns
    -------
    Path
        A NIfTI file: any orientation, voxel size and pose; skull-stripped.
    """
    if settings.cohort == "malf":
        return malf.scan_path(malf.TRAIN[0])
    if settings.cohort == "own":
        return next(path for path, _ in own.find(Path(settings.root)).values())
    return _simulated(Path(folder) / "scan.nii.gz")


def brains(settings, folder) -> Path:
    """Write the file that ``examples/one_page.py`` reads: coronal slices and their label maps.

    Parameters
    ----------
    settings : vxmlib.experiments.settings.Settings
        Their cohort; the slices are 2D in every profile.
    folder : path
        Where ``brains.npz`` is written.

    Returns
    -------
    Path
        Of a file with ``images`` ``(n, *vol)`` float32 in [0, 1] and ``labels`` ``(n, *vol)``
        int16: all training subjects, then the first two test subjects.
    """
    people = runs.load_cohort(replace(settings, ndim=2))
    subjects = [*people.split["train"], *people.split["test"][:2]]
    path = Path(folder) / "brains.npz"
    with files.whole(path) as part:
        np.savez(
            part,
            images=np.stack([people.image(subject) for subject in subjects]),
            labels=np.stack([people.labels(subject) for subject in subjects]),
        )
    return path


def pose() -> np.ndarray:
    """Where the simulated scan lies: template RAS mm -> scan RAS mm, 4x4 (a pull).

    Examples
    --------
    >>> round(float(np.linalg.det(pose())), 3)
    0.857
    """
    angle = np.deg2rad(9)
    turned = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    return nib.affines.from_matvec(0.95 * turned, [6.0, -11.0, 14.0])


def _simulated(path: Path) -> Path:
    """Write the template's first simulated person as a scanner would: turned, flipped, int16."""
    people = cohorts.load("mni", ndim=3)
    person = people.image(people.split["train"][0])
    middle = (np.array(SCANNER_SHAPE) - 1) / 2
    # Stored to the Posterior, the Left and the Inferior: as unlike RAS as scanners get.
    axes = SCANNER_SPACING * np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    affine = nib.affines.from_matvec(axes, -axes @ middle)
    placed = preprocess.resample(
        person, people.affine, SCANNER_SHAPE, affine, matrix=np.linalg.inv(pose())
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, (900 * placed).astype(np.int16), affine)
    return path
