"""Give every data set the same shape: people, a split, images in [0, 1], label maps, one grid.

>>> cohort = load("mni", people={"train": 2, "validation": 1, "test": 2})
>>> cohort.shape, cohort.subjects[:2]
((160, 160), ('train-00', 'train-01'))
"""

import functools
import numbers
import threading
from dataclasses import dataclass, field

import numpy as np

from vxmlib import fetch, lpba40, malf, oasis, own, preprocess, simulate, template, vxm2018, warp
from vxmlib import labels as structure_labels

KNOWN = ("mni", "malf", "vxm2018", "lpba40", "oasis", "own")
TAKEN_BY = {  # option -> the cohorts that take it
    "root": ("lpba40", "oasis", "own"),
    "people": ("mni",),
    "labels": ("malf", "oasis"),
    "align": ("lpba40", "own"),
}
PARTS = ("train", "validation", "test")
DEFAULT_PEOPLE = {"train": 40, "validation": 5, "test": 10}
SMALLEST_AREA = 20  # mm2 of a structure in the coronal plane that is worth evaluating in 2D


@dataclass(frozen=True, eq=False)
class Cohort:
    """People on one grid.  Images and label maps are made when first asked for, then kept.

    Attributes
    ----------
    name : str
    ndim : int
        2 (a coronal slice: Right, Superior) or 3 (Right, Anterior, Superior).
    shape : tuple of int
        Voxels of every image.
    spacing : float
        Voxel size in mm.
    affine : (4, 4) float64 ndarray
        Voxel index -> RAS mm.  In 2D for the index ``(i, 0, k)`` of a pixel ``(i, k)``.
    plane : str or None
        Which slice a 2-D cohort shows.
    split : dict
        ``{"train": (...), "validation": (...), "test": (...)}``, and ``"repeats"`` in `malf`:
        second scans of the validation people.
    structures : dict
        Label number -> name, of the structures to evaluate.
    licence, credit : str
        Terms and thanks; print them where the data are used.
    simulated : bool
        True when nobody was scanned.
    source : object
        What makes the people: ``source.person(subject)`` returns image and label map (or None).
    unlabelled : tuple of str
        Those who have no label map.
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

    @property
    def has_labels(self):
        """True when everyone that is evaluated (validation, test) has a label map."""
        return not set(self.unlabelled) & {*self.split["validation"], *self.split["test"]}

    def image(self, subject):
        """Return a person's image: (*vol) float32 in [0, 1], background 0, read-only."""
        return self._person(subject)[0]

    def labels(self, subject):
        """Return a person's label map: (*vol) int16, 0 where no structure is, read-only."""
        found = self._person(subject)[1]
        if found is None:
            raise ValueError(
                f"{subject!r} of cohort {self.name!r} has no label map; without one, only the "
                f"Jacobian can be evaluated. Put it beside the scan as {subject}_seg.nii.gz."
            )
        return found

    def brain(self, subject):
        """Return a person's brain mask: (*vol) bool, where the image is above 0."""
        return self.image(subject) > 0

    def true_displacement(self, subject):
        """Return the displacement that made a simulated person from the template.

        Returns
        -------
        (*vol, ndim) float32 ndarray
            In voxels, on the person's grid, pointing into the template:
            person(x) = template(x + u(x)).  Read-only.

        Raises
        ------
        ValueError
            The cohort shows real people, whose true displacement nobody knows.
        """
        return self._flow(subject, inverse=False)

    def true_pair_displacement(self, moving, fixed):
        """Return the displacement that a perfect registration of two simulated people finds.

        Parameters
        ----------
        moving, fixed : str
            Two of ``subjects``.

        Returns
        -------
        (*vol, ndim) float32 ndarray
            In voxels, on the fixed grid, pointing into the moving image: from the fixed person
            to the template and from there, by the inverse flow, to the moving person.

        Notes
        -----
        Warped labels do not reach Dice 1 even so: both people's maps were sampled at the
        nearest voxel.  In thin structures half a voxel counts, at 2 mm more than at 1 mm.
        """
        return warp.compose(self._flow(moving, inverse=True), self._flow(fixed, inverse=False))

    def _flow(self, subject, *, inverse):
        if not self.simulated:
            raise ValueError(
                f"Cohort {self.name!r} shows real people; their true displacement is not known. "
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
        preprocess.check_image(image, name=name)
        if labels is None:
            return image, None
        preprocess.check_labels(labels, shape=image.shape, name=f"{name} (labels)")
        evaluated = np.isin(labels, list(self.structures))
        return image, np.where(evaluated, labels, 0).astype(np.int16)

    def _once(self, key, make, *arguments, **options):
        """Make something once, also when several threads ask, and hand it out read-only."""
        with self._lock:
            if key not in self._kept:
                made = make(*arguments, **options)
                for array in made if isinstance(made, tuple) else (made,):
                    if array is not None:
                        array.setflags(write=False)
                self._kept[key] = made
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
    align="centre",
):
    """Open a data set.

    Parameters
    ----------
    name : {"mni", "malf", "vxm2018", "lpba40", "oasis", "own"}
        Simulated people (nothing to download); 35 real scans of 30 people; the two scans that
        the authors released; LPBA40 and neurite-OASIS as you downloaded and unpacked them; a
        folder of yours.
    ndim : {2, 3}, optional
        A coronal slice or the volume.  Default 2; `vxm2018` is always 3.
    spacing : float, optional
        Voxel size in mm, 1.0 or 2.0.  Default 1.0 in 2D, 2.0 in 3D; 1.0 for `oasis`; `vxm2018` is
        always 1.0.
    seed : int
        Which people are simulated (`mni`), or how the scans are split (`own`).
    root : path, optional
        The folder, for `own`, `lpba40` and `oasis` only; their modules say which files it holds.
    people : dict or int, optional
        For `mni` only: how many to simulate, ``{"train": 40, "validation": 5, "test": 10}``
        (the default) or a total in these proportions.  A person is the same whatever the number.
    labels : {"freesurfer", "manual", "seg35", "seg24", "seg4"}, optional
        For `malf`: 27 structures in FreeSurfer's numbers (the default), or the 138 original
        labels.  For `oasis`: "seg35" (the default) or "seg4" in 3D, "seg24" (the default) or
        "seg4" in 2D.
    align : {"centre", "affine", "none"}
        For `own` and `lpba40` only: how scans are laid onto the MNI template; see
        `vxmlib.own.Folder`.

    Returns
    -------
    Cohort
        `own` has read every file; the others read or make a person when asked.

    Raises
    ------
    ValueError
        Unknown name, or an option that the cohort does not take; for `own`, a file that cannot
        be used; for `lpba40` and `oasis`, a file that is missing.
    vxmlib.fetch.FetchError
        The files of `malf` or `vxm2018` cannot be had.
    """
    if name not in KNOWN:
        raise ValueError(f"Cohort {name!r} is not known; expected one of {', '.join(KNOWN)}.")
    _check_options(name, root=root, people=people, labels=labels, align=align)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"seed={seed!r}: expected a whole number, 0 or above.")
    if name == "vxm2018":
        return _load_vxm2018(ndim, spacing)
    if name == "oasis":
        return _load_oasis(ndim, spacing, root, labels)
    common = _grid(ndim, spacing)
    if name == "mni":
        return _load_mni(common, int(seed), people)
    if name == "malf":
        return _load_malf(common, labels)
    if name == "lpba40":
        return _load_lpba40(common, root, align)
    return _load_own(common, int(seed), root, align)


