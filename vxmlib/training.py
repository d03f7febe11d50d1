"""Train registration networks with Keras' ``fit`` and callbacks that save and resume the run.

The same lines start a training run and continue it after an interruption at any moment::

    done = training.restore(model, run_dir)
    model.fit(
        pairs.pair_dataset(..., start_step=done * steps_per_epoch),
        initial_epoch=done,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=training.callbacks(
            run_dir, training.RegistrationMonitor(cohort, validation_pairs)
        ),
        verbose=2,
    )

:func:`fit` runs these lines; it also checks the arguments and locks the run folder.
"""

import contextlib
import errno
import hashlib
import json
import math
import shutil
import time
from pathlib import Path

import pandas as pd

from vxmlib import checks, files, metrics, models, pairs
from vxmlib.backend import tf

_SETTINGS, _HISTORY, _BEST, _LAST = "settings.json", "history.csv", "best.h5", "last.h5"
_CHECKPOINTS = "checkpoints"
_MEND = "Use another folder, or start again with resume=False, which deletes that run."


class NonFiniteLoss(ValueError):
    """The loss, a weight or the displacement became NaN or infinite."""


class RunFolderError(ValueError):
    """The run folder cannot be written, or holds a run that this call cannot continue."""


def fit(
    model,
    cohort,
    ids,
    *,
    run_dir,
    epochs,
    steps_per_epoch,
    batch_size=1,
    seed=0,
    atlas=None,
    augment=None,
    both_ways=False,
    observed=None,
    validation=None,
    callbacks=(),
    more_settings=None,
    verbose=2,
    resume=True,
):
    """Train a model on random pairs of subjects, or continue an interrupted training run.

    The call writes the files of :func:`callbacks` and ``settings.json`` in ``run_dir``. If it is
    interrupted or killed, only its unfinished epoch is lost: the same call continues from the
    last checkpoint, with the pairs that it would have seen without the interruption.

    Parameters
    ----------
    model : VxmDense
        Compiled model for the cohort's grid, see :func:`vxmlib.models.build`. It is trained in
        place.
    cohort : Cohort
        Cohort of the images, see :func:`vxmlib.pairs.pair_dataset`.
    ids : sequence of str
        Subjects to draw the pairs from, see :func:`vxmlib.pairs.pair_dataset`.
    run_dir : path
        Folder of this run, created if it does not exist. If another process is training in it,
        the call waits.
    epochs : int
        Total number of epochs, including those of earlier calls. An epoch is not a pass over all
        pairs, because pairs are drawn with replacement; it is the interval between two
        checkpoints, and one row of the history.
    steps_per_epoch : int
        Number of optimiser steps per epoch.
    batch_size, seed, atlas, augment, both_ways, observed
        See :func:`vxmlib.pairs.pair_dataset`. Observed structures are required with a model of
        :func:`vxmlib.models.with_labels`, and allowed only with it.
    validation : sequence of (moving id, fixed id), optional
        Pairs on which the loss is computed after each epoch.
    callbacks : sequence of tf.keras.callbacks.Callback
        Further callbacks, see :func:`callbacks`.
    more_settings : mapping, optional
        Other settings that affect the run, such as the schedule in a callback. A later call with
        a different value is refused, as with a different seed.
    verbose : int
        Output of Keras: 0 for none, 1 for a progress bar, 2 for one line per epoch.
    resume : bool
        Whether to continue an earlier run in this folder. False deletes that run and starts
        again.

    Returns
    -------
    pandas.DataFrame
        History of the run, see :func:`history`.

    Raises
    ------
    ValueError
        If a parameter, an image or the grid is invalid. It is raised before training.
    RunFolderError
        If ``run_dir`` cannot be written (the disk may be full), holds a run with other settings
        or with more epochs, or is damaged.
    NonFiniteLoss
        If the loss, a weight or the displacement becomes NaN or infinite. The checkpoint of the
        last finished epoch is kept.

    References
    ----------
    voxelmorph's ``scripts/tf/train.py``: batch size 1, 100 steps per epoch, 1500 epochs.
    """
    _check_request(model, cohort, epochs=epochs, steps_per_epoch=steps_per_epoch)
    _check_observed(model, observed)
    bidir = len(models.plain(model).outputs) == 3
    target = {"field_shape": models.field_shape(model), "bidir": bidir, "observed": observed}

    def batches(start_step):
        return pairs.pair_dataset(
            cohort,
            ids,
            batch_size=batch_size,
            seed=seed,
            atlas=atlas,
            start_step=start_step,
            augment=augment,
            both_ways=both_ways,
            **target,
        )

    # Making the datasets checks all images, before anything is written.
    first_images = next(iter(batches(0)))[0]
    watched = pairs.listed_pairs(cohort, validation, **target) if validation else None
    settings = {
        "sha256 of the first images": _digest(first_images),
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "seed": seed,
        "people": [str(i) for i in ids],
        "validation": [[str(i) for i in pair] for pair in validation or ()],
        # The digest shows that the first images are augmented, but not how later ones will be.
        "augment": repr(augment),
        "both_ways": both_ways,
        **({"observed": list(observed)} if observed else {}),
        **(more_settings or {}),
    }
    folder = Path(run_dir)
    with _alone(folder):
        done = restore(model, folder, settings=settings, resume=resume)
        if done > epochs:
            raise RunFolderError(
                f"run_dir {folder} already holds {done} epochs, more than epochs={epochs}: "
                f"request at least {done} epochs, or use another folder"
            )
        _fit(
            model,
            batches(done * steps_per_epoch),
            folder,
            callbacks,
            initial_epoch=done,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_data=watched,
            verbose=verbose,
        )
        return history(folder)


