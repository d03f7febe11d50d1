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
# # Train one network for every λ
#
# | | |
# |---|---|
# | **You will** | build voxelmorph's `HyperVxmDense`, train it with `fit()`, and compare its results at each λ with those of separately trained networks |
# | **You will learn** | how a network can take λ as an input, what such a network costs, and which questions it leaves open |
# | **You need** | [Weigh smoothness with λ](06_lambda.ipynb) and [Choose λ](06_choose.ipynb) |
# | **In → out** | two images and λ → a displacement; the records of two long training runs → curves over λ |
# | **Not here** | the long training runs: `python -m tools.hyper` made the records that this page reads |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters describe a short training run that only shows how the network is used. All results
# come from stored records of long runs on the real and the simulated subjects of [Choose
# λ](06_choose.ipynb).

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
print("grid of", people.shape, "voxels")

# %% [markdown]
# ## See the result first
#
# We compare two kinds of network. The *network for all λ* takes λ as an input and was trained once
# for each cohort. Each *plain network* was trained for a single λ. The next cell reads the records
# of both kinds.

# %%
import pandas as pd

from vxmlib.experiments import sweep
from vxmlib.experiments.results import results_folder

folder = results_folder() / "lambda"
hyper_runs = pd.concat([sweep.hyper_curves(folder / name / "hyper") for name in sweep.SUBJECTS])
grid = pd.concat([sweep.runs(folder / name) for name in sweep.SUBJECTS])
plain = grid[(grid["image_loss"] == "ncc") & (grid["int_steps"] == 0)]

# %% [markdown]
# Both kinds of network were trained with NCC and without integration, on slices at 2 mm. In each
# cohort, they had the same training subjects (15 real or 40 simulated) and were measured on the
# same validation pairs. The function `curves_of` plots Dice and folding against λ for one cohort.

# %%
from vxmlib.book import figures

measures = ("dice_mean", "folding_percent_brain")


def curves_of(name):
    part = plain[plain["cohort"] == name]
    curves = [sweep.curve(part, measure) for measure in measures]
    one = hyper_runs[hyper_runs["cohort"] == name]
    return figures.lambda_curves(*curves, identity=part["identity_dice"].iloc[0], hyper=one)


# %% [markdown]
# The figure compares the two kinds of network on the real subjects.

# %% mystnb={"image": {"alt": "Two panels for real subjects show Dice (above) and folding (below) against lambda. The curve of the plain networks has bars over seeds. The network for all lambda is a dash-dotted curve with higher Dice than the plain networks, less folding at small lambda, and more at lambda 1 and 2. A diamond close to the dash-dotted curve marks a plain network trained for as many steps."}, "figure": {"caption": "Dice and folding on validation pairs of real subjects, with NCC and without integration. Bars of the plain networks reach from the lowest to the highest value of three seeds. The diamond is a plain network trained for as many steps as the network for all λ.", "name": "fig-hypermorph-curve"}}
curves_of("malf");

# %% [markdown]
# The next cell subtracts the mean Dice of the plain networks from that of the network for all λ, at
# each λ.

# %%
laid = hyper_runs.merge(sweep.curve(plain, "dice_mean"), on=[*sweep.GROUP, "lam"])
laid["subjects"] = laid["cohort"].map(sweep.SUBJECTS)
laid["difference"] = laid["dice_mean"] - laid["mean"]
laid.pivot(index="lam", columns="subjects", values="difference").rename_axis("λ").round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

steps, plain_steps = hyper_runs[["steps", "plain_steps"]].iloc[0]
real = laid[laid["cohort"] == "malf"].set_index("lam")
gain = real["difference"]
Markdown(f"""
On real subjects, the network for all λ has a higher Dice than the plain networks at every λ. The
difference ranges from {gain.min():.3f} to {gain.max():.3f}. However, the network for all λ was
trained for {steps:.0f} steps, the plain networks for {plain_steps:.0f}. A plain network trained for
as many steps at λ = 1 (diamond) has a similar Dice. The main benefit is therefore not a higher
Dice, but a whole curve from one training run.
""")

