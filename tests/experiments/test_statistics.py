"""Paired differences and their intervals: closed forms, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from vxmlib.experiments import statistics


def all_pairs(people, value):
    pairs = [(a, b) for a in people for b in people if a != b]
    table = pd.DataFrame(pairs, columns=["moving", "fixed"])
    return table.assign(dice=[value(a, b) for a, b in pairs])


def test_a_difference_that_is_the_same_everywhere_has_no_width():
    second = all_pairs("abcd", lambda a, b: ord(a) / 1000)
    first = second.assign(dice=second["dice"] + 0.05)
    result = statistics.paired_difference(first, second)
    assert [result[k] for k in ("difference", "low", "high")] == pytest.approx([0.05] * 3)
    assert (result["pairs"], result["people"]) == (12, 4)


def test_the_interval_is_over_people_and_not_over_pairs():
    """A gain that belongs to the fixed person: the spread of its mean is that of people."""
    rng = np.random.default_rng(1)
    people = [f"p{i:02d}" for i in range(30)]
    gain = dict(zip(people, rng.normal(0.0, 1.0, 30), strict=True))
    second = all_pairs(people, lambda a, b: 0.0)
    first = all_pairs(people, lambda a, b: gain[b])
    result = statistics.paired_difference(first, second)
    error = np.std(list(gain.values())) / np.sqrt(30)
    assert result["difference"] == pytest.approx(np.mean(list(gain.values())))
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert result == statistics.paired_difference(first, second)  # the same draw each time


def test_other_pairs_are_refused():
    table = all_pairs("abc", lambda a, b: 0.5)
    with pytest.raises(ValueError, match="expected the same pairs"):
        statistics.paired_difference(table, table.iloc[1:])
    two = all_pairs("ab", lambda a, b: 0.5)
    with pytest.raises(ValueError, match="found 2 subjects, expected at least 3"):
        statistics.paired_difference(two, two)


def test_the_draws_are_those_of_scipy():
    """Intervals of committed pages were computed by scipy.stats.bootstrap."""
    rng = np.random.default_rng(3)
    people = list("abcde")
    second = all_pairs(people, lambda a, b: 0.0)
    first = second.assign(dice=rng.normal(size=len(second)))
    square = first.pivot(index="moving", columns="fixed", values="dice").to_numpy()
    interval = bootstrap(
        (np.arange(5),),
        lambda drawn: np.nanmean(square[np.ix_(drawn, drawn)]) if len(set(drawn)) > 1 else np.nan,
        vectorized=False,
        n_resamples=500,
        method="percentile",
        rng=np.random.default_rng(7),
    )
    expected = np.nanquantile(interval.bootstrap_distribution, [0.05, 0.95])
    result = statistics.paired_difference(first, second, confidence=0.9, resamples=500, seed=7)
    assert [result["low"], result["high"]] == expected.tolist()


def test_the_standard_error_is_that_of_the_subjects_parts():
    """A pair's gain is one part of its moving and one of its fixed subject."""
    rng = np.random.default_rng(2)
    people = list("abcdefg")
    moving, fixed = (dict(zip(people, rng.normal(size=7), strict=True)) for _ in range(2))
    second = all_pairs(people, lambda a, b: rng.normal())
    first = second.assign(
        dice=second["dice"] + all_pairs(people, lambda a, b: moving[a] + fixed[b])["dice"]
    )
    parts = [moving[one] + fixed[one] for one in people]
    error = statistics.paired_error(first, second)
    assert error == pytest.approx(np.std(parts, ddof=1) / np.sqrt(7))
    assert statistics.paired_error(second, first) == pytest.approx(error)


def test_seeds_are_averaged_before_the_standard_error():
    second = all_pairs("abcd", lambda a, b: 0.0)
    gain = all_pairs("abcd", lambda a, b: ord(b) / 10)
    seeds = [gain.assign(dice=gain["dice"] + shift) for shift in (-5.0, 5.0)]
    error = statistics.paired_error(pd.concat(seeds), second)
    assert error == pytest.approx(statistics.paired_error(gain, second))
    assert statistics.paired_error(second.assign(dice=0.3), second) == pytest.approx(0)


def test_too_few_subjects_have_no_standard_error():
    two = all_pairs("ab", lambda a, b: 0.5)
    with pytest.raises(ValueError, match="found 2 subjects, expected at least 3"):
        statistics.paired_error(two, two)


def test_a_result_in_words_has_signs_and_three_decimals():
    result = {"difference": -0.0304, "low": -0.05, "high": 0.0006}
    assert statistics.interval_text(result) == "-0.030 (-0.050 to +0.001)"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.1, "higher"),
        (-0.1, -0.001, "lower"),
        (-0.1, 0.1, "undecided"),
        (0.0, 0.1, "undecided"),
        (-0.1, 0.0, "undecided"),
        (np.nan, np.nan, "not measured"),
    ],
)
def test_a_verdict_is_read_from_the_interval(low, high, word):
    assert statistics.verdict({"low": low, "high": high}) == word
