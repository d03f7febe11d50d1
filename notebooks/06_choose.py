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
# # Choose λ: a grid, its spread, and one look at the test people
#
# | | |
# |---|---|
# | **You will** | read a grid of runs, choose λ on validation people by a rule stated beforehand, and report once on test people |
# | **You will learn** | how wide the plateau is, how far seeds differ, what the λ = 0.01 that circulates costs, and what integration changes |
# | **You need** | [lesson 7](06_lambda.ipynb) |
# | **In → out** | one record a run → curves, a choice, paired differences with intervals |
# | **Not here** | training: the runs of the wide grid took hours and are read from their records |
# | **Time** | 25 minutes |

# %% [markdown]
# The records of the wide grid are part of the book's repository, one JSON file a run. This page
# reads them, for simulated (`mni`) and real people (`malf`), and lays the few runs that this very
# build has trained over them.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
import pandas as pd

from vxmlib.book import figures
from vxmlib.experiments import runs, statistics, sweep
from vxmlib.experiments.results import results_folder
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
folder = results_folder() / "lambda"
names = [name for name in ("mni", "malf") if (folder / name).is_dir()]
all_runs = pd.concat([sweep.runs(folder / name) for name in names])
all_runs.groupby(["cohort", "image_loss", "int_steps"])["file"].count().unstack()

# %% [markdown]
# Each number counts runs: so many λ, three seeds each. A run that diverged would be a row without
# a result:

# %%
about = ["profile", "spacing", "split", "commit"]
all_runs["commit"] = all_runs["commit"].str[:7]
print(int(all_runs["diverged"].sum()), "of", len(all_runs), "runs diverged")
all_runs.groupby("cohort")[about].agg(lambda column: ", ".join(map(str, column.unique())))

# %% [markdown]
# The people come from others, under their terms:

# %%
from vxmlib.sources import malf, template

print("mni:", template.CREDIT)
print("malf:", malf.CREDIT, "Terms:", malf.LICENCE)

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    n_runs=len(all_runs),
    n_diverged=all_runs["diverged"].sum(),
    seconds=all_runs["seconds"].median(),
)

# %% [markdown]
# {glue:text}`n_runs` runs of about {glue:text}`seconds:.0f` seconds (the median) on a processor;
# {glue:text}`n_diverged` of them diverged.
#
# ## The rule, before the curves
#
# A rule that is made after the curves were seen chooses what one likes. Ours:
#
# 1. λ is chosen on validation pairs, by Dice averaged over seeds.
# 2. Among the λ within one standard error (over seeds) of the best, the largest is taken: where
#    the data cannot tell, the smoother field wins.
# 3. The chosen λ is reported once, on test people, with its folding.
#
# Each combination of loss and integration chooses its own λ; otherwise a comparison of losses is
# a comparison of how well λ fits each.

# %% [markdown]
# ## The curves

# %%
dice = sweep.curve(all_runs, "dice_mean")
folding = sweep.curve(all_runs, "folding_percent_brain")
live = runs.grid_folder("book", settings)
live_runs = sweep.runs(live) if live.is_dir() else None
comparable = live_runs is not None and settings.profile == "quick"


def curves_of(name, hyper=None):
    def of(table):
        return None if table is None else table[table["cohort"] == name]

    before = of(all_runs)["identity_dice"].iloc[0]
    mine = live_runs if comparable and name == cohort else None
    return figures.lambda_curves(
        of(dice), of(folding), identity=before, points=mine, hyper=of(hyper)
    )


# %% mystnb={"image": {"alt": "Four panels for real people: Dice above, folding below; NCC left, MSE right, against lambda. Dice rises to a broad top and falls on both sides of it; folding falls steeply as lambda grows, and stays near zero for integrated fields at any lambda."}, "figure": {"caption": "Real people (malf), validation pairs. Markers are means over three seeds, bars reach from the least to the greatest seed. The axis of folding is linear near 0.", "name": "fig-10-malf"}}
curves_of(names[-1]);

# %% [markdown]
# Simulated people fold less, and their curves are flatter:

# %% mystnb={"image": {"alt": "The same four panels for simulated people: Dice varies less with lambda, folding is far lower at each lambda and reaches zero early, and with MSE Dice is highest among the largest lambdas."}, "figure": {"caption": "The same for simulated people (mni).", "name": "fig-10-mni"}}
curves_of(names[0]);

# %% [markdown]
# Read them by three questions. Where is the plateau, the range of λ over which Dice hardly
# moves? How large is the spread of seeds against the differences between λ? And what does folding
# do along the plateau? Dice alone sees no reason to prefer one end of it.
#
# The first and the last as a table: every λ whose Dice is within half a hundredth of the best,
# and folding at the two ends of that range.

