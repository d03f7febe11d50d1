"""Training: history, checkpoints, resuming after a kill, and the stop at the first NaN."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from vxmlib import files, models, pairs, training
from vxmlib.backend import set_seed, tf

IDS = ["p0", "p1", "p2"]
SETTINGS = {"epochs": 4, "steps_per_epoch": 3, "batch_size": 2, "seed": 11, "verbose": 0}
COLUMNS = ["epoch", "step", "loss", "image_loss", "smoothness_loss"]
COLUMNS += ["val_loss", "val_image_loss", "val_smoothness_loss"]
COLUMNS += ["val_dice", "val_folding_percent", "seconds"]


def person(name):
    """An image (32, 32) in [0, 1] of smooth noise, another for each name."""
    rng = np.random.default_rng(int(name[1:]))
    image = ndimage.gaussian_filter(rng.random((32, 32)), 2).astype(np.float32)
    return (image - image.min()) / np.ptp(image)


def stand_in(image=person):
    """A cohort of these people; the brighter half is their one structure."""
    return types.SimpleNamespace(
        shape=(32, 32),
        image=image,
        labels=lambda name: (image(name) > 0.5).astype(np.int16),
        brain=lambda name: image(name) > 0,
        structures={1: "bright"},
        unlabelled=(),
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def checkpoint_of(epoch):
    return [f"ckpt-{epoch}.data-00000-of-00001", f"ckpt-{epoch}.index"]


def new_model(learning_rate=1e-3, **options):
    set_seed(3)
    return models.build((32, 32), features="small", learning_rate=learning_rate, **options)


def train(model, run_dir, callbacks=(), cohort=None, **changed):
    """Train with validation and a monitor that looks every third epoch."""
    cohort = cohort or stand_in()
    monitor = training.RegistrationMonitor(cohort, [("p0", "p1")], every=3)
    options = SETTINGS | {"validation": [("p1", "p2")], "callbacks": [monitor, *callbacks]}
    return training.fit(model, cohort, IDS, run_dir=run_dir, **options | changed)


def train_by_keras(model, run_dir):
    """The same run by Keras' own call, as a lesson writes it."""
    people, steps = stand_in(), SETTINGS["steps_per_epoch"]
    done = training.restore(model, run_dir)
    model.fit(
        pairs.pair_dataset(people, IDS, batch_size=2, seed=11, start_step=done * steps),
        initial_epoch=done,
        epochs=SETTINGS["epochs"],
        steps_per_epoch=steps,
        validation_data=pairs.listed_pairs(people, [("p1", "p2")]),
        callbacks=training.callbacks(
            run_dir, training.RegistrationMonitor(people, [("p0", "p1")], every=3)
        ),
        verbose=0,
    )
    return training.history(run_dir)


def kill_before_checkpoint(epoch):
    """Kill this very process when the row of an epoch is written and its checkpoint is not."""
    save = tf.train.CheckpointManager.save

    def save_or_die(self, checkpoint_number):
        if checkpoint_number == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(self, checkpoint_number=checkpoint_number)

    tf.train.CheckpointManager.save = save_or_die


class KillAt(tf.keras.callbacks.Callback):
    """Kill this very process, as a power cut would, in the middle of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_be_killed(code):
    here = os.path.dirname(__file__)
    start = f"import os, sys\nsys.path.insert(0, {here!r})\nimport test_training as t\n"
    done = subprocess.run([sys.executable, "-c", start + code], timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def traced():
    """One model for all: Keras takes seconds to trace its training step; and its first state."""
    model = new_model()
    variables = model.weights + model.optimizer.variables
    return model, [(variable, variable.numpy()) for variable in variables]


@pytest.fixture
def model(traced):
    """That model as it was when it was new."""
    for variable, value in traced[1]:
        variable.assign(value)
    traced[0].optimizer.learning_rate.assign(1e-3)
    return traced[0]


@pytest.fixture(scope="module")
def whole(traced, tmp_path_factory):
    """An uninterrupted run: its history, folder and final weights."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    history = train(traced[0], folder)
    return history, folder, traced[0].get_weights()


