"""What a run's record keeps: the measures of a method, and where they come from."""

from pathlib import Path

from vxmlib import cohorts, metrics, records
from vxmlib.backend import device_summary
from vxmlib.experiments.runs import Run, output_folder
from vxmlib.experiments.settings import Settings


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
    """A record of what a lesson measured on these subjects, with its provenance.

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
        parameters=settings.parameters,
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
