"""Statistics over records: a paired difference, its error, its interval, and both in words."""

import numpy as np


def interval_text(result):
    """A difference and its interval in words, for a page.

    Parameters
    ----------
    result : mapping
        Of :func:`paired_difference`, or a row with ``difference``, ``low`` and ``high``.

    Examples
    --------
    >>> interval_text({"difference": 0.02, "low": -0.001, "high": 0.041})
    '+0.020 (-0.001 to +0.041)'
    """
    return f"{result['difference']:+.3f} ({result['low']:+.3f} to {result['high']:+.3f})"


def above_zero(low, high):
    """Whether a difference is positive; None when its interval holds 0.

    Examples
    --------
    >>> above_zero(0.01, 0.03), above_zero(-0.03, -0.01), above_zero(-0.01, 0.01)
    (True, False, None)
    """
    if low > 0:
        return True
    return False if high < 0 else None


def verdict(result):
    """Return whether the interval of a difference lies above 0, below it, or on both sides.

    Parameters
    ----------
    result : mapping
        Of :func:`paired_difference`, or a row with ``low`` and ``high``.

    Returns
    -------
    str
        "higher", "lower" or "undecided"; "not measured" without an interval.

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
    """Mean of ``first - second`` over the same pairs, with a bootstrap interval over people.

    Pairs share people, so they are not independent: people are drawn with replacement, and a
    pair counts as often as both its people were drawn. Seeds of one run are averaged first.

    Parameters
    ----------
    first, second : pandas.DataFrame
        With ``moving``, ``fixed`` and the measure, such as rows of
        :func:`vxmlib.experiments.sweep.by_pair`.
    measure : str
        Column to compare.
    confidence : float
        Of the percentile interval, between 0 and 1.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``difference``, ``low``, ``high``, ``pairs``, ``people``.

    Raises
    ------
    ValueError
        The two were not measured on the same pairs, or on fewer than three people.

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
    """Standard error, over subjects, of the mean of ``first - second`` over the same pairs.

    It is a jackknife: each subject is left out in turn, with all its pairs. Unlike a bootstrap it
    has no random part, and it is not too small when there are few subjects. Where the difference
    of a pair is the sum of one part for each of its subjects, it is the usual standard error of
    the mean of these parts.

    Parameters
    ----------
    first, second, measure
        As for :func:`paired_difference`.

    Returns
    -------
    float

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
    """The difference of each ordered pair, moving by fixed; NaN where there is no such pair."""
    a, b = (t.groupby(["moving", "fixed"])[measure].mean() for t in (first, second))
    if not a.index.equals(b.index):
        raise ValueError("first and second: expected the same pairs; measure both on one split")
    people = sorted(set(a.index.get_level_values(0)) | set(a.index.get_level_values(1)))
    if len(people) < 3:
        raise ValueError(f"found {len(people)} people, expected at least 3 to draw from")
    return (a - b).unstack().reindex(index=people, columns=people).to_numpy()


def _mean(differences):
    """Mean of the pairs of a draw; NaN for a draw of one person alone, who makes no pair."""
    return np.nanmean(differences) if np.isfinite(differences).any() else np.nan
