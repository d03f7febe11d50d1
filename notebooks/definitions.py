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
# # Compare the definitions of each measure
#
# | | |
# |---|---|
# | **You will** | evaluate one registration by several definitions of each measure |
# | **You will learn** | what to state with each value, and which definitions this book uses |
# | **You need** | [Dice](04_dice.ipynb) and [the Jacobian determinant](05_jacobian.ipynb) |
# | **In → out** | one trained network → a range of values for each measure |
# | **Not here** | which method is better, because this page compares only definitions |
# | **Time** | 20 minutes, or look up one section |

# %% [markdown]
# Two papers that report "Dice" or "SDlogJ" (our SD of log det J) do not necessarily report the same
# quantity. On this page, the images and the registration stay the same, and only the definition
# changes.

# %% tags=["remove-input"]
from IPython.display import Markdown, display

result = display(Markdown("The result appears here when the page has run."), display_id=True)

# %% [markdown]
# ## Set the parameters
#
# This page uses the training run of the Jacobian lesson with λ = 0.01. Because this λ is small, the
# predicted displacements have folds, so the rules for folded voxels can be compared.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 0.01
int_steps = 0

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
run = runs.run(settings)
print(run.title, "-", run.history["step"].iloc[-1], "training steps")

# %% [markdown]
# The next cell registers one test pair and warps its labels with nearest-neighbour interpolation.

# %%
from vxmlib import cohorts, warp

moving, fixed = cohorts.ordered_pairs(people.split["test"], limit=1)[0]
images = people.image(moving), people.image(fixed)
brain = people.brain(fixed)
displacement = run.register(*images)
warped = warp.warp_labels(people.labels(moving), displacement)
target = people.labels(fixed)

# %% [markdown]
# ## NCC
#
# **Definition.** NCC is the squared correlation of the two images in a window around each voxel,
# averaged over all voxels. A value of 1 is a perfect match.
#
# | Choice | voxelmorph | Elsewhere |
# |---|---|---|
# | window | 9 voxels wide | 3 voxels wide (default of MONAI), or the whole image ("global" NCC) |
# | negative correlation | counts as 0 | squared, so it counts like a positive correlation (MONAI) |
# | region | whole image | brain only |
# | sign | negative: a loss from −1 to 0 | positive: a similarity from 0 to 1 |
#
# **Run.** The next cells compute the NCC of the pair *before* registration. The first cell uses
# voxelmorph's loss.

# %%
from vxmlib.backend import tf, vxm

batch = [tf.constant(image[None, ..., None]) for image in images]
loss = vxm.losses.NCC().loss(batch[1], batch[0])
print(f"loss {float(loss):.3f}")

# %% [markdown]
# Our `metrics.local_ncc` computes the same value with a positive sign and can restrict the mean to
# a mask. The next cell varies the window and the region.

# %%
import numpy as np
import pandas as pd

from vxmlib import metrics

ncc = {
    "window 9, whole image": metrics.local_ncc(*images),
    "window 9, brain": metrics.local_ncc(*images, mask=brain),
    "window 3, brain": metrics.local_ncc(*images, window=3, mask=brain),
    "global, brain": np.corrcoef(images[0][brain], images[1][brain])[0, 1] ** 2,
}
pd.Series(ncc, name="NCC").round(3).to_frame()

# %% tags=["remove-input"]
Markdown(f"""
Before registration, NCC is {ncc["window 9, whole image"]:.2f} over the whole image and
{ncc["window 9, brain"]:.2f} in the brain. The first value is higher because a window that is
constant in both images, such as a window in the background, counts as a perfect match.
""")

# %% [markdown]
# The next cell compares an image with its negative. Their correlation is −1, and its square would
# be the best possible NCC. However, voxelmorph counts a negative correlation as 0, so we expect an
# NCC of 0.

# %%
negative = metrics.local_ncc(images[0], 1 - images[0], mask=people.brain(moving))
print(f"an image and its negative: {negative:.3f}")

