"""Train with Keras' own fit(): history, checkpoints, resuming, and a stop at the first NaN."""

import contextlib
import hashlib
import json
import math
import time
from pathlib import Path

import pandas as pd

from vxmlib import files, metrics, models, pairs
from vxmlib.backend import tf

_SETTINGS, _HISTORY, _BEST, _LAST = "settings.json", "history.csv", "best.h5", "last.h5"
_CHECKPOINTS = "checkpoints"


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
    """Train a model on random pairs of people; continue where an earlier call was interrupted.

    ``run_dir`` then holds ``history.csv`` (one row an epoch), ``checkpoints/`` (weights and
    optimiser after the last finished epoch), ``best.h5`` (weights of the epoch with the lowest
    ``val_loss``, or ``loss`` without validation), ``last.h5`` (weights at the end) and
    ``settings.json``. A call that is stopped at any step, even killed, loses only its unfinished
    epoch: the same call goes on from the checkpoint, with the pairs that it would have seen.

    Parameters
    ----------
    model : VxmDense
        Compiled, of the cohort's grid; :func:`vxmlib.models.build` gives one. It is trained in
        place.
    cohort : Cohort
    ids : sequence of str
        People to draw the pairs from, see :func:`vxmlib.pairs.pair_dataset`.
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
        Called before this module's own, so what they add to ``logs`` enters the history. Their
        inner state (the patience of EarlyStopping, say) is not kept over an interruption.
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
        One row an epoch: ``epoch`` (from 1), ``step`` (optimiser steps so far), ``loss``, one
        column a term of it (``image_loss``, ``smoothness_loss``; without their weights),
        ``val_...`` of each, what callbacks added, and ``seconds`` (validation and callbacks
        included, in a call's first epoch also the compiling).

    Raises
    ------
    ValueError
        Before training, if a parameter, an image or the grid does not fit.
    RunFolderError
        Before training, if ``run_dir`` cannot be written, holds a run with other settings, or is
        damaged.
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

    first_batch = next(iter(batches(0)))  # every image is checked here, before anything is written
    watched = pairs.listed_pairs(cohort, validation, **target) if validation else None
    settings = _settings(
        model,
        first_batch,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        seed=seed,
        people=[str(i) for i in ids],
        validation=[[str(i) for i in pair] for pair in validation or ()],
        # The first images tell that they are changed, not how the next ones are.
        augment=repr(augment),
        both_ways=both_ways,
        **(more_settings or {}),
    )
    with _alone(Path(run_dir)):
        run = _Run(model, Path(run_dir), settings, steps_per_epoch, resume=resume)
        if run.done > epochs:
            raise RunFolderError(
                f"run_dir {run.folder} already holds {run.done} epochs, more than epochs={epochs}: "
                "ask for at least as many, or take another folder"
            )
        guard = _StopOnNonFinite(run)
        try:
            model.fit(
                batches(run.done * steps_per_epoch),
                initial_epoch=run.done,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                validation_data=watched,
                callbacks=[guard, *callbacks, _KeepRun(run)],
                verbose=verbose,
            )
        except tf.errors.InvalidArgumentError as error:
            if not models.points_nowhere(error):
                raise
            guard.stop("the displacement became NaN or infinite", error)
        return run.history()


@contextlib.contextmanager
def _alone(folder):
    """Hold a run folder; a second process waits, and then finds what the first has trained."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(files.alone(folder))
        except OSError as error:
            raise RunFolderError(_cannot_write(folder, error)) from error
        yield


def _cannot_write(folder, error):
    return f"run_dir {folder} cannot be written ({error}): choose a folder of your own"


class RegistrationMonitor(tf.keras.callbacks.Callback):
    """Register pairs of people every few epochs: Dice and folding beside the loss.

    Adds ``val_dice`` (mean over structures, then pairs; NaN without label maps) and
    ``val_folding_percent`` (of the fixed brain, det ≤ 0) to Keras' logs, so to its printed line
    and to the history of :func:`fit`; NaN in epochs that are skipped. The last epoch is never
    skipped.

    Parameters
    ----------
    cohort : Cohort
    pairs : sequence of (moving id, fixed id)
        Of validation people: what is watched here chooses λ and when to stop.
    every : int
        Epochs from one look to the next.

    Raises
    ------
    ValueError
        If ``pairs`` is empty or ``every`` below 1.
    """

    def __init__(self, cohort, pairs, every=1):
        super().__init__()
        _check_count("every", every)
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


