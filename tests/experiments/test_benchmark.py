"""The long 3-D runs: the file is sound, and a tiny plan trains, resumes, measures and records."""

import shutil
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from vxmlib import metrics, records, training
from vxmlib.experiments import benchmark, compare, trained
from vxmlib.experiments.plan import PlanError, load_plan
from vxmlib.experiments.results import Comparison, results_folder
from vxmlib.methods import baselines, passes

SHAPE = (32, 32, 32)
PLAN = Path(__file__).parents[2] / "config" / "real.yaml"
NAMES = {17: "Left Hippocampus", 53: "Right Hippocampus"}


def scan(seed):
    """A smooth image, and two structures in it."""
    image = ndimage.gaussian_filter(np.random.default_rng(seed).random(SHAPE), 3)
    image = ((image - image.min()) / np.ptp(image)).astype(np.float32)
    labels = np.zeros(SHAPE, np.int16)
    labels[8 + seed : 16 + seed, 8:16, 8:16] = 17
    labels[18:26, 18:26, 18:26] = 53
    return image, labels


@pytest.fixture
def tiny(monkeypatch):
    """A plan of seconds, on four people of 32 voxels a side."""
    scans = {name: scan(seed) for seed, name in enumerate("abcd")}
    people = types.SimpleNamespace(
        shape=SHAPE,
        spacing=2.0,
        affine=np.diag([2.0, 2.0, 2.0, 1.0]),
        structures=NAMES,
        unlabelled=(),
        split={"train": ["a", "b"], "validation": ["c", "d"], "test": ["c", "d"]}
        | {"repeats": ["d", "c"]},
        image=lambda name: scans[name][0],
        labels=lambda name: scans[name][1],
        brain=lambda name: scans[name][0] > 0.1,
    )
    monkeypatch.setattr(
        benchmark, "load_people", lambda plan, atlas=None, labels=None: None if labels else people
    )
    plan = load_plan(PLAN)
    del plan["labels"]  # takes minutes
    small = {"epochs": 2, "steps_per_epoch": 1, "features": "small"}
    plan["trainings"]["ncc"] = replace(plan["trainings"]["ncc"], **small)
    plan["methods"]["ncc-instance"]["instance"]["steps"] = 2
    return plan


def test_the_ablation_trains_every_run_from_every_seed(tiny, tmp_path):
    ablation = tiny["ablation"]
    small = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "features": "small"}
    run = replace(ablation["runs"]["all, both ways"], **small)
    ablation |= {"runs": {"all, both ways": run}, "seeds": [0, 1]}
    benchmark.ablate(tiny, tmp_path / "build", tmp_path / "results")
    rows = records.read(tmp_path / "results" / "ablation.json")["metrics"]["rows"]
    assert [(row["run"], row["seed"]) for row in rows] == [
        ("all, both ways", 0),
        ("all, both ways", 1),
    ]
    assert rows[0]["loss"] != rows[1]["loss"]
    assert all(row["steps"] == 1 and 0 < row["dice"] < 1 for row in rows)
    ablation["seeds"] = [0, 1, 2]  # what is there is not trained again, with or without its folder
    shutil.rmtree(tmp_path / "build")
    benchmark.ablate(tiny, tmp_path / "build", tmp_path / "results")
    again = records.read(tmp_path / "results" / "ablation.json")["metrics"]["rows"]
    assert again[:2] == rows and len(again) == 3
    assert len(list((tmp_path / "build" / "ablation").iterdir())) == 1
    parameters = records.read(tmp_path / "results" / "ablation.json")["parameters"]
    parameters["runs"]["all, both ways"]["lam"] = 2.0
    assert benchmark._earlier_rows(tmp_path / "results" / "ablation.json", parameters) == {}


def test_a_part_on_slices_has_its_record_and_its_network(tiny, tmp_path):
    small = {"epochs": 1, "steps_per_epoch": 1, "features": "small"}
    run = replace(tiny["probabilistic"]["runs"]["probabilistic, script"], **small)
    tiny["probabilistic"] |= {"runs": {"script": run}, "seeds": [0]}
    benchmark.ablate(tiny, tmp_path / "build", tmp_path / "results", "probabilistic")
    record = records.read(tmp_path / "results" / "probabilistic.json")
    assert record["run"] == "ablate probabilistic"
    assert record["parameters"]["runs"]["script"]["image_sigma"] == 0.02
    [row] = record["metrics"]["rows"]
    assert row["loss"] > 10 and 0 < row["dice"] < 1  # MSE / 0.02² is large
    assert (tmp_path / "build" / "probabilistic" / "script-0").is_dir()
    assert not (tmp_path / "results" / "ablation.json").exists()
    with pytest.raises(PlanError, match="ablate: found 'seed', expected one of: ablation, prob"):
        benchmark.ablate(tiny, tmp_path / "build", tmp_path / "results", "seed")


