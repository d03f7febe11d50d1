"""List the evaluated structures, and convert other label numbers to theirs.

The evaluated structures are the 30 of the VoxelMorph papers, with FreeSurfer's label numbers.
`fold_freesurfer` and `fold_manual` treat every other label by the same rule:

- A label that the source uses for a part of an evaluated structure is merged into that structure:
  cortical parcels into the cerebral cortex of their side, and inferior lateral ventricles (5, 44)
  into the lateral ventricles.  The corpus callosum (251-255) and white-matter hypointensities (77)
  have labels without a side; they are merged into the cerebral white matter of the side on which
  the voxel lies.
- All other labels become 0, the background of the evaluation: accumbens, basal forebrain, vessels,
  optic chiasm, lesions, and the cerebellar vermis of the manual maps, to which their protocol
  assigns no side.
"""

import functools
from pathlib import Path

import numpy as np

_DATA = Path(__file__).parents[1] / "data"
_MIDLINE_WHITE_MATTER = (77, 251, 252, 253, 254, 255)


def read_table(name):
    """Read a two-column CSV table in ``vxmlib/data``, and return its rows without the header."""
    rows = (_DATA / name).read_text(encoding="utf-8").splitlines()[1:]
    return [row.split(",") for row in rows]


def structures():
    """Return the 30 evaluated structures as a new dictionary: FreeSurfer's number -> name.

    Examples
    --------
    >>> len(structures()), structures()[17]
    (30, 'Left Hippocampus')
    """
    return {int(label): name for label, name in read_table("structures.csv")}


def fold_freesurfer(labels, right):
    """Reduce a FreeSurfer label map to the 30 evaluated structures.

    Parameters
    ----------
    labels : (*vol) integer ndarray
        FreeSurfer's numbers, with the cortex as parcels (1000-1035, 2000-2035) or as 3 and 42.
    right : bool ndarray that broadcasts to (*vol)
        True to the right of the midplane.  It decides the side of labels that have none.

    Returns
    -------
    (*vol) int16 ndarray
        FreeSurfer's numbers of the evaluated structures, 0 elsewhere; the rule is in the
        docstring of this module.

    Examples
    --------
    >>> fold_freesurfer(np.array([1003, 2003, 44, 251, 26]), np.array([0, 1, 1, 0, 0], bool))
    array([ 3, 42, 43,  2,  0], dtype=int16)
    """
    labels = np.asarray(labels)
    table = np.zeros(max(int(labels.max(initial=0)), 2999) + 1, np.int16)
    evaluated = list(structures())
    table[evaluated] = evaluated
    table[5], table[44] = 4, 43
    table[1000:2000], table[2000:3000] = 3, 42
    folded = table[labels]
    midline = np.isin(labels, _MIDLINE_WHITE_MATTER)
    return np.where(midline, np.where(right, 41, 2), folded).astype(np.int16)


def fold_manual(labels):
    """Reduce a manual label map of the MICCAI 2012 challenge to the evaluated structures.

    Parameters
    ----------
    labels : (*vol) integer ndarray
        Neuromorphometrics' numbers, 0 to 207.

    Returns
    -------
    (*vol) int16 ndarray
        FreeSurfer's numbers of 27 evaluated structures, 0 elsewhere; the rule is in the docstring
        of this module.

    Examples
    --------
    >>> fold_manual(np.array([0, 48, 101, 100, 71]))
    array([ 0, 17,  3, 42,  0], dtype=int16)
    """
    labels = np.asarray(labels)
    table = np.zeros(max(int(labels.max(initial=0)), 207) + 1, np.int16)
    for manual, freesurfer in _manual_table().items():
        table[manual] = freesurfer
    return table[labels]


@functools.cache
def _manual_table():
    """Neuromorphometrics' number -> FreeSurfer's number, or 0 if the label is not evaluated."""
    return {int(manual): int(other) for manual, other in read_table("malf_labels.csv")}


def manual_numbers():
    """Return the 138 label numbers that all manual label maps of the challenge contain."""
    return tuple(_manual_table())


def manual_structures():
    """Return the 27 evaluated structures that the manual label maps contain: number -> name."""
    known = set(_manual_table().values())
    return {label: name for label, name in structures().items() if label in known}
