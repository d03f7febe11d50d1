# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Choose λ on validation subjects
#
# | | |
# |---|---|
# | **You will** | choose λ from a grid of runs by a rule stated beforehand, and report the result on test subjects |
# | **You will learn** | how to tell two λ apart, what the choice of λ, loss and integration changes, and when a comparison is undecided |
# | **You need** | [Weigh smoothness with λ](06_lambda.ipynb) |
# | **In → out** | one record per run → curves, a chosen λ, differences with intervals |
# | **Not here** | training: the grid took hours, and this page reads its records |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters name the runs that this build trained itself. The grid is read from its records.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())

# %% [markdown]
# ## State the rule first
#
# A rule written after seeing the curves can justify any choice, so we state ours first.
#
# 1. λ is chosen on pairs of validation subjects, by the mean Dice over seeds and pairs.
# 2. The *gap* of a λ is its Dice below that of the best λ, on the same pairs. We accept every λ
#    whose gap is at most one standard error of the gap, and take the largest accepted λ. Where
#    the data cannot tell two λ apart, the smoother displacement wins.
# 3. The chosen λ is reported once, on the test subjects.
#
# The standard error is taken over *subjects*, with seeds averaged first: each validation subject
# is left out in turn with all its pairs (a jackknife). We need it for the gap and not for Dice
# itself, because a subject that is hard to register is hard at every λ, and this difference
# cancels in the gap.
#
# Each image loss, with and without integration, chooses its own λ. A comparison of two losses at
# one λ would compare how well that λ suits each of them.
#
# > **Warning: This rule was corrected after a first look at the test subjects**
# >
# > The first version of this page took the standard error over the seeds. Seeds show how much
# > training varies by chance, but not how much the result would change with other subjects. When
# > we corrected the rule, the test subjects had already been measured at the λ of the first
# > version. The new rule does not use these results, but strictly the test subjects were no longer
# > unseen. The report below marks the affected rows.

# %% [markdown]
# ## Read the records
#
# The repository holds one JSON record per run, for simulated subjects (`mni`) and real subjects
# (`malf`). Each run trained a `VxmDense` for 1000 steps on slices with voxels of 2 mm, of 40
# simulated or 15 real training subjects. Both cohorts have five validation subjects and ten test
# subjects. The table counts the runs: six or seven λ with three seeds each.

# %%
import pandas as pd

from vxmlib.experiments import sweep
from vxmlib.experiments.results import results_folder

# %%
folder = results_folder() / "lambda"
grids = list(sweep.SUBJECTS)
all_runs = pd.concat([sweep.runs(folder / name) for name in grids])
sweep.readable(all_runs).groupby(["model", "subjects"])["file"].count().unstack()

# %% tags=["remove-input"]
from IPython.display import Markdown

from vxmlib.sources import malf, template

Markdown(f"""
Of these {len(all_runs)} runs, {all_runs["diverged"].sum()} diverged. A run took
{all_runs["seconds"].median():.0f} s on a CPU (median). *Simulated subjects:* {template.CREDIT}
*Real subjects:* {malf.CREDIT} Licence: {malf.LICENCE}.
""")

# %% [markdown]
# ## Look at the curves
#
# `sweep.curve` averages a measure over the seeds of each λ. The figures show Dice and folding on
# the validation pairs, first for the real subjects.

# %%
from vxmlib.book import figures

dice = sweep.curve(all_runs, "dice_mean")
folding = sweep.curve(all_runs, "folding_percent_brain")

# %% [markdown]
# `curves_of` draws the curves of one cohort. It adds the runs that this build has trained itself.

# %%
live = runs.grid_folder("book", settings)
live_runs = sweep.runs(live) if live.is_dir() and settings.profile == "quick" else None


# %%
def curves_of(name):
    curves = [table[table["cohort"] == name] for table in (dice, folding)]
    before = sweep.select(all_runs, cohort=name)["identity_dice"].iloc[0]
    points = live_runs if name == settings.cohort else None
    return figures.lambda_curves(*curves, identity=before, points=points)


