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
# | **You will** | build a model that predicts a velocity, integrate this velocity yourself, and read the displacement from the model |
# | **You will learn** | which tensor is the displacement, what integration gains and costs, and why λ must be chosen separately |
# | **You need** | [the Jacobian](05_jacobian.ipynb) and [Weigh smoothness with λ](06_lambda.ipynb) |
# | **In → out** | a model with integration and one without → Dice and folding of both models, and inverse displacements |
# | **Not here** | velocities that change over time; [the probabilistic model](11_probabilistic.ipynb) |
# | **Time** | 20 minutes |

# %% [markdown]
# So far, the network predicted the displacement directly. A diffeomorphic model predicts a
# [velocity](../book/glossary.md#velocity) $v$ instead, and every point flows along $v$ for one unit
# of time. The displacement of a point is the vector from its initial to its final position.
# Computing this vector from $v$ is called *integration*. The paths of a smooth flow do not cross,
# so in theory the displacement does not fold ([Dalca et al.
# 2019](https://doi.org/10.1016/j.media.2019.07.006)).

# %% [markdown]
# ## Set the parameters
#
# The parameters select the training run of a model that integrates a velocity (an *integrated*
# model). The section "Choose λ anew" explains why this model uses λ = 0.1.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 0.1
int_steps = 7
spacing = 2.0
learning_rate = 0.001
schedule = "cosine"

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
if not settings.int_steps:
    raise ValueError("int_steps: found 0, expected at least 1: this page integrates a velocity")
people = runs.load_cohort(settings)

# %% [markdown]
# ## Look at the result first
#
# The stored comparison of methods [in 3D](08_real.ipynb) includes a network without integration
# ("plain") and an integrated one. Both networks use the U-Net with strided convolutions from the
# 2018 paper. Each network was trained with NCC for 3000 steps on 15 real subjects. The voxels
# measure 2 mm, and each λ was chosen on slices. The table shows means over the 90 ordered pairs of
# the ten test subjects.

# %%
from vxmlib.experiments.results import Comparison, results_folder

results = results_folder()
real = Comparison(results / "malf", results.parent / "config" / "real.yaml")
names = {"ncc": "plain, λ = 1", "ncc-integrated": "integrated, λ = 0.1"}
columns = {"dice": "Dice", "folding_percent_brain": "folded, % of the brain"}
columns |= {"sd_log_jacobian": "SD of log det J", "seconds": "seconds per pair"}
real.summary().loc[list(names), list(columns)].rename(index=names, columns=columns).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

from vxmlib.experiments.statistics import interval_text

gap = real.differences({"gap": ("ncc-integrated", "ncc")}).loc["gap"]
folds = real.summary()["folding_percent_brain"]
Markdown(f"""
The mean Dice of the integrated network minus that of the plain one is {interval_text(gap)}. The
range in brackets is the 95 percent interval over subjects. On average, the plain network folds
{folds["ncc"]:.2f} % of the brain, and the integrated one folds {folds["ncc-integrated"]:.4f} %.
""")

# %% [markdown]
# If you need invertible maps, this small decrease in Dice may be acceptable. Integration hardly
# changes the time per pair. The rest of the page uses slices to show how an integrated model works.

# %% [markdown]
# ## Build a model that integrates
#
# In voxelmorph, any `int_steps` above 0 turns integration on. The default in `VxmDense` is 7, so a
# model with the default arguments integrates a velocity. The next cell lists the last layers of
# such a model.

# %%
from vxmlib.backend import tf, vxm

model = vxm.networks.VxmDense(people.shape, int_steps=7, int_resolution=2)
for layer in model.layers[-5:]:
    print(f"{type(layer).__name__:18} {layer.output_shape[1:]}")

# %% [markdown]
# The U-Net predicts the velocity at the size of the image. The first `RescaleTransform` resamples
# the velocity to half this size, and `VecInt` integrates it. The second `RescaleTransform` enlarges
# the result, the displacement, to the size of the image. The `SpatialTransformer` then warps the
# moving image.
#
# The next cell trains a `VxmDense` with the parameters above, or loads it if already trained.

