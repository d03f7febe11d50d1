"""Train with Keras' fit(); what surrounds it is a list of callbacks.

The same lines start a run and go on with it after an interruption, at whatever moment::

    done = training.restore(model, run_dir)
    model.fit(
        pairs.pair_dataset(..., start_step=done * steps_per_epoch),
        initial_epoch=done,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=training.callbacks(run_dir, training.RegistrationMonitor(people, watched)),
        verbose=2,
    )

:func:`fit` is these lines with the arguments checked and the run folder locked.
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
_MEND = "Take another folder, or start anew with resume=False (deletes that run)."


class NonFiniteLoss(ValueError):
    """The loss, or a weight, became NaN or infinite."""


class RunFolderError(ValueError):
    """The run folder cannot be written, or holds a run that this one cannot continue."""


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
    validation=None,
    callbacks=(),
    more_settings=None,
    verbose=2,
    resume=True,
):
    """Train a model on random pairs of subjects; continue where an earlier call was interrupted.

    ``run_dir`` then holds the files of :func:`callbacks`, and ``settings.json``. A call that is
    stopped at any step, even killed, loses only its unfinished epoch: the same call goes on from
    the checkpoint, with the pairs that it would have seen.

    Parameters
    ----------
    model : VxmDense
        Compiled, of the cohort's grid; :func:`vxmlib.models.build` gives one. It is trained in
        place.
    cohort : Cohort
    ids : sequence of str
        Subjects to draw the pairs from, see :func:`vxmlib.pairs.pair_dataset`.
    run_dir : path
        Folder of this run; made if need be. While another process trains in it, this one waits.
    epochs : int
        Epochs in all, those of an earlier call included. An epoch is an interval between
        checkpoints and rows of the history: pairs are drawn with replacement.
    steps_per_epoch : int
        Optimiser steps an epoch.
    batch_size, seed, atlas, augment, both_ways
        See :func:`vxmlib.pairs.pair_dataset`.
    validation : sequence of (moving id, fixed id), optional
        Pairs on which the loss is computed after each epoch.
    callbacks : sequence of tf.keras.callbacks.Callback
        See :func:`callbacks`.
    more_settings : mapping, optional
        What else the course of the run depends on, such as the schedule in a callback; a later
        call with another value is refused, like one with another seed.
    verbose : int
        0 silent, 1 progress bar, 2 one line an epoch, as Keras prints them.
    resume : bool
        False deletes an earlier run of this folder and starts anew.

    Returns
    -------
    pandas.DataFrame
        As :func:`history` gives it.

    Raises
    ------
    ValueError
        Before training, if a parameter, an image or the grid does not fit.
    RunFolderError
        If ``run_dir`` cannot be written (the disk may be full), holds a run with other settings,
        or is damaged.
    NonFiniteLoss
        At the first step whose loss is NaN or infinite; the checkpoint before it stays.

    References
    ----------
    voxelmorph's ``scripts/tf/train.py``: batch size 1, 100 steps an epoch, 1500 epochs.
    """
    _check_request(model, cohort, epochs=epochs, steps_per_epoch=steps_per_epoch)
    target = {"field_shape": models.field_shape(model), "bidir": len(model.outputs) == 3}

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

    first_images = next(iter(batches(0)))[0]  # all are checked here, before anything is written
    watched = pairs.listed_pairs(cohort, validation, **target) if validation else None
    settings = {
        "sha256 of the first images": _digest(first_images),
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "seed": seed,
        "people": [str(i) for i in ids],
        "validation": [[str(i) for i in pair] for pair in validation or ()],
        # The first images tell that they are changed, not how the next ones are.
        "augment": repr(augment),
        "both_ways": both_ways,
        **(more_settings or {}),
    }
    folder = Path(run_dir)
    with _alone(folder):
        done = restore(model, folder, settings=settings, resume=resume)
        if done > epochs:
            raise RunFolderError(
                f"run_dir {folder} already holds {done} epochs, more than epochs={epochs}: ask "
                "for at least as many, or take another folder"
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
    """Keras' fit() with the callbacks of a run, and with TensorFlow's error of NaN explained."""
    run_callbacks = callbacks(folder, *more_callbacks)
    try:
        model.fit(batches, callbacks=run_callbacks, **options)
    except tf.errors.InvalidArgumentError as error:
        if not models.points_nowhere(error):
            raise
        run_callbacks[0].stop("the displacement became NaN or infinite", error)


def callbacks(run_dir, *more):
    """Give the callbacks of a run, for Keras' fit().

    They stop at the first NaN (:class:`StopOnNonFinite`) and keep in ``run_dir``, after each
    epoch, ``best.h5`` and at the end ``last.h5`` (:class:`KeepWeights`), ``history.csv``
    (:class:`KeepHistory`) and ``checkpoints/`` (:class:`KeepCheckpoint`). The order matters: a
    run that is killed between two of these files repeats the epoch, because its checkpoint is
    written last, and writes the same files again.

    Parameters
    ----------
    run_dir : path
        The folder that :func:`restore` was called with.
    *more : tf.keras.callbacks.Callback
        Others, such as :class:`RegistrationMonitor` or :func:`cosine_schedule`. They are called
        before the files are written, so that what they add to ``logs`` enters the history. Their
        inner state (the patience of EarlyStopping, say) is not kept over an interruption.

    Returns
    -------
    list of tf.keras.callbacks.Callback
    """
    keep = (KeepWeights(run_dir), KeepHistory(run_dir), KeepCheckpoint(run_dir))
    return [StopOnNonFinite(run_dir), *more, *keep]


def cosine_schedule(learning_rate, epochs):
    """Give the callback that lets the learning rate fall along half a cosine, to zero at the end.

    Parameters
    ----------
    learning_rate : float
        Of the first epoch.
    epochs : int
        Epochs of the whole run, after which the rate would be zero.

    Returns
    -------
    tf.keras.callbacks.LearningRateScheduler

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

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch`` (from 1), ``step`` (optimiser steps so far), ``loss``, one
        column a term of it (``image_loss``, ``smoothness_loss``; without their weights),
        ``val_...`` of each, what other callbacks added, and ``seconds`` (validation and callbacks
        included, in a call's first epoch also the compiling). Empty before the first epoch.

    Raises
    ------
    RunFolderError
        The file is damaged: cut off, or with text or NaN where a number has to be.
    """
    path = Path(run_dir) / _HISTORY
    try:
        complete = path.read_bytes().endswith(b"\n")
        table = pd.read_csv(path)
    except FileNotFoundError:
        return pd.DataFrame()
    except ValueError as error:  # pandas' and Unicode's errors are of this kind
        raise _damaged(path, error) from error
    for name in ("epoch", "step", "loss", "seconds"):
        if name not in table or table[name].isna().any():
            raise _damaged(path, f"column {name} is missing, or lacks a number")
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    if texts:
        raise _damaged(path, f"found text in column {texts[0]}, expected numbers")
    if not complete or table["epoch"].tolist() != list(range(1, len(table) + 1)):
        raise _damaged(path, "expected whole rows of the epochs 1, 2, 3, ...")
    return table


def restore(model, run_dir, *, settings=None, resume=True):
    """Bring a model to where a run has got to, with its optimiser; return the epochs done.

    In a new folder the model itself is the beginning of the run, and kept as such. So the same
    call always goes on from the folder, whatever an interrupted one has done to the model.

    Parameters
    ----------
    model : VxmDense
        Compiled.
    run_dir : path
        Folder of the run; made if need be.
    settings : mapping of str, optional
        What the course of the run depends on, beside the model, its losses and its optimiser. A
        later call with another value is refused; names that only one call gives are not compared.
    resume : bool
        False deletes an earlier run of this folder.

    Returns
    -------
    int
        Epochs done: ``initial_epoch`` of ``model.fit``.

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
    """Compare the settings with those of the folder's run, and keep them."""
    path = folder / _SETTINGS
    asked = json.loads(json.dumps(_described(model) | more, default=float))
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # json's and Unicode's errors are of this kind
            raise _damaged(path, error) from error
        if not isinstance(kept, dict):
            raise _damaged(path, f"found a {type(kept).__name__}, expected names and values")
        if int(model.optimizer.iterations):
            # A schedule may have changed the rate since; the checkpoint brings the run's back.
            asked["optimizer learning_rate"] = kept.get("optimizer learning_rate")
        _compare_settings(asked, kept, folder)
        # What an earlier call did not name is no description of the epochs that it has trained.
        asked = kept if len(history(folder)) else kept | asked
    elif any((folder / name).exists() for name in (_HISTORY, _CHECKPOINTS)):
        raise RunFolderError(
            f"{path}: no such file, but the folder holds a run, which cannot be compared with "
            f"this one. {_MEND}"
        )
    files.write_text(path, json.dumps(asked, indent=1))


def _restore(model, folder):
    """Load the last checkpoint, or keep the first; drop later rows of the history."""
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
        reason = f"found {len(table)} rows, its checkpoint is of epoch {done}"
        raise _damaged(folder / _HISTORY, reason)
    if len(table) > done:  # a kill between row and checkpoint: the model has not seen this epoch
        _keep_history(folder, table[:done])
    return done


def _keep_history(folder, table):
    """Write the history; a run without an epoch has no file of it."""
    if len(table):
        files.write_text(folder / _HISTORY, table.to_csv(index=False))
    else:
        (folder / _HISTORY).unlink()


def _manager(model, folder):
    """The checkpoints of a run: weights and optimiser, under the number of epochs done."""
    return tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model), str(folder / _CHECKPOINTS), max_to_keep=1
    )


