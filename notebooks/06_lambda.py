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
# # Weigh smoothness: one λ at a time
#
# | | |
# |---|---|
# | **You will** | train at one λ, see what its two terms weigh, and put other choices beside it |
# | **You will learn** | why λ = 1 with NCC and λ = 0.01 with MSE ask for about the same, and what λ buys |
# | **You need** | [lesson 6](05_jacobian.ipynb) |
# | **In → out** | λ, a loss, a seed → one trained model, one record |
# | **Not here** | the choice of λ, which takes many runs and several seeds: [lesson 10](06_choose.ipynb) |
# | **Time** | 20 minutes |

# %% [markdown]
# This page is one λ experiment. Run it with another λ, loss or seed and it leaves another record:
#
# ```sh
# papermill notebooks/06_lambda.ipynb out.ipynb -p lam 0.5 -p seed 1
# papermill notebooks/06_lambda.ipynb out.ipynb \
#     -p image_loss mse -p lam 0.02 -p cohort malf
# ```
#
# `beside` lists what this page shows next to its own run; each entry changes the parameters that
# it names.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0
spacing = 2.0
learning_rate = 0.001
schedule = "cosine"
evaluate = "validation"
beside = [
    {"lam": 0.01},
    {"lam": 0.1},
    {"lam": 5.0},
    {"image_loss": "mse", "lam": 0.01},
    {"int_steps": 7},
]

# %%
from vxmlib import metrics, warp
from vxmlib.experiments import recording, runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
pairs = runs.pairs_of(people, evaluate)
print(settings.name)
print(len(pairs), evaluate, "pairs on a grid of", people.shape, "voxels")

# %% [markdown]
# Two parameters are new. Voxels of 2 mm make a run four times cheaper in 2D than those of the
# lessons before, so that we can afford many. And the learning rate falls along half a cosine to
# nothing. At a constant rate a short training ends wherever its last zigzag was, and two runs
# differ by luck as much as by λ.

# %% [markdown]
# ## Train
#
# One call is all of [lesson 4](03_fit.ipynb): build, train, watch validation pairs, keep the
# weights. A run that was trained before is found again.

# %% tags=["hide-output"]
run = runs.run(settings, people)

# %% [markdown]
# ## What λ weighs
#
# The loss is *similarity* + λ · *smoothness*. The history holds both terms without their weights:

# %%
first, last = run.history.iloc[0], run.history.iloc[-1]
weighted = settings.lam * last["smoothness_loss"]
print(f"similarity  {first['image_loss']:9.5f} → {last['image_loss']:9.5f}")
print(
    f"smoothness  {first['smoothness_loss']:9.5f} → {last['smoothness_loss']:9.5f}"
)
print(f"λ · smoothness at the end  {weighted:.5f}")

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    lam=settings.lam,
    gained=first["image_loss"] - last["image_loss"],
    paid=weighted,
)

# %% [markdown]
# Between the first epoch and the last the similarity term fell by {glue:text}`gained:.4f`; the
# field that did it costs {glue:text}`paid:.4f` at λ = {glue:text}`lam:g`. λ sets this price: the
# network takes a deformation as long as what it gains in similarity is more than what it pays.
#
# So λ has the unit "similarity per roughness", and it means nothing without both scales. The
# other side of the trade is the similarity's scale. Take one pair and ask both losses what its
# registration gained:

# %%
moving_id, fixed_id = pairs[0]
moving, fixed = people.image(moving_id), people.image(fixed_id)
displacement = run.register(moving, fixed)
warped = warp.warp_image(moving, displacement)
ncc_gain = metrics.local_ncc(warped, fixed) - metrics.local_ncc(moving, fixed)
mse_gain = ((moving - fixed) ** 2).mean() - ((warped - fixed) ** 2).mean()
print(f"NCC gained {ncc_gain:.4f}, MSE gained {mse_gain:.5f}")

# %% tags=["remove-cell"]
glue.glue(ncc_gain=ncc_gain, mse_gain=mse_gain, ratio=ncc_gain / mse_gain)

