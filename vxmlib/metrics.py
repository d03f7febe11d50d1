"""Measure how well a registration aligns two subjects, and how regular its displacement is.

`evaluate_pairs` collects these measures of many pairs in one table.
"""

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

#: Argument `absent` of `dice` -> Dice of a label that is in neither map; None leaves it out.
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
#: Additional columns of `evaluate_pairs`, which its argument `measures` selects.
MEASURES = (
    "surface_mm",
    "length_mm",
    "inverse_consistency_mm",
    "digital_folding_percent_brain",
)

_WIDEST_TABLE = 1 << 22  # a wider range of label numbers is searched, without a lookup table
_CHUNK = 1 << 16  # voxels counted at a time; their codes stay in the processor's cache


class Folding(NamedTuple):
    """Number and percentage of folded voxels, from `folding` or `digital_folding`.

    Attributes
    ----------
    count : int
        Number of folded voxels on the grid.
    percent : float
        `count` as a percentage of all voxels of the grid.
    percent_in_mask : float or None
        Number of folded voxels inside the mask as a percentage of the voxels of the mask; None
        without a mask.
    """

    count: int
    percent: float
    percent_in_mask: float | None


def dice(a, b, labels=None, *, absent="skip"):
    """Compute the Dice overlap ``2 |A and B| / (|A| + |B|)`` of two label maps for each label.

    Parameters
    ----------
    a, b : array_like
        Label maps ``(*vol)`` on one grid, integer or boolean. Their order does not matter.
    labels : iterable of int, optional
        Labels to measure. By default, all labels in `a` or `b` except 0 (background).
    absent : {"skip", "nan", "zero", "one"}
        Value of a label that is in neither map, for which the formula is 0/0:

        ========  ===================  ================================================
        rule      value                used by
        ========  ===================  ================================================
        "skip"    label is left out    surfa; our default
        "nan"     NaN                  MONAI, the Learn2Reg evaluation
        "zero"    0.0                  voxelmorph (``vxm.py.utils.dice``)
        "one"     1.0                  many hand-written scripts; inflates the mean
        ========  ===================  ================================================

        A label that is in only one of the maps has a Dice of 0 under every rule.

    Returns
    -------
    dict of int to float
        Label -> overlap in [0, 1], in the order of `labels` (ascending by default).

    Raises
    ------
    ValueError
        If a map is neither integer nor boolean, the maps are on different grids, a label is not
        a whole number, or the rule is unknown.

    Notes
    -----
    The definition is that of Dice, Ecology 26:297-302 (1945). All labels are counted in one pass:
    the pair of labels at each voxel is encoded as one number, and ``bincount`` computes the table
    of joint counts.

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
    """Compute the mean of `dice` over labels, without NaN values.

    Parameters
    ----------
    a, b, labels, absent
        As for `dice`.

    Returns
    -------
    float
        Mean in [0, 1]; NaN if no label has a value.

    Raises
    ------
    ValueError
        As for `dice`.

    Examples
    --------
    >>> mean_dice(np.array([1, 1, 2]), np.array([1, 1, 3]), labels=[1, 2])
    0.5
    """
    return _mean(dice(a, b, labels, absent=absent).values())


def surface_distance(a, b, *, spacing, percentile=95):
    """Compute the distance between the surfaces of two masks in millimetres.

    A surface voxel is a voxel of the mask with a face neighbour outside the mask; positions
    outside the image count as outside the mask. The distance from each surface voxel of one mask
    to the nearest surface voxel of the other is computed in both directions, and the larger of
    the two percentiles is returned.

    Parameters
    ----------
    a, b : array_like
        Masks ``(*vol)`` on one grid: boolean, or integer with 0 outside the mask. For one
        structure of a label map, pass ``labels == 17``.
    spacing : float or sequence of float
        Voxel size in mm: one number for all axes, or one number for each axis.
    percentile : float
        Percentile of the distances, 0 to 100: 95 for the robust distance HD95, 100 for the
        Hausdorff distance.

    Returns
    -------
    float
        Distance in mm, at least 0. NaN if a mask is empty, because it has no surface.

    Raises
    ------
    ValueError
        If a mask is neither boolean nor integer, the masks are on different grids, or `spacing`
        or `percentile` is out of range.

    Notes
    -----
    MONAI and DeepMind's ``surface-distance`` also define the distance as the larger of the two
    directed percentiles, but the latter weights surface voxels by their area. MedPy takes one
    percentile of both sets of distances together, which is never larger. Learn2Reg passes a
    spacing of 1, so its HD95 is in voxels.

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
    """Compute the Jacobian determinant of the mapping ``x + u(x)`` at each voxel.

    The determinant is the local change of volume and has no unit. It is 1 where the volume does
    not change, above 1 where it grows, between 0 and 1 where it shrinks, and 0 or below where the
    mapping folds.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels, 'ij' order.

    Returns
    -------
    numpy.ndarray
        Determinant ``(*vol)``, float32.

    Raises
    ------
    ValueError
        If the shape is not ``(*vol, nd)``, an axis has fewer than two voxels, or an entry is NaN
        or infinite.

    Notes
    -----
    The finite differences are those of ``vxm.py.utils.jacobian_determinant``
    (``numpy.gradient``): central inside the grid, one-sided at the first and last voxel of an
    axis. This function is cheaper, because it takes the gradients of ``u`` and adds 1 on the
    diagonal, in slabs, without a grid in float64.

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
        low, high = max(slab.start - 1, 0), min(slab.stop + 1, rows)  # with neighbouring rows
        moves = np.ascontiguousarray(np.moveaxis(field[low:high], -1, 0))
        determinant[slab] = _determinant(moves)[slab.start - low : slab.stop - low]

    each_slab(field.shape[:-1], fill)
    return determinant


def folding(displacement, mask=None):
    """Count the voxels where a displacement folds: its Jacobian determinant is 0 or below.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels, 'ij' order.
    mask : array_like, optional
        Boolean mask ``(*vol)`` on the fixed grid, usually the brain of the fixed image.

    Returns
    -------
    Folding
        ``count`` and ``percent`` for all voxels of the grid, ``percent_in_mask`` for the mask.

    Raises
    ------
    ValueError
        As for `jacobian_determinant`; or if the mask is not boolean, is on another grid, or is
        empty.

    Notes
    -----
    Balakrishnan et al., IEEE TMI 38:1788-1800 (2019) count folds among brain voxels and divide
    by the number of brain voxels. For the same field, the percentage of all voxels is about a
    third of that, so report the denominator with the percentage.

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
    """Count the voxels where a displacement folds between a voxel and its neighbours.

    The central differences of `folding` do not use the value at the voxel itself, so they can
    miss the folds of a displacement that alternates from voxel to voxel. This function uses the
    voxel and its neighbours: a voxel is folded if ``x + u(x)`` flattens or inverts one of the
    triangles (2D) or tetrahedra (3D) that they form.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels, 'ij' order.
    mask : array_like, optional
        Boolean mask ``(*vol)`` on the fixed grid, usually the brain of the fixed image.

    Returns
    -------
    Folding
        ``count`` and ``percent`` for all voxels of the grid, ``percent_in_mask`` for the mask.

    Raises
    ------
    ValueError
        As for `folding`.

    Notes
    -----
    This is the criterion of digital diffeomorphism: Liu et al., On Finite Difference Jacobian
    Computation in Deformable Image Registration, IJCV (2024), doi:10.1007/s11263-024-02047-1. In
    2D, four determinants must be positive: those of the forward or backward differences along
    each axis. In 3D, there are ten: eight of one-sided differences, and two of the diagonals of
    the three faces that meet at the voxel, one on each side of it.

    At the border of the grid, only determinants whose points all lie on the grid are computed.
    (The authors' program extends the field beyond the grid, so its results may differ at border
    voxels.)

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
        # Only voxels whose edges all end at points of the grid.
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
    """Compute the standard deviation (SD) of the logarithm of the Jacobian determinant.

    It measures how unevenly a displacement changes volume.

    Parameters
    ----------
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` in voxels, 'ij' order.
    mask : array_like, optional
        Boolean mask ``(*vol)``; only its voxels are used. By default, all voxels.
    nonpositive : {"exclude", "floor"}
        How to treat folded voxels, whose determinant has no logarithm. "exclude" leaves them out;
        report `folding` beside the value, because the value does not show folds. "floor" raises
        determinants to `floor` first; each fold then contributes ``log(floor)``, so the value
        depends on that choice.
    floor : float
        Smallest determinant for "floor", above 0; "exclude" does not use it.

    Returns
    -------
    float
        Population SD, at least 0; 0 for a uniform scaling. NaN if no voxel is left.

    Raises
    ------
    ValueError
        As for `folding`; or if the rule is unknown or `floor` is not positive.

    Notes
    -----
    The Learn2Reg evaluation takes the SD of ``log(clip(det + 3, 1e-9, 1e9))`` without the two
    voxels at each border. The added 3 hides folds and reduces the result, so its values cannot
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
    """Compute the mean squared local correlation of two images: the NCC loss, but positive.

    Parameters
    ----------
    a, b : array_like
        Images ``(*vol)`` on one grid, intensities in [0, 1].
    window : int
        Side of the window in voxels, odd.
    mask : array_like, optional
        Boolean mask ``(*vol)``; the mean is taken over its voxels. Without a mask, background
        that is constant in both images scores 1 and raises the mean of any pair.
    eps : float
        Smallest value of the covariance and of the two variances (sums over the window).

    Returns
    -------
    float
        Score in [0, 1]; 1 if the images are equal up to gain and offset in each window.

    Raises
    ------
    ValueError
        If the shapes differ, an image has NaN or infinite values, `window` is not odd and
        positive, or the mask is invalid as for `folding`.

    Notes
    -----
    The formula is that of ``vxm.losses.NCC``: window sums have zeros beyond the border, and a
    negative covariance is raised to `eps`. It is computed in double precision to avoid
    cancellation.

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
    """Compute the mean length of the difference between two displacements, in voxels.

    Parameters
    ----------
    u, v : array_like
        Displacements ``(*vol, nd)`` in voxels on one grid; often, one of them is the true one.
    mask : array_like, optional
        Boolean mask ``(*vol)``; only its voxels are used. By default, all voxels.

    Returns
    -------
    float
        Length in voxels, at least 0. On an isotropic grid, multiply it by the voxel size to
        obtain millimetres.

    Raises
    ------
    ValueError
        If the shapes do not match, an entry is NaN or infinite, or the mask is invalid as for
        `folding`.

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
    """Compute how far two opposite displacements are from being inverses, in voxels.

    A point that is moved by one displacement and then by the other ends at some distance from its
    start. The result is the mean of this distance.

    Parameters
    ----------
    forward, backward : array_like
        Displacements ``(*vol, nd)`` in voxels of a pair registered in both directions.
    mask : array_like, optional
        Boolean mask ``(*vol)``; only its voxels are used. By default, all voxels.

    Returns
    -------
    float
        Distance in voxels, at least 0: the mean of `vxmlib.warp.inversion_error` over both
        orders of the displacements.

    Raises
    ------
    ValueError
        As for `endpoint_error`.

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
    """Register pairs and tabulate their measures, one row per displacement and structure.

    A structure is measured if it is in the label maps of both subjects *before* warping. A
    structure that the warp removes therefore scores 0 and is not left out.

    Parameters
    ----------
    cohort : vxmlib.cohorts.Cohort
        Cohort, of which ``image(id)``, ``labels(id)``, ``brain(id)``, ``structures`` and
        ``unlabelled`` are used, and ``spacing`` for measures in millimetres.
    pairs : iterable of (str, str)
        Ordered ``(moving, fixed)`` ids.
    method : "identity" or callable
        ``method(moving_image, fixed_image)`` returns the displacement ``(*vol, nd)`` in voxels.
        "identity" is the zero displacement, which measures the overlap before registration.
    measures : iterable of str
        Additional columns from `MEASURES`; see Returns.
    structures : dict of int to str, optional
        Label -> name of the structures to measure. By default, ``cohort.structures``.
    parcels : (cohort, dict of int to str), optional
        Cohort of the same subjects with a second set of label maps, for example of cortical
        parcels, and the structures to measure in them.
    both_ways : bool
        If true, ``method(a, b)`` registers both directions and returns the displacement of a
        onto b, the displacement of b onto a, and the seconds of one registration. For each pair,
        the rows of (moving, fixed) are then followed by those of (fixed, moving).

    Returns
    -------
    pandas.DataFrame
        Columns ``moving`` and ``fixed`` (ids), ``label`` (number), ``structure`` (name) and
        ``dice`` (0 to 1). The following columns are equal in all rows of a displacement:
        ``folds`` (number of voxels on the grid), ``folding_percent`` (of all voxels of the grid),
        ``folding_percent_brain`` (of the fixed brain), ``sd_log_jacobian`` (in the fixed brain,
        without folded voxels) and ``seconds`` (registration alone). If the subjects share no
        structure, or one of them has no label map, the displacement has one row, in which
        ``label``, ``structure`` and ``dice`` are missing.

        ``surface_mm`` is the 95th percentile of the surface distance of the structure; it is
        missing where the warp removed the structure. ``length_mm`` is the mean length of the
        displacement over the fixed brain. ``inverse_consistency_mm``, only with `both_ways` or
        "identity", is the mean distance over the fixed brain between a point and its position
        after both displacements. ``digital_folding_percent_brain`` is the percentage of the fixed
        brain that `digital_folding` counts. ``dice_parcels``, only with `parcels`, is the mean
        Dice over the structures of the second label maps.

    Raises
    ------
    ValueError
        If the method or a measure is unknown, there are no pairs, or an image, a label map or a
        displacement is invalid; an error about a pair names the pair.
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
    """Measure one displacement of one pair in the same way as `evaluate_pairs`.

    Parameters
    ----------
    cohort, measures, structures, parcels
        As for `evaluate_pairs`.
    moving, fixed : str
        Ids of the two subjects.
    displacement : array_like
        Full-resolution displacement ``(*vol, nd)`` of moving onto fixed, in voxels.
    reverse : array_like, optional
        Displacement of fixed onto moving, needed for ``inverse_consistency_mm``.

    Returns
    -------
    dict
        Measures under the column names of `evaluate_pairs`. ``dice`` and ``surface_mm`` are means
        over structures (NaN if no structure can be measured). ``structures`` maps each label to
        the values of its structure: ``{17: {"structure": "Left Hippocampus", "dice": 0.8}}``.

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
    if "digital_folding_percent_brain" in measures:
        digital = digital_folding(displacement, brain)
        measured["digital_folding_percent_brain"] = digital.percent_in_mask
    if parcels:
        second = _each_structure(*parcels, moving, fixed, displacement)
        measured["dice_parcels"] = _mean(values["dice"] for values in second.values())
    return measured | {"structures": each}


def _checked_measures(measures, both_ways):
    """Return the measures as a list; refuse unknown or impossible ones before registration."""
    measures = [check_choice("measures", name, MEASURES) for name in measures]
    if "inverse_consistency_mm" in measures and not both_ways:
        raise ValueError(
            "measures: found inverse_consistency_mm without the displacement of the other "
            "direction; pass reverse, or both_ways=True with a method that registers both "
            "directions."
        )
    return measures


def summary(table):
    """Summarise a table of `evaluate_pairs` by means and standard deviations (SD).

    Parameters
    ----------
    table : pandas.DataFrame
        Table that `evaluate_pairs` returns.

    Returns
    -------
    dict
        ``pairs`` : number of pairs.
        ``dice_mean`` : mean over the structures of each pair, then over pairs.
        ``dice_sd_pairs`` : SD of the pairs' means (how much pairs differ).
        ``dice_sd_pooled`` : SD over all rows, that is over structures and pairs together; this is
        the ± of the VoxelMorph papers and several times larger.
        ``folds``, ``folding_percent``, ``folding_percent_brain``, ``sd_log_jacobian`` : means
        over pairs, and the same of ``length_mm``, ``inverse_consistency_mm`` and
        ``digital_folding_percent_brain`` if the table has them. ``seconds`` : median over pairs.
        SDs are population SDs (``ddof=0``); missing values are ignored.

    Raises
    ------
    ValueError
        If a column is missing or the table has no rows.

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
    always = ["folds", "folding_percent", "folding_percent_brain", "sd_log_jacobian"]
    asked = [name for name in MEASURES if name in table.columns and name != "surface_mm"]
    each = pairs[always + asked].first()
    return {
        "pairs": len(dice_of_pairs),
        "dice_mean": float(dice_of_pairs.mean()),
        "dice_sd_pairs": float(dice_of_pairs.std(ddof=0)),
        "dice_sd_pooled": float(table["dice"].std(ddof=0)),
        **{name: float(value) for name, value in each.mean().items()},
        "seconds": float(pairs["seconds"].first().median()),
    }


def shared_structures(a, b, structures):
    """List the structures that are in both label maps.

    A structure that one subject lacks would have a Dice of 0, but not because of the registration.

    Parameters
    ----------
    a, b : integer ndarray
        Label maps before warping.
    structures : iterable of int
        Labels to look for.

    Returns
    -------
    list of int
        Labels that both maps have, in the order of `structures`.

    Examples
    --------
    >>> shared_structures(np.array([0, 17, 53]), np.array([17, 2, 2]), [53, 17, 2])
    [17]
    """
    both = _present(a) & _present(b)
    return [label for label in structures if label in both]


def _register(method, moving, fixed, both_ways):
    """Return the displacement, that of the other direction (or None), and the seconds of one."""
    if method == "identity":
        still = identity(fixed.shape)
        return still, still, 0.0
    if both_ways:
        return method(moving, fixed)
    start = perf_counter()
    return method(moving, fixed), None, perf_counter() - start


def _rows(cohort, moving, fixed, displacement, reverse, seconds, asked):
    """Return the rows of one displacement as dicts."""
    measured = measure_displacement(cohort, moving, fixed, displacement, reverse=reverse, **asked)
    each = measured.pop("structures")
    common = {"moving": moving, "fixed": fixed, **measured, "seconds": seconds}
    return [common | {"label": label, **values} for label, values in each.items()] or [common]


def _each_structure(cohort, structures, moving, fixed, displacement, *, surfaces=False):
    """Label -> name and Dice (and surface distance) of the structures that both subjects have."""
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
    """Mean of the values that are not NaN; NaN if there are none."""
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")


def _present(labels):
    """Set of the label numbers in a map."""
    return set(pd.unique(labels.ravel()).tolist())


def _check_numbers(labels):
    """Return label numbers as ints, without duplicates."""
    labels = list(labels)
    if any(int(label) != label for label in labels):
        raise ValueError(f"labels: found {labels}, expected whole numbers.")
    return list(dict.fromkeys(int(label) for label in labels))


def _counts(a, b, labels):
    """Count the voxels of each label in both maps at once, in `a`, and in `b`."""
    codes = len(labels) + 1  # code 0 stands for all labels that are not measured
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
    """Return a function that maps the labels to 1, 2, ... in their order, and all others to 0."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    inside = {label: i for i, label in enumerate(labels, start=1) if low <= label <= high}
    if high - low < _WIDEST_TABLE:
        table = np.zeros(high - low + 1, np.intp)
        for label, number in inside.items():
            table[label - low] = number
        return lambda part: table.take(part.astype(np.intp) - low)
    # Label numbers in the hundred millions, as in some atlases, would need too long a table.
    values = np.array(sorted(inside) or [high], array.dtype)
    numbers = np.array([inside.get(int(value), 0) for value in values], np.intp)

    def search(part):
        place = np.searchsorted(values, part).clip(max=len(values) - 1)
        return np.where(values[place] == part, numbers[place], 0)

    return search


def _bounding_box(mask):
    """Slices of the smallest box that contains a non-empty mask."""
    axes = range(mask.ndim)
    spans = (np.flatnonzero(mask.any(axis=tuple(set(axes) - {axis}))) for axis in axes)
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)


def _surface(mask):
    """Mask of the voxels that have a face neighbour outside the mask."""
    return mask & ~binary_erosion(mask)


def _determinant(moves):
    """Determinant of the identity plus the gradient of `moves`, of shape ``(nd, *slab)``."""
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
    """Edges from a voxel to the other corners of each triangle or tetrahedron tested for it."""
    one_sided = [np.diag(signs) for signs in product((1, -1), repeat=nd)]
    across = [1 - np.eye(3, dtype=int), np.eye(3, dtype=int) - 1]  # diagonals of three faces
    return one_sided + (across if nd == 3 else [])


def _check_two_voxels(field):
    """Return the field; refuse a grid with a single voxel along an axis."""
    if min(field.shape[:-1]) < 2:
        raise ValueError(
            f"displacement: found grid {field.shape[:-1]}, expected at least 2 voxels along each "
            "axis. If it is a slice of a 3-D field, pass the whole field."
        )
    return field


def _folding_of(folded, mask):
    """Summarise a map of the folded voxels as `Folding`."""
    count = int(folded.sum())
    in_mask = None if mask is None else 100.0 * int(folded[mask].sum()) / int(mask.sum())
    return Folding(count, 100.0 * count / folded.size, in_mask)


def _sd_log_of(determinant, mask, nonpositive, floor):
    """Compute `sd_log_jacobian` from a determinant map."""
    check_choice("nonpositive", nonpositive, NONPOSITIVE_RULES)
    values = (determinant if mask is None else determinant[mask]).astype(np.float64)
    if nonpositive == "exclude":
        values = values[values > 0]
    else:
        values = np.maximum(values, check_number("floor", floor, above=0))
    return float(np.log(values).std()) if values.size else float("nan")
