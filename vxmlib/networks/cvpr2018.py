"""Build the network of the CVPR 2018 paper from Keras layers, and load the authors' weights.

The network differs from today's ``VxmDense``: it has strided convolutions instead of pooling, and
one convolution at half resolution before the last upsampling. ``VxmDense.load`` therefore cannot
read its files. A network of Keras layers with the same shapes in the same order can.
"""

import h5py
import numpy as np

from vxmlib import fetch
from vxmlib.backend import tf
from vxmlib.checks import check_choice, check_image_on_grid, check_shape
from vxmlib.models import ModelFileError
from vxmlib.networks.strided import HALF, full_size_features, half_size_features
from vxmlib.sources.vxm2018 import REPOSITORY, SHAPE

#: Name -> released file: VoxelMorph-1 or -2 of the paper (vm1, vm2), trained with local
#: cross-correlation (cc) or squared error (l2).
WEIGHTS = {
    name: f"{REPOSITORY}/models/cvpr2018_{name}.h5"
    for name in ("vm1_l2", "vm1_cc", "vm2_l2", "vm2_cc")
}
#: Filters of the encoder's convolutions, at 1/2, 1/4, 1/8 and 1/16 of the full resolution.
ENCODER = (16, 32, 32, 32)
#: Filters of the convolutions after the encoder: one each at 1/16, 1/8, 1/4 and 1/2 of the full
#: resolution, one more at 1/2, and the others at full resolution.
DECODER = {"vm1": (32, 32, 32, 32, 8, 8), "vm2": (32, 32, 32, 32, 32, 16, 16)}


def build(variant="vm2", shape=SHAPE):
    """Build the untrained network.

    Parameters
    ----------
    variant : {"vm1", "vm2"}
        VoxelMorph-1 or VoxelMorph-2 of the paper. The latter has more filters in the last
        convolutions, and one convolution more.
    shape : tuple of int
        Grid of the images: three sizes divisible by 16.

    Returns
    -------
    tf.keras.Model
        Inputs ``[moving, fixed]``, each ``(batch, *shape, 1)``. The output is the displacement
        ``(batch, *shape, 3)`` in voxels, order "ij", at full resolution.

    Raises
    ------
    ValueError
        The variant is unknown, or the grid does not have three sizes divisible by 16.

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
    """Build a network with the authors' weights.

    Parameters
    ----------
    name : str
        A name of :data:`WEIGHTS`.
    path : path, optional
        Another file of weights for the same architecture. Default is the released file, which is
        downloaded and checked.
    shape : tuple of int
        Grid of the images: three sizes divisible by 16. The weights fit any such grid.

    Returns
    -------
    tf.keras.Model
        As returned by :func:`build`.

    Raises
    ------
    ValueError
        The name is unknown, or the grid does not fit.
    vxmlib.models.ModelFileError
        The file is not a complete file of Keras weights, or holds weights of another architecture.
    vxmlib.fetch.FetchError
        The released file can be neither found locally nor downloaded.
    """
    check_choice("name", name, WEIGHTS)
    path = fetch.fetch(WEIGHTS[name]) if path is None else path
    model = build(name.split("_")[0], shape)
    weights, expected = _read(path), model.get_weights()
    for number, (one, other) in enumerate(zip(weights, expected, strict=False), start=1):
        if one.shape != other.shape:
            raise ModelFileError(
                f"{path}: weight {number} has shape {one.shape}, expected {other.shape}: the file "
                f"is of another architecture than {name}"
            )
    if len(weights) != len(expected):
        raise ModelFileError(
            f"{path}: found {len(weights)} weights, expected the {len(expected)} of {name}: the "
            "file is of another architecture"
        )
    model.set_weights(weights)
    return model


def register(model, moving, fixed):
    """Predict the displacement that registers ``moving`` to ``fixed``.

    Parameters
    ----------
    model : tf.keras.Model
        As returned by :func:`load`.
    moving, fixed : ndarray, (*vol)
        Intensities in [0, 1], affinely aligned, on the grid of the model.

    Returns
    -------
    ndarray, (*vol, 3), float32
        Displacement in voxels on the fixed grid, pointing into the moving image.

    Raises
    ------
    ValueError
        An image is on another grid, not finite, constant, or outside [0, 1].
    """
    shape = tuple(model.inputs[0].shape[1:-1])
    images = [
        check_image_on_grid(image, name=name, shape=shape)[None, ..., None]
        for name, image in (("moving", moving), ("fixed", fixed))
    ]
    return model(images, training=False)[0].numpy()


def _read(path):
    """Read the weights of a file in the order of its layers: kernel, bias, kernel, bias, ..."""
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
            f"{path}: no complete HDF5 file of Keras weights ({error}); download it again"
        ) from error


def _text(name):
    return name.decode() if isinstance(name, bytes) else name
