"""The benchmark of a training step measures what it says; no time is compared with any other."""

import json
import os
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from vxmlib import records

# The first size is 48, because bfloat16 convolutions of TensorFlow 2.21 have wrong gradients where
# the first axis of a volume has only 2 voxels, which is the case at 1/16 of 32.
SHAPE = (48, 16, 16)


@pytest.fixture(scope="module", autouse=True)
def beside(root):
    """The scripts import each other, as a script finds the modules beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "benchmarks")
        yield


@pytest.fixture(scope="module")
def contenders(beside):
    return import_module("step_contenders")


@pytest.fixture(scope="module")
def script(beside):
    return import_module("training_step")


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """One run of all networks in TensorFlow: its output and the networks of its report."""
    file = tmp_path_factory.mktemp("benchmark") / "report.json"
    command = [sys.executable, root / "benchmarks" / "training_step.py", "--json", file]
    command += ["--rounds", "1", "--repeats", "1", "--shape", *map(str, SHAPE)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(file.read_text(encoding="utf-8"))["steps"]
    assert report["shape"] == list(SHAPE)
    return done.stdout, report["networks"]


def test_a_run_measures_each_network_and_names_what_it_leaves_out(run, contenders):
    output, networks = run
    assert list(networks) == list(contenders.NETWORKS)
    assert all(name in output for name in networks)
    assert "PyTorch are left out" in output
    for result in networks.values():
        assert result["best_seconds"] > 0 and result["peak_gflops"] > 0
        assert result["peak_gb"] >= result["peak_gb_before"] > 0


def test_both_ncc_train_alike_and_half_precision_nearly(run):
    _, networks = run
    stock, ours, halved, *_ = (result["losses"] for result in networks.values())
    assert -1 < stock[-1] < stock[0] < -0.5
    np.testing.assert_allclose(ours, stock, atol=1e-5)
    np.testing.assert_allclose(halved, stock, atol=1e-3)


def test_weights_and_operations_are_those_of_the_papers_network(run):
    """Channels in and out of VxmDense's convolutions, and the stride of the grid of each."""
    layers = [(2, 16, 1), (16, 32, 2), (32, 32, 4), (32, 32, 8)]
    layers += [(32, 32, 16), (64, 32, 8), (64, 32, 4), (64, 32, 2)]
    layers += [(48, 32, 1), (32, 16, 1), (16, 16, 1), (16, 3, 1)]
    weights = sum(27 * n * m + m for n, m, _ in layers)
    adds = sum(27 * n * m * np.prod(SHAPE) / stride**3 for n, m, stride in layers)
    for result in list(run[1].values())[:3]:
        assert result["weights"] == weights
        assert result["gflop"] == pytest.approx(3 * 2 * adds / 1e9)


def test_operations_of_a_strided_convolution(contenders):
    from vxmlib.backend import tf

    image = tf.keras.Input((8, 8, 8, 2))
    model = tf.keras.Model(image, tf.keras.layers.Conv3D(5, 3, 2, padding="same")(image))
    assert contenders.convolution_flops(model) == 2 * 4**3 * 27 * 2 * 5


@pytest.mark.parametrize(
    ("losses", "after", "message"),
    [
        ([-0.5, -0.5], 1, "does not fall"),
        ([-0.5, float("nan")], 1, "does not fall"),
        ([float("inf"), -0.5], 1, "does not fall"),
        ([-0.5, -0.6], 0, "leaves some weights"),
    ],
)
def test_a_network_that_does_not_learn_is_not_timed(contenders, losses, after, message):
    before = [np.zeros(3), np.zeros(3)]
    with pytest.raises(SystemExit, match=message):
        contenders.check_learns(losses, before, [np.ones(3), np.full(3, after)])


def test_each_part_of_a_step_computes_a_gradient(contenders):
    parts = import_module("step_parts").make_parts(*contenders.make_pair(SHAPE))
    assert list(parts) == ["network", "warp", "NCC", "Grad", "Adam"]
    parts.pop("Adam")()
    for name, part in parts.items():
        value, gradient = part()
        assert np.isfinite(value), name
        for each in gradient if isinstance(gradient, list) else [gradient]:
            assert 0 < np.abs(each.numpy()).max() < np.inf, name


def test_a_batch_is_the_augmented_pair(contenders):
    pair = contenders.make_pair(SHAPE)
    (moving, fixed), _ = next(import_module("step_parts").batches(*pair))
    for image in (moving, fixed):
        assert image.shape == (1, *SHAPE, 1)
        assert all(np.abs(image[0, ..., 0] - each).max() > 0.01 for each in pair)


def test_rounds_are_joined(script):
    common = {"gflop": 12.0, "weights": 5, "losses": [], "device": "", "versions": {}}
    first = common | {"seconds": [4.0, 3.0], "peak_gb": 2.0, "peak_gflops": 8.0}
    second = common | {"seconds": [9.0], "peak_gb": 1.0, "peak_gflops": 6.0}
    joined = script.join([first, second])
    assert (joined["best_seconds"], joined["median_seconds"], joined["peak_gb"]) == (3, 4, 2)
    assert (joined["gflops"], joined["share_of_peak"]) == (4, 0.5)
    assert script.join([first, {"failed": "no memory"}]) == {"failed": "no memory"}


def test_shares_of_the_parts(script):
    def seconds(scale):
        return {"NCC": [scale], "Grad": [2 * scale], "whole step": [4 * scale], "batch": [scale]}

    rounds = [{"whole": "whole step", "seconds": seconds(scale)} for scale in (2, 1)]
    rows = script.join_parts(rounds)["rows"]
    assert list(rows) == ["NCC", "Grad", "all parts", "whole step", "batch"]
    assert [row["share_of_step"] for row in rows.values()] == [0.25, 0.5, 0.75, 1, 0.25]


def test_a_failure_is_reported(script, capsys):
    options = SimpleNamespace(peers=None, repeats=1)
    result = script.run_apart("missing.py", SHAPE, options)
    assert "missing.py" in result["failed"]
    script.show_steps(SHAPE, {"some network": result})
    assert "some network" in capsys.readouterr().out


def test_a_folder_without_an_environment_is_refused(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--peers", str(tmp_path)])
    with pytest.raises(SystemExit):
        script.read_options()
    assert f"sh benchmarks/peers.sh {tmp_path}" in capsys.readouterr().err


def test_the_registration_of_two_files_is_measured(root, tmp_path):
    record = tmp_path / "limits.json"
    command = [sys.executable, root / "benchmarks" / "own_scans.py", "--record", record]
    command += ["--coarse", "2", "--steps", "1", "--spacings", "2.0"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (row,) = records.read(record)["metrics"]["rows"]
    assert row["grid"] == [80, 96, 80] and row["spacing"] == 2.0
    parts = [value for name, value in row.items() if name.startswith("seconds_")]
    assert all(value > 0 for value in parts) and sum(parts) < row["seconds"]
    assert 0.5 < row["dice"] < 1 and row["memory_gb"] > 0.3
