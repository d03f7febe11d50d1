"""The ledger: a verdict follows from the measurement, and no claim stays without an answer."""

import re

import numpy as np
import pytest

from vxmlib.book import claims


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text(
        "name,claim,condition,section,lesson\n"
        "a,First | one,,dice,03_fit\n"
        "b,Second,in 2D,loops,04_dice\n"
    )
    return claims.Ledger(path)


@pytest.mark.parametrize(
    ("name", "holds", "verdict"),
    [
        ("a", True, "holds"),
        ("a", np.True_, "holds"),
        ("b", True, "holds with a condition"),
        ("a", False, "does not hold"),
        ("b", np.False_, "does not hold"),
        ("b", None, "not testable here"),
    ],
)
def test_the_verdict_follows_from_the_measurement(ledger, name, holds, verdict):
    assert ledger.add(name, "1", holds=holds) == verdict


def test_the_table_is_in_the_order_of_the_list_with_conditions_where_they_help(ledger):
    ledger.add("b", "2", holds=True)
    ledger.add("a", "1", holds=False)
    assert ledger.table()["found"].tolist() == ["1", "2; condition: in 2D"]
    assert ledger.table().index.tolist() == [1, 2]
    assert ledger.counts()["does not hold"] == 1 and sum(ledger.counts().values()) == 2
    assert ledger.markdown().splitlines()[-3:] == [
        "| 1. First \\| one | **does not hold** | 1 "
        "({ref}`tested <claims-dice>`, [lesson 4](../notebooks/03_fit.ipynb)) |",
        "| 2. Second | **holds with a condition** | 2; condition: in 2D "
        "({ref}`tested <claims-loops>`, [lesson 5](../notebooks/04_dice.ipynb)) |",
        "```",
    ]


def test_a_claim_without_an_answer_is_named(ledger):
    ledger.add("a", "1", holds=True)
    with pytest.raises(claims.ClaimError, match="no answer for: b"):
        ledger.table()


@pytest.mark.parametrize(
    ("name", "found", "holds", "message"),
    [
        ("c", "1", True, "found 'c', expected one of: a, b"),
        ("a", "1", True, "a: answered already"),
        ("b", " ", True, "b: found is empty"),
        ("b", "1", 0.3, r"b: holds is 0\.3, expected a truth value"),
    ],
)
def test_an_answer_that_says_nothing_is_refused(ledger, name, found, holds, message):
    ledger.add("a", "1", holds=True)
    with pytest.raises(claims.ClaimError, match=message):
        ledger.add(name, found, holds=holds)
    assert list(ledger.answers) == ["a"]


def test_the_claims_of_the_book_are_told_apart():
    listed = claims.Ledger().claims
    assert listed.index.is_unique and listed["claim"].is_unique
    assert listed["claim"].str.endswith(".").all()
    assert listed["lesson"].str.fullmatch(r"\d\d_[a-z0-9_]+").all()


def test_every_claim_of_the_book_leads_to_a_lesson_and_a_section(root):
    listed = claims.Ledger().claims
    assert set(listed["lesson"]) <= {path.stem for path in (root / "notebooks").glob("*.py")}
    text = (root / "notebooks" / "claims.py").read_text(encoding="utf-8")
    labels = re.findall(r"^# \(claims-(\w+)\)=$", text, flags=re.MULTILINE)
    assert set(listed["section"]) == set(labels)
    for name, row in listed.iterrows():  # each is answered in the section that it names
        part = text.partition(f"(claims-{row['section']})=")[2].partition("(claims-")[0]
        assert f'answer("{name}"' in part, name
