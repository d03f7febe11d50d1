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
# # Compare definitions: one field, many numbers
#
# | | |
# |---|---|
# | **You will** | measure one and the same registration by every definition in use |
# | **You will learn** | how far Dice, folding, SD of log det J, surface distance and NCC move by definition alone |
# | **You need** | [lesson 5](04_dice.ipynb) and [lesson 6](05_jacobian.ipynb) |
# | **In → out** | one displacement → pairs of numbers that bear one name |
# | **Not here** | which method is better: nothing is compared but definitions |
# | **Time** | 15 minutes |

# %% [markdown]
# Two papers that print "Dice" or "SDlogJ" need not print the same quantity. Here nothing changes
# but the definition: each section takes the same pair and the same field, and shows the number
# that moves. The field is that of [lesson 6](05_jacobian.ipynb) at λ = 0.01, because a field
# without folds cannot show how folds are counted.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 0.01
int_steps = 0

# %%
from vxmlib import cohorts, metrics, warp
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
run = runs.run(settings)

# %% [markdown]
# One pair, its field, and the labels that it carries over:

# %%
moving, fixed = cohorts.ordered_pairs(people.split["test"], limit=1)[0]
field = run.register(people.image(moving), people.image(fixed))
brain = people.brain(fixed)
warped = warp.warp_labels(people.labels(moving), field)
target = people.labels(fixed)

# %% [markdown]
# ## Dice: a structure that nobody has
#
# Label lists are made for a data set, and a person may lack a structure; in 2D a slice misses
# many. What is the overlap of nothing with nothing? Four conventions are in use: leave it out
# (ours), count 0 (voxelmorph), count 1 (some recipes), or NaN, which the mean then has to drop
# (MONAI). To see them move, ask for two labels more than there are:

# %%
import numpy as np
import pandas as pd

present = [k for k in people.structures if (target == k).any()]
asked = [*present, 998, 999]
absent = {
    rule: np.nanmean(list(metrics.dice(warped, target, asked, absent=rule).values()))
    for rule in ("skip", "zero", "one", "nan")
}
pd.Series(absent, name="mean Dice").round(4)

# %% [markdown]
# voxelmorph's own function confirms which of them it follows:

# %%
from vxmlib.backend import vxm

theirs = vxm.py.utils.dice(warped, target, labels=asked).mean()
print(f"voxelmorph: {theirs:.4f}")

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    n_present=len(present),
    absent_low=min(absent.values()),
    absent_high=max(absent.values()),
    theirs=theirs,
)

# %% [markdown]
# With {glue:text}`n_present` structures and two empty labels the same registration scores from
# {glue:text}`absent_low:.3f` to {glue:text}`absent_high:.3f`.

# %% [markdown]
# ## Dice: nearest labels, or linear one-hot maps
#
# Both are legitimate. One warps the label map by nearest neighbour; the other warps one smooth
# map a structure and takes the largest.

# %%
maps = [
    warp.warp_image((people.labels(moving) == k).astype("float32"), field)
    for k in [0, *present]
]
linear = np.array([0, *present])[np.argmax(maps, axis=0)]
nearest_dice = metrics.mean_dice(warped, target, present)
linear_dice = metrics.mean_dice(linear, target, present)
print(f"nearest {nearest_dice:.4f}, one-hot linear {linear_dice:.4f}")

# %% tags=["remove-cell"]
glue.glue(one_hot=linear_dice - nearest_dice)

# %% [markdown]
# A difference of {glue:text}`one_hot:+.4f`, from the interpolation alone.

# %% [markdown]
# ## Dice: the mean over what?
#
# A mean over structures weighs a choroid plexus as much as the white matter. A mean over groups
# (left and right counted together) or over all labelled voxels weighs otherwise. And the spread
# depends on what is spread: pairs, or pairs and structures.

# %%
pairs = cohorts.ordered_pairs(people.split["test"], limit=settings.pairs)
table = metrics.evaluate_pairs(people, pairs, run.register)
side = table["structure"].str.replace("Left |Right ", "", regex=True)
grouped = table.groupby(["moving", "fixed", side])["dice"].mean()
summary = metrics.summary(table)
means = {
    "mean over structures": summary["dice_mean"],
    "mean over left-right groups": grouped.groupby(level=[0, 1]).mean().mean(),
    "± over pairs": summary["dice_sd_pairs"],
    "± over pairs and structures": summary["dice_sd_pooled"],
}
pd.Series(means, name="Dice").round(4)

# %% tags=["remove-cell"]
glue.glue(
    spread_ratio=means["± over pairs and structures"] / means["± over pairs"]
)

# %% [markdown]
# The second "±" is {glue:text}`spread_ratio:.0f` times the first. The papers' tables print the
# second kind {cite}`balakrishnan2019tmi`.

# %% [markdown]
# ## Folding: of how many voxels?

