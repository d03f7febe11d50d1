"""Refine the displacement of one pair by minimising the training loss (instance optimisation)."""

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
from vxmlib.losses import FoldingPenalty
from vxmlib.losses import image_loss as image_loss_by_name

_MEND = "try a smaller learning_rate, or check whether the displacement points outside the image"


class NotFinite(ValueError):
    """The loss or the displacement became NaN or infinite; no displacement is returned."""


class InstanceOptimiser:
    """Optimiser that refines displacements on one grid; it is compiled once, for many pairs.

    The refined displacement is ``start + up(delta)``. The correction ``delta`` lies on a grid of
    half the resolution, so that each step is small and smooth. ``up`` repeats the voxels of
    ``delta`` and averages over neighbours. Adam optimises ``delta``, which starts from 0.

    Parameters
    ----------
    shape : tuple of int
        Grid of the images, 2D or 3D, each size divisible by 16, as for the networks.
    image_loss : str
        "ncc" or "mse", as in training.
    lam : float
        λ, the weight of the smoothness loss (Grad) of the whole displacement, at least 0.
    learning_rate : float
        Learning rate of Adam, in voxels per step, above 0.
    folding_weight : float
        Weight of :class:`vxmlib.losses.FoldingPenalty` of the whole displacement, at least 0; with
        0 it is not computed.

    Raises
    ------
    ValueError
        A parameter is out of range. The message states its name, its value and what is allowed.

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

    def __init__(self, shape, *, image_loss="ncc", lam=1.0, learning_rate=0.1, folding_weight=0.0):
        self.shape = check_shape(shape)
        self.lam = check_number("lam", lam, least=0)
        self.folding_weight = check_number("folding_weight", folding_weight, least=0)
        learning_rate = check_number("learning_rate", learning_rate, above=0)
        self._similarity = image_loss_by_name(image_loss)
        self._smoothness = vxm.losses.Grad("l2").loss
        self._folding = FoldingPenalty().loss
        self._warp = vxm.layers.SpatialTransformer(interp_method="linear", indexing="ij")
        coarse = (1, *(size // 2 for size in self.shape), len(self.shape))
        self._delta = tf.Variable(tf.zeros(coarse))
        self._adam = tf.keras.optimizers.Adam(learning_rate)
        self._adam.build([self._delta])
        self._start_values = [(v, v.numpy()) for v in self._adam.variables]
        self._step = tf.function(self._one_step)

    def __call__(self, displacement, moving, fixed, *, steps=40, watch=None):
        """Refine the displacement of one pair.

        Parameters
        ----------
        displacement : (*shape, nd) ndarray
            Displacement to start from, in voxels, on the fixed grid, pointing into the moving
            image; that of a network, or zeros.
        moving, fixed : (*shape) ndarray
            Images in [0, 1].
        steps : int
            Number of steps of Adam, at least 1.
        watch : callable, optional
            Called as ``watch(step, displacement)`` before the first step and after each step.

        Returns
        -------
        displacement : (*shape, nd) float32 ndarray
            Refined displacement, in voxels.
        history : pandas.DataFrame
            One row for each step, with the loss *before* it: ``step`` (from 0), ``loss``,
            ``image_loss``, ``smoothness_loss`` and ``folding_loss`` (not multiplied by their
            weights) and ``seconds`` since the start, without the time that ``watch`` takes.

        Raises
        ------
        ValueError
            ``steps`` is below 1, or an image or the displacement does not fit the grid, is not
            finite, or is out of range.
        NotFinite
            The loss, or the displacement after the last step, became NaN or infinite.
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
            image, smooth, folding = (float(term) for term in self._step(start, *images))
            spent += time.perf_counter() - began
            loss = image + self.lam * smooth + self.folding_weight * folding
            if not math.isfinite(loss):
                raise NotFinite(f"the loss became {loss} at step {step}: {_MEND}")
            rows.append((step, loss, image, smooth, folding, spent))
        refined = self._field(start)[0].numpy()
        if not np.isfinite(refined).all():
            raise NotFinite(f"the displacement is not finite after step {steps}: {_MEND}")
        if watch is not None:
            watch(steps, refined)
        columns = ["step", "loss", "image_loss", "smoothness_loss", "folding_loss", "seconds"]
        return refined, pd.DataFrame(rows, columns=columns)

    def _forget(self):
        """Reset delta and Adam, so that nothing of one pair affects the next."""
        self._delta.assign(tf.zeros_like(self._delta))
        for variable, value in self._start_values:
            variable.assign(value)

    def _field(self, start):
        """Return the displacement, ``start + up(delta)``."""
        fine = self._delta
        for axis in range(1, len(self.shape) + 1):
            fine = tf.repeat(fine, 2, axis=axis)
        return start + tf.nn.avg_pool(fine, ksize=3, strides=1, padding="SAME")

    def _one_step(self, start, moving, fixed):
        with tf.GradientTape() as tape:
            field = self._field(start)
            image = tf.reduce_mean(self._similarity(fixed, self._warp([moving, field])))
            smooth = tf.reduce_mean(self._smoothness(None, field))
            folding = self._folding(None, field)[0] if self.folding_weight else tf.constant(0.0)
            loss = image + self.lam * smooth + self.folding_weight * folding
        self._adam.apply_gradients([(tape.gradient(loss, self._delta), self._delta)])
        return image, smooth, folding
