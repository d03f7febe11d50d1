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
# # Measure the overlap with Dice
#
# | | |
# |---|---|
# | **You will** | register test pairs, warp their labels, and measure the overlap of each structure |
# | **You will learn** | how to warp labels correctly, how to state which Dice you computed, and how to report its spread |
# | **You need** | the model of [Compile and fit](03_fit.ipynb), which this page trains first if it is missing |
# | **In → out** | a trained model and test subjects → a table of Dice for each pair and structure |
# | **Not here** | whether the displacement is plausible ([the next lesson](05_jacobian.ipynb)) |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters describe the training run whose model is evaluated. The second cell below loads
# this model, or trains it if it is missing, and then prints the image loss, λ and the number of
# training steps.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
run = runs.run(settings)
print(f"{run.title}: {run.history['step'].iloc[-1]} training steps")

# %% [markdown]
# ## List the test pairs
#
# λ and the number of steps were chosen without the test subjects, and nothing is tuned afterwards.
# The Dice values below are therefore a fair estimate for new subjects.
#
# The profile limits the number of pairs. If more are possible, the next cell selects pairs at
# random.

# %%
from vxmlib import cohorts

test = people.split["test"]
pairs = cohorts.ordered_pairs(test, limit=settings.pairs, seed=settings.seed)
possible = len(test) * (len(test) - 1)
print(f"{len(pairs)} of the {possible} ordered pairs of {len(test)} subjects")

# %% [markdown]
# ## Warp a label map with nearest-neighbour interpolation
#
# The network never sees labels. To evaluate the network, warp the moving subject's label map with
# the predicted displacement and compare the result with the fixed subject's label map. In the next
# cell, the network predicts the displacement of one pair. The method `register` of `VxmDense`
# returns the same displacement with a batch axis, as shown in [Build
# VxmDense](02_model.ipynb#apply-the-untrained-network).

# %%
from vxmlib import models

first, second = pairs[0]
moving, fixed = people.image(first), people.image(second)
displacement = models.register(run.model, moving, fixed)

# %% [markdown]
# voxelmorph's `SpatialTransformer` layer applies the displacement to a label map. Both inputs need
# a batch axis, which `[None]` adds here, and a channel axis. With `interp_method="nearest"`, every voxel receives a label of
# the original map. The next cell also warps the map with linear interpolation, to show that this
# method is wrong for labels.
#
# The layer cannot interpolate integers linearly, so the cell converts the labels to float32, which
# is exact for integers up to `2**24`. After warping, `np.rint` rounds the values to whole numbers.

# %%
import numpy as np

from vxmlib.backend import vxm

moving_labels, fixed_labels = people.labels(first), people.labels(second)
batch = [moving_labels[None, ..., None].astype("float32"), displacement[None]]
nearest = vxm.layers.SpatialTransformer(interp_method="nearest")(batch)
linear = vxm.layers.SpatialTransformer(interp_method="linear")(batch)
nearest, linear = (np.rint(x[0, ..., 0]).astype(int) for x in (nearest, linear))

# %% [markdown]
# Label numbers are only names, so the average of two label numbers has no meaning. The next cell
# counts the invented labels, which do not occur in the original map.

# %%
invented = np.setdiff1d(linear, moving_labels)
print("linear: ", len(invented), "invented labels, such as", invented[:6])
print("nearest:", len(np.setdiff1d(nearest, moving_labels)), "invented labels")

# %% tags=["remove-input"]
from IPython.display import Markdown

mixed = 100 * (linear != nearest).mean()
Markdown(f"""
At {mixed:.1f} % of the voxels, linear and nearest-neighbour interpolation give different labels.
The labels can differ only at borders, because a weighted mean of equal labels is that label. No
error is raised, so this mistake is hard to notice.
""")

# %% [markdown]
# `warp.warp_labels` works on a plain integer array without TensorFlow, and refuses label maps that
# are not integers. The next cell checks that the result equals that of the layer with `nearest`.

