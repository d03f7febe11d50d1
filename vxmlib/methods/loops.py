"""Custom training loops for VxmDense, which stop on NaN and keep the last good weights.

There are three ways to make the same training step, from the most to the least that Keras does:
``fit()``; ``fit()`` with a custom ``train_step`` (:class:`OwnStep`); a bare loop (:func:`train`).
The bare loop takes any objective. When the loss or a weight is no longer finite, it stops with a
message and its last good weights are kept.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from vxmlib import models, training
from vxmlib.backend import tf, vxm
from vxmlib.checks import check_number, check_whole


class LoopStopped(ValueError):
    """The loop ended early; the message says at which step, why, and where good weights are."""


class OwnStep(vxm.networks.VxmDense):
    """VxmDense with a ``train_step`` written out; give it to ``models.build`` as ``network``.

    What Keras' own step does, in five lines, so that any of them can be changed: everything
    around it (callbacks, history, distribution) stays with ``fit()``.
    """

    def train_step(self, data):
        """One step: outputs, loss, gradients, update; return what ``fit()`` logs."""
        inputs, targets, weight = tf.keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            loss = self.compute_loss(inputs, targets, outputs, weight)
        # Scales the loss where 16 bits ask for it; tape.gradient and apply_gradients would not.
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(inputs, targets, outputs, weight)


class Clock(tf.keras.callbacks.Callback):
    """Notes when each step of ``fit()`` ended; :meth:`seconds` is what a step took."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        """Note the time."""
        self.times.append(time.perf_counter())

    def after(self, step, logs, outputs):
        """The same for :func:`train`."""
        self.on_train_batch_end(step)

    def seconds(self):
        """Median time from one step to the next."""
        return float(np.median(np.diff(self.times)))


def compiled_terms(model, *, lam=None):
    """The objective of a compiled model: its losses and their weights, as ``fit()`` takes them.

    Parameters
    ----------
    model : VxmDense
        Of :func:`vxmlib.models.build`.
    lam : float or tf.Variable, optional
        λ in place of the one it was compiled with; a variable may change while it trains.

    Returns
    -------
    callable
        An objective for :func:`train`.
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
    """How strongly each term of a compiled model pulls at its weights.

    Parameters
    ----------
    model : VxmDense
        Of :func:`vxmlib.models.build`.
    batch : (inputs, targets)

    Returns
    -------
    dict of str to float
        Term (before its weight) -> norm of its gradient over all trainable weights.
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
    """Train a model by a bare loop.

    Parameters
    ----------
    model : tf.keras.Model
        Called as ``model(inputs, training=True)``.
    batches : iterable of (inputs, targets)
        At least ``steps`` of them, as of :func:`vxmlib.pairs.pair_dataset`.
    objective : callable
        ``objective(inputs, targets, outputs)`` gives a dict of scalar tensors; ``"loss"`` is
        minimised, the rest is recorded. Traced once: what it shall change later, it has to read
        from a ``tf.Variable``.
    steps : int
        Steps to take.
    optimizer : optional
        By default the one that the model was compiled with.
    variables : list, optional
        Those to train; by default all trainable ones of the model.
    second : callable, optional
        Called as ``second(inputs, outputs)`` at the end of each step and traced with it: trains
        variables of its own, such as a discriminator's, and returns a dict of terms to record.
    after : callable, optional
        Called as ``after(step, logs, outputs)`` after each step (from 1); what it returns, a dict
        or None, joins the row. It may raise :class:`LoopStopped` to end the loop.
    keep : path, optional
        File (``.h5``) for the weights, written every ``keep_every`` steps and at the end.

    Returns
    -------
    pandas.DataFrame
        One row a step: ``step``, the objective's terms (of the weights *before* the step).

    Raises
    ------
    LoopStopped
        The loss, or a weight every ``keep_every`` steps and at the end, is NaN or infinite, the
        batches ran out, or ``after`` said so; weights that were kept before stay as they were.
    ValueError
        Nothing to train, no step to take, or an optimiser that scales the loss for 16 bits.

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
            "optimizer: found one that scales the loss for 16 bits, which this loop does not do; "
            "expected a plain one: train in 32 bits, or by fit()"
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
            if not training.points_nowhere(error):
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
    """What the caller's function adds to the row."""
    if after is None:
        return {}
    try:
        more = after(step, logs, outputs)
    except LoopStopped as reason:
        raise keeper.stopped(step, str(reason)) from None
    return dict(more) if isinstance(more, Mapping) else {}


