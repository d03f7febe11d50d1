"""Read the numbers of claims from the records of lessons and from committed records.

The functions take records as mappings, or read the committed ones. They return, for each claim of
a topic, the numbers that its rule and its sentence use. This module does not need TensorFlow.
"""

import pandas as pd

from vxmlib.experiments import statistics, sweep
from vxmlib.experiments.results import committed_record, results_folder
from vxmlib.sources import malf

#: Data sets of the journal paper, as listed in its section V-A.
PAPER_SETS = "OASIS ABIDE ADHD200 MCIC PPMI HABS GSP Buckner40".split()
#: Number of brain voxels to which the paper's percentages refer, and its number of training steps.
PAPER_VOXELS, PAPER_STEPS = 5.2e6, 150_000

#: Similarity metric of each SyN setting, in words.
SYN = {"syn-mattes": "mutual information", "syn-cc": "cross-correlation"}


class MissingRow(KeyError):
    """A record lacks a row that a claim needs."""


def paper_dice(table, method):
    """Return the Dice of a method in a table of the journal paper.

    The values are read from ``vxmlib/data/paper_tables.csv``.

    Parameters
    ----------
    table : str
        Number of the table in the paper, such as "I".
    method : str
        Name of the row.

    Examples
    --------
    >>> paper_dice("I", "VoxelMorph (CC)")
    0.753
    """
    path = results_folder().parent / "vxmlib" / "data" / "paper_tables.csv"
    rows = pd.read_csv(path).query("table == @table and method == @method")
    return float(rows["dice"].iloc[0])


def pick(methods, *words):
    """Return the first row name that contains one of the words but not "fit".

    This skips the variants that were trained by ``fit()``.

    Raises
    ------
    MissingRow
        If there is no such row. The message names the rows.

    Examples
    --------
    >>> pick(["fit()", "curriculum, fit()", "curriculum"], "curriculum")
    'curriculum'
    """
    matching = [name for name in methods if any(word in name.lower() for word in words)]
    matching = [name for name in matching if "fit" not in name]
    if not matching:
        raise MissingRow(f"no row named {' or '.join(words)}; the rows are: {', '.join(methods)}")
    return matching[0]


# -- λ and folding ---------------------------------------------------------------------------------


def grid(measure, image_loss="ncc", int_steps=0):
    """Return one curve of the committed λ grid of real subjects: means over seeds, by λ."""
    table = pd.read_csv(results_folder() / "lambda" / "tables" / f"{measure}.csv")
    columns = {"cohort": "malf", "image_loss": image_loss, "int_steps": int_steps}
    return sweep.select(table, **columns).set_index("lam")["mean"]


def lam(folded, dice):
    """Return the numbers of claims about λ from the curves of NCC without integration.

    Parameters
    ----------
    folded, dice : pandas.Series
        Folding in percent of the brain, and Dice, by λ.
    """
    fewest = float(folded.idxmin())
    low, tenth, one = (float(folded[at]) for at in (0.01, 0.1, 1))
    return {
        "key": {
            "folded_low": low,
            "folded_one": one,
            "dice_low": float(dice[0.01]),
            "dice_one": float(dice[1]),
        },
        "remedy": {
            "folded_low": low,
            "folded_tenth": tenth,
            "calm": float(folded.index[folded < 1].min()),
        },
        "fewer": {
            "fewest": fewest,
            "dice_of_fewest": float(dice[fewest]),
            "best_dice": float(dice.max()),
        },
        "fig7": {
            "best": float(dice.idxmax()),
            "dice": float(dice.max()),
            "dice_one": float(dice[1]),
        },
    }


def lam_mse(dice):
    """Return the numbers of the claim about λ with MSE."""
    return {"fig7_mse": {"best": float(dice.idxmax()), "dice": float(dice.max())}}


def lam_zero(pairs, dice):
    """Return the numbers of the claim about λ = 0.

    They are the Dice at both λ, the paired difference λ = 1 minus λ = 0, and its interval.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Dice of each pair, λ and seed.
    dice : pandas.Series
        Mean Dice by λ.
    """
    chosen = {at: sweep.select(pairs, lam=at) for at in (0, 1)}
    gap = statistics.paired_difference(chosen[1], chosen[0])
    return {"fig7_zero": interval(gap) | {"zero": float(dice[0]), "one": float(dice[1])}}


def lam_integrated(folded, dice, *, few=0.1):
    """Return the numbers of the claim that few folds mean a good λ, from the integrated model.

    Parameters
    ----------
    folded, dice : pandas.Series
        Folding in percent of the brain, and Dice, by λ.
    few : float
        Only the λ at which less than this percentage of the brain folds are used.
    """
    calm = folded.index[folded < few]
    return {
        "smooth": {
            "first": float(calm.min()),
            "last": float(calm.max()),
            "folded": float(folded[calm].max()),
            "lowest": float(dice[calm].min()),
            "highest": float(dice[calm].max()),
        }
    }


