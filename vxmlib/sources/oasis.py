"""Read neurite-OASIS, 414 aligned subjects with automatic labels, from the unpacked archive.

Hoopes and Dalca prepared the collection for HyperMorph from OASIS (Marcus et al. 2007).  It is
available to anyone who accepts the OASIS data use agreement.  We did not have access to it, so
this module follows its README (``neurite-oasis.md`` in the repository adalca/medical-datasets):

- ``subjects.txt`` lists the subjects.  Each has a folder such as ``OASIS_OAS1_0001_MR1``.
- ``aligned_norm.nii.gz`` has 160 x 192 x 224 voxels.  It is skull-stripped, bias-corrected, scaled
  to [0, 1] and resampled in FreeSurfer's Talairach space.  ``slice_norm.nii.gz`` is its coronal
  slice 109, with 160 x 192 voxels.  (The file has a third axis of one voxel, as the programs that
  read it show.)
- ``seg35_labels.txt``, ``seg24_labels.txt`` and ``seg4_labels.txt`` name the labels, in the format
  of FreeSurfer's colour tables.  The label maps are ``aligned_seg35``, ``aligned_seg4``,
  ``slice_seg24`` and ``slice_seg4`` (source of the names: JJGO/UniverSeg and other programs).

The archive numbers its labels 1, 2, 3 and so on; these are not FreeSurfer's numbers.
"""

import nibabel as nib
import numpy as np

from vxmlib import checks, nifti, preprocess
from vxmlib.cohorts import Cohort
from vxmlib.sources import archive

PEOPLE = 414
SHAPE = (160, 192, 224)  # as stored; the axes run to the Left, Inferior, Anterior
SLICE = 109  # along the last axis
LABELS = {2: ("seg24", "seg4"), 3: ("seg35", "seg4")}  # by ndim; the first is the default
#: Sizes of the parts; we chose them.  The last twenty subjects of the published list are the
#: validation subjects of Learn2Reg 2021.
HELD = {"validation": 20, "test": 20}

LICENCE = "OASIS data use agreement (oasis-brains.org)"
CREDIT = (
    "OASIS: Cross-Sectional (Marcus et al. 2007), processed by A. Hoopes and A. V. Dalca for "
    "HyperMorph (Hoopes et al. 2021) as neurite-OASIS."
)

_FILES = {2: "slice", 3: "aligned"}
_LIST = "subjects.txt"
_ROUNDING = 1e-4  # intensities may lie outside [0, 1] by this much, through rounding at storage
_LEAST_BACKGROUND = 0.1  # share of voxels that are 0; without skull-stripping there are almost none


def names(text):
    """Read the names of the labels from the text of a FreeSurfer colour table.

    Parameters
    ----------
    text : str
        Lines of the form ``number name red green blue alpha``; lines that begin with ``#`` are
        comments.

    Returns
    -------
    dict
        Label number -> name, with spaces in place of hyphens.  The background, 0, is left out.

    Raises
    ------
    ValueError
        No line has this form.

    Examples
    --------
    >>> names("#No. Label Name: R G B A\\n0 Unknown 0 0 0 0\\n14 Left-Hippocampus 220 216 20 0\\n")
    {14: 'Left Hippocampus'}
    """
    rows = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
    rows = [row for row in rows if len(row) >= 6 and row[0].isdigit()]
    table = {int(row[0]): " ".join(row[1:-4]).replace("-", " ") for row in rows}
    table.pop(0, None)
    if not table:
        raise ValueError("expected lines of: number name red green blue alpha")
    return table


def cohort(*, ndim=2, spacing=1.0, root, labels=None):
    """Build the cohort `oasis`; see `vxmlib.cohorts.load`."""
    ndim = checks.check_choice("ndim", ndim, (2, 3))
    scans = Scans(root, ndim=ndim, spacing=spacing, labels=labels)
    scans.affine.setflags(write=False)
    return Cohort(
        name="oasis",
        ndim=ndim,
        shape=scans.shape,
        spacing=float(spacing),
        affine=scans.affine,
        plane=f"coronal, slice {SLICE} of the aligned volume" if ndim == 2 else None,
        split=scans.split(),
        structures=scans.structures,
        licence=LICENCE,
        credit=CREDIT,
        simulated=False,
        source=scans,
    )


