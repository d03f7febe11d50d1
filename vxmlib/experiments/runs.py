"""One run of the recipe: settings in, a trained model out; what lesson 4 spells out, as one call.

A run lives in a folder whose name tells its parameters and ends in a fingerprint of everything
that could change its result. So a finished run is found again, an interrupted one goes on,
and after a change of the code or the data it is a new run.
"""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pooch

from vxmlib import checks, cohorts, metrics, models, records, training
from vxmlib.backend import device_summary, set_seed
from vxmlib.experiments import dependencies
from vxmlib.experiments.settings import SCHEDULES, Settings

#: Validation pairs that are registered after each epoch.
VALIDATION_PAIRS = 6


@dataclass(frozen=True)
class Run:
    """A finished run: the trained ``model``, its ``history`` (one row an epoch), its ``folder``."""

    settings: Settings
    model: object
    history: pd.DataFrame
    folder: Path

    @property
    def title(self) -> str:
        """What sets the run apart, for a table or a figure: "NCC, λ = 1", or "..., integrated"."""
        integrated = ", integrated" if self.settings.int_steps else ""
        return f"{self.settings.image_loss.upper()}, λ = {self.settings.lam:g}{integrated}"

    def register(self, moving, fixed):
        """Displacement ``(*vol, nd)`` in voxels that warps ``moving`` onto ``fixed``."""
        return models.register(self.model, moving, fixed)


def load_cohort(settings: Settings) -> cohorts.Cohort:
    """The people of a run.

    The people are the data set and stay the same for every ``settings.seed``, so that two
    seeds differ in the training alone.

    Examples
    --------
    >>> load_cohort(Settings(profile="smoke")).shape
    (80, 80)
    """
    plan = settings.plan
    return cohorts.load(
        settings.cohort,
        ndim=plan.ndim,
        spacing=plan.spacing,
        root=settings.root,
        people=plan.people if settings.cohort == "mni" else None,
    )


def output_folder() -> Path:
    """Where records go: ``VXMLIB_OUTPUT``, or the user's cache folder."""
    return Path(os.environ.get("VXMLIB_OUTPUT") or pooch.os_cache("vxmlib") / "output")


def runs_folder() -> Path:
    """Where runs are kept: ``VXMLIB_RUNS``, or ``runs`` in the output folder."""
    return Path(os.environ.get("VXMLIB_RUNS") or output_folder() / "runs")


def run_folder(settings: Settings) -> Path:
    """The folder of one run."""
    return runs_folder() / f"{settings.name}-{fingerprint(settings)}"


def fingerprint(settings: Settings) -> str:
    """Eight hexadecimal digits of all that a run's result depends on."""
    digest = hashlib.sha256(repr((settings, settings.plan)).encode())
    used = dependencies.modules(__name__, cohorts.SOURCES[settings.cohort])
    for file in dependencies.files(used):
        digest.update(file.read_bytes())
    digest.update(dependencies.versions().encode())
    if settings.root is not None:  # by name, size and time: hashing gigabytes would take minutes
        for file in sorted(Path(settings.root).expanduser().rglob("*.nii*")):
            digest.update(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:8]


def build_model(settings: Settings, shape):
    """The compiled, untrained model of a run, from the run's seed."""
    set_seed(settings.seed)
    return models.build(
        shape,
        image_loss=settings.image_loss,
        lam=settings.lam,
        int_steps=settings.int_steps,
        learning_rate=settings.plan.learning_rate,
    )


def validation_pairs(people: cohorts.Cohort) -> list[tuple[str, str]]:
    """The ordered pairs of validation people that every run watches."""
    return cohorts.ordered_pairs(people.split["validation"], limit=VALIDATION_PAIRS)


def pairs_of(people: cohorts.Cohort, part: str) -> list[tuple[str, str]]:
    """All ordered pairs of one part of the cohort, such as "validation".

    Raises
    ------
    ValueError
        The cohort has no such part.

    Examples
    --------
    >>> people = load_cohort(Settings(profile="smoke"))
    >>> pairs_of(people, "validation")[0]
    ('validation-00', 'validation-01')
    >>> pairs_of(people, "all")
    Traceback (most recent call last):
    ...
    ValueError: part: found 'all', expected one of: train, validation, test
    """
    if part not in people.split:
        raise ValueError(f"part: found {part!r}, expected one of: {', '.join(people.split)}")
    return cohorts.ordered_pairs(people.split[part])


def callbacks(plan) -> list:
    """What Keras' fit() does for the learning rate: nothing, or a fall along half a cosine.

    At a constant rate a short training ends wherever its last zigzag was. A rate that falls to
    nothing ends nearer to the middle, so that runs differ by their parameters, not by luck.

    Raises
    ------
    ValueError
        A schedule that is neither "constant" nor "cosine".
    """
    checks.check_choice("schedule", plan.schedule, SCHEDULES)
    if plan.schedule == "constant":
        return []
    return [training.cosine_schedule(plan.learning_rate, plan.epochs)]


