"""The gate: what is wrong in a lesson or a page fails the command behind `make book`."""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tools.book import only_one

pytestmark = pytest.mark.book

FAILING = """
# %% [markdown]
# ## A cell that must fail

# %%
numerator = 1
numerator / 0
"""
BOTH = ("--lessons", "1 2")  # run both lessons, render nothing


def append(path, text):
    path.write_text(path.read_text(encoding="utf8") + text, encoding="utf8")


def ran(book):
    """Which lessons a build ran, by its progress lines."""
    assert book.status == 0, book.output
    return sorted(set(re.findall(r"\] (\w+) +0:", book.output)))


def test_a_good_book_builds_and_says_where_it_is(minibook, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://github.com/ann/book")
    book = minibook()
    assert book.status == 0, book.output
    front = book.build / "html" / "index.html"
    assert f"Front page: {front}" in book.output
    assert front.exists()
    assert (book.build / "site" / "mni-quick" / "book" / "pictures" / "package.svg").exists()
    # Progress: which lesson, how long, which step.
    assert re.search(r"\[1/2\] 01_make +0:\d\d  Draw it", book.output)
    page = book.page("notebooks/01_make", "html")
    assert '<span class="pasted-text">0.25</span>' in page
    assert 'alt="A line that rises"' in page
    # The launch buttons open the notebook that is in the repository.
    assert "colab.research.google.com/github/ann/book/blob/main/notebooks/01_make.ipynb" in page
    assert "mybinder.org/v2/gh/ann/book/main?urlpath=tree/notebooks/01_make.ipynb" in page
    assert re.search(r"Fig\. 1 .*It ends at .*0\.2", re.sub("<[^>]+>", " ", page))


def test_a_failing_cell_fails_the_build(minibook):
    source = minibook.root / "notebooks" / "02_use.py"
    good = source.read_text(encoding="utf8")
    append(source, FAILING)
    book = minibook()
    assert book.status != 0
    assert "lesson 02_use failed" in book.output
    assert "ZeroDivisionError: division by zero" in book.output
    assert "----> 2 numerator / 0" in book.output
    assert "Front page" not in book.output
    folder = book.build / "executed" / "mni-quick"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["01_make.ipynb", "02_use.failed.ipynb"]
    assert not (book.build / "html").exists()
    # Mended, it goes on where it stopped and leaves nothing of the failure.
    source.write_text(good, encoding="utf8")
    assert ran(minibook(*BOTH)) == ["02_use"]
    assert not list(book.build.rglob("*.failed.ipynb"))


def test_a_missing_product_fails_the_build(minibook):
    source = minibook.root / "notebooks" / "01_make.py"
    text = source.read_text(encoding="utf8").replace("value.txt", "other.txt")
    source.write_text(text, encoding="utf8")
    book = minibook("--lessons", "1")
    assert book.status != 0
    assert "did not write: value.txt" in book.output


def test_a_kernel_that_dies_fails_the_build(minibook):
    append(minibook.root / "notebooks" / "01_make.py", "\n# %%\nimport os\n\nos._exit(3)\n")
    book = minibook("--lessons", "1")
    assert book.status != 0
    assert "lesson 01_make failed: its Python process died" in book.output
    assert not (book.build / "executed" / "mni-quick" / "01_make.ipynb").exists()


def test_every_dangling_reference_fails_the_build(minibook):
    append(
        minibook.root / "book" / "index.md",
        "\n{term}`nothing`, {cite}`nobody1900`, {numref}`fig-none`, [x](../notebooks/09_x.ipynb)\n",
    )
    append(
        minibook.root / "notebooks" / "02_use.py",
        "\n# %% [markdown]\n# {glue:text}`unglued:.2f`, {eq}`eq-none`, {ref}`no-label`\n",
    )
    book = minibook()
    assert book.status != 0
    for complaint in (
        r"book/index.md:5: .*'nothing'",
        r"'nobody1900'|\"nobody1900\"|nobody1900",
        r"'fig-none'",
        r"09_x",
        r"'unglued'",
        r"eq-none",
        r"'no-label'",
    ):
        assert re.search(complaint, book.output), complaint
    assert not (book.build / "html").exists()


def test_a_lesson_runs_again_when_something_it_depends_on_changed_and_only_then(minibook):
    minibook.take_code()
    root, both = minibook.root, ["01_make", "02_use"]
    append(root / "notebooks" / "02_use.py", "\n# %%\nfrom vxmlib import metrics\n")
    committed = "results/runs/a/one.json"
    for name in ("requirements.lock", committed):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1\n")
    assert ran(minibook("--lessons", "2")) == both  # with what it needs
    assert ran(minibook(*BOTH)) == []
    # From here on, ask Snakemake what it would run.
    append(root / "book" / "index.md", "\nMore.\n")
    assert minibook.plan() == ["html"]
    assert minibook.plan("seed=1") == [*both, "html"]
    assert minibook.plan("cohort=malf", "profile=smoke") == [*both, "html"]
    for name, lessons in {
        "requirements.lock": both,
        committed: ["02_use"],  # which alone reads it
        "vxmlib/metrics.py": ["02_use"],  # which alone imports it
        "vxmlib/warp.py": both,  # the cohort is made with it
        "vxmlib/losses.py": [],
    }.items():
        before = (root / name).read_text(encoding="utf8")
        append(root / name, "# 2\n")
        assert minibook.plan() == [*lessons, "html"], name
        (root / name).write_text(before, encoding="utf8")
    append(root / "notebooks" / "02_use.py", "\n# %%\n1 + 1\n")
    assert minibook.plan() == ["02_use", "html"]
    minibook.out.joinpath("products", "mni-quick", "01_make", "value.txt").unlink()
    assert minibook.plan(target="executed/mni-quick/02_use.ipynb") == both


@pytest.mark.parametrize("relative", [False, True])
def test_a_lesson_on_own_scans_depends_on_each_file_of_their_folder(minibook, tmp_path, relative):
    files = {"ann.nii.gz", "labels.csv", "labels/ann.nii.gz"}
    (tmp_path / "scans" / "labels").mkdir(parents=True)
    for name in files:
        (tmp_path / "scans" / name).touch()
    own = os.path.relpath(tmp_path / "scans", minibook.root) if relative else tmp_path / "scans"
    text = minibook.dry_run("cohort=own", f"own={own}")
    inputs = re.findall(r"^rule lesson_\w+:\n    input: (.*)$", text, re.MULTILINE)
    assert len(inputs) == 2
    for names in inputs:
        named = {os.path.normpath(name) for name in names.split(", ")}
        assert {str(tmp_path / "scans" / name) for name in files} <= named


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--lessons", "7", "LESSONS: found '7', expected some of: 01_make, 02_use"),
        ("--cohort", "mars", "cohort: found 'mars', expected one of: "),
        ("--profile", "slow", "profile: found 'slow', expected one of: "),
        ("--seed", "-1", "seed: found -1"),
        ("--cohort", "own", "root: found None"),
    ],
)
def test_a_wrong_request_stops_before_anything_runs(minibook, option, value, complaint):
    book = minibook(option, value)
    assert book.status != 0
    assert complaint in book.output
    assert not book.build.exists()


