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
# | **You will** | register every test pair, warp its labels, and score the overlap of each structure |
# | **You will learn** | how to warp labels correctly, how to say which Dice you computed, and how to show its spread |
# | **You need** | the model of [Compile and fit](03_fit.ipynb), which this page trains first if it is missing |
# | **In → out** | a trained model and test subjects → a table of Dice by pair and structure |
# | **Not here** | whether the displacement is plausible, which is the subject of [the next lesson](05_jacobian.ipynb) |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters name the training run whose model is evaluated. The second cell loads it, or
# trains it if it is missing. It then prints the settings of the run and, after the colon, the
# number of training steps.

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
# λ and the number of steps were chosen without the test subjects. Nothing is tuned after this
# point, so the scores below are a fair estimate for new subjects. The profile limits the number of
# pairs, so the next cell may select only some of them, at random.

# %%
from vxmlib import cohorts

test = people.split["test"]
pairs = cohorts.ordered_pairs(test, limit=settings.pairs, seed=settings.seed)
possible = len(test) * (len(test) - 1)
print(f"{len(pairs)} of the {possible} ordered pairs of {len(test)} subjects")

# %% [markdown]
# ## Warp a label map with nearest-neighbour interpolation
#
# The network never sees a label. To evaluate it, warp the moving subject's label map with the
# predicted displacement and compare the result with the fixed subject's label map. First the
# network predicts the displacement of one pair.

# %%
from vxmlib import models

first, second = pairs[0]
moving, fixed = people.image(first), people.image(second)
displacement = models.register(run.model, moving, fixed)

# %% [markdown]
# voxelmorph's `SpatialTransformer` layer applies the displacement. Its inputs need a batch axis
# and a channel axis. With `interp_method="nearest"` every voxel receives a label of the original
# map. The cell also warps the map with linear interpolation and rounds the result, to show why this
# is a mistake.

# %%
import numpy as np

from vxmlib.backend import vxm

moving_labels, fixed_labels = people.labels(first), people.labels(second)
batch = [moving_labels[None, ..., None].astype("float32"), displacement[None]]
nearest = vxm.layers.SpatialTransformer(interp_method="nearest")(batch)
linear = vxm.layers.SpatialTransformer(interp_method="linear")(batch)
nearest, linear = (np.rint(x[0, ..., 0]).astype(int) for x in (nearest, linear))

# %% [markdown]
# Label numbers are names, so an average of two of them has no meaning. The next cell counts the
# label numbers that each interpolation invented.

# %%
invented = np.setdiff1d(linear, moving_labels)
print("linear: ", len(invented), "invented labels, such as", invented[:6])
print("nearest:", len(np.setdiff1d(nearest, moving_labels)), "invented labels")

# %% tags=["remove-input"]
from IPython.display import Markdown

mixed = 100 * (linear != nearest).mean()
Markdown(f"""
At {mixed:.1f} % of the voxels, linear interpolation gives another label than nearest-neighbour
interpolation. This can happen only at borders, because a weighted mean of equal labels is the same
label. No error was raised, which makes this mistake hard to notice.
""")

# %% [markdown]
# `warp.warp_labels` does the same as the layer with `nearest`. It works on a plain integer array
# without TensorFlow, and it refuses label maps that are not integers.

# %%
from vxmlib import warp

same = warp.warp_labels(moving_labels, displacement) == nearest
print(f"{100 * same.mean():.2f} % of the voxels are equal")

# %% [markdown]
# > **Tip: One-hot maps or integers?**
# >
# > Some recipes convert labels to one-hot maps before warping, with one image for each structure.
# > With nearest-neighbour interpolation the result is identical, but it needs many times the
# > memory. Other recipes warp one-hot maps *linearly* and give each voxel the label with the
# > largest value. This makes borders smoother, and Dice is often slightly higher. Both methods are
# > legitimate if the report names them. This book uses integers and nearest-neighbour
# > interpolation.
#
# The figure below compares the outlines of some deep structures.