class Scans:
    """The subjects of the cohort, as the archive holds them.

    Volumes are reoriented by their header so that the axes run Right, Anterior, Superior; slices
    are reoriented to Right, Superior.  At 1 mm nothing is interpolated.

    Parameters
    ----------
    root : path
        Folder to which the archive was unpacked: the one that holds ``subjects.txt``.
    ndim : {2, 3}
        2 for the coronal slices, 3 for the volumes.
    spacing : {1.0, 2.0}
        Voxel size in mm.  2.0 takes every other voxel of the smoothed image and of the label map.
    labels : {"seg35", "seg24", "seg4"}, optional
        Which label maps: "seg35" (default) or "seg4" for volumes, "seg24" (default) or "seg4" for
        slices.

    Attributes
    ----------
    subjects : tuple of str
        In the order of ``subjects.txt``.
    shape : tuple of int
        Number of voxels along each axis, at `spacing`.
    affine : (4, 4) float64 ndarray
        Voxel index -> RAS mm.  For volumes it is that of the first subject.  For slices the pixel
        ``(i, k)`` has the index ``(i, 0, k)``, and the origin is the middle of the slice, because
        its true position is unknown.
    structures : dict
        Label number -> name.

    Raises
    ------
    ValueError
        When the object is created: `root` is not the folder of the unpacked archive, subjects or
        files are missing, or an option is not one of those above.  When a subject is read: a file
        is damaged or not as documented.  The message names the file or option.
    """

    def __init__(self, root, *, ndim, spacing, labels=None):
        checks.check_choice("spacing", spacing, (1.0, 2.0))
        labels = LABELS[ndim][0] if labels is None else labels
        checks.check_choice(f"labels (with ndim={ndim})", labels, LABELS[ndim])
        self.root, self.ndim, self.step = archive.folder(root, [_LIST]), ndim, int(spacing)
        self.subjects = self._listed()
        self._image, self._labels = f"{_FILES[ndim]}_norm.nii.gz", f"{_FILES[ndim]}_{labels}.nii.gz"
        self._require_files()
        self.structures = self._names(f"{labels}_labels.txt")
        self.affine, shape = self._slice_grid() if ndim == 2 else self._volume_grid()
        self.shape = tuple(-(-n // self.step) for n in shape)

    def split(self):
        """Divide the subjects by their order in the list; the last ones are the test subjects.

        Nothing is drawn at random, so everyone who has the archive gets the same split.
        """
        first = len(self.subjects) - HELD["test"]
        middle = first - HELD["validation"]
        parts = {"train": slice(middle), "validation": slice(middle, first)}
        parts["test"] = slice(first, None)
        return {part: self.subjects[which] for part, which in parts.items()}

    def person(self, subject):
        """Return a subject's image, (*vol) float32 in [0, 1], and label map, (*vol) int16."""
        folder = self.root / subject
        image, affine = self._read(nifti.read_image, folder / self._image)
        _check_range(image, folder / self._image)
        image = np.clip(image, 0, 1)
        labels, other = self._read(nifti.read_labels, folder / self._labels)
        checks.check_labels(labels, shape=image.shape, name=str(folder / self._labels), least=0)
        self._check_numbers(labels, folder / self._labels)
        if self.ndim == 2:
            image, labels = (array[::-1, None, ::-1] for array in (image, labels))
        else:
            self._check_affines(affine, other, folder)
            image, labels = (preprocess.reorient(array, affine)[0] for array in (image, labels))
        image, labels = self._coarsened(image), self._coarsened(labels, labels=True)
        if self.ndim == 2:
            image, labels = image[:, 0], labels[:, 0]
        return np.ascontiguousarray(image), np.ascontiguousarray(labels, np.int16)

    def _listed(self):
        """Return the subjects of the list, in its order."""
        path = self.root / _LIST
        subjects = tuple(path.read_text(encoding="utf-8").split())
        if len(set(subjects)) != PEOPLE or len(subjects) != PEOPLE:
            raise ValueError(
                f"{path}: lists {len(set(subjects))} subjects in {len(subjects)} lines, expected "
                f"{PEOPLE} subjects, one a line. Unpack the archive again."
            )
        return subjects

    def _require_files(self):
        both = (self._image, self._labels)
        files = {
            subject: {f"{subject}/{name}": (self.root / subject / name).is_file() for name in both}
            for subject in self.subjects
        }
        archive.require(self.root, files, hint=self._other_archive(files))

    def _other_archive(self, files):
        """Return a hint if only files of the other dimension exist, as in the 2D archive."""
        if any(there for some in files.values() for there in some.values()):
            return ""
        other = 5 - self.ndim
        image = self.root / self.subjects[0] / f"{_FILES[other]}_norm.nii.gz"
        return f"It has {image.name}: use ndim={other}." if image.is_file() else ""

    def _names(self, name):
        path = self.root / name
        if not path.is_file():
            raise ValueError(f"{path}: missing; it names the labels. Unpack the archive again.")
        try:
            return names(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}. Unpack the archive again.") from error

    def _read(self, read, path):
        """Return the array of a file, after a check of its shape, and its affine."""
        array, affine = read(path)
        expected = SHAPE[: self.ndim]
        if self.ndim == 2 and array.shape == (*expected, 1):
            array = array[..., 0]
        if array.shape != expected:
            raise ValueError(f"{path}: found grid {array.shape}, expected {expected}.")
        return array, affine

    def _volume_grid(self):
        """Return the affine at `spacing` and the shape at 1 mm of the reoriented first volume."""
        path = self.root / self.subjects[0] / self._image
        array, affine = self._read(nifti.read_image, path)
        size = nib.affines.voxel_sizes(affine)
        if not np.allclose(size, 1, atol=1e-2):
            raise ValueError(f"{path}: voxels of {size.round(3).tolist()} mm, expected 1 mm.")
        self._axes = affine[:3, :3]
        turned, affine = preprocess.reorient(array, affine)
        return affine @ self._steps(), turned.shape

    def _slice_grid(self):
        shape = SHAPE[:2]
        affine = np.eye(4)
        affine[[0, 2], 3] = [-(n - 1) / 2 for n in shape]
        return affine @ self._steps(), shape

    def _steps(self):
        return np.diag([self.step, self.step, self.step, 1.0])

    def _check_affines(self, affine, other, folder):
        """Check the label map's affine against the image's, and its axes against the first's."""
        if not np.allclose(affine, other, atol=1e-2):
            raise ValueError(
                f"{folder / self._labels}: its affine {other.round(2).tolist()} differs from "
                f"{self._image}'s {affine.round(2).tolist()}; both have to lie on one grid."
            )
        if not np.allclose(affine[:3, :3], self._axes, atol=1e-2):
            raise ValueError(
                f"{folder / self._image}: its axes {affine[:3, :3].round(2).tolist()} are not "
                f"those of {self.subjects[0]}; expected all subjects in one space."
            )

    def _check_numbers(self, labels, path):
        unknown = sorted({int(number) for number in np.unique(labels)} - {0, *self.structures})
        if unknown:
            raise ValueError(
                f"{path}: found label {unknown[0]}, which is not among the archive's "
                f"{len(self.structures)} names. Are label map and names from the same archive?"
            )

    def _coarsened(self, array, *, labels=False):
        """Take every other voxel for 2 mm; the new voxels lie on old ones, so labels stay exact."""
        if self.step == 1:
            return array
        shape = tuple(-(-n // self.step) for n in array.shape)
        how = {"labels": labels, "keep_background": not labels}
        return preprocess.resample(array, np.eye(4), shape, self._steps(), **how)


def _check_range(image, path):
    low, high = float(image.min()), float(image.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN fails, too
        raise ValueError(
            f"{path}: intensities from {low:g} to {high:g}, expected [0, 1]. Is this the norm "
            "image of the archive?"
        )
    if np.mean(np.abs(image) <= _ROUNDING) < _LEAST_BACKGROUND:
        raise ValueError(
            f"{path}: almost no voxel is 0; expected a skull-stripped image on a background of 0."
        )
