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
# # Integrate a velocity: the diffeomorphic model
#
# | | |
# |---|---|
# | **You will** | take apart what a model with `int_steps=7` returns, integrate its velocity yourself, and invert it |
# | **You will learn** | which tensor is the displacement, what integration buys and costs, and where folds come from even so |
# | **You need** | [lesson 6](05_jacobian.ipynb) and [lesson 7](06_lambda.ipynb) |
# | **In → out** | an integrated and a plain model → folding, inverses and Dice of both |
# | **Not here** | probabilistic models that also predict how uncertain a velocity is |
# | **Time** | 20 minutes |

# %% [markdown]
# Until now the network's field *was* the displacement. With `int_steps` above 0 it is a
# {term}`velocity`: every point flows along it for a unit of time, and where it ends is the
# displacement. Flows do not cross, so in theory nothing folds {cite}`dalca2019`. It is
# voxelmorph's default, and the reason why many people measure the wrong tensor.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 7
spacing = 2.0
learning_rate = 0.001
schedule = "cosine"

# %%
from dataclasses import replace
from functools import partial

from vxmlib import cohorts, metrics, models, warp
from vxmlib.experiments import recording, runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
if not settings.int_steps:
    raise ValueError(
        "int_steps: found 0, expected at least 1: this lesson integrates"
    )
people = runs.load_cohort(settings)
run = runs.run(settings, people)

# %% [markdown]
# The test pairs, and one of them to look at closely:

# %%
test = people.split["test"]
pairs = cohorts.ordered_pairs(test, limit=settings.pairs, seed=settings.seed)
moving_id, fixed_id = pairs[0]
moving, fixed = people.image(moving_id), people.image(fixed_id)
brain = people.brain(fixed_id)

# %% [markdown]
# The run is one of those of [lesson 7](06_lambda.ipynb). A second one, at λ = 0.01, will show
# what goes wrong; nothing else differs.

# %% tags=["hide-output"]
loose = runs.run(replace(settings, lam=0.01), people)

# %% [markdown]
# ## Ask the model what it returns

# %%
batch = [image[None, ..., None] for image in (moving, fixed)]
warped, velocity = loose.model.predict(batch, verbose=0)
displacement = models.register(loose.model, moving, fixed)
print("predict: ", warped.shape, "and", velocity.shape)
print("register:", displacement.shape)

# %% [markdown]
# The second output of `predict` has half the size in each direction. It is what the smoothness
# term looks at, so it has to be an output; and it is a velocity before its integration. The
# displacement that made the first output is a tensor inside the model
# (`model.references.pos_flow`), and `models.register` returns it.

# %% [markdown]
# ## See the numbers that the wrong tensor gives
#
# Three ways to take the second output for the displacement, and the right one:

# %%
import numpy as np
import pandas as pd

from vxmlib.augment import upsample

half = velocity[0]
readings = {
    "velocity, as it comes": half,
    "velocity, enlarged": upsample(half, 2),
    "velocity, enlarged, in voxels": 2 * upsample(half, 2),
    "displacement (register)": displacement,
}

# %% [markdown]
# Dice of each, where the grid is that of the labels:

# %%
own, target = people.labels(moving_id), people.labels(fixed_id)
wrong = pd.DataFrame(index=readings)
for name, u in readings.items():
    wrong.loc[name, "SD log det J"] = metrics.sd_log_jacobian(u)
    if u.shape[:-1] == people.shape:
        warped_labels = warp.warp_labels(own, u)
        dice = metrics.mean_dice(warped_labels, target, people.structures)
        wrong.loc[name, "Dice"] = dice
wrong.round(3)

# %% [markdown]
# Nothing folds by any of these readings: these people differ little. Where people differ more,
# velocities are larger; so here is the same velocity, enlarged until it descends by three voxels
# over two where it is steepest, by all of its readings. (`integrate` is explained in the next
# section.)

# %%
from vxmlib.backend import vxm


def integrate(velocity, steps=settings.int_steps):
    flow = vxm.layers.VecInt(method="ss", int_steps=steps)(velocity[None])
    return vxm.layers.RescaleTransform(2)(flow)[0].numpy()


axes = tuple(range(people.ndim))
steepest = min(np.gradient(half[..., axis], axis=axis).min() for axis in axes)
bold = half * (-1.5 / steepest)
larger = {
    "velocity, as it comes": bold,
    "velocity, enlarged, in voxels": 2 * upsample(bold, 2),
    "displacement": integrate(bold),
}

# %% [markdown]
# Folds, in percent of a field's own voxels:

# %%
folds = {name: metrics.folding(u).percent for name, u in larger.items()}
assert folds["velocity, as it comes"] > folds["displacement"]
pd.Series(folds, name="folding, %").to_frame().round(3)

