"""Run one lesson by papermill, and keep its executed notebook only if every cell ran."""

import json
import os
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import jupytext
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from traitlets.config import Config

from tools import plain
from vxmlib import files

#: Lines shown of a failing cell and its message; the failed notebook keeps them all.
SHOWN_LINES = 25
#: File in a lesson's own folder with its seconds and memory.
COST = "cost.json"
#: Seconds between two signs of life while one step lasts.
HEARTBEAT = 60


class LessonError(RuntimeError):
    """A lesson did not run through; the text says which cell and why.

    ``kind`` is the name of the exception that a cell raised ("" if none did), ``reason`` its
    message, ``notebook`` the file with the lesson as far as it came.
    """

    def __init__(
        self, text: str, *, kind: str = "", reason: str = "", notebook: Path | None = None
    ):
        super().__init__(text)
        self.kind, self.reason, self.notebook = kind, reason, notebook


@dataclass
class Problem:
    """What went wrong: for people, and the exception's name and message."""

    text: str
    kind: str = ""
    reason: str = ""


def read_source(source: Path):
    """Read a lesson's ``.py`` (py:percent) as a notebook whose cell ids never change by chance.

    jupytext draws random ids; a counter makes the same source the same notebook, byte by byte.
    """
    notebook = plain.without_install(jupytext.read(source, fmt="py:percent"))
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"cell-{number:02d}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata.get("jupytext", {}).pop("notebook_metadata_filter", None)
    return notebook


def notebook_text(source: Path) -> str:
    """The text of the ``.ipynb`` that belongs to a source: no outputs, always the same.

    It has the cells of the source, after one that installs the package where it is missing.
    """
    notebook = read_source(source)
    config = source.parents[1] / "_config.yml"
    address = plain.repository(config) if config.exists() else ""
    notebook.cells.insert(0, plain.install_cell(address))
    return nbformat.writes(notebook) + "\n"


def write_notebooks(folder: Path) -> list[Path]:
    """Write the ``.ipynb`` beside each lesson source; return the files that changed."""
    changed = []
    for source in sorted(folder.glob("*.py")):
        target, text = source.with_suffix(".ipynb"), notebook_text(source)
        if not target.exists() or target.read_text(encoding="utf8") != text:
            files.write_text(target, text)
            changed.append(target)
    return changed


def run_lesson(
    source: Path,
    output: Path,
    *,
    parameters: dict,
    products: Path,
    runs: Path,
    expected: list[str],
    threads: int,
    cwd: Path,
    label: str = "",
) -> None:
    """Execute a lesson with papermill and put the result at ``output`` in one step.

    Parameters
    ----------
    source, output
        The lesson's ``.py`` and the executed ``.ipynb`` to make.
    parameters
        For the cell tagged ``parameters``.
    products
        The run's folder (``VXMLIB_OUTPUT``); the lesson's own folder in it is emptied first.
    runs
        Where trained models are kept and found again (``VXMLIB_RUNS``).
    expected
        Files the lesson must leave in its own folder.
    threads, cwd, label
        Cores it may use, its working directory, and what its progress lines begin with.

    Raises
    ------
    LessonError
        A cell failed, the kernel died or a product is missing. The notebook as far as it came
        is then at ``output`` with ``.failed`` in its name, and nothing is at ``output``.
    """
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    folder = products / source.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="book-") as scratch:
        given, done = Path(scratch) / f"{source.stem}.ipynb", Path(scratch) / "done.ipynb"
        nbformat.write(read_source(source), given)
        began = time.monotonic()
        environment = _kernel_environment(Path(scratch), products, runs, threads)
        with mock.patch.dict(os.environ, environment):
            problem = _papermill(given, done, parameters, cwd, label)
        _keep_cost(folder / COST, time.monotonic() - began, threads)
        missing = [name for name in expected if not (folder / name).exists()]
        if problem is None and missing:
            problem = Problem(f"it ran, but did not write: {', '.join(missing)} (in {folder})")
        # The temporary folder may be on another disk: copy, then rename beside the target.
        if done.exists():
            with files.whole(failed if problem else output) as part:
                shutil.copy(done, part)
    if problem:
        raise LessonError(
            f"lesson {source.stem} failed: {problem.text}\n  as far as it came: {failed}",
            kind=problem.kind,
            reason=problem.reason,
            notebook=failed,
        )


def _keep_cost(path: Path, seconds: float, threads: int) -> None:
    """Write the time and memory that the lesson took, for the page on time and memory."""
    # Of all children that have ended, the largest: the kernel. Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9
    cost = {"seconds": round(seconds, 1), "peak_gb": round(peak, 3), "threads": threads}
    files.write_text(path, json.dumps(cost) + "\n")