def _fit(model, batches, folder, more_callbacks, **options):
    """Call Keras' fit() with the callbacks of a run; explain TensorFlow's error after a NaN."""
    run_callbacks = callbacks(folder, *more_callbacks)
    try:
        model.fit(batches, callbacks=run_callbacks, **options)
    except tf.errors.InvalidArgumentError as error:
        if not models.points_nowhere(error):
            raise
        run_callbacks[0].stop("the displacement became NaN or infinite", error)


def callbacks(run_dir, *more):
    """Make the callbacks of a training run, for Keras' ``fit``.

    They stop the run at the first NaN (:class:`StopOnNonFinite`) and write files in ``run_dir``:
    after each epoch ``best.h5`` and at the end of training ``last.h5`` (:class:`KeepWeights`),
    and after each epoch ``history.csv`` (:class:`KeepHistory`) and ``checkpoints/``
    (:class:`KeepCheckpoint`). The order matters: the checkpoint is written last, so a run that is
    killed before it is written repeats the epoch and writes the same files again.

    Parameters
    ----------
    run_dir : path
        Folder that :func:`restore` was called with.
    *more : tf.keras.callbacks.Callback
        Further callbacks, such as :class:`RegistrationMonitor` or :func:`cosine_schedule`. They
        are called before the files are written, so that values which they add to ``logs`` are in
        the history. Their internal state, for example the patience of EarlyStopping, is lost
        after an interruption.

    Returns
    -------
    list of tf.keras.callbacks.Callback
        Callbacks in the order in which they have to be called.
    """
    keep = (KeepWeights(run_dir), KeepHistory(run_dir), KeepCheckpoint(run_dir))
    return [StopOnNonFinite(run_dir), *more, *keep]