# %% tags=["hide-output"]
run = runs.run(settings, people)

# %% [markdown]
# The next cell registers one pair of test subjects. For an integrated model, `predict` returns the
# warped image and the velocity.

# %%
from vxmlib import cohorts

pairs = cohorts.ordered_pairs(people.split["test"], limit=settings.pairs, seed=settings.seed)
moving, fixed = (people.image(subject) for subject in pairs[0])
batch = [image[None, ..., None] for image in (moving, fixed)]
warped, velocity = run.model.predict(batch, verbose=0)

# %% [markdown]
# ## Integrate by scaling and squaring
#
# *Scaling and squaring* ([Arsigny et al. 2006](https://doi.org/10.1007/11866565_113)) first divides
# the velocity by $2^7$. The result is approximately the displacement after $1/2^7$ of the unit of
# time. Each *squaring* then composes the current displacement with itself, which doubles the time
# covered. Seven squarings therefore cover the whole unit of time. The next cell implements this
# method.

# %%
import numpy as np

from vxmlib import warp

flow = velocity[0] / 2**7
for _ in range(7):
    flow = warp.compose(flow, flow)

# %% [markdown]
# voxelmorph's layer `VecInt` implements the same method. In the model, `RescaleTransform` then
# enlarges the displacement to the size of the image and doubles its values. The next cell combines
# the two layers in a function, because later sections integrate other velocities.

# %%
def integrate(velocity, steps=7):
    half = vxm.layers.VecInt(method="ss", int_steps=steps)(velocity[None])
    return vxm.layers.RescaleTransform(2)(half)[0].numpy()


# %% [markdown]
# The next cell compares our result with that of `VecInt` alone.

# %%
by_layer = vxm.layers.VecInt(method="ss", int_steps=7)(velocity)[0]
print(f"largest difference: {abs(flow - by_layer.numpy()).max():.0e} voxels")

# %% [markdown]
# ## Take the displacement, not the second output
#
# The second output of `predict` is the velocity at half the size of the image, because the
# smoothness loss is computed from this velocity. The displacement is a tensor inside the model,
# `references.pos_flow`. The next cell computes this tensor and compares it with the result of our
# function `integrate`.

# %%
to_displacement = tf.keras.Model(run.model.inputs, run.model.references.pos_flow)
displacement = to_displacement.predict(batch, verbose=0)[0]
print("second output:", velocity.shape[1:], " displacement:", displacement.shape)
difference = abs(integrate(velocity[0]) - displacement).max()
print(f"largest difference from integrate: {difference:.0e} voxels")

# %% [markdown]
# voxelmorph's `model.register` also returns this displacement, but builds a new Keras model in each
# call. Our function `models.register` builds the Keras model only once, checks the images, and
# returns an array without a batch axis. This array should equal the displacement above.

# %%
from vxmlib import models

same = models.register(run.model, moving, fixed)
print(f"largest difference: {abs(same - displacement).max():.0e} voxels")

# %% [markdown]
# ### Measure the mistake
#
# This section measures how Dice and folding change if the second output is mistaken for the
# displacement. The effect is largest where deformations are large. The next cell therefore bends
# (smoothly deforms) the moving image and label map of every test pair at random.

# %%
from vxmlib.augment import Augmentation, upsample

bend = Augmentation(flip=None, affine=0, shift=0, bend=2.0, width=8.0)
generator = np.random.default_rng(settings.seed)
bent = []
for first, second in pairs:
    change = bend.displacement(people.shape, generator)
    image = warp.warp_image(people.image(first), change)
    bent.append((image, warp.warp_labels(people.labels(first), change), second))

# %% [markdown]
# The velocity can be mistaken for the displacement in three ways: unchanged; enlarged to the size
# of the image; or enlarged with its values doubled. Doubling seems correct because one voxel of the
# small grid is as wide as two voxels of the image. The next function returns these three fields and
# the displacement.

