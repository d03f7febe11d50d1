"""Measure a registration: overlap, surfaces, Jacobian, folding, similarity; one table for pairs."""

from itertools import product
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, distance_transform_edt, uniform_filter

from vxmlib.checks import (
    check_choice,
    check_displacement,
    check_finite,
    check_labels,
    check_mask,
    check_number,
)
from vxmlib.warp import each_slab, identity, inversion_error, warp_labels

#: Rule of `dice` for a label that is in neither map -> the value of that label.
ABSENT_RULES = {"skip": None, "nan": float("nan"), "zero": 0.0, "one": 1.0}
NONPOSITIVE_RULES = ("exclude", "floor")
COLUMNS = (
    "moving",
    "fixed",
    "label",
    "structure",
    "dice",
    "folds",
    "folding_percent",
    "folding_percent_brain",
    "sd_log_jacobian",
    "seconds",
)
#: What `evaluate_pairs` adds to `COLUMNS` when it is asked to.
MEASURES = ("surface_mm", "length_mm", "inverse_consistency_mm")

_WIDEST_TABLE = 1 << 22  # label numbers spread further apart than this are searched, not looked up
_CHUNK = 1 << 16  # voxels counted at a time, so that their codes stay in the cache


class Folding(NamedTuple):
    """Voxels where a field folds, by :func:`folding` or by :func:`digital_folding`.

    Attributes
    ----------
    count : int
        Folded voxels of the whole grid.
    percent : float
        `count` in percent of all voxels of the grid.
    percent_in_mask : float or None
        Folded voxels inside the mask in percent of the voxels of the mask; None without a mask.
    """

    count: int
    percent: float
    percent_in_mask: float | None


def dice(a, b, labels=None, *, absent="skip"):
    """Dice overlap of two label maps, ``2 |A and B| / (|A| + |B|)``, for each label.

    Parameters
    ----------
    a, b : array_like
        Label maps ``(*vol)`` of one grid, integer or boolean. The order does not matter.
    labels : iterable of int, optional
        Labels to measure. By default all that occur in `a` or `b`, without 0 (background).
    absent : {"skip", "nan", "zero", "one"}
        Value of a label that is in neither map, where the formula reads 0/0:

        ========  ===================  ================================================
        rule      value                used by
        ========  ===================  ================================================
        "skip"    label is left out    surfa; our default
        "nan"     NaN                  MONAI, the Learn2Reg evaluation
        "zero"    0.0                  voxelmorph (``vxm.py.utils.dice``)
        "one"     1.0                  many hand-written scripts; flatters the mean
        ========  ===================  ================================================

        A label that is in just one of the maps has Dice 0 by the formula, whatever the rule.

    Returns
    -------
    dict of int to float
        Label to overlap in [0, 1], in the order of `labels` (ascending by default).

    Raises
    ------
    ValueError
        Maps not of an integer type or of two grids; unknown rule.

    Notes
    -----
    Definition: Dice, Ecology 26:297-302 (1945). All labels are counted in one pass: each pair
    of labels at a voxel is one number, and one ``bincount`` makes the table of joint counts.

    Examples
    --------
    >>> a = np.array([1, 1, 1, 2, 2, 0])
    >>> b = np.array([1, 1, 2, 2, 0, 0])
    >>> dice(a, b)
    {1: 0.8, 2: 0.5}
    >>> dice(a, b, labels=[1, 9], absent="nan")
    {1: 0.8, 9: nan}
    """
    check_choice("absent", absent, ABSENT_RULES)
    a = check_labels(a, name="a")
    b = check_labels(b, shape=a.shape, name="b")
    if labels is None:
        labels = sorted((_present(a) | _present(b)) - {0})
    labels = _check_numbers(labels)
    both, in_a, in_b = _counts(a, b, labels)
    result = {}
    for label, n_both, n_a, n_b in zip(labels, both, in_a, in_b, strict=True):
        value = 2.0 * n_both / (n_a + n_b) if n_a + n_b else ABSENT_RULES[absent]
        if value is not None:
            result[label] = float(value)
    return result


