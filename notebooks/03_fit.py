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
# # Compile and train with `fit()`
#
# | | |
# |---|---|
# | **You will** | compile VxmDense, train it with `fit()`, monitor the training on validation subjects, and save and load the model |
# | **You will learn** | what `fit()` requires, how to read the training history, and how to judge convergence |
# | **You need** | [the network and its losses](02_model.ipynb) |
# | **In → out** | training subjects → a trained model in a file, and its training history |
# | **Not here** | registration of the test subjects ([the next lesson](04_dice.ipynb)) |
# | **Time** | 20 minutes to read; the page prints the training time |

# %% [markdown]
# ## Set the parameters
#
# The parameters below describe the main training of this page. `lam` is the weight λ of the
# smoothness loss. You can also set parameters from the shell, for example with
# `papermill notebooks/03_fit.ipynb out.ipynb -p lam 0.5`.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
kind = "simulated" if people.simulated else "real"
print(len(people.split["train"]), kind, "training subjects, grid", people.shape)

# %% [markdown]
# ## Try the smallest call
#
# `fit()` needs three things: data in the form `(inputs, targets)`, a compiled model, and a number
# of steps. This section prepares all three for a trial network. The model for the main training is
# built later.
#
# ### Give each output a target
#
# VxmDense has two inputs and two outputs (the warped image and the displacement).
#
# - The **inputs** are `[moving, fixed]`, the two images that the network sees.
# - The **targets** are `[fixed, zero_field]`, one for each output. The warped image is compared
#   with the fixed image. The target of the displacement is a field of zeros: Keras requires a
#   target for every output, but the smoothness loss ignores these zeros.
#
# The first axis of every array is the batch axis, and the last is the channel axis. The
# displacement has one channel for each spatial axis.

# %%
import numpy as np

train = people.split["train"]
moving, fixed = (people.image(i)[None, ..., None] for i in train[:2])
zero_field = np.zeros((1, *people.shape, people.ndim), "float32")
print("image", moving.shape, "  field", zero_field.shape)

# %% [markdown]
# ### Compile before you fit
#
# A new `VxmDense` has neither an optimiser nor a loss, so Keras cannot train it. The next cell
# deliberately calls `fit()` before `compile` and prints the error. `int_steps=0` makes the network
# predict the displacement instead of a velocity, as in the journal paper ([Balakrishnan et al.
# 2019](https://doi.org/10.1109/TMI.2019.2897538)).

# %%
from vxmlib.backend import tf, vxm

small = vxm.networks.VxmDense(people.shape, int_steps=0)
try:
    small.fit([moving, fixed], [fixed, zero_field])
except RuntimeError as error:
    print(error)

# %% [markdown]
# `compile` adds an optimiser, one loss for each output, and the weight of each loss. The losses are
# listed in the order of the outputs: the image loss with weight 1, then the smoothness loss with
# weight λ.

# %%
optimizer = tf.keras.optimizers.Adam(settings.learning_rate)
both_losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
small.compile(optimizer, loss=both_losses, loss_weights=[1, settings.lam])

# %% [markdown]
# ### Count steps, not epochs
#
# A step is one update of the network's weights from one batch. The data set of `pairs.pair_dataset`
# yields random pairs of subjects indefinitely, so `steps_per_epoch` must set the length of an
# epoch.
#
# `fit()` also accepts the data set `plain` of [Prepare the data](01_data.ipynb). We use
# `pairs.pair_dataset` instead, because it checks every image and can continue an interrupted
# training. The next cell trains for two short epochs.

# %%
from vxmlib import pairs

data = pairs.pair_dataset(people, train, batch_size=1, seed=settings.seed)
trial = small.fit(data, epochs=2, steps_per_epoch=4, verbose=2)

# %% [markdown]
# The argument `verbose=2` prints one line for each epoch, which suits a log file. The default, a
# progress bar, suits a terminal.

# %% tags=["remove-input"]
from IPython.display import Markdown

ordered = len(train) * (len(train) - 1)
Markdown(f"""
Usually, `steps_per_epoch` is the size of the data set divided by the batch size, so that an epoch
is one pass over the data. This rule does not apply here, because the {ordered:,} ordered pairs of
{len(train)} subjects are drawn with replacement. An epoch is therefore only the interval between
two lines of the log. Report the number of steps instead.
""")

