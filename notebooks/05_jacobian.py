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
# # Check the displacement with the Jacobian determinant
#
# | | |
# |---|---|
# | **You will** | compute the Jacobian determinant of predicted displacements, find folds that central differences miss, and map the folds |
# | **You will learn** | what the determinant means, how to count folds so that studies can be compared, and how λ affects the displacement |
# | **You need** | [Dice](04_dice.ipynb) |
# | **In → out** | a trained model → folding by two criteria, maps of the determinant, and deformed grids |
# | **Not here** | [diffeomorphic models](11_diffeomorphic.ipynb), which integrate a velocity to avoid folds |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters select the trained network whose displacements this page examines.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0

# %%
from vxmlib import cohorts
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
run = runs.run(settings)
pairs = cohorts.ordered_pairs(people.split["test"], limit=settings.pairs, seed=settings.seed)
print(f"{run.title}: {len(pairs)} test pairs")

# %% [markdown]
# ## Understand the determinant
#
# The displacement $u$ sends each point $x$ of the fixed grid to $\varphi(x) = x + u(x)$ in the
# moving image. The Jacobian matrix $J = I + \nabla u$ describes what happens to a tiny cube around
# $x$. The [determinant](../book/glossary.md#jacobian-determinant) of $J$ is the factor by which the
# volume of the cube changes (in 2D, the area of a square).
#
# | det J | Meaning |
# |---|---|
# | 1 | the volume does not change |
# | above 1 | the cube covers a larger part of the moving image, so moving tissue shrinks |
# | between 0 and 1 | the cube covers a smaller part, so moving tissue grows |
# | 0 or below | the cube is flattened or turned inside out: the displacement **folds** |
#
# A small positive determinant is not a fold. $\det J = 0.2$ means a strong but possible change,
# whereas tissue cannot have a volume of 0 or below.

# %% [markdown]
# ## Compute it with `np.gradient`
#
# The next cell predicts the displacement of one test pair. `models.register` returns it at full
# resolution and in voxels, as the determinant requires. voxelmorph's own `network.register` adds a
# batch axis, which `[0]` removes.

# %%
from vxmlib import models

first, second = pairs[0]
displacement = models.register(run.model, people.image(first), people.image(second))
print(displacement.shape)

# %% [markdown]
# NumPy's `gradient` approximates the derivative of each component of $u$ along each axis. Adding
# the identity matrix to these derivatives gives the Jacobian matrix of $x + u(x)$ at every voxel.

# %%
import numpy as np


def plain_determinant(displacement):
    nd = displacement.shape[-1]
    gradients = [np.gradient(displacement[..., i]) for i in range(nd)]
    # The last two axes: component (rows), axis of the derivative (columns).
    jacobian = np.moveaxis(np.array(gradients), (0, 1), (-2, -1)) + np.eye(nd)
    return np.linalg.det(jacobian)

# %% [markdown]
# voxelmorph provides this computation in `vxm.py.utils.jacobian_determinant`. This book uses
# `metrics.jacobian_determinant`, which checks its input and needs less memory in 3D. The next cell
# checks that all three functions agree up to rounding.

# %%
from vxmlib import metrics
from vxmlib.backend import vxm

plain = plain_determinant(displacement)
for function in (vxm.py.utils.jacobian_determinant, metrics.jacobian_determinant):
    print(f"largest difference {np.abs(function(displacement) - plain).max():.0e}")

# %% [markdown]
# ## Test it on affine maps
#
# For an affine map $\varphi(x) = Ax$, $\det J = \det A$ at every point, so the exact determinant is
# known. The next cell defines a grid and three matrices, which stretch, rotate or mirror it.

# %%
nd = people.ndim
grid = np.stack(np.meshgrid(*[np.arange(20.0)] * nd, indexing="ij"), axis=-1)
turn = np.eye(nd)
turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
stretch, mirror = np.diag([1.2, 0.9, 1.0][:nd]), np.diag([-1.0, 1.0, 1.0][:nd])

# %% [markdown]
# The next cell prints the smallest and the largest computed determinant of each map next to the
# exact value.

# %%
for name, matrix in {"stretch": stretch, "rotate": turn, "mirror": mirror}.items():
    det = metrics.jacobian_determinant(grid @ matrix.T - grid)
    exact = np.linalg.det(matrix)
    print(f"{name:8} {det.min():+.4f} to {det.max():+.4f}, exact {exact:+.4f}")

# %% [markdown]
# The determinants are exact for these maps, and that of the reflection is negative, as expected.
# However, the derivatives of an affine map are the same at every voxel. The test therefore cannot
# show how the function behaves where the derivatives change from voxel to voxel.

