"""HyperMorph: one network for all values of λ, which it takes as a third input.

The loss of a pair is ``(1 - h) * image_loss + h * middle * Grad`` with h from 0 to 1, drawn anew
for each pair. What a minimum looks like depends on the ratio of the two weights alone, and a
common factor only rescales the gradient, so h asks for what a plain model
(:func:`vxmlib.models.build`) learns at ``λ = middle * h / (1 - h)``: nothing but the images at
h = 0, λ = ``middle`` at 1/2, nothing but smoothness (λ infinite, field 0) at h = 1.

Where the useful values of λ lie depends on the scale of the image loss. Half of the values drawn
are below ``middle``, and 82 % within ``middle`` / 10 to 10 ``middle``: so it has to be near the
λ looked for. That is 1 with NCC, as in the paper. With MSE it is 0.01; 1 would spend 98 % of the
training above λ = 0.02. voxelmorph's script divides MSE by an assumed noise variance of 0.05²,
which is the same as a ``middle`` of 0.0025.

What all λ have in common is learnt first, their differences last. After 2400 steps on slices at
2 mm the fields of λ = 0 and 0.1 were still alike and hardly folded, where a plain model of
λ = 0.1 does: trust the curve below ``middle`` / 10 only when plain models agree.

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

#: λ at h = 1/2 by image loss: the VoxelMorph paper's λ.
MIDDLE = {"ncc": 1.0, "mse": 0.01}


class HyperVxmDense(vxm.networks.HyperVxmDense):
    """voxelmorph's network of that name, which draws h for its training pairs itself.

    So ``fit`` takes the batches of :mod:`vxmlib.pairs` as they are, and since a draw depends on
    nothing but a seed and the optimiser's step, :func:`vxmlib.training.fit` trains it, stops on
    NaN and resumes it as it does any model. Validation takes h = 1/2. The losses in the history
    are weighted ones: ``image_loss`` has its 1 - h in it, ``smoothness_loss`` its h. (It is no
    model for :class:`vxmlib.training.RegistrationMonitor`, which knows of no λ.)

    Inputs are ``[moving, fixed, h]``, h of shape ``(batch, 1)``. Made by :func:`build`.
    """

    def train_step(self, data):
        """Draw h, then train as Keras does."""
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
        """Weigh the two losses of each pair by its own h."""
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
    """Build a HyperVxmDense and compile it; train it with :func:`vxmlib.training.fit`.

    Its U-Net is that of :func:`vxmlib.models.build`, but a network of dense layers computes the
    weights of all its convolutions from h (only the last one, which makes the field, keeps its
    own). That network is far larger than the U-Net: with voxelmorph's 6 layers of 128 units the
    0.1 million weights of "vxm2" in 2D become 14 million, and a checkpoint 170 MB. Their number
    goes with ``hyper_units``: 4 layers of 32 units make 3.6 million, and steps twice as fast on a
    processor.

    Parameters
    ----------
    shape, image_loss, learning_rate, int_steps, int_resolution, features, clipnorm
        See :func:`vxmlib.models.build`.
    middle : float, optional
        λ that h = 1/2 stands for, above 0. Default is that of :data:`MIDDLE`; see the module's
        head.
    hyper_layers, hyper_units : int
        Dense layers that h goes through, and units in each.
    oversample : float
        Share of the pairs whose h is 0 or 1, see :func:`draw`.
    seed : int
        Of the draws of h, at least 0.

    Returns
    -------
    HyperVxmDense
        Compiled. Outputs are named "image" and "smoothness", as those of
        :func:`vxmlib.models.build`.

    Raises
    ------
    ValueError
        Naming the parameter, what was found and what would do.

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
    # voxelmorph keeps this in the model's file, and training.fit in a run's settings.
    model.metadata.update(middle=middle, oversample=oversample, seed=seed)
    return model


def _start_as_plain(model):
    """Give the convolutions the first weights of a plain model, almost the same for all h.

    A kernel is a product with the last dense layer plus a bias. neurite draws that bias with an
    eighth of the spread that a plain model's kernels have (and the product is smaller still), so
    that each convolution fades its input and training takes long to begin.
    """
    for layer in model.layers:
        if isinstance(layer, ne.layers.HyperConvFromDense):
            _, bias, _, kernel_shape = layer.hyperkernel
            bias.assign(tf.reshape(tf.keras.initializers.HeNormal()(kernel_shape), bias.shape))


def draw(count, *, seed, step, oversample=0.0):
    """Draw h for the pairs of one step: a pure function of ``seed`` and ``step``.

    Uniform on [0, 1], as in the paper. Most draws then are far from the end points, where the
    network changes fast; voxelmorph's script replaces 40 % of them by 0 or 1, half each.

    Parameters
    ----------
    count, seed, step : int
    oversample : float
        Share of the draws, 0 to 1, that become 0 or 1.

    Returns
    -------
    tensor, (count, 1), float32

    Examples
    --------
    >>> bool(tf.reduce_all(draw(3, seed=0, step=5) == draw(3, seed=0, step=5)))
    True
    """
    seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    h, chance = tf.unstack(tf.random.stateless_uniform((2, count, 1), seeds))
    return tf.where(chance < oversample, tf.round(h), h)


def h_of(lam, middle=1.0):
    """Give the h that stands for λ: λ / (λ + middle).

    Parameters
    ----------
    lam : float
        λ, at least 0; ``math.inf`` for smoothness alone.
    middle : float
        λ at h = 1/2.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If ``lam`` is negative, NaN or no number.

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
    """Give the λ that h stands for: middle · h / (1 - h).

    Parameters
    ----------
    h : float
        From 0 to 1.
    middle : float
        λ at h = 1/2.

    Returns
    -------
    float
        At least 0; ``math.inf`` for h = 1.

    Raises
    ------
    ValueError
        If ``h`` is outside [0, 1], NaN or no number.

    Examples
    --------
    >>> lam_of(0.75), lam_of(0.5, middle=0.01), lam_of(1)
    (3.0, 0.01, inf)
    """
    h = check_number("h", h, least=0, most=1)
    return math.inf if h == 1 else middle * h / (1 - h)


def register(model, moving, fixed, lam):
    """Predict the displacement that carries ``moving`` onto ``fixed``, as a model of that λ would.

    Parameters
    ----------
    model : HyperVxmDense
        Built by :func:`build` or loaded by :func:`load`; its image grid is ``vol``.
    moving, fixed : ndarray, (*vol)
        Finite intensities in [0, 1].
    lam : float
        λ as :func:`vxmlib.models.build` takes it, at least 0; ``math.inf`` for h = 1.

    Returns
    -------
    ndarray, (*vol, nd), float32
        As :func:`vxmlib.models.register`: full resolution, in voxels, on the fixed grid.

    Raises
    ------
    ValueError
        If the model is a plain one, ``lam`` is negative, NaN or no number, or an image does not
        fit.

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
            "model does not know which λ its h stands for: take one of "
            "vxmlib.networks.hyper.build, or vxmlib.models.register for a plain VxmDense"
        )
    return models.register(model, moving, fixed, [h_of(lam, model.metadata["middle"])])


def load(path):
    """Read a model written by :func:`vxmlib.models.save` or :func:`vxmlib.training.fit`.

    Parameters
    ----------
    path : path

    Returns
    -------
    HyperVxmDense
        With its weights, not compiled: ready to :func:`register`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    vxmlib.models.ModelFileError
        If the file is cut off, corrupt, or holds something else than a HyperVxmDense.
    """
    return models.load(path, network=HyperVxmDense)