# %% mystnb={"image": {"alt": "Four panels for real subjects: Dice above, folding below, NCC left, MSE right, against lambda. Dice rises to a broad top and falls on both sides; folding falls steeply as lambda grows, and stays near zero for integrated models at every lambda."}, "figure": {"caption": "Real subjects, validation pairs. Markers are means over three seeds, and bars reach from the lowest to the highest seed. The axis of folding is linear near 0.", "name": "fig-choose-real"}}
curves_of("malf");

# %% [markdown]
# Simulated subjects fold less, and their curves are flatter. Crosses are the runs that this build
# has trained again.

# %% mystnb={"image": {"alt": "The same four panels for simulated subjects: Dice varies less with lambda, folding is far lower at each lambda and reaches zero early, and with MSE Dice is highest among the largest lambdas."}, "figure": {"caption": "The same curves for simulated subjects.", "name": "fig-choose-simulated"}}
curves_of("mni");

# %% [markdown]
# ## Choose
#
# `sweep.gaps` computes the gap of every λ and its standard error. The table applies the rule to
# NCC without integration, on the real subjects.

# %%
pairs = pd.concat([sweep.by_pair(folder / name) for name in grids])
gaps = sweep.gaps(pairs)
gaps["accepted"] = (gaps["gap"] <= gaps["error"]).map({True: "yes", False: "no"})

# %%
group = {"cohort": "malf", "image_loss": "ncc", "int_steps": 0}
names = {"lam": "λ", "error": "standard error"}
one = sweep.select(gaps, **group).rename(columns=names).set_index("λ")
one[["accepted", "gap", "standard error", "dice"]].rename(columns={"dice": "Dice"}).round(4)

# %% tags=["remove-input"]
accepted = one.index[one["accepted"] == "yes"]
folds = sweep.select(folding, **group).set_index("lam")["mean"]
Markdown(f"""
The rule accepts λ from {accepted.min():g} to {accepted.max():g} and takes {accepted.max():g}. From
one end of this range to the other, folding falls from {folds[accepted.min()]:.2f} % to
{folds[accepted.max()]:.2f} % of the brain, although Dice does not tell the two ends apart.
""")

# %% [markdown]
# `sweep.choose` does the same for every loss, with and without integration.

# %%
chosen = sweep.choose(all_runs, pairs)
columns = {"λ": "chosen λ", "best": "best λ", "gap": "gap", "error": "standard error"}
sweep.readable(chosen)[list(columns)].rename(columns=columns).round(4)

# %% tags=["remove-input"]
largest = dice.groupby(sweep.GROUP)["lam"].max()
at_edge = chosen["lam"].to_numpy() == largest.loc[chosen.set_index(sweep.GROUP).index].to_numpy()
Markdown(f"""
In {at_edge.sum()} of {len(chosen)} rows, all of them with MSE, the chosen λ is the largest of the
grid. Such a choice only shows that the grid is too short on this side. With MSE, the rule accepts a
wide range of λ, so the choice is not sharp.
""")

# %% [markdown]
# > **Tip: Extend a grid that is too short**
# >
# > Add larger λ to `config/lambda.yaml` and run `make lambda` again; only the new runs are
# > trained. We keep our grid, because it was fixed before the runs.

# %% [markdown]
# ## Report on the test subjects
#
# The runs at the chosen λ were measured on all ordered pairs of the test subjects. NCC at
# λ = 0.01 was measured as well, because much public code uses it, and so were the λ of the first
# version of the rule. Nothing is chosen from here on.

# %%
tests = pd.concat([sweep.runs(folder / name / "test") for name in grids])
report = sweep.report(tests).reset_index()
report = report.merge(chosen[[*sweep.GROUP, "lam"]], how="left", indicator="why")

# %%
report["why"] = report["why"].map({"both": "chosen", "left_only": "first rule"}).astype(str)
common = (report["image_loss"] == "ncc") & (report["int_steps"] == 0) & (report["lam"] == 0.01)
report.loc[common, "why"] = "common"

# %% [markdown]
# The first table holds the real subjects, and the second the simulated ones.

