"""Random changes of people: what is drawn, by how much, and the same for the same state."""

import numpy as np
import pytest
from scipy import linalg

from vxmlib import axes, metrics, warp
from vxmlib.augment import Augmentation
from vxmlib.sources import template

SHAPE = (80, 96)


def draw(seed=0, shape=SHAPE, **options):
    still = {"flip": None, "affine": 0, "shift": 0, "bend": 0}
    changed = Augmentation(**still | options)
    return changed.displacement(shape, np.random.default_rng(seed))


def test_a_shift_alone_moves_every_voxel_alike():
    found = np.array([draw(seed, shift=2.0)[10, 10] for seed in range(300)])
    assert found.std(axis=0) == pytest.approx([2.0, 2.0], rel=0.15)
    field = draw(3, shift=2.0)
    assert np.abs(field - field[0, 0]).max() < 1e-4


def test_a_linear_map_alone_is_integrated_about_the_middle_of_the_grid():
    """The flow of the velocity A x after unit time is expm(A) x, where x is 0 in the middle."""
    matrix = 0.1 * np.random.default_rng(2).standard_normal((2, 2))
    x = np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2
    inside = (slice(16, -16), slice(16, -16))
    expected = (x @ (linalg.expm(matrix) - np.eye(2)).T)[inside]
    assert np.abs(draw(2, affine=0.1)[inside] - expected).max() < 0.03
    assert np.abs((x @ matrix.T)[inside] - expected).max() > 0.5  # without integration


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


def test_the_same_state_makes_the_same_image():
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    affine = template.plane(2.0)[1]
    first, again, other = (
        Augmentation()(image, np.random.default_rng(s), affine) for s in (4, 4, 5)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0 <= first.min() <= first.max() <= 1


@pytest.mark.parametrize("flip", ["midplane", "array"])
def test_half_of_the_images_are_mirrored(flip):
    image = np.random.default_rng(0).random((80, 80), dtype=np.float32)
    image[:4] = image[-4:] = 0  # beyond the edge a warp repeats the edge, the mirror has zeros
    affine = template.plane(2.0)[1]
    turned = Augmentation(flip=flip, affine=0, shift=0, bend=0)
    mirrored = image[::-1] if flip == "array" else axes.mirror(image, affine)
    states = [turned(image, np.random.default_rng(s), affine) for s in range(200)]
    flipped = [np.allclose(state, mirrored, atol=1e-5) for state in states]
    assert all(f or np.array_equal(s, image) for f, s in zip(flipped, states, strict=True))
    assert 70 < sum(flipped) < 130


@pytest.mark.parametrize("flip", ["midplane", "array"])
def test_a_mirrored_image_is_bent_in_one_interpolation(flip):
    """Mirroring first and warping afterwards gives the same, up to the second interpolation."""
    x, z = np.meshgrid(*(np.linspace(-1, 1, 80),) * 2, indexing="ij")
    image = np.exp(-8 * ((x - 0.3) ** 2 + (z + 0.2) ** 2)).astype(np.float32)
    affine = template.plane(2.0)[1]
    change = Augmentation(flip=flip)
    seed = next(s for s in range(9) if np.random.default_rng(s).random() < 0.5)
    generator = np.random.default_rng(seed)
    generator.random()
    field = change.displacement(image.shape, generator)
    mirrored = image[::-1] if flip == "array" else axes.mirror(image, affine)
    expected = warp.warp_image(mirrored, field)
    found = change(image, np.random.default_rng(seed), affine)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.abs(found - image).max() > 0.3


@pytest.mark.parametrize("option", ["affine", "shift", "bend"])
def test_each_change_acts_alone(option):
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    still = {"flip": None, "affine": 0, "shift": 0, "bend": 0}
    changed = Augmentation(**still | {option: 0.5})(image, np.random.default_rng(1), np.eye(4))
    expected = warp.warp_image(image, draw(1, **{option: 0.5}))
    assert np.array_equal(changed, expected)
    assert np.abs(changed - image).max() > 0.1


def test_the_defaults_are_those_of_the_committed_trainings():
    assert Augmentation() == Augmentation(
        flip="midplane", affine=0.03, shift=1.0, bend=2.0, width=8.0
    )


def test_a_velocity_is_drawn_at_an_eighth_of_the_size_and_integrated_at_a_quarter(monkeypatch):
    """The same seed then draws the same displacement: 4 + 2 + 2 x 10 x 12 random numbers."""
    grids = []

    def integrate(velocity):
        grids.append(velocity.shape)
        return velocity

    monkeypatch.setattr(warp, "exponential", integrate)
    generator, same = np.random.default_rng(0), np.random.default_rng(0)
    Augmentation().displacement(SHAPE, generator)
    same.standard_normal(4 + 2 + 2 * 10 * 12)
    assert generator.random() == same.random()
    assert grids == [(20, 24, 2)]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="bend: found -1"):
        Augmentation(bend=-1)
    with pytest.raises(ValueError, match="affine: found nan"):
        Augmentation(affine=float("nan"))
    with pytest.raises(ValueError, match="width: found 0"):
        Augmentation(width=0)
    with pytest.raises(ValueError, match="flip: found True, expected one of: midplane, array"):
        Augmentation(flip=True)