def test_a_part_with_groups_is_measured_on_every_pair(tiny, tmp_path):
    base = replace(
        tiny["ablation"]["runs"]["none"],
        epochs=1,
        steps_per_epoch=1,
        batch_size=1,
        features="small",
    )
    seen = replace(base, label_weight=0.5, observed=(17,))
    every = replace(base, label_weight=2.0)
    planned = {"runs": {"without labels": base, "seen": seen, "every": every}, "seeds": [0, 1]}
    tiny["labels"] = tiny["ablation"] | planned | {"groups": {"first": [17], "second": [53]}}
    results = tmp_path / "results"
    benchmark.ablate(tiny, tmp_path / "build", results, "labels")
    record = records.read(results / "labels.json")
    assert record["run"] == "ablate labels"
    runs = record["parameters"]["runs"]
    assert (runs["seen"]["label_weight"], runs["seen"]["observed"]) == (0.5, [17])
    assert "label_weight" not in runs["without labels"]
    people = benchmark.load_people(tiny)
    c, d = (people.labels(name) for name in "cd")
    by_hand = metrics.dice(c, d)
    before = {"moving": "c", "fixed": "d", "folding_percent_brain": 0.0}
    before |= {"first": by_hand[17], "second": by_hand[53]}
    found = {row["moving"]: row for row in record["metrics"]["identity"]}
    assert found["c"] == pytest.approx(before, abs=1e-5)
    for row in record["metrics"]["rows"]:
        assert sorted(pair["moving"] for pair in row["pairs"]) == ["c", "d"]
        mean = np.mean([(pair["first"] + pair["second"]) / 2 for pair in row["pairs"]])
        assert row["dice"] == pytest.approx(mean, abs=1e-4)

    table = Comparison(results, PLAN).labels()
    assert len(table) == 4 + 3 * 2 * 2 * 2  # before; runs, seeds, pairs, groups
    roles = table.groupby(["run", "group"])[["weight", "observed_groups", "observed"]].first()
    assert roles.loc["seen"].to_numpy().tolist() == [[0.5, 1, True], [0.5, 1, False]]
    assert roles.loc["every"].to_numpy().tolist() == [[2.0, 2, True]] * 2
    assert roles.loc["without labels"].to_numpy().tolist() == [[0.0, 0, False]] * 2
    before = table[table["run"].eq("affine alignment only") & table["moving"].eq("c")]
    assert before.set_index("group")["dice"].tolist() == pytest.approx(
        [*by_hand.values()], abs=1e-5
    )

    tiny["labels"]["groups"] = {"first": [17], "second": [17, 53]}  # other groups, other measures
    parameters = record["parameters"] | {"groups": tiny["labels"]["groups"]}
    assert benchmark._earlier_rows(results / "labels.json", parameters) == {}


def test_a_part_that_the_plan_lacks(tiny, tmp_path):
    with pytest.raises(PlanError, match="ablate: found 'labels', expected one of: ablation, prob"):
        benchmark.ablate(tiny, tmp_path, tmp_path, "labels")


def test_labels_without_their_record(tmp_path):
    with pytest.raises(records.RecordError, match=r"run `python -m tools.real ablate labels`"):
        Comparison(tmp_path, PLAN).labels()


def test_training_leaves_weights_and_a_record_and_methods_use_them(tiny, tmp_path):
    results, folder = tmp_path / "results", tmp_path / "build"
    benchmark.train(tiny, "ncc", folder, results)
    record = records.read(results / "training" / "ncc.json")
    assert record["metrics"]["steps"] == 2
    assert len(record["metrics"]["history"]["loss"]) == 2
    assert 0 < record["metrics"]["validation_dice"] < 1
    for name in ("identity", "ncc", "ncc-instance", "demons"):
        benchmark.measure(tiny, name, "test", folder, results)
        record = records.read(results / "test" / f"{name}.json")
        assert record["metrics"]["pairs"] == 2
        assert [row["moving"] for row in record["metrics"]["rows"]] == ["c", "d"]
        assert set(compare.MEASURES) <= set(record["metrics"])
        spent = sum(row["seconds"] for row in record["metrics"]["rows"])
        assert record["seconds"] == pytest.approx(spent)
    assert record["baselines"] == baselines.versions()
    assert not list(folder.glob("*.jsonl"))  # a finished measurement leaves nothing to go on with
    parameters = records.read(results / "test" / "ncc.json")["parameters"]
    assert parameters["training_settings"]["lam"] == 1 and len(parameters["weights_sha256"]) == 64


