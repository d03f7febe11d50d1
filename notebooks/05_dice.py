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
# # 5. Measure the overlap: Dice on the test pairs
#
# | | |
# |---|---|
# | **You will** | register every test pair, carry the labels along, and score the overlap of each structure |
# | **You will learn** | to warp labels rightly, to say which Dice you computed, and to show its spread |
# | **You need** | [lesson 4](04_train.ipynb); if its model is not there, this page trains it first |
# | **In → out** | a trained model and test people → a table of Dice by pair and structure |
# | **Not here** | whether the field is plausible ([lesson 6](06_jacobian.ipynb)): a high Dice can be bought with folds |
# | **Time** | 20 minutes |

# %% [markdown]
# The parameters name the run whose model is evaluated:

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0

# %%
from vxmlib import cohorts, metrics, models, warp
from vxmlib.book import figures
from vxmlib.experiments import recording, runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
run = runs.run(settings)
print(run.folder.name, "-", run.history["step"].iloc[-1], "steps")

# %% [markdown]
# ## Open the test people, once
#
# λ and the number of steps were settled without them. From here on nothing is tuned.

# %%
test = people.split["test"]
pairs = cohorts.ordered_pairs(test, limit=settings.pairs, seed=settings.seed)
possible = len(test) * (len(test) - 1)
print(f"{len(pairs)} of {possible} ordered pairs of {len(test)} people")

# %% [markdown]
# ## Carry labels along, with nearest neighbour
#
# The network never sees a label. To score it, the moving person's label map is warped by the
# same displacement as the image and compared with the fixed person's. Labels are *names* that
# happen to be numbers, so they must not be averaged. Watch what linear interpolation makes of
# them:

# %%
import numpy as np

first, second = pairs[0]
moving_labels, fixed_labels = people.labels(first), people.labels(second)
displacement = models.register(
    run.model, people.image(first), people.image(second)
)
nearest = warp.warp_labels(moving_labels, displacement)
linear = np.rint(
    warp.warp_image(moving_labels.astype("float32"), displacement)
).astype(int)

# %% [markdown]
# What linear interpolation did to the numbers:

# %%
invented = np.setdiff1d(linear, moving_labels)
mixed = (linear != nearest).mean() * 100
print("labels that nobody has:", invented[:12], "...")
print("nearest invents:", np.setdiff1d(nearest, moving_labels))

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    n_invented=len(invented),
    mixed=mixed,
)

# %% [markdown]
# Linear interpolation invented {glue:text}`n_invented` label numbers that nobody has, and
# changed {glue:text}`mixed:.1f` % of the pixels, quietly wrong at every border. Nearest keeps
# the set of labels.
#
# :::{admonition} One-hot or integers?
# :class: tip
# Some recipes turn labels into one-hot maps first, one image a structure. With nearest
# neighbour the result is identical and costs many times the memory. With *linear* interpolation
# of one-hot maps and an argmax after, borders come out smoother and Dice often a little higher.
# It is a legitimate choice if one says so; we use integers and nearest.
# :::

# %% [markdown]
# The structures that both people have, and of those the deep ones to draw:

# %%
both = np.intersect1d(moving_labels, fixed_labels)
present = [label for label in people.structures if label in both]
deep = ("Thalamus", "Caudate", "Putamen", "Hippocampus", "Lateral Ventricle")
names = {label: people.structures[label] for label in present}
shown = {label: name for label, name in names.items() if name.endswith(deep)}

# %% [markdown]
# Outlines before and after, on the fixed image:

# %% mystnb={"image": {"alt": "Three copies of the fixed person's brain slice with coloured outlines: the fixed person's own structures, the moving person's structures before registration, which miss the anatomy, and after registration, which follow it."}, "figure": {"caption": "Some structures' outlines on the fixed image: the fixed person's own, the moving person's before, and after registration.", "name": "fig-05-outlines"}}
figures.labels_on_image(
    people.image(second),
    [fixed_labels, moving_labels, nearest],
    [
        "fixed person's own",
        "moving person's, before",
        "moving person's, warped",
    ],
    shown,
);

