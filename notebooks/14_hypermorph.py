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
# | **You will** | build voxelmorph's `HyperVxmDense`, train it with `fit()`, and compare its curve over λ with separately trained networks |
# | **You will learn** | how a network can take λ as an input, what this costs, and what one network cannot say |
# | **You need** | [Weigh smoothness with λ](06_lambda.ipynb) and [Choose λ](06_choose.ipynb) |
# | **In → out** | two images and λ → a displacement; the records of two long training runs → a curve |
# | **Not here** | the long training itself: `python -m tools.hyper` made the records that this page reads |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters name the subjects of the short demonstration. The records always show both the
# real and the simulated subjects of [Choose λ](06_choose.ipynb).

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

# %%
people = runs.load_cohort(settings)
print("grid of", people.shape, "voxels")

# %% [markdown]
# ## See the result first
#
# `sweep.hyper_curves` reads the record of one network that was trained for all λ, and
# `sweep.curve` the records of the networks that were trained for one λ each.

# %%
import pandas as pd

from vxmlib.experiments import sweep
from vxmlib.experiments.results import results_folder

# %%
folder = results_folder() / "lambda"
hyper_runs = pd.concat([sweep.hyper_curves(folder / name / "hyper") for name in sweep.SUBJECTS])
grid = pd.concat([sweep.runs(folder / name) for name in sweep.SUBJECTS])
plain = grid[(grid["image_loss"] == "ncc") & (grid["int_steps"] == 0)]

# %% [markdown]
# Both kinds of network were trained with NCC, without integration, on slices at 2 mm of the same
# training subjects (15 real or 40 simulated). They were measured on the same validation pairs.

# %%
from vxmlib.book import figures

measures = ("dice_mean", "folding_percent_brain")


# %%
def curves_of(name):
    part = plain[plain["cohort"] == name]
    curves = [sweep.curve(part, measure) for measure in measures]
    one = hyper_runs[hyper_runs["cohort"] == name]
    return figures.lambda_curves(*curves, identity=part["identity_dice"].iloc[0], hyper=one)


# %% mystnb={"image": {"alt": "Two panels for real subjects, Dice above and folding below, against lambda. Separately trained networks have bars over seeds; the curve of one network for all lambda is a dash-dotted line with higher Dice; a diamond marks a network of one lambda trained for as many steps, close to that line."}, "figure": {"caption": "Real subjects, NCC without integration: one network for all λ, networks trained for one λ each with bars over three seeds, and a network of one λ that was trained for as many steps as the one network (diamond).", "name": "fig-hypermorph-curve"}}
curves_of("malf");

