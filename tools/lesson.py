"""Run one lesson with papermill, and keep its executed notebook only if every cell succeeded."""

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

#: Number of lines that are printed of a failing cell and its error; the notebook has all of them.
SHOWN_LINES = 25
#: Name of the file, in the folder of a lesson's products, with its seconds and memory.
COST = "cost.json"
#: Seconds between two progress lines while one step runs.
HEARTBEAT = 60


class LessonError(RuntimeError):
    """A lesson failed; the message says in which cell, and why.

    ``kind`` is the name of the exception that a cell raised ("" if none did), ``reason`` is its
    message, and ``notebook`` is the file with the lesson up to the failure.
    """

    def __init__(
        self, text: str, *, kind: str = "", reason: str = "", notebook: Path | None = None
    ):
        super().__init__(text)
        self.kind, self.reason, self.notebook = kind, reason, notebook


@dataclass
class Problem:
    """A failure: a text for readers, and the name and message of the exception."""

    text: str
    kind: str = ""
    reason: str = ""


def read_source(source: Path):
    """Read a lesson's ``.py`` (py:percent) as a notebook with numbered cell ids.

    jupytext draws random ids. With numbers, the same source always gives the same notebook, byte by
    byte.
    """
    notebook = plain.without_install(jupytext.read(source, fmt="py:percent"))
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"cell-{number:02d}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata.get("jupytext", {}).pop("notebook_metadata_filter", None)
    return notebook


def notebook_text(source: Path) -> str:
    """Return the text of the ``.ipynb`` file of a source, without outputs.

    The first cell installs the package where it is missing, and the cells of the source follow. The
    same source always gives the same text.
    """
    notebook = read_source(source)
    config = source.parents[1] / "_config.yml"
    address = plain.repository(config) if config.exists() else ""
    notebook.cells.insert(0, plain.install_cell(address))
    return nbformat.writes(notebook) + "\n"


def write_notebooks(folder: Path) -> list[Path]:
    """Write the ``.ipynb`` file beside each lesson source, and return the files that changed."""
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
    """Execute a lesson with papermill and write the executed notebook to ``output``.

    The notebook is written completely or not at all.

    Parameters
    ----------
    source, output
        The ``.py`` file of the lesson, and the executed ``.ipynb`` file to write.
    parameters
        Values for the cell with the tag ``parameters``.
    products
        Folder for the products of the run (``VXMLIB_OUTPUT``). The lesson's subfolder is emptied
        first.
    runs
        Folder in which trained models are kept, to be loaded again (``VXMLIB_RUNS``).
    expected
        Files that the lesson must write to its subfolder of ``products``.
    threads, cwd, label
        Number of cores that the lesson may use, its working directory, and the start of its
        progress lines.

    Raises
    ------
    LessonError
        If a cell fails, the kernel dies or a product is missing. There is then no file ``output``,
        and the notebook up to the failure is beside it, with ``.failed`` in its name.
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
            problem = Problem(f"all cells ran, but did not write: {', '.join(missing)} ({folder})")
        # The temporary folder may be on another disk, so copy beside the target and then rename.
        if done.exists():
            with files.whole(failed if problem else output) as part:
                shutil.copy(done, part)
    if problem:
        raise LessonError(
            f"lesson {source.stem} failed: {problem.text}\n  notebook up to here: {failed}",
            kind=problem.kind,
            reason=problem.reason,
            notebook=failed,
        )


def _keep_cost(path: Path, seconds: float, threads: int) -> None:
    """Write the time and the memory that the lesson took, for the page about cost."""
    # The largest of all ended child processes is the kernel. Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9
    cost = {"seconds": round(seconds, 1), "peak_gb": round(peak, 3), "threads": threads}
    files.write_text(path, json.dumps(cost) + "\n")


def _papermill(given: Path, done: Path, parameters: dict, cwd: Path, label: str) -> Problem | None:
    """Run the notebook; return the failure, or None."""
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
        return Problem("its Python process died without a message; often, memory has run out")
    except RuntimeError as error:
        return Problem(f"its Python process did not start: {error}")
    return None


def describe(error: papermill.PapermillExecutionError) -> str:
    """Describe a failing cell in a few lines: its number, the code around the error, the error."""
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    # Empty lines separate the frames. Those of the libraries that the lesson calls are left out.
    frames = re.split(r"\n\s*\n|\n(?=File |Cell In)", trace)
    cells = [frame for frame in frames if frame.startswith("Cell In")][-1:]
    shown = [line[:300] for line in "\n".join(cells).splitlines()]
    shown += f"{error.ename}: {error.evalue}".splitlines()
    shown[SHOWN_LINES - 1 : -1] = []  # the end of a long message says most
    lines = "\n".join(f"    {line}" for line in shown)
    return f"cell {error.exec_count} raised {error.ename}\n{lines}"


def _kernel_environment(scratch: Path, products: Path, runs: Path, threads: int) -> dict[str, str]:
    cores = str(threads)
    return {
        "VXMLIB_OUTPUT": str(products),
        "VXMLIB_RUNS": str(runs),
        "VXMLIB_GRIDS": str(runs.parent / "lambda"),
        # Lessons that run at the same time must not each use all cores.
        "OMP_NUM_THREADS": cores,
        "TF_NUM_INTRAOP_THREADS": cores,
        "TF_NUM_INTEROP_THREADS": cores,
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": cores,
        "PYTHONHASHSEED": "0",
        # A page shows no log of TensorFlow about a missing GPU; vxmlib.backend names the device.
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures become outputs
        # The kernel of this environment, without the user's start-up files.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_RUNTIME_DIR": str(scratch / "run"),
        "IPYTHONDIR": str(scratch / "ipython"),
    }


class Progress:
    """Print which section of a lesson is running, and repeat it every minute."""

    def __init__(self, label: str):
        self.label, self.start = label, time.monotonic()
        self.title, self.where, self.cell = "starting", "", None
        self.stopped = threading.Event()

    def say(self, words: str) -> None:
        """Print one line, with the time since the lesson began."""
        seconds = int(time.monotonic() - self.start)
        print(f"{self.label}  {seconds // 60:2d}:{seconds % 60:02d}  {words}", flush=True)

    def enter(self, cell, index: int, total: int) -> None:
        """Take note of a cell that begins, and print its heading if it has one."""
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
        """Return the last line that the running cell printed, such as the epoch in training."""
        outputs = self.cell.get("outputs", ()) if self.cell else ()
        printed = "".join(output.get("text", "") for output in outputs).split("\n")
        return next((line.strip()[:60] for line in reversed(printed) if line.strip()), "")

    def __exit__(self, kind, *_):
        self.stopped.set()


class BookEngine(NBClientEngine):
    """papermill's notebook engine, with progress by section and without network ports.

    Kernels communicate through ``sockets``, which are files in the temporary folder of the lesson.
    So two kernels that start at the same time cannot get the same port, and nobody else on the
    machine can listen.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, progress, sockets, **kwargs):
        """Run all cells; ``progress`` is a :class:`Progress`, ``sockets`` a prefix of paths."""
        begin, total = nb_man.cell_start, len(nb_man.nb.cells)

        def cell_start(cell, cell_index=None, **more):
            progress.enter(cell, cell_index, total)
            begin(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        kwargs["config"] = Config({"KernelManager": {"transport": "ipc", "ip": str(sockets)}})
        # Two image pixels for each CSS pixel, so that figures are sharp on phones and if enlarged.
        kwargs["extra_arguments"] = [
            "--IPKernelApp.log_level=CRITICAL",
            "--InlineBackend.figure_formats={'retina'}",
        ]
        with progress:
            super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register("book", BookEngine)
