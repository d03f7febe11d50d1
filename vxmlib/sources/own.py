"""Read the scans in a folder of the user, check them and resample them to the common grid.

Every file ``NAME.nii`` or ``NAME.nii.gz`` in the folder is a scan; hidden files are ignored.  The
label map of a scan is optional.  It is ``NAME_seg.nii[.gz]`` beside the scan, or
``labels/NAME.nii[.gz]``.  The file ``labels.csv`` (UTF-8) is optional, too.  It names structures in
rows ``number,name``, whose separator may also be ``;`` or a tab.  A number that it does not name
gets the name of the evaluated structure with this number, if any (`vxmlib.sources.labels`).
"""

import hashlib
import json
import re
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vxmlib import checks, fetch, files, nifti, preprocess
from vxmlib.cohorts import Cohort
from vxmlib.sources import align, template
from vxmlib.sources import labels as structure_labels

ALIGNMENTS = ("centre", "affine", "none")
_ENDINGS = (".nii.gz", ".nii")
_LARGEST_LABEL = np.iinfo(np.int16).max


def cohort(*, ndim=2, spacing=None, seed=0, root, align="centre"):
    """Build the cohort `own`; see `vxmlib.cohorts.load`."""
    where, slab = template.space(ndim, spacing)
    folder = Folder(root, slab, where["affine"], alignment=align)
    people = Cohort(
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
    for subject in people.subjects:
        people.image(subject)  # an error occurs now, and not during a training run
    return people


class Folder:
    """The scans of a folder, resampled to a grid; all are read when the object is created.

    Parameters
    ----------
    root : path
        Folder that holds the scans.
    shape, affine
        Shape and affine of the grid in MNI space, as returned by `vxmlib.sources.template.grid`.
    alignment : {"centre", "affine", "none"}
        How a scan is aligned to the MNI template.  "centre" shifts it so that the centres of mass
        coincide.  "affine" aligns it by ANTs with 12 degrees of freedom; this takes about a minute
        for each scan, and the matrix is kept in the cache folder.  "none" is for scans that are
        already in MNI space.

    Raises
    ------
    ValueError
        `root` is not a folder or holds fewer than two scans; a file is damaged; a label map has no
        scan, or another grid than its scan; or a scan lies outside the grid.  The message names
        the file.
    """

    def __init__(self, root, shape, affine, *, alignment):
        checks.check_choice("align", alignment, ALIGNMENTS)
        self.root = _folder(root)
        self.files = find(self.root)
        shown = tqdm(self.files.items(), desc="aligning the scans", disable=alignment != "affine")
        self._people = {
            name: _person(scan, labels, shape, affine, alignment) for name, (scan, labels) in shown
        }

    def person(self, name):
        """Return a scan, float32 in [0, 1], and its label map, int16, or None if it has none."""
        return self._people[name]

    def unlabelled(self):
        """Return the names of the scans that have no label map."""
        return tuple(name for name, (_, labels) in self._people.items() if labels is None)

    def structures(self):
        """Return the structures that occur in the label maps: label number -> name."""
        maps = [labels for _, labels in self._people.values() if labels is not None]
        numbers = sorted({int(n) for labels in maps for n in np.unique(labels)} - {0})
        names = structure_labels.structures() | _named(self.root / "labels.csv")
        return {number: names.get(number, f"label {number}") for number in numbers}

    def split(self, seed):
        """Divide the scans at random into training, validation and test parts.

        A fifth is for testing and a tenth for validation, but at least two scans each; the rest is
        for training.  Scans with label maps are assigned to the test part first.  Fewer than six
        scans are not divided: each part then holds all of them, and a result says nothing about
        new subjects.
        """
        names = sorted(self._people)
        if len(names) < 6:
            return dict.fromkeys(("train", "validation", "test"), tuple(names))
        order = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
        order.sort(key=self.unlabelled().__contains__)  # stable: labelled ones first
        test, validation = max(2, len(names) // 5), max(2, len(names) // 10)
        cut = {"train": order[test + validation :], "validation": order[test : test + validation]}
        cut["test"] = order[:test]
        return {part: tuple(sorted(chosen)) for part, chosen in cut.items()}


def find(root):
    """List the scans of a folder: name -> (path of the scan, path of its label map or None).

    Raises
    ------
    ValueError
        `root` is not a folder or holds fewer than two scans, two scans have the same name, or a
        label map has no scan.
    """
    root, scans, beside = _folder(root), {}, {}
    for path in _images(root):
        name = _name(path)
        if name.endswith("_seg"):
            beside[name.removesuffix("_seg")] = path
        elif name in scans:
            raise ValueError(f"{path}: {scans[name].name} has the same name. Remove one of them.")
        else:
            scans[name] = path
    beside |= {_name(path).removesuffix("_seg"): path for path in _images(root / "labels")}
    _check_found(root, scans, beside)
    return {name: (path, beside.get(name)) for name, path in scans.items()}


def _images(folder):
    """Return the NIfTI files of a folder without hidden ones, such as macOS's ``._a.nii.gz``."""
    paths = sorted(folder.glob("*.nii*"))
    return [p for p in paths if p.name.endswith(_ENDINGS) and not p.name.startswith(".")]


def _check_found(root, scans, beside):
    for name in sorted(set(beside) - set(scans)):
        raise ValueError(
            f"{beside[name]}: a label map without its scan; expected {root / name}.nii.gz or .nii."
        )
    if not scans:
        raise ValueError(f"{root} holds no scans; expected files NAME.nii.gz or NAME.nii in it.")
    if len(scans) == 1:
        raise ValueError(
            f"{root} holds one scan only ({next(iter(scans.values())).name}); registration needs "
            "at least two."
        )


def _folder(root):
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"root={str(root)!r} is not a folder. Name the folder that has the scans.")
    return folder


def _name(path):
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _person(path, labels_path, shape, grid_affine, alignment):
    """Read one scan and its label map, and resample both to the grid."""
    image, affine = nifti.read_image(path)
    if image.ndim != 3:
        raise ValueError(
            f"{path}: found shape {image.shape}, expected a volume of three axes; give a slice a "
            "third axis of one voxel"
        )
    check_scan(image, path)
    labels = None if labels_path is None else _read_labels(labels_path, image.shape, affine)
    return place(image, affine, labels, shape, grid_affine, alignment=alignment, name=path)


def place(image, affine, labels, shape, grid_affine, *, alignment, name):
    """Align a skull-stripped scan, resample it and its label map to a grid, and normalise the scan.

    Parameters
    ----------
    image : (i, j, k) float32 ndarray
        Intensities, background 0.
    affine : (4, 4) ndarray
        Voxel index of `image` -> RAS mm.
    labels : (i, j, k) int16 ndarray or None
        Label map on the grid of `image`; None if the scan has none.
    shape, grid_affine
        Shape and affine of the new grid in MNI space, as returned by
        `vxmlib.sources.template.grid`.
    alignment : {"centre", "affine", "none"}
        As for `Folder`.
    name : str or Path
        Name of the scan in error messages.

    Returns
    -------
    image : (*shape) float32 ndarray
        Intensities in [0, 1].
    labels : (*shape) int16 ndarray or None

    Raises
    ------
    ValueError
        No voxel of the brain lies on the grid, or ANTs cannot represent the affine.
    """
    try:
        matrix = _matrix(image, affine, alignment)
    except ValueError as error:  # the affine has shear, which ANTs cannot represent
        raise ValueError(f"{name}: {error}") from error
    where = {"shape": shape, "grid_affine": grid_affine, "matrix": matrix}
    sampled = preprocess.resample(image, affine, **where, keep_background=True)
    if not (sampled > 0).any():
        raise ValueError(
            f"{name}: its brain lies outside the grid in MNI space. Check the affine in the "
            "header, or use align='centre'."
        )
    if labels is not None:
        labels = preprocess.resample(labels, affine, **where, labels=True)
    return preprocess.normalise(sampled), labels


def check_scan(image, path):
    """Raise an error unless the intensities are finite, differ, and exceed the background, 0."""
    checks.check_finite(image, path)
    if image.max() <= 0 or image.min() == image.max():
        raise ValueError(
            f"{path}: intensities from {image.min():g} to {image.max():g}; expected a brain above "
            "a background of 0."
        )


def _read_labels(path, shape, affine):
    """Read a label map, and check that it lies on the grid of its scan."""
    labels, labels_affine = nifti.read_labels(path)
    checks.check_labels(labels, shape=shape, name=str(path), least=0, most=_LARGEST_LABEL)
    if not np.allclose(labels_affine, affine, atol=1e-2):
        raise ValueError(
            f"{path}: its affine {labels_affine.round(2).tolist()} differs from its scan's "
            f"{affine.round(2).tolist()}; both have to lie on one grid. Resample the label map "
            "onto the scan (nearest neighbour), or correct the header."
        )
    return labels.astype(np.int16)


def _matrix(image, affine, alignment):
    """Return the matrix, template RAS mm -> scan RAS mm, of the chosen alignment."""
    if alignment == "none":
        return np.eye(4)
    if alignment == "centre":
        return align.centring(image, affine)
    key = hashlib.sha256(np.ascontiguousarray(image).tobytes())
    key.update(np.asarray(affine, np.float64).tobytes())
    key.update(json.dumps([align.METHOD, metadata.version("antspyx")]).encode())
    kept = fetch.cache_folder() / "own_affines" / f"{key.hexdigest()}.txt"
    matrix = _kept_matrix(kept)
    if matrix is None:
        matrix = align.affine_to_template(image, affine)
        with files.whole(kept) as part:
            np.savetxt(part, matrix)
    return matrix


def _kept_matrix(path):
    """Return the matrix that a file holds, or None if the file is missing or damaged."""
    try:
        return checks.check_affine([row.split() for row in path.read_text().splitlines()])
    except (OSError, ValueError):
        return None


def _named(path):
    """Return the names in the rows ``number,name`` of a table, whose first row may be a header."""
    if not path.is_file():
        return {}
    expected = "expected rows of number,name (or ; or a tab between them)"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: found text that is not UTF-8, {expected}. Save it as 'CSV UTF-8'."
        ) from None
    names = {}
    for number, line in enumerate(filter(str.strip, text.splitlines()), start=1):
        row = re.fullmatch(r'\s*"?(\d+)"?\s*[,;\t]\s*"?([^\s",;].*?)"?[\s,;]*', line)
        if row:
            names[int(row[1])] = row[2].replace('""', '"')
        elif number > 1 or line.lstrip(' "')[0].isdigit():
            raise ValueError(f"{path}: found the row {line!r}, {expected}.")
    if not names:
        raise ValueError(f"{path}: found no row with a number and a name, {expected}.")
    return names
