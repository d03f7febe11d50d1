"""The probabilistic network: what its KL computes, what it samples, and how it registers."""

import types

import numpy as np
import pytest
from scipy import ndimage

from vxmlib import models, training
from vxmlib.backend import set_seed, tf, vxm
from vxmlib.networks import probabilistic

SHAPE = (32, 32)
IDS = ["p0", "p1", "p2"]


def person(name):
    """An image of smooth noise in [0, 1], another for each name."""
    rng = np.random.default_rng(int(name[1:]))
    image = ndimage.gaussian_filter(rng.random(SHAPE), 2).astype(np.float32)
    return (image - image.min()) / np.ptp(image)


COHORT = types.SimpleNamespace(shape=SHAPE, image=person)
PAIR = person("p0"), person("p1")
BATCH = [image[None, ..., None] for image in PAIR]


@pytest.fixture(scope="module")
def model():
    """A model that predicts velocities of about a voxel, with an SD that varies about 0.2."""
    set_seed(3)
    model = probabilistic.build(SHAPE, features="small")
    rng = np.random.default_rng(0)
    for name, scale, bias in (("flow", 0.1, 0.0), ("log_sigma", 0.05, -3.2)):
        layer = model.get_layer(f"vxm_dense_{name}")
        kernel = layer.kernel.shape
        layer.set_weights([rng.normal(0, scale, kernel), np.full(kernel[-1], bias)])
    return model


# -- vxm.losses.KL -------------------------------------------------------------------------------


def neighbours(shape):
    """Mean number of neighbours of a voxel."""
    edges = sum(np.prod(shape) // n * (n - 1) for n in shape)
    return 2 * edges / np.prod(shape)


def laplacian(shape):
    """Degree matrix minus adjacency matrix of the voxels of a grid."""
    grid = np.arange(np.prod(shape)).reshape(shape)
    matrix = np.zeros((grid.size, grid.size))
    for axis in range(len(shape)):
        first = np.moveaxis(grid, axis, 0)
        for a, b in zip(first[:-1].ravel(), first[1:].ravel(), strict=True):
            matrix[[a, b], [a, b]] += 1
            matrix[[a, b], [b, a]] -= 1
    return matrix


def parameters_of(mean, log_variance):
    return tf.constant(np.concatenate([mean, log_variance], -1)[None], tf.float32)


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 5)])
@pytest.mark.parametrize("log_variance", [0.0, -3.0])
def test_a_constant_velocity_has_no_smoothness_part(shape, log_variance):
    nd = len(shape)
    constant = np.broadcast_to(np.arange(1.0, nd + 1), (*shape, nd))
    found = vxm.losses.KL(7.0, shape).loss(
        None, parameters_of(constant, np.full(constant.shape, log_variance))
    )
    expected = 0.5 * nd * (7.0 * neighbours(shape) * np.exp(log_variance) - log_variance)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 6), (6, 5, 4)])
def test_the_smoothness_part_is_that_of_grad(shape):
    rng, nd = np.random.default_rng(1), len(shape)
    mean, zeros = rng.normal(size=(*shape, nd)), np.zeros((*shape, nd))
    loss = vxm.losses.KL(7.0, shape).loss
    part = loss(None, parameters_of(mean, zeros)) - loss(None, parameters_of(zeros, zeros))
    grad = vxm.losses.Grad("l2").loss(None, tf.constant(mean[None], tf.float32))[0]
    assert float(part) == pytest.approx(7.0 * nd / 4 * float(grad), rel=1e-4)


@pytest.mark.parametrize("shape", [(8, 6), (6, 5, 4)])
def test_the_smoothness_part_is_2_nd_times_smaller_than_that_of_the_divergence(shape):
    """The divergence from N(0, inverse of λ (D - A)), with dense matrices, per voxel."""
    rng, nd, lam = np.random.default_rng(2), len(shape), 7.0
    matrix, voxels = lam * laplacian(shape), np.prod(shape)
    log_variance = rng.normal(-2, 1, (*shape, nd))
    slope = np.zeros((*shape, nd))  # one component, linear along the first axis
    slope[..., 0] = 0.5 * np.indices(shape)[0]

    flat = log_variance.reshape(voxels, nd)
    variance_part = 0.5 * (np.diag(matrix) @ np.exp(flat) - flat.sum(0)).sum() / voxels
    means = slope.reshape(voxels, nd)
    smoothness_part = 0.5 * np.trace(means.T @ matrix @ means) / voxels

    loss = vxm.losses.KL(lam, shape).loss
    constant = loss(None, parameters_of(0 * slope, log_variance))
    both = loss(None, parameters_of(slope, log_variance))
    assert float(constant) == pytest.approx(variance_part, rel=1e-4)
    border = (shape[0] - 1) / shape[0]  # the mean over differences, of which there is one less
    assert float(both - constant) * 2 * nd * border == pytest.approx(smoothness_part, rel=1e-4)


def test_the_least_loss_of_the_variance_is_at_1_over_lambda_times_neighbours():
    """Without images, the predicted SD would be that of the prior given the neighbours."""
    shape, lam = (64, 64), 10.0
    loss = probabilistic.kl_loss(shape, lam)
    guesses = 1 / (lam * 4) * np.array([0.8, 0.9, 1.0, 1.1, 1.2])
    zeros = np.zeros((*shape, 2))
    values = [float(loss(None, parameters_of(zeros, zeros + np.log(each)))) for each in guesses]
    assert int(np.argmin(values)) == 2


