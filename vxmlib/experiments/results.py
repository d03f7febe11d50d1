"""Read the committed records, and the comparison on real subjects in 3D as tables.

This module does not need TensorFlow.
"""

from pathlib import Path

import pandas as pd

from vxmlib import records
from vxmlib.experiments import compare, statistics
from vxmlib.experiments.plan import load_plan

#: Columns of the table of :meth:`Comparison.summary`.
COLUMNS = ("pairs", "dice_sd_pairs", "dice_sd_pooled", *compare.MEASURES, "training_hours")
#: Kinds of methods, in the order of the tables.
KINDS = (
    "without registration",
    "classical, no training",
    "learned without labels",
    "learned, then optimised for the pair",
)


def results_folder() -> Path:
    """Return the repository's folder ``results``.

    It contains the records of runs that take too long for a build of the book.

    Raises
    ------
    FileNotFoundError
        If the package was installed without its repository.
    """
    folder = Path(__file__).resolve().parents[2] / "results"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: found no committed records, because vxmlib was installed without the "
            "book's repository. Clone the repository and run `make env` in it."
        )
    return folder


def committed_record(path: str) -> dict:
    """Read a record of the repository's folder ``results``, such as "vxm2018/record.json".

    Raises
    ------
    FileNotFoundError
        If the record does not exist.
    vxmlib.records.RecordError
        If the record cannot be read.
    """
    return records.read(results_folder() / path)