def all_of_lam():
    """Return the numbers of all claims about λ, from the committed grid."""
    pairs = sweep.by_pair(results_folder() / "lambda" / "malf")
    columns = {"image_loss": "ncc", "int_steps": 0, "split": "validation"}
    dice = grid("dice")
    return (
        lam(grid("folding"), dice)
        | lam_mse(grid("dice", "mse"))
        | lam_zero(sweep.select(pairs, **columns), dice)
        | lam_integrated(grid("folding", int_steps=7), grid("dice", int_steps=7))
    )


# -- training runs ---------------------------------------------------------------------------------


def trainings(real):
    """Return the numbers of claims about the learning rate, the capacity and the training loss.

    Parameters
    ----------
    real : dict
        Metrics of the record of ``08_real``.
    """
    runs, course = real["ablation"], real["course"]["augmented"]
    rates = {"third": "all, a third of the rate", "usual": "all"}
    rates |= {"three": "all, three times the rate"}
    sizes = {"smallest": "all, the smallest network", "usual": "all"}
    sizes |= {"twice": "all, twice the filters"}
    dice = {key: runs[sizes[key]]["dice"] for key in ("usual", "twice")}
    dice["spread"] = max(runs[sizes[key]]["dice_sd"] for key in ("usual", "twice"))
    return {
        "rate": _folding_of(runs, rates),
        "capacity": _folding_of(runs, sizes),
        "doubled": dice,
        "loss": _ends(course, first="step", loss="loss", folded="val_folding_percent"),
    }


def _folding_of(runs, names):
    """Return the folding of some runs, and the largest SD over seeds among them."""
    values = {key: runs[name]["folding_percent_brain"] for key, name in names.items()}
    return values | {"spread": max(runs[name]["folding_sd"] for name in names.values())}


def _ends(course, *, first, loss, folded):
    """Return the first and the last values that were recorded in a training run."""
    ends = {"first": 0, "last": -1}
    steps = {end: course[first][at] for end, at in ends.items()}
    losses = {f"loss_{end}": course[loss][at] for end, at in ends.items()}
    return steps | losses | {f"folded_{end}": course[folded][at] for end, at in ends.items()}


# -- papers ----------------------------------------------------------------------------------------


def interval(difference):
    """Return the parts of a paired difference that a claim prints: the mean and its interval."""
    return {key: float(difference[key]) for key in ("difference", "low", "high")}


def setting(training, subjects):
    """Describe in words the setting in which the 3D networks were trained.

    Parameters
    ----------
    training : dict
        Record of a training run.
    subjects : int
        Number of training subjects.

    Examples
    --------
    >>> setting({"metrics": {"steps": 3000}, "parameters": {"people": {"spacing": 2.0}}}, 15)
    '3000 steps at 2 mm with 15 training subjects'
    """
    steps, spacing = training["metrics"]["steps"], training["parameters"]["people"]["spacing"]
    return f"{steps} steps at {spacing:g} mm with {subjects} training subjects"


def papers_3d(real, where, *, integrated_lam):
    """Return the numbers of the papers' claims that the 3D comparison measures.

    Parameters
    ----------
    real : dict
        Metrics of the record of ``08_real``.
    where : str
        The training setting in words, see :func:`setting`.
    integrated_lam : float
        λ of the network that integrates a velocity.
    """
    compared, methods, best_syn = real["differences"], real["methods"], real["syn"]
    folded = {name: row["folding_percent_brain"] for name, row in methods.items()}
    place = {"setting": where, "syn": SYN.get(best_syn, best_syn)}
    against_syn = interval(compared["NCC minus SyN"]) | place
    refined = interval(compared["instance minus SyN"]) | place
    refined |= {"folded": folded["ncc-instance"], "syn_folded": folded[best_syn]}
    return {
        "order": against_syn,
        "above": against_syn,
        "instance": refined,
        "aim": {
            "dice": methods["ncc"]["dice"],
            "folded": folded["ncc"],
            "paper": paper_dice("III", "VoxelMorph (CC)"),
        },
        "mse_ncc": interval(compared["NCC minus MSE"]) | place,
        "ncc_folds": {"ncc": folded["ncc"], "mse": folded["mse"]} | place,
        "diffeomorphic": {"folded": folded["ncc-integrated"], "lam": integrated_lam} | place,
        "diffeomorphic_dice": interval(compared["integrated minus NCC"]) | place,
        "fast": {"network": methods["ncc"]["seconds"], "syn": methods[best_syn]["seconds"]},
        "any_fold": {
            "dice": methods["wide-instance"]["dice"],
            "folded": folded["wide-instance"],
            "syn_dice": methods[best_syn]["dice"],
            "syn_folded": folded[best_syn],
        },
    } | _gains(real, place)


