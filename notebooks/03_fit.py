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
# # Train with `fit()` and judge whether it has converged
#
# | | |
# |---|---|
# | **You will** | train VoxelMorph, watch it on people it does not learn from, save it and load it again |
# | **You will learn** | to count steps, to read the log, and why a falling loss is not yet a good registration |
# | **You need** | [lesson 3](02_model.ipynb) |
# | **In → out** | training people → a trained model in a file, and a history |
# | **Not here** | the test people: they are opened in [lesson 5](04_dice.ipynb) |
# | **Time** | 20 minutes to read; the training's time is printed below |
#
# The parameters are those of the whole run. Another λ, from the shell: `papermill
# notebooks/03_fit.ipynb out.ipynb -p lam 0.5 -p cohort malf`.

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
settings

# %% [markdown]
# ## Count steps, not epochs
#
# A step is one update of the weights from one batch. An epoch is as many steps as we like
# between two lines of the log.

# %%
for name in (
    "epochs",
    "steps_per_epoch",
    "steps",
    "batch_size",
    "learning_rate",
):
    print(f"{name:16}", getattr(settings, name))

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    steps=settings.steps,
    share=100 * settings.steps * settings.batch_size / 150_000,
    rate=settings.learning_rate,
)

# %% [markdown]
# That is {glue:text}`steps` steps, {glue:text}`share:.1f` % of the 150 000 pairs that the paper
# trained on. To get anywhere in so few, the learning rate of this profile is
# {glue:text}`rate:.4f`; the paper's is 0.0001 {cite}`balakrishnan2019tmi`. The profile `full`
# takes the paper's figures.

# %% [markdown]
# ## Build the model from a fixed seed

# %%
from vxmlib import backend, models

backend.set_seed(settings.seed)
model = models.build(
    people.shape,
    image_loss=settings.image_loss,
    lam=settings.lam,
    int_steps=settings.int_steps,
    learning_rate=settings.learning_rate,
)

# %% [markdown]
# ## Watch people the model does not learn from
#
# A callback registers the validation pairs after each epoch and adds their Dice and folding to
# the log. A callback is all it takes: no training loop of our own.

# %%
from vxmlib import training

validation_pairs = runs.validation_pairs(people)
monitor = training.RegistrationMonitor(people, validation_pairs)
print(len(validation_pairs), "validation pairs, the first:", validation_pairs[0])

# %% [markdown]
# ## Train
#
# Training is one call of Keras' `fit()`. What surrounds it is a list of callbacks. First,
# `training.restore` looks into the folder of this run. It returns 0 for a new folder. After an
# interruption it loads the last checkpoint into the model, and returns how many epochs are done. It
# refuses a folder whose run has another model or another of these settings.

# %%
folder = runs.run_folder(settings)
course = ("seed", "batch_size", "steps_per_epoch", "schedule")
course = {name: getattr(settings, name) for name in course}
done = training.restore(model, folder, settings=course)
print(done, "epochs are done")

# %% [markdown]
# The training dataset starts at the step that was reached, so a resumed training sees the pairs that
# it would have seen without the interruption. The validation pairs are a fixed list. `field_shape`
# is the grid of the zero target for the smoothness term ([lesson 2](01_data.ipynb)).

# %%
from vxmlib import pairs

field_shape = models.field_shape(model)
training_pairs = pairs.pair_dataset(
    people,
    people.split["train"],
    batch_size=settings.batch_size,
    seed=settings.seed,
    start_step=done * settings.steps_per_epoch,
    field_shape=field_shape,
)
validation_data = pairs.listed_pairs(
    people, validation_pairs, field_shape=field_shape
)

# %% [markdown]
# `training.callbacks` adds the chores: it stops at the first loss that is not finite and explains
# it, and after each epoch it keeps the best weights, a row of the history and a checkpoint. The
# monitor from above is one more callback of the list.

# %% tags=["scroll-output"]
model.fit(
    training_pairs,
    initial_epoch=done,
    epochs=settings.epochs,
    steps_per_epoch=settings.steps_per_epoch,
    validation_data=validation_data,
    callbacks=training.callbacks(folder, monitor),
    verbose=2,
)
history = training.history(folder)

