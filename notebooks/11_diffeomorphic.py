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
# | **You will** | build a model that predicts a velocity, integrate the velocity yourself, and find the displacement in the model |
# | **You will learn** | which output is the displacement, what integration gives and costs, and why λ has to be chosen anew |
# | **You need** | [the Jacobian](05_jacobian.ipynb) and [Weigh smoothness with λ](06_lambda.ipynb) |
# | **In → out** | a model with integration and one without → Dice and folding of both, inverse displacements |
# | **Not here** | velocities that change over time |
# | **Time** | 20 minutes |

# %% [markdown]
# So far the network predicted the displacement itself. A diffeomorphic model predicts a
# [velocity](../book/glossary.md#velocity) $v$ instead. Every point flows along $v$ for one unit of
# time. The vector from its start to its end is the displacement, and computing it is called
# *integration*. The paths of a smooth flow do not cross, so in theory nothing folds ([Dalca et al.
# 2019](https://doi.org/10.1016/j.media.2019.07.006)).

# %% [markdown]
# ## Set the parameters
#
# The parameters name the training run of a model that integrates a velocity (an *integrated*
# model). The section "Choose λ anew" explains why it uses λ = 0.1.

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
# The stored comparison of methods [in 3D](08_real.ipynb) has a network without integration
# ("plain") and an integrated one. Both are the U-Net with strided convolutions of the 2018 paper.
# Each was trained with the λ that was chosen for it on slices. The training took 3000 steps, with
# NCC and 15 real subjects at 2 mm. The table shows means over the 90 ordered pairs of ten test
# subjects.

# %%
from vxmlib.experiments.results import Comparison, results_folder

results = results_folder()
real = Comparison(results / "malf", results.parent / "config" / "real.yaml")
names = {"ncc": "plain, λ = 1", "ncc-integrated": "integrated, λ = 0.1"}
columns = {"dice": "Dice", "folding_percent_brain": "folded, % of the brain"}
columns |= {"sd_log_jacobian": "SD of log det J", "seconds": "seconds for a pair"}
real.summary().loc[list(names), list(columns)].rename(index=names, columns=columns).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

from vxmlib.experiments.statistics import interval_text

gap = real.differences({"gap": ("ncc-integrated", "ncc")}).loc["gap"]
folds = real.summary()["folding_percent_brain"]
Markdown(f"""
The Dice of the integrated network differs from that of the plain one by {interval_text(gap)}. The
brackets hold the 95 percent interval over subjects. Folding is {folds["ncc"]:.2f} % of the brain
for the plain network and {folds["ncc-integrated"]:.4f} % for the integrated one.
""")

# %% [markdown]
# If you need invertible maps, this small loss of Dice may be acceptable. Both networks register a
# pair in about the same time. The rest of the page shows how an integrated model works, on slices.

# %% [markdown]
# ## Build a model that integrates
#
# In voxelmorph a single argument, `int_steps`, turns the integration on. Its default in `VxmDense`
# is 7, so a model that is built with the default arguments integrates a velocity. The next cell
# lists the last layers of such a model.

# %%
from vxmlib.backend import tf, vxm

model = vxm.networks.VxmDense(people.shape, int_steps=7, int_resolution=2)
for layer in model.layers[-5:]:
    print(f"{type(layer).__name__:18} {layer.output_shape[1:]}")

# %% [markdown]
# The U-Net predicts the velocity at full size. The first `RescaleTransform` reduces it to half the
# size, and `VecInt` integrates it there. The second `RescaleTransform` enlarges the result, the
# displacement, to the size of the image. Then the `SpatialTransformer` warps the moving image.
#
# The next cell trains a `VxmDense` with the parameters above, or loads it if this build has already
# trained it.

# %% tags=["hide-output"]
run = runs.run(settings, people)

# %% [markdown]
# The next cell registers one pair of test subjects. With integration, `predict` returns the warped
# image and the velocity.

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
# the velocity by $2^7$. The result is nearly the displacement after $1/2^7$ of the time. Each
# squaring composes the current displacement with itself, which doubles the time. Seven squarings
# therefore cover the whole unit of time. The next cell implements this method.

# %%
import numpy as np

from vxmlib import warp

flow = velocity[0] / 2**7
for _ in range(7):
    flow = warp.compose(flow, flow)

# %% [markdown]
# voxelmorph's layer `VecInt` does the same. `RescaleTransform` then enlarges the field to the size
# of the image and doubles its values. We put both layers into a function, because later sections
# integrate other velocities.

