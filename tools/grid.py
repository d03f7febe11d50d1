"""Run one point of a λ grid: execute the λ lesson for its parameters and write its record."""

import os
import shutil
import tempfile
from pathlib import Path

from tools.lesson import LessonError, run_lesson
from vxmlib import files, records
from vxmlib.experiments import sweep
from vxmlib.experiments.settings import PARAMETERS, Settings

LESSON = "06_lambda"


def folder(build: Path, name: str, cohort: str, profile: str) -> Path:
    """Return the folder for the records of one grid."""
    return build / "lambda" / f"{name}-{cohort}-{profile}"


def run_point(
    settings: Settings,
    target: Path,
    *,
    root: Path,
    build: Path,
    threads: int,
    label: str,
    evaluate: str = "validation",
) -> None:
    """Execute the λ lesson for one point and write its record to ``target``.

    The record is written completely or not at all. The executed notebook is in the folder
    ``executed`` beside the record. A run whose loss becomes NaN or infinite gets a record that says
    so, because the table has a row for it, too.

    Parameters
    ----------
    settings : Settings
        Parameters of the point.
    target : Path
        File of the record.
    root, build : Path
        Folder of the book, and folder for all outputs.
    threads : int
        Number of cores that the lesson may use.
    label : str
        Start of the progress lines.
    evaluate : str
        Split whose subjects are measured, "validation" or "test".

    Raises
    ------
    LessonError
        If the lesson fails for another reason. The other points of the grid are not affected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    notebook = target.parent / "executed" / f"{target.stem}.ipynb"
    given = {name: value for name, value in settings.parameters.items() if value is not None}
    parameters = {name: given[name] for name in PARAMETERS if name in given}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".run-") as scratch:
        products = Path(scratch)
        try:
            run_lesson(
                root / "notebooks" / f"{LESSON}.py",
                notebook,
                parameters=parameters | {"beside": [], "evaluate": evaluate},
                products=products,
                runs=build / "runs",
                expected=[f"{settings.name}.json"],
                threads=threads,
                cwd=root,
                label=label,
            )
        except LessonError as error:
            if error.kind != "NonFiniteLoss":
                raise
            record = sweep.diverged_record(settings, error.reason, evaluate)
            records.write(products / LESSON / f"{settings.name}.json", record)
            with files.whole(notebook) as part:
                shutil.copy(error.notebook, part)
        os.replace(products / LESSON / f"{settings.name}.json", target)


def points(root: Path, name: str, cohort: str, profile: str, own: str = "") -> dict[str, Settings]:
    """Return the points of a grid of ``config/lambda.yaml``, by the names of their records."""
    path = root / "config" / "lambda.yaml"
    return sweep.points(path, name, cohort=cohort, profile=profile, root=own or None)
