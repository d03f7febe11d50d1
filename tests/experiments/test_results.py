"""The committed comparison read back: tables of known records, and what a missing one does."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from vxmlib import models, records
from vxmlib.experiments import compare, results, trained
from vxmlib.experiments.plan import PlanError
from vxmlib.experiments.results import COLUMNS, KINDS, Comparison
from vxmlib.methods import baselines
from vxmlib.networks import network_class

PLAN = """
people: {cohort: malf, ndim: 3, spacing: 2.0}
training: {network: strided, features: small, image_loss: ncc, lam: 1.0, int_steps: 0,
           learning_rate: 0.001, schedule: cosine, epochs: 1, steps_per_epoch: 30, batch_size: 1,
           both_ways: false, augment: null, seed: 0}
trainings: {ncc: {}, ncc-none: {augment: null}, mse: {}}
methods:
  identity: {}
  syn: {baseline: syn}
  ncc: {training: ncc}
"""
PEOPLE = ("a", "b", "c")


def record(metrics, **parameters):
    asked = {"cohort": "malf", "profile": "full", "seed": 0, "seconds": 7200.0}
    return records.provenance("test", parameters=parameters, **asked) | {"metrics": metrics}


def rows(dice):
    """All ordered pairs; Dice grows by 0.01 from pair to pair, two structures 0.1 apart."""
    pairs = [(m, f) for m in PEOPLE for f in PEOPLE if m != f]
    others = dict.fromkeys(compare.MEASURES, 1.0)
    return [
        {"moving": m, "fixed": f, **others, "dice": dice + 0.01 * n}
        | {"structures": {"one": dice + 0.01 * n - 0.05, "two": dice + 0.01 * n + 0.05}}
        for n, (m, f) in enumerate(pairs)
    ]


def measured(dice):
    return record({"split": "test", **compare.summary(rows(dice)), "rows": rows(dice)})


def trained_record(augment, lam, dice):
    history = {"step": [10, 20, 30], "loss": [-0.1, -0.2, -0.3]}
    history |= {"val_dice": [np.nan, 0.6, dice], "val_folding_percent": [np.nan, 0.2, 0.1]}
    metrics = {"steps": 30, "weights": 5, "validation_dice": dice}
    metrics |= {"validation_folding_percent": 0.1, "history": history}
    return record(metrics, augment=augment, lam=lam)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "real.yaml").write_text(PLAN)
    for name, dice in {"identity": 0.5, "ncc": 0.7}.items():
        records.write(tmp_path / "test" / f"{name}.json", measured(dice))
    flip = {"flip": "midplane", "affine": 0, "shift": 0, "bend": 0, "width": 8}
    all_three = {"flip": "midplane", "affine": 0.03, "shift": 1, "bend": 2, "width": 8}
    for name, arguments in {
        "ncc": (all_three, 1.0, 0.8),
        "ncc-none": (None, 1.0, 0.7),
        "mse": (flip, 0.5, 0.72),
    }.items():
        records.write(tmp_path / "training" / f"{name}.json", trained_record(*arguments))
    return tmp_path


@pytest.fixture
def comparison(folder):
    return Comparison(folder, folder / "real.yaml")


def test_trainings_say_what_set_them_apart(comparison):
    table = comparison.trainings()
    assert table.loc["ncc", "augmentation"] == "flip + affine + bend"
    assert table.loc["ncc-none", "augmentation"] == "none"
    assert comparison.trainings("ncc")["lam"].to_dict() == {"ncc": 1.0, "ncc-none": 1.0}
    assert table.loc["mse", ["lam", "dice"]].tolist() == [0.5, 0.72]


def test_the_ablation_is_over_seeds(folder):
    assert len(Comparison(folder, folder / "real.yaml").ablation()) == 0
    row = {"steps": 30, "loss": -0.2, "folding_percent_brain": 0.1, "seconds": 5.0}
    rows = [
        row | {"run": run, "seed": seed, "dice": dice + 0.02 * seed}
        for run, dice in {"none": 0.6, "flip": 0.7}.items()
        for seed in (0, 1)
    ]
    records.write(folder / "ablation.json", record({"rows": rows}))
    table = Comparison(folder, folder / "real.yaml").ablation()
    assert table.index.tolist() == ["none", "flip"]
    assert table["dice"].tolist() == pytest.approx([0.61, 0.71])
    assert table["dice_sd"].tolist() == pytest.approx([0.02 / np.sqrt(2)] * 2)
    assert table["seeds"].tolist() == [2, 2]


def test_passes_are_means_over_pairs(folder):
    with pytest.raises(
        records.RecordError, match=r"passes\.json: no such file; run .*real repeat`"
    ):
        Comparison(folder, folder / "real.yaml").passes()
    rows = [
        {"training": name, "moving": m, "fixed": f, "pass": number, "seconds": 0.5}
        | {"dice": dice + 0.1 * number, "folding_percent_brain": number}
        for name, shift in {"ncc": 0.0, "wide": 0.2}.items()
        for m, f, dice in (("a", "b", 0.3 + shift), ("b", "a", 0.5 + shift))
        for number in (1, 2)
    ]
    records.write(folder / "passes.json", record({"split": "validation", "rows": rows}))
    passes = Comparison(folder, folder / "real.yaml").passes()
    assert list(passes) == ["ncc", "wide"]
    assert passes["wide"].index.tolist() == [1, 2]
    assert passes["ncc"]["dice"].tolist() == pytest.approx([0.5, 0.6])
    assert passes["wide"]["dice"].tolist() == pytest.approx([0.7, 0.8])
    assert passes["wide"]["folding_percent_brain"].tolist() == [1, 2]


def test_a_history_has_the_epochs_that_were_looked_at(comparison):
    history = comparison.history("ncc")
    assert history.index.tolist() == [20, 30]
    assert history["val_dice"].tolist() == [0.6, 0.8]


def test_the_summary_is_sorted_by_kind(folder):
    instance = "{steps: 1, learning_rate: 0.1, lam: 1}"
    plan = PLAN.replace("  syn:", f"  both: {{training: ncc, instance: {instance}}}\n  last:")
    (folder / "real.yaml").write_text(plan + "  again: {training: mse}\n")
    comparison = Comparison(folder, folder / "real.yaml")
    assert comparison.summary().index.tolist() == ["identity", "last", "ncc", "again", "both"]
    kinds = [comparison.kind(name) for name in comparison.summary().index]
    assert kinds == [KINDS[0], KINDS[1], KINDS[2], KINDS[2], KINDS[3]]
    table = comparison.under_kinds(comparison.summary())
    heads = [f"{kind}:" for kind in KINDS]
    methods = ["identity"], ["last"], ["ncc", "again"], ["both"]
    expected = [row for head, names in zip(heads, methods, strict=True) for row in (head, *names)]
    assert table.index.tolist() == expected
    assert table.loc[heads].isna().all(axis=None)
    assert table.drop(heads).equals(comparison.summary())


def test_registrations_to_the_atlas_are_listed_if_they_have_a_record(folder):
    plan = PLAN + "atlas: {identity: {}, greedy: {baseline: greedy}, network: {training: ncc}}"
    (folder / "real.yaml").write_text(plan)
    records.write(folder / "atlas" / "greedy.json", measured(0.6))
    table = Comparison(folder, folder / "real.yaml").to_atlas()
    assert list(table.index) == ["greedy"] and list(table) == list(COLUMNS[:-1])
    assert table["dice"]["greedy"] == pytest.approx(0.625)  # six pairs, from 0.6 to 0.65
    assert Comparison(folder, folder / "real.yaml").missing == ["syn"]


def test_the_summary_has_a_row_for_each_method_of_the_plan(comparison):
    table = comparison.summary()
    assert table.index.tolist() == ["identity", "syn", "ncc"]
    assert table.columns.tolist() == list(COLUMNS)
    assert table.loc["ncc", "dice"] == pytest.approx(0.725)
    assert table.loc["ncc", "training_hours"] == 2
    assert comparison.missing == ["syn"] and table.loc["syn"].isna().all()


def test_a_title_stands_in_place_of_a_name(folder):
    with (folder / "real.yaml").open("a") as plan:
        plan.write("titles: {ncc: base network}\n")
    comparison = Comparison(folder, folder / "real.yaml")
    assert (comparison.title("ncc"), comparison.title("syn")) == ("base network", "syn")
    renamed = comparison.summary().rename(index=comparison.titles)
    assert renamed.index.tolist() == ["identity", "syn", "base network"]


def test_seconds_are_those_of_the_run_by_turns(folder):
    times = [{"method": "ncc", "seconds": seconds} for seconds in (3.0, 1.0, 2.0)]
    records.write(folder / "times.json", record({"rows": times}))
    table = Comparison(folder, folder / "real.yaml").summary()
    assert table.loc["ncc", "seconds"] == 2
    assert np.isnan(table.loc["identity", "seconds"])


def test_differences_are_paired_and_a_missing_method_gives_an_empty_row(comparison):
    table = comparison.differences({"gain": ("ncc", "identity"), "against SyN": ("ncc", "syn")})
    assert table.loc["gain", ["difference", "low", "high"]].tolist() == pytest.approx([0.2] * 3)
    assert table.loc["gain", "people"] == 3
    assert table.loc["against SyN"].isna().all()


def test_structures_are_means_over_pairs(comparison):
    table = comparison.by_structure("ncc").set_index("structure")["dice"]
    assert table.to_dict() == pytest.approx({"one": 0.675, "two": 0.775})


def test_retest_needs_both_parts(folder):
    records.write(folder / "repeats" / "ncc.json", record({"length_mm": 0.5, "dice": 0.9}))
    assert len(Comparison(folder, folder / "real.yaml").retest()) == 0
    records.write(folder / "validation" / "ncc.json", record({"length_mm": 2.5, "dice": 0.7}))
    table = Comparison(folder, folder / "real.yaml").retest()
    assert table.loc["ncc"].tolist() == [0.5, 2.5, 0.9, 0.7]


def test_committed_weights_are_measured_again(tmp_path, tiny_cohort):
    people = dataclasses.replace(tiny_cohort, spacing=2.0)
    parameters = {"network": "strided", "augment": None, "lam": 1.0}
    (tmp_path / "real.yaml").write_text(PLAN)
    model = models.build(people.shape, network=network_class("strided"), features="small")
    models.save(model, tmp_path / "weights" / "ncc.h5")
    unmoved = compare.one_way(baselines.identity)
    recorded = compare.measure_pair(people, None, *people.split["test"][:2], unmoved)
    training = trained_record(None, 1.0, 0.8) | {"parameters": parameters}
    records.write(tmp_path / "training" / "ncc.json", training)
    records.write(tmp_path / "test" / "ncc.json", record({"rows": recorded}))
    comparison = Comparison(tmp_path, tmp_path / "real.yaml")
    again = trained.again(comparison, "ncc", pairs=1, people=people)
    # An untrained network moves nothing.
    assert again["difference"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert again["recorded"].tolist() == [row["dice"] for row in recorded]


@pytest.mark.parametrize("name", ["identity", "syn", "optimised", "nothing"])
def test_only_a_network_alone_is_measured_again(folder, name):
    with (folder / "real.yaml").open("a") as plan:
        plan.write(
            "  optimised: {training: ncc, instance: {steps: 5, learning_rate: 0.4, lam: 2.0}}\n"
        )
    with pytest.raises(ValueError, match=f"found '{name}', expected a method with a network"):
        trained.again(Comparison(folder, folder / "real.yaml"), name, pairs=1, people=None)


def test_a_damaged_record_is_named(folder):
    (folder / "test" / "ncc.json").write_text('{"schema"')
    with pytest.raises(records.RecordError, match=r"ncc\.json"):
        Comparison(folder, folder / "real.yaml")


@pytest.mark.parametrize(
    ("ask", "work"),
    [
        (lambda comparison: comparison.pairs("syn"), "measure --part test syn"),
        (lambda comparison: comparison.pairs("ncc", part="repeats"), "measure --part repeats ncc"),
        (lambda comparison: comparison.by_structure("syn"), "measure --part test syn"),
        (lambda comparison: comparison.history("other"), "train other"),
    ],
)
def test_what_was_not_measured_is_said_with_the_command_that_does(folder, ask, work):
    with pytest.raises(
        records.RecordError, match=f"no such file; run `python -m tools.real {work}`"
    ):
        ask(Comparison(folder, folder / "real.yaml"))


def test_an_entry_of_the_plan_that_means_nothing_is_named(folder):
    with (folder / "real.yaml").open("a") as plan:
        plan.write("  other: {training: nc}\n")
    with pytest.raises(
        PlanError, match=r"methods\.other\.training: found 'nc', expected one of: ncc"
    ):
        Comparison(folder, folder / "real.yaml")


def test_the_results_of_the_repository_are_found_or_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(
        results, "__file__", str(tmp_path / "vxmlib" / "experiments" / "results.py")
    )
    with pytest.raises(FileNotFoundError, match="without the book's repository"):
        results.results_folder()
    (tmp_path / "results").mkdir()
    assert results.results_folder() == tmp_path / "results"


READ = """
import sys
from vxmlib.experiments import results, sweep
folder = results.results_folder()
comparison = results.Comparison(folder / "malf", folder.parent / "config" / "real.yaml")
tables = [comparison.summary(), comparison.trainings(), comparison.ablation(), comparison.retest()]
tables += comparison.passes().values()
tables += [comparison.pairs("ncc"), comparison.by_structure("ncc"), comparison.history("ncc")]
tables += [comparison.differences({"both": ("ncc", "identity")})]
lambdas = folder / "lambda" / "malf"
tables += [sweep.choose(sweep.runs(lambdas), sweep.by_pair(lambdas))]
assert all(len(table) for table in tables)
results.committed_record("vxm2018/record.json")
assert not {"tensorflow", "keras", "tf_keras", "voxelmorph"} & set(sys.modules)
"""


def test_committed_results_are_read_without_tensorflow():
    subprocess.run([sys.executable, "-c", READ], check=True)
