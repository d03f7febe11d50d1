"""Instance optimisation: a known shift is found, and nothing of a pair reaches the next."""

import numpy as np
import pytest
from scipy import ndimage

from vxmlib import losses, metrics, warp
from vxmlib.backend import tf, vxm
from vxmlib.methods.instance import InstanceOptimiser, NotFinite

SHAPE = (32, 48)


def image(seed=0, shape=SHAPE):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2.5)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def shifted(moving, by):
    return warp.warp_image(moving, np.broadcast_to(np.float32(by), (*moving.shape, len(by))))


@pytest.mark.parametrize("image_loss", ["ncc", "mse"])
def test_a_known_shift_is_found(image_loss):
    moving = image()
    fixed = shifted(moving, [1.5, -1.0])
    optimise = InstanceOptimiser(SHAPE, image_loss=image_loss, lam=0.0, learning_rate=0.2)
    field, history = optimise(np.zeros((*SHAPE, 2)), moving, fixed, steps=60)
    inside = field[8:-8, 8:-8].reshape(-1, 2).mean(axis=0)
    assert inside == pytest.approx([1.5, -1.0], abs=0.3)
    assert history["step"].tolist() == list(range(60))


def test_it_works_in_three_dimensions():
    moving = image(shape=(32, 32, 16))
    fixed = shifted(moving, [1.0, 0.0, -1.0])
    optimise = InstanceOptimiser(moving.shape, lam=0.0, learning_rate=0.2)
    field, _ = optimise(np.zeros((*moving.shape, 3)), moving, fixed, steps=40)
    assert field[8:-8, 8:-8, 5:-5].reshape(-1, 3).mean(axis=0) == pytest.approx([1, 0, -1], abs=0.3)


def test_the_loss_is_that_of_training():
    moving, fixed = image(0), image(1)
    start = np.random.default_rng(2).normal(0, 0.5, (*SHAPE, 2)).astype(np.float32)
    optimise = InstanceOptimiser(SHAPE, image_loss="ncc", lam=0.7)
    first = optimise(start, moving, fixed, steps=1)[1].iloc[0]
    batch = [tf.constant(a[None, ..., None]) for a in (moving, fixed)]
    warped = vxm.layers.SpatialTransformer(indexing="ij")([batch[0], tf.constant(start[None])])
    similarity = float(tf.reduce_mean(losses.LocalNCC().loss(batch[1], warped)))
    grad = np.mean([np.mean(np.diff(start, axis=axis) ** 2) for axis in (0, 1)])
    assert first["image_loss"] == pytest.approx(similarity, rel=1e-5)
    assert first["loss"] == pytest.approx(similarity + 0.7 * grad, rel=1e-5)


def test_it_starts_where_it_was_told_and_forgets_the_pair_before():
    moving, fixed = image(0), shifted(image(0), [1, 0])
    start = np.full((*SHAPE, 2), 0.25, np.float32)
    seen = []
    optimise = InstanceOptimiser(SHAPE, image_loss="mse", lam=0.01)
    first, _ = optimise(start, moving, fixed, steps=3, watch=lambda *at: seen.append(at))
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert np.array_equal(seen[0][1], start)
    assert np.array_equal(seen[3][1], first)
    optimise(np.zeros((*SHAPE, 2)), fixed, moving, steps=5)
    again, _ = optimise(start, moving, fixed, steps=3)
    assert np.array_equal(first, again)


def test_a_large_lam_keeps_the_displacement_smooth():
    moving, fixed = image(0), image(1)
    start = np.zeros((*SHAPE, 2), np.float32)
    loose, _ = InstanceOptimiser(SHAPE, image_loss="mse", lam=0)(start, moving, fixed, steps=30)
    stiff, _ = InstanceOptimiser(SHAPE, image_loss="mse", lam=10)(start, moving, fixed, steps=30)

    def grad(u):
        return sum((np.diff(u, axis=axis) ** 2).mean() for axis in (0, 1))

    assert grad(stiff) < 0.5 * grad(loose)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"shape: found \(18, 18\), .* by 16; pad to \(32, 32\)"):
        InstanceOptimiser((18, 18))  # check_image refuses every image of this shape
    with pytest.raises(ValueError, match="lam: found -1"):
        InstanceOptimiser(SHAPE, lam=-1)
    with pytest.raises(ValueError, match="learning_rate: found 0"):
        InstanceOptimiser(SHAPE, learning_rate=0)
    with pytest.raises(ValueError, match="folding_weight: found -1"):
        InstanceOptimiser(SHAPE, folding_weight=-1)
    optimise = InstanceOptimiser(SHAPE)
    with pytest.raises(ValueError, match="moving has shape"):
        optimise(np.zeros((*SHAPE, 2)), image(shape=(32, 32)), image(), steps=1)
    with pytest.raises(ValueError, match="displacement"):
        optimise(np.zeros((32, 32, 2)), image(), image(), steps=1)


def test_a_loss_that_is_no_number_stops_with_a_reason(monkeypatch):
    optimise = InstanceOptimiser(SHAPE, image_loss="mse")
    monkeypatch.setattr(optimise, "_step", lambda *_: (float("nan"), 0.0, 0.0))
    with pytest.raises(NotFinite, match="became nan at step 0: try a smaller learning_rate"):
        optimise(np.zeros((*SHAPE, 2)), image(0), image(1), steps=5)


def test_a_step_that_ends_in_infinity_is_not_returned():
    optimise = InstanceOptimiser(SHAPE, image_loss="mse", learning_rate=3e38)
    with pytest.raises(NotFinite, match="after step 1: try a smaller learning_rate"):
        optimise(np.zeros((*SHAPE, 2)), image(0), image(1), steps=1)


def test_a_penalty_of_folding_removes_folds():
    moving, fixed = image(0), image(1)
    start = np.random.default_rng(2).normal(0, 0.6, (*SHAPE, 2)).astype(np.float32)
    start = ndimage.gaussian_filter(start, (1, 1, 0)) * 4
    folds = {}
    for weight in (0.0, 10.0):
        optimise = InstanceOptimiser(SHAPE, lam=0.1, learning_rate=0.2, folding_weight=weight)
        field, history = optimise(start, moving, fixed, steps=30)
        folds[weight] = metrics.digital_folding(field).count
        parts = history["image_loss"] + 0.1 * history["smoothness_loss"]
        parts += weight * history["folding_loss"]
        np.testing.assert_allclose(history["loss"], parts, rtol=1e-6)
        assert (history["folding_loss"].iloc[0] > 0) == (weight > 0)
    assert folds[0.0] > 50
    assert folds[10.0] < 0.1 * folds[0.0]


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps: found 0, expected a whole number of at least 1"):
        InstanceOptimiser(SHAPE)(np.zeros((*SHAPE, 2)), image(0), image(1), steps=0)