# %%
both = dice.merge(folding, on=[*sweep.GROUP, "lam"], suffixes=("", "_folding"))
both["best"] = both.groupby(sweep.GROUP)["mean"].transform("max")
flat = both[both["mean"] >= both["best"] - 0.005].sort_values("lam")
ends = flat.groupby(sweep.GROUP).agg(
    first=("lam", "first"),
    last=("lam", "last"),
    folding_first=("mean_folding", "first"),
    folding_last=("mean_folding", "last"),
)
ends.round(3)

# %% tags=["remove-cell"]
for name in names:
    for loss in ("ncc", "mse"):
        row = ends.loc[(name, loss, 0)]
        text = f"from λ = {row['first']:g} to {row['last']:g}"
        if row["first"] == row["last"]:
            text = f"at λ = {row['first']:g} alone"
        glue.glue(**{f"flat_{name}_{loss}": text})

# %% [markdown]
# On real people the plateau of NCC reaches {glue:text}`flat_malf_ncc`, that of MSE
# {glue:text}`flat_malf_mse`; on simulated people they reach {glue:text}`flat_mni_ncc` and
# {glue:text}`flat_mni_mse`. Along a plateau Dice stays, and folding changes by a large factor.

# %% [markdown]
# ## The choice

# %%
chosen = sweep.choose(dice)
largest = dice.groupby(sweep.GROUP)["lam"].max()
at_edge = largest.loc[chosen.set_index(sweep.GROUP).index].to_numpy()
chosen["at the edge"] = chosen["lam"] == at_edge
chosen.round(4)

# %% tags=["remove-cell"]
glue.glue(n_edge=int(chosen["at the edge"].sum()), n_choices=len(chosen))

# %% [markdown]
# `best` is the λ of the highest mean, `lam` the one the rule takes, `tolerance` the standard error
# that it allows. A choice at the edge of the grid says that the grid is too short on that side, not
# that this λ is the best: so it is with {glue:text}`n_edge` of {glue:text}`n_choices`. The grid was
# stated before the runs, and we leave it at that; a study would add a λ to `config/lambda.yaml`,
# which runs that λ alone.

# %% [markdown]
# ## Where λ = 0.01 stands with NCC
#
# The pair "NCC, λ = 0.01" is the one most public code uses. Against λ = 1, on the same validation
# pairs and seeds:

# %%
pairs = pd.concat([sweep.by_pair(folder / name) for name in names])
loose_rows = []
for name in names:
    asked = {"cohort": name, "image_loss": "ncc", "int_steps": 0}
    loose, usual = (sweep.select(pairs, **asked, lam=lam) for lam in (0.01, 1))
    gain = statistics.paired_difference(usual, loose)
    folds = [t["folding_percent_brain"].mean() for t in (loose, usual)]
    loose_rows.append(
        {"cohort": name, "folding at 0.01": folds[0], "folding at 1": folds[1]}
        | {"Dice at 1 minus at 0.01": gain["difference"]}
        | {"low": gain["low"], "high": gain["high"]}
    )
loose_table = pd.DataFrame(loose_rows).set_index("cohort")
loose_table.round(4)

# %% tags=["remove-cell"]
for name, row in loose_table.iterrows():
    verdict = "no different within the interval"
    if row["low"] > 0:
        verdict = "higher at λ = 1"
    elif row["high"] < 0:
        verdict = "lower at λ = 1"
    loose, usual = row["folding at 0.01"], row["folding at 1"]
    against = f"{usual:.3f} %, {loose / usual:.0f} times less" if usual else "none"
    glue.glue(
        **{
            f"folds_{name}": f"{loose:.2f} % of the brain fold, against {against}",
            f"verdict_{name}": verdict,
        }
    )

# %% [markdown]
# `low` and `high` bound the difference of Dice (`confidence=0.95`), by a bootstrap over people:
# pairs share people, so people are drawn, not pairs. With five validation people the interval is
# coarse.
#
# On real people λ = 0.01 lets {glue:text}`folds_malf` at λ = 1, and Dice is
# {glue:text}`verdict_malf`. On simulated people {glue:text}`folds_mni`, and Dice is
# {glue:text}`verdict_mni`.

# %% [markdown]
# ## Once, on the test people
#
# The runs at the chosen λ, and NCC at λ = 0.01 as the recipe that circulates, were measured on the
# test people, all ordered pairs. Nothing is chosen from here on.

