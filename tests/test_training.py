"""fit(): history, checkpoints, resuming after a kill, and the stop at the first NaN."""

import json
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from vxmlib import models, training
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


def new_model(learning_rate=1e-3, **options):
    set_seed(3)
    return models.build((32, 32), features="small", learning_rate=learning_rate, **options)


def train(model, run_dir, callbacks=(), cohort=None, **changed):
    """Train with validation and a monitor that looks every third epoch."""
    cohort = cohort or stand_in()
    monitor = training.RegistrationMonitor(cohort, [("p0", "p1")], every=3)
    options = SETTINGS | {"validation": [("p1", "p2")], "callbacks": [monitor, *callbacks]}
    return training.fit(model, cohort, IDS, run_dir=run_dir, **options | changed)


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


def assert_equal(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 0} | tolerance)


def test_best_weights_are_those_of_the_lowest_validation_loss(model, tmp_path):
    losses = iter([0.5, 0.2, 0.3])
    kept = []

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


@pytest.mark.parametrize("harm", [cut_checkpoint, cut_settings, no_history, short_history])
def test_a_damaged_run_is_named_and_left_alone(model, finished, harm):
    harm(finished)
    with pytest.raises(training.RunFolderError, match="start anew with resume=False"):
        train(model, finished)
    assert (finished / "last.h5").exists()


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
    guard = training._StopOnNonFinite(types.SimpleNamespace(done=0, folder="run", model=model))
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
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "settings.json"]


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
        ({"epochs": 0}, "epochs must be an integer of at least 1, found 0"),
        ({"steps_per_epoch": 2.5}, "steps_per_epoch must be an integer"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"seed": -1}, "seed must be"),
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
    with pytest.raises(ValueError, match=r"of shape \(32, 48\), the cohort's are \(32, 32\)"):
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
    [([], 1, "pairs is empty"), ([("a", "b")], 0, "every must be an integer of at least 1")],
)
def test_monitor_refuses_nothing_to_do(pairs, every, complaint):
    with pytest.raises(ValueError, match=complaint):
        training.RegistrationMonitor(stand_in(), pairs, every)


def test_both_ways_train_too(tmp_path):
    history = train(new_model(bidir=True), tmp_path, epochs=1)
    assert {"image_loss", "back_loss", "smoothness_loss"} < set(history.columns)
    losses = json.loads((tmp_path / "settings.json").read_text())["losses"]
    assert losses == ["LocalNCC.loss(window=9, eps=1e-05)"] * 2 + ["Grad.loss(loss_mult=1)"]