def _check_options(name, *, root, people, labels, align):
    if root is None and name in TAKEN_BY["root"]:
        what = "a folder of NIfTI files" if name == "own" else "the folder it was unpacked to"
        raise ValueError(f"root: cohort {name!r} needs {what}, for example root='scans'.")
    usual = {"root": None, "align": "centre", "people": None, "labels": None}
    given = {"root": root, "align": align, "people": people, "labels": labels}
    for option, value in given.items():
        if name not in TAKEN_BY[option] and value != usual[option]:
            who = " and ".join(repr(other) for other in TAKEN_BY[option])
            raise ValueError(f"{option}={value!r}: only for {who}, not {name!r}. Leave it out.")
    if name == "malf" and labels not in (None, "freesurfer", "manual"):
        raise ValueError(f"labels={labels!r}: expected 'freesurfer' or 'manual'.")


def _dimensions(ndim):
    ndim = 2 if ndim is None else ndim
    if ndim not in (2, 3):
        raise ValueError(f"ndim={ndim!r}: expected 2 (a coronal slice) or 3 (the volume).")
    return ndim


def _grid(ndim, spacing):
    """The part of a cohort that says where its voxels are; with the grid to sample on."""
    ndim = _dimensions(ndim)
    spacing = {2: 1.0, 3: 2.0}[ndim] if spacing is None else spacing
    slab, affine = template.plane(spacing) if ndim == 2 else template.grid(spacing)
    shape = (slab[0], slab[2]) if ndim == 2 else slab
    if any(n % preprocess.MULTIPLE for n in shape):
        raise ValueError(
            f"spacing={spacing!r} gives images of {shape}; the network needs multiples of "
            f"{preprocess.MULTIPLE}. Use 1.0 or 2.0 mm."
        )
    affine.setflags(write=False)
    plane = f"coronal, y = {template.PLANE_MM:g} mm (MNI)" if ndim == 2 else None
    where = {"ndim": ndim, "shape": shape, "spacing": float(spacing), "affine": affine}
    return where | {"plane": plane}, slab