class Comparison:
    """Training runs and measurements, from a folder that ``vxmlib.experiments.benchmark`` wrote.

    Parameters
    ----------
    folder : path
        Folder with ``training/``, ``test/``, ``validation/``, ``repeats/``, ``atlas/``,
        ``weights/``, ``ablation.json``, ``probabilistic.json``, ``labels.json``, ``passes.json``
        and ``times.json``.
    plan : path
        The plan, such as ``config/real.yaml``. It determines the expected methods and their order.

    Attributes
    ----------
    training, test, atlas : dict of str to dict
        Records of the trainings, of the methods on the pairs of test subjects, and of the methods
        that registered the test subjects to the atlas, by name.
    missing : list of str
        Methods of the plan that were not measured on the test subjects.
    titles : dict of str to str
        Name of a method, training or run -> the title that readers see instead, for example with
        ``table.rename(index=comparison.titles)``.

    Raises
    ------
    vxmlib.records.RecordError
        If a record is cut off or has another schema; the message names the file.
    vxmlib.experiments.plan.PlanError
        If an entry of the plan is invalid.
    """

    def __init__(self, folder, plan):
        self.folder = Path(folder)
        self.plan = load_plan(plan)
        self.training = self._read("training", self.plan["trainings"])
        self.test = self._read("test", self.plan["methods"])
        self.atlas = self._read("atlas", self.plan["atlas"])
        self.missing = [name for name in self.plan["methods"] if name not in self.test]
        self.titles = self.plan["titles"]

    def title(self, name):
        """Return the title that readers see instead of a name, or the name if it has no title."""
        return self.titles.get(name, name)

    def kind(self, name):
        """Return the kind of a method of the plan, one of :data:`KINDS`."""
        method = self.plan["methods"][name]
        if "training" in method:
            return KINDS[3] if "instance" in method else KINDS[2]
        return KINDS[1] if "baseline" in method else KINDS[0]

    def trainings(self, prefix=""):
        """Return one row for each training run whose name begins with ``prefix``.

        Returns
        -------
        pandas.DataFrame
            Index: name of the training. Columns: ``augmentation`` (in words), ``lam`` (λ),
            ``steps``, ``seconds`` (wall-clock time of the training), ``weights`` (their number),
            and ``dice`` and ``folding_percent_brain`` of the validation subjects after the last
            step.
        """
        rows = {
            name: {
                "augmentation": _augmentation(record["parameters"]["augment"]),
                "lam": record["parameters"]["lam"],
                "steps": record["metrics"]["steps"],
                "seconds": record["seconds"],
                "weights": record["metrics"]["weights"],
                "dice": record["metrics"]["validation_dice"],
                "folding_percent_brain": record["metrics"]["validation_folding_percent"],
            }
            for name, record in self.training.items()
            if name.startswith(prefix)
        }
        return pd.DataFrame(rows).T.infer_objects()

    def ablation(self, part="ablation"):
        """Return one row for each short training on slices, averaged over seeds.

        Parameters
        ----------
        part : str
            Part of the plan that lists the runs, see :data:`vxmlib.experiments.plan.ON_SLICES`.

        Returns
        -------
        pandas.DataFrame
            Index: name of the run. Columns: the means over seeds of ``steps``, of ``loss`` (of the
            training subjects, in the last epoch), and of ``dice`` and ``folding_percent_brain`` (of
            the validation subjects, after the last step); ``seeds`` (their number); ``dice_sd`` and
            ``folding_sd`` (SD over seeds, ``ddof=1``). Without the record, the table is empty.
        """
        path = self.folder / f"{part}.json"
        rows = records.read(path)["metrics"]["rows"] if path.exists() else []
        columns = ["run", "seed", "steps", "loss", "dice", "folding_percent_brain"]
        runs = pd.DataFrame(rows, columns=columns).groupby("run", sort=False)
        means = runs[columns[2:]].mean()
        return means.assign(
            seeds=runs["seed"].nunique(),
            dice_sd=runs["dice"].std(),
            folding_sd=runs["folding_percent_brain"].std(),
        )

    def labels(self):
        """Return the Dice of observed and left-out structures in the training runs with labels.

        Returns
        -------
        pandas.DataFrame
            One row for each run, seed, ordered validation pair and group of structures: ``run``,
            ``weight`` (of the Dice loss; 0 without labels), ``observed_groups`` (how many groups
            the run observed), ``seed``, ``moving``, ``fixed``, ``group``, ``observed`` (whether the
            run observed this group), ``dice`` (mean over the group) and ``folding_percent_brain``.
            The rows of the run "affine alignment only" are those before registration.

        Raises
        ------
        vxmlib.records.RecordError
            If there is no record of these runs.
        """
        path = self.folder / "labels.json"
        if not path.exists():
            raise records.RecordError(
                f"{path}: no such file; run `python -m tools.real ablate labels`"
            )
        record, rows = records.read(path), []
        groups, measured = record["parameters"]["groups"], record["metrics"]
        before = {"run": "affine alignment only", "seed": 0, "pairs": measured["identity"]}
        for row in [before, *measured["rows"]]:
            run = record["parameters"]["runs"].get(row["run"], {})
            weight, labels = run.get("label_weight", 0.0), run.get("observed")
            seen = {g for g in groups if weight and (labels is None or groups[g][0] in labels)}
            common = {"run": row["run"], "weight": weight, "observed_groups": len(seen)}
            for pair in row["pairs"]:
                values = {name: pair[name] for name in pair if name not in groups}
                rows += [
                    common
                    | {"seed": row["seed"], "group": g, "observed": g in seen, "dice": pair[g]}
                    | values
                    for g in groups
                ]
        return pd.DataFrame(rows)

    def passes(self):
        """Return the measures of each pass of the networks, averaged over the validation pairs.

        Returns
        -------
        dict of str to pandas.DataFrame
            One table for each training. Index: ``pass``, from 1. Columns: the means of ``dice``,
            ``folding_percent_brain`` and ``seconds`` (of this pass alone).

        Raises
        ------
        vxmlib.records.RecordError
            If there is no record of the passes.
        """
        path = self.folder / "passes.json"
        if not path.exists():
            raise records.RecordError(f"{path}: no such file; run `python -m tools.real repeat`")
        table = pd.DataFrame(records.read(path)["metrics"]["rows"])
        measures = ["dice", "folding_percent_brain", "seconds"]
        return {
            name: rows.groupby("pass")[measures].mean()
            for name, rows in table.groupby("training", sort=False)
        }

    def history(self, name):
        """Return the epochs of a training run after which validation subjects were registered.

        Returns
        -------
        pandas.DataFrame
            Index: ``step``, the number of optimiser steps so far. Columns: ``loss`` and its terms,
            ``val_dice``, ``val_folding_percent`` (of the fixed brain) and ``seconds`` of the epoch.

        Raises
        ------
        vxmlib.records.RecordError
            If there is no record of the training run.
        """
        record = self._there(self.training, "training", name)
        history = pd.DataFrame(record["metrics"]["history"]).set_index("step")
        return history.dropna(subset="val_dice")

    def summary(self):
        """Return one row for each method of the plan: means over the test pairs, and times.

        The rows are sorted by :meth:`kind`, and within a kind as in the plan.

        Returns
        -------
        pandas.DataFrame
            The columns :data:`COLUMNS` are those of :func:`vxmlib.experiments.compare.summary` and
            ``training_hours``. ``seconds`` is the median over the pairs on which all methods were
            timed in turns. Values that were not measured are NaN.
        """
        seconds, rows = self._seconds(), {}
        methods = self.plan["methods"]
        for name in sorted(methods, key=lambda name: KINDS.index(self.kind(name))):
            measured = self.test.get(name, {"metrics": {}})["metrics"]
            row = {k: v for k, v in measured.items() if k not in ("split", "rows")}
            trained = self.training.get(methods[name].get("training"))
            hours = trained["seconds"] / 3600 if trained else float("nan")
            rows[name] = row | {"seconds": seconds.get(name), "training_hours": hours}
        return pd.DataFrame(rows, index=COLUMNS).T.astype(float)

    def under_kinds(self, table):
        """Return a table of methods with one more row above the methods of each kind.

        Parameters
        ----------
        table : pandas.DataFrame
            Rows that are sorted by :meth:`kind`, such as those of :meth:`summary`.

        Returns
        -------
        pandas.DataFrame
            The index of each new row is the kind and a colon, and its values are NaN.
        """
        parts = []
        for kind, part in table.groupby(self.kind, sort=False):
            parts += [pd.DataFrame(index=[f"{kind}:"], columns=table.columns, dtype=float), part]
        return pd.concat(parts)

    def to_atlas(self):
        """Return one row for each method that registered the test subjects to the atlas.

        Returns
        -------
        pandas.DataFrame
            Index: names of the methods that have a record. The columns are those of :meth:`summary`
            without ``training_hours``. ``seconds`` is the median over the pairs.
        """
        rows = {name: record["metrics"] for name, record in self.atlas.items()}
        return pd.DataFrame(rows, index=COLUMNS[:-1]).T.astype(float)

    def pairs(self, name, part="test"):
        """Return the measurements of a method, one row for each ordered pair.

        Parameters
        ----------
        name : str
            A method of the plan.
        part : {"test", "validation", "repeats", "few", "atlas"}
            The pairs that were measured, see :func:`vxmlib.experiments.benchmark.pairs_of`.

        Returns
        -------
        pandas.DataFrame
            Columns ``moving``, ``fixed`` and :data:`vxmlib.experiments.compare.MEASURES`.

        Raises
        ------
        vxmlib.records.RecordError
            If the method was not measured on this part.
        """
        measured = self.test if part == "test" else self._read(part, [name])
        record = self._there(measured, part, name)
        return compare.table(record["metrics"]["rows"])

    def by_structure(self, name):
        """Return the mean ``dice`` of each ``structure`` over the test pairs, as a table."""
        record = self._there(self.test, "test", name)
        rows = pd.DataFrame([row["structures"] for row in record["metrics"]["rows"]])
        return rows.mean().rename_axis("structure").rename("dice").reset_index()

    def differences(self, asked, measure="dice"):
        """Return paired differences between methods on the test pairs.

        Parameters
        ----------
        asked : dict of str to (str, str)
            Name of the comparison -> the two methods; the difference is the first minus the second.
            If one of the two was not measured, the row contains NaN.
        measure : str
            One of :data:`vxmlib.experiments.compare.MEASURES`.

        Returns
        -------
        pandas.DataFrame
            Index: name of the comparison. Columns: the results of
            :func:`vxmlib.experiments.statistics.paired_difference`.
        """
        rows = {}
        for what, (one, other) in asked.items():
            there = one in self.test and other in self.test
            both = (self.pairs(one), self.pairs(other)) if there else None
            rows[what] = statistics.paired_difference(*both, measure) if there else {}
        columns = ["difference", "low", "high", "pairs", "people"]
        return pd.DataFrame(rows, index=columns).T.astype(float)

    def retest(self):
        """Compare registration of two scans of one subject with that of different subjects.

        Returns
        -------
        pandas.DataFrame
            Index: methods that were measured on both. Columns: mean length of the displacement in
            the fixed brain, in mm, and Dice, between the two scans of one subject and between
            different subjects.
        """
        rows = {}
        for name in self.plan["methods"]:
            same, other = (self._read(part, [name]) for part in ("repeats", "validation"))
            if same and other:
                same, other = same[name]["metrics"], other[name]["metrics"]
                rows[name] = {
                    "same person, mm": same["length_mm"],
                    "other person, mm": other["length_mm"],
                    "Dice, same person": same["dice"],
                    "Dice, other person": other["dice"],
                }
        return pd.DataFrame(rows).T

    def _there(self, by_name, part, name):
        if name not in by_name:
            work = "train" if part == "training" else f"measure --part {part}"
            raise records.RecordError(
                f"{self.folder / part / name}.json: no such file; run `python -m tools.real {work} "
                f"{name}`"
            )
        return by_name[name]

    def _read(self, part, names):
        paths = {name: self.folder / part / f"{name}.json" for name in names}
        return {name: records.read(path) for name, path in paths.items() if path.exists()}

    def _seconds(self):
        path = self.folder / "times.json"
        if not path.exists():
            return {}
        rows = pd.DataFrame(records.read(path)["metrics"]["rows"])
        return rows.groupby("method")["seconds"].median().to_dict()


def _augmentation(augment):
    """Return the kinds of augmentation of a training run, in words."""
    if not augment:
        return "none"
    moved = augment["affine"] or augment["shift"]
    kinds = {"flip": augment["flip"], "affine": moved, "bend": augment["bend"]}
    return " + ".join(kind for kind, used in kinds.items() if used)
