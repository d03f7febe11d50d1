"""Build and use HyperMorph, one network for all values of λ.

The network takes a number h from 0 to 1 as its third input, which stands for λ. The loss of a pair
is ``(1 - h) * image_loss + h * middle * Grad``, where h is drawn anew for each pair. The minimum
depends only on the ratio of the two weights, because a common factor only rescales the gradient.
At a given h, the network is therefore trained for the same minimum as a plain model
(:func:`vxmlib.models.build`) with ``λ = middle * h / (1 - h)``. At h = 0 only the image loss counts
(λ = 0), at h = 1/2 λ is ``middle``, and at h = 1 only the smoothness counts (λ infinite, field 0).

The range of useful values of λ depends on the scale of the image loss. Half of the draws are below
``middle``, and 82 % are between ``middle`` / 10 and 10 ``middle``, so ``middle`` should be close to
the λ of interest. With NCC it is 1, as in the paper. With MSE it is 0.01; a value of 1 would spend
98 % of the training above λ = 0.02. voxelmorph's script divides MSE by an assumed noise variance
of 0.05², which is equivalent to a ``middle`` of 0.0025.

The network first learns what all values of λ have in common, and their differences last. After
2400 steps on slices at 2 mm, its fields for λ = 0 and λ = 0.1 were still alike and hardly folded,
whereas the field of a plain model with λ = 0.1 folds. Results below ``middle`` / 10 should
therefore be trusted only where plain models agree with them.

References
----------
Hoopes et al., HyperMorph, IPMI 2021 and MELBA 2022; voxelmorph's
``scripts/tf/train_hypermorph.py``.
"""

import functools
import math

from vxmlib import models
from vxmlib.backend import ne, tf, vxm
from vxmlib.checks import check_number, check_whole
from vxmlib.losses import image_loss as image_loss_by_name

#: Image loss -> λ at h = 1/2, which is the λ of the VoxelMorph paper.
MIDDLE = {"ncc": 1.0, "mse": 0.01}


class HyperVxmDense(vxm.networks.HyperVxmDense):
    """voxelmorph's network of the same name, which here draws h for its training pairs itself.

    ``fit`` can therefore use the batches of :mod:`vxmlib.pairs` unchanged. A draw depends only on
    a seed and the step of the optimiser, so :func:`vxmlib.training.fit` can train the network,
    stop at NaN and resume, as with any other model. Validation uses h = 1/2. The losses in the
    history are weighted: ``image_loss`` includes the factor 1 - h, and ``smoothness_loss`` the
    factor h. :class:`vxmlib.training.RegistrationMonitor` cannot monitor this network, because it
    does not pass a λ.

    Inputs are ``[moving, fixed, h]``, with h of shape ``(batch, 1)``. :func:`build` creates the
    model.
    """

    def train_step(self, data):
        """Draw h for each pair, then make the training step of Keras."""
        images, targets, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        h = draw(
            tf.shape(images[0])[0],
            seed=self.metadata["seed"],
            step=self.optimizer.iterations,
            oversample=self.metadata["oversample"],
        )
        return super().train_step(((*images, h), targets))

    def test_step(self, data):
        """Evaluate at h = 1/2."""
        images, targets, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        h = tf.fill((tf.shape(images[0])[0], 1), 0.5)
        return super().test_step(((*images, h), targets))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        """Weight the image loss of each pair by 1 - h, and its smoothness loss by h."""
        h = x[2][:, 0]
        return super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=(1 - h, h))


def build(
    shape,
    *,
    image_loss="ncc",
    middle=None,
    learning_rate=1e-4,
    int_steps=0,
    int_resolution=2,
    features="vxm2",
    clipnorm=None,
    hyper_layers=6,
    hyper_units=128,
    oversample=0.0,
    seed=0,
):
    """Build a HyperVxmDense and compile it for :func:`vxmlib.training.fit`.

    The U-Net is that of :func:`vxmlib.models.build`, but a second network of dense layers computes
    the weights of its convolutions from h. (Only the last convolution, which makes the field, has
    ordinary weights.) The second network is far larger than the U-Net: with voxelmorph's 6 layers
    of 128 units, the 0.1 million weights of "vxm2" in 2D become 14 million, and a checkpoint takes
    170 MB. The number of weights grows with ``hyper_units``: 4 layers of 32 units have 3.6 million,
    and training steps are twice as fast on a CPU.

    Parameters
    ----------
    shape, image_loss, learning_rate, int_steps, int_resolution, features, clipnorm
        As for :func:`vxmlib.models.build`.
    middle : float, optional
        λ at h = 1/2, above 0. Default is the value for the image loss in :data:`MIDDLE`; see the
        docstring of this module.
    hyper_layers, hyper_units : int
        Number of dense layers, and of units in each of them; at least 1.
    oversample : float
        Share of the pairs whose h is set to 0 or 1, from 0 to 1; see :func:`draw`.
    seed : int
        Seed of the draws of h, at least 0.

    Returns
    -------
    HyperVxmDense
        Compiled. The outputs are named "image" and "smoothness", as those of
        :func:`vxmlib.models.build`.

    Raises
    ------
    ValueError
        A parameter is out of range. The message states its name, its value and what is allowed.

    Examples
    --------
    >>> model = build((32, 32), features="small", hyper_layers=1, hyper_units=4)
    >>> [tuple(each.shape) for each in model.inputs]
    [(None, 32, 32, 1), (None, 32, 32, 1), (None, 1)]
    """
    image_loss_by_name(image_loss)
    middle = MIDDLE[image_loss] if middle is None else middle
    middle = check_number("middle", middle, above=0)
    oversample = check_number("oversample", oversample, least=0, most=1)
    seed = check_whole("seed", seed)
    network = functools.partial(
        HyperVxmDense,
        nb_hyp_layers=check_whole("hyper_layers", hyper_layers, least=1),
        nb_hyp_units=check_whole("hyper_units", hyper_units, least=1),
    )
    model = models.build(
        shape,
        image_loss=image_loss,
        lam=middle,
        learning_rate=learning_rate,
        int_steps=int_steps,
        int_resolution=int_resolution,
        features=features,
        clipnorm=clipnorm,
        network=network,
    )
    _start_as_plain(model)
    # voxelmorph stores this in the model file, and training.fit in the settings of the run.
    model.metadata.update(middle=middle, oversample=oversample, seed=seed)
    return model