# %%
tests = pd.concat([sweep.runs(folder / name / "test") for name in names])
report = sweep.report(tests)
short = {"identity_dice": "before", "dice_mean": "Dice"}
short |= {"dice_sd_seeds": "SD, seeds", "folding_percent_brain": "folding %"}
short |= {"sd_log_jacobian": "SD log J"}
report[list(short)].rename(columns=short).round(3)

# %% [markdown]
# Differences between rows, pair by pair, with their intervals over people:

# %%
test_pairs = pd.concat([sweep.by_pair(folder / name / "test") for name in names])
differences = sweep.differences(test_pairs, chosen)
differences.drop(columns=["pairs", "people"]).round(4)

# %% tags=["remove-cell"]
short = {"NCC: chosen": "loose", "NCC minus": "loss", "NCC: integrated": "int"}
for _, row in differences.iterrows():
    for start, key in short.items():
        if row["comparison"].startswith(start):
            glue.glue(**{f"{key}_{row['cohort']}": statistics.interval_text(row)})

# %% [markdown]
# The chosen λ against λ = 0.01: {glue:text}`loose_malf` on real people, {glue:text}`loose_mni` on
# simulated ones. NCC against MSE, each at its own λ: {glue:text}`loss_malf` and
# {glue:text}`loss_mni`; which loss is ahead depends on the people. Integration, with NCC:
# {glue:text}`int_malf` and {glue:text}`int_mni`.
#
# An interval that contains 0 means: on these people we cannot tell. Integration keeps folding
# near 0 at any λ, so for integrated models folding cannot show that λ is too small; the SD of
# log det J can, and so can Dice.

# %% [markdown]
# ## Beside the paper's Fig. 7
#
# The paper shows validation Dice against λ for its own data {cite}`balakrishnan2019tmi`; a reader
# has digitised the figure {cite}`ho2021try`. Levels cannot be compared: other people, other
# structures, 3D. The shape can.

# %% mystnb={"image": {"alt": "Two panels, NCC and MSE: Dice relative to each curve's best against lambda for simulated people, real people and the paper. Each has a plateau around its best lambda; towards lambda 0 the paper's curves fall most."}, "figure": {"caption": "Dice below each curve's own best: ours without integration, and the paper's Fig. 7.", "name": "fig-10-paper"}}
from importlib import resources

paper = pd.read_csv(resources.files("vxmlib") / "data" / "paper_lambda.csv")
plain = dice[dice["int_steps"] == 0]
ours = {name: plain[plain["cohort"] == name] for name in names}
figures.lambda_shape(ours, paper);

# %% [markdown]
# ## One network for all λ
#
# HyperMorph {cite}`hoopes2021hypermorph` takes λ as a third input and draws it anew for every
# pair, so that one training gives the whole curve. Ours takes {glue:text}`times_steps:.0f` times
# the steps of one run (`python -m tools.hyper`), and is measured on the same validation pairs.
# Its Dice less that of the separately trained runs:

# %%
known = [name for name in names if (folder / name / "hyper").is_dir()]
hyper = pd.concat([sweep.hyper_curves(folder / name / "hyper") for name in known])
key = ["cohort", "image_loss", "lam"]
laid = hyper.merge(plain, on=key)
laid["minus plain"] = laid["dice_mean"] - laid["mean"]
laid.pivot(
    index="lam", columns=["cohort", "image_loss"], values="minus plain"
).round(4)

# %% tags=["remove-cell"]
plateau = laid.merge(
    ends.loc[(slice(None), slice(None), 0), ["first", "last"]].reset_index(),
    on=["cohort", "image_loss"],
)
plateau = plateau[plateau["lam"].between(plateau["first"], plateau["last"])]
glue.glue(
    lowest=plateau["minus plain"].min(),
    highest=plateau["minus plain"].max(),
)

# %% mystnb={"image": {"alt": "Dice and folding against lambda for separately trained runs with bars over seeds, the curve of one HyperMorph network over lambda as a dash-dotted line, higher in Dice, and a diamond for a plain network of one lambda trained for as many steps, which lies close to that line."}, "figure": {"caption": "The curve of one network, with NCC, beside separately trained ones, and a plain network trained for as many steps (diamond); real people.", "name": "fig-10-hyper"}}
curves_of(names[-1], hyper);

# %% [markdown]
# On the plateau the differences go from {glue:text}`lowest:+.3f` to {glue:text}`highest:+.3f`. Is
# it the network, or is it that this one was trained for longer? A plain network of one λ, trained
# for as many steps, tells them apart:

