"""The claims: each verdict follows from its numbers, and no claim stays without an answer."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from vxmlib.book import claims, claims_records
from vxmlib.book.claims_verdicts import RULES
from vxmlib.experiments import dependencies

NUMBERS = json.loads((Path(__file__).parent / "data" / "claim_numbers.json").read_text())
COUNTS = {"holds": 7, "holds with a condition": 23, "does not hold": 29}
COUNTS |= {"not replicated in our setting": 8, "undecided": 2}

#: For each claim, what to change so that its rule answers otherwise, and that answer.
FLIPS = {
    "interface": ({"after": 0.6}, False),
    "compile": ({"asks_to_compile": False}, False),
    "generator": ({"zeros": "(1, 40, 40, 2)"}, False),
    "history": ({"names": "loss"}, False),
    "verbose": ({"lines": 6}, False),
    "epoch": ({"moving": 40}, True),
    "steps": ({"batch": 2}, False),
    "fit_generator": ({"keras_2": "lacks"}, False),
    "plain_generator": ({"seven": "no error"}, True),
    "determinant_loss": ({"names": "Dice, JacobianDeterminant"}, True),
    "zero_target": ({"error": "ValueError"}, True),
    "ncc": ({"inside": [1.0, 0.5, 0.6]}, False),
    "contrast": ({"value": 0.95}, True),
    "scale": ({"mild": -0.4}, False),
    "grad": ({"slope": 1.0}, True),
    "key": ({"folded_low": 0.5, "dice_low": 0.7}, True),
    "remedy": ({"folded_tenth": 5.5}, False),
    "fewer": ({"dice_of_fewest": 0.7}, True),
    "smooth": ({"lowest": 0.68}, True),
    "fig7": ({"best": 5.0}, False),
    "fig7_zero": ({"low": 0.001}, True),
    "fig7_mse": ({"best": 0.1}, False),
    "rate": ({"three": 0.05}, False),
    "capacity": ({"smallest": 0.7}, True),
    "loss": ({"folded_last": 0.3}, True),
    "doubled": ({"twice": 0.65}, False),
    "same_result": ({"bright": 0.744}, True),
    "nearest": ({"nearest": 1}, False),
    "one_hot": ({"different": 3}, True),
    "mandatory": ({"linear": 0.73}, True),
    "background": ({"with_it": 0.74}, False),
    "empty": ({"voxelmorph": 1.0}, True),
    "spread": ({"pooled": 0.023}, True),
    "folding": ({"flattened": 0.0}, False),
    "any_fold": ({"folded": 0.0}, True),
    "unlabelled": ({"after": 0.44}, True),
    "learn2reg": ({"counted": 100.0}, True),
    "predict": ({"second_shape": "(80, 80)"}, True),
    "colours": ({"low_end": "blue"}, True),
    "save": ({"equal": False}, False),
    "keras_format": ({"keras": "no error", "saved_model": "no error"}, True),
    "multi_gpu": ({"error": "no error"}, True),
    "load_volfile": ({"error": "no error"}, True),
    "indexing": ({"error": "TypeError"}, False),
    "channel": ({"same": False}, False),
    "install": ({"needs": "tensorflow, neurite"}, True),
    "weights": ({"cc": 0.75, "mse": 0.75}, True),
    "weights_gain": ({"cc": 0.1}, False),
    "denominator": ({"brain": 5_000_000}, True),
    "lpba40": ({"sets": "OASIS, LPBA40"}, True),
    "order": ({"low": 0.01, "high": 0.02}, False),
    "above": ({"low": 0.01, "high": 0.02}, True),
    "instance": ({"low": -0.02, "high": -0.01}, False),
    "aim": ({"folded": 1.2}, False),
    "gain": ({"high": 0.17}, True),
    "instance_gain": ({"low": 0.01}, True),
    "cascade": ({"low": -0.02, "high": -0.01}, False),
    "mse_ncc": ({"low": -0.004, "high": 0.006}, True),
    "ncc_folds": ({"mse": 0.3}, True),
    "diffeomorphic": ({"folded": 0.5}, False),
    "diffeomorphic_dice": ({"low": 0.001, "high": 0.004}, True),
    "fast": ({"syn": 1.0}, False),
    "hyper": ({"hyper": 0.7}, False),
    "same_step": ({"apart": 1e-3}, False),
    "needs_loop": ({"clipping": False}, True),
    "lam_in_fit": ({"inside_fit": False}, True),
    "modalities": ({"rounding": 0.05}, True),
    "given_up": ({"callback": "no error"}, False),
    "gains": ({"budget": 0.69}, True),
}
#: Claims that an interval or a spread leaves open, and what opens them.
OPEN = {
    "order": {"low": -0.01, "high": 0.01},
    "above": {"low": -0.01, "high": 0.01},
    "instance": {"low": -0.01, "high": 0.01},
    "cascade": {"low": -0.01, "high": 0.01},
    "diffeomorphic_dice": {"low": -0.01, "high": 0.01},
    "mse_ncc": {"low": 0.005, "high": 0.02},
    "rate": {"third": 0.3},
    "capacity": {"twice": 0.2},
    "doubled": {"twice": 0.693},
    "gains": {"budget": 0.66},
}

# -- verdicts ------------------------------------------------------------------------------------


def test_every_claim_has_a_rule_and_a_flip():
    assert set(claims.load().index) == set(RULES) == set(FLIPS) == set(NUMBERS)


@pytest.mark.parametrize("name", FLIPS)
def test_a_changed_number_changes_the_verdict(name):
    changed, answer = FLIPS[name]
    assert RULES[name](NUMBERS[name]) is not answer
    assert bool(RULES[name](NUMBERS[name] | changed)) is answer
    assert RULES[name](NUMBERS[name] | changed) is not None


@pytest.mark.parametrize("name", OPEN)
def test_a_difference_within_its_spread_is_undecided(name):
    assert RULES[name](NUMBERS[name] | OPEN[name]) is None


@pytest.mark.parametrize(
    ("holds", "condition", "from_paper", "expected"),
    [
        (True, "", False, "holds"),
        (True, "in 2D", True, "holds with a condition"),
        (False, "in 2D", False, "does not hold"),
        (False, "", True, "not replicated in our setting"),
        (None, "in 2D", True, "undecided"),
    ],
)
def test_the_verdict_in_words(holds, condition, from_paper, expected):
    assert claims.verdict(holds, condition=condition, from_paper=from_paper) == expected


def test_a_paper_is_never_said_to_be_wrong():
    judged = claims.Ledger(NUMBERS).claims
    papers = judged[judged["source"].str.contains("doi.org")]
    assert len(papers) > 15
    assert "does not hold" not in set(papers["verdict"])


# -- the ledger ----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A list of two claims, with rules and numbers."""
    path = tmp_path / "claims.csv"
    path.write_text(
        "name,topic,claim,source,condition,measured,lesson\n"
        "a,one,First | claim.,tutorial,,Dice is {dice:.2f}.,04_dice#compute-dice-in-five-lines\n"
        "b,two,Second.,common belief,in {where},It is {better}.,03_fit\n"
    )
    rules = {"a": lambda m: m["dice"] > 0.5, "b": lambda m: m["better"]}
    numbers = {"a": {"dice": 0.4}, "b": {"better": True, "where": "2D"}}
    return lambda **changes: claims.Ledger(numbers | changes, path, rules)