# %%
from vxmlib import warp

same = warp.warp_labels(moving_labels, displacement) == nearest
print(f"{100 * same.mean():.2f} % of the voxels are equal")

# %% [markdown]
# > **Tip: One-hot maps or integers?**
# >
# > Some recipes convert labels to one-hot maps before warping, with one map for each structure.
# > With nearest-neighbour interpolation, the result is the same as with integers, but the maps need
# > many times the memory. Other recipes warp one-hot maps *linearly* and give each voxel the label
# > whose map has the largest value. Borders are then smoother, and Dice is often slightly higher
# > than with integers. Each method is legitimate if the report names it. This book warps integers
# > with nearest-neighbour interpolation.
#
# The figure below shows outlines of some deep structures before and after registration.

# %% mystnb={"image": {"alt": "Three copies of the fixed subject's brain slice with coloured outlines: the fixed subject's own structures; the moving subject's structures before registration, which miss the anatomy; and the same structures after registration, which follow it."}, "figure": {"caption": "Outlines of some structures on the fixed image. Left: structures of the fixed subject. Middle and right: structures of the moving subject, before and after registration.", "name": "fig-dice-outlines"}}
from vxmlib.book import figures

deep = ("Thalamus", "Caudate", "Putamen", "Hippocampus", "Lateral Ventricle")
shown = {label: name for label, name in people.structures.items() if name.endswith(deep)}
maps = [fixed_labels, moving_labels, nearest]
titles = ["fixed", "moving, before", "moving, warped"]
figures.labels_on_image(fixed, maps, titles, shown);

# %% [markdown]
# ## Compute Dice in five lines
#
# Let $A$ and $B$ be the sets of voxels of one structure in two label maps. The Dice overlap is
# twice the common volume divided by the sum of the two volumes:
#
# $$\mathrm{Dice}(A, B) = \frac{2\,|A \cap B|}{|A| + |B|}$$
#
# Dice is 1 for identical sets and 0 for sets without a common voxel. The next cell computes Dice
# for each structure that both subjects have, and prints their mean. The label 0 is the background
# and not a structure.

# %%
def dice(a, b, label):
    in_a, in_b = a == label, b == label
    return 2 * (in_a & in_b).sum() / (in_a.sum() + in_b.sum())


present = [k for k in people.structures if k in moving_labels and k in fixed_labels]
plain = {k: dice(nearest, fixed_labels, k) for k in present}
print(f"mean over {len(plain)} structures: {np.mean(list(plain.values())):.4f}")

# %% [markdown]
# The formula is simple, but the mean Dice also depends on the choices in this table.
#
# | Choice | This book | Elsewhere |
# |---|---|---|
# | background | left out | counted as a class, with a Dice of almost 1 |
# | structure absent from both maps | left out of the mean (`absent="skip"`) | 0 in voxelmorph, 1 in some recipes, NaN in MONAI |
# | structure that only one subject has | left out of the mean | 0, as the formula gives |
# | mean | over the structures of a pair, then over pairs | over all pairs and structures at once |
# | spread | standard deviation (SD) over pairs, and SD over pairs and structures | often a "±" without an explanation |
#
# The function `metrics.dice` computes the formula for all structures in one pass and checks that
# both maps have the same grid. Its argument `absent` sets the rule for a structure that is absent
# from both maps. A structure in only one of the maps has a Dice of 0 under every rule, but our
# means leave out a structure that only one subject has.
#
# The next cell checks that `dice` and `metrics.dice` give the same values for this pair, and prints
# four of them.

# %%
from vxmlib import metrics

scores = metrics.dice(nearest, fixed_labels, people.structures)
print(scores == plain)
for label in list(scores)[:4]:
    print(f"{people.structures[label]:28} {scores[label]:.3f}")