def _gains(real, place):
    """Return the gains of the network, of instance optimisation and of a second pass."""
    compared, passes = real["differences"], real["passes"]
    by_network = paper_dice("III", "VoxelMorph (CC)") - paper_dice("III", "affine")
    optimised = "VoxelMorph (CC), instance optimisation"
    by_instance = paper_dice("II", optimised) - paper_dice("II", "VoxelMorph (CC)")
    second = {name: values[1] - values[0] for name, values in passes.items()}
    return {
        "gain": interval(compared["NCC minus identity"]) | place | {"paper": by_network},
        "instance_gain": interval(compared["instance minus NCC"]) | place | {"paper": by_instance},
        "cascade": interval(compared["twice minus wide"])
        | {"usual": second["ncc"], "integrated": second["ncc-integrated"]},
    }


def authors_weights(metrics):
    """Return the numbers of claims about the authors' weights.

    Parameters
    ----------
    metrics : dict
        Metrics of the record ``results/vxm2018/record.json``.
    """
    dice = pd.DataFrame(metrics["rows"]).groupby("weights")["dice_mean"].mean()
    ours = {"cc": float(dice["vm2_cc"]), "mse": float(dice["vm2_l2"])}
    theirs = {f"paper_{k}": paper_dice("I", f"VoxelMorph ({k.upper()})") for k in ours}
    before, affine = float(dice["identity"]), paper_dice("I", "affine")
    gains = {key: value - before for key, value in ours.items()}
    gains |= {key: value - affine for key, value in theirs.items()}
    voxels = {f"{key}_millions": value / 1e6 for key, value in metrics["voxels"].items()}
    brain = {"brain": metrics["voxels"]["brain"], "paper": PAPER_VOXELS}
    return {
        "weights": ours | theirs,
        "weights_gain": gains,
        "denominator": voxels | brain,
        "lpba40": {
            "sets": ", ".join(PAPER_SETS),
            "low": min(theirs.values()),
            "high": max(theirs.values()),
        },
    }


def hyper(table):
    """Return the numbers of the claim about HyperMorph.

    Parameters
    ----------
    table : pandas.DataFrame
        The rows of ``results/lambda/tables/hyper.csv``.
    """
    row = table.query("cohort == 'malf'").dropna(subset="as_long_dice").iloc[0]
    numbers = {"lam": row["lam"], "hyper": row["dice_mean"], "alone": row["as_long_dice"]}
    return {"hyper": {key: float(value) for key, value in numbers.items()}}


def papers(real):
    """Return the numbers of all claims of the papers, and of the claim about folds in 3D.

    Parameters
    ----------
    real : dict
        Metrics of the record of ``08_real``. Committed records are read, too.
    """
    plain, integrated = (
        committed_record(f"malf/training/{name}.json") for name in ("ncc", "ncc-integrated")
    )
    where = setting(plain, len(malf.TRAIN))
    table = pd.read_csv(results_folder() / "lambda" / "tables" / "hyper.csv")
    return (
        papers_3d(real, where, integrated_lam=integrated["parameters"]["lam"])
        | authors_weights(committed_record("vxm2018/record.json")["metrics"])
        | hyper(table)
    )


# -- loops -----------------------------------------------------------------------------------------


def loops(steps, situations):
    """Return the numbers of claims about custom training loops.

    Parameters
    ----------
    steps, situations : dict
        Metrics of the records of ``15_steps`` and ``16_situations``.
    """
    methods, inside = situations["methods"], steps["inside_fit"]
    ideas = {"curriculum": ("curriculum",), "adversarial": ("discriminator", "adversarial")}
    ideas |= {"budget": ("budget", "adaptive", "adapts")}
    rows = {idea: methods[pick(methods, *words)] for idea, words in ideas.items()}
    apart = max(row["largest difference from fit"] for row in steps["bridge"].values())
    dices = {idea: row["dice_mean"] for idea, row in rows.items()}
    return {
        "same_step": {"apart": apart},
        "needs_loop": {key: inside[key] for key in ("clipping", "freezing", "monitoring")},
        "lam_in_fit": {"inside_fit": situations["inside_fit"]["λ by the step"]},
        "modalities": {"rounding": situations["rounding"]},
        "gains": dices
        | {
            "fit": methods["fit()"]["dice_mean"],
            "adversarial_folded": rows["adversarial"]["folding_percent_brain"],
            "spread": max(situations["seed_range"], situations["rounding"]),
        },
    }
