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
# # Predict a distribution: the probabilistic model
#
# | | |
# |---|---|
# | **You will** | train voxelmorph's probabilistic network, draw several displacements for one pair, and map how much they differ |
# | **You will learn** | what the loss KL computes, what its settings mean, and whether the predicted uncertainty is larger where the error is larger |
# | **You need** | [Integrate a velocity](11_diffeomorphic.ipynb) |
# | **In → out** | one pair → the mean and the SD of its displacements |
# | **Not here** | the uncertainty of the weights of the network |
# | **Time** | 20 minutes |

# %% [markdown]
# The model of [the previous lesson](11_diffeomorphic.ipynb) predicts one velocity for each pair.
# The *probabilistic* model ([Dalca et al. 2018](https://doi.org/10.1007/978-3-030-00928-1_82),
# [2019](https://doi.org/10.1016/j.media.2019.07.006)) instead predicts a normal distribution of
# velocities, that is, a mean and a variance for each voxel and axis. In each training step, it
# draws a velocity from this distribution, integrates it, and warps the moving image with the
# result. The variance is meant to show where the registration is uncertain.

# %% [markdown]
# ## Set the parameters
#
# The default subjects are simulated, so their true displacements are known. This allows us to
# compare the predicted uncertainty with the actual error.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
spacing = 2.0
learning_rate = 0.001

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)

# %% [markdown]
# ## Look at the result first
#
# The probabilistic model has two settings: $\sigma$ (`image_sigma`), the assumed SD of the image
# noise, and λ of the prior (`prior_lambda`), which weights the smoothness. voxelmorph's documentation contradicts itself about
# their values. The help text of its training script recommends $\sigma = 0.02$ and λ = 10, but its
# README states $\sigma = 0.01$ and λ = 25 for the 2018 paper.
#
# The repository contains training runs with both pairs of values, on slices of 15 real training
# subjects at 2 mm, and runs of two models that are not probabilistic. All of them are a `VxmDense`
# with `int_steps=7`, trained with MSE and the same augmentation. The probabilistic models register
# with the mean velocity. The table shows results on validation subjects. The test subjects were not
# used.

# %%
from vxmlib.experiments.results import Comparison, results_folder

folder = results_folder()
real = Comparison(folder / "malf", folder.parent / "config" / "real.yaml")
stored = real.ablation("probabilistic")
words = {"dice": "Dice", "dice_sd": "SD over seeds"}
words |= {"folding_percent_brain": "folded, % of the brain"}
stored[list(words)].rename(index=real.titles, columns=words).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

usual, weaker = stored.loc["not probabilistic"], stored.loc["not probabilistic, weaker"]
script, readme = stored.loc["probabilistic, script"], stored.loc["probabilistic, README"]
Markdown(f"""
Each run has {usual["steps"]:.0f} steps, and each row is a mean over {usual["seeds"]:.0f} seeds. The
mean Dice is {script["dice"]:.3f} with the values of the script and {readme["dice"]:.3f} with those
of the README. Compared with the model that is not probabilistic and has λ = 0.01, these are
differences of {script["dice"] - usual["dice"]:+.3f} and {readme["dice"] - usual["dice"]:+.3f}.
""")

# %% tags=["remove-input"]
Markdown(f"""
For MSE, λ = 0.01 is the usual value. With λ = 0.001, the smoothness loss has the same weight as
with the values of the script, as the section "Relate the settings to λ" shows. The mean Dice of the
probabilistic model with these values, minus that of the model with λ = 0.001, is
{script["dice"] - weaker["dice"]:+.3f}.
""")

# %% [markdown]
# ## Build the network
#
# In voxelmorph, `use_probs=True` makes the network probabilistic. The next cell prints the shapes
# of the two outputs.

# %%
from vxmlib.backend import set_seed, tf, vxm

set_seed(settings.seed)
model = vxm.networks.VxmDense(people.shape, int_steps=7, use_probs=True)
print([tuple(output.shape) for output in model.outputs])