# %% [markdown]
# The same deformation is worth {glue:text}`ncc_gain:.3f` to NCC and {glue:text}`mse_gain:.4f` to
# MSE, {glue:text}`ratio:.0f` times less. That is why a λ that belongs to MSE must not be given to
# NCC: λ = 0.01, the authors' value for MSE, circulates as the value for NCC, where theirs is
# λ = 1 {cite}`balakrishnan2019tmi`.
#
# Smoothness has a scale, too. voxelmorph's `Grad` is the *mean* of the squared differences over
# voxels, components and axes:
#
# $$\text{Grad}(u) = \frac{1}{n_d^2}\;\frac{1}{|\Omega|}\sum_{x\in\Omega}\|\nabla u(x)\|^2$$
#
# with $n_d$ axes. The paper writes the sum $\|\nabla u\|^2$ per voxel. The same field therefore
# costs a quarter of the paper's expression in 2D and a ninth in 3D, and λ of one code can only be
# carried to another after this factor is known. A test of the formula on a field whose gradient
# we know, a stretch by a tenth along the first axis:

# %%
import numpy as np

from vxmlib.backend import tf, vxm

x, y = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
stretch = np.stack([0.1 * x, 0 * y], axis=-1)[None]
field = tf.constant(stretch, tf.float32)
value = float(tf.reduce_mean(vxm.losses.Grad("l2").loss(field, field)))
print(f"Grad {value:.6f}, ‖∇u‖² / nd² = {0.1**2 / 4:.6f}")

# %% [markdown]
# With integration (`int_steps = 7`) the smoothed field is the velocity, on a grid of half the
# size; voxelmorph's script then multiplies Grad by 2, and so do we.

# %% [markdown]
# ## What came out
#
# Dice and the field, on pairs of people that the network did not learn from:

# %%
identity = recording.measure("identity", people, pairs)
measured = recording.measure(run.register, people, pairs)
print(f"Dice {identity['dice_mean']:.3f} → {measured['dice_mean']:.3f}")
print(f"folding {measured['folding_percent_brain']:.3f} % of the brain")
print(f"SD of log det J {measured['sd_log_jacobian']:.3f}")

# %% tags=["remove-cell"]
glue.glue(
    n_pairs=len(pairs),
    before=identity["dice_mean"],
    dice=measured["dice_mean"],
    folding=measured["folding_percent_brain"],
)
recording.write_record(
    "06_lambda",
    run,
    people,
    file=settings.name,
    diverged=False,
    split=evaluate,
    identity_dice=identity["dice_mean"],
    **measured,
)

# %% [markdown]
# Over {glue:text}`n_pairs` pairs Dice went from {glue:text}`before:.3f` to
# {glue:text}`dice:.3f`, with {glue:text}`folding:.3f` % of the brain folded. These numbers, pair
# by pair, and everything that made them are now in one JSON file, named after the parameters.
#
# A training that diverges stops with an error that says so; in a grid it becomes a row that says
# so, and the other runs go on.

# %% [markdown]
# ## Other choices, side by side
#
# Now the same with one choice changed at a time. Runs that a grid has made already are only
# looked up.

# %% tags=["hide-output"]
from dataclasses import replace

others = [replace(settings, **choice) for choice in beside]
trained = [run, *(runs.run(other, people) for other in others)]

# %%
import pandas as pd

rows = [recording.measure(r.register, people, pairs) for r in trained]
table = pd.DataFrame(rows, index=[r.title for r in trained])
names = ["dice_mean", "folding_percent_brain", "sd_log_jacobian"]
table[names].round(4)

# %% tags=["remove-cell"]
by_title = table[["dice_mean", "folding_percent_brain"]]
glue.glue(
    n_choices=len(trained),
    best=by_title["dice_mean"].idxmax(),
    best_dice=by_title["dice_mean"].max(),
    roughest=by_title["folding_percent_brain"].idxmax(),
    roughest_folding=by_title["folding_percent_brain"].max(),
    roughest_dice=by_title["dice_mean"][
        by_title["folding_percent_brain"].idxmax()
    ],
)

