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
# # Compare training choices: ablations and repeated passes
#
# | | |
# |---|---|
# | **You will** | compare training runs that differ from a reference in one or two choices |
# | **You will learn** | which choices raised Dice, which of them also caused more folds, and how large the spread over seeds is |
# | **You need** | [Dice](04_dice.ipynb) and [the Jacobian](05_jacobian.ipynb) |
# | **In → out** | records of training runs on slices, and of repeated passes in 3D → tables and figures |
# | **Not here** | the comparison with SyN, which is [Register real brains in 3D](08_real.ipynb) |
# | **Time** | 15 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters select the data of the mirroring example on this page. They do not change the
# tables, which always show results for the real subjects of the data set `malf`, described in
# [Register real brains in 3D](08_real.ipynb). The second cell checks the parameters and opens the
# committed records.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.experiments.results import Comparison, results_folder
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
folder = results_folder()
results = Comparison(folder / "malf", folder.parent / "config" / "real.yaml")

# %% [markdown]
# ## Read the result first
#
# A training run in 3D takes an hour or more, so it would take too long to test every choice with
# several seeds. The choices were therefore compared on coronal slices of the same subjects,
# where a run takes only minutes. The reference run trains the base network, which is the smaller
# strided U-Net of the [2018 paper](https://doi.org/10.1109/CVPR.2018.00964), with NCC, λ = 1 and
# the full augmentation. The figure shows Dice and folding of every run.

# %% mystnb={"image": {"alt": "Two panels for Dice and folding of the validation subjects, with one row for each run on slices. Each dot is a mean with a bar for the SD over seeds. A dashed line marks the reference. The two largest networks at λ = 1 have the highest Dice and the most folding."}, "figure": {"caption": "Dice and folding of the validation subjects for all runs on slices: mean and SD over seeds. The dashed line marks the reference.", "name": "fig-ablations-runs"}}
from vxmlib.book import figures

tried = results.ablation()
seen = tried.rename(index=results.titles)
reference = results.title("all")
spreads = {"dice": "dice_sd", "folding_percent_brain": "folding_sd"}
figures.dots_of_runs(seen, spreads, ["Dice", "folding, % of brain"], reference=reference);

# %% [markdown]
# Dice and folding were measured on the five validation subjects after the last training step. The
# test subjects were not used.

# %% tags=["remove-cell"]
from IPython.display import Markdown

usual, bare = tried.loc["all"], tried.loc["none"]
both = tried.loc["all, λ of 2, the wide network"]
dice, folds, steps = tried["dice"], tried["folding_percent_brain"], tried["steps"].astype(int)
gain, top = dice - bare["dice"], dice.idxmax()

# %% tags=["remove-input"]
Markdown(f"""
Each choice was trained with {int(usual["seeds"])} seeds. All runs have {steps["all"]} steps,
except for the run "twice the steps", which has {steps["all, twice the steps"]}. Each step uses
four pairs drawn from fifteen training subjects.
""")

# %% tags=["remove-input"]
Markdown(f"""
**Most choices that raise Dice also increase folding.** Over all runs, the correlation between Dice
and folding is r = {folds.corr(dice):.2f}. The run "{results.title(top)}" has the highest Dice,
{dice[top]:.3f}, and leaves {folds[top]:.2f} % of the brain folded.
""")

# %% tags=["remove-input"]
Markdown(f"""
**One combination clearly improves both measures.** The wide network with λ = 2 has a Dice of
{both["dice"]:.3f} with {both["folding_percent_brain"]:.2f} % of the brain folded. The reference
has a Dice of {usual["dice"]:.3f} with {usual["folding_percent_brain"]:.2f} % folded.

Both runs use augmentation. The base network trained without augmentation has a Dice of only
{bare["dice"]:.3f}.
""")

# %% [markdown]
# ## Compare the parts of the augmentation
#
# Augmentation changes each training image at random and needs no labels. It has three parts: it
# mirrors the head in half of the draws, tilts and shifts the head by a small random affine map,
# and bends the head by a smooth random diffeomorphism.
#
# The next table compares runs that differ only in how training pairs are made. Two runs reverse
# the image array instead of mirroring the head. [The next
# section](#mirror-the-head-instead-of-reversing-the-array) explains the difference.