# %% [markdown]
# **This book** uses voxelmorph's definition for training, and reports the NCC in the brain.
#
# ## Dice
#
# **Definition.** For a structure in two label maps, Dice is twice the volume of the overlap,
# divided by the sum of the two volumes ([Dice 1945](https://doi.org/10.2307/1932409)).
#
# | Choice | This book | Elsewhere |
# |---|---|---|
# | structure absent from both maps | left out | 0 in voxelmorph, NaN in MONAI, 1 in some scripts |
# | warped labels | integers, nearest-neighbour interpolation | one-hot maps, linear interpolation |
# | mean | over structures, then over pairs | over groups of structures, or over voxels |
# | "±" | standard deviation (SD) over pairs, and SD over pairs and structures | one of these two SDs, often without saying which |
#
# **Run: absent structures.** A list of labels often contains structures that are absent from a
# slice or a subject. The next cells therefore add two labels that neither map contains. The first
# cell uses voxelmorph's function.

# %%
present = [k for k in people.structures if (target == k).any()]
asked = [*present, 998, 999]
theirs = vxm.py.utils.dice(warped, target, labels=asked).mean()
print(f"voxelmorph: {theirs:.4f}")

# %% [markdown]
# Our `metrics.dice` can apply each of the four rules in the table. The next cell compares them.

# %%
absent = {}
for rule in ("skip", "nan", "zero", "one"):
    scores = metrics.dice(warped, target, asked, absent=rule)
    absent[rule] = np.nanmean(list(scores.values()))
meaning = ["left out", "NaN, ignored by the mean", "counts as 0", "counts as 1"]
pd.DataFrame({"Dice": absent.values()}, index=meaning).round(4)

# %% tags=["remove-input"]
Markdown(f"""
The mean Dice of the same registration ranges from {min(absent.values()):.3f} to
{max(absent.values()):.3f}, depending on the rule for the two absent labels. The Dice values of the
other {len(present)} structures are unchanged.
""")

# %% [markdown]
# **Run: interpolation.** A one-hot map is 1 inside one structure and 0 elsewhere. The next cell
# warps one such map for each structure with linear interpolation. Each voxel then gets the label
# whose warped map has the largest value.

# %%
kept = np.array([0, *present])
maps = [(people.labels(moving) == k).astype("float32") for k in kept]
smooth = [warp.warp_image(each, displacement) for each in maps]
linear = kept[np.argmax(smooth, axis=0)]
nearest_dice = metrics.mean_dice(warped, target, present)
linear_dice = metrics.mean_dice(linear, target, present)
print(f"Dice: nearest neighbour {nearest_dice:.4f}, one-hot maps {linear_dice:.4f}")

# %% [markdown]
# **Run: mean and spread.** The mean can be taken over structures, or first within groups such as
# the left and right part of a structure, as in TransMorph's evaluation
# ([Chen et al. 2022](https://doi.org/10.1016/j.media.2022.102615)). The SD after
# "±" can be taken over pairs, or over pairs and structures together.

# %%
pairs = cohorts.ordered_pairs(people.split["test"], limit=settings.pairs)
table = metrics.evaluate_pairs(people, pairs, run.register)
summary = metrics.summary(table)
group = table["structure"].str.replace("Left |Right ", "", regex=True)
by_group = table.groupby(["moving", "fixed", group])["dice"].mean()

# %% [markdown]
# The table shows the two means and the two SDs.

# %%
means = {
    "mean over structures": summary["dice_mean"],
    "mean over groups": by_group.groupby(level=[0, 1]).mean().mean(),
    "SD over pairs": summary["dice_sd_pairs"],
    "SD over pairs and structures": summary["dice_sd_pooled"],
}
pd.Series(means, name="Dice").round(4).to_frame()

# %% tags=["remove-input"]
spread = means["SD over pairs and structures"] / means["SD over pairs"]
Markdown(f"""
The SD over pairs and structures is {spread:.0f} times as large as the SD over pairs, because Dice
differs more between structures than between pairs. The tables of the VoxelMorph journal paper
report the SD over pairs and structures
([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)).
""")

