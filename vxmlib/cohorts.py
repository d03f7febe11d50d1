"""Load a data set as a cohort: subjects, a split, images in [0, 1] and label maps on one grid.

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

#: Name -> the module whose function ``cohort`` builds the cohort; imported only when needed.
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
    """Subjects of a data set, with images and label maps on one grid.

    An image or label map is read or simulated and checked when it is first used, and then cached.

    Attributes
    ----------
    name : str
        Name of the data set, as for :func:`load`.
    ndim : int
        2 (a coronal slice) or 3 (a volume).
    shape : tuple of int
        Number of voxels along each axis. The axes point to the Right and Superior in 2D, and to
        the Right, Anterior and Superior in 3D; in `vxm2018`, the affine gives their directions.
    spacing : float
        Voxel size in mm.
    affine : (4, 4) float64 ndarray
        Voxel index -> RAS mm.  In 2D, the pixel ``(i, k)`` has the index ``(i, 0, k)``.
    plane : str or None
        Description of the slice of a 2-D cohort; None in 3D.
    split : dict
        Part -> subjects. The parts are ``"train"``, ``"validation"`` and ``"test"``; `malf` also
        has ``"repeats"``, second scans of the validation subjects.
    structures : dict
        Label number -> name of each structure that is evaluated.
    licence, credit : str
        Terms of use and acknowledgement; print them where you use the data.
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
        """All subjects, in the order of the split."""
        return tuple(dict.fromkeys(subject for part in self.split.values() for subject in part))

    def image(self, subject):
        """Return a subject's image: (*vol) float32 in [0, 1], with background 0, read-only."""
        return self._person(subject)[0]

    def labels(self, subject):
        """Return a subject's label map: (*vol) int16, 0 outside of `structures`, read-only."""
        labels = self._person(subject)[1]
        if labels is None:
            raise ValueError(
                f"{subject!r} of cohort {self.name!r} has no label map, so its Dice cannot be "
                "computed. Store the label map beside the image file, with _seg before the ending "
                f"of its name (for example {subject}_seg.nii.gz)."
            )
        return labels

    def brain(self, subject):
        """Return a subject's brain mask: (*vol) bool, True where the image is above 0."""
        return self.image(subject) > 0

    def true_displacement(self, subject):
        """Return the displacement that deformed the template into a simulated subject.

        Returns
        -------
        (*vol, ndim) float32 ndarray
            Displacement u in voxels, on the subject's grid, pointing into the template:
            ``subject(x) = template(x + u(x))``.  Read-only.

        Raises
        ------
        ValueError
            If the subjects are real, because their true displacement is unknown, or if the
            cohort does not have this subject.
        """
        return self._flow(subject, inverse=False)

    def true_pair_displacement(self, moving, fixed):
        """Return the displacement of a perfect registration of two simulated subjects.

        Parameters
        ----------
        moving, fixed : str
            Two of ``subjects``.

        Returns
        -------
        (*vol, ndim) float32 ndarray
            Displacement in voxels, on the fixed grid, pointing into the moving image. It leads
            from the fixed subject to the template and then, by the inverse flow of the moving
            subject, to the moving image.

        Raises
        ------
        ValueError
            As :meth:`true_displacement`.

        Notes
        -----
        Even this displacement does not reach a Dice of 1, because the label maps of both subjects
        were sampled at the nearest voxel. An error of half a voxel matters in thin structures, and
        it matters more at 2 mm than at 1 mm.
        """
        return warp.compose(self._flow(moving, inverse=True), self._flow(fixed, inverse=False))

    def _flow(self, subject, *, inverse):
        if not self.simulated:
            raise ValueError(
                f"Cohort {self.name!r} has real subjects, whose true displacement is unknown. "
                "Use simulated subjects: cohorts.load('mni')."
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
        """Call ``make`` once per key, even with several threads; return its read-only result."""
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
    """Load a data set.

    =========== ========================================== ======================================
    Name        Subjects                                   Options besides `ndim` and `spacing`
    =========== ========================================== ======================================
    ``mni``     simulated; nothing to download             `people`, `seed`
    ``malf``    30 subjects, 35 scans; downloaded for you  `labels`: "freesurfer" or "manual"
    ``vxm2018`` two scans of the authors; downloaded       none; only volumes of 1 mm
    ``lpba40``  40 subjects; you download the archive      `root`, `align`
    ``oasis``   414 subjects; you download the archive     `root`, `labels`: "seg35", ..., "seg4"
    ``own``     the scans in your own folder               `root`, `align`, `seed`
    =========== ========================================== ======================================

    Parameters
    ----------
    name : str
        A name from the table.
    ndim : {2, 3}, optional
        2 for a coronal slice, 3 for the volume.  Default 2; `vxm2018` is always 3.
    spacing : float, optional
        Voxel size in mm, 1.0 or 2.0.  Default 1.0 in 2D and 2.0 in 3D; 1.0 for `oasis` and
        `vxm2018`.
    seed : int
        Determines which subjects are simulated (`mni`) or how the scans are split (`own`); the
        other data sets ignore it.
    root : path, optional
        The folder that contains the files.  The module of each data set describes its layout.
    people : dict or int, optional
        Number of subjects to simulate: ``{"train": 40, "validation": 5, "test": 10}`` (the
        default), or a total, which is divided in these proportions.  A subject of a given name is
        the same for every number.
    labels : str, optional
        Which label maps to use.  For `malf`, "freesurfer" (the default) has 27 structures with
        FreeSurfer's numbers, and "manual" has the 138 original labels.  For `oasis`, the default
        is "seg35" in 3D and "seg24" in 2D, and "seg4" is available in both.
    align : {"centre", "affine", "none"}, optional
        How scans are aligned to the MNI template (see `vxmlib.sources.own.Folder`).  Default
        "centre"; `lpba40` does not accept "none".

    Returns
    -------
    Cohort
        For `own`, every file has been read; the others read or simulate a subject at its first
        use.

    Raises
    ------
    ValueError
        If the name is unknown, the data set does not have an option, a file of `own` cannot be
        used, or a file of `lpba40` or `oasis` is missing.
    vxmlib.fetch.FetchError
        If the files of `malf` or `vxm2018` cannot be downloaded.
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
                f"{', '.join(takes)}. Leave {option} out."
            )
    if "root" in takes and root is None:
        what = "a folder of NIfTI files" if name == "own" else "the folder of its unpacked archive"
        raise ValueError(f"root: cohort {name!r} needs {what}, for example root='scans'.")
    if "seed" in takes:
        given["seed"] = seed
    return build(**given)


def ordered_pairs(ids, limit=None, seed=0):
    """List ordered pairs of two different subjects, in a random order that depends on the seed.

    Parameters
    ----------
    ids : sequence of str
        At least two different subjects; duplicates are ignored.
    limit : int, optional
        Largest number of pairs; None lists all ``n (n - 1)``.
    seed : int
        With the same seed, a shorter list contains the first pairs of a longer one.

    Returns
    -------
    list of (str, str)
        The pairs (moving, fixed).

    Raises
    ------
    ValueError
        If there are fewer than two different subjects, or `limit` is below 1.

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
