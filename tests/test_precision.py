"""Half precision: what it breaks, and that losses and the strided network keep what has to stay."""

import numpy as np
import pytest

from vxmlib import losses, models, training
from vxmlib.backend import set_seed, tf, vxm
from vxmlib.networks.precision import layers_in
from vxmlib.networks.strided import StridedVxmDense

HALVES = ("float16", "bfloat16")
SHAPE = (32, 48)


@pytest.fixture
def policy():
    yield tf.keras.mixed_precision.set_global_policy
    tf.keras.mixed_precision.set_global_policy("float32")


def images(dtype="float32"):
    rows, columns = np.indices(SHAPE) / 48
    both = np.sin(9 * rows) * np.cos(7 * columns), np.sin(9 * rows + 0.6) * np.cos(7 * columns)
    return [tf.cast((x[None, ..., None] + 1) / 2, dtype) for x in both]


@pytest.mark.parametrize("half", HALVES)
def test_ncc_of_half_precision_is_that_of_full(half):
    ncc = losses.image_loss("ncc")
    wanted = float(ncc(*images())[0])
    assert -1 < wanted < -0.5
    assert float(ncc(*images(half))[0]) == pytest.approx(wanted, abs=0.01)
    assert ncc(*images(half)).dtype == tf.float32


@pytest.mark.parametrize("half", HALVES)
def test_voxelmorphs_ncc_refuses_it(half):
    with pytest.raises(tf.errors.InvalidArgumentError, match="is a float tensor"):
        vxm.losses.NCC().loss(*images(half))


@pytest.mark.parametrize("half", HALVES)
def test_mse_is_summed_in_full_precision(half):
    one, other = tf.zeros((1, 512, 512, 1), half), tf.fill((1, 512, 512, 1), tf.cast(0.5, half))
    assert losses.image_loss("mse")(one, other).numpy().tolist() == [0.25]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("int_steps", "bidir"), [(0, False), (3, False), (3, True)])
def test_only_the_convolutions_follow_the_policy(half, int_steps, bidir, policy):
    policy(f"mixed_{half}")
    options = {"features": "small", "int_steps": int_steps, "bidir": bidir}
    model = models.build(SHAPE, network=StridedVxmDense, **options)
    kept = ("spatial_transformer", "vec_int", "rescale_transform", "flow", "negate")
    for layer in model.layers:
        full = layer.name.startswith((*kept, "source", "target"))
        assert layer.compute_dtype == ("float32" if full else half), layer.name
    assert {tensor.dtype for tensor in model.outputs} == {tf.float32}


@pytest.mark.parametrize("half", HALVES)
def test_the_strided_network_trains_alike(half, policy):
    def losses_of(name):
        policy(name)
        set_seed(0)
        model = models.build(SHAPE, network=StridedVxmDense, features="small", learning_rate=1e-3)
        moving, fixed = images()
        targets = [fixed, tf.zeros((1, *SHAPE, 2))]
        history = model.fit([moving, fixed], targets, epochs=8, verbose=0)
        return np.array(history.history["loss"])

    full = losses_of("float32")
    assert full[-1] < full[0]
    halved = losses_of(f"mixed_{half}")
    assert halved[0] == pytest.approx(full[0], abs=0.01)
    assert halved[0] - halved[-1] == pytest.approx(full[0] - full[-1], rel=0.2)


def test_a_run_goes_on_after_a_schedule_has_changed_the_rate_of_a_scaled_optimizer(
    policy, tmp_path
):
    policy("mixed_float16")
    model = models.build(SHAPE, features="small", learning_rate=1e-3)
    assert isinstance(model.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
    training.restore(model, tmp_path)
    model.optimizer.iterations.assign(3)
    model.optimizer.learning_rate.assign(1e-5)
    training.restore(model, tmp_path)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)


@pytest.mark.parametrize("ndims", [2, 3])
@pytest.mark.parametrize("int_steps", [0, 3])
def test_vxmdense_keeps_positions_in_full_precision(ndims, int_steps):
    with layers_in("mixed_bfloat16"):
        model = vxm.networks.VxmDense((32,) * ndims, int_steps=int_steps)
    unet = [layer for layer in model.layers if "_unet_" in layer.name]
    convolutions = [layer for layer in unet if "conv" in layer.name]
    assert convolutions
    assert {layer.compute_dtype for layer in convolutions} == {"bfloat16"}
    rest = [layer for layer in model.layers if layer not in unet]
    assert {layer.compute_dtype for layer in rest} == {"float32"}
    assert {weight.dtype for weight in model.weights} == {tf.float32}


def test_vxmdense_in_mixed_precision_gives_the_displacement_of_float32():
    def displacement(precision):
        set_seed(0)
        with layers_in(precision):
            model = models.build(SHAPE, features="small", learning_rate=1e-3)
        flow = model.get_layer("vxm_dense_flow")
        flow.set_weights([1e5 * weight for weight in flow.get_weights()])
        return models.register(model, *(image[0, ..., 0].numpy() for image in images()))

    full, halved = displacement("float32"), displacement("mixed_bfloat16")
    assert full.std() > 0.3
    assert 0 < np.abs(halved - full).max() < 0.05 * full.std()


def test_precision_is_put_back_also_after_an_error():
    layers = vxm.layers.SpatialTransformer, tf.keras.layers.Conv2D
    with pytest.raises(AssertionError, match="ndims"), layers_in("mixed_bfloat16"):
        vxm.networks.VxmDense((8, 8, 8, 8))
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert (vxm.layers.SpatialTransformer, tf.keras.layers.Conv2D) == layers


def test_another_precision_is_refused():
    wanted = "precision: found 'half', expected one of: float32, mixed_bfloat16"
    with pytest.raises(ValueError, match=wanted), layers_in("half"):
        pass
