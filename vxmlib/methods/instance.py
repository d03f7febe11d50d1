"""Instance optimisation: minimise the training loss for one pair, from a given displacement."""

import math
import time

import numpy as np
import pandas as pd

from vxmlib.backend import tf, vxm
from vxmlib.checks import (
    check_displacement,
    check_image_on_grid,
    check_number,
    check_shape,
    check_whole,
)
from vxmlib.losses import image_loss as image_loss_by_name

_MEND = "try a smaller learning_rate, or look for a displacement that leaves the image"


class NotFinite(ValueError):
    """The loss became NaN or infinite; the displacement up to then is not returned."""


class InstanceOptimiser:
    """Refines displacements on one grid; compiled once, used for many pairs.

    The displacement is ``start + up(delta)``: ``delta`` lies on a grid half as fine, so that a
    step stays small and smooth, and ``up`` repeats its voxels and averages over neighbours. Adam
    changes ``delta``, from 0.

    Parameters
    ----------
    shape : tuple of int
        Grid of the images, 2D or 3D, each size divisible by 16, as the networks have it.
    image_loss : str
        "ncc" or "mse", as in training.
    lam : float
        λ, the weight of Grad of the whole displacement, at least 0.
    learning_rate : float
        Of Adam, in voxels a step, above 0.

    Raises
    ------
    ValueError
        Naming the parameter, what was found and what would do.

    References
    ----------
    Balakrishnan et al., IEEE TMI 2019, section on instance-specific optimisation. There the
    network's displacement is optimised at full size.

    Examples
    --------
    >>> import numpy as np
    >>> optimise = InstanceOptimiser((16, 16), image_loss="mse", lam=0.01)
    >>> x = np.linspace(-1, 1, 16, dtype="float32")
    >>> fixed = np.exp(-4 * (x[:, None] ** 2 + x**2))
    >>> moving = np.roll(fixed, 1, axis=0)
    >>> field, history = optimise(np.zeros((16, 16, 2)), moving, fixed, steps=20)
    >>> bool(history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0])
    True
    """

    def __init__(self, shape, *, image_loss="ncc", lam=1.0, learning_rate=0.1):
        self.shape = check_shape(shape)
        self.lam = check_number("lam", lam, least=0)
        learning_rate = check_number("learning_rate", learning_rate, above=0)
        self._similarity = image_loss_by_name(image_loss)
        self._smoothness = vxm.losses.Grad("l2").loss
        self._warp = vxm.layers.SpatialTransformer(interp_method="linear", indexing="ij")
        coarse = (1, *(size // 2 for size in self.shape), len(self.shape))
        self._delta = tf.Variable(tf.zeros(coarse))
        self._adam = tf.keras.optimizers.Adam(learning_rate)
        self._adam.build([self._delta])
        self._start_values = [(v, v.numpy()) for v in self._adam.variables]
        self._step = tf.function(self._one_step)

    def __call__(self, displacement, moving, fixed, *, steps=40, watch=None):
        """Refine one displacement.

        Parameters
        ----------
        displacement : (*shape, nd) ndarray
            In voxels, on the fixed grid; a network's, or zeros.
        moving, fixed : (*shape) ndarray
            In [0, 1].
        steps : int
            Steps of Adam, at least 1.
        watch : callable, optional
            Called as ``watch(step, displacement)`` before the first step and after each.

        Returns
        -------
        displacement : (*shape, nd) float32 ndarray
        history : pandas.DataFrame
            One row a step, of the loss *before* it: ``step`` (from 0), ``loss``, ``image_loss``,
            ``smoothness_loss`` (without weight), ``seconds`` since the start, ``watch`` excluded.

        Raises
        ------
        ValueError
            An image or displacement that does not fit.
        NotFinite
            The loss, or the displacement at the end, became NaN or infinite.
        """
        images = [
            tf.constant(check_image_on_grid(image, name=name, shape=self.shape)[None, ..., None])
            for name, image in (("moving", moving), ("fixed", fixed))
        ]
        steps = check_whole("steps", steps, least=1)
        start = check_displacement(displacement, shape=self.shape)
        start = tf.constant(start[None], tf.float32)
        self._forget()
        rows, spent = [], 0.0
        for step in range(steps):
            if watch is not None:
                watch(step, self._field(start)[0].numpy())
            began = time.perf_counter()
            image, smooth = (float(term) for term in self._step(start, *images))
            spent += time.perf_counter() - began
            loss = image + self.lam * smooth
            if not math.isfinite(loss):
                raise NotFinite(f"the loss became {loss} at step {step}: {_MEND}")
            rows.append((step, loss, image, smooth, spent))
        refined = self._field(start)[0].numpy()
        if not np.isfinite(refined).all():
            raise NotFinite(f"the displacement after step {steps}: {_MEND}")
        if watch is not None:
            watch(steps, refined)
        columns = ["step", "loss", "image_loss", "smoothness_loss", "seconds"]
        return refined, pd.DataFrame(rows, columns=columns)

    def _forget(self):
        """Nothing of one pair reaches the next."""
        self._delta.assign(tf.zeros_like(self._delta))
        for variable, value in self._start_values:
            variable.assign(value)

    def _field(self, start):
        """The displacement: start and the finer version of delta."""
        fine = self._delta
        for axis in range(1, len(self.shape) + 1):
            fine = tf.repeat(fine, 2, axis=axis)
        return start + tf.nn.avg_pool(fine, ksize=3, strides=1, padding="SAME")

    def _one_step(self, start, moving, fixed):
        with tf.GradientTape() as tape:
            field = self._field(start)
            image = tf.reduce_mean(self._similarity(fixed, self._warp([moving, field])))
            smooth = tf.reduce_mean(self._smoothness(None, field))
            loss = image + self.lam * smooth
        self._adam.apply_gradients([(tape.gradient(loss, self._delta), self._delta)])
        return image, smooth