def _delete(folder):
    """Delete the files of a run, and nothing else that may lie in the folder."""
    if (folder / _CHECKPOINTS).exists():
        shutil.rmtree(folder / _CHECKPOINTS)
    for name in (_HISTORY, _BEST, _LAST, _SETTINGS):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder):
    """Lock a run folder; a second process waits, and then finds what the first has trained."""
    with contextlib.ExitStack() as lock:
        with _writing(folder):
            lock.enter_context(files.alone(folder))
        yield


@contextlib.contextmanager
def _writing(folder):
    """Name the run folder in errors of the disk."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        full = isinstance(error, tf.errors.ResourceExhaustedError) or "No space left" in str(error)
        if full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            mend = "the disk is full; free some space, and the same call goes on"
        else:
            mend = "choose a folder of your own"
        raise RunFolderError(f"run_dir {folder} cannot be written: {mend} ({error})") from error


def _damaged(path, reason):
    return RunFolderError(f"{path} is damaged ({reason}). {_MEND}")


class RegistrationMonitor(tf.keras.callbacks.Callback):
    """Register pairs of subjects every few epochs: Dice and folding beside the loss.

    Adds ``val_dice`` (mean over structures, then pairs; NaN without label maps) and
    ``val_folding_percent`` (of the fixed brain, det ≤ 0) to Keras' logs, so to its printed line
    and to the history of :func:`fit`; NaN in epochs that are skipped. The last epoch is never
    skipped.

    Parameters
    ----------
    cohort : Cohort
    pairs : sequence of (moving id, fixed id)
        Of validation subjects: what is watched here chooses λ and when to stop.
    every : int
        Epochs from one look to the next.

    Raises
    ------
    ValueError
        If ``pairs`` is empty or ``every`` below 1.
    """

    def __init__(self, cohort, pairs, every=1):
        super().__init__()
        checks.check_whole("every", every, least=1)
        self.pairs = [tuple(pair) for pair in pairs]
        if not self.pairs:
            raise ValueError("pairs is empty: name at least one (moving, fixed) pair to watch")
        self.cohort, self.every = cohort, every

    def on_epoch_end(self, epoch, logs=None):
        """Add the two columns."""
        looked = {"dice_mean": math.nan, "folding_percent_brain": math.nan}
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            table = metrics.evaluate_pairs(
                self.cohort,
                self.pairs,
                lambda moving, fixed: models.register(self.model, moving, fixed),
            )
            looked = metrics.summary(table)
        logs["val_dice"] = looked["dice_mean"]
        logs["val_folding_percent"] = looked["folding_percent_brain"]


class _OfRun(tf.keras.callbacks.Callback):
    """A callback that knows the folder of its run."""

    def __init__(self, run_dir):
        super().__init__()
        self.folder = Path(run_dir)


class StopOnNonFinite(_OfRun):
    """Stop with an explanation as soon as the loss, or a weight, is not finite.

    On a CPU the warp may fail before that, at a displacement that is NaN: see :func:`fit`.
    """

    # Keras' TerminateOnNaN ends the epoch as if it were a good one: the callbacks after it would
    # keep the NaN weights in the checkpoint.

    epoch = step = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Note the epoch, counted from 1."""
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        """Note the step, counted from 1."""
        self.step = batch + 1

    def on_train_batch_end(self, batch, logs=None):
        """Look at the loss."""
        if not math.isfinite(logs["loss"]):
            self.stop(f"the loss became {logs['loss']}")

    def on_epoch_end(self, epoch, logs=None):
        """Look at the weights: the epoch's last update may break what no loss has seen yet."""
        if not models.finite_weights(self.model):
            self.stop("weights became NaN or infinite")

    def stop(self, what, cause=None):
        """Raise the error."""
        kept = f"epoch {self.epoch - 1} is kept in {self.folder}"
        rate = float(self.model.optimizer.learning_rate)
        raise NonFiniteLoss(
            f"{what} at step {self.step} of epoch {self.epoch}; "
            f"{kept if self.epoch > 1 else 'no epoch was finished before'}. Likely causes: a "
            f"learning rate that is too large (it is {rate:g}; try a tenth, or clipnorm=1), "
            "intensities outside [0, 1], constant images, or a λ far from the usual (1 with NCC, "
            "0.01 with MSE)."
        ) from cause


