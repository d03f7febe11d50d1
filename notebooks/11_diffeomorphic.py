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
# | **You need** | [the Jacobian](05_jacobian.ipynb) and [One run at one λ](06_lambda.ipynb) |
# | **In → out** | an integrated and a plain model → Dice, folding and inverses of both |
# | **Not here** | velocities that change over time |
# | **Time** | 20 minutes |

# %% [markdown]
# So far the network predicted the displacement itself. A diffeomorphic model predicts a
# [velocity](../book/glossary.md#velocity) $v$ instead. Every point flows along $v$ for one unit of
# time, and the way from its start to its end is the displacement. The paths of a smooth flow do not
# cross, so in theory nothing folds
# ([Dalca et al. 2019](https://doi.org/10.1016/j.media.2019.07.006)).

# %% [markdown]
# ## Set the parameters
#
# The parameters name the training run of an integrated model. It uses λ = 0.1, for a reason that
# the section on λ gives.

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
    raise ValueError("int_steps: found 0, expected at least 1: this lesson integrates")
people = runs.load_cohort(settings)

# %% [markdown]
# ## Look at the result first
#
# The committed comparison [in 3D](08_real.ipynb) has a plain and an integrated network. Both are
# strided U-Nets of the 2018 paper, trained with NCC on 15 real subjects at 2 mm, for 3000 steps.
# The table shows means over the 90 ordered pairs of ten test subjects.

# %%
from vxmlib.experiments.results import Comparison, results_folder

results = results_folder()
real = Comparison(results / "malf", results.parent / "config" / "real.yaml")