# %% [markdown]
# ## Understand the idea
#
# HyperMorph ([Hoopes et al. 2021](https://doi.org/10.1007/978-3-030-78191-0_1),
# [2022](https://doi.org/10.59275/j.melba.2022-74f1)) adds a second network, the *hypernetwork*. The
# hypernetwork consists of dense layers. From a number $h$ between 0 and 1, it computes the weights
# of the registration network's convolutions. The loss of a training pair is
#
# $$(1 - h) \cdot \text{image loss} + h \cdot \text{Grad},$$
#
# where $\text{Grad}$ is the smoothness loss and $h$ is drawn at random for each pair. The network
# thus learns all trade-offs between the two losses at once, and a user chooses $h$ after training.
#
# Only the ratio of the two loss weights determines where the loss is lowest. Each $h$ therefore
# corresponds to $\lambda = h / (1 - h)$ in the usual loss, and $h = \tfrac{1}{2}$ corresponds to
# λ = 1. This conversion suits NCC; a note below describes another one for MSE.

# %% [markdown]
# ## Build voxelmorph's network
#
# voxelmorph's class `HyperVxmDense` contains both networks. The next cell builds such a model and a
# plain `VxmDense` with the same U-Net.

# %% tags=["remove-output"]
from vxmlib.backend import vxm
from vxmlib.models import FEATURES

unet = {"nb_unet_features": FEATURES["vxm2"], "int_steps": 0}
single = vxm.networks.VxmDense(people.shape, **unet)
raw = vxm.networks.HyperVxmDense(people.shape, nb_hyp_layers=6, nb_hyp_units=128, **unet)

# %% [markdown]
# `HyperVxmDense` has three inputs. The next cell prints their shapes.

# %%
print([tuple(each.shape) for each in raw.inputs])

# %% [markdown]
# The third input is $h$, one number for each pair. The table counts the weights of each model.

# %%
count = {"VxmDense": single.count_params(), "HyperVxmDense": raw.count_params()}
pd.Series(count, name="weights").to_frame()

# %% tags=["remove-input"]
ratio = count["HyperVxmDense"] / count["VxmDense"]
Markdown(f"""
voxelmorph's default hypernetwork has 6 layers of 128 units. With this hypernetwork, the model has
{ratio:.0f} times as many weights as `VxmDense`. Each weight of a convolution is computed as a
weighted sum over the units of the last dense layer, so the model grows with the number of these
units.
""")

# %% [markdown]
# neurite, voxelmorph's library of layers, provides a convolution layer whose kernel is computed by
# the dense layers. Only the last convolution, which computes the displacement, has ordinary
# weights. The next cell counts the layers of each kind.

# %%
kinds = pd.Series([type(layer).__name__ for layer in raw.layers])
kinds[kinds.str.contains("Conv|Dense")].value_counts().to_frame("layers")

# %% [markdown]
# voxelmorph's script `train_hypermorph.py` uses the input tensor of $h$
# (`model.references.hyper_val`) to weight the losses. For this purpose, the script switches
# TensorFlow 2 behaviour off, so many current features of Keras cannot be used. The next section
# shows a method that keeps these features available.

# %% [markdown]
# ## Draw λ inside `train_step`
#
# In Keras, a model can define its own training step, while `fit()` provides the rest, such as
# callbacks and checkpoints. Our class in `vxmlib.networks.hyper` inherits from voxelmorph's
# `HyperVxmDense` and defines such a step. The next cell prints two methods of our class.
# `train_step` draws $h$, and `compute_loss` weights the image loss of each pair by $1 - h$ and its
# smoothness loss by $h$.

# %%
import inspect

from vxmlib.networks import hyper

for method in (hyper.HyperVxmDense.train_step, hyper.HyperVxmDense.compute_loss):
    print(inspect.getsource(method))

# %% [markdown]
# You therefore need no training loop of your own here. For cases that require one, see [the four
# situations](16_situations.ipynb).
#
# The function `hyper.build` builds and compiles our model, as `models.build` does for a plain
# model. The next cell uses the hypernetwork of the stored runs, which is smaller than the default
# one and trains about twice as fast.

# %%
model = hyper.build(
    people.shape, learning_rate=settings.learning_rate, hyper_layers=4, hyper_units=32
)
print(f"{model.count_params():,} weights")

# %% [markdown]
# > **Note: Two details of our version**
# >
# > neurite initialises the computed kernels with values that are far too small. The signal
# > therefore becomes weaker from layer to layer, and the loss hardly falls at first. `hyper.build`
# > instead initialises the kernels like those of a plain network.
# >
# > For MSE, $h = \tfrac{1}{2}$ corresponds to λ = 0.01 (`middle=0.01`). With the conversion for
# > NCC, most draws would give a λ that is far too large for MSE.