# -- fit -----------------------------------------------------------------------------------------


def test_fit_stops_with_the_loss_of_voxelmorph_and_runs_with_ours():
    network = vxm.networks.VxmDense(SHAPE, [[4] * 4, [4] * 6], use_probs=True)
    target = [BATCH[1], np.zeros((1, *SHAPE, 2), np.float32)]
    mse = vxm.losses.MSE(0.02).loss
    network.compile("adam", loss=[mse, vxm.losses.KL(10, SHAPE).loss])
    with pytest.raises(TypeError, match="out of scope"):
        network.fit(BATCH, target, verbose=0)
    network.compile("adam", loss=[mse, probabilistic.kl_loss(SHAPE, 10)])
    history = network.fit(BATCH, target, verbose=0, validation_data=(BATCH, target)).history
    assert np.isfinite(history["loss"] + history["val_loss"]).all()


def test_training_learns_and_its_file_registers_alike(tmp_path):
    set_seed(0)
    options = {"image_sigma": 0.1, "learning_rate": 3e-3, "features": "small"}
    model = probabilistic.build(SHAPE, **options)
    table = training.fit(
        model, COHORT, IDS, run_dir=tmp_path, epochs=4, steps_per_epoch=20, verbose=0
    )
    assert {"image_loss", "smoothness_loss"} <= set(table)
    assert table["loss"].iloc[-1] < table["loss"].iloc[0]
    loaded = probabilistic.register_by_mean(models.load(tmp_path / "last.h5"))
    expected = models.register(model, *PAIR)
    assert abs(expected).max() > 1e-3
    np.testing.assert_allclose(models.register(loaded, *PAIR), expected, atol=1e-5)


# -- samples -------------------------------------------------------------------------------------


def test_samples_have_the_predicted_mean_and_sd(model):
    """3000 samples of each of 2048 components: the mean within 5 SE, the SD within 6 %."""
    velocity = tf.keras.Model(model.inputs, [model.references.svf, model.outputs[-1]])
    many = [np.repeat(each, 100, axis=0) for each in BATCH]
    parts = [velocity(many) for _ in range(30)]
    samples = np.concatenate([part[0] for part in parts])
    mean, log_variance = np.split(parts[0][1][0].numpy(), 2, axis=-1)
    sd = np.exp(log_variance / 2)
    assert sd.max() / sd.min() > 1.2 and 0.1 < sd.mean() < 0.5 and abs(mean).max() > 0.2
    assert abs((samples.mean(0) - mean) / (sd / np.sqrt(3000))).max() < 5
    np.testing.assert_allclose(samples.std(0), sd, rtol=0.07)


def test_register_integrates_the_mean_and_pos_flow_of_voxelmorph_a_sample(model):
    mean = model.predict(BATCH, verbose=0)[1][..., :2]
    flow = vxm.layers.RescaleTransform(0.5)(mean)
    flow = vxm.layers.VecInt(method="ss", int_steps=7)(flow)
    expected = vxm.layers.RescaleTransform(2)(flow)[0].numpy()
    found = models.register(model, *PAIR)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (models.register(model, *PAIR) == found).all()

    sampled = tf.keras.Model(model.inputs, model.references.sampled_flow)
    two = sampled([np.repeat(each, 2, axis=0) for each in BATCH]).numpy()
    assert abs(two[0] - two[1]).max() > 0.1
    warped = model(BATCH)[0]
    again = model(BATCH)[0]
    assert abs(warped - again).numpy().max() > 1e-3  # the first output is warped by a sample


def test_after_a_seed_register_of_voxelmorph_repeats_one_sample():
    """Each call builds a Keras model, whose random numbers start anew."""
    model = vxm.networks.VxmDense(SHAPE, [[4] * 4, [4] * 6], use_probs=True)
    set_seed(0)
    first, second = model.register(*BATCH), model.register(*BATCH)
    assert abs(first).max() > 0 and (first == second).all()


def test_a_model_that_has_registered_by_a_sample_then_registers_by_the_mean():
    model = vxm.networks.VxmDense(SHAPE, [[4] * 4, [4] * 6], use_probs=True)
    layer = model.get_layer("vxm_dense_log_sigma")
    layer.set_weights([np.zeros(layer.kernel.shape), np.zeros(2)])
    assert (models.register(model, *PAIR) != models.register(model, *PAIR)).any()
    probabilistic.register_by_mean(model)
    assert (models.register(model, *PAIR) == models.register(model, *PAIR)).all()


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_lambda": 0}, "prior_lambda: found 0, expected a finite number above 0"),
        ({"image_sigma": -1}, "image_sigma: found -1, expected a finite number above 0"),
        ({"learning_rate": 0}, "learning_rate: found 0"),
        ({"int_steps": 0}, "int_steps: found 0, expected one of: 1, 2"),
        ({"features": "huge"}, "features: found 'huge', expected one of: small"),
    ],
)
def test_a_wrong_parameter_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        probabilistic.build(SHAPE, **options)


def test_a_plain_model_has_no_mean():
    with pytest.raises(ValueError, match="model: found use_probs=False, expected True"):
        probabilistic.register_by_mean(models.build(SHAPE, int_steps=7))
