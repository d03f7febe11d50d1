"""The script of one page: the file, its copy in the text and the cells that run are one program."""

import ast
import re
import subprocess
import sys

import numpy as np
import pytest

SETTINGS = {"path", "epochs", "seed"}  # a reader's; the page has its own


@pytest.fixture(scope="module")
def source(root):
    return (root / "examples" / "one_page.py").read_text(encoding="utf8")


def program(text):
    """The statements of a program without its docstring and its settings."""
    tree = ast.parse(text)
    if ast.get_docstring(tree):
        del tree.body[0]
    assigned = [getattr(node, "targets", [None])[0] for node in tree.body]
    kept = zip(tree.body, assigned, strict=True)
    return [ast.unparse(node) for node, to in kept if getattr(to, "id", "") not in SETTINGS]


def brains(path):
    """Save four small subjects: a disc of another size in each, as image and as label map."""
    place = np.indices((32, 32)) - 15.5
    distance = np.hypot(*place)
    images = np.stack([np.clip(radius - distance, 0, 4) / 4 for radius in (8, 9, 10, 12)])
    np.savez(path, images=images.astype("float32"), labels=(images > 0.5).astype("int16"))


def test_the_text_shows_the_file(source, cells):
    fenced = [re.findall(r"```python\n(.*?)```", c.source, re.DOTALL) for c in cells("one_page")]
    assert [block for blocks in fenced for block in blocks] == [source]


def test_the_page_runs_the_file(source, cells):
    run = [c.source for c in cells("one_page") if "script" in c.metadata.get("tags", ())]
    assert program("\n".join(run)) == program(source)
    assert all(len(cell.splitlines()) <= 12 for cell in run)


def test_the_file_has_one_page_and_needs_no_helper(source):
    code = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 50
    assert "vxmlib" not in source
    assert set(re.findall(r"^(\w+) = ", source, re.MULTILINE)) >= SETTINGS


def test_the_file_runs_as_it_is(source, tmp_path):
    brains(tmp_path / "brains.npz")
    (tmp_path / "one_page.py").write_text(source, encoding="utf8")
    command = [sys.executable, "one_page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after, folded = re.search(
        r"Dice before: ([\d.]+)\nDice after:  ([\d.]+)\nFolded:      ([\d.]+) % of the brain",
        done.stdout,
    ).groups()
    assert float(before) < float(after) <= 1
    assert 0 <= float(folded) <= 100
