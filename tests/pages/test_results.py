"""The committed λ results: their tables re-derive to the byte, from records of one state."""

import json
from itertools import permutations
from pathlib import Path

import pytest

from tools import results
from vxmlib import records
from vxmlib.experiments import sweep

TABLES = results.FOLDER / "tables"


def test_the_committed_tables_are_those_of_the_committed_records(tmp_path):
    written = results.write_tables(results.tables(results.FOLDER), tmp_path)
    assert sorted(path.name for path in written) == sorted(path.name for path in TABLES.iterdir())
    for path in written:
        assert path.read_bytes() == (TABLES / path.name).read_bytes(), path.name


@pytest.mark.parametrize("cohort", results.COHORTS)
def test_the_committed_records_are_the_whole_grid(cohort, root):
    points = sweep.points(root / "config" / "lambda.yaml", "wide", cohort=cohort)
    names = {path.stem for path in (results.FOLDER / cohort).glob("*.json")}
    assert names == set(points)


def test_committed_records_say_what_code_made_them():
    for path in sorted(results.FOLDER.rglob("*.json")):
        record = records.read(path)
        assert record["dirty"] is False, path
        assert len(record["commit"]) == 40, path


@pytest.fixture
def folder(tmp_path, root):
    """Records of a whole grid in which Dice is best at λ = 0.5 (NCC) and 0.02 (MSE)."""
    best = {"ncc": 0.5, "mse": 0.02}
    common = records.provenance(
        "06_lambda", cohort="mni", profile="quick", seed=0, parameters={}, seconds=1.0
    )
    for settings in sweep.points(root / "config" / "lambda.yaml", "wide", cohort="mni").values():
        worse = abs(settings.lam - best[settings.image_loss])
        parameters = {key: getattr(settings, key) for key in ("image_loss", "lam", "int_steps")}
        record = common | {"seed": settings.seed, "parameters": parameters | {"spacing": 2.0}}
        # The gap to the best λ is the same for every pair, so its standard error is 0.
        dice = 0.8 - worse / 100 + settings.seed * 1e-6
        pairs = [[a, b, dice, 0.0, 0.1] for a, b in permutations("abc", 2)]
        record["metrics"] = {"diverged": False, "split": "validation", "dice_mean": dice}
        record["metrics"]["by_pair"] = pairs
        records.write(tmp_path / "mni" / f"{settings.name}.json", record)
    return tmp_path


def test_the_test_people_see_the_chosen_lams_and_the_common_one(folder):
    points = results.chosen_points(folder, "mni")
    chosen = sorted({(s.image_loss, s.int_steps, s.lam) for s in points})
    assert chosen == [
        ("mse", 0, 0.02),
        ("mse", 7, 0.02),
        ("ncc", 0, 0.01),
        ("ncc", 0, 0.5),
        ("ncc", 7, 0.5),
    ]
    assert len(points) == 15  # three seeds each


def test_a_record_cut_off_in_the_middle_is_named(folder):
    path = next((folder / "mni").glob("*lam2-int7-seed1.json"))
    path.write_text(path.read_text()[:200])
    with pytest.raises(records.RecordError, match=path.name):
        results.chosen_points(folder, "mni")


def test_a_record_of_another_schema_is_named(folder):
    path = next((folder / "mni").glob("*lam2-int7-seed1.json"))
    record = json.loads(path.read_text())
    del record["parameters"]["lam"]
    path.write_text(json.dumps(record))
    with pytest.raises(sweep.GridError, match=path.name):
        results.chosen_points(folder, "mni")


def test_figures_are_drawn_from_the_tables(tmp_path):
    written = results.write_figures(results.tables(results.FOLDER), tmp_path)
    assert [path.name for path in written] == ["lambda-mni.svg", "lambda-malf.svg"]
    assert all(Path(path).stat().st_size > 10_000 for path in written)
