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
# | **You will** | compile VxmDense, train it with `fit()`, watch it on validation subjects, save it and load it |
# | **You will learn** | what `fit()` needs from you, how to read its history, and how to judge convergence |
# | **You need** | [the network and its losses](02_model.ipynb) |
# | **In → out** | training subjects → a trained model in a file, and its history |
# | **Not here** | the test subjects, which are registered in [the next lesson](04_dice.ipynb) |
# | **Time** | 20 minutes to read; the page prints how long the training took |

# %% [markdown]
# ## Set the parameters
#
# The parameters describe the training run; `lam` is the weight λ of the smoothness loss. They can
# also be changed from the shell, for example with
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
# of steps. This section prepares them one by one for a trial network. The model of the real
# training follows below.
#
# ### Give each output a target
#
# VxmDense has two inputs, and two outputs: the warped image and the displacement.
#
# - The **inputs** are `[moving, fixed]`, the two images that the network sees.
# - The **targets** are `[fixed, zero_field]`, one for each output. The warped image is compared
#   with the fixed image. The correct displacement is unknown, but Keras requires a target for every
#   output. Therefore pass a field of zeros, which the smoothness loss ignores.
#
# Every array has a batch axis in front and a channel axis at the end. The displacement has one
# channel for each spatial axis.

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
# calls `fit()` too early on purpose and prints the error. With `int_steps=0` the network predicts
# the displacement directly instead of a velocity, as in the journal paper ([Balakrishnan et al.
# 2019](https://doi.org/10.1109/TMI.2019.2897538)).

# %%
from vxmlib.backend import tf, vxm

small = vxm.networks.VxmDense(people.shape, int_steps=0)
try:
    small.fit([moving, fixed], [fixed, zero_field])
except RuntimeError as error:
    print(error)

# %% [markdown]
# `compile` adds an optimiser, one loss for each output, and the weights of the losses. The losses
# follow the order of the outputs: first similarity with weight 1, then smoothness with weight λ.

# %%
optimizer = tf.keras.optimizers.Adam(settings.learning_rate)
both_losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
small.compile(optimizer, loss=both_losses, loss_weights=[1, settings.lam])

# %% [markdown]
# ### Count steps, not epochs
#
# A step is one update of the weights from one batch. `pairs.pair_dataset` draws random pairs of
# subjects without end, so Keras cannot know when an epoch is over. `steps_per_epoch` therefore sets
# the number of steps in an epoch. The next cell trains for two short epochs.

# %%
from vxmlib import pairs

data = pairs.pair_dataset(people, train, batch_size=1, seed=settings.seed)
trial = small.fit(data, epochs=2, steps_per_epoch=4, verbose=2)

# %% [markdown]
# `verbose=2` prints one line for each epoch, which suits a log file. The default draws a progress
# bar, which suits a terminal.

# %% tags=["remove-input"]
from IPython.display import Markdown

ordered = len(train) * (len(train) - 1)
Markdown(f"""
The usual rule for `steps_per_epoch` is the size of the data set divided by the batch size. The rule
does not apply here, because the {ordered:,} ordered pairs of {len(train)} subjects are drawn with
replacement. An epoch is therefore not one pass over the data, but only the interval between two
lines of the log. Report the number of steps instead.
""")

# %% tags=["remove-input"]
Markdown(f"""
The table compares the training below with that of the journal paper.

| Training | Steps | Batch size | Learning rate |
|---|---|---|---|
| this page | {settings.steps:,} | {settings.batch_size} | {settings.learning_rate:g} |
| [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) | 150,000 | 1 | 0.0001 |

The parameter `profile = "full"` selects the values of the paper.
""")

# %% [markdown]
# ### Read the history
#
# `fit()` returns an object whose `history` is a dictionary. It holds one list for each loss, with
# one value for each epoch.

# %%
for name, values in trial.history.items():
    print(f"{name:27}", *(f"{value:9.2g}" for value in values))

# %% [markdown]
# `loss` is the total, which is the image loss plus λ times the smoothness loss. The other two are
# these terms before weighting, named after the output layers. The image loss is negative because
# NCC is a similarity and Keras minimises. Each step uses a different pair, so the loss can rise or
# fall over a few steps. Eight steps therefore do not show whether the training works.

