"""Label numbers: thirty structures, and one rule for all others."""

import numpy as np

from vxmlib.sources import labels

THIRTY = "2 3 4 7 8 10 11 12 13 14 15 16 17 18 24 28 31 41 42 43 46 47 49 50 51 52 53 54 60 63"


def test_the_structures_are_the_thirty_of_the_papers():
    assert list(labels.structures()) == [int(number) for number in THIRTY.split()]


def test_left_and_right_go_by_the_same_names():
    names = labels.structures().values()
    left = {name.removeprefix("Left ") for name in names if name.startswith("Left ")}
    right = {name.removeprefix("Right ") for name in names if name.startswith("Right ")}
    assert left == right
    assert len(left) == 13


def test_freesurfer_labels_stay_fold_or_vanish():
    numbers = np.arange(2100)
    left = labels.fold_freesurfer(numbers, np.zeros(1, bool))
    right = labels.fold_freesurfer(numbers, np.ones(1, bool))
    thirty = list(labels.structures())
    np.testing.assert_array_equal(left[thirty], thirty)
    assert (left[[5, 44, 1035, 2000]] == [4, 43, 3, 42]).all()
    assert (left[[77, 251, 255]] == 2).all()
    assert (right[[77, 251, 255]] == 41).all()
    assert not left[[0, 26, 58, 30, 62, 80, 85]].any()
    assert set(np.unique(left)) <= {0, *thirty}


def test_manual_labels_become_freesurfers_of_the_same_side():
    assert len(labels.manual_numbers()) == 138
    folded = labels.fold_manual(np.arange(208))
    # Right and left hippocampus, amygdala, thalamus, cerebral white matter, cortex (insula).
    assert folded[[47, 48, 31, 32, 59, 60, 44, 45, 102, 103]].tolist() == [
        53, 17, 54, 18, 49, 10, 41, 2, 42, 3,
    ]  # fmt: skip
    assert not folded[[0, 23, 30, 42, 43, 46, 63, 64, 69, 71, 72, 73, 75, 76]].any()
    assert set(np.unique(folded)) - {0} == set(labels.manual_structures())
    assert len(labels.manual_structures()) == 27
    assert not {24, 31, 63} & set(labels.manual_structures())
