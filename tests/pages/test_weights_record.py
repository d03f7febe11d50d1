"""The record of lesson 8 against figures that others measured with the same weights."""

import pandas as pd
import pytest

from vxmlib.experiments.results import committed_record

# Measured with another program (voxelmorph's legacy layers, nearest labels): Dice and folds in
# percent of all voxels, subject_1 as fixed and as moving image.
OTHERS = {
    "vm2_cc": [(0.711, 0.571), (0.715, 0.484)],
    "vm2_l2": [(0.752, 1.061), (0.726, 0.706)],
    "vm1_cc": [(0.714, 0.957), (0.690, 0.802)],
}


@pytest.fixture(scope="module")
def rows():
    record = committed_record("vxm2018/record.json")
    return pd.DataFrame(record["metrics"]["rows"]).set_index(["weights", "fixed"])


def test_before_registration_the_two_scans_overlap_as_others_found(rows):
    assert rows.loc["identity", "dice_mean"].tolist() == pytest.approx([0.522] * 2, abs=0.002)


@pytest.mark.parametrize("name", OTHERS)
def test_the_weights_give_the_dice_and_folding_that_others_found(rows, name):
    for fixed, (dice, folds) in zip(("subject_1", "test"), OTHERS[name], strict=True):
        assert rows.loc[(name, fixed), "dice_mean"] == pytest.approx(dice, abs=0.002)
        assert rows.loc[(name, fixed), "folding_percent"] == pytest.approx(folds, abs=0.02)