def cosine_schedule(learning_rate, epochs):
    """Make the callback of a cosine learning-rate schedule, which decreases to zero.

    Parameters
    ----------
    learning_rate : float
        Learning rate of the first epoch, above 0.
    epochs : int
        Total number of epochs of the run. The learning rate would be zero in the next epoch.

    Returns
    -------
    tf.keras.callbacks.LearningRateScheduler
        Callback that sets the learning rate before each epoch.

    Raises
    ------
    ValueError
        If ``learning_rate`` or ``epochs`` is out of range.

    Examples
    --------
    >>> [round(cosine_schedule(0.1, 4).schedule(epoch), 4) for epoch in range(4)]
    [0.1, 0.0854, 0.05, 0.0146]
    """
    learning_rate = checks.check_number("learning_rate", learning_rate, above=0)
    epochs = checks.check_whole("epochs", epochs, least=1)

    def rate(epoch):
        return learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))

    return tf.keras.callbacks.LearningRateScheduler(rate)


def history(run_dir):
    """Read the history of a run.

    Parameters
    ----------
    run_dir : path
        Folder of the run.

    Returns
    -------
    pandas.DataFrame
        One row per epoch: ``epoch`` (from 1), ``step`` (optimiser steps so far), ``loss``, one
        column for each of its terms without its weight (``image_loss``, ``smoothness_loss``), the
        same columns with the prefix ``val_`` for the validation pairs, values that other
        callbacks added, and ``seconds`` (duration of the epoch, including validation and
        callbacks, and also compilation in the first epoch of a call). The table is empty before
        the end of the first epoch.

    Raises
    ------
    RunFolderError
        If the file is damaged: it is cut off, or has text or NaN in place of a number.
    """
    path = Path(run_dir) / _HISTORY
    try:
        complete = path.read_bytes().endswith(b"\n")
        table = pd.read_csv(path)
    except FileNotFoundError:
        return pd.DataFrame()
    except ValueError as error:  # includes the errors of pandas and of Unicode decoding
        raise _damaged(path, error) from error
    for name in ("epoch", "step", "loss", "seconds"):
        if name not in table or table[name].isna().any():
            raise _damaged(path, f"column {name} is missing or incomplete")
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    if texts:
        raise _damaged(path, f"found text in column {texts[0]}, expected numbers")
    if not complete or table["epoch"].tolist() != list(range(1, len(table) + 1)):
        raise _damaged(path, "expected complete rows of the epochs 1, 2, 3, ...")
    return table


def restore(model, run_dir, *, settings=None, resume=True):
    """Restore a model and its optimiser from the last checkpoint of a run.

    In a new folder, the model as it is becomes the start of the run and is saved as its first
    checkpoint. Therefore, the same call always continues from the folder, even if an interrupted
    call has changed the model.

    Parameters
    ----------
    model : VxmDense
        Compiled model, which is changed in place.
    run_dir : path
        Folder of the run, created if it does not exist.
    settings : mapping of str, optional
        Settings that affect the run, in addition to the model, its losses and its optimiser. A
        later call with a different value is refused; settings that only one of the calls names
        are not compared.
    resume : bool
        Whether to continue an earlier run in this folder. False deletes that run.

    Returns
    -------
    int
        Number of finished epochs, for ``initial_epoch`` of ``model.fit``.

    Raises
    ------
    RunFolderError
        If ``run_dir`` cannot be written, holds a run with other settings, or is damaged.
    """
    folder = Path(run_dir)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            _delete(folder)
        _keep_settings(model, folder, settings or {})
        return _restore(model, folder)


def _keep_settings(model, folder, more):
    """Compare the settings with those of the folder's run, and write them."""
    path = folder / _SETTINGS
    asked = json.loads(json.dumps(_described(model) | more, default=float))
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # includes the errors of JSON and of Unicode decoding
            raise _damaged(path, error) from error
        if not isinstance(kept, dict):
            raise _damaged(path, f"found a {type(kept).__name__}, expected names and values")
        if int(model.optimizer.iterations):
            # A schedule may have changed the model's learning rate since the run began; the
            # checkpoint restores the rate of the run.
            asked["optimizer learning_rate"] = kept.get("optimizer learning_rate")
        _compare_settings(asked, kept, folder)
        # Settings that earlier calls did not name do not describe the epochs that they trained.
        asked = kept if len(history(folder)) else kept | asked
    elif any((folder / name).exists() for name in (_HISTORY, _CHECKPOINTS)):
        raise RunFolderError(
            f"{path}: no such file, but the folder holds a run, whose settings cannot be compared "
            f"without it. {_MEND}"
        )
    files.write_text(path, json.dumps(asked, indent=1))