# %% [markdown]
# ## Know what Keras does for you
#
# | You must understand | Keras does for you |
# |---|---|
# | compile before fit | compute gradients and apply them |
# | `(inputs, targets)`, one target for each output | compile the training step and run it |
# | the number of steps | fetch batches and move them to the GPU |
# | what the history holds | average the losses and call the callbacks |
#
# You do not need a training loop for anything on this page.
# [Four situations](16_situations.ipynb) shows when one is worth the effort.

# %% [markdown]
# ## Compile the model of this run
#
# The model for the real training is built and compiled with the same calls and three additions.
# The seed is set first, so that the initial weights are always the same. The numbers of feature
# channels of the U-Net's layers are given explicitly. They are voxelmorph's default, which this
# book calls `vxm2`. The outputs get short names, so that the log says `image_loss` and
# `smoothness_loss`.

# %%
from vxmlib import backend, losses, models

backend.set_seed(settings.seed)
encoder, decoder = models.FEATURES["vxm2"]
features = [encoder, decoder]
model = vxm.networks.VxmDense(people.shape, features, int_steps=settings.int_steps)
model.output_names = ["image", "smoothness"]
print(encoder, decoder, f"{model.count_params():,} parameters")

# %% [markdown]
# The image loss is `losses.LocalNCC`, which `losses.image_loss("ncc")` returns. It computes the
# same function as `vxm.losses.NCC`, but with running sums, which are faster. The next cell computes
# both losses for one pair to check that they agree up to rounding.

# %%
both = tf.constant(fixed), tf.constant(moving)
for image_term in (vxm.losses.NCC().loss, losses.LocalNCC().loss):
    print(f"{np.mean(image_term(*both)):.6f}")

# %% [markdown]
# The next cell compiles the model. The argument `loss_mult` of `Grad` multiplies the smoothness
# loss. It is 1 unless the model integrates a velocity. The velocity lies on a grid of half the
# resolution, so its smoothness loss is multiplied by 2, as in voxelmorph's training script.

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
# `models.build` makes these calls with checked arguments, and the other lessons use it.

# %% [markdown]
# ## Add what a long training needs
#
# A training run of several hours must survive an interruption, and its progress must be measured on
# subjects that are not used for training. Keras provides callbacks for such tasks, and `fit()`
# calls them after each epoch. The callbacks of this book are in `vxmlib.training`.
#
# ### Watch validation subjects
#
# The loss is computed without labels, so it does not measure whether structures overlap.
# `RegistrationMonitor` registers a few pairs of validation subjects after each epoch. It adds two
# values to the log: their Dice, and the percentage of brain voxels where the displacement
# [folds](../book/glossary.md#folding).

# %%
from vxmlib import training

validation_pairs = runs.validation_pairs(people)
monitor = training.RegistrationMonitor(people, validation_pairs)
print(len(validation_pairs), "validation pairs")

# %% [markdown]
# ### Continue after an interruption
#
# `training.restore` returns the number of epochs that are already finished, which is 0 for a new
# folder. After an interruption it also loads the last
# [checkpoint](../book/glossary.md#checkpoint) into the model, with the state of the optimiser. It
# raises an error if the run in the folder has a different model, loss or setting.

# %%
folder = runs.run_folder(settings)
names = ("seed", "batch_size", "steps_per_epoch", "schedule")
course = {name: getattr(settings, name) for name in names}
done = training.restore(model, folder, settings=course)

# %% [markdown]
# ### Keep the files of the run
#
# `training.callbacks` puts the monitor into a list with four other callbacks.

# %%
callbacks = training.callbacks(folder, monitor)
print([type(callback).__name__ for callback in callbacks])

# %% [markdown]
# | Callback | Task |
# |---|---|
# | `StopOnNonFinite` | stops at the first loss that is NaN or infinite, and names likely causes |
# | `RegistrationMonitor` | measures Dice and folding of the validation pairs |
# | `KeepWeights` | keeps `best.h5` (lowest validation loss) and `last.h5` |
# | `KeepHistory` | adds a row to `history.csv` |
# | `KeepCheckpoint` | writes the checkpoint that `restore` reads |
#
# The order matters. The monitor comes before `KeepHistory`, so that its values enter the history.
# The checkpoint comes last, so that an epoch counts only when all its files are complete.

