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
# # Weigh smoothness with λ
#
# | | |
# |---|---|
# | **You will** | train a model with one λ, compare it with models trained with other settings, and run such experiments from the shell |
# | **You will learn** | what the smoothness weight λ changes, why each image loss needs its own λ, and how to run one or a hundred experiments |
# | **You need** | [Compile and fit](03_fit.ipynb), [Dice](04_dice.ipynb) and [Jacobian](05_jacobian.ipynb) |
# | **In → out** | λ, an image loss and a seed → one trained model and one record |
# | **Not here** | choosing λ, which takes many runs with several seeds ([Choose λ](06_choose.ipynb)) |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters up to `schedule` describe one experiment on simulated subjects (`mni`). `evaluate`
# selects the part of the data split whose pairs are registered and measured. `beside` lists other
# runs for comparison. Each entry contains only the parameters that differ from the first run.
#
# A model with `int_steps = 7` is called *integrated*, because it integrates a velocity. The
# integration prevents almost all folds, and the model needs a smaller λ than one without integration
# ([Integrate a velocity](11_diffeomorphic.ipynb)).

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
    {"lam": 0.1, "int_steps": 7},
]

# %%
from vxmlib.experiments import recording, runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
pairs = runs.pairs_of(people, evaluate)
print(len(pairs), evaluate, "pairs on a grid of", people.shape, "voxels")

# %% [markdown]
# This experiment will be repeated many times, so three parameters differ from the earlier lessons:
#
# - `spacing`: a slice at 2 mm has a quarter of the voxels of a slice at 1 mm, so a run is shorter.
# - `schedule`: the cosine schedule lowers the learning rate almost to zero by the last epoch, so
#   that runs differ less by chance.
# - `learning_rate`: the mean rate of this schedule is about half of its initial rate, so the
#   initial rate is larger than in [Compile and fit](03_fit.ipynb).

# %% [markdown]
# ## Train one run
#
# λ is the second of the two loss weights that Keras receives when the model is compiled:
#
# ```python
# model.compile(optimizer, loss=[ncc, grad], loss_weights=[1, lam])
# ```
#
# Here `ncc` and `grad` are the losses of [Build VxmDense](02_model.ipynb). `runs.run` builds this
# model, a `VxmDense`, and trains it with `fit()` as in [Compile and fit](03_fit.ipynb). If a run
# with the same parameters already exists, `runs.run` loads that run instead.

# %% tags=["hide-output"]
run = runs.run(settings, people)

# %% [markdown]
# The next cell trains or loads the runs of `beside` in the same way.

# %% tags=["hide-output"]
from dataclasses import replace

others = [replace(settings, **choice) for choice in beside]
trained = [run, *(runs.run(other, people) for other in others)]

# %% [markdown]
# ## See what λ changes
#
# The next cell evaluates every run on the same pairs. A smaller λ permits rougher displacements
# than a larger λ, so read Dice together with folding and with the SD of log det J.

# %%
import pandas as pd

identity = recording.measure("identity", people, pairs)
measured = [recording.measure(one.register, people, pairs) for one in trained]
table = pd.DataFrame(measured, index=[one.title for one in trained])
columns = {"dice_mean": "Dice", "folding_percent_brain": "folded, % of brain"}
columns |= {"sd_log_jacobian": "SD of log det J"}
table[list(columns)].rename(columns=columns).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

scores, folds = table["dice_mean"], table["folding_percent_brain"]
best, worst = scores.idxmax(), folds.idxmax()
Markdown(f"""
Before registration, the mean Dice is {identity["dice_mean"]:.3f}. After registration, the run
"{best}" has the highest mean Dice ({scores[best]:.3f}). The run "{worst}" has the most folding: it
folds {folds[worst]:.2f} % of the brain on average and reaches a mean Dice of {scores[worst]:.3f}.
""")

# %% [markdown]
# Each row shows one training run with one seed. The table therefore shows whether Dice and folding
# rise or fall with λ, but it cannot rank two values of λ with similar Dice.
#
# Few brain voxels are folded here, because simulated subjects are smooth deformations of one
# template. In [Choose λ](06_choose.ipynb), the runs are repeated with several seeds and on real
# subjects, where far more brain voxels are folded at a small λ.

# %% tags=["remove-cell"]
about = {"diverged": False, "split": evaluate, "identity_dice": identity["dice_mean"]}
recording.write_record("06_lambda", run, people, file=settings.name, **about, **measured[0])

# %% [markdown]
# ## Look at one pair
#
# A deformed grid shows where a displacement stretches, compresses or folds the tissue, which a
# single number cannot show. The next cell registers one pair with the model of each run.

# %%
from vxmlib import warp

moving_id, fixed_id = pairs[0]
moving, fixed = people.image(moving_id), people.image(fixed_id)
displacements = [one.register(moving, fixed) for one in trained]
warped = [warp.warp_image(moving, displacement) for displacement in displacements]

