"""Read the scans in a folder of the user, check them and resample them to the common grid.

Every file ``NAME.nii.gz`` in the folder is a scan; ``.nii``, ``.mgz``, ``.mgh``, and ``.img`` with
its ``.hdr`` are read, too, in upper or lower case. Hidden files are ignored. A label map
is optional. It is ``NAME_seg`` beside the scan (or ``NAME_dseg``, ``NAME_label``, ``NAME_labels``),
or ``labels/NAME``. In the names of BIDS, ``sub-01_dseg`` belongs to ``sub-01_T1w``. Brain masks
(``NAME_mask``, ``NAME_brainmask``) are left out with a warning. The file ``labels.csv`` (UTF-8) is
optional, too. It names structures in rows ``number,name``, whose separator may also be ``;`` or a
tab. A number that it does not name gets the name of the evaluated structure with this number
(`vxmlib.sources.labels`), if at least five labels have such numbers.
"""

import hashlib
import json
import re
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vxmlib import checks, fetch, files, nifti, preprocess
from vxmlib.cohorts import Cohort
from vxmlib.sources import align, template
from vxmlib.sources import labels as structure_labels

ALIGNMENTS = ("centre", "affine", "none")
_ENDING = re.compile(r"\.(nii|nii\.gz|mgz|mgh|mgh\.gz|img|img\.gz)$", re.IGNORECASE)
_LABELS = re.compile(r"_(d?seg|labels?)$", re.IGNORECASE)
_MASK = re.compile(r"_(brain_?)?mask$", re.IGNORECASE)
_CONTRAST = re.compile(r"_(T1w|T2w|PDw|FLAIR)$")  # the last part of a name in BIDS
_FEW_KNOWN = 5  # labels with the number of an evaluated structure; with fewer, none gets its name
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
        _warn_of_copies(self.files)
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
        known = structure_labels.structures()
        # Other numberings share small numbers: tissue labels 1, 2 and 3 are no structures.
        if len(known.keys() & set(numbers)) < _FEW_KNOWN:
            known = {}
        names = known | _named(self.root / "labels.csv")
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
            warnings.warn(
                f"{self.root}: found {len(names)} scans, expected at least 6 to divide them. Each "
                "part has all scans, so no result says how well new subjects are registered.",
                stacklevel=3,
            )
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
    root, scans, maps = _folder(root), {}, {}
    for path in _images(root):
        name = _name(path)
        if _MASK.search(name):
            warnings.warn(f"{path}: left out, because its name is that of a mask", stacklevel=2)
        elif _LABELS.search(name):
            _add(maps, _LABELS.sub("", name), path)
        else:
            _add(scans, name, path)
    for path in _images(root / "labels"):
        _add(maps, _LABELS.sub("", _name(path)), path)
    _check_number(root, scans)
    beside = _assigned(maps, scans)
    return {name: (path, beside.get(name)) for name, path in scans.items()}


def _images(folder):
    """Return the image files of a folder without hidden ones, such as macOS's ``._a.nii.gz``."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in paths if _ENDING.search(path.name) and path.name[0] != "."]
    for path in paths:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "a link to a file that does not exist"
            raise ValueError(f"{path}: found {kind}, expected an image file; rename or remove it.")
    return paths


def _add(paths, name, path):
    """Add a file to those with its role, unless another has the same name."""
    if name in paths:
        raise ValueError(f"{path}: {paths[name].name} has the same name. Remove one of them.")
    paths[name] = path


def _assigned(maps, scans):
    """Return the label maps by the names of their scans, which may end in a contrast of BIDS."""
    beside = {}
    for name, path in maps.items():
        owners = [scan for scan in scans if name in (scan, _CONTRAST.sub("", scan))]
        if len(owners) != 1 and name not in scans:
            found = f"for {' and '.join(owners)}" if owners else "without its scan"
            raise ValueError(
                f"{path}: a label map {found}; expected one scan of this name, such as "
                f"{name}.nii.gz or {name}_T1w.nii.gz."
            )
        _add(beside, name if name in scans else owners[0], path)
    return beside


def _check_number(root, scans):
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
    return _ENDING.sub("", path.name)


def _person(path, labels_path, shape, grid_affine, alignment):
    """Read one scan and its label map, and resample both to the grid."""
    image, affine = nifti.read_image(path)
    if image.ndim != 3:
        raise ValueError(
            f"{path}: found shape {image.shape}, expected a volume of three axes; give a slice a "
            "third axis of one voxel"
        )
    check_scan(image, path)
    nifti.check_position(path)
    for sentence in checks.doubts(image, affine, str(path)):
        warnings.warn(sentence, stacklevel=2)
    labels = None if labels_path is None else _read_labels(labels_path, image.shape, affine)
    return place(image, affine, labels, shape, grid_affine, alignment=alignment, name=path)


def _warn_of_copies(files):
    """Warn of scans whose files are equal, one of which could train and the other test."""
    seen = {}
    for path, _ in files.values():
        key = hashlib.sha256(path.read_bytes()).digest()
        if key in seen:
            warnings.warn(f"{path}: the same file as {seen[key].name}", stacklevel=3)
        seen[key] = path


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
    if not labels.any():
        raise ValueError(f"{path}: found only the label 0, expected labels of structures.")
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