# %% [markdown]
# ## Train
#
# The next cell prepares the data. A resumed training continues with the pairs that it would have
# drawn without the interruption, because `start_step` is the number of finished steps. The
# validation pairs are a fixed list. `field_shape` is the shape of the field of zeros.

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
# The call to `fit()` is the same as above, with the callbacks and the validation pairs added. Its
# log is hidden, because the history holds the same values.

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
# Two functions make this code shorter. `training.fit` replaces all calls from `restore` to `fit()`,
# and it locks the folder against a second process. `runs.run(settings)` also builds the model. The
# calls above take no lock, so do not run this page twice at the same time.

# %% tags=["remove-input"]
minutes = history["seconds"].sum() / 60
took = f"{minutes:.1f} minutes on this machine ({backend.device_summary()})"
Markdown(f"The training took {took}. The table shows the first two and the last two epochs.")

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
# The first figure shows the image loss alone, which should fall during the training.

# %% mystnb={"image": {"alt": "Line plot of the image loss over optimiser steps for training and validation pairs. Both fall steeply at first and then more and more slowly."}, "figure": {"caption": "Image loss over the training. The training line is the mean over the random pairs of each epoch, so it varies more than the validation line, whose pairs are always the same.", "name": "fig-fit-image-loss"}}
from vxmlib.book import figures

columns = {"image_loss": "training", "val_image_loss": "validation"}
figures.curves(history, columns, ylabel=f"{settings.image_loss.upper()} loss");

# %% [markdown]
# The smoothness loss does the opposite. It starts near zero, because an untrained network predicts
# almost no displacement, and it *rises* during the training. This rise is not a warning sign,
# because a better alignment needs a displacement that varies more from place to place.

# %% mystnb={"image": {"alt": "Line plot of the smoothness loss over optimiser steps for training and validation pairs. It starts near zero, rises steeply and then levels off."}, "figure": {"caption": "Smoothness loss over the training, before it is multiplied by λ.", "name": "fig-fit-smoothness"}}
columns = {"smoothness_loss": "training", "val_smoothness_loss": "validation"}
figures.curves(history, columns, ylabel="Grad loss, before λ");

# %% [markdown]
# ## Judge convergence by more than the loss
#
# A falling loss shows that the optimiser works. It does not show that the registration is good,
# because the loss is computed without labels. The next figure adds Dice and folding.

# %% mystnb={"image": {"alt": "Three stacked line plots over optimiser steps. The total loss falls for training and validation, validation Dice rises, and the folded share of the brain goes up and down at a low level."}, "figure": {"caption": "Total loss, Dice and folding of the validation pairs over the training.", "name": "fig-fit-convergence"}}
figures.convergence(history);

# %% [markdown]
# Three questions help to judge the training:
#
# 1. How far has validation Dice risen above the [identity](../book/glossary.md#identity), which is
#    the Dice without registration?
# 2. How much of this rise came in the last quarter of the training?
# 3. Were the lowest loss and the highest Dice reached at the same step?
#
# The next cell computes the answers to the first two questions.

# %%
from vxmlib import metrics

