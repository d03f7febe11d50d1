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
# # Refine one pair: instance optimisation
#
# | | |
# |---|---|
# | **You will** | take a network's displacement and minimise the training loss for one pair |
# | **You will learn** | what a few steps give and cost, where to stop, and how it stands beside SyN |
# | **You need** | [lesson 5](04_dice.ipynb) and [lesson 7](06_lambda.ipynb) |
# | **In → out** | one displacement and its pair → a better displacement for that pair |
# | **Not here** | training: the network's weights stay as they are |
# | **Time** | 15 minutes |

# %% [markdown]
# A network gives in one pass what it has learnt on other people. A classical method fits one pair
# and takes its time. Between the two lies this: start from the network's answer and let the
# *same loss* fit this pair for a few steps. The journal paper calls it instance-specific
# optimisation {cite}`balakrishnan2019tmi`. It optimises the displacement at full size; here a
# change at half the size is added to it, with a step and a number of steps of our own choice.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0

# %%
from vxmlib import cohorts, metrics
from vxmlib.experiments import recording, runs
from vxmlib.experiments.results import committed_record
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
run = runs.run(settings)

# %% [markdown]
# How many steps are right is chosen on validation people, as everything is. Three pairs of them,
# the first one to look at closely:

# %%
seen = cohorts.ordered_pairs(people.split["validation"], limit=3)
moving, fixed = (people.image(subject) for subject in seen[0])

# %% [markdown]
# ## Optimise the displacement itself
#
# There is no network in the loop any more. The unknown is the displacement, the loss is the one of
# training, and Adam changes it by a tenth of a voxel a step. To keep steps smooth, the change
# lives on a grid half as fine. (The network here is a plain one. Of an integrated one you would
# optimise the *velocity*: a displacement added to a flow is no flow, and may fold again.)

# %%
from vxmlib.methods.instance import InstanceOptimiser

options = {"image_loss": settings.image_loss, "learning_rate": 0.1}
optimise = InstanceOptimiser(people.shape, lam=settings.lam, **options)

# %% [markdown]
# The network's displacement, and sixty steps from there:

# %%
start = run.register(moving, fixed)
refined, history = optimise(start, moving, fixed, steps=60)
history.iloc[[0, 10, 30, 59]].round(4)

# %% [markdown]
# The loss before each step, its two terms, and the seconds since the start (the first step
# includes the compiling, once for all pairs of this grid).

# %% [markdown]
# ## Watch Dice, which the loss cannot see
#
# The loss falls; that is what it was asked to do. Does the overlap of labels, which nobody
# optimises, follow? Dice and folding of one pair, every five steps:

# %%
import numpy as np
import pandas as pd

from vxmlib import warp


def watched(pair, start, optimise, steps=60):
    images = [people.image(subject) for subject in pair]
    own, target = (people.labels(subject) for subject in pair)
    brain, rows = people.brain(pair[1]), {}

    def watch(step, u):
        if step % 5 == 0:
            warped = warp.warp_labels(own, u)
            dice = metrics.mean_dice(warped, target, people.structures)
            rows[step] = [dice, metrics.folding(u, brain).percent_in_mask]

    _, history = optimise(start, *images, steps=steps, watch=watch)
    table = pd.DataFrame(rows, index=["dice", "folding"]).T
    table["seconds"] = [0, *history["seconds"].iloc[4::5]]
    return table.rename_axis("step")


# %% [markdown]
# Means over the three pairs, once from the network and once from nothing:

# %%
nothing = np.zeros_like(start)
by_network = {
    pair: run.register(*(people.image(subject) for subject in pair)) for pair in seen
}


def mean_of(starts, optimise=optimise):
    tables = [watched(pair, start, optimise) for pair, start in starts.items()]
    return pd.concat(tables).groupby(level="step").mean()


from_network, from_nothing = (
    mean_of(by_network),
    mean_of(dict.fromkeys(seen, nothing)),
)

# %% [markdown]
# Over the steps:

# %% mystnb={"image": {"alt": "Two panels against steps. Left, Dice: the curve that starts from the network begins high and rises a little, the curve that starts from nothing begins low and climbs towards it. Right, folding in percent of the brain for both."}, "figure": {"caption": "Dice and folding while the displacement is optimised, from the network's and from zero: means over three validation pairs.", "name": "fig-13-steps"}}
from vxmlib.book import figures

figures.steps_of(
    {"from the network": from_network, "from nothing": from_nothing},
    ["dice", "folding"],
    ["Dice", "folding, % of brain"],
);

# %% [markdown]
# Where it levels off, more steps buy nothing. The rule: the first of these steps whose Dice is
# within two thousandths of the best.

# %%
near_best = from_network["dice"] >= from_network["dice"].max() - 0.002
chosen = max(5, int(near_best.idxmax()))
print(chosen, "steps")

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    chosen=chosen,
    at_chosen=from_network["dice"][chosen],
    at_start=from_network["dice"].iloc[0],
    at_end=from_network["dice"].iloc[-1],
    nothing_end=from_nothing["dice"].iloc[-1],
    steps=int(from_network.index[-1]),
)

# %% [markdown]
# From the network Dice goes from {glue:text}`at_start:.3f` to {glue:text}`at_chosen:.3f` in the
# {glue:text}`chosen` steps chosen so, and to {glue:text}`at_end:.3f` in {glue:text}`steps`. From
# nothing {glue:text}`steps` steps arrive at {glue:text}`nothing_end:.3f`.

# %% [markdown]
# ## On the test pairs, beside SyN
#
# The classical yardstick is SyN of ANTs {cite}`avants2008syn` with its correlation metric, at all
# resolutions. All methods register the same pairs, one after the other, on this machine.

# %%
from functools import partial

from vxmlib.methods import baselines

few = cohorts.ordered_pairs(people.split["test"], limit=6)


def refine(start, m, f, steps):
    return optimise(start, m, f, steps=steps)[0]


methods = {
    "identity": "identity",
    "network": run.register,
    "network, refined": lambda m, f: refine(run.register(m, f), m, f, chosen),
    "nothing, 60 steps": lambda m, f: refine(nothing, m, f, 60),
    "SyN": partial(baselines.syn, iterations=(100, 70, 50)),
}

# %% [markdown]
# A method whose package is not installed leaves the rest of the table standing:

# %%
tables, missing = {}, []
for name, method in methods.items():
    try:
        tables[name] = metrics.evaluate_pairs(people, few, method)
    except baselines.BaselineMissing as error:
        missing.append(f"{name} is missing: {error}")

# %% [markdown]
# Means over the pairs:

# %%
summary = pd.DataFrame({name: metrics.summary(t) for name, t in tables.items()}).T
shown = ["dice_mean", "folding_percent_brain", "sd_log_jacobian", "seconds"]
print("\n".join(missing) or "all methods ran")
summary[shown].round(4)

# %% tags=["remove-cell"]
dice = summary["dice_mean"]
refined_by = dice["network, refined"] - dice["network"]
one, syn = summary.loc["network, refined"], summary.reindex(["SyN"]).iloc[0]
compared = "SyN was not there to compare with."
if "SyN" in tables:
    compared = (
        f"SyN has {syn['dice_mean']:.3f} and {syn['folding_percent_brain']:.2f} % in "
        f"{syn['seconds']:.1f} s: {'more' if syn['dice_mean'] > one['dice_mean'] else 'less'} "
        f"overlap, in {syn['seconds'] / one['seconds']:.0f} times the time."
    )
recording.write_record(
    "13_instance",
    run,
    people,
    pairs=len(few),
    steps=chosen,
    methods=summary[shown].astype(float).T.to_dict(),
)

# %% tags=["remove-cell"]
glue.glue(
    n_pairs=len(few),
    refined_by=refined_by,
    extra=one["seconds"] - summary.loc["network", "seconds"],
    refined=one["dice_mean"],
    refined_folds=one["folding_percent_brain"],
    refined_seconds=one["seconds"],
    compared=compared,
    whose="These are simulated people, whose differences are smooth; on real ones, "
    "below, the order may be another."
    if people.simulated
    else "",
)

