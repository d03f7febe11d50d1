"""Read LPBA40, 40 subjects with 56 manually drawn structures, from the unpacked archive.

The archive is "LPBA40 Subjects Delineation Space: MRI and label files in delineation space" of the
Laboratory of Neuro Imaging (Shattuck et al., NeuroImage 2008), for whoever accepted its terms.
It was not available to us.  Its layout is taken from public programs that read it:

- a zip in a zip, ``LPBA40/delineation_space/S01`` to ``S40``, each with
  ``S01.delineation.structure.label.hdr`` and ``.img.gz`` (the downloader of honkamj/SITReg,
  ``src/data/lpba40/data.py``); ``S01.delineation.skullstripped`` beside it, compressed alike (by
  these names many registration programs read them);
- Analyze volumes with a fourth axis of one voxel (SITReg).  Programs disagree on whether voxels
  are compressed, and some converted the files: ``.img.gz``, ``.img``, ``.nii.gz`` and ``.nii`` are
  all taken;
- the numbers of the structures (Brainstorm's ``mri_getlabels_lpba40``).

An Analyze header does not say where the axes point, and converted files inherited a guess.  The
label map knows: left and right, front and back, top and bottom have structures of their own
(`directions`).  So a header is asked for the size of its voxels only.
"""

import nibabel as nib
import numpy as np

from vxmlib import checks, nifti
from vxmlib.cohorts import Cohort
from vxmlib.sources import archive, own, template
from vxmlib.sources.labels import read_table

SUBJECTS = tuple(f"S{number:02d}" for number in range(1, 41))
#: Ours; the publisher names none.  Many programs keep the first ten subjects for testing, so we do.
SPLIT = {"train": SUBJECTS[15:], "validation": SUBJECTS[10:15], "test": SUBJECTS[:10]}
ALIGNMENTS = ("centre", "affine")

LICENCE = (
    "LONI's terms, accepted at the download (resource.loni.usc.edu/resources/atlases-downloads)"
)
CREDIT = (
    "LONI Probabilistic Brain Atlas, LPBA40 (Shattuck et al., Construction of a 3D probabilistic "
    "atlas of human cortical structures, NeuroImage 2008)."
)

_INSIDE = ("delineation_space", "LPBA40/delineation_space")
_IMAGE, _LABELS = "delineation.skullstripped", "delineation.structure.label"
_ENDINGS = (".img.gz", ".img", ".nii.gz", ".nii")
_SAME_SIZE = 1e-3  # mm

# Structures at the two ends of each axis: from where to where it runs.
_LEFT, _RIGHT = tuple(range(21, 180, 2)), tuple(range(22, 180, 2))
_OCCIPITAL, _FRONTAL = tuple(range(61, 69)), tuple(range(21, 35))
_BELOW, _ABOVE = (181, 182), (27, 28, 41, 42, 43, 44)  # cerebellum, brain stem; round the vertex
_ENDS = ((_LEFT, _RIGHT), (_OCCIPITAL, _FRONTAL), (_BELOW, _ABOVE))


def structures():
    """Return the 56 structures, number of the archive -> name; a new dictionary each time.

    Examples
    --------
    >>> len(structures()), structures()[165]
    (56, 'Left Hippocampus')
    """
    return {int(number): name for number, name in read_table("lpba40_labels.csv")}


def directions(labels, spacing):
    """Find where the axes of a label map point, by where its structures lie.

    Parameters
    ----------
    labels : (i, j, k) integer ndarray
        LPBA40's numbers.
    spacing : (3,) sequence of float
        Size of a voxel along i, j and k in mm.

    Returns
    -------
    (4, 4) float64 ndarray
        Voxel index -> RAS mm, along the voxel axes; the origin is the middle of the grid, since
        nothing says where it is.

    Raises
    ------
    ValueError
        The structures that tell are not there, or do not tell three different axes.

    Examples
    --------
    >>> labels = np.zeros((3, 3, 3), int)
    >>> labels[0, 1, 1], labels[2, 1, 1] = 166, 165  # right hippocampus, left hippocampus
    >>> labels[1, 2, 1], labels[1, 0, 1] = 61, 21  # occipital, frontal
    >>> labels[1, 1, 0], labels[1, 1, 2] = 182, 43  # brain stem, superior parietal
    >>> directions(labels, (1, 1, 2))[:3, :3].tolist()
    [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 2.0]]
    """
    labels, spacing = np.asarray(labels), np.asarray(spacing, float)
    places = np.nonzero(labels)
    numbers = labels[places]
    places = np.stack(places, axis=-1) * spacing
    affine = np.eye(4)
    axes = []
    for row, ends in enumerate(_ENDS):
        inside = [np.isin(numbers, end) for end in ends]
        if not all(some.any() for some in inside):
            raise ValueError("the structures that show where its axes point are not all there")
        start, end = (places[some].mean(axis=0) for some in inside)
        axis = int(np.abs(end - start).argmax())
        axes.append(axis)
        affine[row, :3] = 0
        affine[row, axis] = np.sign((end - start)[axis]) * spacing[axis]
    if sorted(axes) != [0, 1, 2]:
        raise ValueError("its structures do not lie as in a head: two directions share an axis")
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(labels.shape) - 1) / 2)
    return affine