# %% [markdown]
# **This book** leaves absent structures out, warps integer labels with nearest-neighbour
# interpolation, averages over structures and then over pairs, and states what each SD is taken
# over.
#
# ## SD of log det J
#
# **Definition.** This measure is the standard deviation of the logarithm of the Jacobian
# determinant over the brain. It is 0 if the volume changes by the same factor everywhere.
#
# | Choice | This book | Elsewhere |
# |---|---|---|
# | folded voxels, whose determinant has no logarithm | left out, and their percentage is reported | determinant raised to a small positive number |
# | added constant | none | Learn2Reg's evaluator adds 3 to every determinant |
# | region | brain | all voxels, or all except a border of two voxels (Learn2Reg) |
#
# **Run.** The next cells apply three rules to one displacement. The last rule follows the evaluator
# of the Learn2Reg challenge ([Hering et al. 2023](https://doi.org/10.1109/TMI.2022.3213983)).

# %%
folds = metrics.folding(displacement, mask=brain)
determinant = metrics.jacobian_determinant(displacement)
inner = (slice(2, -2),) * people.ndim
shifted = np.clip(determinant + 3, 1e-9, 1e9)[inner]
floor = {"nonpositive": "floor", "floor": 1e-9}

# %% [markdown]
# The table shows the result of each rule.

# %%
spreads = {
    "folds left out": metrics.sd_log_jacobian(displacement, brain),
    "folds raised to 1e-9": metrics.sd_log_jacobian(displacement, brain, **floor),
    "log(det + 3), no border": np.log(shifted[brain[inner]]).std(),
}
pd.Series(spreads, name="SD of log det J").round(3).to_frame()

# %% tags=["remove-input"]
Markdown(f"""
The displacement has {folds.count} folded voxels, but the evaluator's rule counts
{int((shifted <= 0).sum())}. Before counting, this rule adds 3 to each determinant and raises any
nonpositive result to a positive number. The count is therefore 0 for every displacement.
""")

# %% [markdown]
# **This book** leaves folded voxels out, reports their percentage, and adds no constant.
#
# ## Surface distance (HD95)
#
# **Definition.** For each surface voxel of a structure in one map, take the distance to the nearest
# surface voxel of the structure in the other map, in both directions. HD95 is a 95th percentile of
# these distances.
#
# | Choice | This book | Elsewhere |
# |---|---|---|
# | unit | mm | voxels (Learn2Reg's evaluator) |
# | two directions | larger of the two percentiles (as in MONAI) | one percentile of all distances together (MedPy) |
# | empty structure | NaN | an error (MedPy) |
#
# **Run.** The function below computes the distances in one direction.

# %%
from scipy.ndimage import binary_erosion, distance_transform_edt


def distances(a, b, spacing):
    edge_a, edge_b = a & ~binary_erosion(a), b & ~binary_erosion(b)
    return distance_transform_edt(~edge_b, sampling=spacing)[edge_a]


# %% [markdown]
# The loop computes the HD95 of each structure in three ways. To show the effect of the unit, the
# third way passes a wrong voxel size, 2 mm, to our `metrics.surface_distance`.

# %%
rows = []
for label in [k for k in present if (warped == k).any()]:
    a, b = warped == label, target == label
    there, back = distances(a, b, people.spacing), distances(b, a, people.spacing)
    larger = max(np.percentile(there, 95), np.percentile(back, 95))
    pooled = np.percentile([*there, *back], 95)
    rows.append([larger, pooled, metrics.surface_distance(a, b, spacing=2.0)])

# %% [markdown]
# The table shows the mean HD95 over structures.

# %%
kinds = ["larger of two, mm", "both together, mm", "larger of two, mm, if voxels were 2 mm wide"]
surface = pd.Series(np.mean(rows, axis=0), index=kinds, name="HD95")
surface.round(2).to_frame()

# %% tags=["remove-input"]
Markdown(f"""
The two ways of combining the directions differ by {surface.iloc[0] - surface.iloc[1]:.2f} mm in
HD95. In the third row, the voxels of the same maps are taken to be 2 mm wide, so the distance in
millimetres doubles. A distance in voxels would not change, so it cannot be compared between grids
of different voxel sizes.
""")

# %% [markdown]
# **This book** reports HD95 in millimetres, as the larger of the two percentiles.
#
# ## Folding
#
# **Definition.** A voxel is folded if its Jacobian determinant is zero or negative. Folding is the
# number or the percentage of these voxels.
#
# | Choice | This book | Elsewhere |
# |---|---|---|
# | denominator | count, % of all voxels and % of the brain | one of these three, often without saying which |
# | differences | central, as in voxelmorph | one-sided, or all combinations of one-sided differences |
# | rule | det ≤ 0 | det < 0, which differs only where det = 0 |
#
# **Run: denominators.** The next cell counts the folded voxels in each of three regions and divides
# each count by the number of voxels in the region.

