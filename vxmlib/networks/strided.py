"""The network of the authors' papers, with strided convolutions; it is faster than VxmDense.

On a processor most of VxmDense's time goes into its many-featured convolutions at full size. The
papers' own networks stride from the first convolution on and have few features at full size: the
displacement's (2018 and 2019) is that of :mod:`vxmlib.networks.cvpr2018`; the velocity's
(MICCAI 2018) stays at half the size altogether.
"""

from vxmlib.backend import ne, tf, vxm
from vxmlib.checks import check_choice

#: Decoder features up to half the size; further ones are at full size.
HALF = 5


class StridedVxmDense(ne.modelio.LoadableModel):
    """Registration network with the interface of ``vxm.networks.VxmDense``.

    Give it to :func:`vxmlib.models.build` as ``network`` and to :func:`vxmlib.models.load`; it is
    trained, saved and asked for its displacement as any other.

    Parameters
    ----------
    inshape : tuple of int
        Grid of the images, each size divisible by 16.
    nb_unet_features : two lists of int
        Filters of the four encoder levels (1/2 to 1/16 of the size), and of the decoder: one at
        1/16, 1/8, 1/4 and 1/2 each, one more at 1/2, and further ones at full size (of a
        velocity: at 1/2).
    int_steps : int
        0: the field is the displacement, at full size. Above: it is a velocity at half the size,
        integrated there by so many steps of scaling and squaring.
    int_resolution : int
        2, the size at which a velocity comes; no other is built.
    bidir : bool
        Also warp the fixed image back by the integrated negative velocity.

    Outputs: the warped moving image, (the fixed image warped back,) and the field that is
    smoothed: the displacement at full size, or the velocity at half. Under a mixed precision
    policy only the convolutions compute in half precision: a position in a volume needs more
    digits than that has.

    References
    ----------
    Balakrishnan et al., CVPR 2018 and IEEE TMI 2019 (displacement); Dalca et al., MICCAI 2018
    (velocity, here without its sampling); branch ``legacy`` of voxelmorph, ``unet_core`` with
    ``full_size`` true and false.
    """

    def __init__(self, inshape, nb_unet_features, int_steps=0, int_resolution=2, bidir=False):
        check_choice("int_resolution", int_resolution, (2,))
        if bidir and not int_steps:
            raise ValueError("bidir: a displacement has no inverse to warp back by; set int_steps")
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
        # Where VxmDense keeps it: vxmlib.models.register looks there.
        self.references = ne.modelio.ReferenceContainer()
        self.references.pos_flow = forward
        # What its file is read by. (neurite's decorator for this needs a function that Python 3.11
        # has dropped.)
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
    """Strided encoder and decoder up to half the size, as all the authors' 2018 networks have.

    Parameters
    ----------
    inputs : list of two Keras tensors
        (batch, *vol, 1), 2D or 3D.
    encoder : four ints
        Filters at 1/2, 1/4, 1/8 and 1/16 of the size.
    decoder : ints
        Filters at 1/16, 1/8, 1/4 and 1/2, further ones at 1/2.

    Returns
    -------
    Keras tensor
        (batch, *vol / 2, filters of the last).
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
    """Double the size, join the images themselves, and convolve once for each of ``filters``."""
    layers = tf.keras.layers
    doubled = getattr(layers, f"UpSampling{len(x.shape) - 2}D")
    x = layers.concatenate([doubled()(x), *inputs])
    for count in filters:
        x = convolve(x, count)
    return x


def convolve(x, filters, strides=1):
    """A convolution of width 3 with the papers' activation, LeakyReLU of slope 0.2."""
    layers = tf.keras.layers
    convolution = getattr(layers, f"Conv{len(x.shape) - 2}D")
    x = convolution(filters, 3, strides=strides, padding="same", kernel_initializer="he_normal")(x)
    return layers.LeakyReLU(0.2)(x)


def _field(x, ndims):
    """The field, nearly zero before training."""
    convolution = getattr(tf.keras.layers, f"Conv{ndims}D")
    start = tf.keras.initializers.RandomNormal(mean=0.0, stddev=1e-5)
    return convolution(
        ndims, 3, padding="same", kernel_initializer=start, name="flow", dtype="float32"
    )(x)
