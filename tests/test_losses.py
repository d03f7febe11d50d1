"""Local NCC by closed forms, by hand and against the NumPy score; the folding penalty likewise."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vxmlib import metrics
from vxmlib.backend import tf
from vxmlib.losses import FoldingPenalty, LocalNCC, _window_sums, image_loss


@pytest.fixture
def texture():
    """Two images (2, 24, 20, 1) in [0, 1] that vary everywhere."""
    return np.random.default_rng(0).random((2, 24, 20, 1), dtype=np.float32)


def test_identical_images_score_one(texture):
    np.testing.assert_allclose(LocalNCC().loss(texture, texture), [-1, -1], atol=1e-5)


def test_a_change_of_contrast_does_not_matter(texture):
    np.testing.assert_allclose(LocalNCC().loss(texture, 0.3 * texture), [-1, -1], atol=1e-4)


def test_a_change_of_brightness_matters_only_at_the_border_of_the_grid(texture):
    score = LocalNCC().score(texture, 0.5 * texture + 0.2).numpy()
    np.testing.assert_allclose(score[:, 4:-4, 4:-4], 1, atol=1e-4)
    assert score[:, 0, 0].max() < 0.97  # outside are zeros


def test_inverted_contrast_scores_nothing_inside(texture):
    score = LocalNCC().score(texture, 1 - texture).numpy()
    assert score[:, 4:-4, 4:-4].max() < 1e-6


def test_empty_background_looks_perfect():
    black = np.zeros((1, 16, 16, 1), np.float32)
    np.testing.assert_allclose(LocalNCC().loss(black, black), [-1])


def test_score_by_hand_at_one_voxel(texture):
    fixed, warped = texture[:1], texture[1:]
    patch_f, patch_w = fixed[0, 5:12, 6:13, 0].ravel(), warped[0, 5:12, 6:13, 0].ravel()
    covariance, variance_f, variance_w = (
        np.sum((a - a.mean()) * (b - b.mean()), dtype=np.float64)
        for a, b in ((patch_f, patch_w), (patch_f, patch_f), (patch_w, patch_w))
    )
    expected = max(covariance, 1e-5) ** 2 / (variance_f * variance_w)
    score = LocalNCC(window=7).score(fixed, warped)[0, 8, 9]
    np.testing.assert_allclose(score, expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(24, 20), (12, 14, 10)])
def test_score_equals_the_numpy_score(shape):
    a, b = np.random.default_rng(1).random((2, *shape), dtype=np.float32)
    score = -LocalNCC(window=5).loss(a[None, ..., None], (a + b)[None, ..., None] / 2)
    np.testing.assert_allclose(score, [metrics.local_ncc(a, (a + b) / 2, window=5)], rtol=1e-4)


def test_each_pair_of_a_batch_is_scored_alone(texture):
    other = texture[:, ::-1]
    alone = [LocalNCC().loss(texture[i : i + 1], other[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(LocalNCC().loss(texture, other), alone, rtol=1e-6)


def test_static_size_of_the_batch_is_not_needed(texture):
    signature = [tf.TensorSpec((None, None, None, 1))] * 2
    compiled = tf.function(LocalNCC().loss, input_signature=signature)
    loss = compiled(texture, texture[::-1])
    np.testing.assert_allclose(loss, LocalNCC().loss(texture, texture[::-1]), rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    window=st.integers(1, 12).map(lambda n: 2 * n + 1),
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_window_sums_equal_scipys_for_every_odd_window(window, shape):
    maps = np.random.default_rng(0).random((2, 1, *shape, 1))
    sums = maps[0, 0, ..., 0]
    for axis in range(sums.ndim):
        sums = ndimage.convolve1d(sums, np.ones(window), axis=axis, mode="constant")
    np.testing.assert_allclose(_window_sums(tf.constant(maps), window)[0, 0], sums, rtol=1e-10)


@pytest.mark.parametrize("window", [0, 1, -9, 9.0, "9", None, True, (9, 9)])
def test_other_windows_are_refused(window):
    with pytest.raises(ValueError, match=r"window: found .*, expected a whole number"):
        LocalNCC(window=window)


def test_a_window_without_a_centre_is_refused():
    with pytest.raises(ValueError, match="window: found 8, expected an odd number"):
        LocalNCC(window=8)


@pytest.mark.parametrize("eps", [0, -1e-5, float("nan"), float("inf"), "1e-5", True])
def test_other_eps_are_refused(eps):
    with pytest.raises(ValueError, match=r"eps: found .*, expected a finite number above 0"):
        LocalNCC(eps=eps)


def test_images_of_unequal_shape_are_refused(texture):
    with pytest.raises(ValueError, match=r"\(2, 24, 20, 1\) and \(2, 20, 20, 1\)"):
        LocalNCC().loss(texture, texture[:, :20])


def test_losses_have_names(texture):
    mse = image_loss("mse")(texture, np.zeros_like(texture))
    np.testing.assert_allclose(mse, np.mean(texture**2, axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(image_loss("ncc")(texture, texture), [-1, -1], atol=1e-5)


@pytest.mark.parametrize("name", ["nccc", "NCC", None, 1, ["ncc"]])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match=r"image_loss: found .*, expected one of: ncc, mse"):
        image_loss(name)


# -- folding ---------------------------------------------------------------------------------------


def fields(shape, **axes):
    """A displacement in which some components are multiples of their own coordinate."""
    grid = np.indices(shape).astype(np.float32)
    columns = [axes.get(f"axis{axis}", 0) * grid[axis] for axis in range(len(shape))]
    return np.stack(columns, axis=-1)[None]


@pytest.mark.parametrize("shape", [(7, 6), (6, 5, 7)])
@pytest.mark.parametrize("axis", [0, 1])
def test_an_inverted_axis_costs_its_determinant_and_the_margin(shape, axis):
    inverted = fields(shape, **{f"axis{axis}": -1.5})
    np.testing.assert_allclose(FoldingPenalty(margin=0.2).loss(None, inverted), [0.7], rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 6), (6, 5, 7)])
def test_what_keeps_its_order_costs_nothing(shape):
    batch = np.concatenate([fields(shape), fields(shape, axis0=0.5, axis1=-0.5)])
    assert FoldingPenalty().loss(None, batch).numpy().tolist() == [0, 0]


def test_a_margin_counts_flattening():
    flat = fields((6, 5, 7), axis0=-0.95)  # all determinants are 0.05
    np.testing.assert_allclose(FoldingPenalty(margin=0.1).loss(None, flat), [0.05], rtol=1e-4)
    assert float(FoldingPenalty(margin=0).loss(None, flat)[0]) == 0


def test_a_fold_that_central_differences_miss_is_penalised():
    rows, columns = np.indices((8, 8))
    wave = np.stack([0.6 * (-1.0) ** (rows + columns), 0 * rows], axis=-1).astype(np.float32)
    assert metrics.folding(wave, np.pad(np.ones((6, 6), bool), 1)).percent_in_mask == 0
    assert float(FoldingPenalty(margin=0).loss(None, wave[None])[0]) > 0.05


@pytest.mark.parametrize("shape", [(9, 8), (7, 8, 9)])
def test_the_penalty_is_that_of_a_plain_loop_over_voxels(shape):
    nd = len(shape)
    field = np.random.default_rng(5).normal(0, 0.5, (*shape, nd)).astype(np.float32)
    lost = []
    for place in itertools.product(*(range(1, n - 1) for n in shape)):
        for signs in itertools.product((-1, 1), repeat=nd):
            jacobian = np.eye(nd)
            for axis, sign in enumerate(signs):
                there = np.array(place) + sign * np.eye(nd, dtype=int)[axis]
                jacobian[:, axis] += sign * (field[tuple(there)] - field[place])
            lost.append(max(0, 0.1 - np.linalg.det(jacobian)))
    wanted = np.mean(lost)
    assert wanted > 0.01
    np.testing.assert_allclose(FoldingPenalty().loss(None, field[None]), [wanted], rtol=1e-4)


def test_its_gradient_unfolds():
    field = tf.Variable(fields((6, 6), axis0=-1.5))
    for _ in range(200):
        with tf.GradientTape() as tape:
            loss = FoldingPenalty().loss(None, field)
        field.assign_sub(2.0 * tape.gradient(loss, field))
    assert float(loss[0]) < 0.01


@pytest.mark.parametrize("margin", [-0.1, 1.0])
def test_a_margin_out_of_range_is_refused(margin):
    with pytest.raises(ValueError, match=f"margin: found {margin}, expected"):
        FoldingPenalty(margin=margin)