# %%
regions = {"all voxels": brain >= 0, "brain": brain, "labelled voxels": target > 0}
shares = {k: metrics.folding(displacement, mask=m).percent_in_mask for k, m in regions.items()}
pd.Series(shares, name="folded, %").round(3).to_frame()

# %% [markdown]
# **Run: differences.** The determinant requires derivatives, which are computed as differences
# between voxels. Central differences use the two neighbours of a voxel, but not the voxel itself.
# One-sided differences use the voxel and its next neighbour.

# %%
def one_sided_determinant(field):
    axes, cut = range(field.shape[-1]), tuple(slice(n - 1) for n in field.shape[:-1])
    gradient = [[np.diff(field[..., c], axis=a)[cut] for a in axes] for c in axes]
    jacobian = np.moveaxis(np.array(gradient), (0, 1), (-2, -1)) + np.eye(len(axes))
    return np.linalg.det(jacobian)


one_sided = int((one_sided_determinant(displacement) <= 0).sum())
print("central:", folds.count, "folded voxels; one-sided:", one_sided)

# %% tags=["remove-input"]
Markdown(f"""
One-sided differences find {one_sided} folded voxels, and central differences find {folds.count}.
Central differences can miss folds where the displacement alternates from voxel to voxel.
""")

# %% [markdown]
# For this reason, [Liu et al. 2024](https://doi.org/10.1007/s11263-024-02047-1) combine all
# one-sided differences in their definition of a digital diffeomorphism. We also use this definition
# in [the Jacobian lesson](05_jacobian.ipynb).
#
# **This book** uses central differences and det ≤ 0, and reports the count, % of all voxels
# and % of the brain.

# %% tags=["remove-cell"]
ranges = {
    "NCC before registration": (ncc.values(), "window, region", ".2f"),
    "Dice": ([*absent.values(), linear_dice], "absent structures, interpolation", ".3f"),
    "SD of Dice": (list(means.values())[2:], "pairs, or pairs and structures", ".3f"),
    "SD of log det J": (spreads.values(), "rule for folds", ".2f"),
    "HD95, mm": (surface.iloc[:2], "combination of directions", ".2f"),
    "Folded, %": (shares.values(), "denominator", ".2f"),
}

# %% tags=["remove-cell"]
lines = [f"| {k} | {min(v):{d}} to {max(v):{d}} | {why} |" for k, (v, why, d) in ranges.items()]
result.update(Markdown(f"""
**Result.** One model (`VxmDense`, {run.title}, {settings.steps} steps) was trained and applied to
test pairs. Each range is due only to the change of definition.

| Measure | Range | What changes |
|---|---|---|
""" + "\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Does it matter whether Dice is averaged over structures first or over pairs first?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
other_order = table.groupby("structure")["dice"].mean().mean()
print(f"structures first {means['mean over structures']:.5f}, pairs first {other_order:.5f}")

# %% [markdown]
# The two means agree if every pair has every structure. If some pairs lack a structure, the means
# can differ, so state the order of averaging.
#
# **Exercise 2.** Which of the choices on this page can change the ranking of two methods?

# %% [markdown]
# <details><summary>Answer</summary>
#
# A choice can change the ranking if its effect differs between methods. For Dice, such choices are
# the rule for structures that a warp removes, and the interpolation of labels. For folding and SD
# of log det J, they are the rule for folds, the kind of differences, and the region. The unit of a
# distance cannot change the ranking if the voxels are cubes, because all distances are then
# multiplied by the same factor.
#
# </details>

# %% [markdown]
# ## Summary
#
# - NCC: state the window and the region, and report the value in the brain.
# - Dice: state the rule for absent structures, the interpolation, and the SD that follows "±".
# - SD of log det J: state how folded voxels are treated, and add no constant.
# - HD95: report it in millimetres, and state how the two directions are combined.
# - Folding: give the count and the denominator.
#
# **Read on:** [Rohlfing 2012](https://doi.org/10.1109/TMI.2011.2163944) shows that overlap measures
# can be misleading, whichever definition is used.
