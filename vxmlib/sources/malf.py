"""Read the real scans of the MICCAI 2012 multi-atlas labelling challenge, with the official split.

The data set has 35 T1 scans of 30 subjects with manual label maps.  The scans are downloaded; the
package itself contains only 35 affine matrices and a table of label numbers for them.
"""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vxmlib import checks, fetch, nifti, preprocess
from vxmlib.cohorts import Cohort
from vxmlib.sources import labels as structure_labels
from vxmlib.sources import simulate, template

FOLDER = "muschellij2/malf.templates/ab259cebdbb44a9fd2c9cc1597cee8ea329c8cc1"
AFFINES_FILE = Path(__file__).parents[1] / "data" / "malf_affines.json"

TRAIN = tuple("1000 1001 1002 1006 1007 1008 1009 1010 1011 1012 1013 1014 1015 1017 1036".split())
VALIDATION = tuple("1003 1004 1005 1018 1019".split())
REPEATS = tuple("1023 1024 1025 1038 1039".split())  # the validation subjects, scanned again
TEST = tuple("1101 1104 1107 1110 1113 1116 1119 1122 1125 1128".split())
SPLIT = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "repeats": REPEATS}
SCANS = tuple(sorted(TRAIN + VALIDATION + TEST + REPEATS))

LICENCE = "CC BY-NC (MICCAI 2012 multi-atlas labelling challenge)"
CREDIT = (
    "MRI scans: originating from the OASIS project. Label maps: provided by Neuromorphometrics, "
    "Inc. (http://Neuromorphometrics.com/) under academic subscription."
)


def scan_path(scan):
    """Fetch a scan of ``SCANS``, skull-stripped and in native space, and return its path."""
    return fetch.fetch(f"{FOLDER}/inst/extdata/{scan}_SS.nii.gz")


def labels_path(scan):
    """Fetch the manual label map of a scan, on the grid of the scan, and return its path."""
    return fetch.fetch(f"{FOLDER}/inst/extdata/{scan}_glm.nii.gz")


def available():
    """Return where all files are (``"mirror"`` or ``"cache"``), or ``""`` if one is missing."""
    return fetch.available(FOLDER)


def fetch_all():
    """Download the missing files, so that a network error occurs before a training run."""
    if available():
        return
    paths = [path for path in fetch.registry() if path.startswith(FOLDER)]
    for path in tqdm(paths, desc="downloading the scans", unit="file"):
        fetch.fetch(path)


def matrices():
    """Return the stored affine alignments: scan -> (4, 4) array, template RAS mm -> scan RAS mm.

    ``python -m vxmlib.sources.align malf`` computes them.
    """
    stored = json.loads(AFFINES_FILE.read_text(encoding="utf-8"))
    return {scan: np.array(entry["matrix"]) for scan, entry in stored["scans"].items()}


def manual_names():
    """Return the names of the original label numbers, from the table of the challenge.

    Returns
    -------
    dict
        Label number -> name, for the 138 labels that all 35 label maps contain.
    """
    text = fetch.fetch(f"{FOLDER}/inst/MICCAI-Challenge-2012-Label-Information.csv").read_text()
    rows = (line.split(",") for line in text.splitlines()[1:])
    known = set(structure_labels.manual_numbers())
    return {int(row[0]): " ".join(row[1].split()) for row in rows if int(row[0]) in known}


def cohort(*, ndim=2, spacing=None, labels="freesurfer"):
    """Build the cohort `malf`; see `vxmlib.cohorts.load`."""
    checks.check_choice("labels", labels, ("freesurfer", "manual"))
    where, slab = template.space(ndim, spacing)
    fetch_all()
    manual = labels == "manual"
    structures = manual_names() if manual else structure_labels.manual_structures()
    return Cohort(
        name="malf",
        **where,
        split=dict(SPLIT),
        structures=structures if manual else simulate.crossing(structures, where["ndim"]),
        licence=LICENCE,
        credit=CREDIT,
        simulated=False,
        source=Scans(slab, where["affine"], manual=manual),
    )


class Scans:
    """The scans of the cohort, resampled to a grid by one interpolation from native space."""

    def __init__(self, shape, affine, *, manual):
        self.shape, self.affine, self.manual = shape, affine, manual

    def person(self, scan):
        """Return a scan, float32 in [0, 1], and its label map, int16, both on the 3-D grid."""
        where = {"shape": self.shape, "grid_affine": self.affine, "matrix": matrices()[scan]}
        image = preprocess.resample(
            *nifti.read_image(scan_path(scan)), **where, keep_background=True
        )
        labels, affine = nifti.read_labels(labels_path(scan))
        labels = labels if self.manual else structure_labels.fold_manual(labels)
        labels = preprocess.resample(labels, affine, **where, labels=True)
        return preprocess.normalise(image), labels.astype(np.int16)