def _papermill(given: Path, done: Path, parameters: dict, cwd: Path, label: str) -> Problem | None:
    """Run; return what went wrong, or None."""
    try:
        papermill.execute_notebook(
            given,
            done,
            parameters=parameters,
            cwd=cwd,
            kernel_name="python3",
            engine_name="book",
            progress_bar=False,
            progress=Progress(label),
            sockets=given.with_name("k"),
            start_timeout=300,
        )
    except papermill.PapermillExecutionError as error:
        return Problem(describe(error), error.ename, error.evalue)
    except DeadKernelError:
        return Problem("its Python died without a word; most often memory ran out")
    except RuntimeError as error:
        return Problem(f"its Python did not start: {error}")
    return None


def describe(error: papermill.PapermillExecutionError) -> str:
    """A failing cell in a few lines: its number, the lines around the mistake, the error."""
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    # Frames stand between empty lines; those of the libraries below the lesson say little here.
    frames = re.split(r"\n\s*\n|\n(?=File |Cell In)", trace)
    cells = [frame for frame in frames if frame.startswith("Cell In")][-1:]
    shown = [line[:300] for line in "\n".join(cells).splitlines()]
    shown += f"{error.ename}: {error.evalue}".splitlines()
    shown[SHOWN_LINES - 1 : -1] = []  # of a long message, the end says most
    lines = "\n".join(f"    {line}" for line in shown)
    return f"cell {error.exec_count} raised {error.ename}\n{lines}"


def _kernel_environment(scratch: Path, products: Path, runs: Path, threads: int) -> dict[str, str]:
    cores = str(threads)
    return {
        "VXMLIB_OUTPUT": str(products),
        "VXMLIB_RUNS": str(runs),
        "VXMLIB_GRIDS": str(runs.parent / "lambda"),
        # Two lessons at once must not each take every core.
        "OMP_NUM_THREADS": cores,
        "TF_NUM_INTRAOP_THREADS": cores,
        "TF_NUM_INTEROP_THREADS": cores,
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": cores,
        "PYTHONHASHSEED": "0",
        # That there is no GPU is no part of a page; vxmlib.backend tells the device in words.
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures land in the page
        # The kernel of this environment, without the user's own start-up files.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_RUNTIME_DIR": str(scratch / "run"),
        "IPYTHONDIR": str(scratch / "ipython"),
    }


class Progress:
    """Tell which section of which lesson runs, and every minute that it still does."""

    def __init__(self, label: str):
        self.label, self.start = label, time.monotonic()
        self.title, self.where, self.cell = "starting", "", None
        self.stopped = threading.Event()

    def say(self, words: str) -> None:
        """Print one line with the time since the lesson began."""
        seconds = int(time.monotonic() - self.start)
        print(f"{self.label}  {seconds // 60:2d}:{seconds % 60:02d}  {words}", flush=True)

    def enter(self, cell, index: int, total: int) -> None:
        """Note a cell that begins; a heading is a new step."""
        self.cell, self.where = cell, f"cell {index + 1} of {total}"
        heading = re.search(r"^#{1,2} (.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            self.title = heading.group(1)
            self.say(self.title)

    def __enter__(self):
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def _beat(self) -> None:
        while not self.stopped.wait(HEARTBEAT):
            self.say(f"… still at: {self.title} ({self.where}) {self.last_line()}")

    def last_line(self) -> str:
        """What the running cell printed last; of a training, the epoch."""
        outputs = self.cell.get("outputs", ()) if self.cell else ()
        printed = "".join(output.get("text", "") for output in outputs).split("\n")
        return next((line.strip()[:60] for line in reversed(printed) if line.strip()), "")

    def __exit__(self, kind, *_):
        self.stopped.set()


class BookEngine(NBClientEngine):
    """papermill's own engine, with progress by section and no network port.

    Kernels talk over ``sockets``, files in the lesson's own temporary folder: two that start at
    once cannot be given the same port, and nobody else on the machine can listen.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, progress, sockets, **kwargs):
        """Run all cells; ``progress`` is a :class:`Progress`, ``sockets`` how their names begin."""
        begin, total = nb_man.cell_start, len(nb_man.nb.cells)

        def cell_start(cell, cell_index=None, **more):
            progress.enter(cell, cell_index, total)
            begin(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        kwargs["config"] = Config({"KernelManager": {"transport": "ipc", "ip": str(sockets)}})
        # Figures with two pixels a CSS pixel: sharp on a telephone, and when they are enlarged.
        kwargs["extra_arguments"] = [
            "--IPKernelApp.log_level=CRITICAL",
            "--InlineBackend.figure_formats={'retina'}",
        ]
        with progress:
            super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register("book", BookEngine)
