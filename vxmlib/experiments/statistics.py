"""Compute paired differences with standard errors and intervals, and describe them in words."""

import numpy as np


def interval_text(result):
    """Format a difference and its interval as text for a page.

    Parameters
    ----------
    result : mapping
        Result of :func:`paired_difference`, or a row with ``difference``, ``low`` and ``high``.

    Examples
    --------
    >>> interval_text({"difference": 0.02, "low": -0.001, "high": 0.041})
    '+0.020 (-0.001 to +0.041)'
    """
    return f"{result['difference']:+.3f} ({result['low']:+.3f} to {result['high']:+.3f})"


def above_zero(low, high):
    """Return whether a difference is positive, or None if its interval contains 0.

    Examples
    --------
    >>> above_zero(0.01, 0.03), above_zero(-0.03, -0.01), above_zero(-0.01, 0.01)
    (True, False, None)
    """
    if low > 0:
        return True
    return False if high < 0 else None


def verdict(result):
    """Describe by one word whether the interval of a difference lies above or below 0.

    Parameters
    ----------
    result : mapping
        Result of :func:`paired_difference`, or a row with ``low`` and ``high``.

    Returns
    -------
    str
        "higher" if the interval lies above 0, "lower" if it lies below 0, "undecided" if it
        contains 0, and "not measured" if ``low`` is NaN.

    Examples
    --------
    >>> verdict({"low": 0.01, "high": 0.03}), verdict({"low": -0.01, "high": 0.03})
    ('higher', 'undecided')
    """
    if np.isnan(result["low"]):
        return "not measured"
    words = {True: "higher", False: "lower", None: "undecided"}
    return words[above_zero(result["low"], result["high"])]


def paired_difference(first, second, measure="dice", *, confidence=0.95, resamples=2000, seed=0):
    """Compute the mean of ``first - second`` over the same pairs, with a bootstrap interval.

    Pairs share subjects, so they are not independent. Therefore the bootstrap draws subjects, with
    replacement, and weights each pair by the product of the numbers of times that its two subjects
    were drawn. Several rows of one pair, such as those of different seeds, are averaged first.

    Parameters
    ----------
    first, second : pandas.DataFrame
        Tables with ``moving``, ``fixed`` and the measure, such as rows of
        :func:`vxmlib.experiments.sweep.by_pair`.
    measure : str
        Column to compare.
    confidence : float
        Confidence level of the percentile interval, between 0 and 1.
    resamples, seed : int
        Number of bootstrap samples, and seed of the draws.

    Returns
    -------
    dict
        ``difference`` and the bounds ``low`` and ``high`` of its interval, in the unit of the
        measure; ``pairs`` and ``people``, the numbers of ordered pairs and of subjects.

    Raises
    ------
    ValueError
        If the two tables do not have the same pairs, or have fewer than three subjects.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    >>> second = pd.DataFrame(pairs, columns=["moving", "fixed"]).assign(dice=0.5)
    >>> result = paired_difference(second.assign(dice=0.6), second)
    >>> round(result["low"], 6), round(result["high"], 6), result["people"]
    (0.1, 0.1, 3)
    """
    square = _differences(first, second, measure)
    people = len(square)
    draws = np.random.default_rng(seed).integers(0, people, (resamples, people))
    values = [_mean(square[np.ix_(drawn, drawn)]) for drawn in draws]
    low, high = np.nanquantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return {
        "difference": float(np.nanmean(square)),
        "low": float(low),
        "high": float(high),
        "pairs": int(np.isfinite(square).sum()),
        "people": people,
    }


def paired_error(first, second, measure="dice"):
    """Compute the standard error, over subjects, of the mean of ``first - second``.

    This is a jackknife estimate: each subject is left out in turn, with all its pairs. Unlike a
    bootstrap estimate, it has no random part and is not too small for few subjects. If the
    difference of a pair is the sum of a term of its moving subject and a term of its fixed subject,
    the result is the usual standard error of the mean, over subjects, of the sum of both terms.

    Parameters
    ----------
    first, second, measure
        As for :func:`paired_difference`.

    Returns
    -------
    float
        In the unit of the measure.

    Raises
    ------
    ValueError
        As for :func:`paired_difference`.

    Examples
    --------
    The second method is better by 0, 0.3 and 0.6 for the fixed subjects a, b and c.

    >>> import pandas as pd
    >>> pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    >>> first = pd.DataFrame(pairs, columns=["moving", "fixed"]).assign(dice=0.0)
    >>> second = first.assign(dice=first["fixed"].map({"a": 0.0, "b": 0.3, "c": 0.6}))
    >>> round(paired_error(first, second), 6) == round(0.3 / 3**0.5, 6)
    True
    """
    square = _differences(first, second, measure)
    people = range(len(square))
    rest = [np.delete(people, one) for one in people]
    means = np.array([np.nanmean(square[np.ix_(others, others)]) for others in rest])
    return float(np.sqrt((len(people) - 1) * means.var()))


def _differences(first, second, measure):
    """Return the difference of each ordered pair, moving by fixed; NaN for a missing pair."""
    a, b = (t.groupby(["moving", "fixed"])[measure].mean() for t in (first, second))
    if not a.index.equals(b.index):
        raise ValueError(
            "first, second: found different pairs, expected the same pairs; measure both on the "
            "same split"
        )
    people = sorted(set(a.index.get_level_values(0)) | set(a.index.get_level_values(1)))
    if len(people) < 3:
        raise ValueError(
            f"first, second: found {len(people)} subjects, expected at least 3; measure pairs of "
            "more subjects"
        )
    return (a - b).unstack().reindex(index=people, columns=people).to_numpy()


def _mean(differences):
    """Return the mean over the pairs of a draw; NaN if the draw contains only one subject."""
    return np.nanmean(differences) if np.isfinite(differences).any() else np.nan