class KeepWeights(_OfRun):
    """Keep ``best.h5``, of the epoch of lowest ``val_loss`` (or else ``loss``), and ``last.h5``."""

    # Keras' ModelCheckpoint writes over the old file, forgets the best value at an interruption,
    # and its files lack what VxmDense.load reads.

    def on_epoch_end(self, epoch, logs=None):
        """Keep the weights if no earlier epoch was as good."""
        measure = "val_loss" if "val_loss" in logs else "loss"
        earlier = history(self.folder)[:epoch].get(measure, pd.Series(dtype=float))
        if logs[measure] < min([math.inf, *earlier.dropna()]):
            self._save(_BEST)

    def on_train_end(self, logs=None):
        """Keep the last weights."""
        self._save(_LAST)

    def _save(self, name):
        with _writing(self.folder):
            models.save(self.model, self.folder / name)


class KeepHistory(_OfRun):
    """Keep one row an epoch in ``history.csv``, see :func:`history`."""

    # Keras' CSVLogger appends to the file: a kill may cut a row, and the epoch that is repeated
    # after a kill would stand there twice.

    def on_epoch_begin(self, epoch, logs=None):
        """Note the time."""
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
    """Keep weights and optimiser after each epoch in ``checkpoints/``, for :func:`restore`."""

    # Keras' BackupAndRestore learns the epoch only inside fit(), when the dataset has begun at its
    # first pair, loads a checkpoint that fits the model in part, and deletes it at the end.

    def on_train_begin(self, logs=None):
        """Look which checkpoint is there: the next one replaces it."""
        self.manager = _manager(self.model, self.folder)

    def on_epoch_end(self, epoch, logs=None):
        """Write the checkpoint."""
        with _writing(self.folder):
            self.manager.save(checkpoint_number=epoch + 1)


