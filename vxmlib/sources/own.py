"""Read the scans of a folder that the user names, check them and resample them onto the grid.

In the folder, every ``NAME.nii`` or ``NAME.nii.gz`` is a scan; hidden files are ignored.  Its label
map, if there is one, is ``NAME_seg.nii[.gz]`` beside it, or ``labels/NAME.nii[.gz]``.  A file
``labels.csv`` in UTF-8 may name the structures by rows ``number,name`` (or ``;`` or a tab between
them); without it FreeSurfer's names are used where they fit.
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
        people.image(subject)  # an error shows now, not in the middle of a training
    return people


class Folder:
    """The scans of a folder, all read and checked at once, on a grid.

    Parameters
    ----------
    root : path
        The folder.
    shape, affine
        The grid, as `vxmlib.sources.template.grid` gives it.
    alignment : {"centre", "affine", "none"}
        How a scan is laid onto the MNI template: shifted so that the centres of mass agree;
        by ANTs with 12 degrees of freedom (a minute a scan, kept in the cache folder); or not
        at all, for scans that are in MNI space already.

    Raises
    ------
    ValueError
        No folder, no scans, a single scan, a damaged file, a label map without a scan or of
        another grid, a scan that lies outside of the grid.  The message names the file.
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
        """Return image and label map (or None) of a scan."""
        return self._people[name]

    def unlabelled(self):
        """Return the scans that have no label map."""
        return tuple(name for name, (_, labels) in self._people.items() if labels is None)

    def structures(self):
        """Return the labels that occur, number -> name."""
        maps = [labels for _, labels in self._people.values() if labels is not None]
        numbers = sorted({int(n) for labels in maps for n in np.unique(labels)} - {0})
        names = structure_labels.structures() | _named(self.root / "labels.csv")
        return {number: names.get(number, f"label {number}") for number in numbers}

    def split(self, seed):
        """Divide the scans at random: a fifth to test, a tenth to validate, the rest to train.

        Scans with label maps go to test first.  Fewer than six are too few to divide: then each
        part holds all of them, and a result says nothing about new subjects.
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
        No folder, no scans, one scan only, two of one name, a label map without its scan.
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
    """The NIfTI files of a folder; hidden ones, such as macOS's ``._scan.nii.gz``, are none."""
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
        raise ValueError(f"root={str(root)!r} is not a folder. Name the folder that holds scans.")
    return folder


def _name(path):
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _person(path, labels_path, shape, grid_affine, alignment):
    """Read one scan and its label map, and sample both on the grid."""
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
    """Lay a skull-stripped scan and its label map onto a grid in MNI space, and normalise it.

    Parameters
    ----------
    image : (i, j, k) float32 ndarray
        Intensities, background 0.
    affine : (4, 4) ndarray
        Voxel index -> RAS mm.
    labels : (i, j, k) int16 ndarray or None
        On the same grid.
    shape, grid_affine
        The grid wanted, as `vxmlib.sources.template.grid` gives it.
    alignment : {"centre", "affine", "none"}
        As for `Folder`.
    name : str or Path
        For the message.

    Returns
    -------
    image : float32 ndarray in [0, 1]
    labels : int16 ndarray or None

    Raises
    ------
    ValueError
        Nothing of the brain lies on the grid, or ANTs cannot represent the affine.
    """
    try:
        matrix = _matrix(image, affine, alignment)
    except ValueError as error:  # an affine with shear, which ANTs cannot take
        raise ValueError(f"{name}: {error}") from error
    where = {"shape": shape, "grid_affine": grid_affine, "matrix": matrix}
    sampled = preprocess.resample(image, affine, **where, keep_background=True)
    if not (sampled > 0).any():
        raise ValueError(
            f"{name}: its brain lies outside of the grid around MNI space. Check the header's "
            "affine, or use align='centre'."
        )
    if labels is not None:
        labels = preprocess.resample(labels, affine, **where, labels=True)
    return preprocess.normalise(sampled), labels


def check_scan(image, path):
    """Make sure that intensities are finite and that something is above a background of 0."""
    checks.check_finite(image, path)
    if image.max() <= 0 or image.min() == image.max():
        raise ValueError(
            f"{path}: intensities from {image.min():g} to {image.max():g}; expected a brain above "
            "a background of 0."
        )


def _read_labels(path, shape, affine):
    """Read a label map, and make sure that it lies on its scan's grid."""
    labels, labels_affine = nifti.read_labels(path)
    checks.check_labels(labels, shape=shape, name=str(path), least=0, most=_LARGEST_LABEL)
    if not np.allclose(labels_affine, affine, atol=1e-2):
        raise ValueError(
            f"{path}: its affine {labels_affine.round(2).tolist()} differs from its scan's "
            f"{affine.round(2).tolist()}; both have to lie on one grid. Resample the label map "
            "onto the scan (nearest), or copy the right header."
        )
    return labels.astype(np.int16)


def _matrix(image, affine, alignment):
    """Template RAS mm -> scan RAS mm, by the chosen way."""
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
    """The matrix of a file, or None if the file is missing or damaged."""
    try:
        return checks.check_affine([row.split() for row in path.read_text().splitlines()])
    except (OSError, ValueError):
        return None


def _named(path):
    """Names from the rows ``number,name`` of a table; its first row may be a heading."""
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
