"""The table of record: its numbers are those of the committed files, whatever stands around it."""

import re

import pandas as pd
import pytest

from tools import record_table
from vxmlib import records


def rows(text):
    """Cells of all rows that are no heading."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    return [row for row in cells if row != record_table.HEAD]


def test_every_part_names_its_file_or_its_paper(root):
    heads = re.findall(r"^\*\*.*\((.+)\)\*\*$", record_table.markdown(root), re.MULTILINE)
    assert "TMI 2019, Table I" in heads
    files = [head.strip("`") for head in heads if head.startswith("`")]
    assert len(files) == len(heads) - 1 >= 1
    assert all((root / file).exists() for file in files)


def test_a_row_is_measured_or_says_that_it_is_not(root):
    for method, dice, spread, folding, seconds in rows(record_table.markdown(root)):
        assert method
        if dice == "not measured":
            assert not (spread or folding or seconds)
        else:
            assert 0 < float(spread) < float(dice) < 1


def test_a_row_has_the_numbers_of_its_record(root):
    found = pd.DataFrame(records.read(root / "results/vxm2018/record.json")["metrics"]["rows"])
    means = found[found["weights"] == "vm2_cc"].mean(numeric_only=True)
    (row,) = [r for r in rows(record_table.markdown(root)) if r[0] == "2018 weights, CC"]
    assert row[1:4] == (
        f"{means['dice_mean']:.3f}",
        f"{means['dice_sd_pooled']:.3f}",
        f"{means['folding_percent_brain']:.3f} %",
    )


def test_every_method_of_the_plan_has_a_name(root):
    plan = record_table.Comparison(root / "results" / "malf", root / "config" / "real.yaml").plan
    assert set(plan["methods"]) == set(record_table.NAMES)


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