# %%
def readings(image, second):
    inputs = [each[None, ..., None] for each in (image, people.image(second))]
    half = run.model.predict(inputs, verbose=0)[1][0]
    return {
        "velocity, unchanged": half,
        "velocity, enlarged": upsample(half, 2),
        "velocity, enlarged and doubled": 2 * upsample(half, 2),
        "displacement": models.register(run.model, image, people.image(second)),
    }


# %% [markdown]
# The next function measures Dice, folding (in percent of all voxels) and the SD of log det J of one
# field. Dice requires a field of the size of the label maps, so it cannot be computed for the
# unchanged velocity.

# %%
import pandas as pd

from vxmlib import metrics


def measured(u, labels, second):
    row = {"folded, %": metrics.folding(u).percent, "SD of log det J": metrics.sd_log_jacobian(u)}
    if u.shape[:-1] == people.shape:
        moved = warp.warp_labels(labels, u)
        row["Dice"] = metrics.mean_dice(moved, people.labels(second), people.structures)
    return row


# %% [markdown]
# The next cell measures the four fields of every bent pair.

# %%
rows = [
    {"reading": name} | measured(u, labels, second)
    for image, labels, second in bent
    for name, u in readings(image, second).items()
]

# %% [markdown]
# The table shows means over all bent pairs.

# %%
read = pd.DataFrame(rows).groupby("reading", sort=False).mean()
read[["Dice", "folded, %", "SD of log det J"]].round(3).astype(object).fillna("–")

# %% tags=["remove-input"]
names_read = ["velocity, unchanged", "velocity, enlarged", "velocity, enlarged and doubled"]
raw, small, straight = (read.loc[name] for name in names_read)
right = read.loc["displacement"]
unmoved = np.mean([measured(0 * same, x, s)["Dice"] for _, x, s in bent])
Markdown(f"""
The mean Dice of the bent pairs is {unmoved:.3f} before registration and {right["Dice"]:.3f} with
the displacement. The enlarged velocity gives {small["Dice"]:.3f}, which could be mistaken for the
result of a weak model. The enlarged and doubled velocity gives {straight["Dice"]:.3f}, so Dice does
not reveal this form of the mistake.
""")

# %% tags=["remove-input"]
Markdown(f"""
Folding can be misleading, too. If the unchanged velocity is read as a displacement,
{raw["folded, %"]:.2f} % of its voxels seem to be folded, compared with {right["folded, %"]:.3f} %
for the displacement. The first percentage would suggest that integration does not work. None of
these mistakes raised an error or a warning.
""")

# %% [markdown]
# ## Compute the inverse
#
# A flow is inverted by integrating $-v$. The negative *displacement*, in contrast, is not the
# inverse. The next cell computes the integral of $-v$, the negative displacement, and an inverse by
# fixed-point iteration.

# %%
brain = people.brain(pairs[0][1])
ways = {
    "minus the velocity, integrated": integrate(-velocity[0]),
    "minus the displacement": -displacement,
    "fixed-point iteration": warp.inverse(displacement),
}

# %% [markdown]
# The next cell maps each point of the brain by the displacement and by one of these fields, in both
# orders. The table shows the mean distance from the starting point.

# %%
missed = {
    name: metrics.inverse_consistency(displacement, back, brain) for name, back in ways.items()
}
pd.Series(missed, name="mean distance in the brain, voxels").to_frame().round(4)

# %% [markdown]
# The integral of $-v$ needs no iteration, but it is not the exact inverse, because the displacement
# and this integral are computed on a grid of half the size and then interpolated. Fixed-point
# iteration can also invert the displacement of a plain model, but only where this displacement does
# not fold.
#
# Integrating $-v$ is cheap, so `VxmDense(..., bidir=True)` uses the inverse to warp the fixed image
# to the moving one as well. The image loss can then be computed in both directions.