def test_history_has_one_row_an_epoch(whole):
    history, folder, _ = whole
    assert list(history.columns) == COLUMNS
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["step"].tolist() == [3, 6, 9, 12]
    np.testing.assert_allclose(
        history["loss"], history["image_loss"] + history["smoothness_loss"], rtol=1e-5
    )
    assert (history["seconds"] > 0).all()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), history)


def test_monitor_looks_now_and_then_and_at_the_end(whole):
    history, folder, _ = whole
    last = models.load(folder / "last.h5")
    assert history["val_dice"].isna().tolist() == [True, True, False, False]
    assert history["val_folding_percent"].isna().tolist() == [True, True, False, False]
    table = training.metrics.evaluate_pairs(
        stand_in(), [("p0", "p1")], lambda m, f: models.register(last, m, f)
    )
    np.testing.assert_allclose(history["val_dice"].iloc[-1], table["dice"].mean(), rtol=1e-6)


def test_monitor_reports_folding_of_the_brain(monkeypatch):
    folded = np.zeros((32, 32, 2), np.float32)
    folded[8:12, :, 0] = -3 * np.arange(4)[:, None]  # the grid turns back in these rows
    image = person("p0").copy()
    image[16:] = 0
    monkeypatch.setattr(training.models, "register", lambda *_: folded)
    cohort, logs = stand_in(lambda name: image), {}
    monitor = training.RegistrationMonitor(cohort, [("p0", "p1")])
    monitor.set_params({"epochs": 1})
    monitor.on_epoch_end(0, logs)
    inside = training.metrics.folding(folded, image > 0)
    assert logs["val_folding_percent"] == pytest.approx(inside.percent_in_mask)
    assert inside.percent_in_mask > 1.5 * inside.percent > 0


def test_files_of_a_run(whole):
    _, folder, weights = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "best.h5",
        "checkpoints",
        "history.csv",
        "last.h5",
        "settings.json",
    ]
    assert_equal(models.load(folder / "last.h5").get_weights(), weights)


def assert_equal(values, expected, **tolerance):
    for one, other in zip(values, expected, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 0} | tolerance)


@pytest.mark.parametrize(
    "losses",
    [[0.5, 0.2, 0.3], [np.nan, 0.5, 0.6]],
    ids=["a number in each epoch", "no number in the first epoch"],
)
def test_best_weights_are_those_of_the_lowest_validation_loss(model, tmp_path, losses):
    losses, kept = iter(losses), []

    class Scripted(tf.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = next(losses)
            kept.append(self.model.get_weights())

    train(model, tmp_path, epochs=3, callbacks=[Scripted()])
    assert_equal(models.load(tmp_path / "best.h5").get_weights(), kept[1])


def stop_before_checkpoint(monkeypatch, epoch):
    """Interrupt a run when the row of an epoch is written and its checkpoint is not."""
    save = tf.train.CheckpointManager.save

    def save_or_stop(self, checkpoint_number):
        if checkpoint_number == epoch:
            raise KeyboardInterrupt
        return save(self, checkpoint_number=checkpoint_number)

    monkeypatch.setattr(tf.train.CheckpointManager, "save", save_or_stop)


def test_the_best_weights_are_compared_with_earlier_epochs_alone(model, finished):
    """A row whose checkpoint was lost is made again, perhaps with another last digit."""
    keeper = training.KeepWeights(finished)
    keeper.set_model(model)
    (finished / "best.h5").unlink()
    keeper.on_epoch_end(4, {"val_loss": 1.0})
    assert not (finished / "best.h5").exists()
    keeper.on_epoch_end(0, {"val_loss": 1.0})
    assert (finished / "best.h5").exists()


def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole, model, tmp_path, monkeypatch):
    history, _, weights = whole
    place = f"{str(tmp_path)!r}, callbacks=[t.KillAt(epoch=1, batch=1)]"
    run_and_be_killed(f"t.train(t.new_model(), {place})")
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1]
    stop_before_checkpoint(monkeypatch, epoch=3)
    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path)
    monkeypatch.undo()
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1, 2, 3]

    model.set_weights([np.zeros_like(weight) for weight in weights])  # all comes from the folder
    continued = train(model, tmp_path)
    assert int(model.optimizer.iterations) == 12
    pd.testing.assert_frame_equal(
        continued.drop(columns="seconds"), history.drop(columns="seconds"), rtol=1e-4
    )
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), continued)
    assert_equal(model.get_weights(), weights, rtol=1e-4, atol=1e-6)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".part")]