def test_a_measurement_goes_on_but_not_with_rows_of_other_settings(tiny, tmp_path, monkeypatch):
    results, folder = tmp_path / "results", tmp_path / "build"
    tiny["methods"]["demons"]["metric"] = "first"
    registered = []

    def stop_later(moving, fixed, **options):
        registered.append(options["metric"])
        if len(registered) == 3:
            raise KeyboardInterrupt
        return np.zeros((*SHAPE, 3))

    monkeypatch.setattr(baselines, "demons", stop_later)
    monkeypatch.setattr(benchmark, "pairs_of", lambda *_: [("c", "d"), ("a", "b")])
    with pytest.raises(KeyboardInterrupt):
        benchmark.measure(tiny, "demons", "test", folder, results)
    tiny["methods"]["demons"]["metric"] = "second"
    benchmark.measure(tiny, "demons", "test", folder, results)
    assert registered[3:] == ["second"] * 4
    tiny["methods"]["demons"]["metric"] = "first"
    benchmark.measure(tiny, "demons", "test", folder, results)
    assert registered[7:] == ["first"] * 2  # one pair was there


def test_what_has_its_record_is_not_made_again(tiny, tmp_path, monkeypatch):
    results, folder = tmp_path / "results", tmp_path / "build"
    small = replace(tiny["trainings"]["ncc"], epochs=1, batch_size=2)
    tiny["ablation"] |= {"runs": {"none": small}, "seeds": [0]}
    del tiny["probabilistic"]
    tiny["atlas"] = {}
    tiny["trainings"] = {"ncc": tiny["trainings"]["ncc"]}
    tiny["methods"] = {name: tiny["methods"][name] for name in ("identity", "ncc", "ncc-instance")}
    tiny["retest"], tiny["few"], tiny["repeat"]["trainings"] = [], {}, ["ncc"]
    benchmark.make_all(tiny, folder, results)
    before = {path: path.read_bytes() for path in results.rglob("*.*")}
    # Weights, training, ablation; three methods; watch, passes, times.
    assert len(before) == 3 + 3 + 3
    monkeypatch.setattr(benchmark, "load_people", None)
    benchmark.make_all(tiny, tmp_path / "elsewhere", results)
    assert {path: path.read_bytes() for path in results.rglob("*.*")} == before


def test_the_committed_records_are_those_of_the_file(tmp_path, monkeypatch):
    def loaded(*_, **__):
        pytest.fail("something has no record with the settings and weights of now")

    monkeypatch.setattr(benchmark, "load_people", loaded)
    benchmark.make_all(load_plan(PLAN), tmp_path, results_folder() / "malf")


def test_a_method_of_other_settings_is_measured_anew(tiny, tmp_path):
    folder, file = tmp_path / "build", tmp_path / "test" / "demons.json"
    for iterations in (1, 2, 2):
        tiny["methods"]["demons"]["iterations"] = [iterations]
        benchmark.measure(tiny, "demons", "test", folder, tmp_path)
        assert records.read(file)["parameters"]["iterations"] == [iterations]


def test_another_schedule_is_another_run(tiny, tmp_path):
    benchmark.train(tiny, "ncc", tmp_path / "build", tmp_path / "results")
    tiny["trainings"]["ncc"] = replace(tiny["trainings"]["ncc"], schedule="constant")
    with pytest.raises(training.RunFolderError, match="schedule"):
        benchmark.train(tiny, "ncc", tmp_path / "build", tmp_path / "results")


def test_weights_that_are_not_there_are_asked_for(tiny, tmp_path):
    with pytest.raises(PlanError, match=r"ncc\.h5: no such file; run `python -m tools.real"):
        benchmark.measured_parameters(tiny, "ncc", tmp_path)


