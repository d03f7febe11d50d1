"""The list of claims about VoxelMorph: what was measured for each, and the verdict from it."""

from pathlib import Path

import numpy as np
import pandas as pd

HOLDS, CONDITION = "holds", "holds with a condition"
FAILS, UNTESTED = "does not hold", "not testable here"

#: The claims: name, the sentence as it is said, what it needs to hold, where it is tested, and the
#: lesson that shows why.
CLAIMS = Path(__file__).parents[1] / "data" / "claims.csv"


class ClaimError(ValueError):
    """A claim that is not in the list, or was not answered, or twice."""


def error_of(call):
    """What a call raises: its type and first line, or "" when it runs.

    Examples
    --------
    >>> error_of(lambda: 1 / 0)
    'ZeroDivisionError: division by zero'
    """
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        first = str(error).strip().split("\n")[0]
        return f"{type(error).__name__}: {first}"
    return ""


class Ledger:
    """The claims of a list, to be answered one by one.

    Parameters
    ----------
    path : path
        CSV with ``name``, ``claim``, ``condition`` (may be empty), ``section`` (of the lesson that
        executes the claims) and ``lesson`` (the one that shows why).

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.add("epoch", "63 % of 40 people", holds=False)
    'does not hold'
    """

    def __init__(self, path=CLAIMS):
        self.claims = pd.read_csv(path, keep_default_na=False).set_index("name")
        self.answers = {}

    def add(self, name, found, *, holds):
        """Answer a claim; return the verdict.

        Parameters
        ----------
        name : str
            Of the list.
        found : str
            What was measured, with its numbers; why not, when nothing could be.
        holds : bool or None
            What the measurement says; None when it could not be made here.

        Returns
        -------
        str
            "holds", "holds with a condition" (where the list names one), "does not hold" or
            "not testable here".

        Raises
        ------
        ClaimError
            A name that is not in the list or was answered, nothing found, or ``holds`` that is no
            truth value.
        """
        if name not in self.claims.index:
            known = ", ".join(self.claims.index)
            raise ClaimError(f"name: found {name!r}, expected one of: {known}")
        if name in self.answers:
            raise ClaimError(f"{name}: answered already")
        if not found.strip():
            raise ClaimError(f"{name}: found is empty, expected what was measured")
        if not (holds is None or isinstance(holds, bool | np.bool_)):
            raise ClaimError(f"{name}: holds is {holds!r}, expected a truth value or None")
        if holds is None:
            verdict = UNTESTED
        elif holds:
            verdict = CONDITION if self.claims.loc[name, "condition"] else HOLDS
        else:
            verdict = FAILS
        self.answers[name] = {"found": found, "verdict": verdict}
        return verdict

    def table(self):
        """The ledger, numbered: ``claim``, ``found`` (with its condition), ``verdict``, ``section``
        and ``lesson``.

        Raises
        ------
        ClaimError
            A claim of the list has no answer.
        """
        if missing := [name for name in self.claims.index if name not in self.answers]:
            raise ClaimError(f"no answer for: {', '.join(missing)}")
        table = self.claims.join(pd.DataFrame(self.answers).T).reset_index(drop=True)
        with_condition = table["verdict"] == CONDITION
        table.loc[with_condition, "found"] += "; condition: " + table["condition"]
        table.index += 1
        return table[["claim", "found", "verdict", "section", "lesson"]]

    def counts(self):
        """How many claims have each verdict, all four named."""
        verdicts = self.table()["verdict"].value_counts()
        return {v: int(verdicts.get(v, 0)) for v in (HOLDS, CONDITION, FAILS, UNTESTED)}

    def markdown(self):
        """The ledger as a Markdown table for a page of ``book/``.

        Each row leads to the section of lesson 16 that tests it and to the lesson that shows why.
        """
        lines = ["| Claim | Verdict | Measured |", "|---|---|---|"]
        for number, row in self.table().iterrows():
            tested = f"{{ref}}`tested <claims-{row['section']}>`"
            link = f"[lesson {int(row['lesson'][:2])}](../notebooks/{row['lesson']}.ipynb)"
            claim, found = (row[key].replace("|", "\\|") for key in ("claim", "found"))
            cells = (f"{number}. {claim}", f"**{row['verdict']}**", f"{found} ({tested}, {link})")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(["```{table}", ":class: ledger", "", *lines, "```"])