# %% [markdown]
# Step through the runs in the next figure, and compare the deformed grid of NCC at the smallest λ
# with that at the largest λ.

# %% mystnb={"figure": {"caption": "One pair, registered by the model of each run: the warped image with the edge of the fixed brain, the remaining intensity difference, the deformed grid, and log det J with folded voxels in magenta. Choose a run with the mouse, or with Tab and the arrow keys.", "name": "fig-lambda-steps"}}
from vxmlib.book import steppable

brain = people.brain(fixed_id)
steps = []
for one, image, field, row in zip(trained, warped, displacements, measured, strict=True):
    more = f"Dice over all pairs {row['dice_mean']:.3f}"
    step = steppable.registration_step(
        one.title, image, fixed, field, brain, label="run", more=more
    )
    steps.append(step)
steppable.steps(steps, name="choices", label="run", start=run.title)

# %% [markdown]
# ## Understand λ as an exchange rate
#
# The loss is the similarity term plus λ times the smoothness term. The training history contains
# both terms before weighting. With NCC, the similarity term is the negative NCC, so a lower value
# means a better match. The next cell prints both terms in the first and the last epoch.

# %%
first, last = run.history.iloc[0], run.history.iloc[-1]
weighted = settings.lam * last["smoothness_loss"]
for name in ("image_loss", "smoothness_loss"):
    print(f"{name:16} {first[name]:9.5f} → {last[name]:9.5f}")
print(f"λ · smoothness in the last epoch {weighted:.5f}")

# %% tags=["remove-input"]
gained = first["image_loss"] - last["image_loss"]
Markdown(f"""
From the first epoch to the last, the similarity term fell by {gained:.4f}. In the last epoch, the
smoothness term, multiplied by λ = {settings.lam:g}, contributes {weighted:.4f} to the loss.
""")

# %% [markdown]
# A change in the displacement lowers the loss only if the decrease in the similarity term is larger
# than λ times the increase in the smoothness term. λ is therefore an exchange rate between the two
# terms, and a suitable λ depends on the scales of both terms.

# %% [markdown]
# ## Compare the scales of NCC and MSE
#
# To compare the scales of the two image losses, the next cell takes the displacement that the first
# run predicts for the pair above. It computes by how much this displacement improves NCC and MSE.

# %%
from vxmlib import metrics

ncc_gain = metrics.local_ncc(warped[0], fixed) - metrics.local_ncc(moving, fixed)
mse_gain = ((moving - fixed) ** 2).mean() - ((warped[0] - fixed) ** 2).mean()
print(f"NCC improves by {ncc_gain:.4f}, MSE improves by {mse_gain:.5f}")

# %% tags=["remove-input"]
Markdown(f"""
For the same displacement, the improvement in NCC is {ncc_gain / mse_gain:.0f} times the improvement
in MSE. A λ that suits MSE is therefore far too small for NCC.
""")

# %% [markdown]
# The [authors' README](https://github.com/voxelmorph/voxelmorph) and their training script
# `train.py` recommend λ = 1 with NCC and λ = 0.01 with MSE. However, much public code combines NCC
# with λ = 0.01, the value recommended for MSE.
#
# Figure 7 of [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) shows Dice
# against λ, and [Ho digitised this figure](https://github.com/HoChengYun/TRY_voxelmorph). There,
# Dice with NCC is highest between λ = 1 and λ = 1.5. Dice with MSE is highest at λ = 0.02.

# %% [markdown]
# ## Know the scale of the smoothness term
#
# voxelmorph's `Grad` is the *mean* of the squared differences in displacement between neighbouring
# voxels, taken over voxels, components and axes:
#
# $$\text{Grad}(u) = \frac{1}{n_d^2}\;\frac{1}{|\Omega|}\sum_{x\in\Omega}\|\nabla u(x)\|^2$$
#
# Here $n_d$ is the number of axes and $\Omega$ is the set of voxels. The paper's formula contains
# $\|\nabla u\|^2$ at each voxel, which is the sum over components and axes, not the mean. The
# contribution of each voxel to `Grad` is therefore a quarter of the paper's sum in 2D and a ninth
# in 3D. Check this factor before you copy a λ from other code. The next cell tests the formula on a
# displacement with a known gradient.

# %%
import numpy as np

from vxmlib.backend import tf, vxm

x, y = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
stretch = tf.constant(np.stack([0.1 * x, 0 * y], axis=-1)[None], tf.float32)
value = float(tf.reduce_mean(vxm.losses.Grad("l2").loss(stretch, stretch)))
print(f"Grad {value:.6f}, ‖∇u‖² / nd² = {0.1**2 / 4:.6f}")