# %%
kinds = ["none", "affine", "bend", "flip", "flip, the array reversed"]
kinds += ["all", "all, the array reversed", "all, strong", "all, both ways"]
words = {"dice": "Dice", "dice_sd": "SD over seeds", "folding_percent_brain": "folded, %"}
words["loss"] = "training loss"
tried.loc[kinds, list(words)].rename(index=results.titles, columns=words).round(3)

# %% tags=["remove-input"]
largest = gain[["flip", "affine", "bend"]].idxmax()
Markdown(f"""
Compared with no augmentation, all three parts together raise Dice by {gain["all"]:.3f}. Each part
alone raises Dice by less than all three. Among the runs with one part, "{results.title(largest)}"
has the largest gain, {gain[largest]:.3f}.
""")

# %% tags=["remove-input"]
Markdown(f"""
In this table, the SD over seeds is up to {tried.loc[kinds, "dice_sd"].max():.3f}, so a difference
of this size may be noise.
""")

# %% [markdown]
# In the run with stronger augmentation, the affine map and the bend are two to four times as large
# as in the reference. Augmented images may then differ more than real ones, so the network may
# learn unnecessarily large deformations.

# %% tags=["remove-input"]
Markdown(f"""
Stronger augmentation does not help: it lowers Dice by {-gain["all, strong"]:.3f} compared with no
augmentation.

Another run trains both directions of each pair in one batch, so a batch contains fewer different
pairs. The Dice of this run differs from that of the reference by
{gain["all, both ways"] - gain["all"]:+.3f}, which is within the spread over seeds.
""")

# %% [markdown]
# The training loss does not show which run is best, because the loss also depends on how easily
# the augmented images can be registered. In this table, the run with the lowest loss does not have
# the highest Dice.

# %% [markdown]
# ## Mirror the head instead of reversing the array
#
# Augmentation code often exchanges left and right by `image[::-1]`. This operation reflects the
# array about the middle plane of the *grid*. A head, however, is approximately symmetric about its
# *midplane*, which is x = 0 in millimetre coordinates. If these two planes differ, reversing the
# array also shifts the head sideways. The next cell computes the distance between the two planes
# for this page's grid.

# %%
import numpy as np

from vxmlib.experiments import runs

people = runs.load_cohort(settings)
middle = (people.shape[0] - 1) / 2
x_of_middle = people.affine[0, 0] * middle + people.affine[0, 3]
print(f"the middle of the grid lies at x = {x_of_middle:.1f} mm")

# %% [markdown]
# Reversing the array shifts the head by twice this distance. To show the effect, the next cell
# computes the Dice between a subject's label map and two reflected copies. The first copy is
# mirrored about x = 0. The second copy is mirrored about the middle of the grid, like a reversed
# array. The function `axes.mirror_labels` makes both copies and exchanges the labels of left and
# right structures.

# %%
from vxmlib import axes, metrics

labels = people.labels(people.split["train"][0])
centred = people.affine.copy()
centred[0, 3] -= x_of_middle
for name, affine in {"mirrored": people.affine, "reversed": centred}.items():
    copy = axes.mirror_labels(labels, affine, people.structures)
    print(f"{name}: Dice {metrics.mean_dice(copy, labels, people.structures):.3f}")

# %% [markdown]
# No subject is exactly symmetric about the midplane, so even the mirrored copy does not match the
# original perfectly. The reversed copy matches less well than the mirrored copy, because it is
# also shifted.

# %% tags=["remove-input"]
alone = dice["flip, the array reversed"] - dice["flip"]
together = dice["all, the array reversed"] - dice["all"]
Markdown(f"""
On the slices, reversing the array instead of mirroring the head lowers the validation Dice, by
{-alone:.3f} if nothing else is augmented and by {-together:.3f} with the full augmentation.
""")