def cohort(*, ndim=2, spacing=None, root, align="centre"):
    """Build the cohort `lpba40`; see `vxmlib.cohorts.load`."""
    where, slab = template.space(ndim, spacing)
    return Cohort(
        name="lpba40",
        **where,
        split=dict(SPLIT),
        structures=structures(),
        licence=LICENCE,
        credit=CREDIT,
        simulated=False,
        source=Scans(root, slab, where["affine"], alignment=align),
    )


class Scans:
    """Makes the subjects of the cohort on a grid: one interpolation from delineation space.

    Parameters
    ----------
    root : path
        What the archive was unpacked to: the folder of S01 to S40, or one or two above it.
    shape, affine
        The grid, as `vxmlib.sources.template.grid` gives it.
    alignment : {"centre", "affine"}
        As for `vxmlib.sources.own.Folder`.  Delineation space is not MNI space, so
        "none" is refused.

    Raises
    ------
    ValueError
        No such folder, the packed archive, missing files; when a subject is read: a file that is
        damaged or that is not what its name says.  The message names the file.
    """

    def __init__(self, root, shape, affine, *, alignment):
        checks.check_choice("align", alignment, ALIGNMENTS)
        self.root = archive.folder(root, SUBJECTS, inside=_INSIDE)
        self.shape, self.affine, self.alignment = shape, affine, alignment
        archive.require(self.root, {subject: self._there(subject) for subject in SUBJECTS})

    def person(self, subject):
        """Return image and label map on the grid, a slab of one voxel where the grid is one."""
        path, labels_path = (self._path(subject, kind) for kind in (_IMAGE, _LABELS))
        image, header = nifti.read_image(path)
        own.check_scan(image, path)
        labels, labels_header = nifti.read_labels(labels_path)
        checks.check_labels(labels, shape=image.shape, name=str(labels_path), least=0)
        spacing, size = nib.affines.voxel_sizes(header), nib.affines.voxel_sizes(labels_header)
        if not np.allclose(size, spacing, atol=_SAME_SIZE):
            raise ValueError(
                f"{labels_path}: its voxels are {size.round(3).tolist()} mm, its scan's "
                f"{spacing.round(3).tolist()} mm; both have to lie on one grid."
            )
        unknown = sorted({int(number) for number in np.unique(labels)} - {0, *structures()})
        if unknown:
            raise ValueError(
                f"{labels_path}: found label {unknown[0]}, expected LPBA40's numbers (21 to 182). "
                "Was it renumbered, or resampled with linear interpolation?"
            )
        try:
            affine = directions(labels, spacing)
        except ValueError as error:
            raise ValueError(f"{labels_path}: {error}. Unpack the archive again.") from error
        how = {"alignment": self.alignment, "name": path}
        return own.place(image, affine, labels.astype(np.int16), self.shape, self.affine, **how)

    def _there(self, subject):
        """The files that a subject needs, each with whether it is there."""
        files = {}
        for kind in (_IMAGE, _LABELS):
            path = self._path(subject, kind)
            stem = f"{subject}/{subject}.{kind}"
            if path is None:
                files[f"{stem}.img.gz"] = False
            elif ".img" in path.name:
                files[f"{stem}.hdr"] = nifti.header_of(path).is_file()
            else:
                files[f"{subject}/{path.name}"] = True
        return files

    def _path(self, subject, kind):
        """The file that holds the voxels, in whichever form it is there; None without it."""
        paths = (self.root / subject / f"{subject}.{kind}{ending}" for ending in _ENDINGS)
        return next((path for path in paths if path.is_file()), None)