# %% [markdown]
# `training.fit` is these lines as one call, with the arguments checked first and the folder locked
# against a second process. The λ grids and the trainings in 3D use it. The lines above take no lock,
# so do not run this page twice at the same time.

# %% [markdown]
# Each epoch prints its seconds, the total loss, its two terms *before* λ, and the same for
# validation. The same rows come back as a table; here its ends, and the columns to watch.

# %%
watched = ["step", "loss", "val_loss", "val_dice", "val_folding_percent"]
history.set_index("epoch")[watched].iloc[[0, 1, -2, -1]].round(4)

# %% [markdown]
# ## Read the curves

# %% mystnb={"image": {"alt": "Line plot of the image loss term over optimiser steps for training and validation pairs. Both fall steeply at first and then ever more slowly."}, "figure": {"caption": "The similarity term alone, training and validation. The training line is the mean over an epoch's random pairs, so it jitters; the validation pairs are always the same.", "name": "fig-04-terms"}}
from vxmlib.book import figures

figures.curves(
    history,
    {"image_loss": "training", "val_image_loss": "validation"},
    ylabel=f"{settings.image_loss.upper()} loss",
);

# %% [markdown]
# The smoothness term does the opposite: it starts at zero, because an untrained network moves
# nothing, and *rises* while the network learns to move. A rising smoothness term is no alarm;
# it is the price being paid.

# %% mystnb={"image": {"alt": "Line plot of the smoothness loss over optimiser steps; it rises from zero and levels off."}, "figure": {"caption": "The smoothness term before weighting with λ.", "name": "fig-04-smooth"}}
figures.curves(
    history,
    {"smoothness_loss": "training", "val_smoothness_loss": "validation"},
    ylabel="Grad loss (before λ)",
);

# %% [markdown]
# ## Judge convergence by more than the loss

# %% mystnb={"image": {"alt": "Three stacked line plots over optimiser steps: total loss falls for training and validation, validation Dice rises and flattens, and the folded share of the brain, in percent, goes up and down."}, "figure": {"caption": "Loss, Dice and folding of the validation pairs.", "name": "fig-04-convergence"}}
figures.convergence(history);

# %% [markdown]
# "The loss falls" is a weak test. Ask three questions instead, and answer them with numbers:
# how far has Dice come, how much of that came in the last quarter of the training, and did the
# lowest loss and the highest Dice come at the same time?