def test_keras_call_with_the_callbacks_goes_on_after_a_kill_too(whole, model, tmp_path):
    history, _, weights = whole
    code = f"t.kill_before_checkpoint(2)\nt.train_by_keras(t.new_model(), {str(tmp_path)!r})"
    run_and_be_killed(code)
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1, 2]
    assert not (tmp_path / "last.h5").exists()

    model.set_weights([np.zeros_like(weight) for weight in weights])  # all comes from the folder
    continued = train_by_keras(model, tmp_path)
    pd.testing.assert_frame_equal(
        continued.drop(columns="seconds"), history.drop(columns="seconds"), rtol=1e-4
    )
    assert_equal(model.get_weights(), weights, rtol=1e-4, atol=1e-6)
    assert_equal(models.load(tmp_path / "last.h5").get_weights(), model.get_weights())
    assert (tmp_path / "best.h5").exists()


class PowerCut(BaseException):
    """Everything ends here."""


def cut_the_power(monkeypatch, at):
    """End a run just before one of its writes; return the list of those that were begun."""
    written = []

    def counted(write):
        def write_or_stop(*args, **options):
            written.append(args)
            if at == len(written):
                raise PowerCut
            return write(*args, **options)

        return write_or_stop

    monkeypatch.setattr(files.os, "replace", counted(os.replace))
    manager = tf.train.CheckpointManager
    monkeypatch.setattr(manager, "save", counted(manager.save))
    return written


@pytest.fixture(scope="module")
def short(traced, tmp_path_factory):
    """An uninterrupted run of two epochs: its history, final and best weights."""
    for variable, value in traced[1]:
        variable.assign(value)
    folder = tmp_path_factory.mktemp("short")
    history = train(traced[0], folder, epochs=2)
    return history, traced[0].get_weights(), models.load(folder / "best.h5").get_weights()


# Settings and first checkpoint; row and checkpoint of two epochs, the first with best weights;
# last weights.
WRITES = 8


@pytest.mark.parametrize("write", range(1, WRITES + 1))
def test_a_run_survives_a_stop_between_any_two_writes(short, model, tmp_path, monkeypatch, write):
    history, weights, best = short
    cut_the_power(monkeypatch, write)
    with pytest.raises(PowerCut):
        train(model, tmp_path, epochs=2)
    monkeypatch.undo()
    continued = train(model, tmp_path, epochs=2)
    pd.testing.assert_frame_equal(
        continued.drop(columns="seconds"), history.drop(columns="seconds"), rtol=1e-4
    )
    assert_equal(model.get_weights(), weights, rtol=1e-4, atol=1e-6)
    assert_equal(models.load(tmp_path / "best.h5").get_weights(), best, rtol=1e-4, atol=1e-6)
    assert_equal(models.load(tmp_path / "last.h5").get_weights(), weights, rtol=1e-4, atol=1e-6)


def test_these_are_all_writes(model, tmp_path, monkeypatch):
    written = cut_the_power(monkeypatch, None)
    train(model, tmp_path, epochs=2)
    assert len(written) == WRITES


def falling_rate():
    return training.cosine_schedule(1e-3, 4)


