"""From two files to a folder of results: its files with a known map, and the whole way once."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vxmlib import cohorts, metrics, models, nifti, preprocess, records, warp
from vxmlib.book import examples
from vxmlib.methods.instance import InstanceOptimiser
from vxmlib.scans import command, inputs, network, outputs, register
from vxmlib.scans.inputs import InputError
from vxmlib.scans.mapping import Mapping
from vxmlib.scans.settings import FILES, OPTIMISER, STEPS
from vxmlib.sources import labels, malf

GRID = from_matvec(np.diag([4.0] * 3), [-60.0, -60.0, -60.0])  # 32 voxels along each axis


def save(folder, name, shape, affine, place):
    """Write a lopsided ball at a place in mm, and its label map with two parts."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    x = apply_affine(np.linalg.inv(place), apply_affine(affine, index)) / [40, 50, 35]
    image = np.clip(1.3 - np.linalg.norm(x, axis=-1), 0, 1) * (1.5 + np.sin(6 * x[..., 0]))
    labels = (image > 0.2) * (1 + (x[..., 0] > 0.1))
    nifti.write(folder / f"{name}.nii.gz", (500 * image).astype(np.int16), affine)
    nifti.write(folder / f"{name}_seg.nii.gz", labels.astype(np.int16), affine)


@pytest.fixture
def pair(tmp_path):
    """Two scans on different grids; the fixed head lies 20 mm further left than the moving one."""
    turn = Rotation.from_euler("z", 15, degrees=True).as_matrix()
    save(tmp_path, "fixed", (30, 30, 30), from_matvec(turn * 4, [-50, -70, -60]), np.eye(4))
    place = from_matvec(np.eye(3), [20, 0, 0])
    save(
        tmp_path, "moving", (36, 30, 30), from_matvec(np.diag([-4, 4.5, 4]), [90, -60, -60]), place
    )
    return tmp_path


@pytest.fixture
def known(monkeypatch):
    """Let `register_files` find a known map: a shift by 20 mm, and a smooth displacement."""
    rng = np.random.default_rng(2)
    field = ndimage.gaussian_filter(rng.standard_normal((32, 32, 32, 3)), (5, 5, 5, 0))
    mapping = Mapping(np.eye(4), 1.5 * field / np.abs(field).max(), GRID, np.eye(4))
    mapping = replace(mapping, after=from_matvec(np.eye(3), [20, 0, 0]))
    small = np.random.default_rng(0).random((32, 32, 32), dtype=np.float32)
    asked = {}

    def found(moving, fixed, **options):
        asked.update(options)
        overlap = {"moving": {"mask_dice": 0.97}, "fixed": {"mask_dice": 0.96}}
        return register.Registration(mapping, small, small, overlap, {"apply the network": 1.0})

    monkeypatch.setattr(outputs, "register", found)
    return mapping, asked


def run(folder, **more):
    return outputs.register_files(
        folder / "moving.nii.gz", folder / "fixed.nii.gz", folder / "out", **more
    )


def labelled(folder):
    return {f"{role}_labels": folder / f"{role}_seg.nii.gz" for role in ("moving", "fixed")}


def test_the_folder_has_exactly_the_files_that_were_asked_for(pair, known):
    run(pair)
    plain = set(FILES) - {"warped_labels.nii.gz", "landmarks.csv"}
    assert {path.name for path in (pair / "out").iterdir()} == plain
    (pair / "points.csv").write_text("x_lps,y_lps,z_lps,name\n-20,0,0,middle\n")
    run(pair, **labelled(pair), landmarks=pair / "points.csv", overwrite=True)
    assert {path.name for path in (pair / "out").iterdir()} == set(FILES)
    assert not list(pair.glob(".part*"))