def test_two_builds_at_once_are_refused(minibook, tmp_path):
    (tmp_path / "out").mkdir()
    with only_one(tmp_path / "out"):
        book = minibook()
    assert book.status != 0
    assert "another build is running" in book.output
    with only_one(tmp_path / "out"):
        pass


@pytest.fixture
def asleep(minibook, root):
    """A build whose first lesson sleeps: its process, and all that it has started."""
    source = minibook.root / "notebooks" / "01_make.py"
    awake = source.read_text(encoding="utf8")
    append(source, "\n# %% [markdown]\n# ## Sleep\n\n# %%\nimport time\n\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "tools.book", "build", "--root", str(minibook.root)]
    command += ["--build", str(minibook.out), "--lessons", "1", "--cores", "2"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert any("Sleep" in line for line in process.stdout)
        children = psutil.Process(process.pid).children(recursive=True)
        source.write_text(awake, encoding="utf8")
        yield process, children
        for child in children:
            if child.is_running():
                child.kill()


def test_a_build_that_is_asked_to_end_ends_with_all_that_it_started(asleep, minibook):
    process, children = asleep
    assert any("ipykernel" in " ".join(child.cmdline()) for child in children)
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert not [child for child in children if child.is_running()]
    assert ran(minibook("--lessons", "1")) == ["01_make"]


def test_the_folder_stays_locked_while_anything_of_a_killed_build_lives(asleep, minibook):
    process, children = asleep
    process.kill()
    process.wait()
    with pytest.raises(RuntimeError, match="another build is running"), only_one(minibook.out):
        pass
    os.killpg(children[0].pid, signal.SIGTERM)
    assert not psutil.wait_procs(children, timeout=60)[1]
    with only_one(minibook.out):
        pass
