"""Read the committed records: any of them, and the comparison on real people in 3D as tables.

Nothing here needs TensorFlow.
"""

from pathlib import Path

import pandas as pd

from vxmlib import records
from vxmlib.experiments import compare, statistics
from vxmlib.experiments.plan import load_plan

#: Of :meth:`Comparison.summary`.
COLUMNS = ("pairs", "dice_sd_pairs", "dice_sd_pooled", *compare.MEASURES, "training_hours")


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


class Comparison:
    """Trainings and measurements of a folder that :mod:`vxmlib.experiments.benchmark` wrote.

    Parameters
    ----------
    folder : path
        With ``training/``, ``test/``, ``validation/``, ``repeats/``, ``weights/``,
        ``ablation.json``, ``passes.json``, ``times.json``.
    plan : path
        ``config/real.yaml``: which methods there should be, in its order.

    Attributes
    ----------
    training, test : dict of str to dict
        Records by name.
    missing : list of str
        Methods of the plan that were not measured on the test people.
    titles : dict of str to str
        Names of methods, trainings and runs -> what readers see in their place, as in
        ``table.rename(index=comparison.titles)``.

    Raises
    ------
    vxmlib.records.RecordError
        A record that is cut off or of another schema; the file is named.
    vxmlib.experiments.plan.PlanError
        An entry of the plan that means nothing.
    """

    def __init__(self, folder, plan):
        self.folder = Path(folder)
        self.plan = load_plan(plan)
        self.training = self._read("training", self.plan["trainings"])
        self.test = self._read("test", self.plan["methods"])
        self.missing = [name for name in self.plan["methods"] if name not in self.test]
        self.titles = self.plan["titles"]

    def title(self, name):
        """Return what readers see in place of a name; the name itself where it has no title."""
        return self.titles.get(name, name)

    def trainings(self, prefix=""):
        """One row a training whose name begins so: what set it apart, and how it ended.

        Returns
        -------
        pandas.DataFrame
            By name: ``augmentation`` (words), ``lam``, ``steps``, ``seconds`` (wall time),
            ``weights`` (their number), ``dice`` and ``folding_percent_brain`` of the validation
            people after the last step.
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

    def ablation(self):
        """One row a short training on slices: what it changed, mean and SD over seeds.

        Returns
        -------
        pandas.DataFrame
            By name: ``seeds`` (their number), ``steps``, ``loss`` (of the training people, after
            the last step), ``dice`` and ``folding_percent_brain`` of the validation people,
            ``dice_sd`` and ``folding_sd``; empty without the record.
        """
        path = self.folder / "ablation.json"
        rows = records.read(path)["metrics"]["rows"] if path.exists() else []
        columns = ["run", "seed", "steps", "loss", "dice", "folding_percent_brain"]
        runs = pd.DataFrame(rows, columns=columns).groupby("run", sort=False)
        means = runs[columns[2:]].mean()
        return means.assign(
            seeds=runs["seed"].nunique(),
            dice_sd=runs["dice"].std(),
            folding_sd=runs["folding_percent_brain"].std(),
        )

    def passes(self):
        """What each pass of a network gave on the validation pairs.

        Returns
        -------
        dict of str to pandas.DataFrame
            By training; index ``pass`` (from 1), means over pairs of ``dice``,
            ``folding_percent_brain`` and ``seconds`` (of this pass alone).

        Raises
        ------
        vxmlib.records.RecordError
            The record is not there.
        """
        path = self.folder / "passes.json"
        if not path.exists():
            raise records.RecordError(f"{path}: not there; run `python -m tools.real repeat`")
        table = pd.DataFrame(records.read(path)["metrics"]["rows"])
        measures = ["dice", "folding_percent_brain", "seconds"]
        return {
            name: rows.groupby("pass")[measures].mean()
            for name, rows in table.groupby("training", sort=False)
        }

    def history(self, name):
        """The epochs of a training at which validation people were looked at, by step.

        Returns
        -------
        pandas.DataFrame
            Index ``step``; ``loss``, its terms, ``val_dice``, ``val_folding_percent``.

        Raises
        ------
        vxmlib.records.RecordError
            It was not trained.
        """
        record = self._there(self.training, "training", name)
        history = pd.DataFrame(record["metrics"]["history"]).set_index("step")
        return history.dropna(subset="val_dice")

    def summary(self):
        """One row a method of the plan: means over the test pairs, times; missing ones are empty.

        Returns
        -------
        pandas.DataFrame
            :data:`COLUMNS`: those of :func:`vxmlib.experiments.compare.summary`, with
            ``seconds`` from the run in which all methods took turns (NaN without it),
            and ``training_hours``.
        """
        seconds, rows = self._seconds(), {}
        for name, method in self.plan["methods"].items():
            measured = self.test.get(name, {"metrics": {}})["metrics"]
            row = {k: v for k, v in measured.items() if k not in ("split", "rows")}
            trained = self.training.get(method.get("training"))
            hours = trained["seconds"] / 3600 if trained else float("nan")
            rows[name] = row | {"seconds": seconds.get(name), "training_hours": hours}
        return pd.DataFrame(rows, index=COLUMNS).T.astype(float)

    def pairs(self, name, part="test"):
        """Measurements of a method by pair.

        Returns
        -------
        pandas.DataFrame
            ``moving``, ``fixed`` and :data:`vxmlib.experiments.compare.MEASURES`.

        Raises
        ------
        vxmlib.records.RecordError
            It was not measured.
        """
        measured = self.test if part == "test" else self._read(part, [name])
        record = self._there(measured, part, name)
        return compare.table(record["metrics"]["rows"])

    def by_structure(self, name):
        """Mean Dice of each structure over the test pairs: ``structure``, ``dice``."""
        record = self._there(self.test, "test", name)
        rows = pd.DataFrame([row["structures"] for row in record["metrics"]["rows"]])
        return rows.mean().rename_axis("structure").rename("dice").reset_index()

    def differences(self, asked, measure="dice"):
        """Paired differences between methods.

        Parameters
        ----------
        asked : dict of str to (str, str)
            What to call it -> the two methods; one that was not measured gives an empty row.
        measure : str
            One of :data:`vxmlib.experiments.compare.MEASURES`.

        Returns
        -------
        pandas.DataFrame
            The results of :func:`vxmlib.experiments.statistics.paired_difference`, by name.
        """
        rows = {}
        for what, (one, other) in asked.items():
            there = one in self.test and other in self.test
            both = (self.pairs(one), self.pairs(other)) if there else None
            rows[what] = statistics.paired_difference(*both, measure) if there else {}
        columns = ["difference", "low", "high", "pairs", "people"]
        return pd.DataFrame(rows, index=columns).T.astype(float)

    def retest(self):
        """How far methods move a person's second scan, against other people's.

        Returns
        -------
        pandas.DataFrame
            By method: mean length of the displacement in the brain, and Dice, between the two
            scans of a person and between different people.
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
                f"{self.folder / part / name}.json: not there; run `python -m tools.real {work} "
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
    """What a training changed at random, in words."""
    if not augment:
        return "none"
    moved = augment["affine"] or augment["shift"]
    kinds = {"flip": augment["flip"], "affine": moved, "bend": augment["bend"]}
    return " + ".join(kind for kind, used in kinds.items() if used)