# %% [markdown]
# ## Choose λ anew
#
# λ weights a different quantity in each model: the smoothness of the velocity in the integrated
# model, but that of the displacement in the plain one. voxelmorph's training script also multiplies
# the loss `Grad` by `int_resolution`. Our function `models.build` does the same, but only for
# integrated models.
#
# For these reasons, λ was chosen separately for each model, as described in [Choose
# λ](06_choose.ipynb). The table shows the Dice and folding of the stored runs on validation
# subjects. Each run trained a `VxmDense` with NCC for 1000 steps on slices of 15 real subjects.
# Each value is a mean over three seeds.

# %%
def grid(kind):
    table = pd.read_csv(results / "lambda" / "tables" / f"{kind}.csv")
    return table.query("cohort == 'malf' and image_loss == 'ncc'")


shown = {"Dice": grid("dice"), "folded, %": grid("folding")}
by_lam = {word: table.pivot(index="lam", columns="int_steps") for word, table in shown.items()}
by_lam = pd.concat({word: table["mean"] for word, table in by_lam.items()}, axis=1)
models_of = {0: "plain", 7: "integrated"}
by_lam.rename(columns=models_of).rename_axis("λ").rename_axis(columns=[None, "model"]).round(3)

# %% tags=["remove-input"]
chosen = grid("chosen").set_index("int_steps")["lam"]
overlap, folded = by_lam["Dice"][7], by_lam["folded, %"][7]
Markdown(f"""
Our rule selects the largest λ whose Dice is at most one standard error below the best Dice. It
gives λ = {chosen[0]:g} for the plain model and λ = {chosen[7]:g} for the integrated one.

At λ = 0.01, the integrated model folds only {folded[0.01]:.3f} % of the brain, so folding does not
show that this λ is too small. Only Dice shows this: it is {overlap[0.01]:.3f} at λ = 0.01, compared
with {overlap[chosen[7]]:.3f} at the chosen λ.
""")

# %% [markdown]
# We therefore compare the two models, each at its own λ, which was chosen by Dice. The next cell
# trains the plain model with λ = 1, or loads it if already trained.

# %% tags=["hide-output"]
from dataclasses import replace

plain = runs.run(replace(settings, int_steps=0, lam=1.0), people)

# %% [markdown]
# Both models are `VxmDense` networks, one with integration and one without. In this build of the
# book, they were trained on the same slices for the same number of steps. The table shows means over the test pairs.

# %%
from vxmlib.experiments import recording

scores = {each.title: recording.measure(each.register, people, pairs) for each in (plain, run)}
keys = {"dice_mean": "Dice", "folding_percent_brain": "folded, % of the brain"}
keys |= {"sd_log_jacobian": "SD of log det J"}
table = pd.DataFrame(scores).T.reindex(columns=list(keys)).astype(float)
table.rename(columns=keys).round(3)

# %% tags=["remove-input"]
change = table.loc[run.title, "dice_mean"] - table.loc[plain.title, "dice_mean"]
Markdown(f"""
On these slices, the Dice of the integrated model minus that of the plain one is {change:+.4f}. This
difference is a mean over {len(pairs)} pairs of {len(people.split["test"])} test subjects. Each
model was trained once, with {len(people.split["train"])} training subjects and {settings.steps}
steps. A single run of each model cannot show whether such a small difference comes from integration
or chance.
""")

# %% [markdown]
# ## Make it fold
#
# In theory, a smooth flow never folds. On a grid, however, a flow can fold if the velocity varies
# too much between neighbouring voxels. The next cell multiplies the velocity by a factor and
# integrates the product with two, seven and ten squarings. The table shows the percentage of the
# brain that is folded.

# %%
def folded_share(scale, steps):
    field = integrate(scale * velocity[0], steps)
    return metrics.folding(field, brain).percent_in_mask


counts = {f"{steps} squarings": steps for steps in (2, 7, 10)}
scaled = {x: {name: folded_share(x, n) for name, n in counts.items()} for x in (1, 2, 4, 8)}
pd.DataFrame(scaled).T.rename_axis("velocity multiplied by").round(3)

