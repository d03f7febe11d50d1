"""Train VxmDense by a custom loop that stops on NaN and keeps the last good weights.

:func:`train` makes the same step as ``fit()`` of a compiled model, but minimises any objective.
When the loss or a weight is no longer finite, it stops with a message, and the last good weights
stay in their file. Use it only when arguments of the optimiser, callbacks and a custom
``train_step`` are not sufficient: see the lessons ``15_steps`` and ``16_situations``.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from vxmlib import models
from vxmlib.backend import tf, vxm
from vxmlib.checks import check_number, check_whole


class LoopStopped(ValueError):
    """The loop ended early; the message says when, why, and where the last good weights are."""


class Clock(tf.keras.callbacks.Callback):
    """Callback that records when each step of ``fit()`` ends, to measure the time of a step."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        """Record the time at the end of a step."""
        self.times.append(time.perf_counter())

    def after(self, step, logs, outputs):
        """Record the time at the end of a step of :func:`train`, as its argument ``after``."""
        self.on_train_batch_end(step)

    def seconds(self):
        """Return the median time from the end of one step to the end of the next, in seconds."""
        return float(np.median(np.diff(self.times)))


def compiled_terms(model, *, lam=None):
    """Return the objective of a compiled model: its weighted losses, as ``fit()`` minimises them.

    Parameters
    ----------
    model : VxmDense
        Compiled with a list of losses and of loss weights, as by :func:`vxmlib.models.build`.
    lam : float or tf.Variable, optional
        Replaces the last loss weight, λ. A ``tf.Variable`` may change during training. Default is
        the weight with which the model was compiled.

    Returns
    -------
    callable
        An objective for :func:`train`. Its terms besides "loss" are not weighted.
    """
    names, losses = list(model.output_names), list(model.loss)
    weights = list(model.get_compile_config()["loss_weights"])
    if lam is not None:
        weights[-1] = lam

    def objective(inputs, targets, outputs):
        terms = {
            f"{name}_loss": tf.reduce_mean(loss(target, output))
            for name, loss, target, output in zip(names, losses, targets, outputs, strict=True)
        }
        weighted = [w * term for w, term in zip(weights, terms.values(), strict=True)]
        return {"loss": tf.add_n(weighted), **terms}

    return objective


def gradient_norms(model, batch):
    """Compute the norm of each loss term's gradient with respect to all trainable weights.

    Parameters
    ----------
    model : VxmDense
        Compiled, as by :func:`vxmlib.models.build`.
    batch : (inputs, targets)
        A batch of :func:`vxmlib.pairs.pair_dataset`.

    Returns
    -------
    dict of str to float
        Name of the term -> norm of its gradient, without the loss weight.
    """
    inputs, targets = batch
    with tf.GradientTape(persistent=True) as tape:
        terms = compiled_terms(model)(inputs, targets, model(inputs, training=True))
    weights = model.trainable_variables
    return {
        name: float(tf.linalg.global_norm(tape.gradient(term, weights)))
        for name, term in terms.items()
        if name != "loss"
    }


def train(
    model,
    batches,
    objective,
    *,
    steps,
    optimizer=None,
    variables=None,
    second=None,
    after=None,
    keep=None,
    keep_every=50,
):
    """Train a model with a custom loop.

    Parameters
    ----------
    model : tf.keras.Model
        Called as ``model(inputs, training=True)``.
    batches : iterable of (inputs, targets)
        At least ``steps`` batches, for example of :func:`vxmlib.pairs.pair_dataset`.
    objective : callable
        ``objective(inputs, targets, outputs)`` returns a dict of scalar tensors; ``"loss"`` is
        minimised, and the others are recorded. The function is traced once, so a number that
        changes during training has to be a ``tf.Variable``.
    steps : int
        Number of steps, at least 1.
    optimizer : optional
        Optimiser without loss scaling. Default is the one with which the model was compiled.
    variables : list, optional
        Variables to train. Default is all trainable variables of the model.
    second : callable, optional
        Called as ``second(inputs, outputs)`` at the end of each step and traced with it. It trains
        other variables, such as a discriminator's, and returns a dict of terms to record.
    after : callable, optional
        Called as ``after(step, logs, outputs)`` after each step, counted from 1. It returns a dict
        that is added to the row of the step, or None. It may raise :class:`LoopStopped` to end the
        loop.
    keep : path, optional
        File (``.h5``) for the weights, written every ``keep_every`` steps and at the end. Default
        is to write no file.
    keep_every : int
        Number of steps from one check of the weights to the next, at least 1.

    Returns
    -------
    pandas.DataFrame
        One row for each step: ``step`` and the terms of the objective, computed with the weights
        *before* the step.

    Raises
    ------
    LoopStopped
        The loss, the displacement or a weight is NaN or infinite (weights are checked every
        ``keep_every`` steps and at the end); the batches ran out; or ``after`` raised it. Weights
        that were written before stay in their file.
    ValueError
        ``variables`` is empty, ``steps`` or ``keep_every`` is below 1, or the optimiser is a
        ``LossScaleOptimizer``, which Keras uses with mixed_float16.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.linspace(0, 1, 1024, dtype="float32").reshape(1, 32, 32, 1)
    >>> batch = ((image, image), (image, np.zeros((1, 32, 32, 2), "float32")))
    >>> model = models.build((32, 32), image_loss="mse", features="small")
    >>> history = train(model, [batch] * 3, compiled_terms(model), steps=3)
    >>> history.columns.tolist()
    ['step', 'loss', 'image_loss', 'smoothness_loss']
    """
    optimizer = optimizer or model.optimizer
    variables = model.trainable_variables if variables is None else list(variables)
    steps = check_whole("steps", steps, least=1)
    keep_every = check_whole("keep_every", keep_every, least=1)
    if not variables:
        raise ValueError("variables: found none, expected at least one to train")
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        raise ValueError(
            "optimizer: found a LossScaleOptimizer (mixed_float16), expected an optimiser without "
            "loss scaling, because this loop does not scale the loss; train in float32, or with "
            "fit()"
        )
    optimizer.build(variables)
    keeper = _Keeper(model, keep, keep_every)

    @tf.function
    def one_step(inputs, targets):
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            terms = objective(inputs, targets, outputs)
        gradients = tape.gradient(terms["loss"], variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return terms | second(inputs, outputs) if second else terms, outputs

    rows, supply = [], iter(batches)
    for step in range(1, steps + 1):
        try:
            inputs, targets = next(supply)
        except StopIteration:
            raise keeper.stopped(step, f"the batches ran out, expected {steps}") from None
        try:
            terms, outputs = one_step(inputs, targets)
        except tf.errors.InvalidArgumentError as error:
            if not models.points_nowhere(error):
                raise
            raise keeper.stopped(step, "the displacement is no longer finite") from error
        logs = {name: float(value) for name, value in terms.items()}
        if not math.isfinite(logs["loss"]):
            raise keeper.stopped(step, f"the loss became {logs['loss']}")
        rows.append({"step": step, **logs, **_asked(after, step, logs, outputs, keeper)})
        if step % keep_every == 0 or step == steps:
            keeper.keep(step)
    return pd.DataFrame(rows)


def _asked(after, step, logs, outputs, keeper):
    """Call ``after``, and return what it adds to the row of the step."""
    if after is None:
        return {}
    try:
        more = after(step, logs, outputs)
    except LoopStopped as reason:
        raise keeper.stopped(step, str(reason)) from None
    return dict(more) if isinstance(more, Mapping) else {}


class _Keeper:
    """Writes the weights to a file, and remembers at which step it last did so."""

    def __init__(self, model, path, every):
        self.model, self.path, self.every = model, path and Path(path), every
        self.last = None

    def keep(self, step):
        """Check that the weights are finite, and write them if there is a path."""
        if not models.finite_weights(self.model):
            raise self.stopped(step, "weights became NaN or infinite")
        if self.path is None:
            return
        models.save(self.model, self.path)
        self.last = step

    def stopped(self, step, why):
        """Return an error whose message names the step and file of the last good weights."""
        kept = "no weights were kept"
        if self.last is not None:
            kept = f"the weights of step {self.last} are kept in {self.path}"
        return LoopStopped(f"step {step}: {why}; {kept}")


class FoldingBudget:
    """Rule that adapts λ during training, so that folding stays within a budget.

    After each step, λ is multiplied by ``rate`` if the running mean of the percentage of folded
    voxels exceeds ``percent``, and divided by ``rate`` otherwise. The variable :attr:`lam` holds
    λ; pass it to :func:`compiled_terms`.

    Parameters
    ----------
    percent : float
        Budget: percentage of all voxels of the field that may fold, above 0.
    start : float
        First value of λ.
    least, most : float
        Range of λ, above 0. The training stops if λ would leave it.
    rate : float
        Factor by which λ is multiplied or divided after each step, above 1.
    memory : float
        Weight of the earlier steps in the running mean, from 0 to 0.999.

    Raises
    ------
    ValueError
        ``start`` lies outside the range of λ, or another number is out of bounds.

    Examples
    --------
    >>> budget = FoldingBudget(percent=0.1, start=1.0, rate=2.0, memory=0.0)
    >>> budget.update(0.5), budget.update(0.0)
    (2.0, 1.0)
    """

    def __init__(self, *, percent, start, least=1e-3, most=1e3, rate=1.05, memory=0.9):
        self.percent = check_number("percent", percent, above=0)
        self.least = check_number("least", least, above=0)
        self.most = check_number("most", most, least=self.least)
        self.rate = check_number("rate", rate, above=1)
        self.memory = check_number("memory", memory, least=0, most=0.999)
        start = check_number("start", start, least=self.least, most=self.most)
        self.lam = tf.Variable(start, trainable=False, dtype=tf.float32)
        self._mean = None

    def update(self, folding_percent):
        """Update λ from the percentage of folded voxels of one step, and return it.

        Raises
        ------
        LoopStopped
            λ would leave its range. Either no λ in it meets the budget, or the loss has another
            fault.
        """
        mean = folding_percent if self._mean is None else self._mean
        self._mean = self.memory * mean + (1 - self.memory) * folding_percent
        lam = float(self.lam)
        lam = lam * self.rate if self._mean > self.percent else lam / self.rate
        if not self.least <= lam <= self.most:
            raise LoopStopped(
                f"λ would become {lam:.3g}, outside [{self.least:g}, {self.most:g}], with "
                f"{self._mean:.3g} % of the voxels folded (running mean) and a budget of "
                f"{self.percent:g} %: widen the range, change the budget, or look for another "
                "cause of the folding"
            )
        self.lam.assign(lam)
        return lam


def discriminator(shape, filters=(16, 32, 32)):
    """Build a network that separates well-registered pairs from others, patch by patch.

    Its inputs are the two images. It first computes their absolute difference, because learning
    to do so would take more steps than a short training run has.

    Parameters
    ----------
    shape : tuple of int
        Grid of the images, 2D or 3D.
    filters : tuple of int
        Filters of its convolutions, each with stride 2. With three of them, one logit covers
        8 voxels in each direction.

    Returns
    -------
    tf.keras.Model
        Inputs: two images ``(batch, *shape, 1)``. Output: logits ``(batch, *patches, 1)``, above 0
        where the pair looks well registered.

    References
    ----------
    Fan et al., Adversarial learning for mono- or multi-modal registration, Medical Image Analysis
    2019 (the idea; this network is smaller).

    Examples
    --------
    >>> discriminator((32, 32)).output_shape
    (None, 4, 4, 1)
    """
    layers = tf.keras.layers
    convolution = getattr(layers, f"Conv{len(shape)}D")
    inputs = [tf.keras.Input((*shape, 1)) for _ in range(2)]
    x = layers.concatenate([*inputs, abs(inputs[0] - inputs[1])])
    for count in filters:
        x = layers.LeakyReLU(0.2)(convolution(count, 3, strides=2, padding="same")(x))
    return tf.keras.Model(inputs, convolution(1, 3, padding="same")(x))


class AdversarialSimilarity:
    """Discriminator that replaces the image loss and is trained with the registration network.

    The discriminator learns to separate the good pair (blend, fixed) from (warped, fixed), where
    ``blend`` is the fixed image with some of the moving one mixed in. The registration network is
    rewarded when the discriminator takes its warped image for a blend. Pass :meth:`objective` to
    :func:`train`, :meth:`learn` as its ``second`` and :meth:`after` as its ``after``.

    Parameters
    ----------
    shape : tuple of int
        Grid of the images, 2D or 3D.
    lam : float
        λ, the weight of the smoothness loss, at least 0. It is not comparable with the λ of
        another image loss.
    learning_rate : float
        Learning rate of the discriminator's Adam.
    blend : float
        Share of the moving image in the blend, from 0 to 0.999.
    patience : int
        Training ends after this many steps in a row with a discriminator loss below 0.01, because
        the discriminator's gradient then no longer guides the registration network. At least 1.
    """

    def __init__(self, shape, *, lam=0.1, learning_rate=1e-3, blend=0.3, patience=50):
        self.network = discriminator(shape)
        self.lam = check_number("lam", lam, least=0)
        self.blend = check_number("blend", blend, least=0, most=0.999)
        self.patience = check_whole("patience", patience, least=1)
        self._adam = tf.keras.optimizers.Adam(learning_rate)
        self._adam.build(self.network.trainable_variables)
        self._loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
        self._won = 0

    def objective(self, inputs, targets, outputs):
        """Compute the loss of the registration network, with the discriminator as image loss."""
        fooled = self.network([outputs[0], inputs[1]], training=False)
        image = self._loss(tf.ones_like(fooled), fooled)
        smooth = tf.reduce_mean(vxm.losses.Grad("l2").loss(None, outputs[-1]))
        return {
            "loss": image + self.lam * smooth,
            "image_loss": image,
            "smoothness_loss": smooth,
        }

    def learn(self, inputs, outputs):
        """Train the discriminator for one step, and return its loss."""
        moving, fixed = inputs
        good = (1 - self.blend) * fixed + self.blend * moving
        with tf.GradientTape() as tape:
            real = self.network([good, fixed], training=True)
            fake = self.network([outputs[0], fixed], training=True)
            loss = self._loss(tf.ones_like(real), real) + self._loss(tf.zeros_like(fake), fake)
        variables = self.network.trainable_variables
        self._adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"discriminator_loss": loss}

    def after(self, step, logs, outputs):
        """Stop the loop when the discriminator has been right for ``patience`` steps in a row."""
        self._won = self._won + 1 if logs["discriminator_loss"] < 0.01 else 0
        if self._won >= self.patience:
            raise LoopStopped(
                f"the discriminator was sure and right for {self.patience} steps in a row, so the "
                "network learns nothing from it: lower its learning_rate, or raise blend"
            )