class _Keeper:
    """Writes the weights now and then, and knows the last good ones."""

    def __init__(self, model, path, every):
        self.model, self.path, self.every = model, path and Path(path), every
        self.last = None

    def keep(self, step):
        """Write the weights, if they are finite and a file was asked for."""
        if not training.finite_weights(self.model):
            raise self.stopped(step, "weights became NaN or infinite")
        if self.path is None:
            return
        models.save(self.model, self.path)
        self.last = step

    def stopped(self, step, why):
        """The error, with where to go on from."""
        kept = "no weights were kept"
        if self.last is not None:
            kept = f"the weights of step {self.last} are kept in {self.path}"
        return LoopStopped(f"step {step}: {why}; {kept}")


class FoldingBudget:
    """Changes λ while a model trains, so that folding stays within a budget.

    After each step λ is multiplied by ``rate`` when more than ``percent`` of the voxels of the
    field folded, on a running mean, and divided by it when fewer did.

    Parameters
    ----------
    percent : float
        Budget, in percent of all voxels of the field.
    start : float
        First λ.
    least, most : float
        The range; leaving it stops the training.
    rate : float
        Above 1.
    memory : float
        Share of the running mean that a step keeps, from 0 to 0.999.

    Raises
    ------
    ValueError
        A start outside the range, or another number that is out of bounds.

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
        """Take the folding of a step; return the new λ.

        Raises
        ------
        LoopStopped
            λ would leave its range: the budget cannot be met by λ, or the loss has another fault.
        """
        mean = folding_percent if self._mean is None else self._mean
        self._mean = self.memory * mean + (1 - self.memory) * folding_percent
        lam = float(self.lam)
        lam = lam * self.rate if self._mean > self.percent else lam / self.rate
        if not self.least <= lam <= self.most:
            raise LoopStopped(
                f"λ would become {lam:.3g}, outside [{self.least:g}, {self.most:g}], with "
                f"{self._mean:.3g} % folded and a budget of {self.percent:g} %: widen the range, "
                "change the budget, or look for what else folds the field"
            )
        self.lam.assign(lam)
        return lam


def discriminator(shape, filters=(16, 32, 32)):
    """A network that tells a well-registered pair from another, patch by patch.

    It sees the two images and their absolute difference: to find that out by itself would take
    more steps than a short training has.

    Parameters
    ----------
    shape : tuple of int
        Grid, 2D or 3D.
    filters : tuple of int
        Of its convolutions, each with stride 2, so that with three of them a logit stands for
        8 voxels in each direction.

    Returns
    -------
    tf.keras.Model
        Inputs two images ``(batch, *shape, 1)``; output logits ``(batch, *patches, 1)``, above 0
        where it takes the pair for well registered.

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
    """A discriminator in place of NCC: train it beside the registration network.

    It learns to tell (blend, fixed), where ``blend`` is the fixed image with some of the moving
    one mixed in, a pair as good as registration could make it, from (warped, fixed). The network
    is paid for warped images that it takes for such a blend. Give :meth:`objective` to
    :func:`train`, :meth:`learn` as its ``second`` and :meth:`after` as its ``after``.

    Parameters
    ----------
    shape : tuple of int
    lam : float
        λ of the smoothness; not comparable with the λ of another image loss.
    learning_rate : float
        Of the discriminator's Adam.
    blend : float
        Share of the moving image in a good pair, from 0 to 0.999.
    patience : int
        So many steps in a row in which it is never wrong and surely so (its loss below 0.01)
        end the training: its gradient teaches nothing any more.
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
        """The loss of the registration network: being recognised by its rival, and roughness."""
        fooled = self.network([outputs[0], inputs[1]], training=False)
        image = self._loss(tf.ones_like(fooled), fooled)
        smooth = tf.reduce_mean(vxm.losses.Grad("l2").loss(None, outputs[-1]))
        return {
            "loss": image + self.lam * smooth,
            "image_loss": image,
            "smoothness_loss": smooth,
        }

    def learn(self, inputs, outputs):
        """A step of the discriminator."""
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
        """Stop when the discriminator has won outright."""
        self._won = self._won + 1 if logs["discriminator_loss"] < 0.01 else 0
        if self._won >= self.patience:
            raise LoopStopped(
                f"the discriminator was sure and right for {self.patience} steps in a row, so the "
                "network learns nothing from it: lower its learning_rate, or raise blend"
            )
