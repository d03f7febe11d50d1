"""The network of the CVPR 2018 paper, rebuilt from Keras layers, with the authors' weights.

It differs from today's ``VxmDense``: strided convolutions instead of pooling, and one convolution
at half the size before the last upsampling. So ``VxmDense.load`` cannot read its files, and a
network of Keras layers of the same shapes, in the same order, can.
"""

import h5py
import numpy as np

from vxmlib import fetch
from vxmlib.backend import tf
from vxmlib.checks import check_choice, check_image_on_grid, check_shape
from vxmlib.models import ModelFileError
from vxmlib.networks.strided import HALF, full_size_features, half_size_features
from vxmlib.sources.vxm2018 import REPOSITORY, SHAPE

#: The released files: the paper's network 1 or 2, trained with local correlation or squared error.
WEIGHTS = {
    name: f"{REPOSITORY}/models/cvpr2018_{name}.h5"
    for name in ("vm1_l2", "vm1_cc", "vm2_l2", "vm2_cc")
}
ENCODER = (16, 32, 32, 32)
#: Filters after the encoder: four at 1/16, 1/8, 1/4 and 1/2 of the size, one more at 1/2, then
#: those at full size.
DECODER = {"vm1": (32, 32, 32, 32, 8, 8), "vm2": (32, 32, 32, 32, 32, 16, 16)}


def build(variant="vm2", shape=SHAPE):
    """Build the untrained network.

    Parameters
    ----------
    variant : {"vm1", "vm2"}
        The paper's VoxelMorph-1 or -2; the latter has more filters late and one more convolution.
    shape : tuple of int
        Grid, three sizes divisible by 16.

    Returns
    -------
    tf.keras.Model
        Inputs ``[moving, fixed]``, each ``(batch, *shape, 1)``; output the displacement
        ``(batch, *shape, 3)`` in voxels, order "ij", at full size.

    Raises
    ------
    ValueError
        Unknown variant, or a grid that does not fit.

    References
    ----------
    Balakrishnan et al., CVPR 2018, Fig. 3; branch ``legacy`` of voxelmorph.

    Examples
    --------
    >>> build("vm1", (16, 16, 16)).count_params()
    259675
    """
    check_choice("variant", variant, DECODER)
    shape = check_shape(shape, axes=(3,))
    layers = tf.keras.layers
    inputs = [layers.Input((*shape, 1), name=name) for name in ("moving", "fixed")]
    x = half_size_features(inputs, ENCODER, DECODER[variant][:HALF])
    x = full_size_features(x, inputs, DECODER[variant][HALF:])
    return tf.keras.Model(inputs, layers.Conv3D(3, 3, padding="same", name="flow")(x))


def load(name="vm2_cc", *, path=None, shape=SHAPE):
    """Build a network and give it the authors' weights.

    Parameters
    ----------
    name : str
        One of :data:`WEIGHTS`.
    path : path, optional
        Another file of the same kind; by default the released one, fetched and checked.
    shape : tuple of int
        Grid; the weights fit any.

    Returns
    -------
    tf.keras.Model
        See :func:`build`.

    Raises
    ------
    ValueError
        Unknown name.
    vxmlib.models.ModelFileError
        The file is cut off, or holds weights of another architecture; both are named.
    vxmlib.fetch.FetchError
        The file cannot be had.
    """
    check_choice("name", name, WEIGHTS)
    path = fetch.fetch(WEIGHTS[name]) if path is None else path
    model = build(name.split("_")[0], shape)
    weights, expected = _read(path), model.get_weights()
    for number, (one, other) in enumerate(zip(weights, expected, strict=False), start=1):
        if one.shape != other.shape:
            raise ModelFileError(
                f"{path}: weight {number} has shape {one.shape}, expected {other.shape}: it is of "
                f"another architecture than {name}"
            )
    if len(weights) != len(expected):
        raise ModelFileError(
            f"{path}: found {len(weights)} weights, expected the {len(expected)} of {name}: it is "
            "of another architecture"
        )
    model.set_weights(weights)
    return model


def register(model, moving, fixed):
    """Predict the displacement that carries ``moving`` onto ``fixed``.

    Parameters
    ----------
    model : tf.keras.Model
        Of :func:`load`.
    moving, fixed : ndarray, (*vol)
        Intensities in [0, 1], affinely aligned, on the model's grid.

    Returns
    -------
    ndarray, (*vol, 3), float32
        Displacement in voxels on the fixed grid, pointing into the moving image.

    Raises
    ------
    ValueError
        An image that does not fit the model.
    """
    shape = tuple(model.inputs[0].shape[1:-1])
    images = [
        check_image_on_grid(image, name=name, shape=shape)[None, ..., None]
        for name, image in (("moving", moving), ("fixed", fixed))
    ]
    return model(images, training=False)[0].numpy()


def _read(path):
    """The weights of a file in the order of its layers: kernel, bias, kernel, bias, ..."""
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            names = [_text(name) for name in group.attrs["layer_names"]]
            layers = [[_text(w) for w in group[name].attrs["weight_names"]] for name in names]
            return [
                np.asarray(group[name][weight])
                for name, weights in zip(names, layers, strict=True)
                for weight in weights
            ]
    except (OSError, KeyError, ValueError) as error:
        raise ModelFileError(
            f"{path}: no complete HDF5 file of Keras weights ({error}); fetch it again"
        ) from error


def _text(name):
    return name.decode() if isinstance(name, bytes) else name