# %% [markdown]
# The first output is the warped image. The second one is the predicted distribution: in 2D, its
# first two channels are the means of the velocity, and the other two are the logs of its variances.
# voxelmorph calls the latter `log_sigma`, although the SD is `exp(log_sigma / 2)`. Both have
# the full size of the image, and the velocity is measured in voxels. The sampled velocity is then reduced to half the size and
# integrated, as in the previous lesson.

# %% [markdown]
# ## Understand the loss
#
# The loss is the sum of an image loss and the *Kullback–Leibler divergence* (KL):
#
# $$\frac{1}{\sigma^2} \, \text{MSE} + \text{KL}.$$
#
# The next cell creates both losses with the values of the script.

# %%
image_loss = vxm.losses.MSE(image_sigma=0.02)
kl = vxm.losses.KL(prior_lambda=10, flow_vol_shape=people.shape)

# %% [markdown]
# The KL divergence measures how far the predicted distribution is from a *prior*, which describes
# velocities before the images are seen. Here, the prior is a normal distribution with mean 0 that
# favours smooth velocities. Its λ (`prior_lambda`) is a precision: the larger it is, the smaller
# are the differences that the prior expects between the velocities of neighbouring voxels.
#
# In `vxm.losses.KL`, the divergence has two parts:
#
# $$\text{KL} = \frac{n}{2} \, \text{mean}\left(\lambda D s^2 - \log s^2\right)
# + \frac{n}{4} \, \lambda \, \text{Grad}.$$
#
# Here, $n$ is the number of axes, $s^2$ is the predicted variance, and $D$ is the number of
# neighbours of a voxel, which is 4 inside a slice. $\text{Grad}$ is the smoothness loss of the other
# lessons (`Grad("l2")`), here of the predicted mean. The second part is therefore the usual
# smoothness loss. The first part keeps the variance away from 0 and has its minimum at
# $s^2 = 1 / (\lambda D)$.
#
# The next cell checks the formula for random means and a variance of 1. The term $\log s^2$ is then
# 0, so it is not checked. Because the variance is the same everywhere, $D$ can be replaced by its
# mean, which is slightly below 4, because voxels at the border have fewer neighbours.

# %%
axes = people.ndim
mean = tf.random.normal((1, *people.shape, axes))
neighbours = 2 * sum(1 - 1 / size for size in people.shape)
grad = vxm.losses.Grad("l2").loss(None, mean)[0]
ours = axes / 2 * 10 * neighbours + axes / 4 * 10 * grad
theirs = kl.loss(None, tf.concat([mean, 0 * mean], axis=-1))
print(f"formula: {ours:.4f}, vxm.losses.KL: {theirs:.4f}")

# %% [markdown]
# > **Important: The loss is not exactly the one of the theory**
# >
# > - An exact KL divergence from this prior would contain Grad with a weight that is $2n$ times as
# >   large. The tests of this book compute this divergence on small grids.
# > - An image noise of SD σ would give MSE the weight $1 / (2\sigma^2)$, which is half as large.
# > - The option `--lambda` of voxelmorph's script also multiplies the KL loss, and its default is
# >   `0.01`. Set it to 1 ([thread 331](https://github.com/voxelmorph/voxelmorph/issues/331)).
# >
# > Because of the first two points, σ and λ are best understood as weights of a loss, not as
# > estimates of the image noise and of the velocities' precision.

# %% [markdown]
# ## Train with `fit()`
#
# ### `fit()` stops with "out of scope"
#
# The next cell compiles the network with a new `KL` loss and trains it.

# %% tags=["remove-stderr"]
from vxmlib import pairs
from vxmlib.book.errors import error_of

data = pairs.pair_dataset(people, people.split["train"], batch_size=1, seed=settings.seed)
losses = [image_loss.loss, vxm.losses.KL(prior_lambda=10, flow_vol_shape=people.shape).loss]
model.compile(tf.keras.optimizers.Adam(settings.learning_rate), loss=losses)
error = error_of(lambda: model.fit(data, steps_per_epoch=2, verbose=0))
print(error.partition(":")[0], "- out of scope:", "is out of scope" in error)