# %%
columns = {"λ": "λ", "why": "why", "dice_mean": "Dice"}
columns |= {"folding_percent_brain": "folded, % of brain", "sd_log_jacobian": "SD of log det J"}
printed = sweep.readable(report)[list(columns)].rename(columns=columns).round(3)
printed.loc["real"]

# %%
printed.loc["simulated"]

# %% tags=["remove-input"]
before = report.groupby("cohort")["identity_dice"].first()
changed = (report["why"] == "first rule").sum()
spread = report.loc[report["why"] == "chosen", "dice_sd_seeds"].max()
Markdown(f"""
Before registration, Dice is {before["malf"]:.3f} for the real and {before["mni"]:.3f} for the
simulated subjects. The correction of the rule changed λ in {changed} of {len(chosen)} cases, all of
them with MSE. Between seeds, Dice at a chosen λ has an SD of at most {spread:.3f}.
""")

# %% [markdown]
# ## Compare with intervals
#
# We call two models different only if the interval of their difference leaves out 0.
# `sweep.differences` subtracts pair by pair. For the interval it draws subjects with replacement
# (`confidence=0.95`), because pairs share subjects. Every model is compared at the λ that was
# chosen for it, and this includes the integrated models.

# %%
from vxmlib.experiments import statistics

test_pairs = pd.concat([sweep.by_pair(folder / name / "test") for name in grids])
differences = sweep.differences(test_pairs, chosen)

# %%
differences["Dice is"] = differences.apply(statistics.verdict, axis=1)
differences["difference"] = differences.apply(statistics.interval_text, axis=1)
differences["subjects"] = differences["cohort"].map(sweep.SUBJECTS)
differences.set_index(["comparison", "subjects"])[["Dice is", "difference"]].sort_index()

# %% [markdown]
# The column "Dice is" answers whether Dice is higher or lower with the first of the two models.
# "Undecided" means that these subjects cannot show a difference, not that there is none.

# %% tags=["remove-input"]
words = differences.set_index(["comparison", "subjects"])["Dice is"]["NCC minus MSE"]
earlier = report[(report["why"] == "first rule") & (report["int_steps"] == 0)].iloc[0]
ncc_real = sweep.select(test_pairs, cohort="malf", image_loss="ncc", int_steps=0, lam=1)
mse_real = sweep.select(test_pairs, **earlier[[*sweep.GROUP, "lam"]])
under_first = statistics.paired_difference(ncc_real, mse_real)
Markdown(f"""
Compared with MSE, the Dice of NCC is **{words["simulated"]}** on simulated subjects and
**{words["real"]}** on real ones, so neither loss is better in general. At the λ of the first rule
(MSE, λ = {earlier["lam"]:g}), the difference on real subjects was
{statistics.interval_text(under_first)}, hence {statistics.verdict(under_first)}. This verdict
depends on the rule, so we do not rely on it.
""")

# %% tags=["remove-input"]
rows = report.set_index(["cohort", "why", "image_loss", "int_steps"])["folding_percent_brain"]
loose, usual = rows["malf", "common", "ncc", 0], rows["malf", "chosen", "ncc", 0]
Markdown(f"""
Dice alone understates what the choice of λ changes. On real subjects, NCC at λ = 0.01 folds
{loose:.1f} % of the brain, which is {loose / usual:.0f} times as much as at the chosen λ.
""")

# %% [markdown]
# > **Important: Folding cannot choose λ for an integrated model**
# >
# > Integration keeps folding near 0 at every λ, so folding cannot show that λ is too small. The
# > SD of log det J and Dice can ([Integrate a velocity](11_diffeomorphic.ipynb)).

# %% [markdown]
# ## Compare with the paper
#
# Figure 7 of [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) shows Dice
# against λ on the paper's own validation subjects.
# [Ho](https://github.com/HoChengYun/TRY_voxelmorph) has digitised this figure. The values of Dice
# cannot be compared, because subjects, structures and dimension differ, but the shapes can. The
# next cell draws each curve relative to its own best value.

# %% mystnb={"image": {"alt": "Two panels, NCC and MSE: Dice relative to each curve's best against lambda for simulated subjects, real subjects and the paper. Each curve has a plateau around its best lambda; towards lambda 0 the paper's curves fall most."}, "figure": {"caption": "Dice relative to the best value of each curve: our runs without integration, and Figure 7 of the paper.", "name": "fig-choose-paper"}}
from importlib import resources