# %% [markdown]
# Over {glue:text}`n_pairs` pairs the steps change the network's Dice by
# {glue:text}`refined_by:+.3f` and take {glue:text}`extra:.2f` seconds more a pair: Dice
# {glue:text}`refined:.3f` and {glue:text}`refined_folds:.2f` % of the brain folded, in
# {glue:text}`refined_seconds:.2f` s. {glue:text}`compared` {glue:text}`whose`

# %% [markdown]
# For the validation pairs of the curves above, the same against seconds, SyN as one point:

# %%
points = {}
if "SyN" in tables:
    result = metrics.summary(metrics.evaluate_pairs(people, seen, methods["SyN"]))
    points["SyN"] = pd.Series(
        {"dice": result["dice_mean"], "folding": result["folding_percent_brain"]},
        name=result["seconds"],
    )

# %% [markdown]
# In seconds:

# %% mystnb={"image": {"alt": "Two panels against seconds. Dice: the curve from the network's displacement starts high at zero seconds, that from nothing climbs, SyN is a single diamond further right. Folding in percent of the brain, likewise."}, "figure": {"caption": "Dice and folding against the seconds of optimising a pair, and SyN's: means over three validation pairs.", "name": "fig-13-seconds"}}
by_seconds = {
    "from the network": from_network.set_index("seconds"),
    "from nothing": from_nothing.set_index("seconds"),
}
figures.steps_of(
    by_seconds,
    ["dice", "folding"],
    ["Dice", "folding, % of brain"],
    xlabel="seconds",
    points=points,
);

# %% [markdown]
# ## In 3D, on real people
#
# The same with volumes, from a committed record: pairs of validation people of `malf` at 2 mm,
# from the displacement of the network of [lesson 9](08_real.ipynb), followed beyond the steps that
# are used there on the test people, and SyN on the same pairs, with correlation (without
# iterations at 2 mm, as in that lesson) and with mutual information (with them). Means over pairs:

# %%
told = committed_record("malf/instance/ncc-instance.json")
steps_3d = pd.DataFrame(told["metrics"]["rows"])
measures = ["dice", "folding_percent_brain", "seconds"]
same = steps_3d[["moving", "fixed"]].drop_duplicates()
steps_3d = steps_3d.groupby("step")[measures].mean()
steps_3d.iloc[::2].round(3)

# %% [markdown]
# SyN's rows, from their own records:

# %%
syn_3d = {}
for name in ("cc", "mattes"):
    told_syn = committed_record(f"malf/validation/syn-{name}.json")
    rows = pd.DataFrame(told_syn["metrics"]["rows"])
    syn_3d[f"SyN, {name}"] = same.merge(rows)[measures].mean()
pd.DataFrame(syn_3d).T.round(3)

# %% mystnb={"image": {"alt": "Two panels against seconds in 3D. Dice of the optimisation rises steeply within the first seconds and levels off; the two markers of SyN stand far to the right; folding in percent of the brain falls a little, rises above where it began, and falls again slowly, while SyN has none."}, "figure": {"caption": "Instance optimisation in 3D on real people, step by step against seconds, and SyN with correlation (no iterations at 2 mm) and with mutual information: means over validation pairs.", "name": "fig-13-malf"}}
figures.steps_of(
    {"network and optimisation": steps_3d.set_index("seconds")},
    ["dice", "folding_percent_brain"],
    ["Dice", "folding, % of brain"],
    xlabel="seconds",
    points={
        name: row[measures[:2]].rename(row["seconds"]) for name, row in syn_3d.items()
    },
);

# %% tags=["remove-cell"]
used = told["parameters"]["instance"]["steps"]
glue.glue(
    used=used,
    pairs_3d=len(same),
    cc_3d=syn_3d["SyN, cc"]["dice"],
    cc_seconds=syn_3d["SyN, cc"]["seconds"],
    mattes_3d=syn_3d["SyN, mattes"]["dice"],
    mattes_seconds=syn_3d["SyN, mattes"]["seconds"],
    net_3d=steps_3d["dice"].iloc[0],
    used_3d=steps_3d["dice"][used],
    last_3d=steps_3d["dice"].iloc[-1],
    last_step=int(steps_3d.index[-1]),
    net_folds_3d=steps_3d["folding_percent_brain"].iloc[0],
    used_folds_3d=steps_3d["folding_percent_brain"][used],
    used_seconds=steps_3d["seconds"][used],
    lam_3d=told["parameters"]["instance"]["lam"],
)