# %%
def integrate(velocity, steps=7):
    half = vxm.layers.VecInt(method="ss", int_steps=steps)(velocity[None])
    return vxm.layers.RescaleTransform(2)(half)[0].numpy()


# %% [markdown]
# The next cell compares our loop with the layer `VecInt`.

# %%
by_layer = vxm.layers.VecInt(method="ss", int_steps=7)(velocity)[0]
print(f"largest difference: {abs(flow - by_layer.numpy()).max():.0e} voxels")

# %% [markdown]
# ## Take the displacement, not the second output
#
# The second output of `predict` is the velocity at half the size, because the smoothness loss is
# computed from it. The displacement is a tensor inside the model, `references.pos_flow`. The next
# cell reads it and compares it with our function `integrate`.

# %%
to_displacement = tf.keras.Model(run.model.inputs, run.model.references.pos_flow)
displacement = to_displacement.predict(batch, verbose=0)[0]
print("second output:", velocity.shape[1:], " displacement:", displacement.shape)
difference = abs(integrate(velocity[0]) - displacement).max()
print(f"largest difference from integrate: {difference:.0e} voxels")

# %% [markdown]
# voxelmorph's `model.register` returns this displacement, but it builds a new model in each call.
# The function `models.register` of `vxmlib` builds this model once, checks the images, and returns
# an array without a batch axis. Both displacements should agree.

# %%
from vxmlib import models

same = models.register(run.model, moving, fixed)
print(f"largest difference: {abs(same - displacement).max():.0e} voxels")

# %% [markdown]
# ### Measure the mistake
#
# This section measures what happens if the second output is taken for the displacement. The mistake
# matters most where deformations are large. The next cell therefore bends the moving image of
# every test pair at random, together with its label map.

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
# There are three ways to mistake the velocity for the displacement. The velocity can be used
# unchanged, or it can be enlarged to the size of the image. When it is enlarged, its values can
# also be doubled, because one voxel of the small grid is as wide as two voxels of the image. The
# next function returns these three fields and the displacement.

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
# The next function measures each of these fields. Folding is given in percent of the voxels of the
# field. Dice needs a field of the size of the labels, so it cannot be computed for the unchanged
# velocity.

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
# The next cell measures each field for every bent pair.

# %%
rows = [
    {"reading": name} | measured(u, labels, second)
    for image, labels, second in bent
    for name, u in readings(image, second).items()
]

# %% [markdown]
# The table shows means over these pairs.

# %%
read = pd.DataFrame(rows).groupby("reading", sort=False).mean()
read[["Dice", "folded, %", "SD of log det J"]].round(3).astype(object).fillna("–")

# %% tags=["remove-input"]
names_read = ["velocity, unchanged", "velocity, enlarged", "velocity, enlarged and doubled"]
raw, small, straight = (read.loc[name] for name in names_read)
right = read.loc["displacement"]
unmoved = np.mean([measured(0 * same, x, s)["Dice"] for _, x, s in bent])
Markdown(f"""
Before registration these pairs have a Dice of {unmoved:.3f}. The enlarged velocity gives
{small["Dice"]:.3f}, which looks like the result of a weak model, and the displacement gives
{right["Dice"]:.3f}. The enlarged and doubled velocity gives {straight["Dice"]:.3f}, so Dice does
not reveal this mistake.
""")

# %% tags=["remove-input"]
Markdown(f"""
Folding can mislead, too. In the unchanged velocity {raw["folded, %"]:.2f} % of the voxels seem to
be folded, whereas {right["folded, %"]:.3f} % are folded in the displacement. The first number
suggests that integration does not work. No error or warning appeared in any of these computations.
""")

# %% [markdown]
# ## Compute the inverse
#
# A flow is inverted by flowing backwards, that is by integrating $-v$. The negative *displacement*
# is not the inverse. The next cell computes both, and an inverse by fixed-point iteration.

# %%
brain = people.brain(pairs[0][1])
ways = {
    "minus the velocity, integrated": integrate(-velocity[0]),
    "minus the displacement": -displacement,
    "fixed-point iteration": warp.inverse(displacement),
}

# %% [markdown]
# The next cell maps every point forwards and back, and measures its distance from the start.

# %%
missed = {
    name: metrics.inverse_consistency(displacement, back, brain) for name, back in ways.items()
}
pd.Series(missed, name="mean distance in the brain, voxels").to_frame().round(4)

