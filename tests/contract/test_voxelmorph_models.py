"""The displacement we return is the one voxelmorph warps with; the files we write are its files."""

import itertools

import numpy as np
import pytest

from vxmlib import models, warp
from vxmlib.backend import vxm

FLAT = [((32, 48), *options) for options in itertools.product((0, 7), (1, 2), (False, True))]
SOLID = [((16, 32, 16), *options) for options in ((0, 2, True), (2, 1, False), (7, 2, True))]


def images(shape):
    return np.random.default_rng(0).random((2, *shape), dtype=np.float32)


def with_field(model, size=0.1):
    rng = np.random.default_rng(0)
    layer = model.get_layer("vxm_dense_flow")
    layer.set_weights([rng.normal(0, size, weight.shape) for weight in layer.get_weights()])
    return model


@pytest.mark.parametrize(("shape", "int_steps", "int_resolution", "bidir"), FLAT + SOLID)
def test_registered_displacement_warps_as_the_model_does(shape, int_steps, int_resolution, bidir):
    model = models.build(
        shape, int_steps=int_steps, int_resolution=int_resolution, bidir=bidir, features="small"
    )
    moving, fixed = images(shape)
    field = models.register(with_field(model), moving, fixed)
    assert field.shape == (*shape, len(shape))
    assert 0.1 < np.abs(field).max() < 20

    warped = model([moving[None, ..., None], fixed[None, ..., None]])[0][0, ..., 0]
    transformer = vxm.layers.SpatialTransformer()
    again = transformer([moving[None, ..., None], field[None]])[0, ..., 0]
    np.testing.assert_allclose(again, warped, atol=1e-4)
    np.testing.assert_allclose(warp.warp_image(moving, field), warped, atol=1e-4)


def test_voxelmorph_reads_our_file(tmp_path):
    model = with_field(models.build((32, 32), int_steps=1, features="small"))
    models.save(model, tmp_path / "ours.h5")
    loaded = vxm.networks.VxmDense.load(str(tmp_path / "ours.h5"))
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_we_read_voxelmorphs_file(tmp_path):
    model = with_field(models.build((32, 32), int_steps=1, bidir=True, features="small"))
    model.save(tmp_path / "theirs.h5")
    pair = images((32, 32))
    np.testing.assert_array_equal(
        models.register(models.load(tmp_path / "theirs.h5"), *pair), models.register(model, *pair)
    )