# %% [markdown]
# ## Score the identity first, then the network
#
# A Dice value is hard to interpret without the value before registration. The next cell therefore
# measures the Dice of the identity and of the network on the same pairs. `evaluate_pairs` returns
# one row for each pair and structure.

# %%
before = metrics.evaluate_pairs(people, pairs, "identity")
after = metrics.evaluate_pairs(people, pairs, run.register)
after[["moving", "fixed", "structure", "dice"]].head(3)

# %% [markdown]
# `metrics.summary` averages Dice over the structures of each pair and then over pairs.

# %%
import pandas as pd

methods = {"identity": metrics.summary(before), "VoxelMorph": metrics.summary(after)}
columns = {"dice_mean": "Dice", "dice_sd_pairs": "SD over pairs"}
columns |= {"dice_sd_pooled": "SD over pairs and structures"}
pd.DataFrame(methods).T[list(columns)].astype(float).rename(columns=columns).round(3)

# %% tags=["remove-input"]
old, new = methods.values()
by_pair = [table.groupby(["moving", "fixed"])["dice"].mean() for table in (before, after)]
gains = by_pair[1] - by_pair[0]
Markdown(f"""
The network (λ = {settings.lam:g}) raises the mean Dice from {old["dice_mean"]:.3f} to
{new["dice_mean"]:.3f}. Both means are taken over the same {len(gains)} pairs.
""")

# %% tags=["remove-input"]
Markdown(f"""
The two standard deviations answer different questions. The SD over *pairs* is
{new["dice_sd_pairs"]:.3f} and shows how much the mean Dice differs between pairs. The SD over pairs
and *structures* is computed from all single values and is {new["dice_sd_pooled"]:.3f}. This SD also
includes the large differences between structures: small and thin structures overlap less than
large, round ones.

The "±" in the tables of the journal paper is an SD over pairs and structures ([Balakrishnan et al.
2019](https://doi.org/10.1109/TMI.2019.2897538)). Do not compare it with your SD over pairs, because
your method would then seem to vary much less than the paper's.
""")

# %% [markdown]
# ## Compare with the Dice of the true displacement
#
# A Dice of 1 is often out of reach, even for a perfect registration. For simulated subjects, the
# Dice of a perfect registration can be measured, because the true displacement of every pair is
# known. The next cell measures this Dice with `evaluate_pairs` and prints the three structures with
# the lowest Dice.

# %%
ceiling = None
if people.simulated:
    truth = [
        metrics.evaluate_pairs(people, [pair], lambda *_, p=pair: people.true_pair_displacement(*p))
        for pair in pairs
    ]
    perfect = pd.concat(truth)
    ceiling = metrics.summary(perfect)["dice_mean"]
    print(f"Dice of the true displacement: {ceiling:.3f}")
    print(perfect.groupby("structure")["dice"].mean().nsmallest(3).round(3).to_string())

# %% tags=["remove-input"]
limit = "The subjects of this build are real, so their true displacement is unknown."
if ceiling:
    share = 100 * (new["dice_mean"] - old["dice_mean"]) / (ceiling - old["dice_mean"])
    limit = f"The network reaches {share:.0f} % of the gain in Dice of the true displacement."
Markdown(f"""
Even the true displacement does not reach a Dice of 1. Both label maps were sampled at the nearest
voxel, so a border can be wrong by up to half a voxel. This affects thin structures most, because
they consist mostly of border.

{limit} Before you attribute a Dice below 1 to the method, compare it with the Dice of the true
displacement, if known. This practical limit is not strict, because a displacement that only aligns
labels can reach a higher Dice.
""")

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

recording.write_record(
    "04_dice",
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
    **({"dice_truth": ceiling} if ceiling else {}),
)

# %% [markdown]
# Real subjects have a practical limit, too, because one subject can have a sulcus that another
# lacks, and because two raters do not draw the same border. The value of this limit is unknown.

# %% [markdown]
# ## Look at each structure
#
# A mean hides in which structures Dice rises or falls, so the figure shows the Dice of every
# structure.