def _restore(model, folder):
    """Load the last checkpoint, or save a first one; drop later rows of the history."""
    table = history(folder)
    model.optimizer.build(model.trainable_variables)  # its state must exist to be restored
    try:
        manager = _manager(model, folder)
        newest = manager.latest_checkpoint
        if newest is not None:
            manager.checkpoint.restore(newest).assert_existing_objects_matched()
            done = int(newest.rpartition("-")[2])
    except (ValueError, IndexError, AssertionError, tf.errors.OpError) as error:
        raise _damaged(folder / _CHECKPOINTS, error) from error
    if newest is None:
        if len(table) or (folder / _CHECKPOINTS / "checkpoint").exists():
            raise _damaged(
                folder / _CHECKPOINTS / "checkpoint",
                f"found no checkpoint, expected the one of epoch {len(table)} of {_HISTORY}",
            )
        manager.save(checkpoint_number=0)
        return 0
    if len(table) < done:
        reason = f"found {len(table)} rows, but the checkpoint is of epoch {done}"
        raise _damaged(folder / _HISTORY, reason)
    if len(table) > done:  # killed after the row was written, before the checkpoint was
        _keep_history(folder, table[:done])
    return done


def _keep_history(folder, table):
    """Write the history, or delete its file if the run has no finished epoch."""
    if len(table):
        files.write_text(folder / _HISTORY, table.to_csv(index=False))
    else:
        (folder / _HISTORY).unlink()


def _manager(model, folder):
    """Return the checkpoint manager of a run: weights and optimiser, numbered by epochs done."""
    return tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model), str(folder / _CHECKPOINTS), max_to_keep=1
    )


def _delete(folder):
    """Delete the files of a run, but no other files in the folder."""
    if (folder / _CHECKPOINTS).exists():
        shutil.rmtree(folder / _CHECKPOINTS)
    for name in (_HISTORY, _BEST, _LAST, _SETTINGS):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder):
    """Lock a run folder; a second process waits, and then continues from the trained epochs."""
    with contextlib.ExitStack() as lock:
        with _writing(folder):
            lock.enter_context(files.alone(folder))
        yield