def _load_mni(common, seed, people):
    where, _ = common
    counts = _counts(people)
    return Cohort(
        name="mni",
        **where,
        split={part: tuple(f"{part}-{k:02d}" for k in range(counts[part])) for part in PARTS},
        structures=_crossing(structure_labels.structures(), where["ndim"]),
        licence=template.LICENCE,
        credit=template.CREDIT,
        simulated=True,
        source=_Simulated(where["ndim"], where["spacing"], seed),
    )


class _Simulated:
    """Makes the people of `mni`, each from (seed, part of the split, number)."""

    def __init__(self, ndim, spacing, seed):
        self.ndim, self.spacing, self.seed = ndim, spacing, seed

    def flow(self, subject, *, inverse):
        person = [*self._seed(subject), 0]
        return simulate.displacement(person, ndim=self.ndim, spacing=self.spacing, inverse=inverse)

    def person(self, subject):
        brightness, labels = simulate.anatomy(self.ndim, self.spacing)
        flow = self.flow(subject, inverse=False)
        scanner = [*self._seed(subject), 1]
        scan = simulate.scan(warp.warp_image(brightness, flow), scanner, spacing=self.spacing)
        return preprocess.normalise(scan), warp.warp_labels(labels, flow)

    def _seed(self, subject):
        part, number = subject.rsplit("-", 1)
        return self.seed, PARTS.index(part), int(number)


def _counts(people):
    """How many people to simulate for each part."""
    if people is None:
        return DEFAULT_PEOPLE
    if isinstance(people, numbers.Integral) and not isinstance(people, bool) and people >= 6:
        share = people / sum(DEFAULT_PEOPLE.values())
        held = {part: max(2, round(share * DEFAULT_PEOPLE[part])) for part in PARTS[1:]}
        return {"train": int(people) - sum(held.values()), **held}
    if isinstance(people, dict) and set(people) == set(PARTS):
        counts = list(people.values())
        if all(isinstance(n, numbers.Integral) and n >= 1 for n in counts):
            return people
    raise ValueError(
        f"people={people!r}: expected a total of at least 6, or a dict that gives "
        f"{', '.join(PARTS)} each a number of at least 1, for example {DEFAULT_PEOPLE}."
    )


