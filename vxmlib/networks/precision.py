"""Build a network that computes in bfloat16, except for its displacement, which is in float32."""

import contextlib
import functools
from unittest import mock

from vxmlib.backend import tf, vxm
from vxmlib.checks import check_choice
from vxmlib.networks import PRECISIONS

#: Layers of voxelmorph that compute positions in a volume. They stay in float32, because bfloat16
#: has only two to three digits.
_OF_POSITIONS = ("SpatialTransformer", "VecInt", "RescaleTransform")


@contextlib.contextmanager
def layers_in(precision):
    """Set the precision of all layers that are created inside a ``with`` block.

    On CPUs with bfloat16 instructions (AVX512-BF16, AMX) and on GPUs, a training step of a network
    with many filters takes about half the time. On CPUs without these instructions, it takes
    longer.

    Parameters
    ----------
    precision : {"float32", "mixed_bfloat16"}
        With "mixed_bfloat16", voxelmorph's layers that warp, integrate and rescale stay in float32,
        and so does the convolution that outputs the field (its name ends in "flow").

    Raises
    ------
    ValueError
        ``precision`` is neither of these.

    Examples
    --------
    >>> with layers_in("mixed_bfloat16"):
    ...     model = vxm.networks.VxmDense((32, 32), int_steps=0)
    >>> model.get_layer("vxm_dense_flow").compute_dtype
    'float32'
    >>> model.get_layer("vxm_dense_unet_enc_conv_0_0").compute_dtype
    'bfloat16'
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        yield
        return
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        with contextlib.ExitStack() as stack:
            for name in _OF_POSITIONS:
                layer = functools.partial(getattr(vxm.layers, name), dtype="float32")
                stack.enter_context(mock.patch.object(vxm.layers, name, layer))
            for name in ("Conv2D", "Conv3D"):
                layer = functools.partial(_convolution, getattr(tf.keras.layers, name))
                stack.enter_context(mock.patch.object(tf.keras.layers, name, layer))
            yield
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)


def _convolution(layer, *args, name=None, **options):
    """Create a convolution, in float32 if its output is the field."""
    if name and name.endswith("flow"):
        options["dtype"] = "float32"
    return layer(*args, name=name, **options)
