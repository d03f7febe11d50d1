"""The table of record: ours and the papers' figures, each from a committed file, as Markdown.

    python -m tools.record_table    # writes it into README.md; `make results` does, too

The front page takes the same text (`tools/stage.py`); a test compares the README with it.
"""

import re
from pathlib import Path

import pandas as pd

from vxmlib import files, records
from vxmlib.comparison import Comparison

CODE = Path(__file__).resolve().parent.parent
HEAD = ("Data", "Pairs", "Method", "Dice ± pooled SD", "Folding", "Seconds a pair", "From")
MARKS = ("<!-- table of record: `make results` writes it -->", "<!-- end of the table -->")
#: What the methods of config/real.yaml are called in the table.
NAMES = {
    "identity": "affine alone",
    "syn-cc": "SyN, correlation",
    "syn-mattes": "SyN, mutual information",
    "demons": "demons",
    "ncc": "VoxelMorph, NCC, λ = 1",
    "mse": "VoxelMorph, MSE, λ = 0.01",
    "ncc-none": "VoxelMorph, NCC, not augmented",
    "ncc-integrated": "VoxelMorph, diffeomorphic",
    "ncc-instance": "VoxelMorph, NCC + instance optimisation",
}
_WEIGHTS = {"identity": "affine alone", "vm2_cc": "2018 weights, CC", "vm2_l2": "2018 weights, MSE"}


class TableError(ValueError):
    """The README has no place for the table."""


def markdown(root: Path = CODE) -> str:
    """The table.

    Folding is in percent of the brain; the papers' is by their own number of brain voxels.
    """
    rows = [*_authors_scans(root), *_real_people(root), *_papers(root)]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_readme(root: Path = CODE) -> None:
    """Put the table between the marks of README.md.

    Raises
    ------
    TableError
        The marks are not there.
    """
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"({re.escape(MARKS[0])}\n).*?({re.escape(MARKS[1])})", text, re.DOTALL)
    if found is None:
        raise TableError(f"{path}: expected the lines {MARKS[0]} and {MARKS[1]}")
    table = f"{MARKS[0]}\n\n{markdown(root)}\n\n{MARKS[1]}"
    files.write_text(path, text[: found.start()] + table + text[found.end() :])


def _authors_scans(root):
    """The two scans that the authors released, both directions."""
    file = "results/vxm2018/record.json"
    table = pd.DataFrame(records.read(root / file)["metrics"]["rows"])
    for weights, name in _WEIGHTS.items():
        rows = table[table["weights"] == weights]
        means = rows[["dice_mean", "dice_sd_pooled", "folding_percent_brain", "seconds"]].mean()
        yield _row("authors' scans, 1 mm, 30 structures", len(rows), name, *means, f"`{file}`")


def _real_people(root):
    """The test people of `malf` in 3D."""
    folder = root / "results" / "malf"
    if not folder.is_dir():  # `make full` has not been run yet
        return
    table = Comparison(folder, root / "config" / "real.yaml").summary()
    for method, row in table.iterrows():
        values = row[["dice", "dice_sd_pooled", "folding_percent_brain", "seconds"]]
        source = f"`results/malf/test/{method}.json`"
        if pd.isna(row["dice"]):
            source = "not measured"
        yield _row("`malf`, 2 mm, 23 structures", row["pairs"], NAMES[method], *values, source)


def _papers(root):
    """Table I of the journal paper."""
    table = pd.read_csv(root / "vxmlib" / "data" / "paper_tables.csv")
    for row in table[table["table"] == "I"].itertuples():
        numbers = (row.dice, row.dice_sd, row.folding_percent, float("nan"))
        yield _row(
            "the paper's, scan to atlas, 30 structures",
            250,
            row.method,
            *numbers,
            "TMI 2019, Table I",
        )


def _row(data, pairs, method, dice, spread, folding, seconds, source):
    numbers = (
        f"{dice:.3f} ± {spread:.3f}" if pd.notna(dice) else "",
        f"{folding:.3f} %" if pd.notna(folding) else "",
        f"{seconds:.2f}" if pd.notna(seconds) and seconds else "",
    )
    return (data, f"{pairs:.0f}" if pd.notna(pairs) else "", method, *numbers, source)


if __name__ == "__main__":
    write_readme()