def test_a_row_has_verdict_claim_source_measurement_and_link(small):
    assert small().table("one").splitlines() == [
        "| Verdict | Claim | Measured |",
        "|---|---|---|",
        "| **does not hold** | First \\| claim. *Source: tutorial* | Dice is 0.40. "
        "([Dice](04_dice.ipynb#compute-dice-in-five-lines)) |",
    ]


def test_a_condition_is_printed_where_the_claim_holds(small):
    assert "It is yes. Condition: in 2D." in small().table("two")
    fails = small(b={"better": False, "where": "2D"}).table("two")
    assert "It is no. ([Compile and fit](03_fit.ipynb))" in fails


def test_all_verdicts_are_counted(small):
    counts = small().counts()
    assert counts == dict.fromkeys(claims.VERDICTS, 0) | {
        "does not hold": 1,
        "holds with a condition": 1,
    }
    assert claims.Ledger(NUMBERS).counts() == COUNTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": {}}, "numbers without a claim in the list: c"),
        ({"a": {"other": 1}}, "a: no number 'dice'; the numbers are: other"),
        ({"a": {"dice": float("nan")}}, "a: dice: expected a finite number"),
        ({"a": {"dice": [0.1, float("inf")]}}, "a: dice: expected a finite number"),
    ],
)
def test_numbers_that_do_not_fit_are_named(small, changes, message):
    with pytest.raises(claims.ClaimError, match=message):
        small(**changes)


