"""Open a data set as a cohort: subjects, a split, images in [0, 1] and label maps on one grid.

>>> cohort = load("mni", people={"train": 2, "validation": 1, "test": 2})
>>> cohort.shape, cohort.subjects[:2]
((160, 160), ('train-00', 'train-01'))
"""

import importlib
import inspect
import threading
from dataclasses import dataclass, field

import numpy as np

from vxmlib import checks, warp

#: Name -> the module whose function ``cohort`` builds it; imported only when it is needed.
SOURCES = {
    "mni": "vxmlib.sources.simulate",
    "malf": "vxmlib.sources.malf",
    "vxm2018": "vxmlib.sources.vxm2018",
    "lpba40": "vxmlib.sources.lpba40",
    "oasis": "vxmlib.sources.oasis",
    "own": "vxmlib.sources.own",
}
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Cohort:
    """The subjects of a data set, with images and label maps on one grid.

    An image or label map is read or simulated at its first use, checked, and kept.

    Attributes
    ----------
    name : str
    ndim : int
        2 (a coronal slice) or 3 (a volume).
    shape : tuple of int
        Number of voxels along each axis: to the Right, Superior in 2D; to the Right, Anterior,
        Superior in 3D (`vxm2018`: as its affine says).
    spacing : float
        Voxel size in mm.
    affine : (4, 4) float64 ndarray
        Voxel index -> RAS mm.  In 2D, the pixel ``(i, k)`` has the index ``(i, 0, k)``.
    plane : str or None
        Which slice a 2-D cohort shows; None in 3D.
    split : dict
        Part -> subjects: ``"train"``, ``"validation"`` and ``"test"``; in `malf` also
        ``"repeats"``, second scans of the validation subjects.
    structures : dict
        Label number -> name, of the structures that are evaluated.
    licence, credit : str
        Terms of use and acknowledgement; print them where the data are used.
    simulated : bool
        True if the subjects are simulated and their true displacement is known.
    source : object
        ``source.person(subject)`` returns the image and label map (or None) of one subject.
    unlabelled : tuple of str
        Subjects without a label map.
    """

    name: str
    ndim: int
    shape: tuple
    spacing: float
    affine: np.ndarray
    plane: str | None
    split: dict
    structures: dict
    licence: str
    credit: str
    simulated: bool
    source: object = field(repr=False)
    unlabelled: tuple = ()
    _kept: dict = field(default_factory=dict, repr=False)
    _lock: object = field(default_factory=threading.RLock, repr=False)

    @property
    def subjects(self):
        """Everyone, in the order of the split."""
        return tuple(dict.fromkeys(subject for part in self.split.values() for subject in part))

    def image(self, subject):
        """Return a subject's image: (*vol) float32 in [0, 1], background 0, read-only."""
        return self._person(subject)[0]

    def labels(self, subject):
        """Return a subject's label map: (*vol) int16, 0 where no structure is, read-only."""
        labels = self._person(subject)[1]
        if labels is None:
            raise ValueError(
                f"{subject!r} of cohort {self.name!r} has no label map, so that its Dice cannot "
                f"be computed. Put it beside the scan as {subject}_seg.nii.gz."
            )
        return labels

    def brain(self, subject):
        """Return a subject's brain mask: (*vol) bool, where the image is above 0."""
        return self.image(subject) > 0

    def true_displacement(self, subject):
        """Return the displacement that made a simulated subject from the template.

        Returns
        -------
        (*vol, ndim) float32 ndarray
            In voxels, on the subject's grid, pointing into the template:
            person(x) = template(x + u(x)).  Read-only.

        Raises
        ------
        ValueError
            The cohort shows real subjects, whose true displacement nobody knows.
        """
        return self._flow(subject, inverse=False)

    def true_pair_displacement(self, moving, fixed):
        """Return the displacement that a perfect registration of two simulated subjects finds.

        Parameters
        ----------
        moving, fixed : str
            Two of ``subjects``.

        Returns
        -------
        (*vol, ndim) float32 ndarray
            In voxels, on the fixed grid, pointing into the moving image: from the fixed subject
            to the template and from there, by the inverse flow, to the moving subject.

        Notes
        -----
        Warped labels do not reach Dice 1 even so: both subjects' maps were sampled at the
        nearest voxel.  In thin structures half a voxel counts, at 2 mm more than at 1 mm.
        """
        return warp.compose(self._flow(moving, inverse=True), self._flow(fixed, inverse=False))

    def _flow(self, subject, *, inverse):
        if not self.simulated:
            raise ValueError(
                f"Cohort {self.name!r} shows real subjects; their true displacement is not known. "
                "Only cohorts.load('mni') has it."
            )
        self._require(subject)
        return self._once(("flow", subject, inverse), self.source.flow, subject, inverse=inverse)

    def _person(self, subject):
        self._require(subject)
        return self._once(subject, self._checked_person, subject)

    def _checked_person(self, subject):
        image, labels = self.source.person(subject)
        if self.ndim == 2 and image.ndim == 3:  # a slab one voxel deep
            image, labels = image[:, 0], None if labels is None else labels[:, 0]
        name = f"{self.name} {subject}"
        checks.check_image(image, name=name)
        if labels is None:
            return image, None
        checks.check_labels(labels, shape=image.shape, name=f"{name} (labels)", least=0)
        evaluated = np.isin(labels, list(self.structures))
        return image, np.where(evaluated, labels, 0).astype(np.int16)

    def _once(self, key, make, *arguments, **options):
        """Make something once, also if several threads need it, and return it read-only."""
        with self._lock:
            if key not in self._kept:
                result = make(*arguments, **options)
                for array in result if isinstance(result, tuple) else (result,):
                    if array is not None:
                        array.setflags(write=False)
                self._kept[key] = result
            return self._kept[key]

    def _require(self, subject):
        if subject not in self.subjects:
            raise ValueError(
                f"Cohort {self.name!r} has no subject {subject!r}; it has "
                f"{', '.join(self.subjects)}."
            )


