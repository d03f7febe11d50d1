"""A grid of λ runs: its points from one file, its records as tables, and the choice of λ."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from vxmlib import files, records
from vxmlib.experiments.settings import Settings
from vxmlib.experiments.statistics import paired_difference, paired_error

#: What tells the groups of a grid apart; λ and the seed vary within a group.
GROUP = ["cohort", "image_loss", "int_steps"]
#: What the subjects of a committed grid are called on pages.
SUBJECTS = {"mni": "simulated", "malf": "real"}
#: What a record says of a run, by the column of :func:`runs` that holds it.
MEASURES = ("dice_mean", "folding_percent_brain", "sd_log_jacobian")

_POINT = ("image_loss", "lam", "int_steps")
_COST = ("steps", "step_seconds", "plain_steps", "plain_step_seconds")
_BY_PAIR = ("moving", "fixed", "dice", "folding_percent_brain", "sd_log_jacobian")


class GridError(ValueError):
    """A grid that cannot be run, or records that are no grid; the message names the place."""


def points(path, name, *, cohort="mni", profile="quick", root=None):
    """The runs of one grid.

    Parameters
    ----------
    path : str or Path
        The YAML file, see ``config/lambda.yaml``.
    name : str
        Which of its ``grids``.
    cohort, profile, root
        Of all runs, see :class:`vxmlib.experiments.settings.Settings`.

    Returns
    -------
    dict of str to Settings
        By the name of the run, in the order of the file.

    Raises
    ------
    GridError
        No such grid, an entry that the schema of the file or
        :class:`~vxmlib.experiments.settings.Settings` refuses, or the same run twice. The file
        and the entry are named.
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
                raise GridError(f"{where}: run {settings.name} stands in this grid twice")
            by_name[settings.name] = settings
    return by_name


def runs(folder):
    """The records of a grid, one row a run.

    Parameters
    ----------
    folder : str or Path
        Of records that the lesson on λ wrote, see :func:`vxmlib.records.collect`.

    Returns
    -------
    pandas.DataFrame
        ``file``, the parameters (``cohort``, ``image_loss``, ``int_steps``, ``lam``, ``seed``),
        ``split`` (whose pairs were measured), ``diverged``, each of :data:`MEASURES` and
        ``identity_dice`` (NaN for a diverged run), ``seconds`` of training, ``commit``. Sorted
        by parameters.

    Raises
    ------
    GridError
        A record that is none of a λ run, or two of one run. :class:`vxmlib.records.RecordError`
        for one that cannot be read. Both name the file.
    """
    rows = [_row(name, record) for name, record in _records(folder)]
    if not rows:
        raise GridError(f"{folder}: found no record of a run")
    table = pd.DataFrame(rows)
    key = [*GROUP, "lam", "seed", "profile", "spacing", "split"]
    twice = table[table.duplicated(key, keep=False)]
    if len(twice):
        raise GridError(f"{folder}: the same run twice: {', '.join(twice['file'].head(2))}")
    return table.sort_values(key, kind="stable").reset_index(drop=True)


def by_pair(folder):
    """The pairs of all runs that did not diverge: one row a run and pair.

    Parameters
    ----------
    folder : str or Path
        As for :func:`runs`.

    Returns
    -------
    pandas.DataFrame
        The parameters, ``moving``, ``fixed`` (ids), ``dice``, ``folding_percent_brain`` and
        ``sd_log_jacobian`` of the pair.

    Raises
    ------
    GridError
        No record in the folder.
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
    """A measure against λ: mean over seeds, and the least and the greatest.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`runs`.
    measure : str
        One of :data:`MEASURES`.

    Returns
    -------
    pandas.DataFrame
        One row a group and λ: ``mean``, ``low``, ``high``, ``sd`` (over seeds, ``ddof=1``),
        ``seeds`` (how many finished), ``diverged`` (how many did not).
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
    """How far each λ of a group is below its best λ in Dice, and how sure that is.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of :func:`by_pair`, one group or several. Seeds are averaged first.

    Returns
    -------
    pandas.DataFrame
        One row a group and λ: ``dice`` (the mean), ``gap`` (the best mean minus this one) and
        ``error``, the standard error of the gap over subjects, see
        :func:`vxmlib.experiments.statistics.paired_error`. Both are 0 for the best λ itself.
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
    """The λ that a group's validation Dice chooses: the largest that is about as good as the best.

    "About as good" means that the gap to the best λ is at most its own standard error over
    subjects (:func:`gaps`). All λ register the same pairs, so what makes a subject easy or hard
    cancels in the gap. It does not in the standard error of one λ's Dice, which is therefore no
    measure of how well two λ can be told apart; nor is the spread over seeds, which says nothing
    about other subjects.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`runs`, which know of the runs that diverged.
    pairs : pandas.DataFrame
        Rows of :func:`by_pair` of the same runs.

    Returns
    -------
    pandas.DataFrame
        One row a group: ``best`` (λ of the highest mean), ``lam`` (the chosen one), and ``dice``,
        ``gap`` and ``error`` at the chosen one.

    Raises
    ------
    GridError
        A group of which every run diverged. No λ can be chosen for it, and the comparison of the
        groups would silently lack it.
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
        "rate in config/lambda.yaml and run the grid again, or take this group out of the table."
    )


