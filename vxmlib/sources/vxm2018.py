"""Read the two scans that VoxelMorph's authors released, and their atlas, on one grid."""

import zipfile
from dataclasses import replace

import numpy as np

from vxmlib import checks, fetch
from vxmlib.cohorts import Cohort
from vxmlib.sources import labels as structure_labels

#: The authors' code and data of 2018.
REPOSITORY = "voxelmorph/voxelmorph/5d4879b711c663eb30dd90141342041eec9eea23"
_TUTORIAL = "learn2reg/tutorials2019/4077710c372b048c4879db94e6459b57ffff88f7"
FILES = {  # subject -> (image, label map)
    "test": (f"{REPOSITORY}/data/test_vol.npz", f"{REPOSITORY}/data/test_seg.npz"),
    "subject_1": (
        f"{_TUTORIAL}/unsupervised/data/3D/subject_1_vol.npz",
        f"{_TUTORIAL}/unsupervised/data/3D/subject_1_seg.npz",
    ),
}
#: The authors' atlas on the same grid, which the paper's table registers every scan to.
ATLAS = f"{_TUTORIAL}/unsupervised/data/3D/atlas_norm_3d.npz"
SHAPE = (160, 192, 224)
LICENCE = "test: GPL-3.0 (voxelmorph, branch legacy); subject_1: none stated"
CREDIT = (
    "Scans and FreeSurfer label maps released by the authors of VoxelMorph (Balakrishnan et al., "
    "CVPR 2018) and with the Learn2Reg tutorial 2019."
)


def affine():
    """Return voxel index -> mm: axes to the Left, Inferior, Anterior, as the labels show.

    The files carry no affine.  The origin, here the middle of the grid, is not known.

    Examples
    --------
    >>> affine()[:3, :3].tolist()
    [[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
    """
    matrix = np.eye(4)
    matrix[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return matrix


def cohort(*, ndim=3, spacing=1.0):
    """Build the cohort `vxm2018`; see `vxmlib.cohorts.load`."""
    checks.check_choice("ndim", ndim, (3,))
    checks.check_choice("spacing", spacing, (1.0,))
    for paths in FILES.values():
        for path in paths:
            fetch.fetch(path)
    return Cohort(
        name="vxm2018",
        ndim=3,
        shape=SHAPE,
        spacing=1.0,
        affine=affine(),
        plane=None,
        split={"train": (), "validation": (), "test": tuple(FILES)},
        structures=structure_labels.structures(),
        licence=LICENCE,
        credit=CREDIT,
        simulated=False,
        source=Released(),
    )


class Released:
    """Reads the two subjects: intensities (already in [0, 1]) and labels as released."""

    def person(self, subject):
        """Return image and label map of ``"test"``, ``"subject_1"`` or ``"atlas"``."""
        if subject == "atlas":
            image, labels = (_read(fetch.fetch(ATLAS), key) for key in ("vol", "seg"))
        else:
            image, labels = (_read(fetch.fetch(path)) for path in FILES[subject])
        return image.astype(np.float32), labels.astype(np.int16)  # stored as floats


def available():
    """Say whether the two scans can be had without a download: "mirror", "cache", or "" (false).

    Raises
    ------
    vxmlib.fetch.FetchError
        ``VXMLIB_MIRROR`` names a folder that does not exist.
    """
    where = {fetch.available(path) for paths in FILES.values() for path in paths}
    return "" if "" in where else where.pop()


def with_atlas(cohort):
    """The cohort `vxm2018` with the authors' atlas as one more subject, ``"atlas"``.

    Raises
    ------
    vxmlib.fetch.FetchError
        The atlas cannot be had: it is not in the mirror, or there is no network.
    """
    fetch.fetch(ATLAS)
    return replace(cohort, split={**cohort.split, "atlas": ("atlas",)})


def _read(path, key="vol_data"):
    try:
        with np.load(path) as content:
            return content[key]
    # A single array (.npy) under this name is no context manager: AttributeError or TypeError.
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: found no array {key!r} ({error}), expected an npz file with it. Download the "
            "file again."
        ) from error
