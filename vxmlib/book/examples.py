"""Write the files with which some pages start: raw scans, and the data of the one-page script.

The real cohorts have raw scans. For the simulated cohort, a raw scan is made: one subject at a
known :func:`pose` in a scanner, resampled to another grid and stored as 16-bit integers.
"""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from vxmlib import cohorts, files, nifti, preprocess
from vxmlib.experiments import runs
from vxmlib.sources import malf, own

SCANNER_SHAPE = (180, 150, 160)
SCANNER_SPACING = 1.2  # mm
#: Structures whose middles are the landmarks of `two_scans`.
LANDMARKS = (4, 43, 10, 49, 11, 50, 12, 51, 17, 53)


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


def two_scans(folder, *, coarse: int = 1) -> dict:
    """Write two simulated heads as raw scans on awkward grids, with label maps and landmarks.

    Parameters
    ----------
    folder : path
    coarse : {1, 2}
        Factor by which all voxels are larger; 2 takes a fraction of the time.

    Returns
    -------
    dict of str to Path
        ``moving`` and ``fixed``: oblique scans with voxels of 1.2 mm x 1.2 mm x 2 mm and of 1.1 mm,
        in different orientations; ``moving_labels`` and ``fixed_labels``; ``landmarks``: ten points
        of the moving scan; and ``truth``: the same points on the fixed scan, from the known
        displacements of the heads.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    people = cohorts.load("mni", ndim=3, spacing=float(coarse))
    subjects = dict(zip(("moving", "fixed"), people.split["test"], strict=False))
    paths = {}
    for role, subject in subjects.items():
        shape, affine, matrix = _POSES[role](coarse)
        place = {"shape": shape, "grid_affine": affine, "matrix": np.linalg.inv(matrix)}
        image = preprocess.resample(people.image(subject), people.affine, **place)
        labels = preprocess.resample(people.labels(subject), people.affine, labels=True, **place)
        for name, array in ((role, (900 * image).astype(np.int16)), (f"{role}_labels", labels)):
            paths[name] = folder / f"{name}.nii.gz"
            nifti.write(paths[name], array, affine)
    return paths | _landmarks(people, subjects, folder)


def _landmarks(people, subjects, folder):
    """Write the middle of some structures of the fixed head, and where they lie in the moving one.

    Both positions are known, because the heads are simulated.
    """
    labels = people.labels(subjects["fixed"])
    voxels = np.array([_middle(labels == label) for label in LANDMARKS])
    moves = people.true_pair_displacement(subjects["moving"], subjects["fixed"])[tuple(voxels.T)]
    names = [people.structures[label] for label in LANDMARKS]
    paths = {}
    for name, role, index in (
        ("landmarks", "moving", voxels + moves),
        ("truth", "fixed", voxels),
    ):
        points = nib.affines.apply_affine(_POSES[role](1)[2] @ people.affine, index)
        table = pd.DataFrame(points.round(3), columns=["x_ras", "y_ras", "z_ras"])
        paths[name] = folder / f"{name}.csv"
        table.assign(name=names).to_csv(paths[name], index=False)
    return paths


def _middle(structure):
    """Return the voxel of a structure that is nearest to its centre of mass."""
    voxels = np.argwhere(structure)
    return voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()]


def _oblique(degrees, columns):
    """Return the axes of a turned grid; each column is the step of one voxel in mm."""
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return turn @ np.array(columns, float).T


def _posed(degrees, shift, scale, shape, axes):
    """Return a scanner's grid and the pose of a head: shape, affine, template -> scan RAS mm."""
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine = nib.affines.from_matvec(axes, shift - axes @ ((np.array(shape) - 1) / 2))
    # The head's middle, 16 mm behind and 8 mm above the origin of MNI space, becomes `shift`.
    middle = np.array([0.0, -16.0, 8.0])
    return shape, affine, nib.affines.from_matvec(scale * turn, shift - scale * turn @ middle)


#: Role -> the grid of the scanner, and the pose of the head in it.
_POSES = {
    # Thick slices; the array axes run to the Left, Posterior and Superior, tilted as in a scanner.
    "moving": lambda coarse: _posed(
        [-12, 4, 7],
        np.array([12.0, -20.0, 35.0]),
        0.97,
        tuple(size // coarse for size in (150, 176, 84)),
        coarse * _oblique([-9, 0, 3], [[-1.2, 0, 0], [0, -1.2, 0], [0, 0, 2.0]]),
    ),
    # Sagittal slices; the array axes run to the Anterior, Inferior and Right.
    "fixed": lambda coarse: _posed(
        [8, -5, -10],
        np.array([-6.0, 15.0, -10.0]),
        1.04,
        tuple(size // coarse for size in (184, 176, 160)),
        coarse * _oblique([4, -3, 0], [[0, 1.1, 0], [0, 0, -1.1], [1.1, 0, 0]]),
    ),
}


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