# %% [markdown]
# > **Note: Integrated models and λ**
# >
# > With `int_steps = 7`, the smoothness term is computed on the
# > [velocity](../book/glossary.md#velocity), whose grid has half as many voxels along each axis as
# > the image. voxelmorph's training script multiplies `Grad` by 2 in this case, and this book does
# > the same. Values of λ therefore cannot be compared between models with and without integration.

# %% [markdown]
# ## Run one experiment
#
# This page is itself one experiment. The program papermill executes the page with other parameters,
# each given by `-p`, and saves the executed page as `out.ipynb`. The second command below uses real
# subjects (`malf`).
#
# ```sh
# papermill notebooks/06_lambda.ipynb out.ipynb -p lam 0.5 -p seed 1
# papermill notebooks/06_lambda.ipynb out.ipynb -p image_loss mse -p lam 0.02 -p cohort malf
# ```
#
# Each experiment writes one JSON file, its record. The record contains the results of every pair,
# the parameters, the software versions and the commit of the code. The next cell prints the
# record's file name, which contains the main parameters.

# %%
print(f"{settings.name}.json")

# %% [markdown]
# ## Run a hundred experiments
#
# The file `config/lambda.yaml` describes grids of experiments. The grid `wide` forms every
# combination of the values listed in each line of `runs`, and repeats each combination with three
# seeds:
#
# ```yaml
# wide:
#   seeds: [0, 1, 2]
#   runs:
#     - {image_loss: ncc, lam: [0, 0.01, 0.1, 0.5, 1, 2, 5], int_steps: [0, 7]}
#     - {image_loss: mse, lam: [0, 0.001, 0.01, 0.02, 0.05, 0.1], int_steps: [0, 7]}
# ```
#
# The next command runs all combinations that have no record yet, and `CORES` sets how many of them
# run at the same time:
#
# ```sh
# make lambda GRID=wide COHORT=mni CORES=2
# ```

# %% tags=["remove-input"]
each = run.history["seconds"].sum()
Markdown(f"""
This grid has 78 runs. The training of the first run of this page took {each:.0f} s, so the whole
grid takes about {78 * each / 3600:.1f} h if the runs are executed one after another. This time
depends strongly on the processor and its load.
""")

# %% [markdown]
# The records are collected in `_build/lambda/wide-mni-quick/`. Finished runs are kept, so you can
# stop the command and start it again. If you add a λ to `config/lambda.yaml`, only the new runs are
# trained. If the loss of a run becomes NaN, its record states this, and the other runs continue.
#
# The next command runs the same grid on a SLURM cluster, with one job per run:
#
# ```sh
# snakemake --directory _build --profile config/slurm --config grid=wide cohort=mni -- lambda
# ```
#
# To prepare the cluster, follow [Run a λ grid on a cluster](../book/cluster.md).

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** At λ = 0, only the architecture of the network favours a smooth displacement.
# Which term remains in the loss, and does `fit()` still log the other term?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from vxmlib import models

free = models.build(people.shape, lam=0)
print(list(free.get_compile_config()["loss_weights"]), free.output_names)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the similarity term remains in the loss. The model still has the output `smoothness`, so
# `fit()` logs `smoothness_loss`. In the same way, a loss of weight 0 can monitor any quantity
# during training.
#
# </details>
#
# **Exercise 2.** Suppose that your images have intensities from 0 to ½ instead of 0 to 1. For which
# image loss must λ change, and by what factor?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
dark, dark_fixed = 0.5 * moving, 0.5 * fixed
ncc_values = metrics.local_ncc(moving, fixed), metrics.local_ncc(dark, dark_fixed)
print("NCC {:.4f} → {:.4f}".format(*ncc_values))
print(f"MSE ratio {((dark - dark_fixed) ** 2).mean() / ((moving - fixed) ** 2).mean():.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# MSE falls to a quarter, so λ for MSE must fall to a quarter, too. λ for NCC need not change,
# because the formula of NCC divides by the local variances. NCC changes only in windows that are
# almost flat.
#
# </details>
#
# **Exercise 3.** Divide λ · smoothness in the last epoch by the decrease in the similarity term
# since the first epoch. How large is this ratio?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
gain = run.history["image_loss"].iloc[0] - run.history["image_loss"]
cost = settings.lam * run.history["smoothness_loss"]
print(f"{(cost / gain).iloc[-1]:.2f} of the decrease in the similarity term")

# %% [markdown]
# ## Summary
#
# - λ is the weight of the smoothness term. With a smaller λ, the displacement becomes rougher and
#   may fold.
# - A suitable λ depends on the scales of both terms, so each image loss needs its own λ.
# - State how the smoothness term is normalised, because otherwise your λ cannot be reused.
# - For each λ, look at the deformed grid and the Jacobian determinant, not only at Dice.
# - One `papermill` command runs one experiment, and `make lambda` runs a grid of experiments.
#
# **Read on:** In [Choose λ](06_choose.ipynb), λ is chosen from the results of such a grid on
# validation subjects.