def mean_dice(a, b, labels=None, *, absent="skip"):
    """Mean of `dice` over labels; NaN entries do not count.

    Parameters
    ----------
    a, b, labels, absent
        As for `dice`.

    Returns
    -------
    float
        In [0, 1]; NaN when there is no label to average.

    Examples
    --------
    >>> mean_dice(np.array([1, 1, 2]), np.array([1, 1, 3]), labels=[1, 2])
    0.5
    """
    return _mean(dice(a, b, labels, absent=absent).values())


def surface_distance(a, b, *, spacing, percentile=95):
    """Distance between the surfaces of two masks in millimetres.

    Surface voxels are those with a face neighbour outside the mask (the outside of the image
    counts as outside the mask). From each surface voxel of one mask the distance to the
    nearest surface voxel of the other is taken, both ways; the answer is the larger of the two
    percentiles.

    Parameters
    ----------
    a, b : array_like
        Masks ``(*vol)``: boolean, or integer with 0 for outside. For one structure of a label
        map write ``labels == 17``.
    spacing : float or sequence of float
        Voxel size in mm, one for all axes or one an axis.
    percentile : float
        95 (default) for the robust distance HD95, 100 for the Hausdorff distance.

    Returns
    -------
    float
        Millimetres, at least 0. NaN when a mask is empty: there is no surface to measure to.

    Raises
    ------
    ValueError
        Masks not integer or of two grids; `spacing` or `percentile` out of range.

    Notes
    -----
    The larger of the two directed percentiles is the definition of MONAI and of DeepMind's
    ``surface-distance`` (which weights surface voxels by area; we do not). MedPy takes one
    percentile of both sets of distances together, which is never larger. Learn2Reg passes
    spacing 1, so that its HD95 is in voxels.

    Examples
    --------
    >>> a, b = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    >>> a[5:10, 5:10] = b[5:10, 7:12] = True
    >>> surface_distance(a, b, spacing=(1.0, 1.5), percentile=100)
    3.0
    """
    a = check_labels(a, name="a") != 0
    b = check_labels(b, shape=a.shape, name="b") != 0
    spacing = np.broadcast_to(np.asarray(spacing, float), (a.ndim,))
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"spacing: found {spacing.tolist()}, expected positive millimetres.")
    check_number("percentile", percentile, least=0, most=100)
    if not (a.any() and b.any()):
        return float("nan")
    box = _bounding_box(a | b)
    a, b = _surface(a[box]), _surface(b[box])
    there = distance_transform_edt(~b, sampling=spacing)[a]
    back = distance_transform_edt(~a, sampling=spacing)[b]
    return float(max(np.percentile(there, percentile), np.percentile(back, percentile)))


def jacobian_determinant(displacement):
    """Determinant of the Jacobian of ``x + u(x)`` at each voxel.

    It is the local change of volume: 1 none, above 1 growth, between 0 and 1 shrinkage, at or
    below 0 the map folds there. It has no unit.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels, 'ij' order.

    Returns
    -------
    numpy.ndarray
        Map ``(*vol)``, float32.

    Raises
    ------
    ValueError
        Shape not ``(*vol, nd)``, fewer than two voxels along an axis, NaN or infinite entries.

    Notes
    -----
    Same differences as ``vxm.py.utils.jacobian_determinant`` (``numpy.gradient``): central
    inside, one-sided in the first and last voxel of an axis. It is cheaper because it takes
    gradients of ``u`` and adds 1 on the diagonal, in slabs, without a grid in float64.

    Examples
    --------
    >>> x, y = np.meshgrid(np.arange(6.0), np.arange(6.0), indexing="ij")
    >>> twice_as_wide = np.stack([x, 0 * y], axis=-1)
    >>> float(jacobian_determinant(twice_as_wide).mean())
    2.0
    """
    field = _check_two_voxels(check_displacement(displacement))
    rows = field.shape[0]
    determinant = np.empty(field.shape[:-1], np.float32)

    def fill(slab):
        low, high = max(slab.start - 1, 0), min(slab.stop + 1, rows)  # neighbours, to subtract
        moves = np.ascontiguousarray(np.moveaxis(field[low:high], -1, 0))
        determinant[slab] = _determinant(moves)[slab.start - low : slab.stop - low]

    each_slab(field.shape[:-1], fill)
    return determinant


