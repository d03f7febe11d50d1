"""The strided network behaves as VxmDense does: displacement, smoothing, files, training."""

import numpy as np
import pytest

from vxmlib import backend, metrics, models, warp
from vxmlib.backend import tf
from vxmlib.networks import cvpr2018
from vxmlib.networks.strided import StridedVxmDense

SHAPE = (32, 48)


def build(shape=SHAPE, **options):
    backend.set_seed(0)
    return models.build(shape, network=StridedVxmDense, features="small", **options)


def make_field(model, scale=0.3):
    """Give the last layer weights that make a displacement of about a voxel."""
    rng = np.random.default_rng(0)
    layer = model.get_layer("flow")
    layer.set_weights([rng.normal(0, scale, weight.shape) for weight in layer.get_weights()])
    return model


def images(shape=SHAPE):
    return np.random.default_rng(0).random((2, *shape), dtype=np.float32)


def test_register_gives_the_displacement_that_the_model_warps_by():
    for options in ({}, {"int_steps": 5}):
        model = make_field(build(**options))
        moving, fixed = images()
        field = models.register(model, moving, fixed)
        assert field.shape == (*SHAPE, 2)
        assert np.abs(field).mean() > 0.1
        warped = model([moving[None, ..., None], fixed[None, ..., None]])[0][0, ..., 0]
        inside = (slice(6, -6), slice(6, -6))
        np.testing.assert_allclose(
            warped.numpy()[inside], warp.warp_image(moving, field)[inside], atol=1e-4
        )


def test_the_smoothed_field_is_the_displacement_or_the_velocity_at_half_the_size():
    assert models.field_shape(build()) == SHAPE
    assert models.field_shape(build(int_steps=7)) == (16, 24)


def filters_at_full_size(model):
    convolutions = [x for x in model.layers if isinstance(x, tf.keras.layers.Conv3D)]
    return [x.filters for x in convolutions if x.output_shape[1] == 32]


def test_few_features_are_at_full_size_and_none_of_a_velocity():
    assert filters_at_full_size(build((32, 32, 32))) == [8, 8, 3]
    assert filters_at_full_size(build((32, 32, 32), int_steps=7)) == []


@pytest.mark.parametrize(("features", "variant"), [("vxm1", "vm1"), ("vxm2", "vm2")])
def test_without_integration_it_is_the_papers_network(features, variant):
    shape = (16, 16, 32)
    ours = models.build(shape, network=StridedVxmDense, features=features)
    paper = cvpr2018.build(variant, shape)
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.1, weight.shape) for weight in ours.get_weights()]
    ours.set_weights(weights)
    paper.set_weights(weights)
    moving, fixed = images(shape)
    field = models.register(ours, moving, fixed)
    assert np.abs(field).mean() > 0.01
    np.testing.assert_allclose(field, cvpr2018.register(paper, moving, fixed), rtol=1e-5, atol=1e-6)


def test_an_integrated_field_does_not_fold_and_bidir_is_its_inverse():
    model = make_field(build(int_steps=7, bidir=True), scale=0.1)
    assert model.output_names == ["image", "back", "smoothness"]
    moving, fixed = images()
    forward = models.register(model, moving, fixed)
    assert np.abs(forward).mean() > 0.1
    assert metrics.folding(forward).count == 0
    back = model([moving[None, ..., None], fixed[None, ..., None]])[1][0, ..., 0].numpy()
    inverse = warp.inverse(forward)
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(back - warp.warp_image(fixed, inverse))[inside].mean() < 0.02


def test_a_saved_model_registers_as_before(tmp_path):
    model = make_field(build(int_steps=3))
    models.save(model, tmp_path / "model.h5")
    loaded = models.load(tmp_path / "model.h5", network=StridedVxmDense)
    moving, fixed = images()
    assert np.array_equal(*(models.register(each, moving, fixed) for each in (model, loaded)))
    with pytest.raises(models.ModelFileError, match="holds a StridedVxmDense, expected a VxmDense"):
        models.load(tmp_path / "model.h5")


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="int_resolution: found 4, expected one of: 2"):
        build(int_steps=3, int_resolution=4)
    with pytest.raises(ValueError, match="bidir: a displacement has no inverse"):
        build(bidir=True)