# %% [markdown]
# **Cause.** The loss computes the number of neighbours in its first call and keeps the result.
# Within `fit()`, this result belongs to the graph of one TensorFlow function, but Keras traces the
# training step a second time. voxelmorph's script avoids this problem because it switches off eager
# execution.
#
# **Remedy.** Call the loss once before `fit()`, with arrays of any values. Outside `fit()`, the
# result is an ordinary tensor, which every later trace can use. The loss `kl` was
# already called in the check of the formula, so the next cell compiles the network with it.

# %% tags=["hide-output"]
model.compile(
    tf.keras.optimizers.Adam(settings.learning_rate), loss=[image_loss.loss, kl.loss]
)
steps = {"steps_per_epoch": settings.steps_per_epoch, "epochs": settings.epochs}
history = model.fit(data, **steps, verbose=2)

# %% [markdown]
# ### `register()` returns a random sample
#
# The next cell computes the displacement of one test pair twice, as in the previous lesson.

# %%
from vxmlib import cohorts

test_pairs = cohorts.ordered_pairs(people.split["test"], limit=min(settings.pairs, 10))
moving, fixed = (people.image(subject) for subject in test_pairs[0])
batch = [image[None, ..., None] for image in (moving, fixed)]
to_displacement = tf.keras.Model(model.inputs, model.references.pos_flow)
first, second = (to_displacement.predict(batch, verbose=0) for _ in range(2))
print(f"largest difference: {abs(first - second).max():.2f} voxels")

# %% [markdown]
# **Cause.** The network also draws a velocity when it registers, so `references.pos_flow` and
# `model.register` return the displacement of a random sample. This is easily overlooked: each
# call of `model.register` builds a new Keras model, which may draw the same sample again if a seed
# was set with `tf.random.set_seed`.
#
# **Remedy.** Integrate the predicted mean. The next cell does this with the layers that the model
# itself uses.

# %%
predicted = model.predict(batch, verbose=0)[1]
half = vxm.layers.RescaleTransform(0.5)(predicted[..., :axes])
flow = vxm.layers.VecInt(method="ss", int_steps=7)(half)
by_mean = vxm.layers.RescaleTransform(2)(flow)[0].numpy()

# %% [markdown]
# Our function `probabilistic.register_by_mean` changes the model in this way. Afterwards, both
# `model.register` and our `models.register` return the displacement of the mean velocity. The
# displacement of the sample remains available as `references.sampled_flow`.

# %%
from vxmlib import models
from vxmlib.networks import probabilistic

probabilistic.register_by_mean(model)
difference = abs(models.register(model, moving, fixed) - by_mean).max()
print(f"largest difference: {difference:.0e} voxels")

# %% [markdown]
# Our function `probabilistic.build` combines all steps above: it builds the network, calls the loss
# once, compiles, and calls `register_by_mean`. The next cell uses it to train a second network with
# the values of the README.

# %% tags=["hide-output"]
set_seed(settings.seed)
options = {"image_sigma": 0.01, "prior_lambda": 25}
second_model = probabilistic.build(
    people.shape, **options, learning_rate=settings.learning_rate
)
second_model.fit(data, **steps, verbose=2)
trained = {"σ = 0.02, λ = 10": model, "σ = 0.01, λ = 25": second_model}

# %% [markdown]
# ## Draw samples
#
# To draw many samples for one pair, we repeat the pair in a batch. For a given network, the
# function `sampler` returns a function `draw`. For a pair, `draw` returns sampled displacements and
# the predicted SD of the velocity.

# %%
import numpy as np


def sampler(model):
    outputs = [model.references.sampled_flow, model.outputs[-1]]
    network = tf.keras.Model(model.inputs, outputs)

    def draw(moving, fixed, count=30):
        batch = [np.repeat(x[None, ..., None], count, axis=0) for x in (moving, fixed)]
        samples, distribution = network.predict(batch, batch_size=10, verbose=0)
        return samples, np.exp(distribution[0, ..., axes:] / 2)

    return draw