# %% tags=["remove-cell"]
recording.write_record(
    "11_diffeomorphic",
    run,
    people,
    wrong_folding_percent=float(raw["folded, %"]),
    right_folding_percent=float(right["folded, %"]),
    wrong_sd_log_jacobian=float(raw["SD of log det J"]),
    right_sd_log_jacobian=float(right["SD of log det J"]),
    wrong_dice=float(small["Dice"]),
    right_dice=float(right["Dice"]),
    folding=table["folding_percent_brain"].dropna().to_dict(),
    sd_log_jacobian=table["sd_log_jacobian"].to_dict(),
    dice=table["dice_mean"].dropna().to_dict(),
    inverse_voxels=missed,
    scaled={str(scale): row for scale, row in scaled.items()},
)

# %% tags=["remove-input"]
most = scaled[8]
Markdown(f"""
With eight times the velocity, {most["7 squarings"]:.2f} % of the brain is folded after seven
squarings and {most["2 squarings"]:.2f} % after two. Ten squarings leave
{most["10 squarings"]:.2f} % folded, because they divide the time more finely but use the same grid.
""")

# %% [markdown]
# ## Know the cost
#
# The running time depends on the grid, because each squaring interpolates the field once at every
# voxel. The next cell times the integration alone for a 3D image of 80 × 96 × 80 voxels. The
# velocity's grid has the size of the image, half of it (the default) or a quarter.

# %%
import timeit

cost = {}
for resolution in (1, 2, 4):
    field = tf.zeros((1, *(size // resolution for size in (80, 96, 80)), 3))
    layer = tf.function(vxm.layers.VecInt(method="ss", int_steps=7))
    layer(field)  # the first call compiles the layer
    seconds = timeit.timeit(lambda f=field, run=layer: run(f).numpy(), number=1)
    cost[resolution] = {"thousand voxels": np.prod(field.shape[1:-1]) / 1000, "seconds": seconds}
sizes = {1: "full size", 2: "half size", 4: "quarter size"}
pd.DataFrame(cost).T.rename(index=sizes).round(3)

# %% tags=["remove-input"]
both = real.trainings()["seconds"][["ncc", "ncc-integrated"]] / 3600
Markdown(f"""
Integration at half the size is several times faster than at full size. In 3D, training took
{both.iloc[1]:.2f} hours with integration at half the size and {both.iloc[0]:.2f} hours without
integration. These two times are only rough estimates, because the machine's two cores also ran
other jobs.
""")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Are seven squarings enough? Compare the results of several numbers of squarings
# with that of Euler's method, which follows the velocity in 1000 small, straight steps.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
walked = warp.identity(velocity.shape[1:-1])
for _ in range(1000):
    walked = warp.compose(velocity[0] / 1000, walked)
for steps in (0, 1, 3, 5, 7, 9):
    flow = vxm.layers.VecInt(method="ss", int_steps=steps)(velocity)[0].numpy()
    distance = metrics.endpoint_error(flow, walked)
    print(f"{steps} squarings: mean distance {distance:.4f} voxels of the velocity's grid")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Yes, because the distance from Euler's result hardly changes beyond seven squarings. The remaining
# distance comes from interpolation, which differs between the two methods.
#
# </details>
#
# **Exercise 2.** Is the first output of `predict` warped with the displacement or with the
# velocity?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
ours = warp.warp_image(moving, displacement)
print(f"largest difference from our warp: {abs(ours - warped[0, ..., 0]).max():.0e}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The image is warped with the displacement. The warped image is therefore correct even if the
# second output is misread.
#
# </details>
#
# ## Summary
#
# - If `int_steps` is above 0, the second output of the model is a velocity, by default at half the
#   image size. The displacement is `references.pos_flow`, which `register` returns.
# - The inverse is the integral of the negative velocity, not the negative displacement.
# - An integrated model hardly folded at any tested λ, so folding cannot show whether λ is suitable.
#   Choose its λ separately, by Dice.
# - An integrated model can still fold where the velocity varies too much between neighbouring
#   voxels.
#
# **Read on:** [Dalca et al. 2019](https://doi.org/10.1016/j.media.2019.07.006) describe the model,
# and [Arsigny et al. 2006](https://doi.org/10.1007/11866565_113) describe the integration.