# %% mystnb={"image": {"alt": "Three copies of the fixed subject's brain slice with coloured outlines: the fixed subject's own structures, the moving subject's structures before registration, which miss the anatomy, and after registration, which follow it."}, "figure": {"caption": "Outlines of some structures on the fixed image: the fixed subject's own, the moving subject's before registration, and the moving subject's after registration.", "name": "fig-dice-outlines"}}
from vxmlib.book import figures

deep = ("Thalamus", "Caudate", "Putamen", "Hippocampus", "Lateral Ventricle")
shown = {label: name for label, name in people.structures.items() if name.endswith(deep)}
maps = [fixed_labels, moving_labels, nearest]
titles = ["fixed", "moving, before", "moving, warped"]
figures.labels_on_image(fixed, maps, titles, shown);

# %% [markdown]
# ## Compute Dice in five lines
#
# The Dice overlap of one structure is twice the common volume divided by the sum of both volumes:
#
# $$\mathrm{Dice}(A, B) = \frac{2\,|A \cap B|}{|A| + |B|}$$
#
# It is 1 for identical sets and 0 for sets without a common voxel. The next cell computes it for
# each structure that both subjects have, and prints the mean.

# %%
def dice(a, b, label):
    in_a, in_b = a == label, b == label
    return 2 * (in_a & in_b).sum() / (in_a.sum() + in_b.sum())


present = [k for k in people.structures if k in moving_labels and k in fixed_labels]
plain = {k: dice(nearest, fixed_labels, k) for k in present}
print(f"mean over {len(plain)} structures: {np.mean(list(plain.values())):.4f}")

# %% [markdown]
# The formula is simple, but the choices around it change the result.
#
# | Choice | This book | Elsewhere |
# |---|---|---|
# | background | left out | counted as a class, with a Dice of almost 1 |
# | structure absent in both maps | left out of the mean (`absent="skip"`) | 0 in voxelmorph, 1 in some recipes, NaN in MONAI |
# | mean | over the structures of a pair, then over pairs | over all pairs and structures at once |
# | spread | standard deviation (SD) over pairs, and SD over pairs and structures | often a "±" without a name |
#
# `metrics.dice` is the function above for all structures in one pass. It makes the rule for absent
# structures an argument and checks that both maps have the same grid. The next cell checks that both
# functions give the same values, and prints four of them.

# %%
from vxmlib import metrics

scores = metrics.dice(nearest, fixed_labels, people.structures)
print(scores == plain)
for label in list(scores)[:4]:
    print(f"{people.structures[label]:28} {scores[label]:.3f}")

# %% [markdown]
# ## Score the identity first, then the network
#
# A Dice is hard to interpret without the value before registration. The next cell therefore scores
# the identity and the network on the same pairs. `evaluate_pairs` returns one row for each pair
# and structure.

# %%
before = metrics.evaluate_pairs(people, pairs, "identity")
after = metrics.evaluate_pairs(people, pairs, run.register)
after[["moving", "fixed", "structure", "dice"]].head(3)