# %% tags=["remove-cell"]
from vxmlib.book import glue

right = wrong.loc["displacement (register)"]
glue.glue(
    enlarged=-1.5 / steepest,
    wrong_folding=folds["velocity, as it comes"],
    right_folding=folds["displacement"],
    wrong_sd=wrong.loc["velocity, as it comes", "SD log det J"],
    right_sd=right["SD log det J"],
    small_dice=wrong.loc["velocity, enlarged", "Dice"],
    straight_dice=wrong.loc["velocity, enlarged, in voxels", "Dice"],
    right_dice=right["Dice"],
)

# %% [markdown]
# Read as a displacement, the velocity, {glue:text}`enlarged:.1f` times as large, "folds" {glue:text}`wrong_folding:.2f` % of its voxels,
# where the displacement folds {glue:text}`right_folding:.3f` %: whoever measures it discards a good
# model. The SD of log det J of the velocity as it was is {glue:text}`wrong_sd:.3f` in place of
# {glue:text}`right_sd:.3f`. None of the wrong readings raises an error. Enlarged, but not multiplied by 2, the field is half as long, and Dice is
# {glue:text}`small_dice:.3f` in place of {glue:text}`right_dice:.3f`; in voxels, but not
# integrated, {glue:text}`straight_dice:.3f`, close enough to go unnoticed.

# %% [markdown]
# ## Integrate it yourself
#
# Scaling and squaring {cite}`arsigny2006`: divide the velocity by $2^7$, so that it is a tiny
# displacement; then compose the displacement with itself seven times, each doubling the time.
# voxelmorph's layers do it at half the size and enlarge the result, as `integrate` above. Is that
# what the model does inside?

# %%
print(f"{abs(integrate(half) - displacement).max():.1e} voxels from register")

# %% [markdown]
# Are seven enough? A road that shares no code: walk along the velocity in 1000 small straight
# steps.

# %%
walked = warp.identity(half.shape[:-1])
for _ in range(1000):
    walked = warp.compose(half / 1000, walked)

# %% [markdown]
# How far from there do so many squarings end?

# %%
errors = {}
for steps in (0, 1, 2, 3, 5, 7, 9):
    flow = vxm.layers.VecInt(method="ss", int_steps=steps)(half[None])[0]
    errors[steps] = metrics.endpoint_error(np.asarray(flow), walked)
pd.Series(errors, name="mean distance, half-size voxels").round(4)

# %% tags=["remove-cell"]
glue.glue(seven=errors[7], none=errors[0], nine=errors[9])

# %% [markdown]
# Without integration the mean distance is {glue:text}`none:.3f` voxels of the coarse grid, with
# seven squarings {glue:text}`seven:.4f`, with nine {glue:text}`nine:.4f`. What remains is
# interpolation, not time.

# %% [markdown]
# ## Half the size
#
# The velocity lives on a grid of half the size because integration is paid per voxel: each
# squaring looks up every voxel once.

# %%
grids = {}
for resolution in (1, 2, 4):
    options = {"int_steps": settings.int_steps, "int_resolution": resolution}
    shape = models.field_shape(models.build(people.shape, **options))
    grids[resolution] = {
        "grid": shape,
        "look-ups": settings.int_steps * int(np.prod(shape)),
    }
pd.DataFrame(grids).T

# %% [markdown]
# In 3D the second grid has an eighth of the voxels of the first. Only the integration gets cheaper:
# the U-Net still predicts at full size, and its velocity is halved afterwards. A coarser velocity
# is also a smoother displacement, so λ does not mean the same on two of these grids; and
# `models.build` weighs the smoothness of a velocity at half the size twice, as voxelmorph's own
# training does, so λ = 1 here is not the plain model's λ = 1 either.

# %% [markdown]
# ## Go back
#
# A flow is undone by flowing backwards: integrate *minus* the velocity. Minus the displacement is
# not the inverse. How far from the start does a point end that goes there and back, and back and
# there? For comparison, the plain model of the same λ:

# %% tags=["hide-output"]
plain = runs.run(replace(settings, int_steps=0), people)

# %% [markdown]
# One pair, by both models:

# %%
flow_there = models.register(run.model, moving, fixed)
flow_velocity = run.model.predict(batch, verbose=0)[1][0]
plain_there = models.register(plain.model, moving, fixed)

# %% [markdown]
# Fields that somebody might take for the way back, and how far each misses:

# %%
ways = {
    "integrated: minus the velocity": (flow_there, integrate(-flow_velocity)),
    "integrated: minus the displacement": (flow_there, -flow_there),
    "integrated: fixed-point inverse": (flow_there, warp.inverse(flow_there)),
    "plain: minus the displacement": (plain_there, -plain_there),
    "plain: fixed-point inverse": (plain_there, warp.inverse(plain_there)),
}
left = {
    name: metrics.inverse_consistency(*both, brain) for name, both in ways.items()
}
pd.Series(left, name="voxels, mean in the brain").to_frame().round(4)

