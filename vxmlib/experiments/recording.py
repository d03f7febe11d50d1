"""Measure a method for a record, and write the record of a lesson with its provenance."""

from pathlib import Path

from vxmlib import cohorts, metrics, records
from vxmlib.backend import device_summary
from vxmlib.experiments.runs import Run, output_folder
from vxmlib.experiments.settings import Settings


def measure(method, people: cohorts.Cohort, pairs) -> dict:
    """Measure a method on pairs of subjects, and return the values that a record contains.

    Parameters
    ----------
    method : "identity" or callable
        As for :func:`vxmlib.metrics.evaluate_pairs`.
    people : Cohort
    pairs : list of (moving id, fixed id)

    Returns
    -------
    dict
        The result of :func:`vxmlib.metrics.summary` without ``seconds``, and ``by_pair``, which
        has one list per pair: moving id, fixed id, mean Dice, folding in percent of the fixed
        brain, and SD of log det J.
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
    """Write the record of a lesson, with its provenance, to ``<output>/<lesson>/<file>.json``.

    Parameters
    ----------
    lesson : str
        Name of the notebook without its file extension.
    result : Run
        The run that was measured. Its parameters and its training time in seconds go into the
        record.
    people : Cohort
        The cohort on which it was measured.
    file : str
        Name of the file without its extension; a lesson with many runs needs a name for each.
    **metrics
        Measured values by name, as the pages refer to them. See :func:`vxmlib.records.write` for
        the types of values.

    Returns
    -------
    Path
        The file.
    """
    seconds = float(result.history["seconds"].sum())
    record = make_record(lesson, result.settings, people, seconds=seconds, **metrics)
    return keep_record(lesson, record, file=file)


def make_record(lesson: str, settings: Settings, people: cohorts.Cohort, *, seconds, **metrics):
    """Return the record of what a lesson measured on a cohort, with its provenance.

    Parameters
    ----------
    lesson, people, **metrics
        As for :func:`write_record`.
    settings : Settings
        Settings of the run; its parameters go into the record.
    seconds : float
        Wall-clock time of what was measured, in seconds.

    Returns
    -------
    dict
        The record, see :func:`vxmlib.records.provenance`.
    """
    record = records.provenance(
        lesson,
        cohort=people.name,
        profile=settings.profile,
        seed=settings.seed,
        parameters=settings.parameters,
        seconds=seconds,
        device=device_summary(),
    )
    record["metrics"] = metrics
    record["data"] = {"shape": people.shape, "simulated": people.simulated, "plane": people.plane}
    return record


def keep_record(lesson: str, record: dict, *, file: str = "record") -> Path:
    """Write a record, new or committed, to the output folder of a lesson; return the file."""
    path = output_folder() / lesson / f"{file}.json"
    records.write(path, record)
    return path
