"""The stack imports quietly, leaves Python as it was, and refuses what cannot work."""

import importlib.metadata
import inspect
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from vxmlib import backend
from vxmlib.backend import tf


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_keras_is_keras_2():
    assert tf.keras.Model.__module__.startswith("tf_keras.")


def test_import_is_quiet_and_leaves_no_getargspec_behind():
    code = "import inspect\nbefore = dir(inspect)\nfrom vxmlib import backend\n"
    code += "print(before == dir(inspect), float(backend.tf.zeros(())))"
    done = run_python(code)
    assert done.stdout.split() == ["True", "0.0"], done.stderr
    assert done.stderr == ""


def test_tensorflow_imported_before_with_keras_3_is_refused():
    code = "import os\nos.environ.pop('TF_USE_LEGACY_KERAS', None)\n"
    done = run_python(code + "import tensorflow as tf\ntf.keras.Model\nimport vxmlib.backend")
    assert done.returncode != 0
    assert "ImportError: TensorFlow was imported before vxmlib and chose Keras 3" in done.stderr
    assert "Import vxmlib first" in done.stderr


def test_getargspec_is_restored_only_while_needed(monkeypatch):
    monkeypatch.delattr(inspect, "getargspec", raising=False)
    with backend._getargspec_restored():
        assert inspect.getargspec(lambda a, b=1: None)[0] == ["a", "b"]
    assert not hasattr(inspect, "getargspec")


def test_a_getargspec_of_python_itself_is_kept(monkeypatch):
    monkeypatch.setattr(inspect, "getargspec", "its own", raising=False)
    with backend._getargspec_restored():
        assert inspect.getargspec == "its own"
    assert inspect.getargspec == "its own"


def test_only_start_up_notes_are_held_back(capfd):
    with backend._without_start_up_notes():
        os.write(2, b"I0000 00:00:1 1 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"ImportError: a real problem\n")
    assert capfd.readouterr().err == "ImportError: a real problem\n"


def test_stderr_is_not_lost_when_the_import_of_tensorflow_aborts(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'I0000 a note\\nF0000 the reason of the abort\\n')\nos.abort()"
    )
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom vxmlib import backend"
    done = run_python(code)
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == "F0000 the reason of the abort\n"


@pytest.mark.parametrize("found", ["0.3.1", None])
def test_the_pytorch_releases_are_refused(monkeypatch, found):
    def version(name):
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(backend.metadata, "version", version)
    with pytest.raises(ImportError, match=r"voxelmorph 0\.2 is needed, found (0\.3\.1|none)"):
        backend._check_versions()


def test_the_pytorch_switch_is_refused(monkeypatch):
    monkeypatch.setenv("VXM_BACKEND", "pytorch")
    with pytest.raises(ImportError, match="VXM_BACKEND is 'pytorch'"):
        backend._check_versions()


def test_keras_3_is_recognised():
    model = type("Model", (), {"__module__": "keras.src.models.model"})
    other = types.SimpleNamespace(keras=types.SimpleNamespace(Model=model))
    with pytest.raises(ImportError, match="comes from keras"):
        backend._check_keras(other)


def test_a_seed_fixes_weights():
    drawn = []
    for seed in (3, np.int64(3), 4):
        backend.set_seed(seed)
        drawn.append(tf.keras.layers.Dense(4)(tf.ones((1, 3))).numpy())
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1", True, None])
def test_no_other_seed(seed):
    with pytest.raises(ValueError, match=r"seed: found .* from 0 to 4294967295"):
        backend.set_seed(seed)


def test_device_and_versions_are_reported():
    assert backend.device_summary().startswith(("CPU: ", "GPU: "))
    assert backend.versions()["tensorflow"] == tf.__version__