# %% [markdown]
# ## Find what central differences miss
#
# `np.gradient` uses central differences: along each axis, it compares the two neighbours of a voxel
# and ignores the voxel itself. The displacement in the next cell exploits this: every voxel moves
# by `0.6` voxels along the first axis, in a direction that alternates like the colours of a
# checkerboard.

# %%
signs = (-1.0) ** np.indices((12,) * nd).sum(axis=0)
checkerboard = np.zeros((*signs.shape, nd))
checkerboard[..., 0] = 0.6 * signs

# %% [markdown]
# Before the displacement, two neighbours that move towards each other are 1 voxel apart.
# Afterwards, their signed distance is $1 - 2 \cdot 0.6 = -0.2$, so their order is reversed. The
# grid lines in the figure therefore cross.

# %% mystnb={"image": {"alt": "A small deformed grid in which neighbouring grid points are shifted alternately left and right, so that the vertical lines zigzag across each other."}, "figure": {"caption": "The checkerboard displacement applied to a grid. The zigzag lines cross, so the displacement folds everywhere.", "name": "fig-jacobian-checkerboard"}}
from vxmlib.book import figures

figures.deformed_grids([checkerboard], ["checkerboard"], every=1);

# %% [markdown]
# The central difference is zero at every inner voxel, because the two neighbours of a voxel move by
# the same amount. A one-sided difference, between a voxel and the next one, detects the fold. Here,
# the determinant is 1 plus the difference along the first axis, because only the first component of
# the displacement is not zero. The mask `inside` excludes the border, where `np.gradient` uses
# one-sided differences.

# %%
inside = np.pad(np.ones([n - 2 for n in signs.shape], bool), 1)
central = metrics.jacobian_determinant(checkerboard)[inside]
one_sided = 1 + np.diff(checkerboard[..., 0], axis=0)
print(f"det J by central differences   {central.min():+.1f} to {central.max():+.1f}")
print(f"det J by one-sided differences {one_sided.min():+.1f} to {one_sided.max():+.1f}")

# %% [markdown]
# [Liu et al. 2024](https://doi.org/10.1007/s11263-024-02047-1) propose a criterion that does not
# miss such folds. A voxel and its neighbours form triangles in 2D and tetrahedra in 3D. The voxel
# counts as folded if the displacement flattens or inverts one of these shapes. A displacement
# without folded voxels is called *digitally diffeomorphic*.
#
# In 2D, there are four triangles, which join the voxel to its next or previous neighbour along each
# axis. For each, the determinant of the one-sided differences is twice the signed area after
# displacement and must be positive. In 3D there are ten determinants: eight for tetrahedra formed
# in the same way, and two for tetrahedra with diagonal neighbours.
#
# `metrics.digital_folding` counts the voxels where at least one of these determinants is 0 or
# below. `metrics.folding` counts the voxels with $\det J \le 0$ by central differences. Both
# functions return the number of folded voxels, and their percentage of the grid and of a mask.

# %%
for count in (metrics.folding, metrics.digital_folding):
    print(f"{count.__name__:16} {count(checkerboard, inside).percent_in_mask:5.1f} % of the inner voxels")

# %% [markdown]
# Only the digital count detects the folds of the checkerboard. In general, the determinant by
# central differences is the mean of determinants by one-sided differences, so it is positive
# wherever all of these are positive. The digital count is therefore never smaller than the count by
# central differences. Most published percentages use central differences, so this book uses them to
# compare methods, and adds the digital count on this page.

# %% [markdown]
# ## Count the folds of the test pairs
#
# `evaluate_pairs` measures Dice and folding, the latter by central differences. The argument
# `measures` adds the percentage of the fixed brain that is folded by the digital criterion.

# %%
added = ["digital_folding_percent_brain"]
table = metrics.evaluate_pairs(people, pairs, run.register, measures=added)
summary = metrics.summary(table)

# %% [markdown]
# A percentage of folded voxels can refer to the grid or to the brain, which consists of the voxels
# where the fixed image is above 0. To compare both percentages, the next cell selects the pair with
# the largest folded percentage of the brain and counts its folds by both criteria.

# %%
import pandas as pd

by_pair = table.groupby(["moving", "fixed"], sort=False)["folding_percent_brain"].first()
first, second = by_pair.idxmax()
moving, fixed, brain = people.image(first), people.image(second), people.brain(second)
displacement = models.register(run.model, moving, fixed)
rows = [count(displacement, brain) for count in (metrics.folding, metrics.digital_folding)]

# %% [markdown]
# The table gives the number of folded voxels, and their percentage of the grid and of the brain.

