"""Decide each claim from its measured numbers: True, False, or None if it remains undecided.

A rule is a pure function of the numbers of one claim. :func:`vxmlib.book.claims.verdict` turns its
answer into words, which also depend on whether the claim comes from a paper.
"""

from itertools import pairwise

from vxmlib.experiments.statistics import above_zero

RAN = "no error"

#: Differences in Dice that are smaller than this count as no difference.
SMALL = 0.01
#: A paper's Dice counts as reached within this distance, because data and structures differ.
NEAR = 0.02


def reverse(answer):
    """Return the opposite answer; None (undecided) stays None."""
    return None if answer is None else not answer


def rises(first, last, spread):
    """Return whether ``last`` exceeds ``first``; None if they differ by at most the spread.

    Examples
    --------
    >>> rises(0.1, 0.3, 0.05), rises(0.3, 0.1, 0.05), rises(0.1, 0.12, 0.05)
    (True, False, None)
    """
    return above_zero(last - first - spread, last - first + spread)


def within(low, high, margin):
    """Return whether the interval of a difference lies within ± margin.

    The answer is False if the interval lies outside the margin, and None if it is partly inside.

    Examples
    --------
    >>> within(-0.004, 0.006, 0.01), within(0.02, 0.03, 0.01), within(0.005, 0.02, 0.01)
    (True, False, None)
    """
    if -margin < low and high < margin:
        return True
    return False if low > margin or high < -margin else None


def all_rise(gains, spread):
    """Return whether all gains exceed the spread; False if all are losses beyond it, else None.

    Examples
    --------
    >>> all_rise([0.03, 0.02], 0.01), all_rise([-0.03, -0.02], 0.01), all_rise([0.03, 0.0], 0.01)
    (True, False, None)
    """
    answers = {above_zero(gain - spread, gain + spread) for gain in gains}
    return answers.pop() if len(answers) == 1 else None


def falls_at_each_step(values):
    """Return whether each number of a list is smaller than the one before it."""
    return all(after < before for before, after in pairwise(values))


INTERFACE = {
    "interface": lambda m: m["after"] - m["before"] > 0.05,
    "compile": lambda m: m["asks_to_compile"],
    "generator": lambda m: m["target_is_fixed"] and m["zero_field"] and m["zeros"] == m["field"],
    "history": lambda m: m["per_epoch"] and {"loss", "image_loss"} <= set(m["names"].split(", ")),
    "verbose": lambda m: m["lines"] == m["epochs"],
    "epoch": lambda m: m["moving"] == m["images"],
    "steps": lambda m: m["steps"] * m["batch"] == m["paper_steps"],
    "fit_generator": lambda m: m["keras_2"] == "has",
    "plain_generator": lambda m: m["seven"] == RAN,
}

LOSSES = {
    "determinant_loss": lambda m: "JacobianDeterminant" in m["names"],
    "zero_target": lambda m: m["full"] != m["tiny"] or m["error"] != RAN,
    "ncc": lambda m: falls_at_each_step(m["inside"]),
    "contrast": lambda m: m["value"] > 0.9,
    "scale": lambda m: abs(m["mild"] - m["plain"]) < SMALL,
    "grad": lambda m: abs(m["slope"] - m["paper"]) < 1e-6,
}

LAM = {
    "key": lambda m: m["folded_low"] < 1 and m["dice_low"] >= m["dice_one"],
    "remedy": lambda m: m["folded_tenth"] < 5,
    "fewer": lambda m: m["dice_of_fewest"] >= m["best_dice"],
    "smooth": lambda m: m["highest"] - m["lowest"] < SMALL,
    "fig7": lambda m: 0.5 <= m["best"] <= 2,
    "fig7_zero": lambda m: above_zero(m["low"], m["high"]),
    "fig7_mse": lambda m: 0.01 <= m["best"] <= 0.05,
}