# %%
alike = laid.dropna(subset="as_long_dice").set_index(["cohort", "image_loss"])
lengths = alike[["lam", "mean", "as_long_dice", "dice_mean"]].copy()
lengths.columns = ["λ", "plain", "plain, as long", "one network"]
lengths.round(4)

# %% tags=["remove-cell"]
gap = alike["dice_mean"] - alike["as_long_dice"]
close = int((gap.abs() <= 0.01).sum())
glue.glue(
    longer=(alike["as_long_dice"] - alike["mean"]).mean(),
    gap_low=gap.min(),
    gap_high=gap.max(),
    n_close=close,
    n_alike=len(gap),
)

# %% [markdown]
# The longer training alone is worth {glue:text}`longer:+.3f`. Against a plain network of equal
# length the one network stands {glue:text}`gap_low:+.3f` to {glue:text}`gap_high:+.3f`; within a
# hundredth in {glue:text}`n_close` of {glue:text}`n_alike` cases. Where it is ahead, remember that it
# is a far larger network: the dense layers that λ goes through hold most of its weights.
#
# At the smallest λ the curve of the one network bends away from the points: it folds less there
# than a network trained for that λ. Half of its draws lie below λ = 1, few of them near 0, and what
# all λ have in common is learnt first (the head of `vxmlib/hyper.py` says more).

# %%
hyper_cost = hyper.groupby(["cohort", "image_loss"]).first()
n_lams = hyper.groupby(["cohort", "image_loss"])["lam"].count()
one_seed = n_lams * hyper_cost["plain_steps"] * hyper_cost["plain_step_seconds"]
one_network = hyper_cost["steps"] * hyper_cost["step_seconds"]
costs = pd.DataFrame({"grid, one seed": one_seed, "one network": one_network})
(costs / 60).round(1)

# %% tags=["remove-cell"]
glue.glue(
    cheaper=(one_seed / one_network).min(),
    times_steps=(hyper_cost["steps"] / hyper_cost["plain_steps"]).iloc[0],
)

# %% [markdown]
# Minutes of training: steps times the time of one step, both networks timed by turns in one
# process. The grid of one seed takes {glue:text}`cheaper:.1f` times as long as the one network,
# which answers for any λ in between as well; a grid of three seeds takes three times as long.
# What the one network cannot say is how far seeds differ.
#
# ## The runs of this very build
#
# The build of this page has trained a few of the grid's points itself. Do they agree with the
# records?

# %%
point = ["cohort", "image_loss", "int_steps", "lam"]
some = all_runs.iloc[:0] if live_runs is None else live_runs
now = some.rename(columns={"dice_mean": "this build"})
columns = [*point, "this build", "mean", "low", "high"]
now.merge(dice, on=point)[columns].round(4)

# %% [markdown]
# `low` and `high` are the least and the greatest seed of the committed grid. (An empty table: this
# build has no runs; `make lambda GRID=book` makes them.)

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Choose by the lowest folding instead of Dice. Which λ wins, and why is that no
# rule?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
smoothest = folding.loc[folding.groupby(sweep.GROUP)["mean"].idxmin()]
print(smoothest[[*sweep.GROUP, "lam", "mean"]].to_string(index=False))

# %% [markdown]
# The largest of the grid, or any λ once folding is 0: identity folds least of all. A measure that
# the trivial answer wins can bound a choice, not make it.
#
# **Exercise 2.** How much of the difference between λ = 0.5 and λ = 1 is seeds?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for name in names:
    one = sweep.select(dice, cohort=name, image_loss="ncc", int_steps=0)
    one = one.set_index("lam")
    gap = one.loc[1.0, "mean"] - one.loc[0.5, "mean"]
    print(f"{name}: {gap:+.4f}, SD over seeds {one.loc[1.0, 'sd']:.4f}")

# %% [markdown]
# **Exercise 3.** With how many seeds would the standard error at λ = 1 be below a thousandth?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for name in names:
    at_one = sweep.select(dice, cohort=name, image_loss="ncc", int_steps=0, lam=1)
    print(f"{name}: {(at_one['sd'].item() / 1e-3) ** 2:.0f} seeds")

# %% [markdown]
# ## What you take along
#
# - State the rule, then look; choose on validation, report once on test.
# - A λ without its loss, its smoothness term and its spread over seeds is half a number.
# - Compare losses each at its own λ.
# - Pairs share people: intervals are drawn over people.
# - With integration folding no longer tells; look at the SD of log det J.
#
# **Read on:** HyperMorph {cite}`hoopes2021hypermorph`, for a λ that can be chosen after training.
