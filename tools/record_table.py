"""The table of record: ours and the papers' figures, each from a committed file, as Markdown.

    python -m tools.record_table    # writes it into README.md; `make results` does, too

The front page takes the same text (`tools/stage.py`); a test compares the README with it.
"""

from pathlib import Path

import pandas as pd

from vxmlib import files, records
from vxmlib.experiments.results import Comparison

CODE = Path(__file__).resolve().parent.parent
HEAD = ("Method", "Dice", "± pooled SD", "Folding", "Seconds a pair")
MARKS = ("<!-- table of record: `make results` writes it -->", "<!-- end of the table -->")
#: What the methods of config/real.yaml are called in the table, with settings from there.
NAMES = {
    "identity": "affine alone",
    "syn-cc": "SyN, correlation, {iterations}",
    "syn-mattes": "SyN, mutual information, {iterations}",
    "demons": "demons",
    "ncc": "VoxelMorph, NCC, λ = {lam:g}",
    "mse": "VoxelMorph, MSE, λ = {lam:g}",
    "ncc-none": "VoxelMorph, NCC, not augmented",
    "ncc-wide": "VoxelMorph, NCC, λ = {lam:g}, wide network",
    "wide-twice": "VoxelMorph, NCC, λ = {lam:g}, wide network, {passes} passes",
    "ncc-integrated": "VoxelMorph, diffeomorphic, NCC, λ = {lam:g}",
    "ncc-instance": "VoxelMorph, NCC + instance optimisation",
    "wide-instance": "VoxelMorph, NCC, wide network + instance optimisation",
}
_WEIGHTS = {"identity": "affine alone", "vm2_cc": "2018 weights, CC", "vm2_l2": "2018 weights, MSE"}


class TableError(ValueError):
    """The README has no place for the table."""


def markdown(root: Path = CODE) -> str:
    """The table, one part a data set; each part names its data, pairs and file.

    Folding is in percent of the brain; the papers' is by their own number of brain voxels.
    """
    parts = []
    for title, rows in (_authors_scans(root), _real_people(root), _papers(root)):
        lines = [f"**{title}**", "", _line(HEAD), "|---|---|---|---|---|", *map(_line, rows)]
        parts += ["\n".join(lines)] if rows else []
    return "\n\n".join(parts)


def write_readme(root: Path = CODE) -> None:
    """Put the table between the marks of README.md.

    Raises
    ------
    TableError
        The marks are not there.
    """
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise TableError(f"{path}: expected the lines {MARKS[0]} and {MARKS[1]}")
    files.write_text(path, f"{before}{begin}\n\n{markdown(root)}\n\n{end}{after}")


def _authors_scans(root):
    """The two scans that the authors released, both directions."""
    file = "results/vxm2018/record.json"
    table = pd.DataFrame(records.read(root / file)["metrics"]["rows"])
    measures = ["dice_mean", "dice_sd_pooled", "folding_percent_brain", "seconds"]
    means = table.groupby("weights")[measures].mean()
    means["dice_sd_pooled"] = table.groupby("weights")[measures[:2]].apply(_pooled_sd)
    pairs = table.groupby("weights").size().iloc[0]
    title = f"The authors' two scans, 1 mm, 30 structures, {pairs} ordered pairs (`{file}`)"
    return title, [_row(name, *means.loc[weights]) for weights, name in _WEIGHTS.items()]


def _pooled_sd(rows):
    """SD over pairs and structures, of pairs with equally many structures, each with its own."""
    within, between = (rows["dice_sd_pooled"] ** 2).mean(), rows["dice_mean"].var(ddof=0)
    return (within + between) ** 0.5


def _real_people(root):
    """The test people of `malf` in 3D; a method that was not measured has an empty row."""
    folder = root / "results" / "malf"
    if not folder.is_dir():  # as in a small test's root
        return "", []
    results = Comparison(folder, root / "config" / "real.yaml")
    table = results.summary()
    measures = ["dice", "dice_sd_pooled", "folding_percent_brain", "seconds"]
    title = (
        f"Ten real people of `malf`, 2 mm, 23 structures, {table['pairs'].max():.0f} ordered pairs "
        "(`results/malf`); iterations of SyN at voxels of 8, 4 and 2 mm"
    )
    return title, [_row(name_of(name, results), *row) for name, row in table[measures].iterrows()]


def name_of(method: str, results: Comparison) -> str:
    """What a method is called, with the λ, iterations or passes that it was measured with.

    Of one that was not measured they are the plan's.
    """
    entry, lam = results.plan["methods"][method], None
    if training := entry.get("training"):
        lam = results.plan["trainings"][training].lam
    if method in results.test:
        entry = results.test[method]["parameters"]
        if training in results.training:
            lam = results.training[training]["parameters"]["lam"]
    iterations = "×".join(map(str, entry.get("iterations", [])))
    passes = entry.get("passes", 1)
    return NAMES[method].format(lam=lam, iterations=iterations, passes=passes)


def _papers(root):
    """Table I of the journal paper."""
    table = pd.read_csv(root / "vxmlib" / "data" / "paper_tables.csv")
    title = "The paper's 250 scans to an atlas, 1 mm, 30 structures (TMI 2019, Table I)"
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
