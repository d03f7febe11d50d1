"""The list of claims about VoxelMorph: a verdict for each, and one table for each topic.

The list is ``vxmlib/data/claims.csv``. :mod:`vxmlib.book.claims_measure` runs small experiments,
:mod:`vxmlib.book.claims_records` reads what lessons and committed records measured, and
:mod:`vxmlib.book.claims_verdicts` decides from these numbers. Nothing here needs TensorFlow.
"""

import math
from pathlib import Path

import pandas as pd

from vxmlib.book.claims_verdicts import RULES

HOLDS, CONDITION, FAILS = "holds", "holds with a condition", "does not hold"
UNDECIDED, NOT_REPLICATED = "undecided", "not replicated in our setting"
VERDICTS = (HOLDS, CONDITION, FAILS, NOT_REPLICATED, UNDECIDED)

#: One row a claim: name, topic, the claim, its source, the condition under which it holds (may be
#: empty), what was measured (a template for the numbers), the lesson that shows it.
CLAIMS = Path(__file__).parents[1] / "data" / "claims.csv"

#: What a link to a lesson says.
LESSONS = {
    "01_data": "Data",
    "02_model": "Network and losses",
    "03_fit": "Compile and fit",
    "04_dice": "Dice",
    "05_jacobian": "Jacobian",
    "06_lambda": "Weight of smoothness",
    "06_choose": "Choice of λ",
    "07_weights": "Authors' weights",
    "08_real": "Real brains",
    "11_diffeomorphic": "Diffeomorphic",
    "13_instance": "Instance optimisation",
    "14_hypermorph": "HyperMorph",
    "15_steps": "One step, three ways",
    "16_situations": "Four situations",
    "ablations": "Ablations",
    "claims": "Claims",
    "cost": "Cost",
    "definitions": "Definitions",
    "one_page": "One page",
    "troubleshooting": "Troubleshooting",
}


class ClaimError(ValueError):
    """A claim without numbers, numbers without a claim, or a number that is missing."""


def load(path=CLAIMS):
    """The list of claims, by name."""
    return pd.read_csv(path, keep_default_na=False).set_index("name")


def verdict(holds, *, condition="", from_paper=False):
    """The verdict in words.

    Parameters
    ----------
    holds : bool or None
        Answer of a rule; None where the measurement cannot decide.
    condition : str
        The condition under which the claim holds, "" for none.
    from_paper : bool
        Whether the claim is a paper's. Our data and trainings differ from a paper's, so its claim
        is "not replicated" where we measure something else.

    Examples
    --------
    >>> verdict(False), verdict(False, from_paper=True), verdict(True, condition="in 2D")
    ('does not hold', 'not replicated in our setting', 'holds with a condition')
    """
    if holds is None:
        return UNDECIDED
    if holds:
        return CONDITION if condition else HOLDS
    return NOT_REPLICATED if from_paper else FAILS


class Ledger:
    """The claims with what was measured for each, and the verdicts.

    Parameters
    ----------
    numbers : dict of str to dict
        For each claim, the numbers and texts that its rule and its template use.
    path : path
        The list, see :data:`CLAIMS`.
    rules : dict of str to function
        Numbers -> True, False or None (undecided).

    Raises
    ------
    ClaimError
        A claim has no numbers or no rule, numbers belong to no claim, or a number is missing or
        NaN. The claim is named.
    """

    def __init__(self, numbers, path=CLAIMS, rules=RULES):
        self.numbers, listed = numbers, load(path)
        for what, names in {"numbers": set(numbers), "a rule": set(rules)}.items():
            if missing := [name for name in listed.index if name not in names]:
                raise ClaimError(f"claims without {what}: {', '.join(missing)}")
        if unknown := sorted(set(numbers) - set(listed.index)):
            raise ClaimError(f"numbers of no claim in the list: {', '.join(unknown)}")
        rows = {name: self._judge(name, claim, rules[name]) for name, claim in listed.iterrows()}
        self.claims = listed.assign(**pd.DataFrame(rows).T)

    def _judge(self, name, claim, rule):
        """Verdict, and what was measured as text."""
        numbers = self.numbers[name]
        if bad := [key for key, value in numbers.items() if _not_finite(value)]:
            raise ClaimError(f"{name}: {', '.join(bad)}: expected a finite number")
        try:
            holds = rule(numbers)
            words = {key: _in_words(value) for key, value in numbers.items()}
            measured = claim["measured"].format(**words)
            condition = claim["condition"].format(**words)
        except (KeyError, IndexError) as error:
            raise ClaimError(
                f"{name}: no number {error}; there are: {', '.join(numbers)}"
            ) from None
        from_paper = "https://doi.org/" in claim["source"]
        decided = verdict(holds, condition=condition, from_paper=from_paper)
        if decided == CONDITION:
            measured += f" Condition: {condition}."
        return {"verdict": decided, "measured": measured}

    def counts(self):
        """How many claims have each verdict, all five named."""
        verdicts = self.claims["verdict"].value_counts()
        return {name: int(verdicts.get(name, 0)) for name in VERDICTS}

    def table(self, topic):
        """The claims of one topic as a Markdown table: verdict, claim and source, measurement."""
        rows = self.claims[self.claims["topic"] == topic]
        if not len(rows):
            topics = ", ".join(self.claims["topic"].unique())
            raise ClaimError(f"topic: found {topic!r}, expected one of: {topics}")
        lines = ["| Verdict | Claim | Measured |", "|---|---|---|"]
        for _, row in rows.iterrows():
            claim = f"{row['claim']} *Source: {row['source']}*"
            cells = (f"**{row['verdict']}**", claim, f"{row['measured']} ({_link(row['lesson'])})")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines)


def _link(lesson):
    """A link to a lesson, or to a section of it."""
    stem, _, section = lesson.partition("#")
    target = f"{stem}.ipynb" + (f"#{section}" if section else "")
    return f"[{LESSONS[stem]}]({target})"


def _in_words(value):
    """A value as a sentence takes it: yes or no for a truth value."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _not_finite(value):
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, float) and not math.isfinite(each) for each in values)