def test_images_and_maps_lie_on_the_grids_of_their_scans(pair, known):
    run(pair, **labelled(pair))
    fixed, moving = (nib.load(pair / f"{role}.nii.gz") for role in ("fixed", "moving"))
    for name in ("warped", "warped_labels", "warp"):
        found = nib.load(pair / "out" / f"{name}.nii.gz")
        assert found.shape[:3] == fixed.shape
        np.testing.assert_allclose(found.affine, fixed.affine, atol=1e-5)
    backward = nib.load(pair / "out" / "inverse_warp.nii.gz")
    assert backward.shape == (*moving.shape, 1, 3)
    np.testing.assert_allclose(backward.affine, moving.affine, atol=1e-5)


def test_both_displacements_are_the_known_map(pair, known):
    mapping, _ = known
    run(pair)
    for name, expected in (("warp", mapping), ("inverse_warp", mapping.inverse())):
        field, affine = nifti.read_displacement(pair / "out" / f"{name}.nii.gz")
        index = np.array([[10, 12, 14], [20, 15, 9]])
        there = apply_affine(affine, index + field[tuple(index.T)])
        np.testing.assert_allclose(there, expected(apply_affine(affine, index)), atol=1e-3)


def test_landmarks_move_from_the_moving_to_the_fixed_scan(pair, known):
    mapping, _ = known
    fixed = np.array([[5.0, -3.0, 8.0], [-10.0, 4.0, 0.0]])
    table = pd.DataFrame(mapping(fixed) * [-1, -1, 1], columns=["x_lps", "y_lps", "z_lps"])
    table.assign(name=["a", "b"]).to_csv(pair / "points.csv", index=False)
    record = run(pair, landmarks=pair / "points.csv")
    moved = pd.read_csv(pair / "out" / "landmarks.csv")
    assert list(moved) == ["x_lps", "y_lps", "z_lps", "name"]
    np.testing.assert_allclose(moved[["x_lps", "y_lps", "z_lps"]] * [-1, -1, 1], fixed, atol=1e-3)
    assert record["metrics"]["landmark_error_mm"] < 1e-3


def test_the_report_has_measures_settings_and_notes(pair, known):
    _, asked = known
    record = run(pair, **labelled(pair), steps=3, spacing=1.0, alignment="centre")
    stored = records.read(pair / "out" / "report.json")
    assert stored["parameters"]["steps"] == 3 == asked["steps"]
    assert stored["parameters"]["moving"] == str(pair / "moving.nii.gz")
    measures = stored["metrics"]
    assert measures["dice"].keys() == {"1", "2"} == measures["dice_affine"].keys()
    assert 0.5 < measures["dice"]["1"] < 1
    assert measures["folded_voxels"] == 0 == measures["folding_percent_brain"]
    assert 0.9 < measures["correlation_affine"] <= 1
    assert list(measures["seconds"]) == ["apply the network", "write the results"]
    assert record["metrics"]["memory_gb"] > 0.1
    page = (pair / "out" / "report.html").read_text()
    for words in (
        "moving.nii.gz registered to fixed.nii.gz",
        "data:image/png;base64",
        "no medical",
    ):
        assert words in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=.(?!data:)", page)


def test_without_labels_there_is_no_dice(pair, known):
    measures = run(pair)["metrics"]
    assert "dice" not in measures and "landmark_error_mm" not in measures
    assert "Dice" not in (pair / "out" / "report.html").read_text().replace("overlap", "")


def test_names_with_spaces_and_letters_of_other_scripts(pair, known):
    folder = pair / "größe 脳 <b>"
    folder.mkdir()
    for path in pair.glob("*.nii.gz"):
        path.rename(folder / path.name)
    run(folder)
    assert (folder / "out" / "warped.nii.gz").is_file()
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "größe 脳 &lt;b&gt;" in page and "<b>" not in page


def test_a_folder_that_exists_is_kept_unless_it_may_be_replaced(pair, known):
    run(pair)
    with pytest.raises(InputError, match=r"this folder exists.*--overwrite"):
        run(pair)
    before = (pair / "out" / "report.json").read_text()
    run(pair, overwrite=True, steps=1)
    assert (pair / "out" / "report.json").read_text() != before
    (pair / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"found thesis.txt, expected only files of an earlier"):
        run(pair, overwrite=True)
    assert (pair / "out" / "thesis.txt").read_text() == "mine"