before = metrics.evaluate_pairs(people, validation_pairs, "identity")
start = metrics.summary(before)["dice_mean"]
quarter = history["val_dice"].iloc[-max(len(history) // 4, 1) - 1 :]
rise, late_rise = history["val_dice"].iloc[-1] - start, quarter.iloc[-1] - quarter.iloc[0]
print(f"rise {rise:.4f}, in the last quarter {late_rise:.4f}")

# %% [markdown]
# The third question is answered by the rows of the history with the lowest loss and the highest
# Dice.

# %%
lowest_loss = history.loc[history["val_loss"].idxmin(), "step"]
highest_dice = history.loc[history["val_dice"].idxmax(), "step"]
print(f"lowest loss at step {lowest_loss}, highest Dice at step {highest_dice}")

# %% tags=["remove-input"]
share = 100 * late_rise / rise
verdict = "Dice was still rising, so this training was stopped before it had converged"
if share < 5:
    verdict = "Dice had almost stopped rising, so more steps would change little"
Markdown(f"""
Validation Dice rose from {start:.3f} without registration to {start + rise:.3f} at the last step.
The last quarter of the steps contributed {share:.0f} % of this rise. {verdict}. A report should say
so.
""")

# %% tags=["remove-input"]
early = history["val_dice"].iloc[0]
side = "lower" if early < start else "higher"
text = f"After the first epoch Dice was {early:.3f}, which is {side} than without registration."
Markdown(f"{text} The loss alone cannot show whether a registration improves the overlap at all.")

# %% [markdown]
# The lessons therefore report Dice beside the loss, and folding beside Dice.

# %% tags=["remove-input"]
apart = "at the same step" if lowest_loss == highest_dice else "at different steps"
Markdown(f"""
The lowest loss and the highest Dice were reached {apart}. They need not coincide, because the loss
measures intensities and smoothness while Dice measures structures. At the last step
{history["val_folding_percent"].iloc[-1]:.3f} % of the brain is folded.
[The lesson on the Jacobian](05_jacobian.ipynb) explains this measure.
""")

# %% [markdown]
# > **Note: Labels are used to monitor, not to choose weights**
# >
# > `best.h5` holds the weights of the lowest validation *loss*, but the lessons use the weights of
# > the last step. Choosing the weights by validation Dice is also legitimate. In that case, though,
# > labels influence the result, and a report that calls the training unsupervised must mention it.

# %% [markdown]
# ## Look at a validation pair
#
# Numbers can hide a mistake that a picture shows at once, so the next cell registers one validation
# pair and draws it.

# %% mystnb={"image": {"alt": "Six panels: moving, fixed and warped brain slices; the intensity difference before registration with strong edges, and after registration with fainter ones; and a grid that bends smoothly where the brains differ."}, "figure": {"caption": "A validation pair registered by the trained network. Both difference images share one scale. The grid shows where the moving image is sampled for each point of the fixed image.", "name": "fig-fit-pair"}}
from vxmlib import warp

moving, fixed = map(people.image, validation_pairs[0])
displacement = models.register(model, moving, fixed)
warped = warp.warp_image(moving, displacement)
figures.registration(moving, fixed, warped, displacement);

# %% [markdown]
# ## Save the model and load it
#
# A saved model is useful only if it gives the same answer after loading, so the next cell tests this
# with the same pair.

# %%
models.save(model, folder / "model.h5")
loaded = vxm.networks.VxmDense.load(str(folder / "model.h5"))
again = models.register(loaded, moving, fixed)
print(f"largest difference: {np.abs(again - displacement).max()} voxels")

# %% [markdown]
# Keras' own `load_model` does not know the layers of voxelmorph. Do not use the newer format
# `.keras` either, because a compiled model is saved without an error, but the file cannot be loaded
# ([the claims](claims.ipynb) try it). `models.load` is `VxmDense.load` with checks for damaged files
# and weights that are NaN.
#
# The other lessons find this run by its settings. `runs.run` trains only what is missing, and the
# next cell checks that nothing is missing.

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
# **Exercise 1.** Show that the target of the displacement has no influence: evaluate one pair with
# a field of zeros, and again with a field of ones.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
inputs, target = [moving[None, ..., None], fixed[None, ..., None]], fixed[None, ..., None]
zeros = small.evaluate(inputs, [target, zero_field], verbose=0)
ones = small.evaluate(inputs, [target, np.ones_like(zero_field)], verbose=0)
print(zeros == ones)

# %% [markdown]
# **Exercise 2.** Clip the norm of each variable's gradient to 1. Which call takes this setting?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
optimizer = tf.keras.optimizers.Adam(settings.learning_rate, clipnorm=1.0)
print("an argument of the optimiser: clipnorm =", optimizer.clipnorm)

# %% [markdown]
# **Exercise 3.** Halve the learning rate every ten epochs. Which argument of `fit()` takes this
# setting?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
schedule = tf.keras.callbacks.LearningRateScheduler(
    lambda epoch, rate: rate * 0.5 if epoch and epoch % 10 == 0 else rate
)
print(type(schedule).__name__, "goes into callbacks=[...]")

# %% [markdown]
# **Exercise 4.** How closely is validation Dice related to the validation loss over the epochs?
# Compute their rank correlation, which is −1 if Dice rises whenever the loss falls.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
print(f"{history[['val_loss', 'val_dice']].corr('spearman').iloc[0, 1]:.2f}")

# %% [markdown]
# ## Summary
#
# - `fit()` needs a compiled model, data in the form (inputs, targets), and a number of steps.
# - Report steps, because an epoch is only an interval of the log.
# - The image loss falls and the smoothness loss rises during the training. The history holds both.
# - Callbacks do tasks such as checkpoints and validation.
# - Judge convergence by Dice and folding of validation subjects, not by the loss alone.
#
# **Read on:** [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) describe the
# training of the paper; [the next lesson](04_dice.ipynb) measures the overlap on the test subjects.
