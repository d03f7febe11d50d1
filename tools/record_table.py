"""Make the table of record: our results and the papers', each from a committed file, as Markdown.

    python -m tools.record_table    # writes it to README.md, as `make results` does, too

The front page has the same text (`tools/stage.py`), and a test compares the README with it.
"""

from pathlib import Path

import pandas as pd

from vxmlib import files, records
from vxmlib.experiments.plan import training_parameters
from vxmlib.experiments.results import Comparison
from vxmlib.sources import malf

CODE = Path(__file__).resolve().parent.parent
HEAD = ("Method", "Dice", "± pooled SD", "Folding", "Seconds per pair")
MARKS = ("<!-- table of record: `make results` writes it -->", "<!-- end of the table -->")
_WEIGHTS = {
    "identity": "affine alignment only",
    "vm2_cc": "VoxelMorph-2, 2018 weights, CC",
    "vm2_l2": "VoxelMorph-2, 2018 weights, MSE",
}


_NETWORKS = {"strided": "strided U-Net", "vxm": "VxmDense"}


class TableError(ValueError):
    """The README lacks the lines between which the table is written."""


def markdown(root: Path = CODE) -> str:
    """Return the table as Markdown, in one part for each data set.

    Each part names its data, pairs and file. Folding is in percent of the brain. The papers'
    percentages refer to the papers' number of brain voxels.
    """
    parts = []
    for title, rows in (_authors_scans(root), _real_people(root), _papers(root)):
        lines = [f"**{title}**", "", _line(HEAD), "|---|---|---|---|---|", *map(_line, rows)]
        parts += ["\n".join(lines)] if rows else []
    return "\n\n".join(parts)


def write_readme(root: Path = CODE) -> None:
    """Write the table between the lines of :data:`MARKS` in README.md.

    Raises
    ------
    TableError
        If the README lacks these lines.
    """
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise TableError(f"{path}: expected the lines {MARKS[0]} and {MARKS[1]}")
    files.write_text(path, f"{before}{begin}\n\n{markdown(root)}\n\n{end}{after}")


def _authors_scans(root):
    """Return title and rows for the two scans that the authors released, in both directions."""
    file = "results/vxm2018/record.json"
    table = pd.DataFrame(records.read(root / file)["metrics"]["rows"])
    measures = ["dice_mean", "dice_sd_pooled", "folding_percent_brain", "seconds"]
    means = table.groupby("weights")[measures].mean()
    means["dice_sd_pooled"] = table.groupby("weights")[measures[:2]].apply(_pooled_sd)
    pairs = table.groupby("weights").size().iloc[0]
    title = f"The authors' two scans, 1 mm, 30 structures, {pairs} ordered pairs (`{file}`)"
    return title, [_row(name, *means.loc[weights]) for weights, name in _WEIGHTS.items()]


def _pooled_sd(rows):
    """Pool the SDs of pairs with equally many structures to an SD over pairs and structures."""
    within, between = (rows["dice_sd_pooled"] ** 2).mean(), rows["dice_mean"].var(ddof=0)
    return (within + between) ** 0.5


def _real_people(root):
    """Return title and rows for `malf` in 3D; the row of a method without measurements is empty."""
    folder = root / "results" / "malf"
    if not folder.is_dir():  # as in the small books of the tests
        return "", []
    results = Comparison(folder, root / "config" / "real.yaml")
    table = results.summary()
    measures = ["dice", "dice_sd_pooled", "folding_percent_brain", "seconds"]
    title = (
        f"Ten test subjects of `malf`, 2 mm, 23 structures, {table['pairs'].max():.0f} ordered "
        "pairs (`results/malf`); the networks are versions of VoxelMorph, trained on "
        f"{len(malf.TRAIN)} other subjects; SyN's iterations are at 8, 4 and 2 mm"
    )
    rows = []
    for kind, part in table[measures].groupby(results.kind, sort=False):
        rows.append((f"*{kind[0].upper()}{kind[1:]}*", "", "", "", ""))
        rows += [_row(name_of(name, results), *row) for name, row in part.iterrows()]
    return title, rows


def name_of(method: str, results: Comparison) -> str:
    """Return the title of a method, with the settings with which it was trained or run.

    For a network, these are its class, λ and the steps; for a classical method, its iterations.

    For a method without measurements, they come from the plan.
    """
    entry, title = results.plan["methods"][method], results.title(method)
    training = entry.get("training")
    if training:
        settings = training_parameters(results.plan["trainings"][training])
        if method in results.test and training in results.training:
            settings = results.training[training]["parameters"]
        steps = settings["epochs"] * settings["steps_per_epoch"]
        network = _NETWORKS[settings["network"]]
        return f"{title} ({network}, λ = {settings['lam']:g}, {steps} steps)"
    if method in results.test:
        entry = results.test[method]["parameters"]
    iterations = "×".join(map(str, entry.get("iterations", [])))
    return f"{title}, {iterations}" if iterations else title


def _papers(root):
    """Return title and rows for Table I of the journal paper."""
    table = pd.read_csv(root / "vxmlib" / "data" / "paper_tables.csv")
    title = (
        "The journal paper's 250 test scans to an atlas, 1 mm, 30 structures; its network was "
        "trained on 3231 scans for 150 000 steps (TMI 2019, Table I)"
    )
    measures = ["dice", "dice_sd", "folding_percent"]
    rows = table[table["table"] == "I"].set_index("method")[measures]
    return title, [_row(name, *row, float("nan")) for name, row in rows.iterrows()]


def _row(method, dice, spread, folding, seconds):
    numbers = [f"{x:.3f}" if pd.notna(x) else "" for x in (dice, spread)]
    folds = f"{folding:.3f} %" if pd.notna(folding) else ""
    if pd.isna(dice):
        numbers = ["not measured", ""]
    return (method, *numbers, folds, f"{seconds:.2f}" if seconds >= 0.005 else "")


def _line(cells):
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    write_readme()
