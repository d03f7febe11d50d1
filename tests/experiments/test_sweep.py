"""λ grids: what the file states, what the records say, and what is chosen from them."""

import json

import numpy as np
import pandas as pd
import pytest

from vxmlib import records
from vxmlib.experiments import sweep
from vxmlib.experiments.settings import Settings

FILE = """
shared: {spacing: 2.0}
grids:
  small:
    seeds: [0, 1]
    runs:
      - {image_loss: ncc, lam: [0.1, 1], int_steps: [0, 7]}
      - {image_loss: mse, lam: 0.01, int_steps: 0}
"""


@pytest.fixture
def config(tmp_path):
    """Write a grid file, with something replaced."""

    def write(old="", new=""):
        path = tmp_path / "lambda.yaml"
        assert old in FILE
        path.write_text(FILE.replace(old, new) if old else FILE)
        return path

    return write


@pytest.fixture
def write_run(tmp_path):
    """Write a record as lesson 7 does."""

    def write(lam=1.0, seed=0, dice=0.7, folder="records", file=None, **more):
        settings = Settings(profile="smoke", lam=lam, seed=seed, spacing=2.0)
        record = records.provenance(
            "06_lambda",
            cohort="mni",
            profile="smoke",
            seed=seed,
            parameters=settings.parameters,
            seconds=1.0,
        )
        pairs = [["a", "b", dice - 0.01, 0.0, 0.1], ["b", "a", dice + 0.01, 0.2, 0.3]]
        record["metrics"] = {
            "diverged": False,
            "split": "validation",
            "identity_dice": 0.5,
            "dice_mean": dice,
            "folding_percent_brain": 0.1,
            "sd_log_jacobian": 0.2,
            "by_pair": pairs,
        } | more
        path = tmp_path / folder / f"{file or settings.name}.json"
        records.write(path, record)
        return path

    return write


def test_a_grid_is_all_combinations_in_the_order_of_the_file(config):
    points = sweep.points(config(), "small", cohort="malf", profile="smoke")
    asked = [(s.image_loss, s.lam, s.int_steps, s.seed) for s in points.values()]
    assert asked[:4] == [
        ("ncc", 0.1, 0, 0),
        ("ncc", 0.1, 0, 1),
        ("ncc", 0.1, 7, 0),
        ("ncc", 0.1, 7, 1),
    ]
    assert asked[-1] == ("mse", 0.01, 0, 1)
    assert len(points) == 2 * (2 * 2 + 1)
    assert {(s.cohort, s.profile, s.spacing) for s in points.values()} == {("malf", "smoke", 2.0)}
    assert all(name == settings.name for name, settings in points.items())


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "0.1, 1]",
            "0.1, -1]",
            r"grids\.small\.runs\[0\]\.lam\[1\]: found -1, expected a finite number of at least 0",
        ),
        ("0.1, 1]", "0.1, .nan]", r"grids\.small\.runs\[0\]: lam: found nan"),
        ("0.1, 1]", "0.1, much]", r"runs\[0\]\.lam\[1\]: found 'much', expected a finite number"),
        (
            "0.1, 1]",
            "0.1, 0.1]",
            r"runs\[0\]\.lam: found \[0.1, 0.1\], expected .* without duplicates",
        ),
        ("0.1, 1]", "]", r"runs\[0\]\.lam: found \[\], expected a number of at least 0, or a list"),
        ("lam: 0.01", "lam: true", r"runs\[1\]\.lam: found True, expected a number"),
        ("lam: 0.01", "lam:", r"runs\[1\]\.lam: found None, expected a number"),
        ("image_loss: mse", "image_loss: nmi", r"runs\[1\]\.image_loss: found 'nmi', expected ncc"),
        ("image_loss: mse", "image_loss: [nmi]", r"image_loss\[0\]: found 'nmi', expected one of"),
        (
            "image_loss: mse, lam: 0.01",
            "image_loss: ncc, lam: 1",
            "twice in this grid, expected each run once",
        ),
        ("image_loss: mse", "loss: mse", r"runs\[1\]: found no key image_loss, expected all of"),
        (
            "int_steps: 0",
            "int_steps: 0, seed: 1",
            "found the key seed, expected only image_los",
        ),
        ("int_steps: 0", "int_steps: 0.5", r"runs\[1\]\.int_steps: found 0.5, expected a whole"),
        (
            "seeds: [0, 1]",
            "seeds: [0, -1]",
            r"grids\.small\.seeds\[1\]: found -1, expected a whole",
        ),
        (
            "    seeds: [0, 1]\n",
            "",
            r"grids\.small: found no key seeds, expected all of seeds, runs",
        ),
        (
            "{spacing: 2.0}",
            "{space: 2.0}",
            "shared: found the key space, expected only spacing",
        ),
        ("{spacing: 2.0}", "{spacing: 0}", r"shared\.spacing: found 0, expected a number above 0"),
        ("  small:", "  small: {}\n  small:", "line 4: found small twice"),
        ("[0, 7]}", "[0, 7]", "not YAML"),
        (FILE, "- 1\n", r"found \[1\], expected a mapping"),
        (FILE, "", "the file: found no key grids"),
    ],
)
def test_a_wrong_grid_is_refused_by_file_and_entry(config, old, new, complaint):
    path = config(old, new)
    with pytest.raises(sweep.GridError, match=complaint) as error:
        sweep.points(path, "small")
    assert str(path) in str(error.value)