def load(
    name,
    *,
    ndim=None,
    spacing=None,
    seed=0,
    root=None,
    people=None,
    labels=None,
    align=None,
):
    """Open a data set.

    =========== ========================================== ======================================
    Name        Subjects                                   Options besides `ndim` and `spacing`
    =========== ========================================== ======================================
    ``mni``     simulated; nothing to download             `people`, `seed`
    ``malf``    30 subjects in 35 real scans; downloaded   `labels`: "freesurfer" or "manual"
    ``vxm2018`` the two scans that the authors released    (volumes of 1 mm only)
    ``lpba40``  40 subjects; downloaded by you             `root`, `align`
    ``oasis``   414 subjects; downloaded by you            `root`, `labels`: "seg35", ..., "seg4"
    ``own``     the scans in a folder of yours             `root`, `align`, `seed`
    =========== ========================================== ======================================

    Parameters
    ----------
    name : str
        A name of the table.
    ndim : {2, 3}, optional
        A coronal slice or the volume.  Default 2; `vxm2018` is always 3.
    spacing : float, optional
        Voxel size in mm, 1.0 or 2.0.  Default 1.0 in 2D and 2.0 in 3D; 1.0 for `oasis` and
        `vxm2018`.
    seed : int
        Which subjects are simulated (`mni`), or how the scans are split (`own`).
    root : path, optional
        The folder of the files.  The module of each data set describes its layout.
    people : dict or int, optional
        How many subjects to simulate: ``{"train": 40, "validation": 5, "test": 10}`` (the default)
        or a total, which is divided in these proportions.  A subject does not depend on it.
    labels : str, optional
        Which label maps.  Default: "freesurfer", 27 structures in FreeSurfer's numbers, for
        `malf` ("manual" has the 138 original labels); "seg35" in 3D and "seg24" in 2D for
        `oasis`, which has "seg4" in both.
    align : {"centre", "affine", "none"}, optional
        How scans are aligned to the MNI template (`vxmlib.sources.own.Folder`).  Default
        "centre"; `lpba40` does not take "none".

    Returns
    -------
    Cohort
        `own` has read every file; the others read or simulate a subject at the first use.

    Raises
    ------
    ValueError
        Unknown name, or an option that the cohort does not have; for `own`, a file that cannot
        be used; for `lpba40` and `oasis`, a missing file.
    vxmlib.fetch.FetchError
        The files of `malf` or `vxm2018` cannot be downloaded.
    """
    checks.check_choice("name", name, SOURCES)
    seed = checks.check_whole("seed", seed)
    build = importlib.import_module(SOURCES[name]).cohort
    takes = inspect.signature(build).parameters
    given = {"ndim": ndim, "spacing": spacing, "root": root, "people": people}
    given |= {"labels": labels, "align": align}
    given = {option: value for option, value in given.items() if value is not None}
    for option, value in given.items():
        if option not in takes:
            raise ValueError(
                f"{option}={value!r}: cohort {name!r} has no such option; it takes "
                f"{', '.join(takes)}. Leave it out."
            )
    if "root" in takes and root is None:
        what = "a folder of NIfTI files" if name == "own" else "the folder it was unpacked to"
        raise ValueError(f"root: cohort {name!r} needs {what}, for example root='scans'.")
    if "seed" in takes:
        given["seed"] = seed
    return build(**given)


def ordered_pairs(ids, limit=None, seed=0):
    """List ordered pairs of two different subjects, in a random order that the seed fixes.

    Parameters
    ----------
    ids : sequence of str
        At least two subjects.
    limit : int, optional
        So many pairs; default all ``n (n - 1)``.
    seed : int
        The first pairs of a longer list are those of a shorter one.

    Returns
    -------
    list of (str, str)
        (moving, fixed).

    Examples
    --------
    >>> sorted(ordered_pairs(["a", "b"]))
    [('a', 'b'), ('b', 'a')]
    """
    ids = list(dict.fromkeys(ids))
    if len(ids) < 2:
        raise ValueError(f"ids: found {ids}, expected at least two subjects to make a pair.")
    if limit is not None:
        limit = checks.check_whole("limit", limit, least=1)
    pairs = [(moving, fixed) for moving in ids for fixed in ids if moving != fixed]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[k] for k in order[:limit]]
