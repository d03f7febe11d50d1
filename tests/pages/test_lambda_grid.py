"""The command behind `make lambda`, on a lesson 7 that takes no time."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import book
from tools.book import only_one
from vxmlib.experiments import sweep

pytestmark = pytest.mark.book


@pytest.fixture
def minigrid(tmp_path, root):
    """A small book with a grid, to change; call it to run the grid."""
    book = tmp_path / "book"
    shutil.copytree(Path(__file__).parent / "data" / "minigrid", book)

    def run():
        command = [sys.executable, "-m", "tools.book", "grid", "--root", str(book)]
        command += ["--build", str(run.build), "--cores", "2"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def state(old, new):
        path = book / "config" / "lambda.yaml"
        text = path.read_text(encoding="utf8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf8")

    run.build, run.state = tmp_path / "out", state
    run.records = run.build / "lambda" / "wide-mni-quick"
    return run


def started(output):
    """Which λ a run of the grid started, by its progress lines."""
    return sorted(float(lam) for lam in re.findall(r"λ=(\S+) int0 seed0 +0:0\d  A run", output))


def test_a_grid_runs_what_is_missing_and_nothing_twice(minigrid):
    status, output = minigrid()
    assert status == 0, output
    assert "λ grid wide: 2 runs, 0 of them finished" in output
    assert started(output) == [0.1, 1.0]
    assert f"Records: {minigrid.records}" in output
    assert sweep.runs(minigrid.records)["lam"].tolist() == [0.1, 1.0]
    assert len(list((minigrid.records / "executed").glob("*.ipynb"))) == 2

    status, output = minigrid()
    assert (status, started(output)) == (0, [])
    assert "2 runs, 2 of them finished" in output

    minigrid.state("[0.1, 1]", "[0.1, 0.5, 1]")
    status, output = minigrid()
    assert (status, started(output)) == (0, [0.5])

    next(minigrid.records.glob("*lam1-*.json")).unlink()  # as if it had been interrupted there
    status, output = minigrid()
    assert (status, started(output)) == (0, [1.0])

    minigrid.state("spacing: 2.0", "spacing: 1.5")  # of all runs
    status, output = minigrid()
    assert (status, started(output)) == (0, [0.1, 0.5, 1.0])


def test_a_run_that_diverges_is_a_row_that_says_so(minigrid):
    minigrid.state("[0.1, 1]", "[1, 100]")
    status, output = minigrid()
    assert status == 0, output
    table = sweep.runs(minigrid.records)
    assert table["diverged"].tolist() == [False, True]
    assert table["dice_mean"].notna().tolist() == [True, False]
    text = next(minigrid.records.glob("*lam100-*.json")).read_text(encoding="utf8")
    assert "the loss became nan at step 3" in text
    assert started(minigrid()[1]) == []  # it is known now


def test_a_run_that_fails_leaves_the_others_unharmed(minigrid):
    minigrid.state("[0.1, 1]", "[7, 1]")
    status, output = minigrid()
    assert status == 1
    assert "RuntimeError: this lesson has a mistake" in output
    assert "some runs did not finish" in output
    assert sweep.runs(minigrid.records)["lam"].tolist() == [1.0]
    assert not list(minigrid.records.glob(".run-*"))
    status, output = minigrid()
    assert (status, started(output)) == (1, [7.0])


def test_a_wrong_grid_stops_before_anything_runs(minigrid):
    minigrid.state("[0.1, 1]", "[0.1, -1]")
    status, output = minigrid()
    assert status == 1
    assert "ERROR:" in output and "grids.wide.runs[0].lam[1]: found -1" in output
    assert not minigrid.records.exists()


def test_two_grids_cannot_write_to_one_folder_at_once(minigrid):
    minigrid.build.mkdir()
    with only_one(minigrid.build):
        status, output = minigrid()
    assert status == 1
    assert "another build is running" in output


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_the_letter_lambda_shows_a_question_mark(
    tmp_path, monkeypatch, encoding
):
    root = Path(__file__).parent / "data" / "minigrid"
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(book, "_snakemake", lambda *_: 0)
    assert book.main(["grid", "--root", str(root), "--build", str(tmp_path)]) == 0
    terminal.flush()
    assert "? grid wide: 2 runs" in terminal.buffer.getvalue().decode(encoding)