def run(settings: Settings, people: cohorts.Cohort | None = None) -> Run:
    """Train by the settings, or find the run that did.

    Parameters
    ----------
    settings : Settings
        What to train.
    people : Cohort, optional
        The cohort, when it is loaded already.

    Returns
    -------
    Run
        With the weights of the last step: the number of steps is part of the recipe.
    """
    people = people or load_cohort(settings)
    plan = settings.plan
    model, folder = build_model(settings, people.shape), run_folder(settings)
    history = training.fit(
        model,
        people,
        people.split["train"],
        run_dir=folder,
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=plan.batch_size,
        seed=settings.seed,
        validation=validation_pairs(people),
        callbacks=[
            training.RegistrationMonitor(people, validation_pairs(people)),
            *callbacks(plan),
        ],
    )
    return Run(settings, model, history, folder)


def measure(method, people: cohorts.Cohort, pairs) -> dict:
    """What a record keeps of a method: :func:`vxmlib.metrics.summary`, and each pair's part of it.

    Parameters
    ----------
    method : "identity" or function of (moving, fixed)
        As :func:`vxmlib.metrics.evaluate_pairs` takes it.
    people : Cohort
    pairs : list of (moving id, fixed id)

    Returns
    -------
    dict
        The summary without its times, and ``by_pair``: lists of moving, fixed, mean Dice,
        folding in percent of the brain, and SD of log det J.
    """
    table = metrics.evaluate_pairs(people, pairs, method)
    each = table.groupby(["moving", "fixed"], sort=False).agg(
        dice=("dice", "mean"),
        folding_percent_brain=("folding_percent_brain", "first"),
        sd_log_jacobian=("sd_log_jacobian", "first"),
    )
    measured = {k: v for k, v in metrics.summary(table).items() if k != "seconds"}
    return measured | {"by_pair": each.round(6).reset_index().to_numpy().tolist()}


def write_record(
    lesson: str, result: Run, people: cohorts.Cohort, *, file: str = "record", **metrics
) -> Path:
    """Write what a lesson measured to ``<output>/<lesson>/record.json``, with its provenance.

    Parameters
    ----------
    lesson : str
        The notebook's name without its ending.
    result : Run
        What was measured; its parameters and training time go into the record.
    people : Cohort
        Whom it was measured on.
    file : str
        Another name than "record", for a lesson that is run many times.
    **metrics : number
        Names and values, as the pages will ask for them.
    """
    seconds = float(result.history["seconds"].sum())
    record = make_record(lesson, result.settings, people, seconds=seconds, **metrics)
    return keep_record(lesson, record, file=file)


def make_record(lesson: str, settings: Settings, people: cohorts.Cohort, *, seconds, **metrics):
    """A record of what a lesson measured on these people, with its provenance.

    Parameters
    ----------
    lesson, people, **metrics
        As for :func:`write_record`.
    settings : Settings
        Its parameters go into the record.
    seconds : float
        Wall-clock time of what was measured.
    """
    record = records.provenance(
        lesson,
        cohort=people.name,
        profile=settings.profile,
        seed=settings.seed,
        parameters={**asdict(settings), **asdict(settings.plan)},
        seconds=seconds,
        device=device_summary(),
    )
    record["metrics"] = metrics
    record["data"] = {"shape": people.shape, "simulated": people.simulated, "plane": people.plane}
    return record


def keep_record(lesson: str, record: dict, *, file: str = "record") -> Path:
    """Write a record (a committed one, too) to the lesson's output; return the file."""
    path = output_folder() / lesson / f"{file}.json"
    records.write(path, record)
    return path


def committed_record(path: str) -> dict:
    """A record of the repository's ``results``, such as "vxm2018/record.json".

    Raises
    ------
    FileNotFoundError
        There is none.
    vxmlib.records.RecordError
        It cannot be read.
    """
    return records.read(results_folder() / path)


def results_folder() -> Path:
    """The repository's ``results``: records of runs that are too long for a build.

    Raises
    ------
    FileNotFoundError
        Where the package was installed without its repository.
    """
    folder = Path(__file__).resolve().parents[2] / "results"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: the committed records are not there; vxmlib was installed without the "
            "book's repository. Clone it and run `make env` in it."
        )
    return folder


def grid_folder(name: str, settings: Settings) -> Path:
    """Where `make lambda` (or the book's build) leaves the records of a grid."""
    base = Path(os.environ.get("VXMLIB_GRIDS") or output_folder() / "lambda")
    return base / f"{name}-{settings.cohort}-{settings.profile}"