# %%
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
Integration changes Dice by {interval_text(gap)}, with an interval over subjects in brackets. It
lowers folding from {folds["ncc"]:.2f} % to {folds["ncc-integrated"]:.4f} % of the brain.
""")

# %% [markdown]
# A reader who needs invertible maps will take this exchange. The rest of the page shows how the
# model works, on the simulated slices of this build.

# %% [markdown]
# ## Build a model that integrates
#
# In voxelmorph a single argument turns the integration on. `int_steps=7` is the default of
# `VxmDense`, so many users run this model without knowing it.

# %%
from vxmlib.backend import tf, vxm

model = vxm.networks.VxmDense(people.shape, int_steps=7, int_resolution=2)
for layer in model.layers[-5:]:
    print(f"{type(layer).__name__:18} {layer.output_shape[1:]}")

# %% [markdown]
# The U-Net predicts a field at full size. The first `RescaleTransform` reduces it to half the size,
# `VecInt` integrates it there, and a second one enlarges the result to the size of the image. Then
# the `SpatialTransformer` warps the moving image with it.
#
# The next cell trains such a model, or finds the training run of this build. The network is
# `VxmDense`.

# %% tags=["hide-output"]
run = runs.run(settings, people)

# %% [markdown]
# We look at one pair of test subjects. With integration, `predict` returns the warped image and the
# velocity.

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
# the velocity by $2^7$, which makes it a very small displacement. It then composes the displacement
# with itself seven times, and each composition doubles the time. These are the few lines:

# %%
import numpy as np

from vxmlib import warp

flow = velocity[0] / 2**7
for _ in range(7):
    flow = warp.compose(flow, flow)

# %% [markdown]
# voxelmorph's layer `VecInt` does the same, and `RescaleTransform` enlarges the result and its
# values.

# %%
def integrate(velocity, steps=7):
    half = vxm.layers.VecInt(method="ss", int_steps=steps)(velocity[None])
    return vxm.layers.RescaleTransform(2)(half)[0].numpy()


# %% [markdown]
# The next cell compares our loop with the layer.

# %%
by_layer = vxm.layers.VecInt(method="ss", int_steps=7)(velocity)[0]
print(f"largest difference: {abs(flow - by_layer.numpy()).max():.0e} voxels")

# %% [markdown]
# ## Take the displacement, not the second output
#
# The second output of `predict` is the velocity at half the size, because the smoothness loss needs
# it. The displacement is a tensor inside the model, `references.pos_flow`.

# %%
to_displacement = tf.keras.Model(run.model.inputs, run.model.references.pos_flow)
displacement = to_displacement.predict(batch, verbose=0)[0]
print("second output:", velocity.shape[1:], " displacement:", displacement.shape)
print(f"differs from integrate: {abs(integrate(velocity[0]) - displacement).max():.0e} voxels")

# %% [markdown]
# voxelmorph's `model.register` returns this displacement, but it builds a new model in each call.
# `models.register` builds it once, checks the images, and returns an array without a batch axis.

# %%
from vxmlib import models

same = models.register(run.model, moving, fixed)
print(f"largest difference: {abs(same - displacement).max():.0e} voxels")

# %% [markdown]
# ### Measure the mistake
#
# We now measure what happens if the second output is taken for the displacement. The mistake
# matters most where deformations are large. The next cell therefore bends the moving subject of
# every test pair at random, together with its labels.

# %%
from vxmlib.augment import Augmentation, upsample

bend = Augmentation(flip=None, affine=0, shift=0, bend=2.0, width=8.0)
generator = np.random.default_rng(settings.seed)

# %%
bent = []
for first, second in pairs:
    change = bend.displacement(people.shape, generator)
    image = warp.warp_image(people.image(first), change)
    bent.append((image, warp.warp_labels(people.labels(first), change), second))

# %% [markdown]
# There are three ways to misread the velocity: as it comes, enlarged to the size of the image, or
# enlarged with its values doubled into voxels of the image.

# %%
def readings(image, second):
    inputs = [each[None, ..., None] for each in (image, people.image(second))]
    half = run.model.predict(inputs, verbose=0)[1][0]
    return {
        "velocity as it comes": half,
        "velocity, enlarged": upsample(half, 2),
        "velocity, enlarged and doubled": 2 * upsample(half, 2),
        "displacement": models.register(run.model, image, people.image(second)),
    }


# %% [markdown]
# Dice can be computed only where the field has the size of the labels. Folding is given in percent
# of the voxels of the field.

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
# The table shows means over the test pairs.

# %%
rows = [
    {"reading": name} | measured(u, labels, second)
    for image, labels, second in bent
    for name, u in readings(image, second).items()
]
read = pd.DataFrame(rows).groupby("reading", sort=False).mean()
read[["Dice", "folded, %", "SD of log det J"]].round(3).astype(object).fillna("–")

# %% tags=["remove-input"]
names_read = ["velocity as it comes", "velocity, enlarged", "velocity, enlarged and doubled"]
raw, small, straight = (read.loc[name] for name in names_read)
right = read.loc["displacement"]
unmoved = np.mean([measured(0 * same, x, s)["Dice"] for _, x, s in bent])
Markdown(f"""
Before registration these pairs have a Dice of {unmoved:.3f}. The enlarged velocity gives
{small["Dice"]:.3f}, which looks like a weak model, and the displacement gives {right["Dice"]:.3f}.
The doubled velocity gives {straight["Dice"]:.3f}, so Dice does not reveal this mistake.
""")

# %% tags=["remove-input"]
Markdown(f"""
Folding misleads in the other direction. Measured on the velocity as it comes,
{raw["folded, %"]:.2f} % of the voxels seem to fold, where the displacement folds
{right["folded, %"]:.3f} %. A reader of this number would conclude that integration does not work.
None of the wrong readings raises an error.
""")

# %% [markdown]
# ## Compute the inverse
#
# A flow is inverted by flowing backwards, that is by integrating $-v$. The negative *displacement*
# is not the inverse. The next cell measures how far from its start a point ends after it has gone
# there and back. It compares both with an inverse found by fixed-point iteration.

# %%
brain = people.brain(pairs[0][1])
ways = {
    "minus the velocity, integrated": integrate(-velocity[0]),
    "minus the displacement": -displacement,
    "fixed-point iteration": warp.inverse(displacement),
}
missed = {
    name: metrics.inverse_consistency(displacement, back, brain) for name, back in ways.items()
}
pd.Series(missed, name="mean distance in the brain, voxels").to_frame().round(4)

# %% [markdown]
# The integrated inverse needs no iteration, and only interpolation limits its accuracy. A plain
# displacement can be inverted by iteration too, but only where it does not fold. Because the inverse
# is so cheap, `VxmDense(..., bidir=True)` also returns the fixed image warped back, so that a
# training can compare both images.

# %% [markdown]
# ## Choose λ anew
#
# λ does not have the same meaning for the two models. It weighs the smoothness of the velocity in
# one and of the displacement in the other. In addition, voxelmorph's training script multiplies the
# loss `Grad` by `int_resolution`, and `models.build` does so for integrated models.
#
# So λ was chosen for each model separately, on validation subjects, as described in
# [Choose λ](06_choose.ipynb). The table shows the committed trainings on slices of 15 real subjects
# (`VxmDense`, NCC, 1000 steps, means over three seeds).

# %%
def grid(kind):
    table = pd.read_csv(results / "lambda" / "tables" / f"{kind}.csv")
    return table.query("cohort == 'malf' and image_loss == 'ncc'")


shown = {"Dice": grid("dice"), "folded, %": grid("folding")}
by_lam = {word: table.pivot(index="lam", columns="int_steps") for word, table in shown.items()}
by_lam = pd.concat({word: table["mean"] for word, table in by_lam.items()}, axis=1)
by_lam.rename(columns={0: "plain", 7: "integrated"}).rename_axis("λ").round(3)

# %% tags=["remove-input"]
chosen = grid("chosen").set_index("int_steps")["lam"]
overlap, folded = by_lam["Dice"][7], by_lam["folded, %"][7]
Markdown(f"""
The rule chooses λ = {chosen[0]:g} for the plain model and λ = {chosen[7]:g} for the integrated one.
At λ = 0.01 the integrated model folds only {folded[0.01]:.3f} % of the brain, although its Dice of
{overlap[0.01]:.3f} is lower than at the chosen λ ({overlap[chosen[7]]:.3f}).
""")

# %% [markdown]
# The folding of an integrated model is close to zero at every λ, so it cannot show that λ is too
# small. Dice on validation subjects makes the choice, and the two models are compared at the λ that
# was chosen for each.

# %% tags=["hide-output"]
from dataclasses import replace

plain = runs.run(replace(settings, int_steps=0, lam=1.0), people)

# %% [markdown]
# Both models of this build are `VxmDense`, trained on the same simulated slices for the same number
# of steps. The table shows means over the test pairs.

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
On these slices integration changes Dice by {change:+.4f}, over {len(pairs)} pairs of
{len(people.split["test"])} test subjects. Each model was trained once, with
{len(people.split["train"])} training subjects and {settings.steps} steps. One run of each cannot
say whether so small a difference has a cause.
""")

