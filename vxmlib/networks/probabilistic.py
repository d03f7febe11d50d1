"""Build the probabilistic network, which predicts a normal distribution of velocities.

For each voxel and axis, the network predicts the mean and the log of the variance of a velocity
(in this module, "variance" and "SD" refer to this distribution, not to errors). It draws a velocity
from this distribution, integrates it, and warps the moving image. The loss is
``MSE / image_sigma**2 + KL``, where KL compares the predicted distribution with a prior that
favours smooth velocities. As in voxelmorph's script, both terms have the weight 1.

voxelmorph 0.2 provides the network (``VxmDense(..., use_probs=True)``) and the loss
(``vxm.losses.KL``), but two details have to be changed before they can be used:

* ``vxm.losses.KL`` computes the number of neighbours of each voxel in its first call and keeps it.
  Within ``fit``, this number becomes a tensor of one traced function and cannot be used in another,
  so ``fit`` stops with a TypeError. :func:`kl_loss` makes the first call outside of ``fit``.
* ``references.pos_flow``, and so also ``register``, returns a random sample. After
  :func:`register_by_mean`, it returns the displacement of the mean velocity.

The noise of the samples comes from TensorFlow's global generator, which a checkpoint does not
contain. An interrupted and resumed training therefore draws other noise than an uninterrupted one.

References
----------
Dalca et al., MICCAI 2018 (doi:10.1007/978-3-030-00928-1_82) and Medical Image Analysis 2019
(doi:10.1016/j.media.2019.07.006); voxelmorph 0.2 ``tf/losses.py`` and ``scripts/tf/train.py``.
"""

from vxmlib import checks
from vxmlib.backend import tf, vxm
from vxmlib.models import FEATURES


def build(
    shape,
    *,
    prior_lambda=10.0,
    image_sigma=0.02,
    learning_rate=1e-4,
    int_steps=7,
    features="vxm2",
):
    """Build a probabilistic VxmDense and compile it for :func:`vxmlib.training.fit`.

    Parameters
    ----------
    shape : tuple of int
        Grid of the images, 2D or 3D, each size divisible by 16.
    prior_lambda : float
        Precision of the prior: how strongly it favours smooth velocities, above 0. The help of
        voxelmorph's script recommends 10, its README 25.
    image_sigma : float
        Assumed SD of the noise of the images, whose intensities are in [0, 1]; above 0. The help of
        voxelmorph's script recommends 0.02 (with a ``prior_lambda`` of 10), its README 0.01
        (with 25).
    learning_rate : float
        Learning rate of Adam, above 0.
    int_steps : int
        Steps of scaling and squaring, 1 to 12, on a grid of half the resolution.
    features : str
        Name of the U-Net, a key of :data:`vxmlib.models.FEATURES`.

    Returns
    -------
    vxm.networks.VxmDense
        Compiled. The outputs are the moving image, warped by a sample, and the predicted
        distribution ``(batch, *vol, 2 * nd)``: the means of the velocity in voxels, then the logs
        of its variances. They are named "image" and "smoothness", as those of
        :func:`vxmlib.models.build`. :func:`vxmlib.models.register` returns the displacement of the
        mean velocity.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it, its value and the values expected.

    Examples
    --------
    >>> model = build((32, 32), features="small")
    >>> [tuple(each.shape) for each in model.outputs]
    [(None, 32, 32, 1), (None, 32, 32, 4)]
    """
    shape = checks.check_shape(shape)
    image_sigma = checks.check_number("image_sigma", image_sigma, above=0)
    learning_rate = checks.check_number("learning_rate", learning_rate, above=0)
    checks.check_choice("int_steps", int_steps, range(1, 13))
    checks.check_choice("features", features, FEATURES)
    kl = kl_loss(shape, prior_lambda)
    model = vxm.networks.VxmDense(
        shape,
        nb_unet_features=[list(part) for part in FEATURES[features]],
        int_steps=int(int_steps),
        use_probs=True,
    )
    model.output_names = ["image", "smoothness"]
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate),
        loss=[vxm.losses.MSE(image_sigma).loss, kl],
    )
    return register_by_mean(model)


def kl_loss(shape, prior_lambda):
    """Return the loss of ``vxm.losses.KL``, ready for ``fit``.

    Parameters
    ----------
    shape : tuple of int
        Grid of the predicted distribution, which is that of the images.
    prior_lambda : float
        Precision of the prior, above 0.

    Returns
    -------
    callable
        ``loss(y_true, y_pred)``, which ignores ``y_true`` and returns the mean over the batch.

    Raises
    ------
    ValueError
        If ``prior_lambda`` is not a number above 0.

    Examples
    --------
    A constant mean and a variance of 1 leave only the number of neighbours: 3 for the mean voxel
    of this grid.

    >>> float(kl_loss((4, 4), 1.0)(None, tf.zeros((1, 4, 4, 4))))
    3.0
    """
    kl = vxm.losses.KL(checks.check_number("prior_lambda", prior_lambda, above=0), shape)
    kl.loss(None, tf.zeros((1, *shape, 2 * len(shape))))  # computes the numbers of neighbours
    return kl.loss


def register_by_mean(model):
    """Let a probabilistic model register with the mean velocity instead of a random sample.

    Training is not affected. Call this function for a model that was read from a file.

    Parameters
    ----------
    model : vxm.networks.VxmDense
        Model with ``use_probs=True`` and integration at half the resolution, the default.

    Returns
    -------
    vxm.networks.VxmDense
        The same model. Its ``references.pos_flow``, from which ``model.register`` and
        :func:`vxmlib.models.register` return, is now the displacement of the mean velocity.
        ``references.sampled_flow`` is the displacement of the sample.

    Raises
    ------
    ValueError
        If the model is not probabilistic, or does not integrate at half the resolution.
    """
    options = model.get_config()
    expected = {"use_probs": True, "svf_resolution": 1, "int_resolution": 2}
    for name, value in expected.items():
        if options[name] != value:
            raise ValueError(f"model: found {name}={options[name]}, expected {value}")
    flow = model.get_layer(f"{model.name}_flow").output
    flow = vxm.layers.RescaleTransform(0.5)(flow)
    flow = vxm.layers.VecInt(method="ss", int_steps=options["int_steps"])(flow)
    model.references.sampled_flow = model.references.pos_flow
    model.references.pos_flow = vxm.layers.RescaleTransform(2)(flow)
    vars(model.references).pop("displacement_function", None)  # of models.register, for a sample
    return model