def test_an_unknown_grid_names_the_known_ones(config, tmp_path):
    with pytest.raises(sweep.GridError, match="no grid 'large'; it has: small"):
        sweep.points(config(), "large")
    with pytest.raises(sweep.GridError, match="no such file"):
        sweep.points(tmp_path / "none.yaml", "small")


def test_the_books_grids_are_sound(root):
    wide = sweep.points(root / "config" / "lambda.yaml", "wide")
    lams = {loss: {s.lam for s in wide.values() if s.image_loss == loss} for loss in ("ncc", "mse")}
    assert lams["ncc"] == {0, 0.01, 0.1, 0.5, 1, 2, 5}
    assert lams["mse"] == {0, 0.001, 0.01, 0.02, 0.05, 0.1}
    assert {s.seed for s in wide.values()} == {0, 1, 2}
    assert {s.int_steps for s in wide.values()} == {0, 7}
    assert set(sweep.points(root / "config" / "lambda.yaml", "book")) <= set(wide)


def test_records_become_a_table_and_a_curve(write_run):
    for lam, seed, dice in [(1, 0, 0.70), (1, 1, 0.74), (0.1, 0, 0.6)]:
        path = write_run(lam, seed, dice)
    write_run(0.1, 1, diverged=True, dice_mean=None, by_pair=None)
    table = sweep.runs(path.parent)
    assert table["lam"].tolist() == [0.1, 0.1, 1.0, 1.0]
    assert table["diverged"].tolist() == [False, True, False, False]
    curve = sweep.curve(table, "dice_mean").set_index("lam")
    assert curve.loc[1, ["mean", "low", "high", "seeds"]].tolist() == [0.72, 0.70, 0.74, 2]
    assert curve.loc[1, "sd"] == pytest.approx(np.std([0.70, 0.74], ddof=1))
    assert curve.loc[0.1, ["mean", "seeds", "diverged"]].tolist() == [0.6, 1, 1]
    pairs = sweep.by_pair(path.parent)
    assert len(pairs) == 6
    assert pairs.query("lam == 1 and seed == 1")["dice"].tolist() == [0.73, 0.75]


def test_a_bad_record_is_an_error_that_names_the_file(write_run, tmp_path):
    path = write_run()
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(records.RecordError, match=path.name):
        sweep.runs(path.parent)
    path.write_text(json.dumps(json.loads(text) | {"schema": 99}))
    with pytest.raises(records.RecordError, match=f"{path.name}: found schema 99"):
        sweep.runs(path.parent)
    path.write_text(json.dumps(json.loads(text) | {"metrics": {"dice": 0.5}}))
    with pytest.raises(sweep.GridError, match=f"{path.name}: found .*, expected that of a λ run"):
        sweep.runs(path.parent)
    with pytest.raises(sweep.GridError, match="no such folder"):
        sweep.runs(tmp_path / "nowhere")
    for read in (sweep.runs, sweep.by_pair):
        with pytest.raises(sweep.GridError, match="found no record of a run"):
            read(tmp_path)


def test_one_run_twice_is_refused(write_run):
    write_run()
    path = write_run(file="copy")
    with pytest.raises(sweep.GridError, match=r"the same run twice: copy\.json"):
        sweep.runs(path.parent)


def grid_of(dice_of, subjects="abcd", **group):
    """Runs and pairs of one group with Dice ``dice_of[lam](moving, fixed)``, two seeds alike."""
    group = {"cohort": "mni", "image_loss": "ncc", "int_steps": 0} | group
    runs, pairs = [], []
    for lam, value in dice_of.items():
        for seed in (0, 1):
            about = group | {"lam": lam, "seed": seed}
            runs.append(about | {"diverged": value is None})
            if value is not None:
                pairs.append(all_pairs(subjects, value).assign(**about))
    return pd.DataFrame(runs), pd.concat(pairs) if pairs else pd.DataFrame()