# %% [markdown]
# `metrics.summary` averages such a table over structures and then over pairs.

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
{new["dice_mean"]:.3f}. Both means are over the same {len(gains)} pairs.
""")

# %% tags=["remove-input"]
Markdown(f"""
The two standard deviations answer different questions. The SD over *pairs* is
{new["dice_sd_pairs"]:.3f} and shows how much the means of the pairs differ. The SD of all single
values, over pairs and *structures*, is {new["dice_sd_pooled"]:.3f}. It also contains the differences
between structures, and small and thin structures overlap less than large, round ones. The "±" in
the tables of the journal paper is the second kind
([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). Do not compare it with the
first kind, because your method would then seem to vary much less than the paper's.
""")

# %% [markdown]
# ## Compare with the Dice of the true displacement
#
# A Dice of 1 is often out of reach, even for a perfect registration. For simulated subjects the Dice
# of a perfect registration can be measured, because the true displacement of every pair is known.
# The next cell scores it with the same function and prints the three structures with the lowest
# Dice.

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
limit = "The subjects of this build are real, so nobody knows their true displacement."
if ceiling:
    share = 100 * (new["dice_mean"] - old["dice_mean"]) / (ceiling - old["dice_mean"])
    limit = f"The network reaches {share:.0f} % of the gain that the true displacement reaches."
Markdown(f"""
Even the true displacement does not score 1. Both label maps hold the label of the nearest voxel, so
a border can be wrong by up to half a voxel, and thin structures consist mostly of border.

{limit} Compare a Dice with this practical limit before you attribute the difference from 1 to the
method. The limit is not strict, because a displacement that only aligns labels can score higher.
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
# Real subjects have such a limit, too, but it is unknown. It exists because one subject has a sulcus
# that another lacks, and because two raters do not draw the same border.

# %% [markdown]
# ## Look at each structure
#
# A mean hides which structures gain and which lose. The figure shows every structure.

# %% mystnb={"image": {"alt": "Horizontal box plots of Dice for each brain structure, hatched grey boxes for the identity and blue boxes for VoxelMorph; the blue box lies right of the grey one for most structures."}, "figure": {"caption": "Dice of each structure over the test pairs, for the identity and for VoxelMorph. Each box spans the quartiles, and the line in it is the median.", "name": "fig-dice-boxes"}}
figures.boxes_by_structure(before, after);

# %% [markdown]
# The table lists the structures with the three largest and the three smallest gains. Compare the
# gain with the Dice of the identity, because a structure that overlaps well before registration can
# gain less.

# %%
by_structure = [t.groupby("structure")["dice"].mean() for t in (before, after)]
gain = (by_structure[1] - by_structure[0]).sort_values(ascending=False)
ends = [*gain.index[:3], *gain.index[-3:]]
pd.DataFrame({"identity": by_structure[0], "gain": gain}).loc[ends].round(3)

# %% [markdown]
# ## Look at each pair
#
# The figure compares each pair before and after registration.

# %% mystnb={"image": {"alt": "Scatter plot of mean Dice after registration against mean Dice before, one point for each pair, with a dashed diagonal; the points lie above the diagonal."}, "figure": {"caption": "Mean Dice of each test pair before and after registration. A point above the diagonal is a pair that gained.", "name": "fig-dice-pairs"}}
figures.dice_by_pair(before, after);

# %% tags=["remove-input"]
Markdown(f"""
Dice rose for {(gains > 0).sum()} of {len(gains)} pairs. The pairs share subjects, so they are not
independent, and a t-test over pairs would overstate the certainty. A valid test resamples
*subjects* ([Choose λ](06_choose.ipynb) does so).
""")

# %% [markdown]
# > **Warning: What Dice cannot show**
# >
# > A displacement can fold the image and still align the labels, so a high overlap alone can
# > mislead ([Rohlfing 2012](https://doi.org/10.1109/TMI.2011.2163944)). The
# > [next lesson](05_jacobian.ipynb) examines the displacement itself.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Add a label that is absent in both maps, and compute the mean Dice under each of
# the rules "skip", "zero" and "one".

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for rule in ("skip", "zero", "one"):
    values = metrics.dice(nearest, fixed_labels, [*present, 9999], absent=rule)
    print(f"{rule:5} {np.mean(list(values.values())):.3f}")

# %% [markdown]
# **Exercise 2.** Is VoxelMorph symmetric? Compare the Dice of a pair with that of the same pair in
# the other direction.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
both_ways = metrics.evaluate_pairs(people, [(first, second), (second, first)], run.register)
both_ways.groupby(["moving", "fixed"])["dice"].mean().round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Not exactly. The two directions are two different registrations, and the network need not score
# the same in both.
#
# </details>
#
# **Exercise 3.** Find the smallest structure of the fixed subject. What is its Dice?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
sizes = {k: int((fixed_labels == k).sum()) for k in present}
smallest = min(sizes, key=sizes.get)
print(people.structures[smallest], sizes[smallest], "voxels, Dice", round(scores[smallest], 3))

# %% [markdown]
# ## Summary
#
# - Warp integer labels with nearest-neighbour interpolation, because linear interpolation invents
#   labels.
# - Report the identity on the same pairs first.
# - Name the structures, the rule for absent structures, and the kind of spread.
# - A perfect registration does not score 1, so measure its Dice where the true displacement is
#   known.
# - Show structures and pairs, not only the mean.
#
# **Read on:** [Rohlfing 2012](https://doi.org/10.1109/TMI.2011.2163944) shows how overlap can
# mislead.
