"""Give a verdict on each claim about VoxelMorph, and show the claims of a topic as a table.

The claims are listed in ``vxmlib/data/claims.csv``. :mod:`vxmlib.book.claims_measure` runs small
experiments, :mod:`vxmlib.book.claims_records` reads the results of lessons and committed records,
and :mod:`vxmlib.book.claims_verdicts` decides each claim from these numbers. This module does not
need TensorFlow.
"""

import math
from pathlib import Path

import pandas as pd

from vxmlib.book.claims_verdicts import RULES

HOLDS, CONDITION, FAILS = "holds", "holds with a condition", "does not hold"
UNDECIDED, NOT_REPLICATED = "undecided", "not replicated in our setting"
VERDICTS = (HOLDS, CONDITION, FAILS, NOT_REPLICATED, UNDECIDED)

#: The list of claims, one row per claim. Its columns are the name, the topic, the claim, its
#: source, the condition under which it holds (may be empty), a template for the sentence with the
#: measured numbers, and the lesson that shows them.
CLAIMS = Path(__file__).parents[1] / "data" / "claims.csv"

#: Text of the link to each lesson.
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
    "09_atlas": "Scan to atlas",
    "10_own": "Own scans",
    "11_diffeomorphic": "Diffeomorphic",
    "11_probabilistic": "Probabilistic model",
    "12_labels": "Training with labels",
    "13_instance": "Instance optimisation",
    "14_hypermorph": "HyperMorph",
    "15_steps": "Training step, three ways",
    "16_situations": "Four situations",
    "ablations": "Ablations",
    "claims": "Claims",
    "cost": "Cost",
    "definitions": "Definitions",
    "one_page": "One page",
    "troubleshooting": "Troubleshooting",
}


class ClaimError(ValueError):
    """Claims, rules and numbers do not match, a number is not finite, or a topic is unknown."""


def load(path=CLAIMS):
    """Return the list of claims as a table that is indexed by the names of the claims."""
    return pd.read_csv(path, keep_default_na=False).set_index("name")


def verdict(holds, *, condition="", from_paper=False):
    """Return the verdict in words.

    Parameters
    ----------
    holds : bool or None
        Result of the claim's rule; None if the measurement cannot decide.
    condition : str
        The condition under which the claim holds; "" if it holds without a condition.
    from_paper : bool
        Whether the claim comes from a paper. Our data and training runs differ from those of a
        paper, so a paper's claim that fails here is "not replicated in our setting".

    Returns
    -------
    str
        One of :data:`VERDICTS`.

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
    """All claims with their measurements and verdicts.

    Parameters
    ----------
    numbers : dict of str to dict
        For each claim, the numbers and texts that its rule and its templates use.
    path : path
        File with the list of claims, see :data:`CLAIMS`.
    rules : dict of str to function
        For each claim, a function that takes its numbers and returns True, False or None
        (undecided).

    Raises
    ------
    ClaimError
        If a claim has no numbers or no rule, if numbers belong to no claim, or if a number is
        missing or not finite. The message names the claim.
    """

    def __init__(self, numbers, path=CLAIMS, rules=RULES):
        self.numbers, listed = numbers, load(path)
        for what, names in {"numbers": set(numbers), "a rule": set(rules)}.items():
            if missing := [name for name in listed.index if name not in names]:
                raise ClaimError(f"claims without {what}: {', '.join(missing)}")
        if unknown := sorted(set(numbers) - set(listed.index)):
            raise ClaimError(f"numbers without a claim in the list: {', '.join(unknown)}")
        rows = {name: self._judge(name, claim, rules[name]) for name, claim in listed.iterrows()}
        self.claims = listed.assign(**pd.DataFrame(rows).T)

    def _judge(self, name, claim, rule):
        """Return the verdict, and the measurement as text."""
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
                f"{name}: no number {error}; the numbers are: {', '.join(numbers)}"
            ) from None
        from_paper = "https://doi.org/" in claim["source"]
        decided = verdict(holds, condition=condition, from_paper=from_paper)
        if decided == CONDITION:
            measured += f" Condition: {condition}."
        return {"verdict": decided, "measured": measured}

    def counts(self):
        """Count the claims for each of the five verdicts."""
        verdicts = self.claims["verdict"].value_counts()
        return {name: int(verdicts.get(name, 0)) for name in VERDICTS}

    def table(self, topic):
        """Return the claims of one topic as a Markdown table: verdict, claim and measurement.

        Raises
        ------
        ClaimError
            If no claim has this topic. The message names the topics.
        """
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
    """Return a Markdown link to a lesson or to one of its sections."""
    stem, _, section = lesson.partition("#")
    target = f"{stem}.ipynb" + (f"#{section}" if section else "")
    return f"[{LESSONS[stem]}]({target})"


def _in_words(value):
    """Return "yes" or "no" for a truth value, and any other value unchanged."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _not_finite(value):
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, float) and not math.isfinite(each) for each in values)