# %% [markdown]
# The next cell draws 30 displacements of the first test pair. To see whether the differences between
# the samples matter, we measure Dice and folding of three samples and of the displacement of the mean.

# %%
import pandas as pd

from vxmlib import metrics, warp


def score(u, pair):
    labels = warp.warp_labels(people.labels(pair[0]), u)
    dice = metrics.mean_dice(labels, people.labels(pair[1]), people.structures)
    return dice, metrics.folding(u, people.brain(pair[1])).percent_in_mask


samples, velocity_sd = sampler(model)(moving, fixed)
scores = {"mean velocity": score(by_mean, test_pairs[0])}
scores |= {f"sample {k}": score(samples[k], test_pairs[0]) for k in (0, 1, 2)}
pd.DataFrame(scores, index=["Dice", "folded, % of the brain"]).T.round(4)

# %% tags=["remove-input"]
mean_dice, *of_samples = (dice for dice, _ in scores.values())
apart = max(abs(dice - mean_dice) for dice in of_samples)
Markdown(f"""
The Dice of the three samples differs from that of the mean velocity by at most {apart:.3f}.
""")

# %% [markdown]
# ## Map the uncertainty
#
# The SD of the sampled displacements is the uncertainty of the registration that the model
# predicts. We compare it with the *error*, which is the distance between the displacement of the
# mean and the true displacement. The true displacement is known only for simulated subjects.

# %%
def error_of_pair(u, pair):
    if not people.simulated:
        return np.full(u.shape, np.nan)
    return people.spacing * (u - people.true_pair_displacement(*pair))


def length(field):
    return np.linalg.norm(field, axis=-1)


# %% [markdown]
# The figure shows both, and the predicted SD of the velocity. The latter differs from the SD of the
# displacement, because the sampled velocity is reduced to half the size, which averages neighbouring
# voxels, and then integrated. Each map combines both axes: its value is the square root of the sum
# of the squared SDs, or of the squared components of the error.

# %% mystnb={"image": {"alt": "Four panels of the same coronal slice: the fixed image, and maps of the SD of the velocity, the SD of the displacement and the error. The two SD maps resemble each other; the SD of the displacement also has a fine grid pattern. The error map has broad patches that do not resemble the SD maps, and its colour bar reaches far larger values."}, "figure": {"caption": "Predicted uncertainty and actual error for one test pair, in mm. The SD tends to be smaller where a change of the velocity would change the warped image, and larger in uniform regions, where the images hardly determine the velocity. The fine grid pattern comes from the integration at half the size. The SD is not an estimate of the error. The colour bars have different ranges, and the error is known only for simulated subjects.", "name": "fig-probabilistic-maps"}}
from vxmlib.book import figures

maps = [people.spacing * length(velocity_sd), people.spacing * length(samples.std(axis=0))]
maps.append(length(error_of_pair(by_mean, test_pairs[0])))
titles = ["fixed", "SD of the velocity", "SD of the displacement", "error of the mean"]
figures.maps_in_brain(fixed, maps, people.brain(test_pairs[0][1]), titles, label="mm");

# %% [markdown]
# ## Compare the uncertainty with the error
#
# A useful uncertainty should be large where the error is large. The next function measures this for
# one pair by the rank correlation over the voxels of the brain. For comparison, it also measures
# the rank correlation of the error with the intensity difference of the registered images, which
# requires no probabilistic model.

# %%
from scipy import stats


def compared(model, draw, pair):
    moving, fixed = (people.image(subject) for subject in pair)
    u, brain = models.register(model, moving, fixed), people.brain(pair[1])
    error, sd = error_of_pair(u, pair)[brain], people.spacing * draw(moving, fixed)[0].std(0)[brain]
    residual = abs(warp.warp_image(moving, u) - fixed)[brain]
    return {
        "error, mm": length(error).mean(),
        "SD, mm": length(sd).mean(),
        "within 2 SD, %": 100 * np.mean(abs(error) < 2 * sd),
        "correlation": stats.spearmanr(length(sd), length(error))[0],
        "of the residual": stats.spearmanr(residual, length(error))[0],
    }


