"""The authors' own scans: the test scan of 2018, and a second one on the same grid."""

import zipfile

import numpy as np

from vxmlib import fetch

_VOXELMORPH = "voxelmorph/voxelmorph/5d4879b711c663eb30dd90141342041eec9eea23"
_TUTORIAL = "learn2reg/tutorials2019/4077710c372b048c4879db94e6459b57ffff88f7"
FILES = {  # subject -> (image, label map)
    "test": (f"{_VOXELMORPH}/data/test_vol.npz", f"{_VOXELMORPH}/data/test_seg.npz"),
    "subject_1": (
        f"{_TUTORIAL}/unsupervised/data/3D/subject_1_vol.npz",
        f"{_TUTORIAL}/unsupervised/data/3D/subject_1_seg.npz",
    ),
}
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


class Released:
    """Reads the two people: intensities (already in [0, 1]) and labels as released."""

    def person(self, subject):
        """Return image and label map of ``"test"`` or ``"subject_1"``."""
        image, labels = (_read(fetch.fetch(path)) for path in FILES[subject])
        return image.astype(np.float32), labels.astype(np.int16)  # stored as float64


def _read(path):
    try:
        with np.load(path) as content:
            return content["vol_data"]
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: no npz file with an array 'vol_data' ({error}). Fetch it again."
        ) from error
