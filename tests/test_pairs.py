"""Pairs: static shapes, the contract of fit(), and a draw that depends on seed and step alone."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxmlib import models, pairs
from vxmlib.backend import tf

SHAPE = (32, 48)


def stand_in(images):
    """A cohort of the given {id: image}."""
    return types.SimpleNamespace(image=images.__getitem__, shape=SHAPE, affine=np.eye(4))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {f"p{k}": rng.random(SHAPE, dtype=np.float32) for k in range(4)}


@pytest.fixture
def cohort(images):
    return stand_in(images)


def drawn(dataset, steps):
    """(moving, fixed) of the first steps as arrays (batch, *vol)."""
    return [tuple(image.numpy()[..., 0] for image in inputs) for inputs, _ in dataset.take(steps)]


def who(images, array):
    return next(name for name, image in images.items() if (image == array).all())


def test_an_element_is_what_fit_needs(cohort):
    dataset = pairs.pair_dataset(cohort, cohort_ids(4), batch_size=3, seed=0, field_shape=(16, 24))
    (moving, fixed), (target, zero) = next(iter(dataset))
    assert moving.shape == fixed.shape == (3, 32, 48, 1)
    assert moving.dtype == fixed.dtype == zero.dtype == tf.float32
    np.testing.assert_array_equal(target, fixed)
    assert zero.shape == (3, 16, 24, 2) and not np.any(zero)


def cohort_ids(count):
    return [f"p{k}" for k in range(count)]


def test_shapes_are_static(cohort):
    dataset = pairs.pair_dataset(cohort, cohort_ids(4), batch_size=2, seed=0, bidir=True)
    inputs, targets = dataset.element_spec
    assert [tuple(spec.shape) for spec in inputs] == [(2, 32, 48, 1)] * 2
    assert [tuple(spec.shape) for spec in targets] == [(2, 32, 48, 1)] * 2 + [(2, 32, 48, 2)]


def test_both_ways_asks_for_the_moving_image_back(cohort):
    dataset = pairs.pair_dataset(cohort, cohort_ids(4), batch_size=1, seed=0, bidir=True)
    (moving, fixed), (first, second, _) = next(iter(dataset))
    np.testing.assert_array_equal(first, fixed)
    np.testing.assert_array_equal(second, moving)


def test_a_later_start_gives_the_same_pairs(cohort):
    whole = pairs.pair_dataset(cohort, cohort_ids(4), batch_size=2, seed=5)
    rest = pairs.pair_dataset(cohort, cohort_ids(4), batch_size=2, seed=5, start_step=7)
    np.testing.assert_array_equal(drawn(whole, 12)[7:], drawn(rest, 5))


def test_another_seed_gives_other_pairs(cohort):
    first, other = (
        drawn(pairs.pair_dataset(cohort, cohort_ids(4), batch_size=2, seed=seed), 8)
        for seed in (0, 1)
    )
    assert not np.array_equal(first, other)


def test_all_ordered_pairs_come_and_nobody_meets_himself(cohort, images):
    dataset = pairs.pair_dataset(cohort, cohort_ids(3), batch_size=1, seed=0)
    found = {(who(images, m[0]), who(images, f[0])) for m, f in drawn(dataset, 80)}
    assert found == {(a, b) for a in cohort_ids(3) for b in cohort_ids(3) if a != b}


def test_with_an_atlas_the_fixed_image_is_always_the_atlas(cohort, images):
    atlas = images["p3"]
    dataset = pairs.pair_dataset(cohort, cohort_ids(3), batch_size=2, seed=0, atlas=atlas)
    seen = drawn(dataset, 20)
    assert all((fixed == atlas).all() for _, fixed in seen)
    assert {who(images, image) for moving, _ in seen for image in moving} == set(cohort_ids(3))


def test_one_person_and_an_atlas_are_enough(cohort, images):
    dataset = pairs.pair_dataset(cohort, ["p0"], batch_size=1, seed=0, atlas=images["p1"])
    np.testing.assert_array_equal(drawn(dataset, 1)[0][0][0], images["p0"])


@given(
    count=st.integers(2, 9),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 2**40),
    to_last=st.booleans(),
)
def test_drawn_places_are_different_and_repeatable(count, batch_size, seed, step, to_last):
    options = {"seed": seed, "step": step, "to_last": to_last}
    places = pairs.draw_pairs(count, batch_size, **options)
    assert places.shape == (batch_size, 2)
    assert ((places >= 0) & (places < count)).all()
    assert (places[:, 0] != places[:, 1]).all()
    assert not to_last or (places[:, 1] == count - 1).all()
    np.testing.assert_array_equal(places, pairs.draw_pairs(count, batch_size, **options))


def test_pairs_are_drawn_evenly():
    places = pairs.draw_pairs(4, 24_000, seed=0, step=0)
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(places.T), 1)
    off_diagonal = counts[~np.eye(4, dtype=bool)]
    assert abs(off_diagonal - 2000).max() < 5 * np.sqrt(2000)


def test_listed_pairs_come_once_in_order(cohort, images):
    wanted = [("p2", "p0"), ("p1", "p3"), ("p2", "p0")]
    dataset = pairs.listed_pairs(cohort, wanted, field_shape=(16, 24))
    assert [(who(images, m[0]), who(images, f[0])) for m, f in drawn(dataset, -1)] == wanted
    assert int(dataset.cardinality()) == 3
    assert dataset.element_spec[1][1].shape == (1, 16, 24, 2)


def test_no_listed_pairs(cohort):
    with pytest.raises(ValueError, match="pairs: found none, expected at least one"):
        pairs.listed_pairs(cohort, [])


def test_a_bare_generator_crashes_with_integration_and_the_dataset_does_not(cohort):
    model = models.build(SHAPE, int_steps=7, features="small")
    grid = models.field_shape(model)
    dataset = pairs.pair_dataset(cohort, cohort_ids(4), batch_size=1, seed=0, field_shape=grid)

    def bare():
        for inputs, targets in dataset:
            yield tuple(x.numpy() for x in inputs), tuple(x.numpy() for x in targets)

    with pytest.raises(TypeError, match=r"calling layer .*_flow_resize"):
        model.fit(bare(), steps_per_epoch=1, verbose=0)
    history = model.fit(dataset, steps_per_epoch=2, verbose=0).history
    assert -1 <= history["image_loss"][0] < 0


def broken(value):
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    image[0, 0] = value
    return image


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.zeros((32, 32), np.float32), r"shape \(32, 32\), expected the grid \(32, 48\)"),
        (np.full(SHAPE, 0.25), "every voxel is 0.25"),
        (broken(np.nan), "NaN|finite"),
        (broken(255), r"255, expected \[0, 1\]"),
    ],
)
def test_a_bad_image_is_named_before_the_first_batch(images, image, complaint):
    cohort = stand_in(images | {"p2": image})
    with pytest.raises(ValueError, match=f"image of p2.*({complaint})"):
        pairs.pair_dataset(cohort, cohort_ids(4), batch_size=1, seed=0)
    with pytest.raises(ValueError, match="image of p2"):
        pairs.listed_pairs(cohort, [("p0", "p2")])
    with pytest.raises(ValueError, match=f"atlas.*({complaint})"):
        pairs.pair_dataset(cohort, ["p0"], batch_size=1, seed=0, atlas=image)


@pytest.mark.parametrize("ids", [[], ["p0"]])
def test_one_person_makes_no_pair(cohort, ids):
    with pytest.raises(ValueError, match=r"ids: found \[.*\], expected at least two subjects"):
        pairs.pair_dataset(cohort, ids, batch_size=1, seed=0)


def test_a_subject_named_twice_is_refused(cohort):
    """It would be paired with itself: moving == fixed."""
    with pytest.raises(ValueError, match=r"ids: found \['p0'\] more than once, expected each subj"):
        pairs.pair_dataset(cohort, ["p0", "p1", "p0"], batch_size=1, seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("batch_size", 1.5), ("seed", -1), ("seed", "0"), ("start_step", -1)],
)
def test_numbers_out_of_range(cohort, name, value):
    options = {"batch_size": 1, "seed": 0} | {name: value}
    with pytest.raises(ValueError, match=f"{name}: found {value!r}, expected a whole number"):
        pairs.pair_dataset(cohort, cohort_ids(4), **options)


def test_augmentation_changes_images_by_seed_and_step_and_not_the_pairs(cohort):
    def change(image, generator, affine):
        return image * np.float32(generator.uniform(0.5, 1))

    def batch(step, **options):
        data = pairs.pair_dataset(
            cohort, cohort_ids(4), batch_size=2, seed=1, start_step=step, **options
        )
        return [np.asarray(image) for image in next(iter(data))[0]]

    plain, changed, again = batch(7), batch(7, augment=change), batch(7, augment=change)
    for before, after, same in zip(plain, changed, again, strict=True):
        assert np.array_equal(after, same)
        factors = [np.median(a[b > 0] / b[b > 0]) for a, b in zip(after, before, strict=True)]
        assert all(0.5 <= factor < 1 for factor in factors)
        for a, b, factor in zip(after, before, factors, strict=True):
            np.testing.assert_allclose(a, b * factor, rtol=1e-5)
    assert not np.array_equal(batch(8, augment=change)[0], changed[0])


def test_each_step_augments_with_a_random_stream_of_seed_and_step_other_than_that_of_the_pairs(
    cohort,
):
    data = pairs.pair_dataset(
        cohort,
        cohort_ids(4),
        batch_size=1,
        seed=5,
        augment=lambda image, generator, _: np.full_like(image, generator.random()),
    )
    first = [moving[0, 0, 0] for moving, _ in drawn(data, 3)]
    # (5, step) draws the pairs: the same stream would tie the change to the choice of the pair.
    expected = [np.random.default_rng((5, step, 1)).random() for step in range(3)]
    np.testing.assert_allclose(first, expected, rtol=1e-6)


def test_an_atlas_is_not_augmented(cohort):
    atlas = cohort.image("p0")
    data = pairs.pair_dataset(
        cohort,
        ["p1", "p2"],
        batch_size=1,
        seed=0,
        atlas=atlas,
        augment=lambda image, *_: 0.5 * image,
    )
    (moving, fixed), _ = next(iter(data))
    assert np.array_equal(fixed[0, ..., 0], atlas)
    assert moving.numpy().max() <= 0.5


def test_both_ways_follow_each_other_with_the_same_images(cohort):
    data = pairs.pair_dataset(
        cohort,
        cohort_ids(4),
        batch_size=4,
        seed=0,
        both_ways=True,
        augment=lambda image, generator, _: image * np.float32(generator.uniform(0.5, 1)),
    )
    (moving, fixed), (target, _) = next(iter(data))
    assert np.array_equal(moving[0], fixed[1])
    assert np.array_equal(moving[1], fixed[0])
    assert np.array_equal(moving[2], fixed[3])
    assert not np.array_equal(moving[0], moving[2])
    assert np.array_equal(fixed, target)
    with pytest.raises(ValueError, match="both_ways: found batch_size=1"):
        pairs.pair_dataset(cohort, cohort_ids(4), batch_size=1, seed=0, both_ways=True)