# %% tags=["remove-input"]
Markdown(f"""
The table compares the settings of the main training with those of the journal paper.

| Training | Steps | Batch size | Learning rate |
|---|---|---|---|
| this page | {settings.steps:,} | {settings.batch_size} | {settings.learning_rate:g} |
| [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) | 150,000 | 1 | 0.0001 |

The profiles `smoke` and `quick` train for far fewer steps than the paper, so they use a larger
learning rate. For a long training run, use the paper's rate, as in [the previous
lesson](02_model.ipynb). The profile `full` uses the paper's value in every column of the table.
""")

# %% [markdown]
# ### Read the history
#
# `fit()` returns an object whose attribute `history` is a dictionary. It contains one list for each
# loss, with one value for each epoch.

# %%
for name, values in trial.history.items():
    print(f"{name:27}", *(f"{value:9.2g}" for value in values))

# %% [markdown]
# `loss` is the total loss: the image loss plus λ times the smoothness loss. The other two entries
# are the image loss and the smoothness loss before weighting, named after the output layers. The
# image loss is the negative NCC, because Keras minimises the loss.
#
# Each step uses a random pair, so the loss can rise or fall by chance over a few steps. Eight steps
# therefore do not show whether the training works.

# %% [markdown]
# ## Know what Keras does for you
#
# | What you must know | What Keras does |
# |---|---|
# | why `compile` comes before `fit` | computes and applies the gradients |
# | the form of the data: `(inputs, targets)`, with one target for each output | compiles the training step and runs it |
# | the number of steps | fetches batches and moves them to the GPU |
# | what the history contains | averages the losses and calls the callbacks |
#
# This page needs no training loop of your own. For cases that justify the effort of writing one,
# see [Four situations](16_situations.ipynb).

# %% [markdown]
# ## Compile the model of this run
#
# The model for the main training is built and compiled with the calls shown above and three
# additions:
#
# - The seed is set, so that the initial weights are the same in every run.
# - The number of feature channels in each layer of the U-Net is given. We use voxelmorph's default,
#   which this book calls `vxm2`.
# - The outputs get short names, so the log contains `image_loss` and `smoothness_loss`.

# %%
from vxmlib import backend, losses, models

backend.set_seed(settings.seed)
encoder, decoder = models.FEATURES["vxm2"]
features = [encoder, decoder]
model = vxm.networks.VxmDense(people.shape, features, int_steps=settings.int_steps)
model.output_names = ["image", "smoothness"]
print(encoder, decoder, f"{model.count_params():,} parameters")

# %% [markdown]
# The image loss is `losses.LocalNCC`, which `losses.image_loss("ncc")` returns. `LocalNCC` computes
# the same function as `vxm.losses.NCC`, but faster, because it uses running sums. The next cell
# computes both losses for one pair to check that they agree up to rounding.

# %%
both = tf.constant(fixed), tf.constant(moving)
for image_term in (vxm.losses.NCC().loss, losses.LocalNCC().loss):
    print(f"{np.mean(image_term(*both)):.6f}")

# %% [markdown]
# The next cell compiles the model. The argument `loss_mult` of `Grad` multiplies the smoothness
# loss. This factor is 1 unless the model integrates a velocity. The velocity grid then has half the
# resolution of the image, and the factor is 2, as in voxelmorph's training script.

# %%
coarser = 2 if settings.int_steps else 1
model.compile(
    tf.keras.optimizers.Adam(settings.learning_rate),
    loss=[
        losses.image_loss(settings.image_loss),
        vxm.losses.Grad("l2", loss_mult=coarser).loss,
    ],
    loss_weights=[1, settings.lam],
)

# %% [markdown]
# The other lessons call `models.build`, which checks its arguments and makes the same calls.

# %% [markdown]
# ## Add what a long training needs
#
# A training run of several hours must survive an interruption, and its progress must be measured on
# subjects that are not used for training. Keras provides callbacks for such tasks, and `fit()`
# calls them, for example, after each epoch. The callbacks of this book are in `vxmlib.training`.
#
# ### Watch validation subjects
#
# The loss is computed without labels, so it does not measure how well structures overlap. The
# callback `RegistrationMonitor` therefore registers a few pairs of validation subjects after each
# epoch. It adds two values to the log: the mean Dice of these pairs, and the mean percentage of
# brain voxels where the displacement [folds](../book/glossary.md#folding).