# %% tags=["remove-cell"]
names = ("by_velocity", "by_minus", "flow_point", "plain_minus", "fixed_point")
glue.glue(**dict(zip(names, left.values(), strict=True)))

# %% [markdown]
# The negative velocity returns to within {glue:text}`by_velocity:.3f` voxels; the negative
# displacement misses by {glue:text}`by_minus:.2f`, for a plain field by
# {glue:text}`plain_minus:.2f`. A plain displacement can be inverted, too, by iteration: here to
# {glue:text}`fixed_point:.4f` voxels, and an integrated one to {glue:text}`flow_point:.4f`. But that
# iteration ends only where nothing folds and nothing bends sharply; minus the velocity always gives
# an answer, without iterating, up to interpolation.

# %% [markdown]
# ## Train both directions at once
#
# Since the way back costs only another integration, the loss can look at both: `bidir=True` adds
# the fixed image, warped back, against the moving one, at half the weight each.

# %% tags=["hide-output"]
from vxmlib import backend, training

rate = settings.learning_rate
backend.set_seed(settings.seed)
options = {"lam": settings.lam, "int_steps": settings.int_steps, "bidir": True}
options["image_loss"] = settings.image_loss
both_ways = models.build(people.shape, learning_rate=rate, **options)

# %% [markdown]
# Trained for as many steps as the others:

# %% tags=["hide-output"]
training.fit(
    both_ways,
    people,
    people.split["train"],
    run_dir=runs.runs_folder() / f"{run.folder.name}-bidir",
    epochs=settings.epochs,
    steps_per_epoch=settings.steps_per_epoch,
    seed=settings.seed,
    callbacks=runs.callbacks(settings),
);

# %% [markdown]
# For each, the Dice there; the Dice *back* by the inverse of the same field; and how well the
# answers to (a, b) and (b, a) undo each other. The two ways to an inverse:


# %%
def by_velocity_of(model, moving, fixed):
    batch = [image[None, ..., None] for image in (moving, fixed)]
    return integrate(-model.predict(batch, verbose=0)[-1][0])


def by_iteration(model, moving, fixed):
    return warp.inverse(models.register(model, moving, fixed))


# %% [markdown]
# And what is asked of a pair:


# %%
def back_and_apart(model, invert, a, b):
    images = people.image(a), people.image(b)
    warped = warp.warp_labels(people.labels(b), invert(model, *images))
    back = metrics.mean_dice(warped, people.labels(a), people.structures)
    there, again = (models.register(model, *i) for i in (images, images[::-1]))
    return back, metrics.inverse_consistency(there, again, people.brain(b))


# %% [markdown]
# All test pairs, for the plain model and the two that integrate:

# %%
compared = {
    "plain": (plain.model, by_iteration),
    "integrated": (run.model, by_velocity_of),
    "integrated, both ways": (both_ways, by_velocity_of),
}
rows, forward = {}, {}
for name, (model, invert) in compared.items():
    register = partial(models.register, model)
    forward[name] = recording.measure(register, people, pairs)
    found = [back_and_apart(model, invert, *pair) for pair in pairs]
    rows[name] = [forward[name]["dice_mean"], *np.mean(found, axis=0)]
columns = ["Dice there", "Dice back", "there and back, voxels"]
table = pd.DataFrame(rows, columns).T
table.round(3)

# %% [markdown]
# "There and back" compares two *predictions*, for (a, b) and for (b, a). Nothing in the network
# makes these each other's inverse; only averaging both orders, or a loss on it, would.

# %% [markdown]
# ## Folding, with and without
#
# The same pairs, two λ, and both kinds of field. λ = 0.01 has to be measured yet, and its plain
# model found or trained:

# %% tags=["hide-output"]
loose_plain = runs.run(replace(settings, int_steps=0, lam=0.01), people)

for name, each in {"plain": loose_plain, "integrated": loose}.items():
    forward[f"{name}, λ = 0.01"] = recording.measure(each.register, people, pairs)

# %% [markdown]
# All four, beside the one that was trained both ways. Simulated people have one thing that real
# ones lack, the true displacement of each pair:

# %%
if people.simulated:
    rough = [
        metrics.sd_log_jacobian(people.true_pair_displacement(*p), people.brain(p[1]))
        for p in pairs
    ]
    forward["the truth"] = {"sd_log_jacobian": np.mean(rough)}
columns = ["dice_mean", "folds", "folding_percent_brain", "sd_log_jacobian"]
folding = pd.DataFrame(forward).T[columns].sort_index(ascending=False)
folding.astype(float).round(3)