# %% [markdown]
# The next cell applies this function to all test pairs that were drawn above.

# %%
draws = {name: sampler(each) for name, each in trained.items()}
rows = [
    {"settings": name} | compared(trained[name], draw, pair)
    for name, draw in draws.items()
    for pair in test_pairs
]
table = pd.DataFrame(rows).groupby("settings", sort=False)

# %% [markdown]
# The first table shows means over the pairs. "Within 2 SD" is the share of components of the
# displacement whose error is below two SD. It would be about `95` % if the errors had the
# predicted distribution.

# %%
means = table.mean()
means[["error, mm", "SD, mm", "within 2 SD, %"]].round(3)

# %% [markdown]
# The second table shows the rank correlations with the error: of the SD and of the intensity
# difference. Its last columns are the smallest and the largest correlation of the SD among the
# pairs.

# %%
each = {"SD": means["correlation"], "intensity difference": means["of the residual"]}
each |= {"SD, smallest": table["correlation"].min(), "SD, largest": table["correlation"].max()}
pd.DataFrame(each).round(3)

# %% tags=["remove-input"]
first_row, last_row = means.iloc[0], means.iloc[-1]
Markdown(
    f"""
With the values of the script, the mean error is {first_row["error, mm"]:.2f} mm, which is
{first_row["error, mm"] / first_row["SD, mm"]:.0f} times the mean SD of {first_row["SD, mm"]:.2f} mm.
Only {first_row["within 2 SD, %"]:.0f} % of the errors are within two SD. The mean rank correlation
of the SD with the error is {first_row["correlation"]:.2f} with the values of the script and
{last_row["correlation"]:.2f} with those of the README.
"""
    if people.simulated
    else "The true displacement of real subjects is unknown, so these columns are empty here."
)

# %% tags=["remove-input"]
Markdown(
    f"""
For the two models, the rank correlation of the intensity difference with the error is
{first_row["of the residual"]:.2f} and {last_row["of the residual"]:.2f}. All these correlations are
weak. In our setting (slices at {people.spacing:g} mm, {settings.steps} steps), the predicted SD is
thus far too small, and it shows the place of the error poorly or not at all. We have not tested
longer training or 3D.
"""
    if people.simulated
    else ""
)

# %% [markdown]
# Two properties of the model can explain why the SD is so small. First, the predicted variance
# treats the voxels as independent: it states how far one voxel could move while its neighbours stay
# where they are. Real errors often move a whole region together, but samples that are independent
# in each voxel almost never do this. Second, the prior limits the SD, as the next section shows.

# %% [markdown]
# ## Find out what sets the size of the SD
#
# In a uniform region, the images do not determine the velocity, so the SD should follow from the
# prior alone. The first part of KL has its minimum at an SD of $1 / \sqrt{\lambda D}$ voxels. The
# table compares this value with the median of the predicted SD of the velocity, for one axis, over
# the brain of the first test pair.

# %%
brain = people.brain(test_pairs[0][1])
lams = dict(zip(trained, (10, 25), strict=True))
sizes = {
    name: {
        "from λ alone": 1 / np.sqrt(lams[name] * 2 * axes),
        "predicted, median": np.median(draw(moving, fixed, count=2)[1][brain]),
    }
    for name, draw in draws.items()
}
pd.DataFrame(sizes).T.rename_axis("SD of the velocity, voxels").round(3)

# %% [markdown]
# If training was long enough, the two columns are similar, and the SD is smaller for the larger λ. A
# setting, λ, thus largely sets the size of the uncertainty. The rest may come from the images or
# from too short a training: an untrained network predicts a far smaller SD, because its bias starts
# at a `log_sigma` of −10.