def folding(displacement, mask=None):
    """Count the voxels where a field folds: Jacobian determinant at or below zero.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels.
    mask : array_like, optional
        Boolean ``(*vol)`` on the fixed grid, usually the brain of the fixed image.

    Returns
    -------
    Folding
        ``count`` and ``percent`` of the whole grid, ``percent_in_mask`` of the mask.

    Raises
    ------
    ValueError
        As `jacobian_determinant`; mask not boolean, of another grid, or empty.

    Notes
    -----
    Balakrishnan et al., IEEE TMI 38:1788-1800 (2019) count folds among brain voxels and divide
    by the brain. A percentage of all voxels is about a third of that for the same field, so
    name the denominator with the number.

    Examples
    --------
    >>> field = np.zeros((4, 5, 2))
    >>> field[2, :, 0] = -2.0  # the third row goes back behind the first
    >>> folding(field)
    Folding(count=5, percent=25.0, percent_in_mask=None)
    """
    field = check_displacement(displacement)
    return _folding_of(jacobian_determinant(field) <= 0, check_mask(mask, field.shape[:-1]))


def digital_folding(displacement, mask=None):
    """Count the voxels where a field folds between a voxel and its neighbours.

    The central differences of `folding` skip the voxel itself, so a field that jumps from voxel
    to voxel can fold while they see nothing. This count looks at the voxel and its neighbours. A
    voxel is folded when a triangle (2D) or tetrahedron (3D) of grid points that belongs to it is
    flat or turned inside out by ``x + u(x)``.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels, 'ij' order.
    mask : array_like, optional
        Boolean ``(*vol)`` on the fixed grid, usually the brain of the fixed image.

    Returns
    -------
    Folding
        ``count`` and ``percent`` of the whole grid, ``percent_in_mask`` of the mask.

    Raises
    ------
    ValueError
        As `folding`.

    Notes
    -----
    Criterion of digital diffeomorphism: Liu et al., On Finite Difference Jacobian Computation in
    Deformable Image Registration, IJCV (2024), doi:10.1007/s11263-024-02047-1. In 2D four
    determinants must be positive: forward or backward differences along each axis. In 3D there
    are ten: eight of one-sided differences, and two with the diagonals of the three faces that
    meet at the voxel, on one side of it and on the other.

    At the border of the grid only determinants whose points all lie on the grid are computed.
    (The authors' program continues the field beyond the grid, so border voxels may differ.)

    Examples
    --------
    >>> x, y = np.meshgrid(np.arange(6), np.arange(6), indexing="ij")
    >>> checkerboard = np.stack([0.6 * (-1.0) ** (x + y), 0 * x], axis=-1)
    >>> inside = np.pad(np.ones((4, 4), bool), 1)
    >>> folding(checkerboard, inside).percent_in_mask
    0.0
    >>> digital_folding(checkerboard, inside).percent_in_mask
    100.0
    """
    field = _check_two_voxels(check_displacement(displacement))
    mask = check_mask(mask, field.shape[:-1])
    folded = np.zeros(field.shape[:-1], bool)
    for edges in _simplices(field.shape[-1]):
        # Voxels from which all edges lead to points of the grid.
        first = np.maximum(-edges.min(axis=0), 0)
        stop = np.array(folded.shape) - np.maximum(edges.max(axis=0), 0)
        here = tuple(map(slice, first, stop))
        carried = []
        for edge in edges:
            there = tuple(map(slice, first + edge, stop + edge))
            carried.append(np.moveaxis(field[there] - field[here] + edge, -1, 0))
        folded[here] |= _det(carried) * _det(edges) <= 0
    return _folding_of(folded, mask)


