"""The table of record: its numbers are those of the committed files, whatever stands around it."""

import re
import types

import pandas as pd
import pytest

from tools import record_table
from vxmlib import records
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
    assert "strided U-Net" in head and "15 subjects for 3000 steps" in head


def test_a_row_is_measured_or_says_that_it_is_not(root):
    for method, dice, spread, folding, seconds in rows(record_table.markdown(root)):
        assert method
        if dice == "not measured":
            assert not (spread or folding or seconds)
        else:
            assert 0 < float(spread) < float(dice) < 1


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
    results = types.SimpleNamespace(
        plan={
            "trainings": {"mse": Settings(lam=0.01), "ncc": Settings()},
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
        training={"ncc": {"parameters": {"lam": 2.0}}},
        title={"mse": "network, MSE", "ncc": "network", "syn-cc": "SyN"}.get,
    )
    assert record_table.name_of("mse", results) == "VoxelMorph, λ = 0.01, network, MSE"
    assert record_table.name_of("ncc", results) == "VoxelMorph, λ = 2, network"
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
