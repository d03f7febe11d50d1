"""What the page tests share: sources, a small book for the gate, one smoke run of the real one."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from tools.book import lessons
from tools.lesson import read_source

ROOT = Path(__file__).resolve().parents[2]
LESSONS = list(lessons(ROOT))


def pytest_generate_tests(metafunc):
    """A test that asks for ``lesson`` runs once for each lesson of config/book.yaml."""
    if "lesson" in metafunc.fixturenames:
        metafunc.parametrize("lesson", LESSONS)


@dataclass
class Book:
    """A finished (or failed) build: its folder, exit status and what it printed."""

    build: Path
    status: int
    output: str

    def notebook(self, lesson: str, run: str = "mni-smoke"):
        """An executed lesson."""
        return nbformat.read(self.build / "executed" / run / f"{lesson}.ipynb", as_version=4)

    def page(self, name: str, html: str = "html-mni-smoke") -> str:
        """A rendered page."""
        return (self.build / html / f"{name}.html").read_text(encoding="utf8")


def run_build(build: Path, *options: str, root: Path = ROOT, code: Path = ROOT) -> Book:
    """Run the very command of ``make book``, with the modules that lie in the folder ``code``."""
    command = [sys.executable, "-m", "tools.book", "build", "--build", str(build)]
    command += ["--root", str(root), "--cores", "2", *options]
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, check=False)
    return Book(build, done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Book:
    """The whole book in profile smoke, run once for all tests that read it.

    With ``BOOK_SMOKE_BUILD=FOLDER`` it is kept there, and only what changed runs the next time.
    """
    kept = os.environ.get("BOOK_SMOKE_BUILD")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("smoke")
    book = run_build(folder, "--profile", "smoke")
    if book.status:
        pytest.fail(f"the smoke book was not built:\n{book.output}", pytrace=False)
    return book


@pytest.fixture
def minibook(tmp_path):
    """A copy of the two-lesson book in data/, to break; call it to build it.

    ``.dry_run()`` is what a plain ``snakemake`` says it would do, ``.plan()`` its rules. After
    ``.take_code()`` the modules are a copy that lies in the book's own folder, as in a checkout.
    """
    root = tmp_path / "book"
    shutil.copytree(Path(__file__).parent / "data" / "minibook", root)

    def build(*options: str) -> Book:
        return run_build(tmp_path / "out", *options, root=root, code=build.code)

    def take_code() -> None:
        for name in ("vxmlib", "tools"):
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, root / name, ignore=skipped)
        for name in ("Snakefile", "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        build.code = root

    def dry_run(*config: str, target: str = "book") -> str:
        command = [sys.executable, "-m", "snakemake", target]
        command += ["--snakefile", str(build.code / "Snakefile")]
        command += ["--directory", str(tmp_path / "out"), "--cores", "2", "--dry-run"]
        command += ["--config", f"root={root}", *config]
        done = subprocess.run(command, cwd=build.code, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def plan(*config: str, target: str = "book") -> list[str]:
        text = dry_run(*config, target=target)
        return sorted(set(re.findall(r"^rule (?:lesson_)?(\w+):", text, re.MULTILINE)) - {"book"})

    build.root, build.code, build.out = root, ROOT, tmp_path / "out"
    build.dry_run, build.plan, build.take_code = dry_run, plan, take_code
    return build


@pytest.fixture
def cells():
    """Read a lesson source's cells."""

    def read(lesson: str) -> list:
        return read_source(ROOT / "notebooks" / f"{lesson}.py").cells

    return read


@pytest.fixture
def figure_of():
    """The ``mystnb`` figure data of a cell: (alt text, caption, name), empty where not given."""

    def find(cell) -> tuple[str, str, str]:
        data = json.loads(json.dumps(cell.metadata.get("mystnb", {})))
        figure = data.get("figure", {})
        alt = data.get("image", {}).get("alt", "")
        return alt, figure.get("caption", ""), figure.get("name", "")

    return find