def test_the_same_model_goes_on_after_a_schedule_has_changed_its_rate(model, tmp_path):
    options = {"callbacks": [falling_rate()]}
    train(model, tmp_path / "parts", epochs=2, **options)
    assert float(model.optimizer.learning_rate) < 9e-4
    parts = train(model, tmp_path / "parts", **options)
    assert json.loads((tmp_path / "parts" / "settings.json").read_text())[
        "optimizer learning_rate"
    ] == pytest.approx(1e-3)
    expected = [1e-3 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    np.testing.assert_allclose(parts["lr"], expected, rtol=1e-6)


def test_the_first_rate_of_a_new_model_is_still_compared(model, tmp_path):
    train(model, tmp_path, epochs=1, callbacks=[falling_rate()])
    with pytest.raises(training.RunFolderError, match=r"optimizer learning_rate \(found 0\.001"):
        train(new_model(learning_rate=1e-4), tmp_path, callbacks=[falling_rate()])


@pytest.mark.parametrize(("rate", "epochs"), [(0, 3), (1e-3, 0)])
def test_a_schedule_refuses_what_is_none(rate, epochs):
    with pytest.raises(ValueError, match="found 0, expected a"):
        training.cosine_schedule(rate, epochs)


def test_a_plain_call_and_fit_find_each_others_run(whole, model, tmp_path):
    first = train(model, tmp_path, epochs=1)
    assert training.restore(model, tmp_path) == 1
    assert training.restore(model, tmp_path, settings={"seed": 11}) == 1
    with pytest.raises(training.RunFolderError, match=r"seed \(found 11, expected 12\)"):
        training.restore(model, tmp_path, settings={"seed": 12})
    pd.testing.assert_frame_equal(train(model, tmp_path, epochs=1), first)


def test_settings_are_not_added_to_epochs_that_were_trained_without_them(whole, model, tmp_path):
    """Epochs of a plain call have no seed on record; a later call must not give them one."""
    train(model, tmp_path, epochs=1)
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    del settings["seed"]
    path.write_text(json.dumps(settings))
    train(model, tmp_path, epochs=1)
    assert "seed" not in json.loads(path.read_text())


def test_a_row_without_its_checkpoint_is_no_part_of_the_run(whole, model, tmp_path):
    """A kill between the two leaves it; a call for fewer epochs must not return it."""
    first = train(model, tmp_path, epochs=1)
    path = tmp_path / "history.csv"
    with_more = pd.concat([first, first.assign(epoch=2, step=2 * first["step"])])
    path.write_text(with_more.to_csv(index=False))
    pd.testing.assert_frame_equal(train(model, tmp_path, epochs=1), first)
    pd.testing.assert_frame_equal(training.history(tmp_path), first)


def test_a_new_folder_keeps_the_model_as_it_is(model, tmp_path):
    weights = model.get_weights()
    assert training.restore(model, tmp_path) == 0
    model.set_weights([np.full_like(weight, np.nan) for weight in weights])
    assert training.restore(model, tmp_path) == 0
    assert_equal(model.get_weights(), weights)
    assert training.history(tmp_path).empty


def test_a_finished_run_is_found_not_trained_again(whole, model):
    history, folder, weights = whole
    pd.testing.assert_frame_equal(train(model, folder), history)
    assert_equal(model.get_weights(), weights)


def test_fewer_epochs_than_done_are_refused(whole, model):
    with pytest.raises(training.RunFolderError, match="already holds 4 epochs, more than epochs=2"):
        train(model, whole[1], epochs=2)


@pytest.mark.parametrize(
    ("options", "changed", "named"),
    [
        ({"lam": 2}, {}, "loss_weights"),
        ({"learning_rate": 1e-4}, {}, "optimizer learning_rate"),
        ({"image_loss": "mse"}, {}, "losses"),
        ({"int_steps": 1}, {}, "model int_steps"),
        ({}, {"seed": 12}, "seed"),
        ({}, {"steps_per_epoch": 4}, "steps_per_epoch"),
        ({}, {"validation": None}, "validation"),
        ({}, {"cohort": stand_in(lambda name: 1 - person(name))}, "sha256 of the first images"),
    ],
)
def test_a_folder_of_other_settings_is_refused(whole, options, changed, named):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in whole[1].iterdir())
    with pytest.raises(training.RunFolderError, match=rf"other settings: .*{named} \(found"):
        train(new_model(**options), whole[1], **changed)
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in whole[1].iterdir())


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of the finished run, to damage."""
    for path in sorted(whole[1].rglob("*")):
        copy = tmp_path / path.relative_to(whole[1])
        copy.mkdir() if path.is_dir() else copy.write_bytes(path.read_bytes())
    state = tmp_path / "checkpoints" / "checkpoint"
    state.write_text(state.read_text().replace(str(whole[1]), str(tmp_path)))
    return tmp_path


def test_starting_anew_deletes_the_run_and_nothing_else(model, finished):
    (finished / "notes.txt").write_text("mine")
    history = train(model, finished, resume=False, epochs=1)
    assert history["epoch"].tolist() == [1]
    assert (finished / "notes.txt").read_text() == "mine"
    assert [path.name for path in (finished / "checkpoints").glob("*.index")] == ["ckpt-1.index"]


def cut_checkpoint(folder):
    data = next((folder / "checkpoints").glob("*.data*"))
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def cut_settings(folder):
    (folder / "settings.json").write_text('{"model": ')


def no_history(folder):
    (folder / "history.csv").unlink()


def short_history(folder):
    lines = (folder / "history.csv").read_text().splitlines()
    (folder / "history.csv").write_text("\n".join(lines[:-1]))


def no_state(folder):
    (folder / "checkpoints" / "checkpoint").unlink()


def empty_state(folder):
    (folder / "checkpoints" / "checkpoint").write_text("")


def wrong_state(folder):
    (folder / "checkpoints" / "checkpoint").write_text("{")


def no_settings(folder):
    (folder / "settings.json").unlink()


def settings_without_names(folder):
    (folder / "settings.json").write_text("[]")


def settings_in_latin_1(folder):
    (folder / "settings.json").write_bytes('{"λ": "é"}'.encode("latin-1", "replace"))


def change_last_row(folder, change):
    *rows, last = (folder / "history.csv").read_text().splitlines(keepends=True)
    (folder / "history.csv").write_text("".join([*rows, change(last)]))


def cut_row(folder):
    change_last_row(folder, lambda row: row[: len(row) // 2])


def cut_last_digits(folder):
    change_last_row(folder, lambda row: row[:-4])


def cut_row_but_for_its_end(folder):
    change_last_row(folder, lambda row: row[: len(row) // 2] + "\n")


def no_loss(folder):
    change_last_row(folder, lambda row: re.sub(r"^4,12,[^,]+", "4,12,", row))


def loss_in_words(folder):
    change_last_row(folder, lambda row: re.sub(r"^4,12,[^,]+", "4,12,low", row))


def dice_in_words(folder):
    change_last_row(folder, lambda row: ",".join([*row.split(",")[:8], "high", "0", "1\n"]))


def an_epoch_twice(folder):
    change_last_row(folder, lambda row: row.replace("4,12", "3,9"))


def empty_history(folder):
    (folder / "history.csv").write_text("")


def history_in_latin_1(folder):
    (folder / "history.csv").write_bytes("épogue\n1\n".encode("latin-1"))


HARMS = {
    cut_checkpoint: "checkpoints is damaged",
    no_state: r"checkpoints.checkpoint is damaged \(found no checkpoint, .* of epoch 4",
    empty_state: "checkpoints is damaged",
    wrong_state: r"checkpoints.checkpoint is damaged \(found no checkpoint",
    cut_settings: r"settings\.json is damaged",
    no_settings: r"settings\.json: no such file, but the folder holds a run",
    settings_without_names: r"settings\.json is damaged",
    settings_in_latin_1: r"settings\.json is damaged",
    no_history: r"history\.csv is damaged \(found 0 rows, but the checkpoint is of epoch 4",
    short_history: r"history\.csv is damaged",
    cut_row: r"history\.csv is damaged",
    cut_last_digits: r"history\.csv is damaged \(expected complete rows",
    cut_row_but_for_its_end: r"history\.csv is damaged \(column seconds",
    no_loss: r"history\.csv is damaged \(column loss",
    loss_in_words: r"history\.csv is damaged \(found text in column loss",
    dice_in_words: r"history\.csv is damaged \(found text in column val_dice",
    an_epoch_twice: r"history\.csv is damaged \(expected .* epochs 1, 2, 3",
    empty_history: r"history\.csv is damaged",
    history_in_latin_1: r"history\.csv is damaged",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_damaged_run_is_named_and_left_alone(model, finished, harm):
    harm(finished)
    before = contents(finished)
    with pytest.raises(training.RunFolderError, match=HARMS[harm]) as refused:
        train(model, finished)
    assert "start again with resume=False" in str(refused.value)
    assert contents(finished) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_starting_anew_deletes_what_an_interrupted_write_has_left(model, finished):
    (finished / "checkpoints" / "ckpt-5_temp").mkdir()
    assert len(train(model, finished, resume=False, epochs=1)) == 1
    assert names(finished / "checkpoints") == ["checkpoint", *checkpoint_of(1)]


def refuse_checkpoints(monkeypatch, error):
    save = tf.train.CheckpointManager.save

    def save_or_fail(self, checkpoint_number):
        if checkpoint_number == 2:
            raise error
        return save(self, checkpoint_number=checkpoint_number)

    monkeypatch.setattr(tf.train.CheckpointManager, "save", save_or_fail)


def refuse_weights(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(training.models, "save", fail)


def refuse_history(monkeypatch, error):
    write = files.write_text

    def write_or_fail(path, text):
        if path.name == "history.csv":
            raise error
        write(path, text)

    monkeypatch.setattr(training.files, "write_text", write_or_fail)


FULL = [
    tf.errors.ResourceExhaustedError(None, None, "checkpoints/ckpt-2.data-00000; No space left"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError("Can't write data (file write failed: error message = 'No space left on device')"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:12])
@pytest.mark.parametrize("refuse", [refuse_checkpoints, refuse_weights, refuse_history])
def test_a_full_disk_is_named_with_the_folder_and_the_run_goes_on_later(
    short, model, tmp_path, monkeypatch, refuse, error
):
    refuse(monkeypatch, error)
    with pytest.raises(training.RunFolderError, match="the disk is full") as stopped:
        train(model, tmp_path, epochs=2)
    assert str(tmp_path) in str(stopped.value)
    monkeypatch.undo()
    continued = train(model, tmp_path, epochs=2)
    np.testing.assert_allclose(continued["loss"], short[0]["loss"], rtol=1e-4)


def test_other_errors_of_the_disk_do_not_say_that_it_is_full(model, tmp_path, monkeypatch):
    refuse_history(monkeypatch, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(
        training.RunFolderError, match=r"folder in which you may write.*Permission denied"
    ):
        train(model, tmp_path, epochs=2)


def test_memory_that_runs_out_in_a_step_is_not_the_disk(whole, model):
    class Fail(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    with pytest.raises(tf.errors.ResourceExhaustedError, match="OOM"):
        train(model, whole[1], epochs=5, callbacks=[Fail()])


class Spoil(tf.keras.callbacks.Callback):
    """Make the weights NaN after one step of each epoch."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step:
            self.model.set_weights([np.nan * weight for weight in self.model.get_weights()])


