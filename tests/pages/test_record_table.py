"""The table of record: its numbers are those of the committed files, whatever stands around it."""

import re
import types

import pandas as pd
import pytest

from tools import record_table
from vxmlib import records
from vxmlib.experiments.results import KINDS
from vxmlib.experiments.settings import Settings


def rows(text):
    """Cells of all rows that are no heading."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    return [row for row in cells if row != record_table.HEAD]


def test_every_part_names_its_file_or_its_paper(root):
    heads = re.findall(r"^\*\*.*\((.+)\).*\*\*$", record_table.markdown(root), re.MULTILINE)
    assert "TMI 2019, Table I" in heads
    files = [head.strip("`") for head in heads if head.startswith("`")]
    assert len(files) == len(heads) - 1 >= 1
    assert all((root / file).exists() for file in files)


def test_the_networks_are_named_with_their_subjects_and_steps(root):
    (head,) = re.findall(r"^\*\*.*`results/malf`.*$", record_table.markdown(root), re.MULTILINE)
    assert "trained on 15 other subjects" in head
    networks = [row[0] for row in rows(record_table.markdown(root)) if "network" in row[0]]
    named = re.compile(r".+ \((strided U-Net|VxmDense), λ = [\d.]+, \d+ steps\)")
    assert networks and all(named.fullmatch(name) for name in networks)


def test_a_row_is_measured_or_says_that_it_is_not(root):
    for method, dice, spread, folding, seconds in rows(record_table.markdown(root)):
        assert method
        if method.startswith("*"):  # the kind of the methods below it
            assert not (dice or spread or folding or seconds)
        elif dice == "not measured":
            assert not (spread or folding or seconds)
        else:
            assert 0 < float(spread) < float(dice) < 1


def test_the_methods_are_sorted_by_kind(root):
    kinds = [row[0].strip("*") for row in rows(record_table.markdown(root)) if row[0][0] == "*"]
    assert [kind.lower() for kind in kinds] == list(KINDS)


def test_a_row_has_the_numbers_of_its_record(root):
    record = pd.DataFrame(records.read(root / "results/vxm2018/record.json")["metrics"]["rows"])
    means = record[record["weights"] == "vm2_cc"].mean(numeric_only=True)
    (row,) = [r for r in rows(record_table.markdown(root)) if r[0].endswith("2018 weights, CC")]
    assert row[1:4] == (
        f"{means['dice_mean']:.3f}",
        f"{means['dice_sd_pooled']:.3f}",
        f"{means['folding_percent_brain']:.3f} %",
    )


def test_a_pooled_spread_over_pairs_holds_the_spread_between_them():
    pairs = pd.DataFrame({"dice_mean": [0.6, 0.8], "dice_sd_pooled": [0.0, 0.0]})
    assert record_table._pooled_sd(pairs) == pytest.approx(0.1)


def test_a_measured_row_is_named_by_its_record_and_another_by_the_plan():
    planned_training = Settings(network="strided", lam=0.01, epochs=2, steps_per_epoch=10)
    trained = {"network": "vxm", "lam": 2.0, "epochs": 3, "steps_per_epoch": 10}
    results = types.SimpleNamespace(
        plan={
            "trainings": {"mse": planned_training, "ncc": Settings()},
            "methods": {
                "mse": {"training": "mse"},
                "ncc": {"training": "ncc"},
                "syn-cc": {"iterations": [9, 9]},
            },
        },
        test={
            "ncc": {"parameters": {"training": "ncc"}},
            "syn-cc": {"parameters": {"iterations": [4, 0]}},
        },
        training={"ncc": {"parameters": trained}},
        title={"mse": "network, MSE", "ncc": "network", "syn-cc": "SyN"}.get,
    )
    assert record_table.name_of("ncc", results) == "network (VxmDense, λ = 2, 30 steps)"
    planned = "network, MSE (strided U-Net, λ = 0.01, 20 steps)"
    assert record_table.name_of("mse", results) == planned
    assert record_table.name_of("syn-cc", results) == "SyN, 4×0"


def test_every_method_that_was_measured_was_timed(root):
    table = record_table.Comparison(
        root / "results" / "malf", root / "config" / "real.yaml"
    ).summary()
    assert table.dropna(subset="dice")["seconds"].notna().all()


def test_only_what_stands_between_the_marks_is_replaced(root, tmp_path, monkeypatch):
    begin, end = record_table.MARKS
    monkeypatch.setattr(record_table, "markdown", lambda root: "| new |")
    (tmp_path / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    record_table.write_readme(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text == f"before\n{begin}\n\n| new |\n\n{end}\nafter\n"


def test_a_readme_without_the_marks_is_left_as_it_is(root, tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(record_table.TableError, match=r"README\.md: expected the lines"):
        record_table.write_readme(tmp_path)
    assert (tmp_path / "README.md").read_text() == "nothing"