# %% mystnb={"image": {"alt": "Horizontal box plots of Dice for each brain structure, hatched grey boxes for the identity and blue boxes for VoxelMorph. The blue box lies to the right of the grey box for most structures."}, "figure": {"caption": "Dice of each structure over the test pairs, for the identity and for VoxelMorph. Each box spans the middle half of the values, and the line in the box is the median.", "name": "fig-dice-boxes"}}
figures.boxes_by_structure(before, after);

# %% [markdown]
# The table lists the three largest and the three smallest gains in Dice. Compare each gain with the
# Dice of the identity, because a structure that overlaps well before registration can gain less
# than others.

# %%
by_structure = [t.groupby("structure")["dice"].mean() for t in (before, after)]
gain = (by_structure[1] - by_structure[0]).sort_values(ascending=False)
ends = [*gain.index[:3], *gain.index[-3:]]
pd.DataFrame({"identity": by_structure[0], "gain": gain}).loc[ends].round(3)

# %% [markdown]
# ## Look at each pair
#
# The figure compares the mean Dice of each pair before and after registration.

# %% mystnb={"image": {"alt": "Scatter plot of mean Dice after registration against mean Dice before, one point for each pair, with a dashed diagonal. The points lie above the diagonal."}, "figure": {"caption": "Mean Dice of each test pair before and after registration. A point above the diagonal is a pair whose Dice increased.", "name": "fig-dice-pairs"}}
figures.dice_by_pair(before, after);

# %% tags=["remove-input"]
rose = "all" if (gains > 0).all() else f"{(gains > 0).sum()} of"
Markdown(f"""
Dice rose for {rose} {len(gains)} pairs. However, a t-test over these pairs would overstate the
certainty, because pairs that share a subject are not independent. A valid test resamples
*subjects*, as in [Choose λ](06_choose.ipynb).
""")

# %% [markdown]
# > **Warning: What Dice cannot show**
# >
# > A displacement can fold the image and still align the labels, so a high overlap alone can
# > mislead ([Rohlfing 2012](https://doi.org/10.1109/TMI.2011.2163944)). The displacement itself is
# > examined in the [next lesson](05_jacobian.ipynb).

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Add a label that is absent from both maps to the list of structures, and compute
# the mean Dice under each of the rules "skip", "zero" and "one".

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for rule in ("skip", "zero", "one"):
    values = metrics.dice(nearest, fixed_labels, [*present, 9999], absent=rule)
    print(f"{rule:5} {np.mean(list(values.values())):.3f}")

# %% [markdown]
# **Exercise 2.** Is VoxelMorph symmetric? Register one pair in both directions and compare the two
# Dice values.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
both_ways = metrics.evaluate_pairs(people, [(first, second), (second, first)], run.register)
both_ways.groupby(["moving", "fixed"])["dice"].mean().round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Not exactly. The network registers the two directions separately, so it need not reach the same
# Dice in both.
#
# </details>
#
# **Exercise 3.** Find the smallest structure of the fixed subject. What is the Dice of this
# structure?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
sizes = {k: int((fixed_labels == k).sum()) for k in present}
smallest = min(sizes, key=sizes.get)
print(people.structures[smallest], sizes[smallest], "voxels, Dice", round(scores[smallest], 3))

# %% [markdown]
# ## Summary
#
# - Warp integer labels with nearest-neighbour interpolation, because linear interpolation invents
#   labels.
# - Report the Dice of the identity on the same pairs first.
# - State the structures, the rule for absent structures, and what the SD is taken over.
# - Even a perfect registration may not reach a Dice of 1, so measure the Dice of the true
#   displacement if it is known.
# - Show the Dice of each structure and each pair, not only the mean.
#
# **Read on:** [Rohlfing 2012](https://doi.org/10.1109/TMI.2011.2163944) shows how a high overlap
# can mislead.