# %% [markdown]
# The next cell computes the difference in Dice at each λ.

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
The one network has the higher Dice at every λ on real subjects, by {gain.min():.3f} to
{gain.max():.3f}. However, it was trained for {steps:.0f} steps instead of {plain_steps:.0f}, and a
plain network trained for as long at λ = 1 (diamond) gains no less. The benefit of the one network is therefore not
a higher Dice, but the whole curve from one training run.
""")

# %% [markdown]
# ## Understand the idea
#
# HyperMorph ([Hoopes et al. 2021](https://doi.org/10.1007/978-3-030-78191-0_1),
# [2022](https://doi.org/10.59275/j.melba.2022-74f1)) adds a second network, the *hypernetwork*.
# It consists of dense layers, takes a number $h$ between 0 and 1, and computes the weights of the
# registration network's convolutions. The loss of a training pair is
#
# $$(1 - h) \cdot \text{image loss} + h \cdot \text{Grad},$$
#
# and $h$ is drawn at random for each pair. The network thus learns all trade-offs at once, and a
# user sets $h$ after training.
#
# Only the ratio of the two weights decides where the loss is lowest. With NCC, a certain $h$
# therefore asks for the same displacement as $\lambda = h / (1 - h)$ in the usual loss, so
# $h = \tfrac{1}{2}$ corresponds to λ = 1.

# %% [markdown]
# ## Build voxelmorph's network
#
# voxelmorph has this network as `HyperVxmDense`. We build it beside a plain `VxmDense` with the
# same U-Net.

# %%
from vxmlib.backend import vxm
from vxmlib.models import FEATURES

# %% tags=["remove-stderr"]
unet = {"nb_unet_features": FEATURES["vxm2"], "int_steps": 0}
single = vxm.networks.VxmDense(people.shape, **unet)
raw = vxm.networks.HyperVxmDense(people.shape, nb_hyp_layers=6, nb_hyp_units=128, **unet)
print([tuple(each.shape) for each in raw.inputs])

# %% [markdown]
# The third input is $h$, with one number for each pair. The table counts the weights of both
# networks.

# %%
count = {"VxmDense": single.count_params(), "HyperVxmDense": raw.count_params()}
pd.Series(count, name="weights").to_frame()

# %% tags=["remove-input"]
ratio = count["HyperVxmDense"] / count["VxmDense"]
Markdown(f"""
With voxelmorph's default of 6 layers of 128 units, the hypernetwork makes the model {ratio:.0f}
times as large. Every weight of a convolution becomes a sum over all units of the last dense layer,
so the size grows with their number.
""")

# %% [markdown]
# The convolutions are replaced by a layer of neurite that takes its kernel from the dense layers.
# Only the last convolution, which makes the displacement, keeps weights of its own.

# %%
kinds = pd.Series([type(layer).__name__ for layer in raw.layers])
kinds[kinds.str.contains("Conv|Dense")].value_counts().to_frame("layers")

# %% [markdown]
# voxelmorph's script `train_hypermorph.py` weighs the losses by the input tensor itself
# (`model.references.hyper_val`). For this purpose it switches TensorFlow 2 behaviour off, which
# rules out many of the current features of Keras. We look for a way that keeps `fit()`.

# %% [markdown]
# ## Draw λ inside `train_step`
#
# Keras lets a model change one training step while `fit()` keeps the rest, such as callbacks and
# checkpoints. The class in `vxmlib.networks.hyper` inherits from voxelmorph's and overrides two
# methods. The first draws $h$, and the second weighs the two losses of each pair by it.

# %%
import inspect

from vxmlib.networks import hyper

for method in (hyper.HyperVxmDense.train_step, hyper.HyperVxmDense.compute_loss):
    print(inspect.getsource(method))

# %% [markdown]
# When a training loop of your own is needed at all is the subject of
# [the four situations](16_situations.ipynb).
#
# `hyper.build` compiles this model as `models.build` does. The records used a smaller
# hypernetwork, which trains about twice as fast.

# %%
model = hyper.build(
    people.shape, learning_rate=settings.learning_rate, hyper_layers=4, hyper_units=32
)
print(f"{model.count_params():,} weights")

# %% [markdown]
# > **Note: Two details of our version**
# >
# > neurite starts the generated kernels far too small, so that the image fades from layer to layer
# > and training takes long to begin. `hyper.build` starts them like those of a plain network.
# > For MSE, $h = \tfrac{1}{2}$ stands for λ = 0.01 (`middle=0.01`), because most draws would
# > otherwise fall on values of λ that are far too large for this loss.

# %% [markdown]
# ## Train a few steps and register at two λ
#
# The next cell takes ten steps to show that `fit()` works as before.

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
# The displacements differ although the weights are the same. After ten steps their quality means
# nothing; the comparison below uses the record of the complete training run.

# %% [markdown]
# ## Compare at equal length of training
#
# Longer training may raise Dice by itself. To separate the two effects, one plain network was
# trained at λ = 1 for as many steps as the one network.

# %%
alike = laid.dropna(subset="as_long_dice").set_index("subjects")
columns = {"mean": "plain", "as_long_dice": "plain, as long", "dice_mean": "one network"}
alike[list(columns)].rename(columns=columns).round(3)

# %% tags=["remove-input"]
longer = alike["as_long_dice"] - alike["mean"]
rest = alike["dice_mean"] - alike["as_long_dice"]
Markdown(f"""
The longer training alone raises Dice by {longer["real"]:.3f} on real and
{longer["simulated"]:.3f} on simulated subjects. Compared with the plain network of equal length, the
one network stands at {rest["real"]:+.3f} on real and {rest["simulated"]:+.3f} on simulated subjects.
""")

# %% [markdown]
# These last differences are undecided, because each long training was run with one seed only and
# the record keeps no values by pair. Where the one network is ahead, its size may be the reason.

# %% [markdown]
# ## Check the curve at small λ
#
# A curve is only useful if the network behaves at each λ like a network trained for this λ.
# Folding is the more sensitive test. The table shows real subjects.

# %%
separate = sweep.curve(plain, "folding_percent_brain").rename(columns={"mean": "separate"})
both = hyper_runs.merge(separate, on=[*sweep.GROUP, "lam"]).query("cohort == 'malf'")
both = both.rename(columns={"lam": "λ", "folding_percent_brain": "one network"})
both.set_index("λ")[["one network", "separate"]].round(2)

# %% tags=["remove-input"]
folds = both.set_index("λ")[["one network", "separate"]]
peak, plain_peak = real["dice_mean"].idxmax(), real["mean"].idxmax()
Markdown(f"""
At λ = 0.01, the one network folds {folds.loc[0.01, "one network"]:.1f} % of the brain, but
separately trained networks fold {folds.loc[0.01, "separate"]:.1f} %. Its Dice is highest at
λ = {peak:g} and theirs at λ = {plain_peak:g}. At λ = 1 it folds more than they do, but so does the
plain network that was trained for as long.
""")

# %% [markdown]
# The small λ are thus not reproduced in our setting (slices at 2 mm, `hyper_units=32`). A likely
# reason is that few draws of $h$ lie near 0: a tenth of them lie below λ = 0.11, and a hundredth below
# λ = 0.01. In addition, the network may first learn what all λ have in common. voxelmorph's script
# replaces two fifths of the draws by 0 or 1, which our training did not do.

# %% [markdown]
# ## Count the cost
#
# One step of the one network takes longer than a plain step, and it takes more steps to train, but
# only one training run is needed.
# Both steps were timed in turn in one process, and the table multiplies them by the number of
# steps.

# %%
cost = hyper_runs.groupby("cohort").first().rename(index=sweep.SUBJECTS)
n_lams = hyper_runs.groupby("cohort")["lam"].count().iloc[0]
one_seed = n_lams * cost["plain_steps"] * cost["plain_step_seconds"] / 60

# %%
minutes = {"one network": cost["steps"] * cost["step_seconds"] / 60}
minutes |= {f"{n_lams} λ, 1 seed": one_seed, f"{n_lams} λ, 3 seeds": 3 * one_seed}
pd.DataFrame(minutes).rename_axis("minutes").round(1)

# %% tags=["remove-input"]
cheaper = one_seed / minutes["one network"]
slower = cost["step_seconds"] / cost["plain_step_seconds"]
Markdown(f"""
A step takes {slower.min():.1f} to {slower.max():.1f} times as long as a plain step. Training the
{n_lams} networks of one seed takes {cheaper.min():.1f} to {cheaper.max():.1f} times as long as the
one network. The cost is therefore similar, but the one network also answers for every λ in between.
""")

# %% [markdown]
# > **Important: What one network cannot say**
# >
# > - How much seeds differ: that takes several training runs of any kind of network.
# > - Whether a small λ really folds as little as its curve shows.
# > - Which λ to report: the rule of [Choose λ](06_choose.ipynb) is still needed, with validation
# >   subjects and standard errors over subjects.
# > - Anything about our untested cases: integrated models, MSE and 3D have no record.
#
# One network for every λ is a good choice if λ must be set after training, for example for each
# data set or structure, as [Hoopes et al. 2022](https://doi.org/10.59275/j.melba.2022-74f1)
# propose. If you know the useful range of λ, a few plain networks with several seeds answer the
# question more reliably. You can also combine both: find the range on the curve, then train plain
# networks within it.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** What does the network learn at $h = 0$ and at $h = 1$? Convert both to λ.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for h in (0, 0.5, 1):
    print(f"h = {h:g}: λ = {hyper.lam_of(h):g}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# At $h = 0$ only the images count (λ = 0). At $h = 1$ only smoothness counts, so the best
# displacement is 0 everywhere (λ is infinite).
#
# </details>
#
# **Exercise 2.** Draw many $h$ and count how many stand for λ = 0.1 to λ = 10. Then take the same draws
# for MSE with `middle=1` and count how many exceed λ = 0.02.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
h = hyper.draw(10_000, seed=0, step=0).numpy()
lams = h / (1 - h)
print(f"between: {np.mean((lams > 0.1) & (lams < 10)):.2f}, above: {np.mean(lams > 0.02):.2f}")

# %% [markdown]
# **Exercise 3.** Train the one network for the cohort `mni` yourself with the command below. How
# much does its curve change with the seed?
#
# ```sh
# python -m tools.hyper --cohort mni --seed 1 --results my_results
# ```
#
# <details><summary>Answer</summary>
#
# `sweep.hyper_curves("my_results/mni/hyper")` reads the new record. Compare its `dice_mean` with
# that of the same λ in `hyper_runs`.
#
# </details>

# %% [markdown]
# ## Summary
#
# - HyperMorph computes the weights of the registration network from λ and draws λ at random during
#   training.
# - voxelmorph's `HyperVxmDense` has λ as its third input; a `train_step` of a few lines lets `fit()`
#   train it.
# - Compare it with plain networks that were trained for as many steps.
# - In our setting, its Dice at λ = 1 was close to that of a plain network of equal length, but at
#   small λ it folded less than networks trained for these λ.
# - One training run says nothing about seeds.
#
# **Read on:** [Hoopes et al. 2022](https://doi.org/10.59275/j.melba.2022-74f1) tune several
# hyperparameters at once, for each data set and structure.