@contextlib.contextmanager
def _writing(folder):
    """Turn an error of the disk into one that names the run folder."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        full = isinstance(error, tf.errors.ResourceExhaustedError) or "No space left" in str(error)
        if full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            mend = "the disk is full; free some space, then repeat the call to continue"
        else:
            mend = "choose a folder in which you may write"
        raise RunFolderError(f"run_dir {folder} cannot be written: {mend} ({error})") from error


def _damaged(path, reason):
    return RunFolderError(f"{path} is damaged ({reason}). {_MEND}")


class RegistrationMonitor(tf.keras.callbacks.Callback):
    """Register validation pairs during training, and log their Dice and folding.

    Adds ``val_dice`` (mean over structures, then over pairs; NaN without label maps) and
    ``val_folding_percent`` (percentage of the fixed brain where the Jacobian determinant is 0 or
    below, mean over pairs) to Keras' logs, and so to its printed output and to the history of
    :func:`fit`. The values are NaN in epochs that are skipped. The last epoch is never skipped.

    Parameters
    ----------
    cohort : Cohort
        Cohort of the pairs, see :func:`vxmlib.metrics.evaluate_pairs`.
    pairs : sequence of (moving id, fixed id)
        Pairs of validation subjects, not of test subjects, because these values are used to
        choose λ and when to stop.
    every : int
        Number of epochs from one registration to the next.

    Raises
    ------
    ValueError
        If ``pairs`` is empty or ``every`` is below 1.
    """

    def __init__(self, cohort, pairs, every=1):
        super().__init__()
        checks.check_whole("every", every, least=1)
        self.pairs = [tuple(pair) for pair in pairs]
        if not self.pairs:
            raise ValueError("pairs: found none, expected at least one (moving, fixed) pair")
        self.cohort, self.every = cohort, every

    def on_epoch_end(self, epoch, logs=None):
        """Add the two values to the logs."""
        means = {"dice_mean": math.nan, "folding_percent_brain": math.nan}
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            table = metrics.evaluate_pairs(
                self.cohort,
                self.pairs,
                lambda moving, fixed: models.register(self.model, moving, fixed),
            )
            means = metrics.summary(table)
        logs["val_dice"] = means["dice_mean"]
        logs["val_folding_percent"] = means["folding_percent_brain"]


class _OfRun(tf.keras.callbacks.Callback):
    """A callback with the folder of its run."""

    def __init__(self, run_dir):
        super().__init__()
        self.folder = Path(run_dir)


class StopOnNonFinite(_OfRun):
    """Raise :class:`NonFiniteLoss` as soon as the loss or a weight is not finite.

    On a CPU, the warp may fail before that because the displacement is NaN; :func:`fit` then
    raises the same error.
    """

    # Keras' TerminateOnNaN ends the epoch as if it had succeeded, so the callbacks after it would
    # write the NaN weights to the checkpoint.

    epoch = step = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Store the number of the epoch, counted from 1."""
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        """Store the number of the step, counted from 1."""
        self.step = batch + 1

    def on_train_batch_end(self, batch, logs=None):
        """Check the loss."""
        if not math.isfinite(logs["loss"]):
            self.stop(f"the loss became {logs['loss']}")

    def on_epoch_end(self, epoch, logs=None):
        """Check the weights, because the last update of the epoch comes after its last loss."""
        if not models.finite_weights(self.model):
            self.stop("weights became NaN or infinite")

    def stop(self, what, cause=None):
        """Raise the error with its likely causes."""
        kept = f"epoch {self.epoch - 1} is kept in {self.folder}"
        rate = float(self.model.optimizer.learning_rate)
        raise NonFiniteLoss(
            f"{what} at step {self.step} of epoch {self.epoch}; "
            f"{kept if self.epoch > 1 else 'no epoch was finished before'}. Likely causes: a "
            f"learning rate that is too large (it is {rate:g}; try a tenth of it, or clipnorm=1), "
            "intensities outside [0, 1], constant images, or a λ far from the usual values (1 with "
            "NCC, 0.01 with MSE)."
        ) from cause


class KeepWeights(_OfRun):
    """Save the weights of the best epoch as ``best.h5`` and the last weights as ``last.h5``.

    The best epoch is that of the lowest ``val_loss``, or of the lowest ``loss`` without validation
    pairs.
    """

    # Keras' ModelCheckpoint overwrites the old file in place and forgets the best value after an
    # interruption, and its files lack data that VxmDense.load needs.

    def on_epoch_end(self, epoch, logs=None):
        """Save the weights if the epoch is better than all earlier ones."""
        measure = "val_loss" if "val_loss" in logs else "loss"
        earlier = history(self.folder)[:epoch].get(measure, pd.Series(dtype=float))
        if logs[measure] < min([math.inf, *earlier.dropna()]):
            self._save(_BEST)

    def on_train_end(self, logs=None):
        """Save the last weights."""
        self._save(_LAST)

    def _save(self, name):
        with _writing(self.folder):
            models.save(self.model, self.folder / name)


