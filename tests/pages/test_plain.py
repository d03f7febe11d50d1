"""Plain notebooks: what the book adds to them, and the cell that installs the package elsewhere."""

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tools import plain
from tools.lesson import read_source
from vxmlib.scans.network import shipped_weights

# -- from plain Markdown to MyST -------------------------------------------------------------------


def test_a_marked_quotation_becomes_an_admonition_with_all_that_it_holds():
    text = (
        "Before.\n\n> **Warning: check the header**\n>\n> Two steps:\n>\n> - read\n>   - twice\n>\n"
        "> ```python\n> x = 1\n> ```\n\nAfter.\n"
    )
    assert plain.dress(text) == (
        "Before.\n\n:::{admonition} Check the header\n:class: warning\n\nTwo steps:\n\n- read\n"
        "  - twice\n\n```python\nx = 1\n```\n:::\n\nAfter.\n"
    )


def test_two_quotations_stay_two_and_a_kind_alone_is_a_title():
    dressed = plain.dress("> **Note**\n>\n> One.\n\n> **Tip: try it**\n>\n> Two.\n")
    assert dressed.count(":::{admonition}") == 2
    assert ":::{admonition} Note\n:class: note\n" in dressed
    assert ":::{admonition} Try it\n:class: tip\n" in dressed


def test_a_link_to_the_glossary_becomes_a_term_and_other_links_stay():
    text = "a [fold](../book/glossary.md#fold), [all](../book/glossary.md), [x](04_dice.ipynb#y)"
    assert plain.dress(text) == (
        "a {term}`fold <fold>`, [all](../book/glossary.md), [x](04_dice.ipynb#y)"
    )


@pytest.mark.parametrize("text", ["", "> A quotation.\n", "**Note: bold**\n", "> **Danger: no**\n"])
def test_other_text_stays_as_it_is(text):
    assert plain.dress(text) == text


# -- the cell that installs ------------------------------------------------------------------------


def test_every_notebook_begins_with_the_cell_and_its_source_has_none(root, lesson):
    notebook = json.loads((root / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf8"))
    tagged = [plain.INSTALL in cell["metadata"].get("tags", ()) for cell in notebook["cells"]]
    assert tagged[0]
    assert not any(tagged[1:])
    cells = read_source(root / "notebooks" / f"{lesson}.py").cells
    assert not any(plain.INSTALL in cell.metadata.get("tags", ()) for cell in cells)


def test_a_source_that_was_synchronised_from_its_notebook_loses_the_cell_again(tmp_path):
    (tmp_path / "a.py").write_text('# %% tags=["install"]\nimport sys\n\n# %%\nx = 1\n')
    assert [cell.source for cell in read_source(tmp_path / "a.py").cells] == ["x = 1"]


def test_the_source_is_a_repository_or_a_file():
    assert (
        'SOURCE = "git+https://example.org/book"'
        in plain.install_cell("https://example.org/book").source
    )
    assert 'SOURCE = "book.whl"' in plain.install_cell("book.whl").source


def run(python, source, tmp_path):
    """Run the source of a cell by a Python, away from the project."""
    return subprocess.run(
        [python, "-I", "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )


@pytest.fixture
def empty(tmp_path):
    """The Python of an empty environment."""
    venv.create(tmp_path / "empty", with_pip=True)
    return tmp_path / "empty" / "bin" / "python"


def test_without_an_address_it_says_what_to_do(empty, tmp_path):
    done = run(empty, plain.install_cell("").source, tmp_path)
    assert done.returncode
    assert "set SOURCE to the book's project folder" in done.stderr.splitlines()[-1]


@pytest.mark.book
def test_in_an_empty_environment_it_installs_the_pinned_packages_once(root, empty, tmp_path):
    # From a copy: setuptools leaves a folder `build` beside what it packs.
    skipped = shutil.ignore_patterns(".*", "_build", "*.ipynb")
    shutil.copytree(root, tmp_path / "project", ignore=skipped)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", tmp_path, tmp_path / "project"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert packed >= {shipped_weights().name, "niivue.umd.js", "requirements.lock"}
    cell = plain.install_cell(str(wheel)).source
    done = run(empty, cell, tmp_path)
    assert done.returncode == 0, done.stderr
    listed = [empty, "-m", "pip", "list", "--format=json"]
    found = json.loads(subprocess.run(listed, capture_output=True, check=True).stdout)
    versions = {p["name"].lower().replace("_", "-"): p["version"] for p in found}
    for line in Path(root, "requirements.lock").read_text(encoding="utf8").splitlines():
        if line.startswith(("tensorflow==", "tf-keras==", "voxelmorph==", "neurite==")):
            name, version = line.split(" ")[0].split("==")
            assert versions[name] == version
    used = run(
        empty, f"{cell}\nfrom vxmlib.backend import vxm; print(vxm.networks.VxmDense)", tmp_path
    )
    assert "VxmDense" in used.stdout, used.stderr
    assert "Installing" not in used.stdout + used.stderr
