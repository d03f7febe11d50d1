"""The 2018 network: its layers, its weights, and refusals of what does not fit."""

import h5py
import numpy as np
import pytest
from scipy import ndimage

from vxmlib import fetch
from vxmlib.models import ModelFileError
from vxmlib.networks import cvpr2018

SMALL = (16, 16, 16)


def image(seed):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(SMALL), 2)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def write_weights(path, weights):
    """A file as Keras writes one: a layer a kernel and bias."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        names = [f"conv_{k}" for k in range(len(weights) // 2)]
        group.attrs["layer_names"] = [name.encode() for name in names]
        for name, pair in zip(names, zip(weights[::2], weights[1::2], strict=True), strict=True):
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [b"kernel", b"bias"]
            layer["kernel"], layer["bias"] = pair
    return path


def test_zero_weights_with_a_bias_predict_that_bias():
    model = cvpr2018.build("vm2", SMALL)
    weights = [np.zeros_like(each) for each in model.get_weights()]
    weights[-1][:] = [1, -2, 0.5]
    model.set_weights(weights)
    field = cvpr2018.register(model, image(0), image(1))
    assert field.shape == (*SMALL, 3)
    assert (field == np.float32([1, -2, 0.5])).all()


def test_weights_are_read_in_the_order_of_the_layers(tmp_path):
    first = cvpr2018.build("vm1", SMALL)
    path = write_weights(tmp_path / "weights.h5", first.get_weights())
    second = cvpr2018.load("vm1_cc", path=path, shape=SMALL)
    fields = [cvpr2018.register(model, image(0), image(1)) for model in (first, second)]
    assert np.array_equal(*fields)
    assert fields[0].any()


def convolved(x, kernel, bias, strides=1):
    """A convolution by its definition, as far as Keras' "same" padding goes: by hand."""
    size = [-(-n // strides) for n in x.shape[:3]]
    total = [
        max((m - 1) * strides + 3 - n, 0) for m, n in zip(size, x.shape, strict=False)
    ]  # all zeros that are added along an axis; the larger half goes behind
    x = np.pad(x, [(t // 2, t - t // 2) for t in total] + [(0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3, 3), axis=(0, 1, 2))
    windows = windows[::strides, ::strides, ::strides]
    return np.einsum("xyzcijk,ijkcf->xyzf", windows, kernel) + bias


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def doubled(x):
    return x.repeat(2, 0).repeat(2, 1).repeat(2, 2)


def test_the_field_equals_one_computed_by_hand():
    model = cvpr2018.build("vm1", SMALL)
    layers = iter(zip(*[iter(w.astype(np.float64) for w in model.get_weights())] * 2, strict=True))

    def block(x, strides=1):
        return leaky(convolved(x, *next(layers), strides))

    levels = [np.stack([image(0), image(1)], axis=-1).astype(np.float64)]
    for _ in range(4):
        levels.append(block(levels[-1], 2))
    x = block(levels[4])
    for level in (levels[3], levels[2], levels[1]):
        x = block(np.concatenate([doubled(x), level], axis=-1))
    x = block(x)
    x = block(np.concatenate([doubled(x), levels[0]], axis=-1))
    by_hand = convolved(x, *next(layers))
    found = cvpr2018.register(model, image(0), image(1))
    assert found == pytest.approx(by_hand, abs=1e-4 * np.abs(by_hand).max())


def test_weights_of_another_architecture_are_refused_with_their_shape(tmp_path):
    path = write_weights(tmp_path / "w.h5", cvpr2018.build("vm1", SMALL).get_weights())
    with pytest.raises(ModelFileError, match=r"w\.h5: weight 17 has shape .*expected .*vm2_cc"):
        cvpr2018.load("vm2_cc", path=path, shape=SMALL)
    path = write_weights(path, cvpr2018.build("vm2", SMALL).get_weights()[:-2])
    with pytest.raises(ModelFileError, match="found 22 weights, expected the 24 of vm2_cc"):
        cvpr2018.load("vm2_cc", path=path, shape=SMALL)


def test_a_file_cut_off_is_refused_by_name(tmp_path):
    path = write_weights(tmp_path / "w.h5", cvpr2018.build("vm1", SMALL).get_weights())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match=r"w\.h5: no complete HDF5 file"):
        cvpr2018.load("vm1_cc", path=path, shape=SMALL)


def test_wrong_names_shapes_and_images_are_refused():
    with pytest.raises(ValueError, match="name: found 'vm3_cc', expected one of: vm1_l2"):
        cvpr2018.load("vm3_cc")
    with pytest.raises(ValueError, match="variant: found 'vm3'"):
        cvpr2018.build("vm3", SMALL)
    with pytest.raises(ValueError, match=r"shape: found \(16, 16, 17\), expected 3 sizes"):
        cvpr2018.build("vm1", (16, 16, 17))
    model = cvpr2018.build("vm1", SMALL)
    with pytest.raises(ValueError, match=r"moving has shape \(16, 16\)"):
        cvpr2018.register(model, image(0)[0], image(1))


@pytest.mark.mirror
@pytest.mark.parametrize("name", cvpr2018.WEIGHTS)
def test_the_released_weights_fit(name):
    model = cvpr2018.load(name, shape=SMALL)
    kernel = model.get_layer("flow").get_weights()[0]
    assert np.abs(kernel).max() > 1e-3  # trained: a new one is drawn with 1e-5
    with h5py.File(fetch.fetch(cvpr2018.WEIGHTS[name]), "r") as file:
        stored = file["model_weights/flow"]
        assert np.array_equal(np.asarray(stored[stored.attrs["weight_names"][0]]), kernel)