# %% [markdown]
# > **Warning: The compared 3D networks were trained with reversed arrays**
# >
# > This mistake was noticed only after the training runs of [Register real brains in
# > 3D](08_real.ipynb#augment-fifteen-subjects) had finished. That page shows what two networks gain
# > from mirrored heads on the validation subjects.

# %% [markdown]
# ## Compare learning rates, sizes and lengths
#
# The other runs all use the full augmentation. Each differs from the reference in one choice,
# except for the wide network with λ = 2, which differs in two. A difference in Dice from the
# reference is called "within spread" if it does not exceed the larger of the SDs over seeds of the
# run and the reference.

# %%
others = tried.drop(index=kinds)
change = others["dice"] - tried.loc["all", "dice"]
spread = others["dice_sd"].clip(lower=tried.loc["all", "dice_sd"])
verdicts = np.where(change > spread, "higher", np.where(change < -spread, "lower", "within spread"))

# %% [markdown]
# The next table shows this verdict for each run, with its difference in Dice from the reference
# and its folding.

# %%
shown = others.assign(verdict=verdicts, change=change)
words = {"verdict": "Dice is", "change": "difference", "folding_percent_brain": "folded, %"}
shown[list(words)].rename(index=results.titles, columns=words).round(3)

# %% tags=["remove-input"]
slow, fast, constant = "all, a third of the rate", "all, three times the rate", "all, constant rate"
Markdown(f"""
Compared with the reference, which leaves {folds["all"]:.2f} % of the brain folded:

- A third of the learning rate is too low for this number of steps and lowers Dice by
  {-change[slow]:.3f}.
- Three times the learning rate raises Dice by {change[fast]:.3f} and leaves {folds[fast]:.2f} %
  folded.
- A constant learning rate instead of the cosine schedule changes Dice by {change[constant]:+.3f}.
""")

# %% [markdown]
# At λ = 1, larger networks have a higher Dice than smaller ones, but they leave more folds. The
# small network has half as many filters as the base network in most layers. VoxelMorph-2, the
# second network of the 2018 paper, has more filters than the base network in its last layers.

# %% tags=["remove-input"]
double, longer = "all, twice the filters", "all, twice the steps"
Markdown(f"""
The network with twice the filters of VoxelMorph-2 has the largest gain over the reference,
{change[double]:.3f}, and leaves {folds[double]:.2f} % of the brain folded.

If the reference is trained for twice as many steps, Dice rises by {change[longer]:.3f}, and folding
changes from {folds["all"]:.2f} % to {folds[longer]:.2f} % of the brain. Longer training alone thus
changes the result, so compare networks only after the same number of steps.
""")

# %% [markdown]
# ## Cross size and smoothness
#
# The effects of network size and λ may depend on each other, so two sizes were trained with two
# values of λ each. The wide network has twice as many filters as the base network in most layers,
# and four times as many in its last layer at half resolution. The next cell lists the four runs.

# %%
import pandas as pd

crossed = {
    "base network": {"λ = 1": "all", "λ = 2": "all, λ of 2"},
    "wide network": {"λ = 1": "all, the wide network", "λ = 2": "all, λ of 2, the wide network"},
}
names = pd.DataFrame(crossed).T

# %% [markdown]
# The next table shows Dice and folding of these four runs.

# %%
measures = {"Dice": "dice", "folded, %": "folding_percent_brain"}
table = {head: names.map(tried[m].get) for head, m in measures.items()}
pd.concat(table, axis=1).round(3)

# %% tags=["remove-input"]
at_usual, at_wide = (dice[two] - dice[one] for one, two in names.to_numpy())
Markdown(f"""
Doubling λ removes most folds of both networks. It lowers the Dice of the base network by
{-at_usual:.3f} and that of the wide network by {-at_wide:.3f}.
""")

# %% [markdown]
# At either λ, the wide network has a higher Dice and more folds than the base network. The wide
# network improves both measures over the reference only with λ = 2, so this combination was
# trained in 3D.