def sd_log_jacobian(displacement, mask=None, *, nonpositive="exclude", floor=1e-9):
    """Standard deviation of the logarithm of the Jacobian determinant: how uneven a warp is.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels.
    mask : array_like, optional
        Boolean ``(*vol)``; only these voxels count.
    nonpositive : {"exclude", "floor"}
        What to do with folded voxels, which have no logarithm. "exclude" leaves them out; print
        `folding` beside the value, because it cannot see them. "floor" raises determinants to
        `floor` first; each fold then weighs ``log(floor)``, and the value depends on that
        choice.
    floor : float
        Smallest determinant for "floor".

    Returns
    -------
    float
        At least 0 (population SD), 0 for a uniform scaling. NaN when every voxel is left out.

    Raises
    ------
    ValueError
        As `folding`; unknown rule, `floor` not positive.

    Notes
    -----
    The Learn2Reg evaluation takes the SD of ``log(clip(det + 3, 1e-9, 1e9))`` without the two
    voxels at each border. The added 3 hides folds and shrinks the result, so its figures cannot
    be compared with these.

    Examples
    --------
    >>> x, y = np.meshgrid(np.arange(6.0), np.arange(6.0), indexing="ij")
    >>> round(sd_log_jacobian(np.stack([x, y], axis=-1)), 9)  # twice as large everywhere
    0.0
    """
    field = check_displacement(displacement)
    mask = check_mask(mask, field.shape[:-1])
    return _sd_log_of(jacobian_determinant(field), mask, nonpositive, floor)


