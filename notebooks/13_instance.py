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
# # 13. Refine one pair: instance optimisation
#
# | | |
# |---|---|
# | **You will** | take a network's displacement and minimise the training loss for one pair |
# | **You will learn** | what a few steps give and cost, where to stop, and how it stands beside SyN |
# | **You need** | [lesson 5](05_dice.ipynb) and [lesson 7](07_lambda.ipynb) |
# | **In → out** | one displacement and its pair → a better displacement for that pair |
# | **Not here** | training: the network's weights stay as they are |
# | **Time** | 15 minutes |

# %% [markdown]
# A network gives in one pass what it has learnt on other people. A classical method fits one pair
# and takes its time. Between the two lies this: start from the network's answer and let the
# *same loss* fit this pair for a few steps. The journal paper calls it instance-specific
# optimisation {cite}`balakrishnan2019tmi`.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0

# %%
from vxmlib import cohorts, metrics, profiles, recipe

settings = profiles.read_parameters(globals())
people = recipe.load_cohort(settings)
run = recipe.run(settings)

# %% [markdown]
# One test pair to look at closely:

# %%
moving_id, fixed_id = cohorts.ordered_pairs(people.split["test"], limit=1)[0]
moving, fixed = people.image(moving_id), people.image(fixed_id)

# %% [markdown]
# ## Optimise the displacement itself
#
# There is no network in the loop any more. The unknown is the displacement, the loss is the one of
# training, and Adam changes it by a tenth of a voxel a step. To keep steps smooth, the change
# lives on a grid half as fine.

# %%
from vxmlib.instance import InstanceOptimiser

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
# optimises, follow? Start once from the network and once from nothing:

# %%
import numpy as np
import pandas as pd

from vxmlib import warp

target, own = people.labels(fixed_id), people.labels(moving_id)
brain = people.brain(fixed_id)


def watched(start, optimise=optimise, steps=60):
    rows = {}

    def watch(step, u):
        if step % 5 == 0:
            warped = warp.warp_labels(own, u)
            dice = metrics.mean_dice(warped, target, people.structures)
            rows[step] = [dice, metrics.folding(u, brain).percent_in_mask]

    _, history = optimise(start, moving, fixed, steps=steps, watch=watch)
    table = pd.DataFrame(rows, index=["dice", "folding"]).T
    table["seconds"] = [0, *history["seconds"].iloc[4::5]]
    return table.rename_axis("step")


nothing = np.zeros_like(start)
from_network, from_nothing = watched(start), watched(nothing)

# %% [markdown]
# Over the steps:

# %% mystnb={"image": {"alt": "Two panels against steps. Left, Dice: the curve that starts from the network begins high and rises a little, the curve that starts from nothing begins low and climbs towards it. Right, folding in percent of the brain for both."}, "figure": {"caption": "Dice and folding of one pair while its displacement is optimised, from the network's displacement and from zero.", "name": "fig-13-steps"}}
from vxmlib import figures

figures.steps_of(
    {"from the network": from_network, "from nothing": from_nothing},
    ["dice", "folding"],
    ["Dice", "folding, % of brain"],
);

# %% tags=["remove-cell"]
from vxmlib import pages

pages.glue(
    at_start=from_network["dice"].iloc[0],
    best=from_network["dice"].max(),
    best_step=from_network["dice"].idxmax(),
    at_end=from_network["dice"].iloc[-1],
    nothing_end=from_nothing["dice"].iloc[-1],
    steps=int(from_network.index[-1]),
)

# %% [markdown]
# From the network Dice goes from {glue:text}`at_start:.3f` to {glue:text}`at_end:.3f` in
# {glue:text}`steps` steps (at best {glue:text}`best:.3f`, at step {glue:text}`best_step`). From
# nothing the same steps arrive at {glue:text}`nothing_end:.3f`: the network saves the long part
# of the way.

# %% [markdown]
# ## On more pairs, beside SyN
#
# The classical yardstick is SyN of ANTs {cite}`avants2008syn` with its correlation metric. All
# methods register the same pairs, one after the other, on this machine.

# %%
from functools import partial

from vxmlib import baselines

few = cohorts.ordered_pairs(people.split["test"], limit=6)


def refine(start, m, f, steps):
    return optimise(start, m, f, steps=steps)[0]


