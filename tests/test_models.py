"""Models by name, their files, and what they refuse."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from vxmlib import losses, models
from vxmlib.backend import tf, vxm


@pytest.fixture(scope="module")
def model():
    """A 2D model whose field is not zero."""
    built = models.build((32, 48), features="small")
    make_field(built)
    return built


def make_field(model):
    """Give the last layer weights that make a displacement of about a voxel."""
    rng = np.random.default_rng(0)
    layer = model.get_layer("vxm_dense_flow")
    layer.set_weights([rng.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])


def images(shape, seed=0):
    return np.random.default_rng(seed).random((2, *shape), dtype=np.float32)


def test_loss_is_image_loss_plus_lambda_times_smoothness():
    model = models.build((32, 32), image_loss="mse", lam=0.25, features="small")
    make_field(model)
    moving, fixed = images((32, 32))[..., None, None].transpose(0, 3, 1, 2, 4)
    warped, field = model([moving, fixed])
    total = model.compute_loss(y=[tf.constant(fixed), tf.zeros_like(field)], y_pred=[warped, field])
    field = field.numpy()[0]
    grad = np.mean([np.mean(np.diff(field, axis=axis) ** 2) for axis in (0, 1)])
    assert grad > 1e-3
    np.testing.assert_allclose(total, np.mean((fixed - warped) ** 2) + 0.25 * grad, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.0, 2.0]),
        ({"bidir": True}, [0.5, 0.5, 2.0]),
    ],
)
def test_weights_of_the_losses(options, expected):
    model = models.build((32, 32), lam=2, **options)
    assert model.get_compile_config()["loss_weights"] == expected


@pytest.mark.parametrize(
    ("int_steps", "int_resolution", "multiple", "grid"),
    [(0, 2, 1, (32, 48)), (1, 1, 1, (32, 48)), (1, 2, 2, (16, 24)), (1, 4, 4, (8, 12))],
)
def test_smoothness_counts_more_on_a_coarser_grid(int_steps, int_resolution, multiple, grid):
    model = models.build((32, 48), int_steps=int_steps, int_resolution=int_resolution)
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None], (8, 4, 2))[None]
    assert models.field_shape(model) == grid
    # differences are 1 along one of the two axes
    np.testing.assert_allclose(model.loss[-1](None, tf.constant(ramp)), [multiple / 2])


def test_the_published_networks_have_their_number_of_weights():
    count = {name: models.build((32, 32), features=name).count_params() for name in models.FEATURES}
    assert count["small"] < count["vxm1"] < count["vxm2"] < count["wide"] < count["double"]
    assert count["vxm2"] == vxm.networks.VxmDense((32, 32), int_steps=0).count_params()


def test_image_loss_and_optimiser_are_as_asked():
    model = models.build((32, 32), learning_rate=0.003, clipnorm=2)
    assert isinstance(model.loss[0].__self__, losses.LocalNCC)
    assert model.optimizer.clipnorm == 2
    np.testing.assert_allclose(model.optimizer.learning_rate.numpy(), 0.003, rtol=1e-6)


def test_all_variables_exist_so_that_the_training_step_is_traced_once(model):
    assert len(model.optimizer.variables) > 2 * len(model.trainable_variables)
    assert all(float(metric.result()) == 0 for metric in model.metrics)
    assert len(model.metrics) == 3


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((160, 161), r"pad to \(160, 176\)"), ((8, 32), r"pad to \(16, 32\)")],
)
def test_sizes_that_do_not_divide_are_named_with_ones_that_do(shape, fits):
    with pytest.raises(ValueError, match=rf"shape: .* divisible by 16; {fits}"):
        models.build(shape)


@pytest.mark.parametrize(
    "shape", [(32,), (16,) * 4, (32, 0), (32, -16), (32.0, 32), 32, "ab", None]
)
def test_no_other_shape(shape):
    with pytest.raises(ValueError, match=r"shape: found .*, expected 2 or 3 sizes"):
        models.build(shape)


@pytest.mark.parametrize("lam", [-0.1, float("nan"), float("inf"), "1", None, True])
def test_no_other_lambda(lam):
    with pytest.raises(ValueError, match=r"lam: found .*, expected a finite number of at"):
        models.build((32, 32), lam=lam)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("clipnorm", -1),
        ("int_steps", -1),
        ("int_steps", 7.0),
        ("int_resolution", 3),
        ("int_resolution", True),
        ("features", "vxm3"),
        ("image_loss", "nccc"),
    ],
)
def test_no_other_option(name, value):
    with pytest.raises(ValueError, match=f"{name}.*found {value!r}"):
        models.build((32, 32), **{name: value})


def test_register_is_compiled_once_and_adds_nothing_to_the_model(model):
    before = len(model.weights), len(model.layers)
    models.register(model, *images((32, 48)))
    function = model.references.displacement_function
    field = models.register(model, *images((32, 48), seed=1))
    assert model.references.displacement_function is function
    assert (len(model.weights), len(model.layers)) == before
    assert field.shape == (32, 48, 2) and field.dtype == np.float32


def test_register_sees_new_weights(model):
    pair = images((32, 48))
    before, weights = models.register(model, *pair), model.get_weights()
    model.set_weights([2 * weight for weight in weights])
    after = models.register(model, *pair)
    model.set_weights(weights)
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(models.register(model, *pair), before)


def spoilt(value):
    image = images((32, 48))[0].copy()
    image[3, 4] = value
    return image


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (images((32, 32))[0], r"shape \(32, 32\), expected the grid \(32, 48\)"),
        (images((32, 48))[:1], r"shape \(1, 32, 48\)"),
        (spoilt(np.nan), "NaN|finite"),
        (spoilt(np.inf), "inf|finite"),
        (spoilt(1.5), r"1\.5, expected \[0, 1\]"),
        (spoilt(-0.5), r"expected \[0, 1\]"),
        (np.full((32, 48), 0.5), "every voxel is 0.5"),
    ],
)
@pytest.mark.parametrize("name", ["moving", "fixed"])
def test_register_refuses_what_the_network_cannot_take(model, image, complaint, name):
    good = images((32, 48))[0]
    pair = (image, good) if name == "moving" else (good, image)
    with pytest.raises(ValueError, match=rf"{name}.*({complaint})"):
        models.register(model, *pair)


def test_a_saved_model_comes_back(model, tmp_path):
    models.save(model, tmp_path / "new" / "model.h5")
    pair = images((32, 48))
    loaded = models.load(tmp_path / "new" / "model.h5")
    np.testing.assert_array_equal(
        models.register(loaded, *pair), models.register(model, *pair), strict=True
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.h5"]


def test_a_failed_save_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    path.write_bytes(b"old")

    def half_written(temporary, **options):
        Path(temporary).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(model, "save_weights", half_written)
    with pytest.raises(OSError, match="disk full"):
        models.save(model, path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.h5"]


def test_other_suffixes_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"found 'model\.keras', expected \.h5"):
        models.save(model, tmp_path / "model.keras")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file at .*gone\.h5"):
        models.load(tmp_path / "gone.h5")


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.95])
def test_a_cut_off_file_is_named(model, tmp_path, kept):
    path = tmp_path / "cut.h5"
    models.save(model, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(models.ModelFileError, match=r"cut\.h5 is not a complete VxmDense file"):
        models.load(path)


def other_class(file):
    file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {}})


def no_configuration(file):
    del file.attrs["model_config"]


def broken_configuration(file):
    file.attrs["model_config"] = "{"


def input_model_of_another_kind(file):
    config = json.loads(file.attrs["model_config"])
    config["config"]["input_model"] = {"class_name": "Functional", "config": {}}
    file.attrs["model_config"] = json.dumps(config)


def configuration_without_names(file):
    file.attrs["model_config"] = "[]"


def wrong_weights(file):
    config = json.loads(file.attrs["model_config"])
    config["config"]["nb_unet_features"] = models.FEATURES["vxm2"]
    file.attrs["model_config"] = json.dumps(config)


@pytest.mark.parametrize(
    "harm",
    [
        other_class,
        no_configuration,
        broken_configuration,
        configuration_without_names,
        input_model_of_another_kind,
        wrong_weights,
    ],
)
def test_a_file_of_another_kind_is_named(model, tmp_path, harm):
    path = tmp_path / "other.h5"
    models.save(model, path)
    with h5py.File(path, "r+") as file:
        harm(file)
    with pytest.raises(models.ModelFileError, match=r"other\.h5"):
        models.load(path)


def spoil_weights(model, value):
    """Make one weight of the first convolution NaN or infinite; return the weights of before."""
    weights = model.get_weights()
    spoilt = [weight.copy() for weight in weights]
    spoilt[0].flat[5] = value
    model.set_weights(spoilt)
    return weights


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_file_of_a_model_that_diverged_is_refused(model, tmp_path, value):
    weights = spoil_weights(model, value)
    models.save(model, tmp_path / "diverged.h5")
    model.set_weights(weights)
    with pytest.raises(models.ModelFileError, match=r"diverged\.h5 holds weights that are NaN"):
        models.load(tmp_path / "diverged.h5")


@pytest.mark.parametrize("int_steps", [0, 3])
def test_register_gives_no_displacement_that_is_not_finite(int_steps):
    diverged = models.build((32, 48), features="small", int_steps=int_steps)
    spoil_weights(diverged, np.nan)
    with pytest.raises(ValueError, match=r"displacement: found NaN or infinite .* has diverged"):
        models.register(diverged, *images((32, 48)))


def test_other_errors_of_tensorflow_pass_through_register(model, monkeypatch):
    def fail(*_):
        raise tf.errors.InvalidArgumentError(None, None, "something else")

    monkeypatch.setattr(models, "_displacement_function", lambda model: fail)
    with pytest.raises(tf.errors.InvalidArgumentError, match="something else"):
        models.register(model, *images((32, 48)))