def local_ncc(a, b, window=9, mask=None, *, eps=1e-5):
    """Mean squared local correlation of two images, as the NCC loss scores it but positive.

    Parameters
    ----------
    a, b : array_like
        Images ``(*vol)`` of one grid, intensities in [0, 1].
    window : int
        Side of the window in voxels, odd.
    mask : array_like, optional
        Boolean ``(*vol)``; the mean is over these voxels. Without it flat background, which
        scores 1, makes any pair look good.
    eps : float
        Floor of the covariance and of the two variances (sums over the window).

    Returns
    -------
    float
        In [0, 1]; 1 for images equal up to gain and offset in each window.

    Raises
    ------
    ValueError
        Unequal shapes, NaN, window not odd and positive, mask as in `folding`.

    Notes
    -----
    Same formula as ``vxm.losses.NCC`` (window sums with zeros beyond the border; a negative
    covariance counts as none), in double precision, so that there is no cancellation.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((16, 16))
    >>> inside = np.pad(np.ones((8, 8), bool), 4)
    >>> round(local_ncc(image, 0.5 * image + 0.2, window=5, mask=inside), 6)
    1.0
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    check_finite(a, "a")
    check_finite(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"b: found shape {b.shape}, expected that of a, {a.shape}.")
    if int(window) != window or window < 1 or window % 2 == 0:
        raise ValueError(f"window: found {window}, expected an odd number of voxels.")
    mask = check_mask(mask, a.shape)
    voxels = float(window) ** a.ndim

    def total(values):
        return voxels * uniform_filter(values, int(window), mode="constant")

    sum_a, sum_b = total(a), total(b)
    covariance = np.maximum(total(a * b) - sum_a * sum_b / voxels, eps)
    variance_a = np.maximum(total(a * a) - sum_a**2 / voxels, eps)
    variance_b = np.maximum(total(b * b) - sum_b**2 / voxels, eps)
    score = (covariance / variance_a) * (covariance / variance_b)
    return float(score.mean() if mask is None else score[mask].mean())


def endpoint_error(u, v, mask=None):
    """Mean length of the difference of two displacements, in voxels.

    Parameters
    ----------
    u, v : array_like
        Displacements ``(*vol, nd)`` in voxels of one grid; one is often the known truth.
    mask : array_like, optional
        Boolean ``(*vol)``; only these voxels count.

    Returns
    -------
    float
        Voxels, at least 0. Times the voxel size it is millimetres (isotropic grids).

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN; mask as in `folding`.

    Examples
    --------
    >>> endpoint_error(np.zeros((4, 4, 2)), np.full((4, 4, 2), [3.0, 4.0]))
    5.0
    """
    u = check_displacement(u, name="u")
    v = check_displacement(v, shape=u.shape[:-1], name="v")
    length = np.linalg.norm((u - v).astype(np.float64), axis=-1)
    mask = check_mask(mask, length.shape)
    return float(length.mean() if mask is None else length[mask].mean())


def inverse_consistency(forward, backward, mask=None):
    """Mean distance from where it started of a point sent there and back, in voxels.

    Parameters
    ----------
    forward, backward : array_like
        Displacements ``(*vol, nd)`` of a pair registered in both directions.
    mask : array_like, optional
        Boolean ``(*vol)``; only these voxels count.

    Returns
    -------
    float
        Voxels, at least 0: the mean of `vxmlib.warp.inversion_error` over both orders.

    Raises
    ------
    ValueError
        As `endpoint_error`.

    Examples
    --------
    >>> shift = np.full((4, 4, 2), [0.0, 1.0])
    >>> inverse_consistency(shift, -shift)
    0.0
    """
    mask = check_mask(mask, np.shape(forward)[:-1])
    errors = (inversion_error(forward, backward), inversion_error(backward, forward))
    return float(np.mean([e.mean() if mask is None else e[mask].mean() for e in errors]))


def evaluate_pairs(
    cohort, pairs, method, *, measures=(), structures=None, parcels=None, both_ways=False
):
    """Register pairs and measure each: one row a displacement and structure.

    Structures measured are those that are in the label maps of both people *before* warping.
    One that a warp wipes out therefore scores 0 and is not dropped.

    Parameters
    ----------
    cohort : vxmlib.cohorts.Cohort
        Gives ``image(id)``, ``labels(id)``, ``brain(id)``, ``structures``, ``unlabelled``, and
        ``spacing`` for measures in millimetres.
    pairs : iterable of (str, str)
        Ordered ``(moving, fixed)`` ids.
    method : "identity" or callable
        ``method(moving_image, fixed_image)`` returns the displacement ``(*vol, nd)`` in voxels.
        "identity" moves nothing: the overlap before registration.
    measures : iterable of str
        Further columns, of `MEASURES`; see Returns.
    structures : dict of int to str, optional
        Label -> name of the structures to measure; by default ``cohort.structures``.
    parcels : (cohort, dict of int to str), optional
        The same people with a second set of label maps, for example of cortical parcels, and the
        structures to measure in it.
    both_ways : bool
        If true, ``method(a, b)`` registers both directions and returns the displacement of a
        onto b, that of b onto a, and the seconds of one registration. Each pair then gives the
        rows of (moving, fixed) and after them those of (fixed, moving).

    Returns
    -------
    pandas.DataFrame
        Columns ``moving, fixed`` (ids), ``label`` (number), ``structure`` (name), ``dice``
        (0 to 1), and, the same in all rows of a displacement: ``folds`` (voxels of the whole
        grid), ``folding_percent`` (of the whole grid), ``folding_percent_brain`` (of the fixed
        brain), ``sd_log_jacobian`` (fixed brain, folds left out), ``seconds`` (registration
        alone). A displacement without a common structure, or of a person without a label map,
        has one row, in which ``label``, ``structure`` and ``dice`` are missing.

        ``surface_mm`` is the 95th percentile of the surface distance of the structure, missing
        where the warp wiped it out. ``length_mm`` is the mean length of the displacement over
        the fixed brain, and ``inverse_consistency_mm`` that of the way which is left after going
        there and back (only with `both_ways`). ``dice_parcels``, with `parcels`, is
        the mean Dice over the structures of the second label maps.

    Raises
    ------
    ValueError
        Unknown method or measure, no pairs, or a displacement that does not fit; the pair is
        named.
    """
    pairs, measures = list(pairs), _checked_measures(measures, both_ways or method == "identity")
    if not pairs:
        raise ValueError("pairs: found none, expected at least one (moving, fixed).")
    if method != "identity" and not callable(method):
        raise ValueError(f"method: found {method!r}, expected 'identity' or a callable.")
    asked = {"measures": measures, "structures": structures, "parcels": parcels}
    rows = []
    for moving, fixed in pairs:
        try:
            images = cohort.image(moving), cohort.image(fixed)
            there, back, seconds = _register(method, *images, both_ways)
            rows += _rows(cohort, moving, fixed, there, back, seconds, asked)
            if both_ways:
                rows += _rows(cohort, fixed, moving, back, there, seconds, asked)
        except ValueError as error:
            raise ValueError(f"pair {moving} -> {fixed}: {error}") from error
    columns = [*COLUMNS, *measures, *(["dice_parcels"] if parcels else [])]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"label": "Int64", "folds": "int64"})


def measure_displacement(
    cohort, moving, fixed, displacement, *, reverse=None, measures=(), structures=None, parcels=None
):
    """Measure one displacement of one pair, as `evaluate_pairs` does.

    Parameters
    ----------
    cohort, measures, structures, parcels
        As for `evaluate_pairs`.
    moving, fixed : str
        Ids of the two people.
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` of moving onto fixed, in voxels.
    reverse : array_like, optional
        That of fixed onto moving, for ``inverse_consistency_mm``.

    Returns
    -------
    dict
        By the names of the columns of `evaluate_pairs`. ``dice`` and ``surface_mm`` are means over
        structures (NaN where there is none to measure), and ``structures`` has the values of
        each by its label: ``{17: {"structure": "Left Hippocampus", "dice": 0.8}}``.

    Raises
    ------
    ValueError
        As for `evaluate_pairs`.
    """
    measures = _checked_measures(measures, reverse is not None)
    shape = cohort.image(fixed).shape
    brain = check_mask(cohort.brain(fixed), shape)
    displacement = check_displacement(displacement, shape=shape)
    determinant = jacobian_determinant(displacement)
    folds = _folding_of(determinant <= 0, brain)
    structures = cohort.structures if structures is None else structures
    surfaces = "surface_mm" in measures
    each = _each_structure(cohort, structures, moving, fixed, displacement, surfaces=surfaces)
    measured = {
        "dice": _mean(values["dice"] for values in each.values()),
        "folds": folds.count,
        "folding_percent": folds.percent,
        "folding_percent_brain": folds.percent_in_mask,
        "sd_log_jacobian": _sd_log_of(determinant, brain, "exclude", None),
    }
    if surfaces:
        measured["surface_mm"] = _mean(values["surface_mm"] for values in each.values())
    if "length_mm" in measures:
        length = np.linalg.norm(displacement[brain], axis=-1)
        measured["length_mm"] = cohort.spacing * float(length.mean())
    if "inverse_consistency_mm" in measures:
        length = inversion_error(reverse, displacement)[brain]
        measured["inverse_consistency_mm"] = cohort.spacing * float(length.mean())
    if parcels:
        second = _each_structure(*parcels, moving, fixed, displacement)
        measured["dice_parcels"] = _mean(values["dice"] for values in second.values())
    return measured | {"structures": each}


def _checked_measures(measures, both_ways):
    """The measures as a list, before anything is registered."""
    measures = [check_choice("measures", name, MEASURES) for name in measures]
    if "inverse_consistency_mm" in measures and not both_ways:
        raise ValueError(
            "measures: found inverse_consistency_mm without the displacement of the other "
            "direction; give reverse, or use both_ways=True with a method of both directions."
        )
    return measures


def summary(table):
    """Mean and spread of a table of `evaluate_pairs`.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `evaluate_pairs`.

    Returns
    -------
    dict
        ``pairs`` : number of pairs.
        ``dice_mean`` : mean over structures in each pair, then over pairs.
        ``dice_sd_pairs`` : SD of the pairs' means (how much pairs differ).
        ``dice_sd_pooled`` : SD of all rows, structures and pairs together; the ± of the
        VoxelMorph papers, several times larger.
        ``folds``, ``folding_percent``, ``folding_percent_brain``, ``sd_log_jacobian`` : means
        over pairs. ``seconds`` : median over pairs.
        SDs are population SDs (``ddof=0``); missing values do not count.

    Raises
    ------
    ValueError
        A column is missing, or there are no rows.

    Examples
    --------
    >>> row = dict(moving="a", structure="x", folds=0, folding_percent=0.0)
    >>> row |= dict(folding_percent_brain=0.0, sd_log_jacobian=0.1, seconds=1.0)
    >>> table = pd.DataFrame([
    ...     row | dict(fixed="b", label=1, dice=0.5),
    ...     row | dict(fixed="b", label=2, dice=0.7),
    ...     row | dict(fixed="c", label=1, dice=0.8),
    ... ])
    >>> round(summary(table)["dice_mean"], 3)
    0.7
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing or not len(table):
        raise ValueError(
            f"table: found {len(table)} rows, without columns {missing}; expected the table that "
            "evaluate_pairs returns."
        )
    pairs = table.groupby(["moving", "fixed"], sort=False)
    dice_of_pairs = pairs["dice"].mean()
    each = pairs[["folds", "folding_percent", "folding_percent_brain", "sd_log_jacobian"]].first()
    return {
        "pairs": len(dice_of_pairs),
        "dice_mean": float(dice_of_pairs.mean()),
        "dice_sd_pairs": float(dice_of_pairs.std(ddof=0)),
        "dice_sd_pooled": float(table["dice"].std(ddof=0)),
        **{name: float(value) for name, value in each.mean().items()},
        "seconds": float(pairs["seconds"].first().median()),
    }


def shared_structures(a, b, structures):
    """The structures that both label maps have, in the order given: those with a Dice to measure.

    One that a person lacks would score 0 by no fault of the registration.

    Parameters
    ----------
    a, b : integer ndarray
        Label maps, before any warp.
    structures : iterable of int

    Returns
    -------
    list of int

    Examples
    --------
    >>> shared_structures(np.array([0, 17, 53]), np.array([17, 2, 2]), [53, 17, 2])
    [17]
    """
    both = _present(a) & _present(b)
    return [label for label in structures if label in both]


def _register(method, moving, fixed, both_ways):
    """The displacement, that of the other direction (or None), and the seconds of one."""
    if method == "identity":
        still = identity(fixed.shape)
        return still, still, 0.0
    if both_ways:
        return method(moving, fixed)
    start = perf_counter()
    return method(moving, fixed), None, perf_counter() - start


def _rows(cohort, moving, fixed, displacement, reverse, seconds, asked):
    """The rows of one displacement, as dicts."""
    measured = measure_displacement(cohort, moving, fixed, displacement, reverse=reverse, **asked)
    each = measured.pop("structures")
    common = {"moving": moving, "fixed": fixed, **measured, "seconds": seconds}
    return [common | {"label": label, **values} for label, values in each.items()] or [common]


def _each_structure(cohort, structures, moving, fixed, displacement, *, surfaces=False):
    """Label -> name and Dice (and surface distance) of the structures that both people have."""
    if {moving, fixed} & set(cohort.unlabelled):
        return {}
    grid = displacement.shape[:-1]
    labels, target = (
        check_labels(cohort.labels(person), shape=grid, name=f"labels of {person}")
        for person in (moving, fixed)
    )
    warped = warp_labels(labels, displacement)
    overlaps = dice(warped, target, shared_structures(labels, target, structures))
    each = {
        label: {"structure": structures[label], "dice": value} for label, value in overlaps.items()
    }
    for label in each if surfaces else ():
        masks = warped == label, target == label
        each[label]["surface_mm"] = surface_distance(*masks, spacing=cohort.spacing)
    return each


def _mean(values):
    """Mean of what is a number; NaN without any."""
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")


def _present(labels):
    """Set of the label numbers in a map."""
    return set(pd.unique(labels.ravel()).tolist())


def _check_numbers(labels):
    """Label numbers as ints, each once."""
    labels = list(labels)
    if any(int(label) != label for label in labels):
        raise ValueError(f"labels: found {labels}, expected whole numbers.")
    return list(dict.fromkeys(int(label) for label in labels))


def _counts(a, b, labels):
    """Voxels with each label in both maps, in `a`, and in `b`."""
    codes = len(labels) + 1  # code 0 stands for every label not asked for
    encode_a, encode_b = _encoder(a, labels), _encoder(b, labels)
    a, b = a.ravel(), b.ravel()
    table = np.zeros(codes * codes, np.int64)
    chunk = max(_CHUNK, table.size)
    for start in range(0, a.size, chunk):
        part = slice(start, start + chunk)
        joint = encode_a(a[part]) * codes + encode_b(b[part])
        table += np.bincount(joint, minlength=codes * codes)
    table = table.reshape(codes, codes)
    return table.diagonal()[1:], table.sum(axis=1)[1:], table.sum(axis=0)[1:]


def _encoder(array, labels):
    """A function that numbers the wanted labels 1, 2, ... in their order and all others 0."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    inside = {label: i for i, label in enumerate(labels, start=1) if low <= label <= high}
    if high - low < _WIDEST_TABLE:
        table = np.zeros(high - low + 1, np.intp)
        for label, number in inside.items():
            table[label - low] = number
        return lambda part: table.take(part.astype(np.intp) - low)
    # Some atlases number their structures in the hundred millions: no table that long.
    values = np.array(sorted(inside) or [high], array.dtype)
    numbers = np.array([inside.get(int(value), 0) for value in values], np.intp)

    def search(part):
        place = np.searchsorted(values, part).clip(max=len(values) - 1)
        return np.where(values[place] == part, numbers[place], 0)

    return search


def _bounding_box(mask):
    """Slices of the smallest box that holds a mask which is not empty."""
    axes = range(mask.ndim)
    spans = (np.flatnonzero(mask.any(axis=tuple(set(axes) - {axis}))) for axis in axes)
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)


def _surface(mask):
    """Voxels of a mask with a face neighbour outside it."""
    return mask & ~binary_erosion(mask)


def _determinant(moves):
    """Determinant of identity plus gradient of `moves` ``(nd, *slab)``."""
    gradient = [list(np.gradient(component)) for component in moves]  # [component][axis]
    for axis in range(len(moves)):
        gradient[axis][axis] += 1
    return _det(gradient)


def _det(rows):
    """Determinant of a 2 x 2 or 3 x 3 matrix whose entries are numbers or arrays of one shape."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _simplices(nd):
    """Edges from a voxel to the other corners of each triangle or tetrahedron that it owns."""
    one_sided = [np.diag(signs) for signs in product((1, -1), repeat=nd)]
    across = [1 - np.eye(3, dtype=int), np.eye(3, dtype=int) - 1]  # diagonals of three faces
    return one_sided + (across if nd == 3 else [])


def _check_two_voxels(field):
    """The field, if its grid has neighbours along every axis."""
    if min(field.shape[:-1]) < 2:
        raise ValueError(
            f"displacement: found grid {field.shape[:-1]}, expected at least 2 voxels an axis; "
            "a slice of a 3-D field has no determinant of its own."
        )
    return field


def _folding_of(folded, mask):
    """`Folding`, from a map of the folded voxels."""
    count = int(folded.sum())
    in_mask = None if mask is None else 100.0 * int(folded[mask].sum()) / int(mask.sum())
    return Folding(count, 100.0 * count / folded.size, in_mask)


def _sd_log_of(determinant, mask, nonpositive, floor):
    """`sd_log_jacobian`, from a determinant already computed."""
    check_choice("nonpositive", nonpositive, NONPOSITIVE_RULES)
    values = (determinant if mask is None else determinant[mask]).astype(np.float64)
    if nonpositive == "exclude":
        values = values[values > 0]
    else:
        values = np.maximum(values, check_number("floor", floor, above=0))
    return float(np.log(values).std()) if values.size else float("nan")