LIKELY_CAUSES = ["learning rate", "0.001", "[0, 1]", "constant images", "λ"]


def test_divergence_stops_with_the_likely_causes_and_keeps_the_last_epoch(model, finished):
    before = sorted(path.name for path in (finished / "checkpoints").iterdir())
    with pytest.raises(training.NonFiniteLoss) as stopped:
        train(model, finished, epochs=6, callbacks=[Spoil(step=1)])
    # On a GPU the loss is NaN; on a CPU the warp cannot even look its voxels up.
    for words in ["at step 2 of epoch 5", f"epoch 4 is kept in {finished}", *LIKELY_CAUSES]:
        assert words in str(stopped.value)
    assert before == sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert len(pd.read_csv(finished / "history.csv")) == 4


def test_an_absurd_learning_rate_ends_in_that_message(model, tmp_path):
    model.optimizer.learning_rate.assign(1e30)
    with pytest.raises(training.NonFiniteLoss, match=r"step \d of epoch \d.*it is 1e\+30"):
        train(model, tmp_path)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_at_its_step(model, loss):
    guard = training.StopOnNonFinite("run")
    guard.set_model(model)
    guard.on_epoch_begin(2)
    guard.on_train_batch_begin(4)
    guard.on_train_batch_end(4, {"loss": 1.0})
    with pytest.raises(training.NonFiniteLoss, match=f"loss became {loss} at step 5 of epoch 3"):
        guard.on_train_batch_end(4, {"loss": loss})