paper = pd.read_csv(resources.files("vxmlib") / "data" / "paper_lambda.csv")
plain = dice[dice["int_steps"] == 0]
ours = {who: plain[plain["cohort"] == name] for name, who in sweep.SUBJECTS.items()}
figures.lambda_shape(ours, paper);

# %% tags=["remove-input"]
top = paper["dice"] == paper.groupby("image_loss")["dice"].transform("max")
tops = paper[top].groupby("image_loss")["lam"]
paper_best = tops.agg(lambda lams: " and ".join(f"{lam:g}" for lam in lams))
our_best = chosen[chosen["int_steps"] == 0].set_index(["image_loss", "cohort"])["best"]
ncc, mse = our_best["ncc"], our_best["mse"]
Markdown(f"""
With NCC, the paper's Dice is highest at λ = {paper_best["ncc"]}, and ours at {ncc["malf"]:g} (real)
and {ncc["mni"]:g} (simulated). With MSE, it is highest at λ = {paper_best["mse"]}, and ours at
{mse["malf"]:g} and {mse["mni"]:g}. Each curve is flat near its best value, so these positions are
uncertain. Towards λ = 0, the paper's Dice falls more than ours. A possible reason is that our
training is short, and a network changes from smooth to rough displacements only gradually.
""")

# %% [markdown]
# ## Check the runs of this build
#
# This build has trained a few points of the grid again, with seed 0. The table compares their Dice
# with the range of the recorded seeds. Values slightly outside this range are expected, because
# three seeds do not cover all chance and another processor rounds differently.

# %%
point = [*sweep.GROUP, "lam"]
again = all_runs.iloc[:0] if live_runs is None else live_runs
both = again[[*point, "dice_mean"]].merge(dice, on=point)
columns = {"λ": "λ", "dice_mean": "this build", "low": "lowest seed", "high": "highest seed"}
sweep.readable(both)[list(columns)].rename(columns=columns).round(3).droplevel("subjects")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Choose λ by the lowest folding instead of Dice. Which λ wins, and why is this not
# a useful rule?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
smoothest = folding.loc[folding.groupby(sweep.GROUP)["mean"].idxmin()]
sweep.readable(smoothest)[["λ", "mean"]].round(4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The winner is the first λ of the grid at which folding is lowest, often 0. The identity never
# folds, so a measure that the trivial answer wins can limit a choice, but it cannot make it.
#
# </details>
#
# **Exercise 2.** Replace the standard error of the gap by the standard error of the best λ's Dice.
# Which λ would NCC get on real subjects?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
of_group = sweep.select(pairs, **group)
best = of_group[of_group["lam"] == one["gap"].idxmin()]
error = statistics.paired_error(best, best.assign(dice=0.0))
print(f"standard error {error:.4f}, λ = {one.index[one['gap'] <= error].max():g}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# This standard error is several times as large, because it contains how much the subjects differ
# from each other. It accepts a λ whose Dice is clearly lower on the same pairs.
#
# </details>
#
# **Exercise 3.** How large is the standard error over the three seeds at the best λ, compared with
# the standard error of the gaps in the table?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
at_best = sweep.select(dice, **group, lam=one["gap"].idxmin())
print(f"over seeds {(at_best['sd'] / at_best['seeds'] ** 0.5).item():.4f}")
print(f"over subjects {one.loc[one['gap'] > 0, 'standard error'].median():.4f} (median)")

# %% [markdown]
# ## Summary
#
# - State the rule first, choose λ on validation subjects, and report on test subjects.
# - Use standard errors over subjects and of differences: seeds do not show how subjects differ.
# - Choose λ for each loss and for integrated models separately, and compare them at their own λ.
# - Give every difference an interval, and call it undecided if the interval holds 0.
# - If a rule has to be corrected later, say so beside the results.
#
# **Read on:** [Train one network for every λ](14_hypermorph.ipynb) obtains the whole curve from one
# training run.