# %% tags=["remove-cell"]
brain_folds = folding["folding_percent_brain"].astype(float)
rough = folding["sd_log_jacobian"].astype(float)
glue.glue(
    plain_loose=brain_folds["plain, λ = 0.01"],
    flow_loose=brain_folds["integrated, λ = 0.01"],
    usual_lam=settings.lam,
    rough_loose=rough["integrated, λ = 0.01"],
    rough_usual=rough["integrated"],
    dice_loose=float(folding.loc["integrated, λ = 0.01", "dice_mean"]),
    dice_usual=float(folding.loc["integrated", "dice_mean"]),
    true_rough=f"{rough['the truth']:.2f}" if people.simulated else "not known",
)

# %% [markdown]
# At λ = 0.01 the plain field folds {glue:text}`plain_loose:.2f` % of the brain, the integrated one
# {glue:text}`flow_loose:.3f` %. So folding cannot tell the two integrated models apart. The SD of
# log det J can, {glue:text}`rough_loose:.2f` against {glue:text}`rough_usual:.2f` at
# λ = {glue:text}`usual_lam:g`, but it does not say which is right: the true displacements have
# {glue:text}`true_rough`. Dice says {glue:text}`dice_loose:.3f` and {glue:text}`dice_usual:.3f`. With
# integration λ has to be chosen anew, by Dice on validation people
# ([lesson 10](06_choose.ipynb)), and it comes out smaller. Print all three.

# %% [markdown]
# ## Make it fold
#
# In theory a flow never folds. On a grid it does once the velocity changes faster than the grid
# can follow. Take the loose velocity and multiply it:

# %%
scales = {}
for scale in (1, 2, 4, 8):
    folded = {
        f"{steps} squarings": metrics.folding(
            integrate(scale * half, steps), brain
        ).percent_in_mask
        for steps in (2, 7, 10)
    }
    scales[scale] = folded
scales = pd.DataFrame(scales).T.rename_axis("times")
scales.round(3)

# %% tags=["remove-cell"]
glue.glue(
    most_folds=scales.loc[8, "7 squarings"],
    first_folds=scales.loc[1, "7 squarings"],
    few_steps=scales.loc[8, "2 squarings"],
)
recording.write_record(
    "11_diffeomorphic",
    run,
    people,
    wrong_folding_percent=folds["velocity, as it comes"],
    right_folding_percent=folds["displacement"],
    wrong_sd_log_jacobian=float(wrong.loc["velocity, as it comes", "SD log det J"]),
    right_sd_log_jacobian=float(right["SD log det J"]),
    wrong_dice=float(wrong.loc["velocity, enlarged", "Dice"]),
    right_dice=float(right["Dice"]),
    folding=brain_folds.to_dict(),
    sd_log_jacobian=rough.to_dict(),
    dice=folding["dice_mean"].astype(float).to_dict(),
    inverse_voxels=left,
    scaled={str(scale): row for scale, row in scales.T.to_dict().items()},
)

# %% [markdown]
# From {glue:text}`first_folds:.3f` % as it is to {glue:text}`most_folds:.2f` % of the brain at
# eight times. More squarings do not mend it, since time is not what is coarse; too few make it
# worse ({glue:text}`few_steps:.2f` %).

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Does the integrated model's `predict` warp by the displacement of `register`?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
ours = warp.warp_image(moving, displacement)
print(f"largest difference {abs(ours - warped[0, ..., 0]).max():.1e}")

# %% [markdown]
# Yes: the first output is right; it is the second that is no displacement.
#
# **Exercise 2.** Which part of the volume change is lost if one takes the velocity's divergence
# for log det J?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
divergence = sum(np.gradient(half[..., axis], axis=axis) for axis in axes)
log_det = np.log(metrics.jacobian_determinant(displacement).clip(1e-9))
small = log_det[tuple(slice(None, None, 2) for _ in axes)]
print(f"correlation {np.corrcoef(divergence.ravel(), small.ravel())[0, 1]:.2f}")

# %% [markdown]
# The divergence is how fast volume changes at the start of the flow. log det J is its sum along the
# whole path of a point; so what is lost is what the point meets on its way, and the further it
# moves, the more that is.
#
# ## What you take along
#
# - With `int_steps` above 0 the model's second output is a velocity at half the size; the
#   displacement is what `models.register` returns.
# - Minus the velocity integrates to the inverse; minus the displacement is none.
# - Integration removes nearly all folds at any λ, so folding no longer tells whether λ is right;
#   choose λ anew.
# - It can still fold, where the velocity is steeper than its grid.
#
# **Read on:** the model with its uncertainty {cite}`dalca2019`; the integration
# {cite}`arsigny2006`.
