"""Build the strided network of the VoxelMorph papers, which is faster than VxmDense.

On a CPU, VxmDense spends most of its time in convolutions with many features at full resolution.
The networks of the papers use a stride from the first convolution on, and have few features at
full resolution. The network that predicts a displacement (2018 and 2019) is that of
:mod:`vxmlib.networks.cvpr2018`; the one that predicts a velocity (MICCAI 2018) stays at half
resolution throughout.
"""

from vxmlib.backend import ne, tf, vxm
from vxmlib.checks import check_choice

#: For a displacement: number of decoder convolutions up to half resolution; the others are at full
#: resolution.
HALF = 5


class StridedVxmDense(ne.modelio.LoadableModel):
    """Registration network with the interface of ``vxm.networks.VxmDense``.

    Pass this class as ``network`` to :func:`vxmlib.models.build` and :func:`vxmlib.models.load`.
    The model is trained, saved and used for registration like any other.

    Parameters
    ----------
    inshape : tuple of int
        Grid of the images, 2D or 3D, each size divisible by 16.
    nb_unet_features : two lists of int
        Filters of the convolutions. The encoder has one each at 1/2, 1/4, 1/8 and 1/16 of the full
        resolution. The decoder has one each at 1/16, 1/8, 1/4 and 1/2, one more at 1/2, and the
        others at full resolution (for a velocity: at 1/2).
    int_steps : int
        0: the field is the displacement, at full resolution. Above 0: it is a velocity at half
        resolution, which is integrated there by this many steps of scaling and squaring.
    int_resolution : int
        Voxel size of the velocity grid, in voxels of the images. Only 2 is supported.
    bidir : bool
        Also warp the fixed image back, by the integrated negative velocity. This needs
        ``int_steps`` above 0.

    Raises
    ------
    ValueError
        ``int_resolution`` is not 2, or ``bidir`` is true with ``int_steps`` 0.

    Notes
    -----
    The outputs are the warped moving image, with ``bidir`` also the warped fixed image, and the
    field that is smoothed: the displacement at full resolution, or the velocity at half resolution.
    Under a mixed-precision policy, the field, its integration and the warp stay in float32, because
    a position in a volume needs more digits than half precision has.

    References
    ----------
    Balakrishnan et al., CVPR 2018 and IEEE TMI 2019 (displacement); Dalca et al., MICCAI 2018
    (velocity, here without its sampling); branch ``legacy`` of voxelmorph, ``unet_core`` with
    ``full_size`` true and false.
    """

    def __init__(self, inshape, nb_unet_features, int_steps=0, int_resolution=2, bidir=False):
        check_choice("int_resolution", int_resolution, (2,))
        if bidir and not int_steps:
            raise ValueError(
                "bidir: a displacement has no inverse by which the fixed image could be warped "
                "back; set int_steps above 0"
            )
        ndims = len(inshape)
        inputs = [tf.keras.Input((*inshape, 1), name=name) for name in ("source", "target")]
        encoder, decoder = nb_unet_features
        if int_steps:
            x = half_size_features(inputs, encoder, decoder)
        else:
            x = half_size_features(inputs, encoder, decoder[:HALF])
            x = full_size_features(x, inputs, decoder[HALF:])
        field = _field(x, ndims)

        def integrated(velocity):
            flow = vxm.layers.VecInt(method="ss", int_steps=int_steps, dtype="float32")(velocity)
            return vxm.layers.RescaleTransform(2, dtype="float32")(flow)

        forward = integrated(field) if int_steps else field
        warp = vxm.layers.SpatialTransformer(interp_method="linear", indexing="ij", dtype="float32")
        outputs = [warp([inputs[0], forward])]
        if bidir:
            outputs.append(warp([inputs[1], integrated(ne.layers.Negate(dtype="float32")(field))]))
        outputs.append(field)
        super().__init__(name="strided_vxm_dense", inputs=inputs, outputs=outputs)
        # VxmDense stores its displacement here, and vxmlib.models.register reads it from here.
        self.references = ne.modelio.ReferenceContainer()
        self.references.pos_flow = forward
        # The model file stores these arguments, from which it is loaded. (neurite's decorator for
        # this purpose needs a function that was removed in Python 3.11.)
        self.config = ne.modelio.ModelConfig(
            {
                "inshape": tuple(inshape),
                "nb_unet_features": nb_unet_features,
                "int_steps": int_steps,
                "int_resolution": int_resolution,
                "bidir": bidir,
            }
        )


def half_size_features(inputs, encoder, decoder):
    """Build the strided encoder and the decoder up to half resolution of the 2018 networks.

    Parameters
    ----------
    inputs : list of two Keras tensors
        Moving and fixed image, each ``(batch, *vol, 1)``, 2D or 3D.
    encoder : sequence of 4 ints
        Filters at 1/2, 1/4, 1/8 and 1/16 of the full resolution.
    decoder : sequence of int
        Filters at 1/16, 1/8, 1/4 and 1/2 of the full resolution; any others are at 1/2, too.

    Returns
    -------
    Keras tensor
        ``(batch, *vol / 2, n)``, where n is the last number of filters.
    """
    layers = tf.keras.layers
    doubled = getattr(layers, f"UpSampling{len(inputs[0].shape) - 2}D")
    levels = [layers.concatenate(inputs)]
    for filters in encoder:
        levels.append(convolve(levels[-1], filters, strides=2))
    deepest, *decoder = decoder
    x = convolve(levels[-1], deepest)
    coming_up = levels[-2:0:-1]  # 1/8, 1/4, 1/2 of the size
    for level, filters in zip(coming_up, decoder, strict=False):
        x = convolve(layers.concatenate([doubled()(x), level]), filters)
    for filters in decoder[len(coming_up) :]:
        x = convolve(x, filters)
    return x


def full_size_features(x, inputs, filters):
    """Upsample to full resolution, append the images, and convolve once for each of ``filters``."""
    layers = tf.keras.layers
    doubled = getattr(layers, f"UpSampling{len(x.shape) - 2}D")
    x = layers.concatenate([doubled()(x), *inputs])
    for count in filters:
        x = convolve(x, count)
    return x


def convolve(x, filters, strides=1):
    """Apply a convolution of width 3 and the activation of the papers, LeakyReLU of slope 0.2."""
    layers = tf.keras.layers
    convolution = getattr(layers, f"Conv{len(x.shape) - 2}D")
    x = convolution(filters, 3, strides=strides, padding="same", kernel_initializer="he_normal")(x)
    return layers.LeakyReLU(0.2)(x)


def _field(x, ndims):
    """Apply the convolution that outputs the field, which is nearly zero before training."""
    convolution = getattr(tf.keras.layers, f"Conv{ndims}D")
    start = tf.keras.initializers.RandomNormal(mean=0.0, stddev=1e-5)
    return convolution(
        ndims, 3, padding="same", kernel_initializer=start, name="flow", dtype="float32"
    )(x)