def test_a_claim_without_numbers_is_named():
    numbers = {name: values for name, values in NUMBERS.items() if name != "key"}
    with pytest.raises(claims.ClaimError, match="claims without numbers: key"):
        claims.Ledger(numbers)


def test_a_topic_that_is_not_there_is_named(small):
    with pytest.raises(claims.ClaimError, match="found 'three', expected one of: one, two"):
        small().table("three")


# -- the list ------------------------------------------------------------------------------------


def test_the_list_is_complete_and_in_plain_sentences():
    listed = claims.load()
    assert listed.index.is_unique and listed["claim"].is_unique
    for column in ("claim", "measured"):
        assert listed[column].str.endswith(".").all()
    assert not (listed[["topic", "source", "lesson"]] == "").any().any()
    assert not listed["condition"].str.endswith(".").any()


def test_every_claim_leads_to_a_lesson_and_a_heading_that_exist(root):
    for target in claims.load()["lesson"]:
        stem, _, section = target.partition("#")
        assert stem in claims.LESSONS
        text = (root / "notebooks" / f"{stem}.py").read_text(encoding="utf8")
        headings = re.findall(r"^# #+ (.+)$", text, flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w\s-]", "", h.lower()).replace(" ", "-") for h in headings}
        assert not section or section in anchors, target


def test_the_page_shows_every_topic_once(root):
    text = (root / "notebooks" / "claims.py").read_text(encoding="utf8")
    shown = re.findall(r'ledger\.table\("(\w+)"\)', text)
    assert sorted(shown) == sorted(claims.load()["topic"].unique())


def test_the_list_and_the_rules_need_no_tensorflow():
    for name in ("claims", "claims_verdicts"):
        assert "vxmlib.backend" not in dependencies.modules(f"vxmlib.book.{name}")


# -- numbers from records ------------------------------------------------------------------------


def test_numbers_of_the_committed_grid():
    numbers = claims_records.all_of_lam()
    assert set(numbers) == {"key", "remedy", "fewer", "smooth", "fig7", "fig7_zero", "fig7_mse"}
    for name, values in numbers.items():
        assert set(values) == set(NUMBERS[name])
    assert numbers["key"]["folded_low"] > numbers["key"]["folded_one"]
    assert numbers["fig7_zero"]["low"] < numbers["fig7_zero"]["difference"]


def test_numbers_of_a_curve():
    folded = pd.Series({0.01: 8.0, 0.1: 4.0, 0.5: 1.5, 1.0: 0.5, 5.0: 0.0})
    dice = pd.Series({0.01: 0.6, 0.1: 0.62, 0.5: 0.63, 1.0: 0.65, 5.0: 0.61})
    numbers = claims_records.lam(folded, dice)
    assert numbers["remedy"] == {"folded_low": 8.0, "folded_tenth": 4.0, "calm": 1.0}
    assert numbers["fewer"] == {"fewest": 5.0, "dice_of_fewest": 0.61, "best_dice": 0.65}
    few = claims_records.lam_integrated(folded, dice, few=1.0)["smooth"]
    assert few == {"first": 1.0, "last": 5.0, "folded": 0.5, "lowest": 0.61, "highest": 0.65}


def test_numbers_of_trainings():
    names = ["all", "all, a third of the rate", "all, three times the rate"]
    names += ["all, the smallest network", "all, twice the filters"]
    row = {"dice": 0.7, "dice_sd": 0.01, "folding_percent_brain": 0.2, "folding_sd": 0.03}
    course = {"step": [500, 3000], "loss": [-0.7, -0.8], "val_folding_percent": [0.1, 0.4]}
    ablation = {name: dict(row) for name in names}
    ablation["all, three times the rate"]["folding_percent_brain"] = 0.5
    ablation["all, twice the filters"]["dice_sd"] = 0.02
    numbers = claims_records.trainings({"ablation": ablation, "course": {"augmented": course}})
    assert numbers["rate"] == {"third": 0.2, "usual": 0.2, "three": 0.5, "spread": 0.03}
    assert numbers["doubled"] == {"usual": 0.7, "twice": 0.7, "spread": 0.02}
    assert numbers["loss"]["first"] == 500 and numbers["loss"]["folded_last"] == 0.4