# %% [markdown]
# ## Relate the settings to λ
#
# To compare the model with one that is not probabilistic, we multiply the loss of the probabilistic
# model by $\sigma^2$. The weight of MSE is then 1, and the formula above gives the weight
# $\sigma^2 \lambda n / 4$ of Grad. Our `models.build`, like voxelmorph's script, doubles Grad for a
# velocity at half the size. The corresponding λ of the model that is not probabilistic is therefore
# $\sigma^2 \lambda n / 8$.

# %%
for sigma, prior in ((0.02, 10), (0.01, 25)):
    print(f"σ = {sigma}, prior λ = {prior}: λ = {sigma**2 * prior * axes / 8:.6f}")

# %% [markdown]
# Both values are much smaller than the λ = 0.01 that is usual with MSE. The two pairs of values in
# voxelmorph's documentation thus differ less than they seem to, because the smaller σ partly
# compensates for the larger λ. The run with λ = 0.001 in the first table has the same weight of
# Grad as the values of the script, so the comparison with this run mainly shows the effect of the
# sampling and of the predicted variance. A small further difference is that Grad is computed at full
# size in the probabilistic model, and at half the size in the other one.

# %% tags=["remove-input"]
spread = stored["dice_sd"].max()
Markdown(f"""
The mean Dice of the probabilistic model minus that of this run is
{script["dice"] - weaker["dice"]:+.3f}, and the SD over seeds is at most {spread:.3f} in any row. All
models in the table integrate a velocity, so hardly any voxels fold: at most
{stored["folding_percent_brain"].max():.4f} % of the brain.

The difference in Dice is about as large as the SD over seeds, so it may be chance. Compared with the usual
λ = 0.01, all three models with a weaker smoothness loss have a lower Dice. In this setting, the
probabilistic model therefore does not raise Dice, and the lower Dice is mainly explained by the
weaker smoothness. We have not tried larger values of the prior λ.
""")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** The SD could be larger at places where the image is uniform. Compute the rank
# correlation of the predicted SD of the velocity with the length of the gradient of the fixed
# image.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
gradient = length(np.stack(np.gradient(fixed), axis=-1))
for name, draw in draws.items():
    sd = length(draw(moving, fixed, count=2)[1])
    print(f"{name}: {stats.spearmanr(sd[brain], gradient[brain])[0]:.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# A negative correlation means that the SD is smaller at edges. There, a change of the velocity
# changes the warped image, so the loss limits the variance. If the correlation is weak, edges explain
# only a small part of the differences in SD.
#
# </details>
#
# **Exercise 2.** Does the mean of many sampled displacements equal the displacement of the mean
# velocity?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
many = sampler(model)(moving, fixed, count=100)[0]
apart = length(many.mean(axis=0) - by_mean)[brain].mean()
print(f"mean distance: {apart:.4f} voxels")
print(f"standard error of the mean: {length(many.std(axis=0))[brain].mean() / 10:.4f} voxels")

# %% [markdown]
# <details><summary>Answer</summary>
#
# In general it does not, because the integration is not linear. Here, the SD is so small that the
# difference is of the size of the standard error of the mean over 100 samples.
#
# </details>
#
# ## Summary
#
# - With `use_probs=True`, the second output contains the mean and the log of the variance of the
#   velocity. The loss is MSE divided by σ², plus `vxm.losses.KL`.
# - Call the KL loss once before `fit()`, or training stops with an error.
# - `register` returns a random sample. Integrate the mean velocity if you need one displacement.
# - KL contains the smoothness loss Grad. Its λ is a precision of the prior, and it largely sets the
#   predicted SD.
# - Test a predicted uncertainty against known errors before you use it. Here, the SD was much
#   smaller than the error.
# - In our setting, the probabilistic model did not raise Dice.
#
# **Read on:** [Dalca et al. 2019](https://doi.org/10.1016/j.media.2019.07.006) derive the loss and
# describe the prior.
