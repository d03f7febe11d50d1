"""The table of record: its numbers are those of the committed files, whatever stands around it."""

import pandas as pd
import pytest

from tools import record_table
from vxmlib import records


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_every_row_names_its_file_or_table_or_is_empty(root):
    for row in rows(record_table.markdown(root)):
        assert len(row) == len(record_table.HEAD)
        *_, dice, folding, seconds, source = row
        if source == "not measured":
            assert not (dice or folding or seconds)
        else:
            assert source.startswith("TMI 2019") or (root / source.strip("`")).is_file()


def test_a_row_has_the_numbers_of_its_record(root):
    found = pd.DataFrame(records.read(root / "results/vxm2018/record.json")["metrics"]["rows"])
    dice = found.loc[found["weights"] == "vm2_cc", "dice_mean"].mean()
    (row,) = [r for r in rows(record_table.markdown(root)) if r[2] == "2018 weights, CC"]
    assert row[1] == "2" and row[3].startswith(f"{dice:.3f} ± ")


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