TRAININGS = {
    "rate": lambda m: rises(m["third"], m["three"], m["spread"]),
    "capacity": lambda m: rises(m["twice"], m["smallest"], m["spread"]),
    "loss": lambda m: m["folded_last"] < 1.5 * m["folded_first"],
    "doubled": lambda m: rises(m["usual"], m["twice"], m["spread"]),
    "same_result": lambda m: abs(m["bright"] - m["usual"]) < SMALL,
}

LABELS = {
    "nearest": lambda m: m["nearest"] == 0,
    "one_hot": lambda m: m["different"] > 0,
    "mandatory": lambda m: m["linear"] < m["nearest"] - 0.005,
    "background": lambda m: m["with_it"] > m["without"],
    "empty": lambda m: m["voxelmorph"] == 1,
    "spread": lambda m: m["pooled"] < 1.1 * m["pairs"],
}

JACOBIAN = {
    "folding": lambda m: m["mirrored"] == m["flattened"] == 100,
    "any_fold": lambda m: not (m["dice"] > m["syn_dice"] and m["folded"] > 0),
    "unlabelled": lambda m: not (m["after"] > m["before"] + 0.05 and m["back"] > 0),
    "learn2reg": lambda m: m["counted"] == m["folded"],
    "predict": lambda m: m["second_shape"] == m["image_shape"],
    "colours": lambda m: m["low_end"] == "blue",
}

FILES = {
    "save": lambda m: m["equal"],
    "keras_format": lambda m: m["keras"] == RAN and m["saved_model"] == RAN,
    "multi_gpu": lambda m: m["error"] == RAN,
    "load_volfile": lambda m: m["error"] == RAN,
    "indexing": lambda m: m["error"] == RAN,
    "channel": lambda m: m["same"],
    "install": lambda m: "tensorflow" in m["needs"],
}

PAPERS = {
    "weights": lambda m: max(abs(m["cc"] - m["paper_cc"]), abs(m["mse"] - m["paper_mse"])) < NEAR,
    "weights_gain": lambda m: m["cc"] > m["paper_cc"] - NEAR and m["mse"] > m["paper_mse"] - NEAR,
    "denominator": lambda m: abs(m["brain"] / m["paper"] - 1) < 0.2,
    "lpba40": lambda m: "LPBA40" in m["sets"],
    "order": lambda m: reverse(above_zero(m["low"], m["high"])),
    "above": lambda m: above_zero(m["low"], m["high"]),
    "instance": lambda m: above_zero(m["low"], m["high"]),
    "aim": lambda m: m["dice"] > m["paper"] - NEAR and m["folded"] < 1,
    "gain": lambda m: m["high"] >= m["paper"],
    "instance_gain": lambda m: m["low"] <= m["paper"] <= m["high"],
    "cascade": lambda m: above_zero(m["low"], m["high"]),
    "mse_ncc": lambda m: within(m["low"], m["high"], SMALL),
    "ncc_folds": lambda m: m["ncc"] > m["mse"],
    "diffeomorphic": lambda m: m["folded"] < 0.01,
    "diffeomorphic_dice": lambda m: above_zero(m["low"], m["high"]),
    "fast": lambda m: m["syn"] > 10 * m["network"],
    "hyper": lambda m: m["alone"] - m["hyper"] < SMALL,
}

LOOPS = {
    "same_step": lambda m: m["apart"] < 1e-5,
    "needs_loop": lambda m: not (m["clipping"] and m["freezing"] and m["monitoring"]),
    "lam_in_fit": lambda m: not m["inside_fit"],
    "modalities": lambda m: m["rounding"] > 0.03,
    "given_up": lambda m: m["callback"] != RAN and m["scaled"] != RAN,
    "gains": lambda m: all_rise([m[key] - m["fit"] for key in _IDEAS], m["spread"]),
}
_IDEAS = ("curriculum", "adversarial", "budget")

#: The rule of each claim in the list.
RULES = INTERFACE | LOSSES | LAM | TRAININGS | LABELS | JACOBIAN | FILES | PAPERS | LOOPS
