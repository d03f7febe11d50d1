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
# # Read the Jacobian: is the displacement plausible?
#
# | | |
# |---|---|
# | **You will** | compute the Jacobian determinant of every test field, test it against cases with a known answer, and map it |
# | **You will learn** | what det J means, how to count folds honestly, and how λ shows in the grid |
# | **You need** | [lesson 5](04_dice.ipynb) |
# | **In → out** | a trained model → folding as a count and by two denominators, maps, and deformed grids |
# | **Not here** | diffeomorphic models, which integrate a velocity to avoid folds |
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
pairs = cohorts.ordered_pairs(
    people.split["test"], limit=settings.pairs, seed=settings.seed
)

# %% [markdown]
# ## What det J says
#
# The displacement $u$ sends each point $x$ of the fixed grid to $\varphi(x) = x + u(x)$ in the
# moving image. Its Jacobian matrix $J = I + \nabla u$ says what happens to a tiny cube around
# $x$, and the determinant says what happens to its volume:
#
# | det J | meaning |
# |---|---|
# | 1 | volume kept |
# | above 1 | the cube covers *more* of the moving image: moving tissue is shrunk to fit |
# | between 0 and 1 | it covers less: moving tissue is stretched |
# | 0 or below | **folded**: neighbours changed sides, and no tissue can do that |
#
# A small determinant is not a fold. $\det J = 0.2$ is a strong but possible change; only zero
# and below are impossible.

# %% [markdown]
# ## Test the tool before using it
#
# An affine map $\varphi(x) = Ax$ has $\det J = \det A$ at every point. Stretch, rotate, and
# mirror a grid and compare.

# %%
import numpy as np

nd = people.ndim
grid = np.stack(np.meshgrid(*[np.arange(20.0)] * nd, indexing="ij"), -1)
stretch = np.diag([1.2, 0.9, 1.0][:nd])
turn = np.eye(nd)
turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
mirror = np.diag([-1.0, 1.0, 1.0][:nd])

# %% [markdown]
# The least and the greatest determinant of each field, and the exact value:

# %%
for name, matrix in {
    "stretch": stretch,
    "turn": turn,
    "mirror": mirror,
}.items():
    det = metrics.jacobian_determinant(grid @ matrix.T - grid)
    exact = np.linalg.det(matrix)
    print(f"{name:8} {det.min():+.4f} to {det.max():+.4f}, exact {exact:+.4f}")

# %% [markdown]
# Exact everywhere; the mirror image, which no tissue can do, comes out negative. A tool that
# passes this can be trusted with a field whose answer we do not know.

# %% [markdown]
# ## Count folds, and say of what
#
# All test pairs first, as means over pairs:

# %%
import pandas as pd

table = metrics.evaluate_pairs(people, pairs, run.register)
summary = metrics.summary(table)
names = ["folds", "folding_percent", "folding_percent_brain", "sd_log_jacobian"]
pd.Series(summary)[names].astype(float).round(4)

# %% [markdown]
# Then the pair that folds most. The same folds give different percentages, depending on what they
# are divided by.

# %%
per_pair = table.groupby(["moving", "fixed"]).first()
first, second = per_pair["folding_percent_brain"].idxmax()
moving, fixed = people.image(first), people.image(second)
brain = people.brain(second)
displacement = models.register(run.model, moving, fixed)
metrics.folding(displacement, mask=brain)

# %% [markdown]
# The count is over the whole grid; the first percentage is of all voxels, the second is the
# brain's folds in percent of the brain. Background dilutes: a grid with more air around the brain
# "folds less". We print all three and quote the brain's.

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    n_pairs=len(pairs),
    folds=summary["folds"],
    all_percent=summary["folding_percent"],
    brain_percent=summary["folding_percent_brain"],
    worst_percent=per_pair["folding_percent_brain"].max(),
    none=(per_pair["folds"] == 0).sum(),
    sd_log=summary["sd_log_jacobian"],
    lam=settings.lam,
)

# %% [markdown]
# Over {glue:text}`n_pairs` pairs at λ = {glue:text}`lam:g`: {glue:text}`folds:.1f` folded
# voxels a pair, {glue:text}`all_percent:.3f` % of all voxels, {glue:text}`brain_percent:.3f` %
# of the brain; the worst pair has {glue:text}`worst_percent:.3f` %. Pairs without any fold:
# {glue:text}`none`.
#
# The last number of the list is the standard deviation of log det J in the brain,
# {glue:text}`sd_log:.3f`: how uneven the volume change is. It goes on telling models apart
# where folding is zero. It is only defined where det J > 0; folded voxels are left out of it
# and counted beside it, never clipped into it.

# %% [markdown]
# ## Map it
#
# The logarithm makes halving and doubling equally far from 0, so the colours are centred at 0:
# no change. A folded voxel has no logarithm; it gets a colour of its own, and the panel's title
# counts them. Beside our field, the same pair registered with almost no smoothness shows what
# folding looks like. For it we train a second model at λ = 0.01, the value that circulates for
# NCC.

# %% tags=["hide-output"]
from dataclasses import replace

loose_run = runs.run(replace(settings, lam=0.01))
loose = models.register(loose_run.model, moving, fixed)

# %% [markdown]
# Both fields as maps of log det J:

# %% mystnb={"image": {"alt": "Two brain-shaped maps of log Jacobian determinant, orange where moving tissue shrinks and purple where it grows, white for no change. The left, at the lesson's lambda, has smooth patches and few magenta folded voxels; the right, at lambda 0.01, is speckled with many."}, "figure": {"caption": "log det J in the brain for the same pair and two λ. Magenta voxels are folded.", "name": "fig-06-maps"}}
fields = [displacement, loose]
titles = [f"λ = {settings.lam:g}", "λ = 0.01"]
determinants = [metrics.jacobian_determinant(field) for field in fields]
figures.determinant_maps(determinants, [brain, brain], titles);

# %% [markdown]
# A histogram shows how far the tail reaches:

# %% mystnb={"image": {"alt": "Histogram lines of the Jacobian determinant for both lambdas; the lambda 0.01 line is far broader and has a tail left of zero, marked as folded."}, "figure": {"caption": "The same as histograms, on a logarithmic axis so that rare folds show. The first and last bin also hold what lies beyond them.", "name": "fig-06-histogram"}}
figures.determinant_histogram(determinants, [brain, brain], titles);

# %% [markdown]
# ## Look at the grids
#
# A fold is where grid lines cross.

# %% mystnb={"image": {"alt": "Two deformed grids of the same pair. At the lesson's lambda most lines bend smoothly; at lambda 0.01 they are jagged, and lines cross each other in many places."}, "figure": {"caption": "Deformed grids of the same pair for two λ.", "name": "fig-06-grids"}}
figures.deformed_grids(fields, titles, every=4);

# %% [markdown]
# ## Does folding at least buy overlap?
#
# The usual excuse for a rough field is a better Dice. Ask the same pairs.

# %%
loose_table = metrics.evaluate_pairs(people, pairs, loose_run.register)
loose_summary = metrics.summary(loose_table)
columns = ["dice_mean", "folding_percent_brain", "sd_log_jacobian"]
pd.DataFrame({titles[0]: summary, titles[1]: loose_summary}).T[columns].round(4)

# %% tags=["remove-cell"]
glue.glue(
    dice=summary["dice_mean"],
    loose_dice=loose_summary["dice_mean"],
    loose_change=loose_summary["dice_mean"] - summary["dice_mean"],
    loose_percent=loose_summary["folding_percent_brain"],
)

# %% tags=["remove-cell"]
recording.write_record(
    "05_jacobian",
    run,
    people,
    pairs=len(pairs),
    dice=summary["dice_mean"],
    folds=summary["folds"],
    folding_percent=summary["folding_percent"],
    folding_percent_brain=summary["folding_percent_brain"],
    sd_log_jacobian=summary["sd_log_jacobian"],
    loose_lam=loose_run.settings.lam,
    loose_dice=loose_summary["dice_mean"],
    loose_folding_percent_brain=loose_summary["folding_percent_brain"],
)

# %% tags=["remove-cell"]
import matplotlib.pyplot as plt

front = figures.two_answers(moving, fixed, fields, brain, titles)
front.savefig(runs.output_folder() / "05_jacobian" / "front.png", dpi=110)
plt.close(front)  # the front page shows it

# %% [markdown]
# At λ = {glue:text}`lam:g` Dice is {glue:text}`dice:.3f` with {glue:text}`brain_percent:.3f` %
# of the brain folded; at λ = 0.01 it is {glue:text}`loose_dice:.3f` with
# {glue:text}`loose_percent:.2f` %. So the folds bought {glue:text}`loose_change:+.3f` of Dice.
# Judge overlap and field together, never one alone.

# %% [markdown]
# ## Check by an independent road
#
# A second way to see the same, without derivatives: compose the field with its numerical inverse.
# Where the field folds there is no inverse, and a point misses its home. (The iteration that
# looks for the inverse also fails where slopes exceed 1, so it is the stricter judge.)

# %%
for title, field in zip(titles, fields, strict=True):
    miss = warp.inversion_error(field, warp.inverse(field))[brain]
    far = 100 * (miss > 0.5).mean()
    print(f"{title}: {far:.2f} % of the brain misses by over half a voxel")

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Double the displacement. Does det J double?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
doubled = metrics.jacobian_determinant(2 * displacement)
twice = metrics.folding(2 * displacement, mask=brain)
print(f"folded: {twice.percent_in_mask:.3f} % of the brain")
print(
    f"range before {determinants[0].min():.2f}..{determinants[0].max():.2f}, "
    f"after {doubled.min():.2f}..{doubled.max():.2f}"
)

# %% [markdown]
# No: det J = 1 stays where nothing moves, and elsewhere it is a polynomial in the field. A
# field without folds can fold when scaled.
#
# **Exercise 2.** Where are the folds: in the brain, or outside it?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
folded = determinants[1] <= 0
inside = (folded & brain).sum()
print(f"{folded.sum()} folds at λ = 0.01, {inside} of them in the brain")

# %% [markdown]
# **Exercise 3.** Which share of the brain changes its volume by more than half or double?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for title, det in zip(titles, determinants, strict=True):
    strong = (det[brain] < 0.5) | (det[brain] > 2)
    print(f"{title}: {100 * strong.mean():.1f} % of the brain")

# %% [markdown]
# ## What you take along
#
# - det J is local volume change; only ≤ 0 is a fold; a small value is not.
# - Test a Jacobian on affine maps before you believe it.
# - A folding percentage without its denominator says nothing.
# - Compute it on the full-resolution displacement that `models.register` returns.
# - Overlap and field are judged together.
#
# **Read on:** diffeomorphic VoxelMorph {cite}`dalca2019` integrates a velocity field so that
# folds (almost) cannot happen.