# %% [markdown]
# ## Train a few steps and register at two λ
#
# The next cell trains for ten steps to show that `fit()` works as for a plain network.

# %% tags=["remove-stderr"]
from vxmlib import pairs

batches = pairs.pair_dataset(people, people.split["train"], batch_size=1, seed=settings.seed)
history = model.fit(batches, steps_per_epoch=10, verbose=2)

# %% [markdown]
# The same network then registers one pair at two values of λ. `hyper.h_of` converts λ to $h$.

# %%
import numpy as np

first, second = people.split["validation"][:2]
for lam in (0.1, 5):
    displacement = hyper.register(model, people.image(first), people.image(second), lam)
    length = np.linalg.norm(displacement, axis=-1).mean()
    print(f"λ = {lam:g}, h = {hyper.h_of(lam):.2f}: mean length {length:.3f} voxels")

# %% [markdown]
# The two displacements differ only because of λ. After only ten steps, neither their lengths nor
# their quality can be interpreted. The comparisons below therefore use the records of the complete
# training runs.

# %% [markdown]
# ## Compare after the same number of steps
#
# Longer training may raise Dice by itself. To separate this effect from that of the hypernetwork, a
# plain network was trained at λ = 1 for as many steps as the network for all λ. The table shows the
# Dice of all three kinds of network at λ = 1.

# %%
alike = laid.dropna(subset="as_long_dice").set_index("subjects")
columns = {"mean": "plain", "as_long_dice": "plain, same steps", "dice_mean": "for all λ"}
alike[list(columns)].rename(columns=columns).round(3)

# %% tags=["remove-input"]
longer = alike["as_long_dice"] - alike["mean"]
rest = alike["dice_mean"] - alike["as_long_dice"]
Markdown(f"""
Longer training alone raises the Dice of plain networks by {longer["real"]:.3f} on real and
{longer["simulated"]:.3f} on simulated subjects. After the same number of steps, the Dice of the
network for all λ differs from that of the plain network by {rest["real"]:+.3f} on real and by
{rest["simulated"]:+.3f} on simulated subjects.
""")

# %% [markdown]
# These differences do not show which network is better. Each long training run used one seed only,
# and the records do not contain the Dice of each pair, so we cannot compute an interval. The higher
# Dice on simulated subjects may also come from the larger size of the network for all λ.

# %% [markdown]
# ## Check the curve at small λ
#
# The curve is useful only if the network for all λ behaves at each λ like a network trained for
# this λ. Folding is a better test of this condition than Dice, because folding changes more with λ.
# The table shows the percentage of the brain that is folded, on real subjects.

# %%
separate = sweep.curve(plain, "folding_percent_brain").rename(columns={"mean": "plain"})
both = hyper_runs.merge(separate, on=[*sweep.GROUP, "lam"]).query("cohort == 'malf'")
both = both.rename(columns={"lam": "λ", "folding_percent_brain": "for all λ"})
both.set_index("λ")[["for all λ", "plain"]].round(2)

# %% tags=["remove-input"]
folds = both.set_index("λ")[["for all λ", "plain"]]
long_folds = both["as_long_folding"].dropna().item()
peak, plain_peak = real["dice_mean"].idxmax(), real["mean"].idxmax()
Markdown(f"""
At λ = 0.01, the network for all λ folds {folds.loc[0.01, "for all λ"]:.1f} % of the brain, whereas
plain networks fold {folds.loc[0.01, "plain"]:.1f} %. The Dice of the network for all λ is highest
at λ = {peak:g}, and that of plain networks at λ = {plain_peak:g}.

At λ = 1, however, the network for all λ folds more than plain networks do. Longer training may
explain this difference, because the plain network trained for as many steps folds
{long_folds:.2f} %.
""")

# %% [markdown]
# In our setting (slices at 2 mm, `hyper_units=32`), the network for all λ thus does not reproduce
# the folding of plain networks at small λ. A likely reason is that few draws of $h$ are close to 0.
# A tenth of the draws give values below λ = 0.11, and a hundredth below λ = 0.01. voxelmorph's
# script replaces two fifths of the draws by 0 or 1, but our training did not (`oversample=0`). In
# addition, the network may learn the differences between λ values last.

# %% [markdown]
# ## Count the cost
#
# The network for all λ needs more steps than a plain network, and more time per step, but only one
# training run. The steps of both kinds of network were timed alternately, in one process on the
# same processor. The table shows the training time, which is the time per step multiplied by the
# number of steps. The last two columns give the total time to train one plain network for each λ.