# %%
quarter = history.iloc[-max(len(history) // 4, 1) - 1 :]
late_dice = quarter["val_dice"].iloc[-1] - quarter["val_dice"].iloc[0]
late_loss = quarter["val_loss"].iloc[-1] - quarter["val_loss"].iloc[0]
best_loss = history.loc[history["val_loss"].idxmin(), "step"]
best_dice = history.loc[history["val_dice"].idxmax(), "step"]
print(f"last quarter: Dice {late_dice:+.4f}, loss {late_loss:+.4f}")
print(
    f"lowest validation loss at step {best_loss}, highest Dice at step {best_dice}"
)

# %% tags=["remove-cell"]
from vxmlib import metrics

before = metrics.summary(
    metrics.evaluate_pairs(people, validation_pairs, "identity")
)
glue.glue(
    dice_before=before["dice_mean"],
    dice_first=history["val_dice"].iloc[0],
    dice_last=history["val_dice"].iloc[-1],
    gain=history["val_dice"].iloc[-1] - before["dice_mean"],
    late_dice=late_dice,
    best_loss=int(best_loss),
    best_dice=int(best_dice),
    folding_last=history["val_folding_percent"].iloc[-1],
)

# %% [markdown]
# Validation Dice went from {glue:text}`dice_before:.3f` (identity) to
# {glue:text}`dice_last:.3f`, a gain of {glue:text}`gain:+.3f`; the last quarter of the steps
# made {glue:text}`late_dice:+.3f` of it. When that part is small, more steps will change
# little; when it is not, the training was stopped early, and one should say so. The lowest loss
# came at step {glue:text}`best_loss`, the highest Dice at step {glue:text}`best_dice`: they
# need not coincide, because the loss has never seen a label. Folding ends at
# {glue:text}`folding_last:.3f` % of the brain.
#
# :::{admonition} Labels watch, they do not choose
# :class: note
# `best.h5` keeps the weights of the lowest validation *loss*; the lessons go on with the last
# ones. Picking weights by validation Dice would be legitimate too, but then labels have entered
# the training, and "unsupervised" needs a footnote.
# :::

# %% [markdown]
# ## See what it learned
#
# One validation pair. The differences before and after share one scale.

# %% mystnb={"image": {"alt": "Six panels: moving, fixed and warped brain slices; the intensity difference before registration with strong edges and after with faint ones; and a grid, bent smoothly where the brains differ."}, "figure": {"caption": "A validation pair registered by the trained model. The grid shows where each point of the fixed image is fetched from in the moving image.", "name": "fig-04-pair"}}
from vxmlib import warp

first, second = validation_pairs[0]
moving, fixed = people.image(first), people.image(second)
displacement = models.register(model, moving, fixed)
warped = warp.warp_image(moving, displacement)
figures.registration(moving, fixed, warped, displacement);

# %% [markdown]
# ## Save and load again
#
# A model in a file is only worth something if it gives the same answer tomorrow. We test it:
# the reloaded model must return the same displacement.

# %%
models.save(model, folder / "model.h5")
again = models.load(folder / "model.h5")
difference = abs(models.register(again, moving, fixed) - displacement).max()
print(f"largest difference {difference} voxels")

# %% [markdown]
# `models.load` is `vxm.networks.VxmDense.load`. Keras' own `load_model` does not know
# voxelmorph's layers, and the newer format `.keras` saves a compiled model without a word and
# then cannot be loaded ([lesson 16](claims.ipynb) tries it).

# %% [markdown]
# ## Interrupt it, if you dare
#
# Run this page again, or stop it in the middle of the training and start it again: finished
# epochs are not repeated, and the pairs that come next are those that would have come. A pair
# is a function of the seed and the step, nothing else.

# %%
run = runs.run(settings)
print(len(run.history), "epochs found, none trained again")

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

recording.write_record(
    "03_fit",
    run,
    people,
    validation_dice_identity=before["dice_mean"],
    validation_dice=history["val_dice"].iloc[-1],
    validation_dice_last_quarter=late_dice,
    validation_folding_percent_brain=history["val_folding_percent"].iloc[-1],
    steps=history["step"].iloc[-1],
    training_seconds=history["seconds"].sum(),
)
glue.glue(
    minutes=history["seconds"].sum() / 60,
    device=backend.device_summary(),
)

# %% [markdown]
# The training took {glue:text}`minutes:.1f` minutes on: {glue:text}`device`.

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Clip the gradients to norm 1. Do you need a training loop of your own for it?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
clipped = models.build(people.shape, clipnorm=1.0)
print(clipped.optimizer.clipnorm)

# %% [markdown]
# No: it is an argument of the optimiser.
#
# **Exercise 2.** Halve the learning rate every ten epochs. Where does that go?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from vxmlib.backend import tf

schedule = tf.keras.callbacks.LearningRateScheduler(
    lambda epoch, rate: rate * 0.5 if epoch and epoch % 10 == 0 else rate
)
print(type(schedule).__name__, "goes into callbacks=[...]")

# %% [markdown]
# **Exercise 3.** How well does the validation loss foretell validation Dice, epoch by epoch?
# Give a rank correlation.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
print(f"{history[['val_loss', 'val_dice']].corr('spearman').iloc[0, 1]:.2f}")

# %% [markdown]
# ## What you take along
#
# - Report steps; an epoch is a line in the log.
# - The similarity term falls, the smoothness term rises; both are in the history.
# - Convergence is a statement about Dice and folding on people who were not trained on, not about the loss alone.
# - Save with `models.save`, load with `models.load`, and check that the answer is the same.
#
# **Read on:** [lesson 5](04_dice.ipynb) opens the test people.
