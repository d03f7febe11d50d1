"""Read LPBA40, 40 subjects with 56 manually drawn structures, from the unpacked archive.

The archive is "LPBA40 Subjects Delineation Space: MRI and label files in delineation space" of the
Laboratory of Neuro Imaging (LONI; Shattuck et al., NeuroImage 2008).  It can be downloaded by
anyone who accepts LONI's terms.  We did not have access to it, so we took its layout from public
programs that read it:

- The archive is a zip file within a zip file.  It has the folders
  ``LPBA40/delineation_space/S01`` to ``S40``, each with the label map
  ``S01.delineation.structure.label.hdr`` and ``.img.gz`` (source: the downloader of honkamj/SITReg,
  ``src/data/lpba40/data.py``).  The scan ``S01.delineation.skullstripped`` lies beside it and is
  compressed in the same way (source: many registration programs read files of these names).
- The files are Analyze volumes with a fourth axis of one voxel (source: SITReg).  Programs
  disagree on whether the voxels are compressed, and some converted the files.  Therefore
  ``.img.gz``, ``.img``, ``.nii.gz`` and ``.nii`` are all accepted.
- The numbers of the structures are those of Brainstorm's ``mri_getlabels_lpba40``.

An Analyze header does not say where the axes point, and files converted from it inherited a guess.
We therefore determine the directions from the label map, because left and right, front and back,
and top and bottom have different structures (`directions`).  Only the voxel size is taken from the
header.
"""

import nibabel as nib
import numpy as np

from vxmlib import checks, nifti
from vxmlib.cohorts import Cohort
from vxmlib.sources import archive, own, template
from vxmlib.sources.labels import read_table

SUBJECTS = tuple(f"S{number:02d}" for number in range(1, 41))
#: We chose this split, because the publisher defines none.  As in many programs, the first ten
#: subjects are the test subjects.
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
_SAME_SIZE = 1e-3  # tolerance in mm for voxel sizes of a scan and its label map

# Structures at the start and at the end of each RAS axis.
_LEFT, _RIGHT = tuple(range(21, 180, 2)), tuple(range(22, 180, 2))
_OCCIPITAL, _FRONTAL = tuple(range(61, 69)), tuple(range(21, 35))
# Below: cerebellum and brain stem.  Above: gyri near the vertex.
_BELOW, _ABOVE = (181, 182), (27, 28, 41, 42, 43, 44)
_ENDS = ((_LEFT, _RIGHT), (_OCCIPITAL, _FRONTAL), (_BELOW, _ABOVE))


def structures():
    """Return the 56 structures as a new dictionary: label number of the archive -> name.

    Examples
    --------
    >>> len(structures()), structures()[165]
    (56, 'Left Hippocampus')
    """
    return {int(number): name for number, name in read_table("lpba40_labels.csv")}


def directions(labels, spacing):
    """Determine the directions of a label map's axes from the positions of its structures.

    Parameters
    ----------
    labels : (i, j, k) integer ndarray
        LPBA40's label numbers, background 0.
    spacing : (3,) sequence of float
        Voxel size along i, j and k in mm.

    Returns
    -------
    (4, 4) float64 ndarray
        Voxel index -> RAS mm, with each voxel axis parallel to an axis of RAS space.  The origin
        is the middle of the grid, because its true position is unknown.

    Raises
    ------
    ValueError
        All structures at one end of an anatomical axis are missing, or two anatomical directions
        fall on the same voxel axis.

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
            raise ValueError("all structures at one end of an anatomical axis are missing")
        start, end = (places[some].mean(axis=0) for some in inside)
        axis = int(np.abs(end - start).argmax())
        axes.append(axis)
        affine[row, :3] = 0
        affine[row, axis] = np.sign((end - start)[axis]) * spacing[axis]
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(
            "its structures do not lie as in a head: two anatomical directions share a voxel axis"
        )
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
    """The subjects of the cohort, resampled to a grid by one interpolation.

    Parameters
    ----------
    root : path
        Folder to which the archive was unpacked: the one that holds S01 to S40, or a folder one
        or two levels above it.
    shape, affine
        Shape and affine of the grid in MNI space, as returned by `vxmlib.sources.template.grid`.
    alignment : {"centre", "affine"}
        As for `vxmlib.sources.own.Folder`.  Delineation space is not MNI space, so "none" is not
        allowed.

    Raises
    ------
    ValueError
        When the object is created: `root` is not the folder of the unpacked archive, or files are
        missing.  When a subject is read: a file is damaged, or its content is not as expected.
        The message names the file.
    """

    def __init__(self, root, shape, affine, *, alignment):
        checks.check_choice("align", alignment, ALIGNMENTS)
        self.root = archive.folder(root, SUBJECTS, inside=_INSIDE)
        self.shape, self.affine, self.alignment = shape, affine, alignment
        archive.require(self.root, {subject: self._there(subject) for subject in SUBJECTS})

    def person(self, subject):
        """Return a subject's image, float32 in [0, 1], and label map, int16, on the 3-D grid."""
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
                "Was the label map renumbered, or resampled with linear interpolation?"
            )
        try:
            affine = directions(labels, spacing)
        except ValueError as error:
            raise ValueError(f"{labels_path}: {error}. Unpack the archive again.") from error
        how = {"alignment": self.alignment, "name": path}
        return own.place(image, affine, labels.astype(np.int16), self.shape, self.affine, **how)

    def _there(self, subject):
        """Return the files that a subject needs: file name -> True if the file exists."""
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
        """Return the file that holds the voxels, in any accepted format; None if it is missing."""
        paths = (self.root / subject / f"{subject}.{kind}{ending}" for ending in _ENDINGS)
        return next((path for path in paths if path.is_file()), None)
