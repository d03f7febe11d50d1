"""Read the two scans and the atlas that VoxelMorph's authors released, all on one grid."""

import numpy as np

from vxmlib import checks, fetch, files
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
#: The authors' atlas on the same grid, for `vxmlib.sources.atlas.with_atlas(cohort,
#: fetch.fetch(ATLAS))`.  In the paper's table, every scan is registered to it.
ATLAS = f"{_TUTORIAL}/unsupervised/data/3D/atlas_norm_3d.npz"
SHAPE = (160, 192, 224)
LICENCE = "test: GPL-3.0 (voxelmorph, branch legacy); subject_1: none stated"
CREDIT = (
    "Scans and FreeSurfer label maps released by the authors of VoxelMorph (Balakrishnan et al., "
    "CVPR 2018) and with the Learn2Reg tutorial 2019."
)


def affine():
    """Return the affine, voxel index -> RAS mm; the axes run to the Left, Inferior, Anterior.

    The files contain no affine, so the directions of the axes were determined from the labels.
    The origin is the middle of the grid, because its true position is unknown.

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
    """The two subjects as released: intensities, which are already in [0, 1], and labels."""

    def person(self, subject):
        """Return image (float32) and label map (int16) of "test" or "subject_1"."""
        image, labels = (files.read_npz(fetch.fetch(path), "vol_data") for path in FILES[subject])
        return image.astype(np.float32), labels.astype(np.int16)  # stored as floats


def available():
    """Return where the files of the two scans are, or ``""`` if one has to be downloaded.

    Returns
    -------
    {"mirror", "cache", ""}

    Raises
    ------
    vxmlib.fetch.FetchError
        ``VXMLIB_MIRROR`` names a folder that does not exist.
    """
    where = {fetch.available(path) for paths in FILES.values() for path in paths}
    return "" if "" in where else where.pop()