# %%
from vxmlib import training

validation_pairs = runs.validation_pairs(people)
monitor = training.RegistrationMonitor(people, validation_pairs)
print(len(validation_pairs), "validation pairs")

# %% [markdown]
# ### Continue after an interruption
#
# The function `training.restore` returns the number of finished epochs, which is 0 for a new
# folder. After an interruption, the function also loads the last
# [checkpoint](../book/glossary.md#checkpoint), including the state of the optimiser, into the
# model. It raises an error if the folder contains a run with a different model, loss or setting.

# %%
folder = runs.run_folder(settings)
names = ("seed", "batch_size", "steps_per_epoch", "schedule")
course = {name: getattr(settings, name) for name in names}
done = training.restore(model, folder, settings=course)

# %% [markdown]
# ### Keep the files of the run
#
# The function `training.callbacks` adds four callbacks to the monitor and returns a list of all
# five.

# %%
callbacks = training.callbacks(folder, monitor)
print([type(callback).__name__ for callback in callbacks])

# %% [markdown]
# | Callback | Task |
# |---|---|
# | `StopOnNonFinite` | stops the training at the first loss that is NaN or infinite, and lists likely causes |
# | `RegistrationMonitor` | measures Dice and folding of the validation pairs |
# | `KeepWeights` | saves the weights with the lowest validation loss (`best.h5`) and the final weights (`last.h5`) |
# | `KeepHistory` | adds a row to `history.csv` |
# | `KeepCheckpoint` | writes the checkpoint that `training.restore` reads |
#
# The order of the callbacks matters. The monitor comes before `KeepHistory`, so that the history
# includes Dice and folding. `KeepCheckpoint` comes last, so that an epoch counts as finished only
# when all its files have been written.

# %% [markdown]
# ## Train
#
# The next cell prepares the training pairs and the validation pairs. `start_step` is the number of
# finished steps, so a resumed training continues with the pairs that it would have drawn without
# the interruption. `field_shape` is the grid size of the field of zeros.

# %%
field_shape = models.field_shape(model)
training_pairs = pairs.pair_dataset(
    people,
    train,
    batch_size=settings.batch_size,
    seed=settings.seed,
    start_step=done * settings.steps_per_epoch,
    field_shape=field_shape,
)
validation_data = pairs.listed_pairs(people, validation_pairs, field_shape=field_shape)

# %% [markdown]
# The next cell calls `fit()` as in the trial, but adds the callbacks and the validation pairs. The
# log is hidden, because the history contains the same values.

# %% tags=["hide-output"]
model.fit(
    training_pairs,
    initial_epoch=done,
    epochs=settings.epochs,
    steps_per_epoch=settings.steps_per_epoch,
    validation_data=validation_data,
    callbacks=callbacks,
    verbose=2,
)
history = training.history(folder)

# %% [markdown]
# Two functions can replace the code above. `training.fit` replaces all calls from `restore` to
# `fit()`, and it locks the folder against a second process. `runs.run(settings)` does the same and
# also builds the model. The code above does not lock the folder, so do not run two copies of this
# page at the same time.

# %% tags=["remove-input"]
minutes = history["seconds"].sum() / 60
took = f"{minutes:.1f} minutes on this machine ({backend.device_summary()})"
which = "after the first two and the last two epochs"
Markdown(f"The training took {took}. The table shows the values {which}.")

# %%
columns = {
    "step": "step",
    "val_loss": "validation loss",
    "val_dice": "validation Dice",
    "val_folding_percent": "folded, % of the brain",
}
ends = history.set_index("epoch").iloc[[0, 1, -2, -1]]
ends[list(columns)].rename(columns=columns).round(3)

# %% [markdown]
# ## Read the curves
#
# The first figure shows the image loss alone, which should fall during training.

# %% mystnb={"image": {"alt": "Line plot of the image loss against optimiser steps for training and validation pairs. Both lines fall steeply at first and then more and more slowly."}, "figure": {"caption": "Image loss during the training. Each training value is the mean over the random pairs of one epoch, so it also depends on which pairs were drawn. The validation pairs are the same in every epoch.", "name": "fig-fit-image-loss"}}
from vxmlib.book import figures

columns = {"image_loss": "training", "val_image_loss": "validation"}
figures.curves(history, columns, ylabel=f"{settings.image_loss.upper()} loss");