def test_an_output_that_cannot_be_a_folder_is_refused_before_anything_is_read(pair, known):
    (pair / "file").write_text("")
    for out in (pair / "file", pair / "file" / "out"):
        with pytest.raises(InputError, match="file"):
            outputs.register_files(pair / "missing.nii", pair / "missing.nii", out)


def test_nothing_is_left_when_a_step_fails(pair, known, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "write", broken)
    with pytest.raises(OSError, match="No space left"):
        run(pair)
    assert not (pair / "out").exists() and not list(pair.glob(".part*"))


def test_bad_input_is_refused_before_the_registration(pair, known):
    _, asked = known
    with pytest.raises(InputError, match=r"expected the grid of fixed.nii.gz"):
        run(pair, fixed_labels=pair / "moving_seg.nii.gz")
    with pytest.raises(InputError, match="no such file"):
        run(pair, landmarks=pair / "none.csv")
    assert not asked and not (pair / "out").exists()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return examples.two_scans(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def whole(heads, tmp_path_factory):
    """The whole way by the command, once: two simulated heads on awkward grids."""
    out = tmp_path_factory.mktemp("result") / "out"
    words = ["register", heads["moving"], heads["fixed"], "--out", out]
    for option in ("moving-labels", "fixed-labels", "landmarks"):
        words += [f"--{option}", heads[option.replace("-", "_")]]
    assert command.main(list(map(str, words))) == 0
    return out


def test_a_known_map_of_two_heads_is_recovered(heads, whole):
    measures = records.read(whole / "report.json")["metrics"]
    before, after = (np.mean(list(measures[name].values())) for name in ("dice_affine", "dice"))
    assert before < 0.65 and after > 0.78
    assert measures["correlation"] > 0.95 > 0.8 > measures["correlation_affine"]
    assert measures["folding_percent_brain"] < 0.1
    columns = ["x_ras", "y_ras", "z_ras"]
    moved, truth = (
        pd.read_csv(path)[columns].to_numpy() for path in (whole / "landmarks.csv", heads["truth"])
    )
    assert np.median(np.linalg.norm(moved - truth, axis=1)) < 3.5


def test_the_affine_part_is_close_to_the_pose_of_the_heads(heads, whole):
    import SimpleITK as sitk

    transform = sitk.ReadTransform(str(whole / "affine.txt"))
    moving, truth = (
        pd.read_csv(heads[name])[["x_ras", "y_ras", "z_ras"]].to_numpy() * [-1, -1, 1]
        for name in ("landmarks", "truth")
    )
    apart = np.linalg.norm([transform.TransformPoint(p) for p in truth] - moving, axis=1)
    assert np.linalg.norm(truth - moving, axis=1).mean() > 20  # the poses differ by more
    assert apart.mean() < 6


def test_a_head_with_its_skull_is_refused(heads, tmp_path):
    scan = inputs.read_scan(heads["fixed"])
    index = np.argwhere(scan.image > 0)
    middle, reach = index.mean(axis=0), np.ptp(index, axis=0) / 2
    x = (np.moveaxis(np.indices(scan.image.shape), 0, -1) - middle) / reach
    radius = np.linalg.norm(x, axis=-1)
    head = np.where((radius > 1.05) & (radius < 1.3), 500, scan.image)
    nifti.write(tmp_path / "head.nii.gz", head, scan.affine)
    with pytest.raises(InputError, match=r"head.nii.gz: found \d+ ml .* brain without skull"):
        register.register(
            inputs.read_scan(heads["moving"]), inputs.read_scan(tmp_path / "head.nii.gz")
        )


def test_half_a_brain_is_refused(heads, tmp_path):
    scan = inputs.read_scan(heads["moving"])
    half = scan.image.copy()
    half[:, :, half.shape[2] // 2 :] = 0
    nifti.write(tmp_path / "half.nii.gz", half, scan.affine)
    with pytest.raises(InputError, match=r"half.nii.gz: found a poor fit"):
        register.register(
            inputs.read_scan(tmp_path / "half.nii.gz"), inputs.read_scan(heads["fixed"])
        )


@pytest.mark.mirror
def test_real_scans_reach_the_dice_of_the_comparison():
    """The same network and steps, from native scans, and from scans that ANTs aligned at 1 mm."""
    people = cohorts.load("malf", ndim=3)
    both = [people.image(scan) for scan in ("1018", "1005")]  # validation subjects
    apply = network.load(None, people.shape, people.affine)
    optimise = InstanceOptimiser(people.shape, **OPTIMISER)
    field, _ = optimise(apply(*both), *both, steps=STEPS)
    moving, fixed = (people.labels(scan) for scan in ("1018", "1005"))
    expected = metrics.mean_dice(warp.warp_labels(moving, field), fixed)
    scans = [inputs.read_scan(malf.scan_path(scan)) for scan in ("1018", "1005")]
    mapping = register.register(*scans).mapping
    maps = []
    for scan, one, matrix in zip(
        ("1018", "1005"), scans, (mapping.after, np.linalg.inv(mapping.before)), strict=True
    ):
        native = labels.fold_manual(inputs.read_label_map(malf.labels_path(scan), one))
        place = {"shape": people.shape, "grid_affine": people.affine, "matrix": matrix}
        maps.append(preprocess.resample(native, one.affine, labels=True, **place))
    found = metrics.mean_dice(warp.warp_labels(maps[0], mapping.displacement), maps[1])
    assert found == pytest.approx(expected, abs=0.01)


def test_the_same_scan_twice_is_refused(heads):
    scan = inputs.read_scan(heads["moving"])
    with pytest.raises(InputError, match="found the same scan"):
        register.register(scan, scan)


def test_wrong_weights_are_refused(tmp_path):
    small = tmp_path / "small.h5"
    models.save(models.build((16, 16, 16), features="small"), small)
    (tmp_path / "text.h5").write_text("no weights")
    for path, words in (
        (tmp_path / "none.h5", "no such file"),
        (tmp_path / "text.h5", "found no saved network"),
        (small, r"found a network for \(16, 16, 16\) voxels, expected one for \(80, 96, 80\)"),
    ):
        with pytest.raises(InputError, match=words) as error:
            network.load(path, (80, 96, 80), np.eye(4))
        assert str(path) in str(error.value)


def test_the_command_says_what_is_wrong_and_returns_1(tmp_path, capsys):
    status = command.main(["register", "a.nii.gz", "b.nii.gz", "--out", str(tmp_path / "out")])
    assert status == 1
    assert capsys.readouterr().err == "vxmlib: a.nii.gz: no such file\n"
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(heads, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    words = ["register", heads["moving"], heads["fixed"], "--out", tmp_path / "out"]
    assert command.main(list(map(str, words))) == 1
    assert "pip install SimpleITK" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_leaves_nothing(heads, tmp_path, number, status):
    words = ["register", heads["moving"], heads["fixed"], "--out", tmp_path / "out"]
    started = subprocess.Popen(
        [sys.executable, "-m", "vxmlib.scans.command", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and a child inherits this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in started.stdout:
        if "align the moving scan" in line:
            break
    started.send_signal(number)
    assert started.wait(60) == status
    assert not list(tmp_path.iterdir())


def test_the_help_names_every_file_and_an_example(capsys):
    with pytest.raises(SystemExit) as done:
        command.main(["register", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FILES)
    assert "antsApplyTransforms" in text and "skull-stripped" in text


def test_the_report_is_json_that_others_can_read(whole):
    stored = json.loads((whole / "report.json").read_text())
    assert stored["versions"]["tensorflow"] and stored["seconds"] > 0
    assert set(stored["metrics"]["seconds"]) >= {"align the fixed scan", "optimise"}
