"""Measure methods on the same pairs in both directions, and keep the rows while it runs."""

import itertools
import json
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from vxmlib import files, metrics

#: Evaluated structures that are no core structure: cerebral white matter and cortex, both sides.
_LARGE = (2, 3, 41, 42)
#: Numbers of the cortical parcels in the manual label maps of `malf`.
CORTEX_FROM = 100

#: What one direction of a pair is measured by, besides its subjects.
MEASURES = (
    "dice",
    "dice_cortex",
    "surface_mm",
    "folds",
    "folding_percent",
    "folding_percent_brain",
    "sd_log_jacobian",
    "length_mm",
    "inverse_consistency_mm",
    "seconds",
)


def core(structures):
    """The structures inside the brain: all but cerebral cortex and cerebral white matter.

    Examples
    --------
    >>> core({2: "Left Cerebral White Matter", 17: "Left Hippocampus"})
    {17: 'Left Hippocampus'}
    """
    return {label: name for label, name in structures.items() if label not in _LARGE}


def cortical(structures):
    """The cortical parcels among the manual labels of `malf`.

    Examples
    --------
    >>> cortical({48: "Left Hippocampus", 100: "Right ACgG"})
    {100: 'Right ACgG'}
    """
    return {label: name for label, name in structures.items() if label >= CORTEX_FROM}


def unordered(ids):
    """List each pair of two different subjects once, in the order of the list.

    Examples
    --------
    >>> unordered(["a", "b", "c"])
    [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    return list(itertools.combinations(ids, 2))


def one_way(method):
    """Make a method of both directions from a method of one direction.

    Returns
    -------
    callable
        ``both(a, b)`` gives the displacement of a onto b, that of b onto a, and the seconds of one
        registration (the mean of the two).
    """

    def both(a, b):
        began = perf_counter()
        there, back = method(a, b), method(b, a)
        return there, back, (perf_counter() - began) / 2

    return both


def both_at_once(method):
    """Time a method that returns both displacements of a pair; the result is that of `one_way`."""

    def both(a, b):
        began = perf_counter()
        there, back = method(a, b)
        return there, back, perf_counter() - began

    return both


def measure_pair(people, parcels, first, second, both):
    """Register two subjects onto each other and measure both directions.

    Parameters
    ----------
    people : Cohort
        In 3-D; Dice and surfaces are over :func:`core` of its structures.
    parcels : Cohort or None
        The same subjects with the manual labels, for the cortical parcels.
    first, second : str
    both : callable
        See :func:`one_way`.

    Returns
    -------
    list of dict
        Two: moving, fixed, each of :data:`MEASURES`, and ``structures`` (name -> Dice).
        ``surface_mm`` is the 95th percentile of the surface distance, mean over core structures;
        folding in percent of all voxels and of the fixed brain; ``length_mm`` the mean length of
        the displacement over the fixed brain; ``inverse_consistency_mm`` likewise of the way that
        is left after going there and back. Overlaps and surfaces of a subject without a label map
        are NaN.
    """
    manual = None if parcels is None else (parcels, cortical(parcels.structures))
    measured = metrics.evaluate_pairs(
        people,
        [(first, second)],
        both,
        measures=metrics.MEASURES,
        structures=core(people.structures),
        parcels=manual,
        both_ways=True,
    )
    return [_row(part) for _, part in measured.groupby(["moving", "fixed"], sort=False)]


def measure_all(people, parcels, pairs, both, *, file, say=None):
    """Measure both directions of each pair; rows that ``file`` already has are kept.

    Parameters
    ----------
    people, parcels, both
        See :func:`measure_pair`.
    pairs : sequence of (str, str)
        Each two subjects once, see :func:`unordered`.
    file : path
        One JSON object a line, one line a direction; a stopped measurement goes on after it.
    say : callable
        Called with a line of text after each pair; prints it by default.

    Returns
    -------
    list of dict
        One a direction, in the order of the pairs.

    Raises
    ------
    ValueError
        A structure to measure that none of the subjects has.
    """
    say = say or partial(print, flush=True)
    check_structures(people, core(people.structures), pairs)
    if parcels is not None:
        check_structures(parcels, cortical(parcels.structures), pairs)
    file = Path(file)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = {(row["moving"], row["fixed"]): row for row in map(json.loads, lines)}
    for number, (first, second) in enumerate(pairs, start=1):
        if {(first, second), (second, first)} <= set(rows):
            continue
        for row in measure_pair(people, parcels, first, second, both):
            rows[row["moving"], row["fixed"]] = row
        files.write_text(file, "".join(json.dumps(row) + "\n" for row in rows.values()))
        now = rows[first, second]
        say(f"[{number}/{len(pairs)}] {first} {second}: Dice {now['dice']:.3f}")
    return [rows[way] for pair in pairs for way in (pair, pair[::-1])]


def check_structures(people, structures, pairs):
    """Refuse a list of structures with one that nobody has: its name or number must be wrong.

    Parameters
    ----------
    people : Cohort
    structures : dict
        Label -> name.
    pairs : sequence of (str, str)
        Whose label maps are looked at.

    Raises
    ------
    ValueError
        Naming the structures that none of these subjects has. Subjects without a label map do not
        count.
    """
    ids = sorted({subject for pair in pairs for subject in pair} - set(people.unlabelled))
    if not ids:
        return
    present = set().union(*(np.unique(people.labels(subject)).tolist() for subject in ids))
    if absent := {label: name for label, name in structures.items() if label not in present}:
        listed = ", ".join(f"{label} ({name})" for label, name in absent.items())
        raise ValueError(
            f"structures: found {listed}, which none of {len(ids)} subjects has; remove it from "
            "the list or correct its number"
        )


def table(rows):
    """Rows as a table, one a direction: moving, fixed and :data:`MEASURES`."""
    return pd.DataFrame(rows)[["moving", "fixed", *MEASURES]]


def summary(rows):
    """Means over the ordered pairs, and the two spreads of Dice.

    Returns
    -------
    dict
        ``pairs``; the mean of each of :data:`MEASURES` (of ``seconds`` the median);
        ``dice_sd_pairs`` (SD over pairs); ``dice_sd_pooled`` (SD over pairs and structures, the ±
        of the papers). SDs are population SDs.
    """
    each = table(rows)
    pooled = [dice for row in rows for dice in row["structures"].values()]
    return {
        "pairs": len(each),
        **{name: float(each[name].mean()) for name in MEASURES if name != "seconds"},
        "seconds": float(each["seconds"].median()),
        "dice_sd_pairs": float(each["dice"].std(ddof=0)),
        "dice_sd_pooled": float(np.nanstd(pooled)) if pooled else float("nan"),
    }


def _row(part):
    """One direction as a dict, from its rows of `metrics.evaluate_pairs`."""
    first, overlaps = part.to_dict("records")[0], part.dropna(subset="label")
    means = {
        "dice": float(part["dice"].mean()),
        "dice_cortex": first.get("dice_parcels", float("nan")),
        "surface_mm": float(part["surface_mm"].mean()),  # without structures that were wiped out
    }
    row = {name: (first | means)[name] for name in ("moving", "fixed", *MEASURES[:-1])}
    structures = dict(zip(overlaps["structure"], overlaps["dice"].tolist(), strict=True))
    return row | {"structures": structures, "seconds": first["seconds"]}
