"""Measure methods on the same pairs, and save the rows after each pair.

Pairs of subjects are measured in both directions, and pairs of a subject and the atlas in one.
"""

import itertools
import json
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from vxmlib import files, metrics

#: Labels that are not core structures: cerebral white matter and cerebral cortex, both sides.
_LARGE = (2, 3, 41, 42)
#: Smallest label of a cortical parcel in the manual label maps of `malf`.
CORTEX_FROM = 100

#: Measures of one direction of a pair; :func:`measure_pair` describes them. If only one
#: direction is registered, the inverse consistency is NaN.
MEASURES = (
    "dice",
    "dice_cortex",
    "surface_mm",
    "folds",
    "folding_percent",
    "folding_percent_brain",
    "digital_folding_percent_brain",
    "sd_log_jacobian",
    "length_mm",
    "inverse_consistency_mm",
    "seconds",
)
#: Optional measures of a pair of which only one direction is registered.
_ONE_DIRECTION = tuple(name for name in metrics.MEASURES if name != "inverse_consistency_mm")


def core(structures):
    """Return the core structures: all except cerebral cortex and cerebral white matter.

    Examples
    --------
    >>> core({2: "Left Cerebral White Matter", 17: "Left Hippocampus"})
    {17: 'Left Hippocampus'}
    """
    return {label: name for label, name in structures.items() if label not in _LARGE}