class KeepHistory(_OfRun):
    """Write one row per epoch to ``history.csv``, see :func:`history`."""

    # Keras' CSVLogger appends to the file. If the process is killed, a row may be cut off, and the
    # epoch that is repeated would be in the file twice.

    def on_epoch_begin(self, epoch, logs=None):
        """Store the start time of the epoch."""
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Write the table with one more row."""
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.params["steps"]}
        row |= {name: float(value) for name, value in logs.items()}
        row["seconds"] = time.perf_counter() - self.began
        rows = [*history(self.folder)[:epoch].to_dict("records"), row]
        with _writing(self.folder):
            _keep_history(self.folder, pd.DataFrame(rows))


class KeepCheckpoint(_OfRun):
    """Save weights and optimiser after each epoch in ``checkpoints/``, for :func:`restore`."""

    # Keras' BackupAndRestore reads the epoch only inside fit(), when the dataset has already begun
    # at its first pair. It also loads a checkpoint that matches only a part of the model, and
    # deletes the checkpoint at the end of training.

    def on_train_begin(self, logs=None):
        """Find the existing checkpoint, which the next one replaces."""
        self.manager = _manager(self.model, self.folder)

    def on_epoch_end(self, epoch, logs=None):
        """Write the checkpoint."""
        with _writing(self.folder):
            self.manager.save(checkpoint_number=epoch + 1)


def _check_request(model, cohort, *, epochs, steps_per_epoch):
    checks.check_whole("epochs", epochs, least=1)
    checks.check_whole("steps_per_epoch", steps_per_epoch, least=1)
    if getattr(model, "optimizer", None) is None:
        raise ValueError("model is not compiled: use vxmlib.models.build, or call compile first")
    grid = tuple(model.inputs[0].shape[1:-1])
    if grid != tuple(cohort.shape):
        raise ValueError(
            f"model is built for images of shape {grid}, but the cohort's are "
            f"{tuple(cohort.shape)}: build it with shape=cohort.shape"
        )


def _check_observed(model, observed):
    """Check that the model has one label map for each observed structure."""
    labelled = models.plain(model) is not model
    expected = model.inputs[-1].shape[-1] if labelled else 0
    if len(observed or ()) != expected:
        raise ValueError(
            f"observed: found {list(observed or ())}, expected {expected} labels, as the model has "
            f"{expected} label maps; build it with vxmlib.models.with_labels and the same number"
        )


def _digest(images):
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.numpy().tobytes())
    return digest.hexdigest()


def _described(model):
    """Describe a compiled model by flat settings of its run."""
    optimizer = model.optimizer.get_config()
    # Half precision wraps the optimiser in another one.
    optimizer |= optimizer.pop("inner_optimizer", {}).get("config", {})
    optimizer.pop("jit_compile", None)  # Keras chooses it for the device
    return {
        **{f"model {key}": value for key, value in models.plain(model).get_config().items()},
        **{f"optimizer {key}": value for key, value in optimizer.items()},
        "losses": [_name_of(loss) for loss in model.loss],
        "loss_weights": model.get_compile_config()["loss_weights"],
    }


def _name_of(loss):
    """Name a loss with its numeric settings, for example LocalNCC.loss(window=9, eps=1e-05)."""
    made_with = vars(getattr(loss, "__self__", object)).items()
    numbers = [f"{key}={value}" for key, value in made_with if isinstance(value, int | float)]
    return f"{getattr(loss, '__qualname__', loss)}({', '.join(numbers)})"


def _compare_settings(asked, kept, folder):
    differing = [
        f"{key} (found {kept.get(key)}, expected {asked.get(key)})"
        for key in sorted(asked.keys() | kept.keys())
        if asked.get(key) != kept.get(key)
        # A call may omit settings other than those of the model, as plain calls of `restore` do.
        and (key in asked.keys() & kept.keys() or key.startswith(("model ", "optimizer ")))
    ]
    if differing:
        raise RunFolderError(
            f"run_dir {folder} holds a run with other settings: {'; '.join(differing)}. {_MEND}"
        )
