"""The stand-in that other tests trust."""

import numpy as np


def test_tiny_cohort_is_a_usable_cohort(tiny_cohort):
    assert len(tiny_cohort.subjects) == 6
    for subject in tiny_cohort.subjects:
        image, labels = tiny_cohort.image(subject), tiny_cohort.labels(subject)
        assert image.shape == labels.shape == tiny_cohort.shape
        assert image.dtype == np.float32
        assert image.min() >= 0 < image.max() <= 1
        assert set(np.unique(labels)) == {0, *tiny_cohort.structures}
        assert tiny_cohort.brain(subject)[labels > 0].all()


def test_tiny_people_differ_but_overlap(tiny_cohort):
    first, second = (tiny_cohort.labels(s) for s in tiny_cohort.split["test"])
    common = np.sum((first == second) & (first > 0))
    assert 0 < common < np.sum(first > 0)