# %%
columns = ["voxels", "% of the grid", "% of the brain"]
pd.DataFrame(rows, index=["det J ≤ 0", "digital"]).set_axis(columns, axis=1).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

Markdown(f"""
The brain covers {100 * brain.mean():.0f} % of this grid. Folds in the background are counted only
in the first two columns. More background around the brain would lower only the percentage of the
grid. The journal paper divides by the number of brain voxels ([Balakrishnan et al.
2019](https://doi.org/10.1109/TMI.2019.2897538)), and this book does the same.
""")

# %% [markdown]
# This pair is the worst case, so the means over all test pairs describe the network better.

# %% tags=["remove-input"]
without = (table.groupby(["moving", "fixed"])["folds"].first() == 0).sum()
Markdown(f"""
On average over the test pairs, the displacements of this network (VxmDense, λ = {settings.lam:g})
fold {summary["folding_percent_brain"]:.3f} % of the brain by central differences and
{summary["digital_folding_percent_brain"]:.3f} % by the digital criterion. In {without} of
{len(pairs)} test pairs, no voxel of the grid has det J ≤ 0.
""")

# %% tags=["remove-input"]
Markdown(f"""
The standard deviation (SD) of log det J in the brain measures how unevenly a displacement changes
volume. Averaged over the test pairs, this SD is {summary["sd_log_jacobian"]:.3f}. The SD can
distinguish models even if none of them produces folds. Folded voxels, for which the logarithm is
not defined, are excluded and reported separately.
""")

# %% [markdown]
# ## Map the determinant
#
# The next cell trains a second network with λ = 0.01, which gives smoothness a much smaller weight,
# and registers the same pair. Other settings stay the same.

# %% tags=["hide-output"]
from dataclasses import replace

loose_run = runs.run(replace(settings, lam=0.01))
loose = models.register(loose_run.model, moving, fixed)

# %% [markdown]
# The maps show log det J, because halving and doubling are then equally far from 0. The logarithm
# is not defined for folded voxels, so these have a separate colour.

# %% mystnb={"image": {"alt": "Two brain-shaped maps of the log Jacobian determinant, orange where moving tissue shrinks and purple where it grows. The left map, at the lesson's λ, varies smoothly and has few magenta voxels; the right map, at the small λ, changes over short distances and has more magenta voxels."}, "figure": {"caption": "log det J in the brain for the same pair and two values of λ. Folded voxels (det J ≤ 0) are magenta.", "name": "fig-jacobian-maps"}}
fields = [displacement, loose]
titles = [f"λ = {settings.lam:g}", "λ = 0.01"]
determinants = [metrics.jacobian_determinant(field) for field in fields]
figures.determinant_maps(determinants, [brain, brain], titles);

# %% [markdown]
# The histogram shows det J of the same two displacements, without the logarithm, so folded voxels
# appear to the left of 0.

# %% mystnb={"image": {"alt": "Histogram lines of the Jacobian determinant for two values of λ. The line for the small λ is far broader than the other line and has a longer tail to the left of zero, in the part marked as folded."}, "figure": {"caption": "Jacobian determinants in the brain for the same pair. The vertical axis is logarithmic, so that rare values are visible. The first and the last bin include all values beyond the plotted range.", "name": "fig-jacobian-histogram"}}
figures.determinant_histogram(determinants, [brain, brain], titles);

# %% [markdown]
# Deformed grids compare the two displacements without derivatives.

# %% mystnb={"image": {"alt": "Two deformed grids of the same pair. At the lesson's λ most lines bend smoothly; at the small λ the lines are jagged and cross each other in many places."}, "figure": {"caption": "Deformed grids of the same pair for two values of λ. Crossing lines are folds.", "name": "fig-jacobian-grids"}}
figures.deformed_grids(fields, titles, every=4);

# %% [markdown]
# ## Compare overlap and folding
#
# More folding is sometimes accepted in exchange for a higher Dice. The next cells therefore compare
# Dice and folding of the two networks on the test pairs.

# %%
loose_table = metrics.evaluate_pairs(people, pairs, loose_run.register, measures=added)
loose_summary = metrics.summary(loose_table)

# %% [markdown]
# The columns "det J ≤ 0" and "digital" give percentages of the brain.

# %%
columns = {
    "dice_mean": "Dice",
    "folding_percent_brain": "det J ≤ 0, %",
    "digital_folding_percent_brain": "digital, %",
    "sd_log_jacobian": "SD of log det J",
}
rows = [summary, loose_summary]
pd.DataFrame(rows, index=titles)[list(columns)].rename(columns=columns).round(3)