# %%
cost = hyper_runs.groupby("cohort").first().rename(index=sweep.SUBJECTS)
n_lams = hyper_runs.groupby("cohort")["lam"].count().iloc[0]
one_seed = n_lams * cost["plain_steps"] * cost["plain_step_seconds"] / 60
minutes = {"for all λ": cost["steps"] * cost["step_seconds"] / 60}
minutes |= {f"{n_lams} λ, 1 seed": one_seed, f"{n_lams} λ, 3 seeds": 3 * one_seed}
pd.DataFrame(minutes).rename_axis("minutes").round(1)

# %% tags=["remove-input"]
cheaper = one_seed / minutes["for all λ"]
slower = cost["step_seconds"] / cost["plain_step_seconds"]
Markdown(f"""
A step of the network for all λ takes {slower.min():.1f} to {slower.max():.1f} times as long as a
step of a plain network. Training {n_lams} plain networks with one seed takes {cheaper.min():.1f} to
{cheaper.max():.1f} times as long as training the network for all λ. The costs are therefore
similar, but the network for all λ can also register at any λ in between.
""")

# %% [markdown]
# > **Important: Questions that one network leaves open**
# >
# > - One training run does not show how much the results vary between seeds.
# > - The curve of this network may show too little folding at small λ.
# > - The rule of [Choose λ](06_choose.ipynb) is still needed to choose the reported λ, with
# >   validation subjects and standard errors over subjects.
# > - We have not tested integrated models, MSE or 3D.
#
# A network for all λ is a good choice if λ must be set after training, for example for each data
# set or structure, as [Hoopes et al. 2022](https://doi.org/10.59275/j.melba.2022-74f1) propose. If
# you know the useful range of λ, a few plain networks with several seeds allow a more reliable
# choice than one network for all λ. You can also combine both methods: find the useful range with
# the curve, and choose λ with plain networks within this range.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** What does the network learn at $h = 0$ and at $h = 1$? Convert both values of $h$
# to λ.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for h in (0, 0.5, 1):
    print(f"h = {h:g}: λ = {hyper.lam_of(h):g}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# At $h = 0$, only the image loss counts (λ = 0). At $h = 1$, only the smoothness loss counts (λ is
# infinite), so a displacement of 0 everywhere is optimal.
#
# </details>
#
# **Exercise 2.** Draw many values of $h$. What share of the draws corresponds to λ = 0.1 to λ = 10?
# What share would exceed λ = 0.02 if MSE used the same conversion (`middle=1`)?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
h = hyper.draw(10_000, seed=0, step=0).numpy()
lams = h / (1 - h)
print(f"share from λ = 0.1 to 10: {np.mean((lams > 0.1) & (lams < 10)):.2f}")
print(f"share above λ = 0.02: {np.mean(lams > 0.02):.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Most draws give values between λ = 0.1 and λ = 10, which suits NCC. But almost all draws exceed
# λ = 0.02, so few remain for the smaller λ that suit MSE. For MSE, `hyper.build` therefore uses
# `middle=0.01`.
#
# </details>
#
# **Exercise 3.** Train the HyperMorph network on the cohort `mni` with the command below, once for
# each of two seeds. By how much do the two curves differ?
#
# ```sh
# python -m tools.hyper --cohort mni --seed 1 --results my_results
# ```
#
# <details><summary>Answer</summary>
#
# Use `sweep.hyper_curves("my_results/mni/hyper")` to read the new record. Compare its `dice_mean`
# at each λ with that of the cohort `mni` in `hyper_runs`.
#
# </details>

# %% [markdown]
# ## Summary
#
# - HyperMorph computes the weights of the registration network from λ and draws λ at random during
#   training.
# - voxelmorph's `HyperVxmDense` takes $h$, which represents λ, as its third input. With a
#   `train_step` and a `compute_loss` of a few lines, `fit()` can train this model.
# - Compare a network for all λ with plain networks trained for as many steps.
# - In our setting, both kinds of network had a similar Dice at λ = 1 after the same number of steps.
#   At small λ, the network for all λ produced less folding than plain networks.
# - One training run does not show how much the results vary between seeds.
#
# **Read on:** [Hoopes et al. 2022](https://doi.org/10.59275/j.melba.2022-74f1) tune several
# hyperparameters at once, for each data set and structure.