# %%
folds = metrics.folding(field, mask=brain)
labelled = target > 0
in_labels = metrics.folding(field, mask=labelled)
denominators = pd.DataFrame(
    {
        "voxels": [brain.size, brain.sum(), labelled.sum()],
        "folding in %": [
            folds.percent,
            folds.percent_in_mask,
            in_labels.percent_in_mask,
        ],
    },
    index=["all voxels", "the brain", "labelled voxels"],
)
denominators.round(3)

# %% tags=["remove-cell"]
shares = denominators["folding in %"]
glue.glue(
    n_folds=folds.count,
    share_low=shares.min(),
    share_high=shares.max(),
)

# %% [markdown]
# {glue:text}`n_folds` folds are {glue:text}`share_low:.2f` % or {glue:text}`share_high:.2f` %,
# by denominator.

# %% [markdown]
# ## SD of log det J: with folds, without, or hidden
#
# A fold has no logarithm. Ours leaves folds out and prints their share beside the number; others
# raise them to a floor, and the value then depends on the floor. The evaluation of a well-known
# challenge adds 3 to every determinant before it takes the logarithm; after that no determinant
# is below 0 and the count of folds is 0, whatever the field does.

# %%
determinant = metrics.jacobian_determinant(field)
inner = (slice(2, -2),) * people.ndim  # they leave out the border
shifted = np.clip(determinant + 3, 1e-9, 1e9)

# %% [markdown]
# The spread of the three logarithms in the brain:

# %%
spreads = {
    "folds left out": metrics.sd_log_jacobian(field, brain),
    "folds raised to 1e-9": metrics.sd_log_jacobian(
        field, brain, nonpositive="floor"
    ),
    "log(det + 3), border left out": np.log(shifted[inner])[brain[inner]].std(),
}
pd.Series(spreads, name="SD of log det J").round(3)

# %% tags=["remove-cell"]
honest, floored, hidden = spreads.values()
glue.glue(
    honest=honest,
    floored=floored,
    hidden=hidden,
    counted=int((shifted <= 0).sum()),
)

# %% [markdown]
# One field: {glue:text}`honest:.2f`, {glue:text}`floored:.2f`, or {glue:text}`hidden:.2f`. And
# where the determinant was raised by 3 first, the folds that are counted are
# {glue:text}`counted`.

# %% [markdown]
# ## Surface distance: millimetres or voxels
#
# The 95th percentile of the distance between two surfaces has a unit. Code that does not ask for
# the voxel size answers in voxels.

# %%
label = max(present, key=lambda k: (target == k).sum())
a, b = warped == label, target == label
in_mm = metrics.surface_distance(a, b, spacing=people.spacing)
in_voxels = metrics.surface_distance(a, b, spacing=1.0)
two_mm = metrics.surface_distance(a, b, spacing=2.0)
print(f"{people.structures[label]}: {in_mm:.2f} mm, {in_voxels:.2f} voxels")
print(f"had these voxels 2 mm, it would be {two_mm:.2f} mm")

# %% [markdown]
# With voxels of 1 mm nobody notices. On another grid the same word means another length.

# %% [markdown]
# ## NCC: the whole image or the brain
#
# Black background correlates perfectly with black background, so a mean over the whole image
# mostly counts what nobody registered. Take the pair *before* registration:

# %%
images = people.image(moving), people.image(fixed)
whole = metrics.local_ncc(*images)
inside = metrics.local_ncc(*images, mask=brain)
after = metrics.local_ncc(warp.warp_image(images[0], field), images[1], mask=brain)
print(f"before: whole image {whole:.3f}, brain {inside:.3f}")
print(f"after, in the brain: {after:.3f}")

# %% tags=["remove-cell"]
glue.glue(whole=whole, inside=inside)

# %% [markdown]
# An unregistered pair scores {glue:text}`whole:.2f` on the whole image and
# {glue:text}`inside:.2f` in the brain.

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Does the order of "mean over structures, then over pairs" matter? Try the other
# one.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
other_order = table.groupby("structure")["dice"].mean().mean()
print(f"{means['mean over structures']:.5f} and {other_order:.5f}")

# %% [markdown]
# Not while every pair has every structure. When some lack one, the two differ, and one has to say
# which was taken.
#
# **Exercise 2.** Which of these definitions could turn a worse method into a better one in a
# table?

# %% [markdown]
# :::{admonition} Answer
# :class: dropdown
# All whose effect is not the same for every method: what happens to absent or wiped-out
# structures, the interpolation of labels, the floor of log det J, and any count that cannot see
# folds. The unit of a distance and the denominator of folding change the level, not the order,
# as long as one table uses one of them.
# :::

# %% [markdown]
# ## What you take along
#
# - A number without its definition cannot be compared; print both.
# - Dice: say what an absent structure counts, how labels were warped, and what the ± is over.
# - Folding: give the count and the denominator.
# - SD of log det J: say what became of the folds, and never add a constant.
# - Distances in millimetres; NCC in the brain.
#
# **Read on:** overlap as a surrogate for registration, and its limits {cite}`rohlfing2012`.