# %% [markdown]
# ## Say which Dice
#
# For one structure, Dice is twice the common volume over the sum of both volumes: 1 is the same
# set, 0 is nothing in common. The formula is easy. The choices around it are not, and each
# moves the result:
#
# | Choice | Ours | Others |
# |---|---|---|
# | background | left out | counted as a class it would score near 1 |
# | structure absent in both | left out of the mean (`absent="skip"`) | voxelmorph counts 0, some recipes 1, MONAI NaN |
# | mean | over structures in a pair, then over pairs | pooled over all |
# | spread | SD over pairs, and pooled SD over pairs × structures | often "±" without a name |

# %%
one = metrics.dice(nearest, fixed_labels, people.structures)
for label in list(one)[:5]:
    print(f"{people.structures[label]:28} {one[label]:.3f}")

# %% [markdown]
# ## Score the identity first, then the network
#
# The same function evaluates both on the same pairs: one row for each pair and structure.

# %%
before = metrics.evaluate_pairs(people, pairs, "identity")
after = metrics.evaluate_pairs(people, pairs, run.register)
after.head(3).T

# %% [markdown]
# The means of each method side by side:

# %%
import pandas as pd

summary = pd.DataFrame(
    {"identity": metrics.summary(before), "VoxelMorph": metrics.summary(after)}
).T
columns = ["pairs", "dice_mean", "dice_sd_pairs", "dice_sd_pooled"]
summary[columns].round(4).astype({"pairs": int})

# %% tags=["remove-cell"]
old, new = metrics.summary(before), metrics.summary(after)
by_pair = [
    t.groupby(["moving", "fixed"])["dice"].mean() for t in (before, after)
]
gains = by_pair[1] - by_pair[0]
glue.glue(
    dice_before=old["dice_mean"],
    dice_after=new["dice_mean"],
    gain=new["dice_mean"] - old["dice_mean"],
    sd_pairs=new["dice_sd_pairs"],
    sd_pooled=new["dice_sd_pooled"],
    n_pairs=len(gains),
    n_better=int((gains > 0).sum()),
    lam=settings.lam,
)

# %% [markdown]
# Mean Dice went from {glue:text}`dice_before:.3f` to {glue:text}`dice_after:.3f`, a change of
# {glue:text}`gain:+.3f` at λ = {glue:text}`lam:g` over {glue:text}`n_pairs` pairs.
#
# Look at the two spreads. Between *pairs* the SD is {glue:text}`sd_pairs:.3f`; over all pairs
# and *structures* together it is {glue:text}`sd_pooled:.3f`, because small and thin structures
# overlap less than large, round ones. The "±" in the journal paper's tables is the second kind
# {cite}`balakrishnan2019tmi`. Printing the first beside the paper's looks like a much steadier
# method; it is only another definition.

# %% [markdown]
# ## Know the ceiling
#
# Is 1 within reach? Simulated people can answer: the displacement that leads from one to the
# other is known. So register by the truth, and score that with the same function.

# %%
def score_truth(moving, fixed):
    truth = people.true_pair_displacement(moving, fixed)
    return metrics.evaluate_pairs(people, [(moving, fixed)], lambda *_: truth)


if people.simulated:
    perfect = pd.concat([score_truth(*pair) for pair in pairs])
    print(f"the truth scores {metrics.summary(perfect)['dice_mean']:.3f}")
    lowest = perfect.groupby("structure")["dice"].mean().nsmallest(3)
    print(", ".join(f"{name} {dice:.3f}" for name, dice in lowest.items()))
else:
    print("Real people: nobody knows their true displacement.")

# %% tags=["remove-cell"]
ceiling = {}
said = "The people of this build are real, and nobody can say what is within reach"
if people.simulated:
    top = metrics.summary(perfect)["dice_mean"]
    ceiling = {"dice_truth": top}
    way = (new["dice_mean"] - old["dice_mean"]) / (top - old["dice_mean"])
    said = (
        f"In this build the ceiling is {top:.3f}, and the network made "
        f"{100 * way:.0f} % of the way there from the identity"
    )
glue.glue(ceiling=said)