def _start_as_plain(model):
    """Initialise the kernels like those of a plain model; they are almost the same for all h."""
    # A kernel is a product with the output of the last dense layer, plus a bias. neurite draws this
    # bias with an eighth of the standard deviation of a plain model's kernels, and the product is
    # smaller still. Each convolution would then weaken its input, and learning would begin late.
    for layer in model.layers:
        if isinstance(layer, ne.layers.HyperConvFromDense):
            _, bias, _, kernel_shape = layer.hyperkernel
            bias.assign(tf.reshape(tf.keras.initializers.HeNormal()(kernel_shape), bias.shape))


def draw(count, *, seed, step, oversample=0.0):
    """Draw h for the pairs of one step, as a pure function of ``seed`` and ``step``.

    The draws are uniform on [0, 1], as in the paper. Few of them are then close to 0 and 1, where
    the network changes fast with h; voxelmorph's script replaces 40 % of them by 0 or 1, half each.

    Parameters
    ----------
    count : int
        Number of pairs.
    seed : int
        Seed of the draws.
    step : int
        Step of the optimiser.
    oversample : float
        Share of the draws, from 0 to 1, that are replaced by 0 or 1.

    Returns
    -------
    tensor, (count, 1), float32
        One h for each pair.

    Examples
    --------
    >>> bool(tf.reduce_all(draw(3, seed=0, step=5) == draw(3, seed=0, step=5)))
    True
    """
    seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    h, chance = tf.unstack(tf.random.stateless_uniform((2, count, 1), seeds))
    return tf.where(chance < oversample, tf.round(h), h)


def h_of(lam, middle=1.0):
    """Convert λ to h, which is λ / (λ + middle).

    Parameters
    ----------
    lam : float
        λ, at least 0; ``math.inf`` if only the smoothness counts.
    middle : float
        λ at h = 1/2, above 0.

    Returns
    -------
    float
        h, from 0 to 1.

    Raises
    ------
    ValueError
        ``lam`` is negative, NaN or not a number.

    Examples
    --------
    >>> h_of(1.0), h_of(0.01, middle=0.01), h_of(math.inf)
    (0.5, 0.5, 1.0)
    """
    if lam == math.inf:
        return 1.0
    lam = check_number("lam", lam, least=0)
    return lam / (lam + middle)


def lam_of(h, middle=1.0):
    """Convert h to λ, which is middle · h / (1 - h).

    Parameters
    ----------
    h : float
        From 0 to 1.
    middle : float
        λ at h = 1/2, above 0.

    Returns
    -------
    float
        λ, at least 0; ``math.inf`` for h = 1.

    Raises
    ------
    ValueError
        ``h`` is outside [0, 1], NaN or not a number.

    Examples
    --------
    >>> lam_of(0.75), lam_of(0.5, middle=0.01), lam_of(1)
    (3.0, 0.01, inf)
    """
    h = check_number("h", h, least=0, most=1)
    return math.inf if h == 1 else middle * h / (1 - h)


def register(model, moving, fixed, lam):
    """Predict the displacement that registers ``moving`` to ``fixed`` for a value of λ.

    Parameters
    ----------
    model : HyperVxmDense
        As returned by :func:`build` or :func:`load`.
    moving, fixed : ndarray, (*vol)
        Finite intensities in [0, 1], on the grid of the model.
    lam : float
        λ, with the same meaning as in :func:`vxmlib.models.build`, at least 0; ``math.inf`` for
        h = 1.

    Returns
    -------
    ndarray, (*vol, nd), float32
        Displacement at full resolution, in voxels, on the fixed grid, as that of
        :func:`vxmlib.models.register`.

    Raises
    ------
    ValueError
        The model is a plain one; ``lam`` is negative, NaN or not a number; or an image is on
        another grid, not finite, constant, or outside [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> model = build((32, 32), features="small", hyper_layers=1, hyper_units=4)
    >>> image = np.linspace(0, 1, 1024, dtype="float32").reshape(32, 32)
    >>> register(model, image, image, lam=0.5).shape
    (32, 32, 2)
    """
    if "middle" not in model.metadata:
        raise ValueError(
            "model: found one that does not know which λ its h stands for, expected one of "
            "vxmlib.networks.hyper.build; register with a plain VxmDense by vxmlib.models.register"
        )
    return models.register(model, moving, fixed, [h_of(lam, model.metadata["middle"])])


def load(path):
    """Read a model that :func:`vxmlib.models.save` or :func:`vxmlib.training.fit` has written.

    Parameters
    ----------
    path : path
        File of the model.

    Returns
    -------
    HyperVxmDense
        The model with its weights, not compiled; :func:`register` can use it.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    vxmlib.models.ModelFileError
        The file is incomplete, corrupt, or holds something other than a HyperVxmDense.
    """
    return models.load(path, network=HyperVxmDense)