methods = {
    "identity": "identity",
    "network": run.register,
    "network, 30 steps": lambda m, f: refine(run.register(m, f), m, f, 30),
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
# A method that is not installed is said to be missing; the others stand:

# %%
summary = pd.DataFrame({name: metrics.summary(t) for name, t in tables.items()}).T
shown = ["dice_mean", "folding_percent_brain", "sd_log_jacobian", "seconds"]
print("\n".join(missing) or "all methods ran")
summary[shown].round(4)

# %% tags=["remove-cell"]
dice = summary["dice_mean"]
refined_by = dice["network, 30 steps"] - dice["network"]
recipe.write_record(
    "13_instance",
    run,
    people,
    pairs=len(few),
    methods=summary[shown].astype(float).T.to_dict(),
)
pages.glue(
    n_pairs=len(few),
    refined_by=refined_by,
    extra=summary.loc["network, 30 steps", "seconds"]
    - summary.loc["network", "seconds"],
)

# %% [markdown]
# Over {glue:text}`n_pairs` pairs thirty steps change the network's Dice by
# {glue:text}`refined_by:+.3f` and take {glue:text}`extra:.2f` seconds more a pair. Read the
# folding beside it: a step towards a better fit is also a step away from the smoothness that the
# network has learnt.

# %% [markdown]
# For the pair of the curves above, the same against seconds, SyN as one point:

# %%
points = {}
if "SyN" in tables:
    this = tables["SyN"].query("moving == @moving_id and fixed == @fixed_id")
    result = metrics.summary(this)
    points["SyN"] = pd.Series(
        {"dice": result["dice_mean"], "folding": result["folding_percent_brain"]},
        name=result["seconds"],
    )

# %% [markdown]
# In seconds:

# %% mystnb={"image": {"alt": "Two panels against seconds. Dice: the curve from the network's displacement starts high at zero seconds, that from nothing climbs, SyN is a single diamond further right. Folding in percent of the brain, likewise."}, "figure": {"caption": "Dice and folding of one pair against the seconds of optimising it; SyN where it was found.", "name": "fig-13-seconds"}}
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
# from the displacement of the network of [lesson 9](09_real.ipynb), followed beyond the steps that
# are used there on the test people. Means over pairs:

# %%
told = recipe.committed_record("malf/instance/ncc-instance.json")
steps_3d = pd.DataFrame(told["metrics"]["rows"])
measures = ["dice", "folding_percent_brain", "seconds"]
steps_3d = steps_3d.groupby("step")[measures].mean()
steps_3d.iloc[::2].round(3)

# %% mystnb={"image": {"alt": "Two panels against steps of optimisation in 3D. Dice rises steeply for the first few steps and levels off; folding in percent of the brain falls a little, then rises above where it began, and falls again slowly."}, "figure": {"caption": "Instance optimisation in 3D on real people: mean over validation pairs.", "name": "fig-13-malf"}}
figures.steps_of(
    {"validation pairs": steps_3d},
    ["dice", "folding_percent_brain"],
    ["Dice", "folding, % of brain"],
);

# %% tags=["remove-cell"]
used = told["parameters"]["instance"]["steps"]
pages.glue(
    used=used,
    pairs_3d=len({(row["moving"], row["fixed"]) for row in told["metrics"]["rows"]}),
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
# {glue:text}`net_folds_3d:.2f` to {glue:text}`used_folds_3d:.2f` % of the brain. The steps are few and
# large, and λ is {glue:text}`lam_3d:g` here where the network was trained with less: a single pair
# can be fitted further than a network dares, and folds sooner.

# %% [markdown]
# ## λ still counts
#
# What holds for training holds here. With λ = 0.01 the same steps buy similarity with folds:

# %%
careless = InstanceOptimiser(people.shape, lam=0.01, **options)
loose = watched(start, careless)
pd.DataFrame(
    {f"λ = {settings.lam:g}": from_network.iloc[-1], "λ = 0.01": loose.iloc[-1]}
).round(4)

# %% tags=["remove-cell"]
pages.glue(
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
coarse = InstanceOptimiser(people.shape, lam=settings.lam, learning_rate=1.0)
_, jumpy = coarse(start, moving, fixed, steps=30)
print(jumpy["loss"].round(4).iloc[[0, 1, 2, 5, 10, 29]].tolist())

# %% [markdown]
# The first steps make it worse: Adam moves every voxel by about the learning rate, whatever the
# gradient's size.
#
# **Exercise 2.** Is the refined displacement further from the network's than that was from the
# identity?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
moved = metrics.endpoint_error(start, nothing, brain)
changed = metrics.endpoint_error(refined, start, brain)
print(f"network {moved:.2f} voxels, change {changed:.2f} voxels")

# %% [markdown]
# ## What you take along
#
# - The training loss also fits a single pair; no weights change.
# - The network's displacement is a start that saves most of the steps.
# - Watch Dice and folding by step on validation pairs, and fix the number of steps there.
# - Seconds belong beside the gain: a few steps cost far less than a classical run.
#
# **Read on:** the section on instance-specific optimisation in {cite}`balakrishnan2019tmi`.