def below(gap, spread):
    """A Dice that is lower by ``gap`` in the mean; its fixed subjects differ by ``spread``.

    The spread is that of four subjects, -1.5 to 1.5 of it, whose standard error is 0.645 of it.
    """
    return lambda moving, fixed: 0.7 - gap - spread * ("abcd".index(fixed) - 1.5)


def test_a_gap_has_the_standard_error_of_its_subjects():
    table = sweep.gaps(grid_of({1.0: below(0, 0), 2.0: below(0.005, 0.01)})[1]).set_index("lam")
    assert table["dice"].tolist() == pytest.approx([0.7, 0.695])
    assert table["gap"].tolist() == pytest.approx([0, 0.005])
    assert table["error"].tolist() == pytest.approx([0, 0.01 * np.std(range(4), ddof=1) / 2])


def test_the_largest_lam_within_one_standard_error_of_its_gap_is_chosen():
    dice = {0.1: below(0.02, 0), 1.0: below(0, 0), 2.0: below(0.005, 0.01), 5.0: below(0.04, 0.01)}
    chosen = sweep.choose(*grid_of(dice)).iloc[0]
    assert (chosen["best"], chosen["lam"]) == (1.0, 2.0)  # 0.005 below, and its error is 0.0065
    assert (chosen["dice"], chosen["gap"]) == pytest.approx((0.695, 0.005))
    surer = sweep.choose(*grid_of(dice | {2.0: below(0.005, 0.005)}))  # an error of 0.0032
    assert surer[["best", "lam", "gap", "error"]].to_numpy().tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_what_makes_a_subject_hard_for_every_lam_does_not_matter():
    hard = {1.0: below(0, 0.1), 2.0: below(0.005, 0.1)}
    assert sweep.choose(*grid_of(hard))["lam"].item() == 1.0


def test_each_group_chooses_for_itself():
    first = grid_of({1.0: below(0, 0), 2.0: below(0.01, 0)})
    second = grid_of({1.0: below(0.01, 0), 2.0: below(0, 0)}, int_steps=7)
    both = (pd.concat(parts) for parts in zip(first, second, strict=True))
    assert sweep.choose(*both).set_index("int_steps")["lam"].to_dict() == {0: 1.0, 7: 2.0}


def test_a_group_of_which_every_run_diverged_is_named():
    runs, pairs = grid_of({1.0: below(0, 0)})
    dead = grid_of({0.1: None, 1.0: None}, image_loss="mse", int_steps=7)[0]
    with pytest.raises(
        sweep.GridError,
        match=r"cohort mni, image_loss mse, int_steps 7: every run diverged \(λ = 0\.1, 1\)",
    ):
        sweep.choose(pd.concat([runs, dead]), pairs)


def test_a_value_at_which_every_run_diverged_is_not_chosen():
    chosen = sweep.choose(*grid_of({0.1: below(0.02, 0), 1.0: below(0, 0), 2.0: None}))
    assert chosen[["best", "lam"]].to_numpy().tolist() == [[1.0, 1.0]]


def test_the_record_of_a_run_that_diverged_is_a_row(write_run):
    path = write_run(1.0)
    settings = Settings(profile="smoke", lam=5.0)
    records.write(path.with_name("other.json"), sweep.diverged_record(settings, "NaN at step 3"))
    table = sweep.runs(path.parent)
    assert table[["lam", "diverged"]].to_numpy().tolist() == [[1.0, False], [5.0, True]]
    assert np.isnan(table["dice_mean"][1])


def all_pairs(people, value):
    pairs = [(a, b) for a in people for b in people if a != b]
    table = pd.DataFrame(pairs, columns=["moving", "fixed"])
    return table.assign(dice=[value(a, b) for a, b in pairs])


def groups_of_pairs(dice_of):
    """Pairs of four people for each group at λ = 1 (mse: 0.01), and plain NCC at 0.01."""
    asked = [("ncc", 0, 1.0), ("ncc", 7, 1.0), ("mse", 0, 0.01), ("mse", 7, 0.01), ("ncc", 0, 0.01)]
    return pd.concat(
        [
            all_pairs("abcd", lambda a, b, group=group: dice_of[group]).assign(
                cohort="mni", image_loss=group[0], int_steps=group[1], lam=group[2]
            )
            for group in asked
        ]
    )