def cortical(structures):
    """Return the cortical parcels among the manual labels of `malf`.

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
    """Turn a method that registers one direction into one that registers both.

    Parameters
    ----------
    method : callable
        ``method(moving, fixed)`` returns a displacement ``(*vol, nd)`` in voxels.

    Returns
    -------
    callable
        ``both(a, b)`` returns the displacement of a onto b, that of b onto a, and the seconds of
        one registration (the mean of the two).
    """

    def both(a, b):
        began = perf_counter()
        there, back = method(a, b), method(b, a)
        return there, back, (perf_counter() - began) / 2

    return both


def both_at_once(method):
    """Add the time to a method that returns both displacements of a pair at once.

    Returns
    -------
    callable
        ``both(a, b)`` as from :func:`one_way`, but the seconds are those of the one call.
    """

    def both(a, b):
        began = perf_counter()
        there, back = method(a, b)
        return there, back, perf_counter() - began

    return both


def measure_pair(people, parcels, first, second, method, *, both_ways=True):
    """Register two subjects onto each other and measure both directions, or only the first.

    Parameters
    ----------
    people : Cohort
        A 3D cohort. Dice and surface distance are computed for its :func:`core` structures.
    parcels : Cohort or None
        The same subjects with the manual labels, for ``dice_cortex``; without them it is NaN.
    first, second : str
        Ids of the two subjects.
    method : callable
        A method of both directions, see :func:`one_way`. If ``both_ways`` is false,
        ``method(moving, fixed)`` returns one displacement ``(*vol, nd)`` in voxels.
    both_ways : bool
        Whether to measure both directions. Otherwise, only ``first`` is registered onto
        ``second``.

    Returns
    -------
    list of dict
        Two rows, of ``first`` onto ``second`` and of the reverse direction, or only the first of
        them. Each has ``moving`` and ``fixed`` (ids), ``structures`` (name -> Dice), and
        :data:`MEASURES`:

        - ``dice`` and ``dice_cortex``: mean Dice of the core structures and of the cortical
          parcels.
        - ``surface_mm``: the 95th percentile of the surface distance, mean over core structures.
        - ``folds``, ``folding_percent`` and ``folding_percent_brain``: number of folded voxels,
          their percentage of all voxels, and the percentage of the fixed brain that folds.
        - ``digital_folding_percent_brain``: the same percentage, by the digital criterion
          (:func:`vxmlib.metrics.digital_folding`).
        - ``sd_log_jacobian``: SD of log det J over the fixed brain, folded voxels excluded.
        - ``length_mm``: mean length of the displacement over the fixed brain.
        - ``inverse_consistency_mm``: mean distance, over the fixed brain, between a point and its
          position after both displacements; NaN if only one direction is registered.
        - ``seconds``: time of one registration.

        Dice and surface distance are NaN if one of the subjects has no label map.
    """
    manual = None if parcels is None else (parcels, cortical(parcels.structures))
    measured = metrics.evaluate_pairs(
        people,
        [(first, second)],
        method,
        measures=metrics.MEASURES if both_ways else _ONE_DIRECTION,
        structures=core(people.structures),
        parcels=manual,
        both_ways=both_ways,
    )
    return [_row(part) for _, part in measured.groupby(["moving", "fixed"], sort=False)]


def measure_all(people, parcels, pairs, method, *, both_ways=True, file, say=None):
    """Measure each pair, and save the rows after each pair.

    Pairs that ``file`` already has are not measured again.

    Parameters
    ----------
    people, parcels, method, both_ways
        See :func:`measure_pair`.
    pairs : sequence of (str, str)
        Pairs of ids, each in one order only, see :func:`unordered`.
    file : path
        File of the rows, with one JSON object per line. If it exists, an interrupted measurement
        continues from it.
    say : callable, optional
        Function that is called with one line of text after each pair; by default, the line is
        printed.

    Returns
    -------
    list of dict
        The rows of :func:`measure_pair`, in the order of the pairs.

    Raises
    ------
    ValueError
        If none of the subjects has one of the structures to measure.
    """
    say = say or partial(print, flush=True)
    check_structures(people, core(people.structures), pairs)
    if parcels is not None:
        check_structures(parcels, cortical(parcels.structures), pairs)
    file = Path(file)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = {(row["moving"], row["fixed"]): row for row in map(json.loads, lines)}
    for number, (first, second) in enumerate(pairs, start=1):
        if set(_directions((first, second), both_ways)) <= set(rows):
            continue
        for row in measure_pair(people, parcels, first, second, method, both_ways=both_ways):
            rows[row["moving"], row["fixed"]] = row
        files.write_text(file, "".join(json.dumps(row) + "\n" for row in rows.values()))
        now = rows[first, second]
        say(f"[{number}/{len(pairs)}] {first} {second}: Dice {now['dice']:.3f}")
    return [rows[way] for pair in pairs for way in _directions(pair, both_ways)]


def _directions(pair, both_ways):
    """Return the ordered pairs that are measured for a pair."""
    return (pair, pair[::-1]) if both_ways else (pair,)


def check_structures(people, structures, pairs):
    """Check that each structure occurs in the label map of at least one subject.

    A structure that none of the subjects has is probably listed under a wrong number.

    Parameters
    ----------
    people : Cohort
    structures : dict
        Label -> name.
    pairs : sequence of (str, str)
        Pairs of ids of the subjects whose label maps are searched.

    Raises
    ------
    ValueError
        If none of these subjects has one of the structures; the message names the structure.
        Subjects without a label map are ignored.
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
    """Return rows of :func:`measure_pair` as a table: moving, fixed and :data:`MEASURES`.

    A measure that the rows lack is NaN: earlier records do not contain the digital folding.
    """
    return pd.DataFrame(rows).reindex(columns=["moving", "fixed", *MEASURES])


def summary(rows):
    """Average rows of :func:`measure_pair` over the ordered pairs.

    Returns
    -------
    dict
        ``pairs`` (number of ordered pairs); the mean of each of :data:`MEASURES`, except
        ``seconds``, which is the median; ``dice_sd_pairs`` (SD of Dice over pairs);
        ``dice_sd_pooled`` (SD over pairs and structures, the ± of the VoxelMorph papers). SDs are
        population SDs (``ddof=0``).
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
    """Return one direction as a dict, from its rows of `metrics.evaluate_pairs`."""
    first, overlaps = part.to_dict("records")[0], part.dropna(subset="label")
    means = {
        "dice": float(part["dice"].mean()),
        "dice_cortex": first.get("dice_parcels", float("nan")),
        "surface_mm": float(part["surface_mm"].mean()),  # without structures that the warp removed
    }
    values = {"inverse_consistency_mm": float("nan")} | first | means
    row = {name: values[name] for name in ("moving", "fixed", *MEASURES[:-1])}
    structures = dict(zip(overlaps["structure"], overlaps["dice"].tolist(), strict=True))
    return row | {"structures": structures, "seconds": first["seconds"]}