def real_record():
    """The part of ``08_real``'s record that the claims read, with made-up numbers."""
    row = {"dice": 0.7, "folding_percent_brain": 0.5, "seconds": 0.1}
    names = "ncc mse ncc-integrated ncc-instance wide-instance".split()
    methods = {name: dict(row) for name in names}
    methods["syn-mattes"] = {"dice": 0.75, "folding_percent_brain": 0.0, "seconds": 40.0}
    asked = "NCC minus SyN/instance minus SyN/NCC minus MSE/integrated minus NCC"
    asked += "/NCC minus identity/instance minus NCC/twice minus wide"
    gap = {"difference": 0.02, "low": 0.01, "high": 0.03, "pairs": 90.0}
    passes = {"ncc": [0.7, 0.71], "ncc-wide": [0.7, 0.72], "ncc-integrated": [0.7, 0.69]}
    return {
        "methods": methods,
        "differences": {name: dict(gap) for name in asked.split("/")},
        "passes": passes,
        "syn": "syn-mattes",
    }


def test_numbers_of_the_comparison_in_3d():
    numbers = claims_records.papers_3d(real_record(), "there", integrated_lam=0.1)
    assert numbers["above"] == {
        "difference": 0.02,
        "low": 0.01,
        "high": 0.03,
        "setting": "there",
        "syn": "mutual information",
    }
    assert numbers["fast"] == {"network": 0.1, "syn": 40.0}
    assert numbers["gain"]["paper"] == pytest.approx(0.158)
    assert numbers["instance_gain"]["paper"] == pytest.approx(0.012)
    assert numbers["cascade"]["integrated"] == pytest.approx(-0.01)


def test_numbers_of_the_papers_from_committed_records():
    numbers = claims_records.papers(real_record())
    assert numbers["order"]["setting"] == "3000 steps at 2 mm with 15 training subjects"
    for name in ("weights", "weights_gain", "denominator", "lpba40", "hyper"):
        assert set(numbers[name]) == set(NUMBERS[name])
    assert numbers["weights"]["paper_cc"] == 0.753
    assert numbers["weights_gain"]["paper_mse"] == pytest.approx(0.168)


def loop_records(**renamed):
    """The parts of both records on loops that the claims read."""
    row = {"dice_mean": 0.6, "folding_percent_brain": 0.0}
    names = ["identity", "fit()", "curriculum, fit()", "curriculum", "λ by a budget"]
    names += ["discriminator"]
    steps = {"bridge": {"fit": {"largest difference from fit": 0.0}}}
    steps["bridge"]["bare loop"] = {"largest difference from fit": 1e-7}
    steps["inside_fit"] = {"clipping": True, "freezing": True, "monitoring": True}
    situations = {
        "methods": {renamed.get(name, name): dict(row) for name in names},
        "rounding": 0.004,
        "seed_range": 0.003,
        "inside_fit": {"λ by the step": True},
    }
    return steps, situations


@pytest.mark.parametrize("name", ["discriminator", "adversarial loss"])
def test_numbers_of_loops(name):
    steps, situations = loop_records(discriminator=name)
    situations["methods"][name]["dice_mean"] = 0.65
    numbers = claims_records.loops(steps, situations)
    assert numbers["same_step"] == {"apart": 1e-7}
    assert numbers["gains"]["adversarial"] == 0.65
    assert numbers["gains"]["fit"] == 0.6
    assert numbers["gains"]["spread"] == 0.004
    assert claims_records.loops(steps, situations | {"seed_range": 0.02})["gains"]["spread"] == 0.02
    assert numbers["lam_in_fit"] == {"inside_fit": True}


def test_a_record_without_a_method_is_named():
    steps, situations = loop_records(discriminator="something")
    with pytest.raises(claims_records.MissingRow, match="discriminator or adversarial"):
        claims_records.loops(steps, situations)