def test_differences_compare_each_group_at_its_own_lam():
    dice_of = {
        ("ncc", 0, 1.0): 0.70,
        ("ncc", 7, 1.0): 0.69,
        ("mse", 0, 0.01): 0.66,
        ("mse", 7, 0.01): 0.61,
        ("ncc", 0, 0.01): 0.60,
    }
    chosen = pd.DataFrame(
        [
            ("mni", "ncc", 0, 1.0),
            ("mni", "ncc", 7, 1.0),
            ("mni", "mse", 0, 0.01),
            ("mni", "mse", 7, 0.01),
        ],
        columns=[*sweep.GROUP, "lam"],
    )
    table = sweep.differences(groups_of_pairs(dice_of), chosen)
    assert table["difference"].tolist() == pytest.approx([0.10, 0.04, -0.01, -0.05])
    assert table["low"].tolist() == pytest.approx([0.10, 0.04, -0.01, -0.05])
    assert set(table["people"]) == {4}


def test_a_run_that_the_grid_lacks_is_named():
    table = groups_of_pairs(
        dict.fromkeys(
            [
                ("ncc", 0, 1.0),
                ("ncc", 7, 1.0),
                ("mse", 0, 0.01),
                ("mse", 7, 0.01),
                ("ncc", 0, 0.01),
            ],
            0.5,
        )
    )
    with pytest.raises(sweep.GridError, match=r"no row with .*'lam': 3"):
        sweep.select(table, image_loss="ncc", lam=3)


def test_a_report_has_means_over_seeds_and_their_spread(write_run):
    for seed, dice in enumerate([0.70, 0.74]):
        path = write_run(1.0, seed, dice)
    row = sweep.report(sweep.runs(path.parent)).reset_index().iloc[0]
    assert (row["dice_mean"], row["seeds"], row["identity_dice"]) == (0.72, 2, 0.5)
    assert row["dice_sd_seeds"] == pytest.approx(0.04 / np.sqrt(2))


def test_a_printed_table_has_names_for_readers():
    rows = [("mni", "ncc", 0, 1.0, 0.7), ("own", "mse", 7, 0.01, 0.6)]
    table = sweep.readable(pd.DataFrame(rows, columns=[*sweep.GROUP, "lam", "dice"]))
    assert table.index.names == ["subjects", "model"]
    assert table.index.tolist() == [("simulated", "NCC"), ("own", "MSE, integrated")]
    assert list(table) == ["λ", "dice"]
    assert len(sweep.readable(pd.DataFrame(rows[:0], columns=[*sweep.GROUP, "lam"]))) == 0


@pytest.fixture
def write_hyper(tmp_path):
    """Write a record as :mod:`vxmlib.experiments.hyper_curve` does."""

    def write(**metrics):
        record = records.provenance(
            "hypermorph",
            cohort="malf",
            profile="quick",
            seed=0,
            parameters={"image_loss": "ncc", "int_steps": 0, "lam": None},
            seconds=40.0,
        )
        row = {"dice_mean": 0.7, "folding_percent_brain": 0.1, "sd_log_jacobian": 0.2}
        cost = {"steps": 400, "step_seconds": 0.1, "plain_steps": 100, "plain_step_seconds": 0.05}
        curve = [{"lam": lam} | row for lam in (0.0, 1.0)]
        as_long = {"as_long": {"lam": 1.0} | row | {"dice_mean": 0.72}}
        record["metrics"] = {"split": "validation", "curve": curve} | as_long | cost | metrics
        return records.write(tmp_path / "hyper" / "ncc.json", record), tmp_path / "hyper"

    return write


def test_the_curve_of_one_network_is_one_row_a_lam_with_its_cost(write_hyper):
    table = sweep.hyper_curves(write_hyper()[1])
    assert table["lam"].tolist() == [0.0, 1.0]
    assert set(table["cohort"]) == {"malf"}
    assert (table["steps"] * table["step_seconds"]).tolist() == [40.0, 40.0]
    assert table["plain_steps"].tolist() == [100, 100]
    assert np.isnan(table["as_long_dice"][0])
    assert (table["as_long_dice"][1], table["as_long_folding"][1]) == (0.72, 0.1)


def test_a_record_without_a_curve_is_none_of_one_network(write_run):
    path = write_run()
    with pytest.raises(
        sweep.GridError, match=f"{path.name}: found .*, expected that of one network"
    ):
        sweep.hyper_curves(path.parent)
    with pytest.raises(sweep.GridError, match="no such folder"):
        sweep.hyper_curves(path.parent / "none")