def test_weights_broken_by_the_last_step_are_never_kept(model, tmp_path):
    with pytest.raises(training.NonFiniteLoss, match=r"weights .* step 3 .* no epoch was finished"):
        training.fit(
            model, stand_in(), IDS, run_dir=tmp_path, callbacks=[Spoil(step=3)], **SETTINGS
        )
    assert names(tmp_path) == [".lock", "checkpoints", "settings.json"]
    assert names(tmp_path / "checkpoints") == ["checkpoint", *checkpoint_of(0)]


def test_the_same_model_can_be_trained_again_after_a_first_epoch_with_nan(model, tmp_path, short):
    with pytest.raises(training.NonFiniteLoss):
        train(model, tmp_path, epochs=2, callbacks=[Spoil(step=2)])
    again = train(model, tmp_path, epochs=2)
    np.testing.assert_allclose(again["loss"], short[0]["loss"], rtol=1e-4)


def test_other_errors_of_tensorflow_are_not_explained_away(whole, model):
    class Fail(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise tf.errors.InvalidArgumentError(None, None, "something else")

    with pytest.raises(tf.errors.InvalidArgumentError, match="something else"):
        train(model, whole[1], epochs=5, callbacks=[Fail()])


def bad(name):
    image = person(name).copy()
    image[0, 0] = np.nan if name == "p2" else 0
    return image


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"epochs": 0}, "epochs: found 0, expected a whole number of at least 1"),
        ({"steps_per_epoch": 2.5}, "steps_per_epoch: found 2.5, expected a whole"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"cohort": stand_in(bad)}, "image of p2"),
        ({"validation": [("p1", "p9")], "cohort": stand_in(lambda n: bad("p2"))}, "image of p"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(model, tmp_path, changed, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(model, tmp_path / "run", **changed)
    assert not (tmp_path / "run").exists()


def test_model_and_cohort_must_share_a_grid(tmp_path):
    other = models.build((32, 48), features="small")
    with pytest.raises(ValueError, match=r"of shape \(32, 48\), but the cohort's are \(32, 32\)"):
        train(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_must_be_compiled(whole, tmp_path):
    with pytest.raises(ValueError, match="not compiled"):
        train(models.load(whole[1] / "last.h5"), tmp_path / "run")


def test_a_folder_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(training.RunFolderError, match=r"run_dir .*file.run cannot be written"):
        train(model, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("pairs", "every", "complaint"),
    [([], 1, "pairs: found none"), ([("a", "b")], 0, "every: found 0, expected a whole")],
)
def test_monitor_refuses_nothing_to_do(pairs, every, complaint):
    with pytest.raises(ValueError, match=complaint):
        training.RegistrationMonitor(stand_in(), pairs, every)


def test_both_ways_train_too(tmp_path):
    history = train(new_model(bidir=True), tmp_path, epochs=1)
    assert {"image_loss", "back_loss", "smoothness_loss"} < set(history.columns)
    losses = json.loads((tmp_path / "settings.json").read_text())["losses"]
    assert losses == ["LocalNCC.loss(window=9, eps=1e-05)"] * 2 + ["Grad.loss(loss_mult=1)"]
