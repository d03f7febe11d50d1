"""Keeping a lesson's record under results/: only of committed code, whole or not at all."""

import pytest

from tools import keep
from vxmlib import records


def write(products, dirty):
    record = records.provenance(
        "07_weights", cohort="vxm2018", profile="quick", seed=0, parameters={}, seconds=1.0
    )
    path = products / "07_weights" / "record.json"
    return records.write(path, record | {"dirty": dirty, "metrics": {"dice": 0.7}})


def test_a_record_of_committed_code_is_kept_as_it_is(tmp_path):
    written = write(tmp_path / "products", dirty=False)
    path = keep.keep("07_weights", tmp_path / "products", tmp_path / "results")
    assert path == tmp_path / "results" / "vxm2018" / "record.json"
    assert records.read(path) == written


def test_a_record_of_changed_code_is_refused(tmp_path):
    write(tmp_path / "products", dirty=True)
    with pytest.raises(ValueError, match="code that is not committed"):
        keep.keep("07_weights", tmp_path / "products", tmp_path / "results")
    assert not (tmp_path / "results").exists()
