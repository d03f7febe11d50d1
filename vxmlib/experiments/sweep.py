"""Read the points of a λ grid and the records of its runs as tables, and choose λ."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from vxmlib import files, records
from vxmlib.experiments.settings import Settings
from vxmlib.experiments.statistics import paired_difference, paired_error

#: Parameters that define a group of runs in a grid; λ and the seed vary within a group.
GROUP = ["cohort", "image_loss", "int_steps"]
#: Name that pages use for the subjects of each cohort with a committed grid.
SUBJECTS = {"mni": "simulated", "malf": "real"}
#: Measures of a run: keys in its record, and columns of :func:`runs`.
MEASURES = ("dice_mean", "folding_percent_brain", "sd_log_jacobian")

_POINT = ("image_loss", "lam", "int_steps")
_COST = ("steps", "step_seconds", "plain_steps", "plain_step_seconds")
_BY_PAIR = ("moving", "fixed", "dice", "folding_percent_brain", "sd_log_jacobian")


class GridError(ValueError):
    """An invalid grid, or records that do not form a grid; the message says where."""


def points(path, name, *, cohort="mni", profile="quick", root=None):
    """Read the settings of all runs of one grid.

    Parameters
    ----------
    path : str or Path
        A YAML file such as ``config/lambda.yaml``.
    name : str
        Name of one of its ``grids``.
    cohort, profile, root
        Settings of all runs, see :class:`vxmlib.experiments.settings.Settings`.

    Returns
    -------
    dict of str to Settings
        Settings by the name of the run, in the order of the file.

    Raises
    ------
    GridError
        If the file has no such grid, the schema of the file or
        :class:`~vxmlib.experiments.settings.Settings` rejects an entry, or a run occurs twice. The
        message names the file and the entry.
    """
    path = Path(path)
    content = files.read_yaml(path, GridError, schema="lambda")
    grids = content["grids"]
    if name not in grids:
        raise GridError(f"{path}: no grid {name!r}; it has: {', '.join(grids) or 'none'}")
    grid = grids[name]
    common = content.get("shared", {}) | {"cohort": cohort, "profile": profile, "root": root}
    by_name = {}
    for number, entry in enumerate(grid["runs"]):
        where = f"{path}, grids.{name}.runs[{number}]"
        lists = [_listed(entry[key]) for key in _POINT]
        for *point, seed in product(*lists, _listed(grid["seeds"])):
            settings = _settings(common | dict(zip(_POINT, point, strict=True)), seed, where)
            if settings.name in by_name:
                raise GridError(
                    f"{where}: found run {settings.name} twice in this grid, expected each run once"
                )
            by_name[settings.name] = settings
    return by_name


def runs(folder):
    """Read the records of a grid as a table, one row per run.

    Parameters
    ----------
    folder : str or Path
        Folder with the records that the lesson on λ wrote, one JSON file per run.

    Returns
    -------
    pandas.DataFrame
        Columns: ``file``; the parameters ``cohort``, ``profile``, ``spacing`` (voxel size in mm),
        ``image_loss``, ``int_steps``, ``lam`` (λ) and ``seed``; ``split``, the part of the subjects
        that was measured; ``diverged``; each of :data:`MEASURES`, ``identity_dice`` (Dice before
        registration) and ``seconds`` of training, which are NaN for a diverged run; ``commit``. The
        rows are sorted by parameters.

    Raises
    ------
    GridError
        If the folder has no record, a record is not one of a λ run, or two records are of the same
        run. The message names the folder or file.
    vxmlib.records.RecordError
        If a record cannot be read. The message names the file.
    """
    rows = [_row(name, record) for name, record in _records(folder)]
    if not rows:
        raise GridError(f"{folder}: found no record of a run")
    table = pd.DataFrame(rows)
    key = [*GROUP, "lam", "seed", "profile", "spacing", "split"]
    twice = table[table.duplicated(key, keep=False)]
    if len(twice):
        raise GridError(
            f"{folder}: found the same run twice: {', '.join(twice['file'].head(2))}; remove one "
            "of the files"
        )
    return table.sort_values(key, kind="stable").reset_index(drop=True)


def by_pair(folder):
    """Read the pairs of all runs that did not diverge, one row per run and pair.

    Parameters
    ----------
    folder : str or Path
        As for :func:`runs`.

    Returns
    -------
    pandas.DataFrame
        Columns: ``moving`` and ``fixed`` (ids); ``dice``, ``folding_percent_brain`` and
        ``sd_log_jacobian`` of the pair; ``cohort``, ``image_loss``, ``int_steps``, ``lam``,
        ``seed`` and ``split`` of the run.

    Raises
    ------
    GridError, vxmlib.records.RecordError
        As for :func:`runs`, except that two records of the same run are not an error.
    """
    parts = []
    for name, record in _records(folder):
        row = _row(name, record)
        part = pd.DataFrame(record["metrics"].get("by_pair") or [], columns=list(_BY_PAIR))
        parts.append(part.assign(**{key: row[key] for key in [*GROUP, "lam", "seed", "split"]}))
    if not parts:
        raise GridError(f"{folder}: found no record of a run")
    return pd.concat(parts, ignore_index=True)


def curve(table, measure):
    """Compute a measure as a function of λ: mean, range and SD over seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`runs`.
    measure : str
        One of :data:`MEASURES`.

    Returns
    -------
    pandas.DataFrame
        One row per group and λ: ``mean``, ``low`` (minimum), ``high`` (maximum) and ``sd``
        (``ddof=1``) over seeds; ``seeds`` and ``diverged``, the numbers of runs that finished and
        that diverged.
    """
    groups = table.groupby([*GROUP, "lam"])
    values = groups[measure]
    return pd.DataFrame(
        {
            "mean": values.mean(),
            "low": values.min(),
            "high": values.max(),
            "sd": values.std(),
            "seeds": values.count(),
            "diverged": groups["diverged"].sum(),
        }
    ).reset_index()


def gaps(pairs):
    """Compute how far the Dice of each λ is below the best of its group, with a standard error.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of :func:`by_pair`, of one or more groups. Seeds are averaged first.

    Returns
    -------
    pandas.DataFrame
        One row per group and λ: ``dice`` (the mean), ``gap`` (the highest mean of the group minus
        this one) and ``error``, the standard error of the gap over subjects, see
        :func:`vxmlib.experiments.statistics.paired_error`. Gap and error are 0 for the best λ.
    """
    rows = []
    for group, part in pairs.groupby(GROUP):
        dice = part.groupby("lam")["dice"].mean()
        best = part[part["lam"] == dice.idxmax()]
        for lam, one in part.groupby("lam"):
            values = {"lam": lam, "dice": dice[lam], "gap": dice.max() - dice[lam]}
            values["error"] = paired_error(best, one)
            rows.append(dict(zip(GROUP, group, strict=True)) | values)
    return pd.DataFrame(rows)


def choose(table, pairs):
    """Choose the λ of each group: the largest λ whose Dice is about as good as that of the best λ.

    "About as good" means that the gap to the best λ is at most the standard error of this gap over
    subjects (:func:`gaps`). All λ are measured on the same pairs, so the differences between easy
    and hard subjects cancel in the gap. They do not cancel in the standard error of the Dice of a
    single λ, which therefore does not measure how well two λ can be distinguished. The spread over
    seeds does not measure this either, because it says nothing about other subjects.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`runs`, which include the runs that diverged.
    pairs : pandas.DataFrame
        Rows of :func:`by_pair` of the same runs.

    Returns
    -------
    pandas.DataFrame
        One row per group: ``best`` (the λ with the highest mean), ``lam`` (the chosen λ), and
        ``dice``, ``gap`` and ``error`` at the chosen λ.

    Raises
    ------
    GridError
        If every run of a group diverged. No λ can be chosen for this group, and without the error
        it would be missing from the comparison of the groups unnoticed.
    """
    for group, part in table.groupby(GROUP):
        if part["diverged"].all():
            raise GridError(_all_diverged(group, part["lam"].unique()))
    chosen = []
    for group, part in gaps(pairs).groupby(GROUP):
        enough = part[part["gap"] <= part["error"]]
        last = enough.loc[enough["lam"].idxmax()]
        chosen.append(
            dict(zip(GROUP, group, strict=True))
            | {"best": part.loc[part["gap"].idxmin(), "lam"]}
            | last[["lam", "dice", "gap", "error"]].to_dict()
        )
    return pd.DataFrame(chosen)


def _all_diverged(group, lams):
    cohort, image_loss, int_steps = group
    return (
        f"cohort {cohort}, image_loss {image_loss}, int_steps {int_steps}: every run diverged "
        f"(λ = {', '.join(f'{lam:g}' for lam in lams)}), so no λ can be chosen. Lower the learning "
        "rate in config/lambda.yaml and run the grid again, or remove this group from the table."
    )


def select(table, **asked):
    """Return the rows of a table that have the given values, for example ``lam=1, int_steps=0``.

    Raises
    ------
    GridError
        If no row has these values.

    Examples
    --------
    >>> table = pd.DataFrame({"lam": [0.1, 1.0], "dice": [0.6, 0.7]})
    >>> select(table, lam=1)["dice"].tolist()
    [0.7]
    """
    chosen = table[(table[list(asked)] == pd.Series(asked)).all(axis=1)]
    if not len(chosen):
        raise GridError(f"no row with {asked}: the grid lacks these runs; `make lambda` adds them")
    return chosen


def report(table):
    """Summarise runs for a report: one row per group and λ, averaged over seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`runs`.

    Returns
    -------
    pandas.DataFrame
        The means of ``identity_dice`` and of each of :data:`MEASURES`; ``dice_sd_seeds``, the SD of
        ``dice_mean`` over seeds (``ddof=1``); ``seeds``, the number of runs, including those that
        diverged.
    """
    groups = table.groupby([*GROUP, "lam"])
    means = groups[["identity_dice", *MEASURES]].mean()
    return means.assign(dice_sd_seeds=groups["dice_mean"].std(), seeds=groups["seed"].count())


def differences(pairs, chosen, *, common=0.01):
    """Compute paired differences of Dice for the chosen λ, the image loss and the integration.

    Each image loss, with and without integration, is compared at the λ that was chosen for it.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of :func:`by_pair`, which include the chosen λ of each group, and ``common`` for NCC
        without integration.
    chosen : pandas.DataFrame
        Result of :func:`choose` for the four groups of each cohort.
    common : float
        The λ that public code often uses with NCC.

    Returns
    -------
    pandas.DataFrame
        One row per cohort and comparison: ``cohort``, ``comparison`` and the results of
        :func:`vxmlib.experiments.statistics.paired_difference`.
    """
    lams = chosen.set_index(GROUP)["lam"]
    rows = []
    for cohort in chosen["cohort"].unique():

        def at(image_loss, int_steps, lam=None, cohort=cohort):
            lam = lams[cohort, image_loss, int_steps] if lam is None else lam
            asked = {"image_loss": image_loss, "int_steps": int_steps, "lam": lam}
            return select(pairs, cohort=cohort, **asked)

        compared = {
            f"NCC: chosen λ minus λ = {common:g}": (at("ncc", 0), at("ncc", 0, common)),
            "NCC minus MSE": (at("ncc", 0), at("mse", 0)),
            "NCC: integrated minus plain": (at("ncc", 7), at("ncc", 0)),
            "MSE: integrated minus plain": (at("mse", 7), at("mse", 0)),
        }
        rows += [
            {"cohort": cohort, "comparison": what} | paired_difference(*both)
            for what, both in compared.items()
        ]
    return pd.DataFrame(rows)


def readable(table):
    """Replace the columns :data:`GROUP` of a table by names for readers.

    Parameters
    ----------
    table : pandas.DataFrame
        A table with the columns :data:`GROUP`, and possibly ``lam``.

    Returns
    -------
    pandas.DataFrame
        The other columns, with ``lam`` renamed to "λ". The index has two levels: "subjects" (from
        :data:`SUBJECTS`, or else the name of the cohort) and "model", such as "NCC, integrated".

    Examples
    --------
    >>> table = pd.DataFrame({"cohort": ["malf"], "image_loss": "mse", "int_steps": 7, "lam": 0.1})
    >>> readable(table).index.tolist(), list(readable(table))
    ([('real', 'MSE, integrated')], ['λ'])
    """
    subjects = table["cohort"].map(lambda name: SUBJECTS.get(name, name))
    integrated = np.where(table["int_steps"] > 0, ", integrated", "")
    index = {"subjects": subjects, "model": table["image_loss"].str.upper() + integrated}
    others = table.drop(columns=GROUP).rename(columns={"lam": "λ"})
    return others.set_index(pd.MultiIndex.from_frame(pd.DataFrame(index)))


def hyper_curves(folder):
    """Read the curves of networks that were each trained once for all λ, from their records.

    Parameters
    ----------
    folder : str or Path
        Folder with the records that ``python -m tools.hyper`` wrote.

    Returns
    -------
    pandas.DataFrame
        One row per record and λ. Columns: ``cohort``, ``image_loss``, ``int_steps``, ``lam`` (λ),
        each of :data:`MEASURES`; ``seconds`` of the training for all λ; ``steps`` and
        ``step_seconds``, the number of its steps and the seconds of one step; ``plain_steps`` and
        ``plain_step_seconds``, the same for a plain run. ``as_long_dice`` and ``as_long_folding``
        are the Dice and the folding in percent of the brain of a plain network that was trained for
        as many steps with the λ of the row; where there is none, they are NaN.

    Raises
    ------
    GridError
        If the folder does not exist or has no record, or if a record is not one of such a network.
        The message names the folder or file.
    """
    parts = []
    for path in sorted(_folder(folder).glob("*.json")):
        record = records.read(path)
        if not {"curve", "as_long", *_COST} <= set(record["metrics"]):
            raise GridError(
                f"{path}: found another kind of record, expected that of one network for all λ; "
                "move it to another folder"
            )
        columns = {key: record["parameters"][key] for key in ("image_loss", "int_steps")}
        columns |= {key: record["metrics"][key] for key in _COST}
        part = pd.DataFrame(record["metrics"]["curve"])
        as_long = record["metrics"]["as_long"]
        there = part["lam"] == as_long["lam"]
        part["as_long_dice"] = np.where(there, as_long["dice_mean"], np.nan)
        part["as_long_folding"] = np.where(there, as_long["folding_percent_brain"], np.nan)
        parts.append(part.assign(cohort=record["cohort"], seconds=record["seconds"], **columns))
    if not parts:
        raise GridError(f"{folder}: found no record of one network for all λ")
    return pd.concat(parts, ignore_index=True)


def diverged_record(settings, reason, split="validation"):
    """Return the record of a run without a result, because its loss became NaN or infinite.

    Parameters
    ----------
    settings : Settings
        Settings of the run.
    reason : str
        Why the run stopped.
    split : str
        The part of the subjects that was to be measured.

    Returns
    -------
    dict
        Its ``metrics`` are ``diverged``, ``split`` and ``reason``.
    """
    record = records.provenance(
        "06_lambda",
        cohort=settings.cohort,
        profile=settings.profile,
        seed=settings.seed,
        parameters=settings.parameters,
        seconds=None,
    )
    return record | {"metrics": {"diverged": True, "split": split, "reason": reason}}


def _folder(folder):
    folder = Path(folder)
    if not folder.is_dir():
        raise GridError(f"{folder}: no such folder; `make lambda` makes the records of a grid")
    return folder


def _records(folder):
    """Yield the file name and the content of each record in a folder of λ runs."""
    for path in sorted(_folder(folder).glob("*.json")):
        record = records.read(path)
        missing = [
            key for key in ("image_loss", "lam", "int_steps") if key not in record["parameters"]
        ]
        if missing or "diverged" not in record["metrics"]:
            raise GridError(
                f"{path}: found another kind of record, expected that of a λ run; move it to "
                "another folder"
            )
        yield path.name, record


def _row(name, record):
    """Return one record as a row of :func:`runs`."""
    parameters, metrics = record["parameters"], record["metrics"]
    return {
        "file": name,
        "cohort": record["cohort"],
        "profile": record["profile"],
        "spacing": parameters.get("spacing"),
        "image_loss": parameters["image_loss"],
        "int_steps": parameters["int_steps"],
        "lam": float(parameters["lam"]),
        "seed": record["seed"],
        "split": metrics.get("split"),
        "diverged": bool(metrics["diverged"]),
        **{key: _number(metrics.get(key)) for key in (*MEASURES, "identity_dice")},
        "seconds": _number(record["seconds"]),
        "commit": record["commit"],
    }


def _number(value):
    return float("nan") if value is None else float(value)


def _settings(parameters, seed, where):
    """Return the settings, or raise an error that names the entry with the wrong value."""
    try:
        return Settings(**parameters, seed=seed)
    except ValueError as error:
        raise GridError(f"{where}: {error}") from error


def _listed(value):
    """Return a list unchanged, and any other value in a list."""
    return value if isinstance(value, list) else [value]