# %% [markdown]
# ## Make it fold
#
# In theory a flow never folds. On a grid it can, if the velocity changes faster than the grid can
# represent. The next cell multiplies the velocity and integrates it with two, seven and ten
# squarings.

# %%
def folded_share(scale, steps):
    field = integrate(scale * velocity[0], steps)
    return metrics.folding(field, brain).percent_in_mask


counts = {f"{steps} squarings": steps for steps in (2, 7, 10)}
scaled = {x: {name: folded_share(x, n) for name, n in counts.items()} for x in (1, 2, 4, 8)}
pd.DataFrame(scaled).T.rename_axis("velocity times").round(3)

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
At eight times the velocity {most["7 squarings"]:.2f} % of the brain is folded. More squarings do
not help ({most["10 squarings"]:.2f} % with ten), because the grid is too coarse and not the time.
Too few squarings make it worse ({most["2 squarings"]:.2f} % with two).
""")

# %% [markdown]
# ## Know the cost
#
# Each squaring interpolates the field once at every voxel of its grid. The next cell measures the
# integration alone on a 3D field, at the size of an image of 80 × 96 × 80 voxels, at half of it
# (the default) and at a quarter.

# %%
import timeit

cost = {}
for resolution in (1, 2, 4):
    field = tf.zeros((1, *(size // resolution for size in (80, 96, 80)), 3))
    layer = tf.function(vxm.layers.VecInt(method="ss", int_steps=7))
    layer(field)  # compiles
    seconds = timeit.timeit(lambda f=field, run=layer: run(f).numpy(), number=1)
    cost[resolution] = {"thousand voxels": np.prod(field.shape[1:-1]) / 1000, "seconds": seconds}
pd.DataFrame(cost).T.rename_axis("int_resolution").round(3)

# %% tags=["remove-input"]
both = real.trainings()["seconds"][["ncc", "ncc-integrated"]] / 3600
Markdown(f"""
Half the size makes integration several times cheaper. The 3D trainings took {both.iloc[1]:.2f}
hours with integration at half the size and {both.iloc[0]:.2f} hours without it, on two cores that
also did other work.
""")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Are seven squarings enough? Compare several numbers of squarings with a walk along
# the velocity in 1000 small, straight steps.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
walked = warp.identity(velocity.shape[1:-1])
for _ in range(1000):
    walked = warp.compose(velocity[0] / 1000, walked)
for steps in (0, 1, 3, 5, 7, 9):
    flow = vxm.layers.VecInt(method="ss", int_steps=steps)(velocity)[0].numpy()
    print(steps, f"{metrics.endpoint_error(flow, walked):.4f} voxels of the velocity's grid")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Yes. Beyond seven squarings the distance hardly changes. The rest of it comes from the
# interpolation.
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
# With the displacement. So the warped image is right even for those who misread the second output.
#
# </details>
#
# ## Summary
#
# - With `int_steps` above 0 the second output of the model is a velocity at half the size. The
#   displacement is `references.pos_flow`, which `register` returns.
# - Integrating minus the velocity gives the inverse; minus the displacement is not the inverse.
# - An integrated model hardly folds at any λ, so folding cannot show whether λ is right. Choose λ
#   for it separately.
# - It can still fold where the velocity is steeper than its grid can represent.
#
# **Read on:** [Dalca et al. 2019](https://doi.org/10.1016/j.media.2019.07.006) describe the model,
# and [Arsigny et al. 2006](https://doi.org/10.1007/11866565_113) the integration.
