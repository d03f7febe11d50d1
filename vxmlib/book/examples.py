"""Write the files with which two pages start: a raw scan, and the data of the one-page script.

The real cohorts have raw scans. For the simulated cohort, a raw scan is made: one subject at a
known :func:`pose` in a scanner, resampled to another grid and stored as 16-bit integers.
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
    """Return the path of one scan before preprocessing; write the scan if the cohort is simulated.

    Parameters
    ----------
    settings : vxmlib.experiments.settings.Settings
        Only ``cohort`` and ``root`` are used.
    folder : path
        Folder for the simulated scan. A real scan stays where it is.

    Returns
    -------
    Path
        A skull-stripped NIfTI file with any orientation, voxel size and pose.
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
        Settings of the cohort. The images are 2D slices in every profile.
    folder : path
        Folder in which ``brains.npz`` is written.

    Returns
    -------
    Path
        The file ``brains.npz`` with ``images``, float32 of shape ``(n, *vol)`` in [0, 1], and
        ``labels``, int16 of shape ``(n, *vol)``. All training subjects come first, followed by the
        first two test subjects.
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
    """Return the pose of the simulated scan: a 4x4 matrix from template RAS mm to scan RAS mm.

    In this direction (pull), the matrix resamples the scan to the template's grid.

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
    """Write the first simulated training subject like a raw scan: rotated, flipped, int16."""
    people = cohorts.load("mni", ndim=3)
    person = people.image(people.split["train"][0])
    middle = (np.array(SCANNER_SHAPE) - 1) / 2
    # The array axes run to Posterior, Left and Inferior, so each of them differs from RAS.
    axes = SCANNER_SPACING * np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    affine = nib.affines.from_matvec(axes, -axes @ middle)
    placed = preprocess.resample(
        person, people.affine, SCANNER_SHAPE, affine, matrix=np.linalg.inv(pose())
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, (900 * placed).astype(np.int16), affine)
    return path
