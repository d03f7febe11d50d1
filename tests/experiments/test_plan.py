"""The plan of the 3D comparison: the file is sound, and a wrong entry is named."""

import pytest

from vxmlib import augment, files, models, networks, records
from vxmlib.experiments import settings
from vxmlib.experiments.plan import (
    ON_SLICES,
    PlanError,
    all_methods,
    load_plan,
    method,
    training,
    training_parameters,
)
from vxmlib.methods import baselines

COMMON = """
people: {cohort: malf, ndim: 3, spacing: 2.0}
training: {network: strided, features: vxm1, image_loss: ncc, lam: 1.0, int_steps: 0,
           learning_rate: 0.001, schedule: cosine, epochs: 30, steps_per_epoch: 100, batch_size: 1,
           both_ways: false, augment: null, seed: 0}
"""


@pytest.fixture(scope="module")
def plan(root):
    return load_plan(root / "config" / "real.yaml")


@pytest.fixture
def load(tmp_path):
    """Load a plan of one training, a, with something after it or in its place."""

    def load(text, trainings="trainings: {a: }\n"):
        path = tmp_path / "real.yaml"
        path.write_text(COMMON + ("" if text.startswith("trainings") else trainings) + text)
        return load_plan(path)

    return load


def test_a_training_is_the_common_settings_and_its_own(load):
    augmented = "{flip: array, affine: 0, shift: 0, bend: 1, width: 8}"
    plan = load(f"trainings: {{a: , b: {{lam: 2, augment: {augmented}}}}}")
    first, second = plan["trainings"].values()
    assert (first.cohort, first.ndim, first.spacing, first.epochs) == ("malf", 3, 2.0, 30)
    assert (first.lam, first.augment) == (1.0, None)
    assert (second.lam, second.augment.flip, second.augment.bend) == (2.0, "array", 1)
    assert training_parameters(second)["augment"]["bend"] == 1


def test_every_method_of_the_file_has_its_training_or_baseline(plan):
    for name in plan["methods"]:
        entry = method(plan, name)
        if "training" in entry:
            assert training(plan, entry["training"])
        elif name != "identity":
            assert callable(getattr(baselines, entry["baseline"]))


def test_trainings_that_are_compared_differ_in_one_thing(plan):
    full, plain, wide = (
        training_parameters(training(plan, name)) for name in ("ncc", "ncc-none", "ncc-wide")
    )
    assert {key for key in plain if plain[key] != full[key]} == {"augment"}
    assert {key for key in wide if wide[key] != full[key]} == {"features", "lam"}
    runs = {name: training_parameters(run) for name, run in plan["ablation"]["runs"].items()}
    for name, run in runs.items():
        before = runs[name.rpartition(", ")[0] or "all"]  # "all, a, b" goes on from "all, a"
        changed = {key for key in run if run[key] != before[key]}
        assert len(changed) == (name != "all"), name
        assert changed <= {"augment"} or name.startswith("all, ")
        assert not run["both_ways"] or run["batch_size"] % 2 == 0


@pytest.mark.parametrize("part", ON_SLICES)
def test_the_committed_record_of_a_part_on_slices_is_of_this_plan(plan, root, part):
    record = records.read(root / "results" / "malf" / f"{part}.json")
    runs = {name: training_parameters(run) for name, run in plan[part]["runs"].items()}
    asked = record["parameters"]
    same = {key: plan[part][key] for key in ("people", "seeds", "groups") if key in plan[part]}
    assert asked == same | {"runs": runs}
    rows = [(row["run"], row["seed"]) for row in record["metrics"]["rows"]]
    assert rows == [(name, seed) for name in runs for seed in asked["seeds"]]
    assert record["metrics"]["split"] == "validation"


def test_the_probabilistic_runs_differ_in_their_loss_only(plan):
    runs = [training_parameters(run) for run in plan["probabilistic"]["runs"].values()]
    for run in runs:
        assert {key for key in run if run[key] != runs[0].get(key)} <= {"lam", "image_sigma"}
    # Relative to MSE, Grad has the weight σ² λ n / 4 in KL, and 2 λ without it.
    _, weaker, script, _ = runs
    assert weaker["lam"] == pytest.approx(script["image_sigma"] ** 2 * script["lam"] * 2 / 8)


def test_everything_that_readers_see_has_a_title_of_its_own(plan):
    runs = {**plan["ablation"]["runs"], **plan["probabilistic"]["runs"]}
    assert set(plan["titles"]) == {*all_methods(plan), *plan["atlas"], *plan["trainings"], *runs}
    for name, entry in all_methods(plan).items():
        assert ("two passes" in plan["titles"][name]) == (entry.get("passes", 1) == 2), name
        assert ("instance" in plan["titles"][name]) == ("instance" in entry), name