# %% [markdown]
# The integrated inverse needs no iteration. It is not exact, because both fields are integrated on
# a grid of half the size and interpolated. The displacement of a plain model can be inverted by
# iteration, too, but only where it does not fold.
#
# Because the inverse is cheap, `VxmDense(..., bidir=True)` also warps the fixed image to the moving
# one. The image loss can then be computed in both directions.

# %% [markdown]
# ## Choose λ anew
#
# λ does not have the same meaning for the two models. It weighs the smoothness of the velocity in
# the integrated model and that of the displacement in the plain one. In addition, voxelmorph's
# training script multiplies the loss `Grad` by `int_resolution`, and `models.build` does so for
# integrated models.
#
# For these reasons λ was chosen for each model separately, on validation subjects, as described in
# [Choose λ](06_choose.ipynb). The table shows Dice and folding of the stored runs, which trained a
# `VxmDense` with NCC for 1000 steps on slices of 15 real subjects. Each value is a mean over three
# seeds.

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
The rule chooses the largest λ whose Dice is within one standard error of the best. It gives
λ = {chosen[0]:g} for the plain model and λ = {chosen[7]:g} for the integrated one.

At λ = 0.01 the integrated model folds only {folded[0.01]:.3f} % of the brain, so its folding does
not show that this λ is too small. Its Dice does show it, because Dice is {overlap[0.01]:.3f} there
and {overlap[chosen[7]]:.3f} at the chosen λ.
""")

# %% [markdown]
# We therefore compare the two models at the λ that was chosen for each by Dice. The next cell
# trains the plain model with λ = 1, or loads it.

# %% tags=["hide-output"]
from dataclasses import replace

plain = runs.run(replace(settings, int_steps=0, lam=1.0), people)

# %% [markdown]
# Both models of this build are `VxmDense`, trained on the same slices for the same number of steps.
# The table shows means over the test pairs.

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
On these slices the Dice of the integrated model differs from that of the plain one by
{change:+.4f}. This is the mean over {len(pairs)} pairs of {len(people.split["test"])} test
subjects. Each model was trained once, with {len(people.split["train"])} training subjects and
{settings.steps} steps. A single run of each cannot show whether such a small difference comes from
integration or from chance.
""")

# %% [markdown]
# ## Make it fold
#
# In theory a flow never folds. On a grid it can fold if the velocity changes faster than the grid
# can represent. The next cell multiplies the velocity by a factor and integrates it with two, seven
# and ten squarings. The table gives the folded part of the brain in percent.

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
At eight times the velocity, {most["7 squarings"]:.2f} % of the brain is folded with seven
squarings and {most["2 squarings"]:.2f} % with two. Ten squarings do not solve the problem
({most["10 squarings"]:.2f} %), because they divide the time more finely but keep the same grid.
""")

# %% [markdown]
# ## Know the cost
#
# Each squaring interpolates the field once at every voxel of its grid. The next cell times the
# integration alone for a 3D image of 80 × 96 × 80 voxels. The field has the size of the image, half
# of it (the default) or a quarter.

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
Integration at half the size is several times faster than at full size. The 3D training runs took
{both.iloc[1]:.2f} hours with integration at half the size and {both.iloc[0]:.2f} hours without it.
These two times are only rough, because the two cores of the machine also did other work.
""")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Are seven squarings enough? Compare several numbers of squarings with Euler's
# method, which follows the velocity in 1000 small, straight steps.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
walked = warp.identity(velocity.shape[1:-1])
for _ in range(1000):
    walked = warp.compose(velocity[0] / 1000, walked)
for steps in (0, 1, 3, 5, 7, 9):
    flow = vxm.layers.VecInt(method="ss", int_steps=steps)(velocity)[0].numpy()
    distance = metrics.endpoint_error(flow, walked)
    print(f"squarings {steps}, distance {distance:.4f} voxels of the velocity's grid")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Yes, because the distance between the two results hardly changes beyond seven squarings. The
# distance that remains comes from interpolation, which differs between the two methods.
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
# - With `int_steps` above 0 the second output of the model is a velocity at half the size. The
#   displacement is `references.pos_flow`, which `register` returns.
# - Integrating minus the velocity gives the inverse, but minus the displacement is not the inverse.
# - An integrated model hardly folds at any λ, so folding cannot show whether λ is right. Choose λ
#   for it separately.
# - An integrated model can still fold where the velocity changes faster than its grid can
#   represent.
#
# **Read on:** [Dalca et al. 2019](https://doi.org/10.1016/j.media.2019.07.006) describe the model,
# and [Arsigny et al. 2006](https://doi.org/10.1007/11866565_113) the integration.