# %% [markdown]
# ## Repeat the passes
#
# A trained network can register a pair in several passes. The moving image is warped by the first
# displacement, the same network registers the warped image to the fixed image, and the two
# displacements are composed. The composed displacement is applied to the original moving image, so
# this image is interpolated only once. The composition is explained in [Refine one
# pair](13_instance.ipynb). [Zhao et al. 2019](https://arxiv.org/abs/1907.12353) call such passes
# shared-weight cascading.
#
# The next table shows the results after each pass of the 3D networks, averaged over the validation
# pairs. Dice is the mean over the same 23 structures as in [Register real brains in
# 3D](08_real.ipynb). The column *seconds* gives the time of each single pass, not the total.

# %%
passes = results.passes()
by_pass = pd.concat(passes, names=["network"]).rename(index=results.titles)
words = {"dice": "Dice", "folding_percent_brain": "folded, %", "seconds": "seconds"}
by_pass.rename(columns=words).round(3)

# %% [markdown]
# The figure shows how Dice and folding change with the number of passes.

# %% mystnb={"image": {"alt": "Two panels show Dice and folding against the number of passes, one curve for each of three networks. Dice of the wide network rises at the second pass, hardly changes at the third and falls slightly at the fourth. Dice of the other networks hardly changes at the second pass and then falls. Folding falls for the wide network and leaves zero for the network with an integrated velocity."}, "figure": {"caption": "Dice and folding of the validation subjects when a 3D network makes one to four passes.", "name": "fig-ablations-passes"}}
curves = {results.title(name): table for name, table in passes.items()}
measures = ["dice", "folding_percent_brain"]
figures.steps_of(curves, measures, ["Dice", "folding, % of brain"], xlabel="passes");

# %% tags=["remove-input"]
wide, base = (passes[name]["dice"].diff() for name in ("ncc-wide", "ncc"))
Markdown(f"""
The Dice of the wide network changes by {wide[2]:+.3f} with the second pass and by {wide[3]:+.3f}
with the third. This network was therefore run with two passes on the test subjects. The Dice of
the base network changes by {base[2]:+.3f} with the second pass and by {base[3]:+.3f} with the
third.
""")

# %% [markdown]
# The base and wide networks differ in size and in λ, so these runs cannot show which difference
# makes a second pass more useful.

# %% tags=["remove-input"]
last = passes["ncc-integrated"]["folding_percent_brain"].iloc[-1]
Markdown(f"""
The network with an integrated velocity leaves no folds after one pass, but {last:.3f} % of the
brain is folded after four passes.
""")

# %% [markdown]
# Composition interpolates one displacement between the grid points. The composed displacement may
# therefore fold although neither of its parts does.
#
# More passes do not always raise Dice. A likely reason is that the network was trained to predict
# *one* smooth displacement for a pair after affine alignment, but never for a pair that is already
# registered.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Which runs have both a higher Dice and fewer folds than the reference? Are these
# differences in Dice larger than the spread over seeds?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
better = tried["dice"] > tried.loc["all", "dice"]
better &= tried["folding_percent_brain"] < tried.loc["all", "folding_percent_brain"]
[results.title(name) for name in tried.index[better]]

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only two runs do. The gain in Dice of "both directions in a batch" is within the spread over
# seeds, whereas that of the wide network with λ = 2 is larger.
#
# </details>
#
# **Exercise 2.** The verdicts compare a difference with an SD over three seeds. Why are verdicts
# weaker evidence than the intervals in [Register real brains in 3D](08_real.ipynb)?
#
# <details><summary>Answer</summary>
#
# Three seeds give a poor estimate of the spread, and the SD over seeds says nothing about other
# subjects. The intervals are computed by resampling the test subjects, so they say nothing about
# other seeds. A complete comparison would cover both seeds and subjects.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Repeat each run with several seeds, and do not interpret a difference that is smaller than the
#   spread over seeds.
# - Judge a choice by Dice and folding together, because most choices that raise Dice also increase
#   folding.
# - Choose network size and λ together.
# - Mirror a head about its midplane instead of reversing the array, which also shifts the head.
# - Choose the number of passes on validation subjects.
#
# **Read on:** [Zhao et al. 2019](https://arxiv.org/abs/1907.12353) train all passes of a cascade
# jointly, which is not done in this book.