def _check_request(model, cohort, *, epochs, steps_per_epoch):
    checks.check_whole("epochs", epochs, least=1)
    checks.check_whole("steps_per_epoch", steps_per_epoch, least=1)
    if getattr(model, "optimizer", None) is None:
        raise ValueError("model is not compiled: take vxmlib.models.build, or call compile first")
    grid = tuple(model.inputs[0].shape[1:-1])
    if grid != tuple(cohort.shape):
        raise ValueError(
            f"model is built for images of shape {grid}, the cohort's are {tuple(cohort.shape)}: "
            "build it with shape=cohort.shape"
        )


def _digest(images):
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.numpy().tobytes())
    return digest.hexdigest()


def _described(model):
    """Describe a compiled model for the settings of its run, flat."""
    optimizer = model.optimizer.get_config()
    optimizer |= optimizer.pop("inner_optimizer", {}).get("config", {})  # of half precision
    optimizer.pop("jit_compile", None)  # chosen by the device
    return {
        **{f"model {key}": value for key, value in model.get_config().items()},
        **{f"optimizer {key}": value for key, value in optimizer.items()},
        "losses": [_name_of(loss) for loss in model.loss],
        "loss_weights": model.get_compile_config()["loss_weights"],
    }


def _name_of(loss):
    """Name a loss with the numbers it was made with, e.g. LocalNCC.loss(window=9, eps=1e-05)."""
    made_with = vars(getattr(loss, "__self__", object)).items()
    numbers = [f"{key}={value}" for key, value in made_with if isinstance(value, int | float)]
    return f"{getattr(loss, '__qualname__', loss)}({', '.join(numbers)})"


def _compare_settings(asked, kept, folder):
    differing = [
        f"{key} (found {kept.get(key)}, expected {asked.get(key)})"
        for key in sorted(asked.keys() | kept.keys())
        if asked.get(key) != kept.get(key)
        # What does not describe the model may be left out, as plain calls of `restore` do.
        and (key in asked.keys() & kept.keys() or key.startswith(("model ", "optimizer ")))
    ]
    if differing:
        raise RunFolderError(
            f"run_dir {folder} holds a run with other settings: {'; '.join(differing)}. {_MEND}"
        )