def test_a_title_is_no_setting(load):
    bare, titled = load(""), load("titles: {a: the first}")
    assert (bare["titles"], titled.pop("titles")) == ({}, {"a": "the first"})
    assert titled == {key: bare[key] for key in titled}


def test_a_name_that_the_file_lacks_is_refused(plan):
    with pytest.raises(PlanError, match="trainings: found 'nc', expected one of: base, wide"):
        training(plan, "nc")
    with pytest.raises(PlanError, match="methods: found 'nc', expected one of: identity"):
        method(plan, "nc")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("trainings: {a: {lamb: 2}}", r"trainings\.a: found the key lamb, expected only netwo"),
        (
            "trainings: {a: {schedule: cosin}}",
            r"trainings\.a\.schedule: found 'cosin', expected one of: constant, cosine",
        ),
        ("trainings: {a: {lam: 2.0}, a: {lam: 3.0}}", "found a twice, expected each key once"),
        ("trainings: {a: {lam: -1}}", r"trainings\.a\.lam: found -1, expected a number of at leas"),
        ("trainings: {a: {epochs: 0}}", r"trainings\.a\.epochs: found 0, expected a whole number"),
        ("trainings: {a: {features: huge}}", "features: found 'huge', expected one of: small"),
        ("trainings: {a: {augment: {flip: true}}}", r"augment.*found"),
        ("methods: {m: {basline: syn}}", r"methods\.m: found the key basline, expected only"),
        (
            "methods: {m: {baseline: sym}}",
            r"m\.baseline: found 'sym', expected one of: syn, greedy, demons",
        ),
        ("methods: {m: {training: b}}", r"methods\.m\.training: found 'b', expected one of: a"),
        (
            "methods: {m: {metric: cc}}",
            r"methods\.m: found .*'cc'.*, expected no value, or a mapping",
        ),
        (
            "methods: {m: {baseline: syn, training: a}}",
            "expected no value, or a mapping with the key baseline",
        ),
        (
            "methods: {m: {baseline: syn, passes: 1}}",
            "expected no value, or a mapping with the key baseline",
        ),
        ("methods: {m: {training: a, passes: 0}}", r"m\.passes: found 0, expected a whole number"),
        ("methods: {m: {training: a, instance: {steps: 5}}}", r"instance: found no key learning_r"),
        (
            "methods: {m: {baseline: syn, iterations: 5}}",
            r"iterations: found 5, expected a list of",
        ),
        ("few: {m: {baseline: sym}}", r"few\.m\.baseline: found 'sym'"),
        ("methods: {m: }\nfew: {m: }", "m under methods and under few"),
        ("retest: [n]", r"retest\[0\]: found 'n', expected one of"),
        ("repeat: {trainings: [a], passes: 1.5}", r"repeat\.passes: found 1.5, expected a whole"),
        ("repeat: {training: [a]}", "repeat: found the key training, expected only trainings"),
        ("repeat: {trainings: [b], passes: 2}", r"repeat\.trainings\[0\]: found 'b', expected one"),
        (
            "ablation: {seeds: [0]}",
            "ablation: found no key people, training, runs, expected all of",
        ),
        ("titles: {b: the first}", "titles: found 'b', expected one of: a"),
        ("titles: {a: 1}", r"titles\.a: found 1, expected a title"),
        (
            "methods: {m: }\ntitles: {a: one, m: one}",
            "titles: found 'one' for a and for m, expected a different title for each",
        ),
        ("training2: {}", "the file: found the key training2, expected only people"),
    ],
)
def test_an_entry_that_means_nothing_is_named(load, tmp_path, entry, message):
    with pytest.raises(PlanError, match=message) as error:
        load(entry)
    assert str(tmp_path / "real.yaml") in str(error.value)


def test_a_setting_that_all_trainings_lack_is_named(tmp_path):
    path = tmp_path / "real.yaml"
    path.write_text(COMMON.replace("epochs: 30, ", "") + "trainings: {a: }")
    with pytest.raises(PlanError, match="training: found no key epochs, expected all of network"):
        load_plan(path)


@pytest.mark.parametrize("entry", ["", "repeat:", "repeat: {trainings: }", "repeat: {passes: 3}"])
def test_what_the_file_leaves_out_is_empty(load, entry):
    plan = load(entry)
    assert plan["repeat"]["trainings"] == []
    assert (plan["methods"], plan["few"], plan["retest"]) == ({}, {}, [])


def test_the_schema_allows_what_the_package_has():
    defined = files.read_yaml(files.SCHEMAS / "real.yaml")["$defs"]
    properties = defined["training"]["properties"]
    for name, known in {
        "network": networks.NETWORKS,
        "features": models.FEATURES,
        "image_loss": settings.IMAGE_LOSSES,
        "schedule": settings.SCHEDULES,
    }.items():
        assert set(properties[name]["enum"]) == set(known), name
    assert set(defined["augment"]["properties"]["flip"]["enum"]) == {*augment.FLIPS, None}