# %% tags=["remove-input"]
change = loose_summary["dice_mean"] - summary["dice_mean"]
side = "higher" if change > 0 else "lower"
Markdown(f"""
At λ = 0.01, the displacements fold {loose_summary["folding_percent_brain"]:.2f} % of the brain on
average. The mean Dice is {abs(change):.3f} {side} than at λ = {settings.lam:g}. Both networks
(VxmDense) were trained on {len(people.split["train"])}
{"simulated " if people.simulated else ""}subjects for {settings.steps:,} steps. Dice alone does not
show the folding, so overlap and displacement should always be judged together.
""")

# %% [markdown]
# Each λ was trained only once, so a small difference in Dice can be due to chance. The lesson
# [Choose λ](06_choose.ipynb) repeats the comparison with several seeds.

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

recording.write_record(
    "05_jacobian",
    run,
    people,
    pairs=len(pairs),
    dice=summary["dice_mean"],
    folds=summary["folds"],
    folding_percent=summary["folding_percent"],
    folding_percent_brain=summary["folding_percent_brain"],
    digital_folding_percent_brain=summary["digital_folding_percent_brain"],
    sd_log_jacobian=summary["sd_log_jacobian"],
    loose_lam=loose_run.settings.lam,
    loose_dice=loose_summary["dice_mean"],
    loose_folding_percent_brain=loose_summary["folding_percent_brain"],
    loose_digital_folding_percent_brain=loose_summary["digital_folding_percent_brain"],
)

# %% tags=["remove-cell"]
import matplotlib.pyplot as plt

front = figures.two_answers(moving, fixed, fields, brain, titles)
front.savefig(runs.output_folder() / "05_jacobian" / "front.png", dpi=110)
plt.close(front)  # the front page shows it

# %% [markdown]
# ## Check with the inverse
#
# A displacement without folds can be inverted, so inversion tests for folds without derivatives.
# The next cell inverts the two displacements numerically, moves each point by the inverse and then
# by the displacement, and measures how far it ends from its original position.

# %%
from vxmlib import warp

for title, field in zip(titles, fields, strict=True):
    miss = warp.inversion_error(field, warp.inverse(field))[brain]
    print(f"{title:9} {100 * (miss > 0.5).mean():.2f} % of the brain: error above half a voxel")

# %% [markdown]
# `warp.inverse` finds the inverse by a fixed-point iteration, which repeats one update until the
# result hardly changes. The iteration can also fail where the displacement changes steeply without
# folding. This check is therefore stricter than the determinant and can report larger percentages
# than those of folded voxels.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Double the displacement. Does the determinant double? Can the doubled displacement
# fold where the original does not?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for factor in (1, 2):
    det = metrics.jacobian_determinant(factor * displacement)[brain]
    print(f"{factor} x: {det.min():.2f} to {det.max():.2f}, {(det <= 0).sum()} voxels folded")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The determinant does not double. It stays 1 where the displacement is constant, and elsewhere it
# is a polynomial in the derivatives of the displacement. The doubled displacement can fold where
# the original does not.
#
# </details>
#
# **Exercise 2.** For this pair, are the folds at λ = 0.01 inside or outside the brain?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
folded = determinants[1] <= 0
print(f"{folded.sum()} folded voxels, {(folded & brain).sum()} of them in the brain")

# %% [markdown]
# **Exercise 3.** In what percentage of the brain is det J below one half or above two?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for title, det in zip(titles, determinants, strict=True):
    strong = (det[brain] < 0.5) | (det[brain] > 2)
    print(f"{title:9} {100 * strong.mean():.1f} % of the brain")

# %% [markdown]
# **Exercise 4.** The height of the checkerboard is the distance, in voxels, by which each voxel
# moves. At which of the heights `0.4`, `0.5` and `0.6` does the displacement fold?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for height in (0.4, 0.5, 0.6):
    count = metrics.digital_folding(height / 0.6 * checkerboard, inside)
    print(f"height {height}: {count.percent_in_mask:.0f} % of the inner voxels")

# %% [markdown]
# ## Summary
#
# - The determinant is the local factor of volume change. Only values of 0 or below mean folds.
# - A test on affine maps is necessary but cannot reveal which folds central differences miss.
# - State how folds were counted (central differences or digital) and what the count is divided by.
# - Compute the determinant from the full-resolution displacement in voxels.
# - Judge overlap and displacement together.
#
# **Read on:** [Liu et al. 2024](https://doi.org/10.1007/s11263-024-02047-1) derive the digital
# criterion. Their code is at
# [yihao6/digital_diffeomorphism](https://github.com/yihao6/digital_diffeomorphism).