class _Run:
    """The files of one run, and how far it has got (``done`` epochs)."""

    def __init__(self, model, folder, settings, steps_per_epoch, *, resume):
        self.model, self.folder, self.steps_per_epoch = model, folder, steps_per_epoch
        self._open(settings, resume)
        model.optimizer.build(model.trainable_variables)  # its state must exist to be restored
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, epoch=self._epoch),
            str(folder / _CHECKPOINTS),
            max_to_keep=1,
        )
        self.rows = self._restore()

    @property
    def done(self):
        return len(self.rows)

    def history(self):
        return pd.DataFrame(self.rows)

    def _open(self, settings, resume):
        """Make the folder, prove that it can be written, and compare settings."""
        path = self.folder / _SETTINGS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                self._delete()
            text = json.dumps(settings, indent=1)
            if path.exists():
                _compare_settings(settings, json.loads(path.read_text()), self.folder)
            files.write_text(path, text)
        except OSError as error:
            raise RunFolderError(_cannot_write(self.folder, error)) from error
        except json.JSONDecodeError as error:
            raise RunFolderError(
                f"{path} is damaged ({error}): start anew with resume=False"
            ) from error

    def _delete(self):
        """Delete this module's files, and nothing else that may lie in the folder."""
        files = [self.folder / name for name in (_SETTINGS, _HISTORY, _BEST, _LAST)]
        for path in files + list((self.folder / _CHECKPOINTS).glob("*")):
            path.unlink(missing_ok=True)

    def _restore(self):
        """Load the last checkpoint, and the history up to it; later rows will be made again."""
        newest = self._manager.latest_checkpoint
        if newest is None:
            return []
        try:
            self._manager.checkpoint.restore(newest).assert_existing_objects_matched()
            rows = pd.read_csv(self.folder / _HISTORY).to_dict("records")
        except (OSError, ValueError, IndexError, AssertionError, tf.errors.OpError) as error:
            raise RunFolderError(
                f"the run in {self.folder} is damaged ({error}): start anew with resume=False"
            ) from error
        done = int(self._epoch)
        if len(rows) < done:
            raise RunFolderError(
                f"{self.folder / _HISTORY} has {len(rows)} rows, its checkpoint is of epoch "
                f"{done}: start anew with resume=False"
            )
        return rows[:done]

    def finish_epoch(self, row):
        """Keep an epoch. The order matters: a row may lack its checkpoint, never the reverse."""
        measure = "val_loss" if "val_loss" in row else "loss"
        if row[measure] < min((old[measure] for old in self.rows), default=math.inf):
            models.save(self.model, self.folder / _BEST)
        self.rows.append(row)
        files.write_text(self.folder / _HISTORY, self.history().to_csv(index=False))
        self._epoch.assign(self.done)
        self._manager.save(checkpoint_number=self.done)

    def finish(self):
        models.save(self.model, self.folder / _LAST)


class _KeepRun(tf.keras.callbacks.Callback):
    """Write the row, the best weights and the checkpoint of each epoch."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        measured = {name: float(value) for name, value in logs.items()}
        place = {"epoch": epoch + 1, "step": (epoch + 1) * self.run.steps_per_epoch}
        self.run.finish_epoch(place | measured | {"seconds": time.perf_counter() - self.began})

    def on_train_end(self, logs=None):
        self.run.finish()


class _StopOnNonFinite(tf.keras.callbacks.Callback):
    """Stop with an explanation as soon as the loss, or a weight, is not finite."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.epoch = self.step = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        self.step = batch + 1

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.stop(f"the loss became {logs['loss']}")

    def on_epoch_end(self, epoch, logs=None):
        # The last update of an epoch may break weights that no loss has seen yet.
        if not models.finite_weights(self.model):
            self.stop("weights became NaN or infinite")

    def stop(self, what, cause=None):
        kept = f"epoch {self.run.done} is kept in {self.run.folder}"
        rate = float(self.run.model.optimizer.learning_rate)
        raise NonFiniteLoss(
            f"{what} at step {self.step} of epoch {self.epoch}; "
            f"{kept if self.run.done else 'no epoch was finished before'}. Likely causes: a "
            f"learning rate that is too large (it is {rate:g}; try a tenth, or clipnorm=1), "
            "intensities outside [0, 1], constant images, or a λ far from the usual (1 with NCC, "
            "0.01 with MSE)."
        ) from cause


def _check_request(model, cohort, *, epochs, steps_per_epoch):
    _check_count("epochs", epochs)
    _check_count("steps_per_epoch", steps_per_epoch)
    if getattr(model, "optimizer", None) is None:
        raise ValueError("model is not compiled: take vxmlib.models.build, or call compile first")
    grid = tuple(model.inputs[0].shape[1:-1])
    if grid != tuple(cohort.shape):
        raise ValueError(
            f"model is built for images of shape {grid}, the cohort's are {tuple(cohort.shape)}: "
            "build it with shape=cohort.shape"
        )


def _check_count(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, found {value!r}")


def _settings(model, first_batch, **told):
    """Describe all that a continued run must share with its beginning, flat, ready for JSON."""
    optimizer = model.optimizer.get_config()
    optimizer.pop("jit_compile", None)  # chosen by the device
    digest = hashlib.sha256()
    for image in first_batch[0]:
        digest.update(image.numpy().tobytes())
    described = {
        **{f"model {key}": value for key, value in model.get_config().items()},
        **{f"optimizer {key}": value for key, value in optimizer.items()},
        "losses": [_name_of(loss) for loss in model.loss],
        "loss_weights": model.get_compile_config()["loss_weights"],
        "sha256 of the first images": digest.hexdigest(),
    }
    return json.loads(json.dumps(described | told, default=float))


def _name_of(loss):
    """Name a loss with the numbers it was made with, e.g. LocalNCC.loss(window=9, eps=1e-05)."""
    made_with = vars(getattr(loss, "__self__", object)).items()
    numbers = [f"{key}={value}" for key, value in made_with if isinstance(value, int | float)]
    return f"{getattr(loss, '__qualname__', loss)}({', '.join(numbers)})"


def _compare_settings(settings, found, folder):
    differing = [
        f"{key} (found {found.get(key)}, expected {settings.get(key)})"
        for key in sorted(settings.keys() | found.keys())
        if settings.get(key) != found.get(key)
    ]
    if differing:
        raise RunFolderError(
            f"run_dir {folder} holds a run with other settings: {'; '.join(differing)}. Take "
            "another folder, or start anew with resume=False (deletes that run)"
        )