@functools.cache
def _in_plane():
    """Labels whose area in the template's coronal plane is worth evaluating."""
    labels, areas = np.unique(simulate.anatomy(2, 1.0)[1], return_counts=True)
    return {int(n) for n, area in zip(labels, areas, strict=True) if area >= SMALLEST_AREA}


def _crossing(structures, ndim):
    """Keep the structures that a 2-D cohort's plane crosses."""
    if ndim == 3:
        return structures
    return {label: name for label, name in structures.items() if label in _in_plane()}


def _load_malf(common, labels):
    where, slab = common
    malf.fetch_all()
    manual = labels == "manual"
    structures = malf.manual_names() if manual else structure_labels.manual_structures()
    return Cohort(
        name="malf",
        **where,
        split=dict(malf.SPLIT),
        structures=structures if manual else _crossing(structures, where["ndim"]),
        licence=malf.LICENCE,
        credit=malf.CREDIT,
        simulated=False,
        source=malf.Scans(slab, where["affine"], manual=manual),
    )


def _load_vxm2018(ndim, spacing):
    if ndim not in (None, 3) or spacing not in (None, 1.0):
        raise ValueError(
            f"ndim={ndim!r}, spacing={spacing!r}: the scans of 'vxm2018' are volumes of 1 mm. "
            "Leave both out."
        )
    for paths in vxm2018.FILES.values():
        for path in paths:
            fetch.fetch(path)
    return Cohort(
        name="vxm2018",
        ndim=3,
        shape=vxm2018.SHAPE,
        spacing=1.0,
        affine=vxm2018.affine(),
        plane=None,
        split={"train": (), "validation": (), "test": tuple(vxm2018.FILES)},
        structures=structure_labels.structures(),
        licence=vxm2018.LICENCE,
        credit=vxm2018.CREDIT,
        simulated=False,
        source=vxm2018.Released(),
    )


def _load_lpba40(common, root, align):
    where, slab = common
    return Cohort(
        name="lpba40",
        **where,
        split=dict(lpba40.SPLIT),
        structures=lpba40.structures(),
        licence=lpba40.LICENCE,
        credit=lpba40.CREDIT,
        simulated=False,
        source=lpba40.Scans(root, slab, where["affine"], alignment=align),
    )


def _load_oasis(ndim, spacing, root, labels):
    ndim, spacing = _dimensions(ndim), 1.0 if spacing is None else spacing
    scans = oasis.Scans(root, ndim=ndim, spacing=spacing, labels=labels)
    scans.affine.setflags(write=False)
    return Cohort(
        name="oasis",
        ndim=ndim,
        shape=scans.shape,
        spacing=float(spacing),
        affine=scans.affine,
        plane=f"coronal, slice {oasis.SLICE} of the aligned volume" if ndim == 2 else None,
        split=scans.split(),
        structures=scans.structures,
        licence=oasis.LICENCE,
        credit=oasis.CREDIT,
        simulated=False,
        source=scans,
    )


def _load_own(common, seed, root, align):
    where, slab = common
    folder = own.Folder(root, slab, where["affine"], alignment=align)
    cohort = Cohort(
        name="own",
        **where,
        split=folder.split(seed),
        structures=folder.structures(),
        licence="yours",
        credit=f"{len(folder.files)} scans of {folder.root}",
        simulated=False,
        source=folder,
        unlabelled=folder.unlabelled(),
    )
    for subject in cohort.subjects:
        cohort.image(subject)  # whatever is wrong shows now, not in the middle of a training
    return cohort


def ordered_pairs(ids, limit=None, seed=0):
    """List ordered pairs of two different people, in a random order that the seed fixes.

    Parameters
    ----------
    ids : sequence of str
        At least two people.
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
        raise ValueError(f"ids: found {ids}, expected at least two people to make a pair.")
    if limit is not None and (not isinstance(limit, numbers.Integral) or limit < 1):
        raise ValueError(f"limit={limit!r}: expected a number of pairs, 1 or above, or None.")
    pairs = [(moving, fixed) for moving in ids for fixed in ids if moving != fixed]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[k] for k in order[:limit]]