def test_weights_are_kept_whatever_method_uses_them(tiny, tmp_path):
    tiny["methods"], tiny["few"] = {"identity": {}}, {"slow": {"training": "ncc"}}
    benchmark.train(tiny, "ncc", tmp_path / "build", tmp_path / "results")
    assert benchmark.measured_parameters(tiny, "slow", tmp_path / "results")["weights_sha256"]


def test_only_an_optimisation_can_be_watched(tiny, tmp_path):
    with pytest.raises(PlanError, match=r"'ncc', a method without .*: ncc-inst"):
        benchmark.watch(tiny, "ncc", tmp_path)


def test_an_optimisation_is_followed_and_methods_are_timed(tiny, tmp_path):
    results = tmp_path / "results"
    benchmark.train(tiny, "ncc", tmp_path / "build", results)
    tiny["methods"]["ncc-instance"]["instance"]["learning_rate"] = 1.0  # labels move at once
    benchmark.watch(tiny, "ncc-instance", results, steps=4, every=2)
    rows = records.read(results / "instance" / "ncc-instance.json")["metrics"]["rows"]
    assert [(row["moving"], row["step"]) for row in rows] == [("c", 0), ("c", 2), ("c", 4)]
    seconds = [row["seconds"] for row in rows]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert rows[0]["dice"] != rows[2]["dice"]
    for name in ("identity", "ncc"):
        benchmark.measure(tiny, name, "test", tmp_path / "build", results)
    benchmark.times(tiny, results)  # only what was measured
    rows = records.read(results / "times.json")["metrics"]["rows"]
    assert [row["method"] for row in rows] == ["identity", "ncc"]
    assert all(row["seconds"] > 0 for row in rows)


def test_what_was_timed_is_timed_again_when_a_method_changed_or_came(tiny, tmp_path, monkeypatch):
    results, timed = tmp_path / "results", []
    method = compare.one_way(baselines.identity)
    monkeypatch.setattr(
        benchmark, "registration", lambda _, name, *__: timed.append(name) or method
    )
    tiny["methods"] = {"identity": {}, "demons": {"baseline": "demons", "iterations": [1]}}

    def timed_now(*measured):
        for name in measured:
            benchmark.measure(tiny, name, "test", tmp_path / "build", results)
        timed.clear()
        benchmark.times(tiny, results)
        return timed

    assert timed_now("identity") == ["identity"]
    assert timed_now() == []
    assert timed_now("demons") == ["identity", "demons"]
    tiny["methods"]["demons"]["iterations"] = [2]
    assert timed_now() == ["identity", "demons"]