# %% [markdown]
# The smoothness loss changes in the opposite direction. It starts near zero, because an untrained
# network predicts almost no displacement, and it *rises* during training. This rise is no cause
# for concern, because a better alignment requires a displacement that varies more from place to
# place.

# %% mystnb={"image": {"alt": "Line plot of the smoothness loss against optimiser steps for training and validation pairs. Both lines start near zero, rise steeply and then level off."}, "figure": {"caption": "Smoothness loss during the training, before multiplication by λ.", "name": "fig-fit-smoothness"}}
columns = {"smoothness_loss": "training", "val_smoothness_loss": "validation"}
figures.curves(history, columns, ylabel="Grad loss, before λ");

# %% [markdown]
# ## Judge convergence by more than the loss
#
# A falling loss shows that the optimiser works. It does not show that structures overlap better,
# because the loss is computed without labels. The next figure therefore also shows Dice and
# folding.

# %% mystnb={"image": {"alt": "Three stacked line plots against optimiser steps. The total loss falls for training and validation pairs, validation Dice rises, and the folded percentage of the brain fluctuates at a low level."}, "figure": {"caption": "Total loss of training and validation pairs, and Dice and folding of validation pairs, during the training.", "name": "fig-fit-convergence"}}
figures.convergence(history);

# %% [markdown]
# Three questions help to judge the training:
#
# 1. How far has validation Dice risen above its value without registration (the
#    [identity](../book/glossary.md#identity))?
# 2. How much of this rise occurred in the last quarter of the training?
# 3. Were the lowest validation loss and the highest validation Dice reached at the same step?
#
# The next cell answers the first two questions.

# %%
from vxmlib import metrics