def select(table, **asked):
    """Rows of a table that have these values, for example ``lam=1, int_steps=0``.

    Raises
    ------
    GridError
        There is none.

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
    """Runs as a report prints them: one row a group and λ, means over seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`runs`.

    Returns
    -------
    pandas.DataFrame
        ``identity_dice``, each of :data:`MEASURES`, ``dice_sd_seeds`` (``ddof=1``), ``seeds``.
    """
    groups = table.groupby([*GROUP, "lam"])
    means = groups[["identity_dice", *MEASURES]].mean()
    return means.assign(dice_sd_seeds=groups["dice_mean"].std(), seeds=groups["seed"].count())


def differences(pairs, chosen, *, common=0.01):
    """What the chosen λ, the loss and the integration change: paired differences of Dice.

    Each loss, with and without integration, takes part at the λ that was chosen for it.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of :func:`by_pair` at the chosen λ of each group, and at ``common`` for plain NCC.
    chosen : pandas.DataFrame
        Of :func:`choose`, the four groups of each cohort.
    common : float
        The λ that public code often gives NCC.

    Returns
    -------
    pandas.DataFrame
        One row a cohort and comparison: the results of
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
    """A table of groups as a page prints it: names for readers in place of :data:`GROUP`.

    Parameters
    ----------
    table : pandas.DataFrame
        With the columns of :data:`GROUP`, and perhaps ``lam``.

    Returns
    -------
    pandas.DataFrame
        The other columns, with ``lam`` called "λ". The index has two levels: "subjects"
        (:data:`SUBJECTS`, or the cohort itself) and "model", such as "NCC, integrated".

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
    """The curves of networks that were trained once for all λ, from their records.

    Parameters
    ----------
    folder : str or Path
        Of records that ``python -m tools.hyper`` wrote.

    Returns
    -------
    pandas.DataFrame
        One row a record and λ: ``cohort``, ``image_loss``, ``int_steps``, ``lam``, each of
        :data:`MEASURES`, ``seconds`` (of the one training), and what it takes beside a plain
        run: ``steps``, ``step_seconds``, ``plain_steps``, ``plain_step_seconds``. In the row of
        the λ at which a plain network was trained for as many steps, ``as_long_dice`` and
        ``as_long_folding`` are what that one reached; NaN elsewhere.

    Raises
    ------
    GridError
        No such folder, or a record of something else; the file is named.
    """
    parts = []
    for path in sorted(_folder(folder).glob("*.json")):
        record = records.read(path)
        if not {"curve", "as_long", *_COST} <= set(record["metrics"]):
            raise GridError(f"{path}: a record, but none of one network for all λ")
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
    """The record of a run that has no result, because its loss is no longer a number.

    Parameters
    ----------
    settings : Settings
        Of the run.
    reason : str
        What stopped it.
    split : str
        The part of the people that was to be measured.

    Returns
    -------
    dict
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
    """Names and records of a folder, those of λ runs alone."""
    for path in sorted(_folder(folder).glob("*.json")):
        record = records.read(path)
        missing = [
            key for key in ("image_loss", "lam", "int_steps") if key not in record["parameters"]
        ]
        if missing or "diverged" not in record["metrics"]:
            raise GridError(f"{path}: a record, but none of a λ run; move it elsewhere")
        yield path.name, record


def _row(name, record):
    """One record as a row of :func:`runs`."""
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
    """Settings, or an error that says where in the file the wrong value stands."""
    try:
        return Settings(**parameters, seed=seed)
    except ValueError as error:
        raise GridError(f"{where}: {error}") from error


def _listed(value):
    """One value alone is a list of it."""
    return value if isinstance(value, list) else [value]