def test_without_networks_nothing_is_repeated(tiny, tmp_path):
    tiny["repeat"] = {"trainings": [], "passes": 3}
    with pytest.raises(PlanError, match="found no trainings under `repeat`"):
        benchmark.repeat(tiny, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_method_may_average_with_the_mirrored_pair(tiny, tmp_path):
    results, build = tmp_path / "results", tmp_path / "build"
    benchmark.train(tiny, "ncc", build, results)
    tiny["methods"] |= {"mirrored": {"training": "ncc", "mirror": True}}
    benchmark.measure(tiny, "mirrored", "test", build, results)
    assert records.read(results / "test" / "mirrored.json")["parameters"]["mirror"]
    people = benchmark.load_people(tiny)
    register = trained.network(tiny, tiny["methods"]["mirrored"], people, results)
    moving, fixed = people.split["test"][:2]
    field = register(people.image(moving), people.image(fixed))
    plainly = trained.network(tiny, {"training": "ncc"}, people, results)
    pair = people.image(moving), people.image(fixed)
    once, wanted = plainly(*pair), passes.mirror_averaged(plainly, people.affine)(*pair)
    np.testing.assert_allclose(field, wanted, atol=1e-3 * np.abs(once).max())
    assert np.abs(field - once).max() > 0.05 * np.abs(once).max()


def test_passes_are_looked_at_one_by_one_and_measured_together(tiny, tmp_path):
    results, folder = tmp_path / "results", tmp_path / "build"
    benchmark.train(tiny, "ncc", folder, results)
    tiny["repeat"] = {"trainings": ["ncc"], "passes": 3}
    benchmark.repeat(tiny, results)
    record = records.read(results / "passes.json")
    rows = record["metrics"]["rows"]
    assert [row["moving"] for row in rows] == ["c"] * 3 + ["d"] * 3
    assert [row["pass"] for row in rows] == [1, 2, 3] * 2
    assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    tiny["methods"] |= {"again": {"training": "ncc", "passes": 3}}
    for name, number in (("ncc", 1), ("again", 3)):
        benchmark.measure(tiny, name, "validation", folder, results)
        measured = records.read(results / "validation" / f"{name}.json")["metrics"]["rows"]
        each = [row for row in rows if row["pass"] == number]
        for measure in ("dice", "folding_percent_brain"):
            assert [row[measure] for row in measured] == [row[measure] for row in each]
    assert measured[0]["length_mm"] > 0
    tiny["repeat"]["passes"] = 2  # another number is another record
    benchmark.repeat(tiny, results)
    assert len(records.read(results / "passes.json")["metrics"]["rows"]) == 4


def test_a_missing_baseline_leaves_the_other_methods(tiny, tmp_path, monkeypatch, capsys):
    def missing(*_, **__):
        raise baselines.BaselineMissing("antspyx is not installed")

    monkeypatch.setattr(baselines, "syn_both", missing)
    tiny["trainings"], tiny["repeat"]["trainings"] = {}, []
    del tiny["ablation"], tiny["probabilistic"]
    tiny["few"] = {"demons": tiny["methods"]["demons"]}
    tiny["retest"] = ["syn-cc", "identity"]
    tiny["methods"] = {
        "syn-cc": {"baseline": "syn", "metric": "cc", "iterations": [5]},
        "identity": {},
    }
    with pytest.raises(PlanError, match=r"failed: measure syn-cc \(test\), measure syn-cc \(v"):
        benchmark.make_all(tiny, tmp_path / "build", tmp_path / "results")
    assert "measure syn-cc (test): failed: antspyx is not installed" in capsys.readouterr().out
    assert (tmp_path / "results" / "few" / "demons.json").exists()
    for part in ("test", "validation", "repeats"):
        assert (tmp_path / "results" / part / "identity.json").exists()
        assert not (tmp_path / "results" / part / "syn-cc.json").exists()


def test_test_subjects_are_measured_to_the_atlas_in_one_direction(tiny, tmp_path):
    results, folder = tmp_path / "results", tmp_path / "build"
    people = benchmark.load_people(tiny)
    people.split["atlas"] = ("atlas",)
    scan_of, labels_of = people.image, people.labels
    people.image = lambda name: scan_of("a" if name == "atlas" else name)
    people.labels = lambda name: labels_of("a" if name == "atlas" else name)
    people.brain = lambda name: people.image(name) > 0.1
    tiny["trainings"]["ncc"] = replace(tiny["trainings"]["ncc"], atlas="template")
    benchmark.train(tiny, "ncc", folder, results)
    settings = records.read(results / "training" / "ncc.json")["parameters"]
    assert settings["atlas"] == "template"
    syn = {"baseline": "syn", "metric": "cc", "iterations": [1]}
    tiny["atlas"] = {"identity": {}, "network": {"training": "ncc"}, "syn-cc": syn}
    for name in tiny["atlas"]:
        benchmark.measure(tiny, name, "atlas", folder, results)
        record = records.read(results / "atlas" / f"{name}.json")
        rows = record["metrics"]["rows"]
        assert [(row["moving"], row["fixed"]) for row in rows] == [("c", "atlas"), ("d", "atlas")]
        assert record["parameters"]["atlas"] == "template"
        assert record["metrics"]["pairs"] == 2 and record["metrics"]["split"] == "atlas"
        assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    # Subject c is two voxels from a, in one of the two structures of 8 voxels; d is three.
    rows = records.read(results / "atlas" / "identity.json")["metrics"]["rows"]
    assert [row["dice"] for row in rows] == pytest.approx([(6 / 8 + 1) / 2, (5 / 8 + 1) / 2])
    with pytest.raises(PlanError, match="atlas: found 'demons', expected one of: identity, net"):
        benchmark.measure(tiny, "demons", "atlas", folder, results)


def test_a_persons_two_scans_make_a_pair_of_repeats():
    people = types.SimpleNamespace(split={"validation": ["1", "2"], "repeats": ["1b", "2b"]})
    assert benchmark.pairs_of(people, "repeats") == [("1", "1b"), ("2", "2b")]


def test_few_pairs_are_the_first_of_the_test_people():
    people = types.SimpleNamespace(split={"test": ["1", "2", "3", "4"]})
    assert benchmark.pairs_of(people, "few") == [("1", "2"), ("1", "3"), ("1", "4")]