# %% [markdown]
# Over {glue:text}`pairs_3d` pairs Dice goes from {glue:text}`net_3d:.3f` to
# {glue:text}`used_3d:.3f` in {glue:text}`used` steps and {glue:text}`used_seconds:.1f` seconds;
# {glue:text}`last_step` steps reach {glue:text}`last_3d:.3f`. Folding goes from
# {glue:text}`net_folds_3d:.2f` to {glue:text}`used_folds_3d:.2f` % of the brain. SyN has
# {glue:text}`cc_3d:.3f` with correlation, its search cut short at the finest level, after
# {glue:text}`cc_seconds:.0f` seconds, and {glue:text}`mattes_3d:.3f` with mutual information after
# {glue:text}`mattes_seconds:.0f` seconds, beside other work; it finds both directions in them.
# The optimiser's steps are few and large, and λ is
# {glue:text}`lam_3d:g` where the network was trained with 1; both were tried on three of these pairs.

# %% [markdown]
# ## λ still counts
#
# What holds for training holds here. With λ = 0.01 the same steps buy similarity with folds:

# %%
careless = InstanceOptimiser(people.shape, lam=0.01, **options)
loose = mean_of(by_network, careless)
pd.DataFrame(
    {f"λ = {settings.lam:g}": from_network.iloc[-1], "λ = 0.01": loose.iloc[-1]}
).round(4)

# %% tags=["remove-cell"]
glue.glue(
    loose_folding=loose["folding"].iloc[-1],
    usual_folding=from_network["folding"].iloc[-1],
    lam_used=settings.lam,
)

# %% [markdown]
# At the last step {glue:text}`loose_folding:.2f` % of the brain fold, against
# {glue:text}`usual_folding:.2f` % at λ = {glue:text}`lam_used:g`.

# %% [markdown]
# ## On your own
#
# **Exercise 1.** How large a step may be: what does a learning rate of one voxel do?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
wide = options | {"learning_rate": 1.0}
coarse = mean_of(
    by_network, InstanceOptimiser(people.shape, lam=settings.lam, **wide)
)
names = {"a tenth": from_network, "one": coarse}
pd.concat(names, axis=1).drop(columns="seconds", level=1).iloc[:7].round(4)

# %% tags=["remove-cell"]
glue.glue(
    calm_first=from_network["dice"][5],
    wide_first=coarse["dice"][5],
    calm_last=from_network["dice"].iloc[-1],
    wide_last=coarse["dice"].iloc[-1],
    calm_folds=from_network["folding"][5],
    wide_folds=coarse["folding"][5],
)

# %% [markdown]
# Adam moves every voxel by about the learning rate, whatever the gradient's size. After five steps
# Dice is {glue:text}`wide_first:.3f` with {glue:text}`wide_folds:.2f` % folded, where the usual rate
# has {glue:text}`calm_first:.3f` and {glue:text}`calm_folds:.2f` %; at the end
# {glue:text}`wide_last:.3f` and {glue:text}`calm_last:.3f`.
#
# **Exercise 2.** Is the refined displacement further from the network's than that was from the
# identity?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
brain = people.brain(seen[0][1])
moved = metrics.endpoint_error(start, nothing, brain)
changed = metrics.endpoint_error(refined, start, brain)
print(f"network {moved:.2f} voxels, change {changed:.2f} voxels")

# %% [markdown]
# ## What you take along
#
# - The training loss also fits a single pair; no weights change.
# - Watch Dice and folding by step on validation pairs, and fix the number of steps there.
# - Seconds belong beside the gain: a few steps cost far less than a classical run.
#
# **Read on:** the section on instance-specific optimisation in {cite}`balakrishnan2019tmi`.