# %% [markdown]
# Of these {glue:text}`n_choices` runs the best overlap has {glue:text}`best`, with Dice
# {glue:text}`best_dice:.3f`. The most folds has {glue:text}`roughest`:
# {glue:text}`roughest_folding:.2f` % of the brain, with Dice {glue:text}`roughest_dice:.3f`.
# One seed each: before one λ is called better than another, several seeds have to say how far
# they differ by themselves.
#
# Look at one pair through each of these models. The grid and the map tell more of a λ than a
# number does: where the tissue was stretched, where squeezed, where torn.

# %% mystnb={"figure": {"caption": "One pair, registered by each of the runs: the warped image with the fixed brain's edge, what is left of the difference, the deformed grid, and log det J with folded voxels in magenta. Choose a run with the mouse, or with Tab and the arrow keys.", "name": "fig-07-steps"}}
from vxmlib.book import steppable

brain = people.brain(fixed_id)
steps = []
for one, row in zip(trained, rows, strict=True):
    field = one.register(moving, fixed)
    image = warp.warp_image(moving, field)
    more = f"Dice over all pairs {row['dice_mean']:.3f}"
    steps.append(
        steppable.registration_step(
            one.title, image, fixed, field, brain, label="run", more=more
        )
    )
steppable.steps(steps, name="choices", label="run", start=run.title)

# %% [markdown]
# ## A hundred of them
#
# One page a run is the unit; a grid of runs is a list of parameters. `config/lambda.yaml` states
# it, and
#
# ```sh
# make lambda GRID=wide COHORT=mni CORES=2
# ```
#
# runs what is missing, as many at a time as there are cores. Stop it and start it again: finished
# runs stay. Add a λ to the file: only its runs are new. A run that diverges becomes a row that
# says so. [The page on clusters](../book/cluster.md) takes the same grid to one.

# %% [markdown]
# ## On your own
#
# **Exercise 1.** At λ = 0 nothing keeps the field smooth but the network itself. What is the
# loss worth then, and which term does `fit()` still log?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from vxmlib import models

free = models.build(people.shape, lam=0)
print(free.get_compile_config()["loss_weights"], free.output_names)

# %% [markdown]
# The similarity alone. `smoothness_loss` is still logged, with weight 0: a loss of weight 0 is a
# way to watch a quantity.
#
# **Exercise 2.** Your images have half the intensity range, from 0 to ½. Which λ must follow, and
# which need not?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
dark, dark_fixed = 0.5 * moving, 0.5 * fixed
print(f"NCC {metrics.local_ncc(moving, fixed):.4f}", end=" → ")
print(f"{metrics.local_ncc(dark, dark_fixed):.4f}")
print(f"MSE ratio {((dark - dark_fixed) ** 2).mean() / ((moving - fixed) ** 2).mean():.2f}")

# %% [markdown]
# MSE falls to a quarter, so its λ must, too. NCC divides by the local variance and stays as it
# is, but for windows so flat that its `eps` shows.
#
# **Exercise 3.** Where does this run's λ · smoothness stand against the similarity it bought,
# epoch by epoch? Give the share at the end.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
bought = run.history["image_loss"].iloc[0] - run.history["image_loss"]
paid = settings.lam * run.history["smoothness_loss"]
print(f"{(paid / bought).iloc[-1]:.2f} of what was bought")

# %% [markdown]
# ## What you take along
#
# - λ is a price, similarity per roughness; it means nothing without the scale of both terms.
# - NCC and MSE differ in scale, and so do their λ; a λ belongs to its loss.
# - Name the normalisation of the smoothness term, or your λ cannot be carried over.
# - Look at the grid and the Jacobian for each λ, not only at Dice.
# - One run is an anecdote; a λ is chosen over seeds, on validation people ([lesson
#   10](06_choose.ipynb)).
#
# **Read on:** the papers' own choice of λ {cite}`balakrishnan2019tmi`, made on 3D brains.