before = metrics.evaluate_pairs(people, validation_pairs, "identity")
start = metrics.summary(before)["dice_mean"]
quarter = history["val_dice"].iloc[-max(len(history) // 4, 1) - 1 :]
rise, late_rise = history["val_dice"].iloc[-1] - start, quarter.iloc[-1] - quarter.iloc[0]
print(f"rise in Dice {rise:.4f}, of which {late_rise:.4f} in the last quarter")

# %% [markdown]
# To answer the third question, the next cell finds the steps with the lowest validation loss and
# with the highest validation Dice.

# %%
lowest_loss = history.loc[history["val_loss"].idxmin(), "step"]
highest_dice = history.loc[history["val_dice"].idxmax(), "step"]
print(f"lowest loss at step {lowest_loss}, highest Dice at step {highest_dice}")

# %% tags=["remove-input"]
share = 100 * late_rise / rise
verdict = "Dice was still rising, so the training had not converged when it stopped"
if share < 5:
    verdict = "Dice had almost stopped rising, so more steps would change it little"
Markdown(f"""
Validation Dice rose from {start:.3f} without registration to {start + rise:.3f} at the last step.
The last quarter of the steps contributed {share:.0f} % of this rise. {verdict}. In a
report, state whether Dice was still rising at the end.
""")

# %% tags=["remove-input"]
early = history["val_dice"].iloc[0]
side = "lower" if early < start else "higher"
text = f"After the first epoch, Dice was {early:.3f}, which is {side} than before registration."
above = history.loc[history["val_dice"] > start, "step"]
if early < start and len(above):
    text += " Such a low value after so few steps is not a sign of a bug. In this run, Dice first"
    text += f" exceeded the value before registration after {above.iloc[0]} steps."
Markdown(f"{text} The loss alone cannot show whether registration improves the overlap at all.")

# %% [markdown]
# The lessons therefore report Dice together with the loss. They also report folding, because a high
# Dice does not exclude folds.

# %% tags=["remove-input"]
apart = "at the same step" if lowest_loss == highest_dice else "at different steps"
Markdown(f"""
The lowest validation loss and the highest validation Dice were reached {apart}. The two steps need
not coincide, because the loss compares intensities and penalises roughness, whereas Dice measures
the overlap of structures.

At the last step, {history["val_folding_percent"].iloc[-1]:.3f} % of the brain voxels are folded on
average. This measure is explained in [the lesson on the Jacobian](05_jacobian.ipynb).
""")

# %% [markdown]
# > **Note: Labels are used to monitor, not to choose weights**
# >
# > `best.h5` contains the weights with the lowest validation *loss*, but the lessons use the
# > weights of the last step. Neither choice uses labels. Choosing the weights by validation Dice is
# > also legitimate, but then labels influence the result, and a report that calls the training
# > unsupervised must mention this influence.

# %% [markdown]
# ## Look at a validation pair
#
# A picture can reveal a mistake that the numbers hide, so the next cell registers one validation
# pair and draws the result.

# %% mystnb={"image": {"alt": "Six panels: moving, fixed and warped brain slices; the intensity difference before registration, with strong edges, and after registration, with fainter edges; and a grid that bends smoothly where the brains differ."}, "figure": {"caption": "A validation pair registered by the trained network. The two difference images have the same colour scale. The grid shows where the moving image is sampled for each point of the fixed image.", "name": "fig-fit-pair"}}
from vxmlib import warp

moving, fixed = map(people.image, validation_pairs[0])
displacement = models.register(model, moving, fixed)
warped = warp.warp_image(moving, displacement)
figures.registration(moving, fixed, warped, displacement);

# %% [markdown]
# ## Save the model and load it
#
# A saved model is useful only if it predicts the same displacement after loading, so the next cell
# saves and loads the model and registers the same pair again.

# %%
models.save(model, folder / "model.h5")
loaded = vxm.networks.VxmDense.load(str(folder / "model.h5"))
again = models.register(loaded, moving, fixed)
print(f"largest difference: {np.abs(again - displacement).max()} voxels")

# %% [markdown]
# Do not use Keras' own `load_model`, because it does not know the layers of voxelmorph. Do not use
# the newer `.keras` format either: a compiled VxmDense model can be saved in this format, but the
# file cannot be loaded (tested in [the claims](claims.ipynb)). `models.load` calls `VxmDense.load`
# and also checks for damaged files and NaN weights.
#
# The other lessons load this run with `runs.run`, which finds the run by its settings and trains
# only missing epochs. The next cell checks that no epoch is missing.

# %%
run = runs.run(settings)
print(len(run.history), "epochs found;", len(run.history) - len(history), "trained now")

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

recording.write_record(
    "03_fit",
    run,
    people,
    validation_dice_identity=start,
    validation_dice=history["val_dice"].iloc[-1],
    validation_dice_last_quarter=late_rise,
    validation_folding_percent_brain=history["val_folding_percent"].iloc[-1],
    steps=history["step"].iloc[-1],
    training_subjects=len(people.split["train"]),
    training_seconds=history["seconds"].sum(),
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Show that the target of the displacement does not influence the loss. Evaluate the
# losses of one pair with a field of zeros as the target, and then with a field of ones.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
inputs, target = [moving[None, ..., None], fixed[None, ..., None]], fixed[None, ..., None]
zeros = small.evaluate(inputs, [target, zero_field], verbose=0)
ones = small.evaluate(inputs, [target, np.ones_like(zero_field)], verbose=0)
print(zeros == ones)

# %% [markdown]
# **Exercise 2.** Clip the norm of each variable's gradient to at most 1. Which call takes this
# setting?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
optimizer = tf.keras.optimizers.Adam(settings.learning_rate, clipnorm=1.0)
print("an argument of the optimiser: clipnorm =", optimizer.clipnorm)

# %% [markdown]
# **Exercise 3.** Halve the learning rate every ten epochs. Which argument of `fit()` can do this?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
schedule = tf.keras.callbacks.LearningRateScheduler(
    lambda epoch, rate: rate * 0.5 if epoch and epoch % 10 == 0 else rate
)
print(type(schedule).__name__, "goes into callbacks=[...]")

# %% [markdown]
# **Exercise 4.** How closely is validation Dice related to the validation loss? Compute their rank
# correlation over the epochs. A value of −1 means that a lower loss always comes with a higher
# Dice.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
print(f"{history[['val_loss', 'val_dice']].corr('spearman').iloc[0, 1]:.2f}")

# %% [markdown]
# ## Summary
#
# - `fit()` needs a compiled model, data in the form (inputs, targets), and a number of steps.
# - Report the number of steps, because an epoch is only the interval between two lines of the log.
# - The image loss falls and the smoothness loss rises during training. The history contains
#   both losses.
# - Callbacks perform tasks such as writing checkpoints and measuring Dice.
# - Judge convergence by Dice and folding of validation subjects, not by the loss alone.
#
# **Read on:** [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) describe the
# original training. The overlap on the test subjects is measured in [the next
# lesson](04_dice.ipynb).