# %% tags=["remove-cell"]
recording.write_record(
    "05_dice",
    run,
    people,
    dice_identity=old["dice_mean"],
    dice=new["dice_mean"],
    dice_gain=new["dice_mean"] - old["dice_mean"],
    dice_sd_pairs=new["dice_sd_pairs"],
    dice_sd_pooled=new["dice_sd_pooled"],
    pairs=len(gains),
    pairs_better=(gains > 0).sum(),
    structures=after["label"].nunique(),
    register_seconds=new["seconds"],
    **ceiling,
)

# %% [markdown]
# Even the truth does not score 1. Both label maps were sampled at the nearest voxel, and where a
# structure is only a few voxels thin, as a choroid plexus is, half a voxel at the border counts.
# {glue:text}`ceiling`. Compare a Dice with its ceiling before you blame the method for what is
# missing to 1.
#
# Real people have a ceiling too, but nobody knows it: one person has a sulcus that another lacks,
# and two raters, or one rater twice, do not draw the same border.

# %% [markdown]
# ## Look at each structure

# %% mystnb={"image": {"alt": "Horizontal box plots of Dice for each brain structure, hatched grey boxes for the identity and blue boxes for VoxelMorph; the blue box lies right of the grey one for most structures."}, "figure": {"caption": "Dice by structure over the test pairs, identity and VoxelMorph. Boxes are quartiles, lines medians.", "name": "fig-05-boxes"}}
figures.boxes_by_structure(before, after);

# %% [markdown]
# A mean hides who gains and who loses. Which structures gain most, and does any lose?

# %%
by_structure = [t.groupby("structure")["dice"].mean() for t in (before, after)]
gain = (by_structure[1] - by_structure[0]).sort_values(ascending=False)
ends = [*gain.index[:3], *gain.index[-3:]]
pd.DataFrame({"identity": by_structure[0], "gain": gain}).loc[ends].round(3)

# %% [markdown]
# ## Look at each pair

# %% mystnb={"image": {"alt": "Scatter plot of mean Dice after registration against mean Dice before, one point a pair, with a dashed diagonal; the points lie above the diagonal."}, "figure": {"caption": "Each test pair before and after. A point above the diagonal gained.", "name": "fig-05-pairs"}}
figures.dice_by_pair(before, after);

# %% [markdown]
# {glue:text}`n_better` of {glue:text}`n_pairs` pairs gained. The pairs share people, so they
# are not independent: a plain t-test over pairs would claim too much. An honest one
# resamples *people*.
#
# :::{admonition} What Dice cannot tell
# :class: warning
# A displacement may tear and fold the image and still match the labels. Overlap alone has been
# shown to be fooled {cite}`rohlfing2012`. [Lesson 6](06_jacobian.ipynb) looks at the field
# itself.
# :::

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Add a label that is absent in both maps and compute the mean Dice under each
# rule.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
absent_label = 9999
for rule in ("skip", "zero", "one"):
    values = metrics.dice(
        nearest, fixed_labels, [*present, absent_label], absent=rule
    )
    print(f"{rule:5} {np.mean(list(values.values())):.3f}")

# %% [markdown]
# **Exercise 2.** Is VoxelMorph symmetric? Compare the Dice of A → B with that of B → A.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
swapped = metrics.evaluate_pairs(
    people, [(first, second), (second, first)], run.register
)
swapped.groupby(["moving", "fixed"])["dice"].mean().round(3)

# %% [markdown]
# **Exercise 3.** How small is the smallest structure, and how does its Dice compare?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
sizes = {k: int((fixed_labels == k).sum()) for k in present}
smallest = min(sizes, key=sizes.get)
print(
    people.structures[smallest],
    sizes[smallest],
    "voxels, Dice",
    round(one[smallest], 3),
)

# %% [markdown]
# ## What you take along
#
# - Warp integer labels with nearest neighbour; linear interpolation invents labels.
# - Identity first, on the same pairs.
# - Name the structures, the rule for absent ones, and the kind of spread.
# - A perfect registration does not score 1; where the truth is known, score it too.
# - Show structures and pairs, not only the mean.
#
# **Read on:** {cite}`rohlfing2012` on what overlap can hide.
