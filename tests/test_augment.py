"""Random changes of people: what is drawn, by how much, and the same for the same state."""

import numpy as np
import pytest

from vxmlib import augment, cohorts, metrics
from vxmlib.augment import Augmentation

SHAPE = (80, 96)


def draw(seed=0, shape=SHAPE, **options):
    still = {"flip": False, "affine": 0, "shift": 0, "bend": 0}
    changed = Augmentation(**still | options)
    return changed.displacement(shape, np.random.default_rng(seed))


def test_a_shift_alone_moves_every_voxel_alike():
    found = np.array([draw(seed, shift=2.0)[10, 10] for seed in range(300)])
    assert found.std(axis=0) == pytest.approx([2.0, 2.0], rel=0.15)
    field = draw(3, shift=2.0)
    assert np.abs(field - field[0, 0]).max() < 1e-4


def test_a_linear_map_alone_has_the_same_jacobian_everywhere_inside():
    determinant = metrics.jacobian_determinant(draw(1, affine=0.05))[16:-16, 16:-16]
    assert determinant.std() < 0.01
    assert abs(determinant.mean() - 1) > 0.01


def test_a_bend_has_its_spread_and_does_not_fold():
    fields = np.stack([draw(seed, bend=2.0) for seed in range(40)])
    assert fields[:, 8:-8, 8:-8].std() == pytest.approx(2.0, rel=0.15)
    assert all(metrics.folding(field).count == 0 for field in fields)


def test_it_works_in_three_dimensions():
    field = draw(2, shape=(32, 40, 48), affine=0.03, shift=1, bend=2)
    assert field.shape == (32, 40, 48, 3)
    assert field.dtype == np.float32
    assert metrics.folding(field).count == 0


def test_the_same_state_makes_the_same_image_and_half_are_mirrored():
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    change = Augmentation()
    first, again, other = (change(image, np.random.default_rng(s)) for s in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0 <= first.min() <= first.max() <= 1
    turned = Augmentation(affine=0, shift=0, bend=0)
    states = [turned(image, np.random.default_rng(s)) for s in range(200)]
    flipped = [np.array_equal(state, image[::-1]) for state in states]
    assert all(f or np.array_equal(s, image) for f, s in zip(flipped, states, strict=True))
    assert 70 < sum(flipped) < 130


def test_labels_change_sides_with_the_image():
    people = cohorts.load("mni", ndim=3, spacing=2.0, people=6)
    labels = people.labels(people.subjects[0])
    mirrored = augment.mirror_labels(labels, people.structures)
    left, right = 17, 53
    assert np.array_equal(mirrored == left, (labels == right)[::-1])
    assert np.array_equal(mirrored == 16, (labels == 16)[::-1])
    assert np.array_equal(augment.mirror_labels(mirrored, people.structures), labels)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="bend: found -1"):
        Augmentation(bend=-1)
    with pytest.raises(ValueError, match="affine: found nan"):
        Augmentation(affine=float("nan"))
    with pytest.raises(ValueError, match="width: found 0"):
        Augmentation(width=0)
    with pytest.raises(ValueError, match="'Left X' has no partner 'Right X'"):
        augment.mirror_labels(np.array([1]), {1: "Left X"})
