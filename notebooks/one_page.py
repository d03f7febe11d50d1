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
# # Run VoxelMorph on one page
#
# | | |
# |---|---|
# | **You will** | train VoxelMorph, register a new pair of brains, and measure the result |
# | **You will learn** | the whole recipe in one script that you can copy, and where each block is explained |
# | **You need** | the book's environment (`environment.yml`); no scans and no GPU |
# | **In → out** | one file with images and label maps → a trained model, Dice and folding |
# | **Not here** | the reasons for each choice, which are the subject of the lessons that follow |
# | **Time** | 10 minutes |
#
# VoxelMorph registers a *moving* image to a *fixed* image. For each voxel of the fixed image, a
# network predicts where to fetch the intensity in the moving image
# ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). This prediction is the
# [displacement](../book/glossary.md#displacement). Training needs no correct displacement as a
# target, because the loss is computed from the two images and the predicted displacement.
#
# The script on this page has fewer than 50 lines of code and calls only NumPy, TensorFlow and
# voxelmorph. On brain slices of 40 simulated subjects, 400 training steps take less than a minute
# on two idle CPU cores. For a pair of new subjects, the [Dice](../book/glossary.md#dice) overlap
# then rises from about six tenths to about eight tenths. [Measure the result](#measure-the-result)
# shows the exact values of this build.

# %% [markdown]
# ## Set the parameters
#
# `cohort` names the data set, and `profile` sets how many subjects are used. `seed` fixes the
# random numbers, and `root` is needed only for a folder of your own scans. The second cell checks
# these values.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())

# %% [markdown]
# ## Make the data file
#
# The script reads one file that holds two arrays, `images` and `labels`. An image has intensities
# from 0 to 1. In a label map each number names a brain structure, and 0 is the background. All
# subjects are aligned affinely and lie on one grid, whose sides are divisible by 16.
#
# The helper `examples.brains` writes such a file with one coronal slice for each subject. The
# subjects of the default cohort are simulated: one template brain was deformed differently for
# each of them.

# %%
import numpy as np

from vxmlib.book import examples
from vxmlib.experiments import runs

path = examples.brains(settings, runs.output_folder() / "one_page")
for name, array in np.load(path).items():
    print(name, array.shape, array.dtype)

# %% [markdown]
# The first axis counts the subjects, and the other axes are the grid. The last two subjects are
# kept for the test, and all others are used for training.

# %% [markdown]
# ## Copy the script
#
# The complete script follows. It is also the file `examples/one_page.py` of the project. Save it
# beside your data file, name the data file `brains.npz`, and run `python one_page.py`.
#
# ```python
# """VoxelMorph on one page: train on pairs of brains, register a new pair, measure the result."""
#
# import inspect
# import os
#
# # voxelmorph 0.2 was written for Keras 2, and for Python before 3.11.
# os.environ["TF_USE_LEGACY_KERAS"] = "1"
# inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]
#
# import numpy as np
# import tensorflow as tf
# import voxelmorph as vxm
#
# path = "brains.npz"
# epochs = 10
# seed = 0
#
# # Read the images and label maps. The last two subjects are kept for the test.
# brains = np.load(path)
# images, labels = brains["images"][..., None], brains["labels"][..., None]
# train = images[:-2]
# shape = images.shape[1:-1]
#
#
# # Draw pairs without end: inputs (moving, fixed) and targets (fixed, zeros).
# def draw_pairs():
#     rng = np.random.default_rng(seed)
#     zeros = np.zeros((1, *shape, len(shape)), "float32")
#     while True:
#         moving, fixed = rng.choice(len(train), size=2, replace=False)
#         yield (train[[moving]], train[[fixed]]), (train[[fixed]], zeros)
#
#
# image = tf.TensorSpec((1, *shape, 1))
# field = tf.TensorSpec((1, *shape, len(shape)))
# signature = (image, image), (image, field)
# pairs = tf.data.Dataset.from_generator(draw_pairs, output_signature=signature)
#
# # Build the network and compile it: one loss for each output, and their weights 1 and λ.
# tf.keras.utils.set_random_seed(seed)
# model = vxm.networks.VxmDense(shape, int_steps=0)
# losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
# model.compile(tf.keras.optimizers.Adam(5e-4), loss=losses, loss_weights=[1, 1])
#
# # Train.
# history = model.fit(pairs, epochs=epochs, steps_per_epoch=40, verbose=2)
#
# # Register the two test subjects, and warp the label map of the moving one.
# moving, fixed = images[[-2]], images[[-1]]
# warped, displacement = model.predict([moving, fixed], verbose=0)
# moving_labels, fixed_labels = labels[[-2]], labels[[-1]]
# warp_nearest = vxm.layers.SpatialTransformer(interp_method="nearest")
# warped_labels = warp_nearest([moving_labels.astype("float32"), displacement]).numpy()
#
#
# # Measure the overlap of the structures, and the folding of the displacement.
# def dice(a, b):
#     shared = [k for k in np.intersect1d(a, b) if k > 0]
#     common = [np.sum((a == k) & (b == k)) for k in shared]
#     total = [np.sum(a == k) + np.sum(b == k) for k in shared]
#     return np.mean(2 * np.divide(common, total))
#
#
# determinant = vxm.py.utils.jacobian_determinant(displacement[0])
# folded = np.mean(determinant[fixed[0, ..., 0] > 0] <= 0)
# print(f"Dice before: {dice(moving_labels, fixed_labels):.3f}")
# print(f"Dice after:  {dice(warped_labels, fixed_labels):.3f}")
# print(f"Folded:      {100 * folded:.3f} % of the brain")
# ```

# %% [markdown]
# ## Start voxelmorph
#
# The rest of the page runs the same script block by block. The first block imports the packages.
# Version 0.2 of voxelmorph is the last release for TensorFlow. It needs the older Keras 2, and it
# calls a function that Python 3.11 removed. Therefore one line selects Keras 2 and another line
# restores the function, both before the import. [Find what is wrong](troubleshooting.ipynb) helps
# if the installation fails.

# %% tags=["remove-cell"]
import time

start = time.perf_counter()

# %% tags=["script", "remove-stderr"]
import inspect
import os

# voxelmorph 0.2 was written for Keras 2, and for Python before 3.11.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]

import numpy as np
import tensorflow as tf
import voxelmorph as vxm

# %% [markdown]
# The script sets `path`, `epochs` and `seed` next. On this page the path and the seed are those
# from above. The profile `smoke` only tests that the page runs, so it trains for one epoch.

# %%
epochs = 1 if settings.profile == "smoke" else 10

# %% [markdown]
# ## Read the data
#
# Keras expects a channel axis at the end, so `[..., None]` adds one to both arrays. `shape` is the
# grid of one image. It may have two or three axes, because the script never depends on their
# number. [Prepare the data](01_data.ipynb) shows how scans become such arrays.

# %% tags=["script"]
brains = np.load(path)
images, labels = brains["images"][..., None], brains["labels"][..., None]
train = images[:-2]
shape = images.shape[1:-1]

# %% [markdown]
# ## Draw pairs
#
# `fit()` takes elements of the form (inputs, targets). The inputs are the moving and the fixed
# image. The network has two outputs, the warped image and the displacement. The target of the
# warped image is the fixed image. The correct displacement is unknown, so the displacement has no
# target. Keras nevertheless expects an array for it, and the script gives an array of zeros.
#
# Keras also expects a batch axis in front of every array. The double brackets in `train[[moving]]`
# select one image and give it a batch axis of length 1.

# %% tags=["script"]
def draw_pairs():
    rng = np.random.default_rng(seed)
    zeros = np.zeros((1, *shape, len(shape)), "float32")
    while True:
        moving, fixed = rng.choice(len(train), size=2, replace=False)
        yield (train[[moving]], train[[fixed]]), (train[[fixed]], zeros)

# %% [markdown]
# The next block turns the generator into a `tf.data.Dataset`. The signature states the shape of
# each array, which a generator alone does not
# ([Prepare the data](01_data.ipynb#make-pairs-with-a-generator) explains why this matters).

# %% tags=["script"]
image = tf.TensorSpec((1, *shape, 1))
field = tf.TensorSpec((1, *shape, len(shape)))
signature = (image, image), (image, field)
pairs = tf.data.Dataset.from_generator(draw_pairs, output_signature=signature)

# %% [markdown]
# ## Build the network and compile it
#
# `VxmDense` is voxelmorph's network. With `int_steps=0` it predicts the displacement directly, and
# it returns the warped moving image and this displacement. The first loss, local normalised
# cross-correlation ([NCC](../book/glossary.md#ncc)), compares the warped image with the fixed
# image. The second loss, `Grad`, measures how rough the displacement is.
#
# The weight of the first loss is 1, and the weight of the second is called
# [λ](../book/glossary.md#lambda). Here λ is 1, too. [Build VxmDense](02_model.ipynb) explains the
# network and both losses, and [Choose λ](06_choose.ipynb) explains the weight.

# %% tags=["script"]
tf.keras.utils.set_random_seed(seed)
model = vxm.networks.VxmDense(shape, int_steps=0)
losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
model.compile(tf.keras.optimizers.Adam(5e-4), loss=losses, loss_weights=[1, 1])

# %% [markdown]
# ## Train
#
# Each step draws one pair and updates the weights once. Pairs are drawn without end, so
# `steps_per_epoch` says when an epoch is over. `verbose=2` prints one line for each epoch. In this
# line, `loss` is the total loss, `vxm_dense_transformer_loss` is the NCC term, and
# `vxm_dense_flow_loss` is the smoothness term before weighting. NCC is a similarity and Keras
# minimises, so the NCC term is the negative of NCC. [Compile and fit](03_fit.ipynb) reads such a
# log in detail.

# %% tags=["script"]
history = model.fit(pairs, epochs=epochs, steps_per_epoch=40, verbose=2)

# %% [markdown]
# ## Register the test pair
#
# The trained network needs no further optimisation for a new pair. One call of `predict` returns
# the warped image and the displacement.

# %% tags=["script"]
moving, fixed = images[[-2]], images[[-1]]
warped, displacement = model.predict([moving, fixed], verbose=0)

# %% [markdown]
# The label map of the moving subject follows the same displacement. It is warped with
# nearest-neighbour interpolation, because label numbers are names and must not be averaged
# ([Dice](04_dice.ipynb#warp-a-label-map-with-nearest-neighbour-interpolation)).

# %% tags=["script"]
moving_labels, fixed_labels = labels[[-2]], labels[[-1]]
warp_nearest = vxm.layers.SpatialTransformer(interp_method="nearest")
warped_labels = warp_nearest([moving_labels.astype("float32"), displacement]).numpy()

# %% [markdown]
# > **Warning: The second output is not always the displacement**
# >
# > With `int_steps=0`, the second output is the displacement. With voxelmorph's own default,
# > `int_steps=7`, the second output is a velocity at half the resolution.
# > `model.register(moving, fixed)` returns the displacement in both cases.

# %% [markdown]
# ## Measure the result
#
# The Dice overlap of a structure is twice the common volume divided by the sum of both volumes.
# The function below averages it over the structures that both maps contain.
# [Measure the overlap with Dice](04_dice.ipynb) explains why the background is left out and what
# happens to absent structures.

# %% tags=["script"]
def dice(a, b):
    shared = [k for k in np.intersect1d(a, b) if k > 0]
    common = [np.sum((a == k) & (b == k)) for k in shared]
    total = [np.sum(a == k) + np.sum(b == k) for k in shared]
    return np.mean(2 * np.divide(common, total))

# %% [markdown]
# The Jacobian determinant is the local change of volume. Where it is zero or negative, the
# displacement folds the image. The script computes the share of such voxels in the brain, which is
# the region where the fixed image is above 0 ([Read the Jacobian](05_jacobian.ipynb)).

# %% tags=["script"]
determinant = vxm.py.utils.jacobian_determinant(displacement[0])
folded = np.mean(determinant[fixed[0, ..., 0] > 0] <= 0)
print(f"Dice before: {dice(moving_labels, fixed_labels):.3f}")
print(f"Dice after:  {dice(warped_labels, fixed_labels):.3f}")
print(f"Folded:      {100 * folded:.3f} % of the brain")

# %% tags=["remove-cell"]
seconds = time.perf_counter() - start
before, after = dice(moving_labels, fixed_labels), dice(warped_labels, fixed_labels)
if (settings.cohort, settings.profile) == ("mni", "quick"):
    # What the page says in its opening.
    assert 0.55 < before < 0.65 and 0.75 < after < 0.85 and len(train) == 40

# %% tags=["remove-input"]
from IPython.display import Markdown

from vxmlib import backend

Markdown(f"""
The network was trained for {40 * epochs} steps on pairs of {len(train)} training subjects. The mean
Dice of the test pair is {before:.3f} without registration and {after:.3f} with it. The displacement
folds {100 * folded:.3f} % of the brain.
""")

# %% tags=["remove-input"]
Markdown(f"""
From the imports to these values, the blocks of the script took {seconds:.0f} seconds on this
machine ({backend.device_summary()}).
""")

# %% [markdown]
# One pair shows that the script works, but it is too little for a conclusion. The lessons measure
# many pairs of test subjects and report their spread.
#
# ## Look at the pair
#
# A picture reveals mistakes that a mean hides, so always look at the three images.

# %% mystnb={"image": {"alt": "Three grey-scale brain slices side by side: the moving image, the warped image, and the fixed image. The ventricles and the cortical folds of the warped image have the shapes of the fixed image."}, "figure": {"caption": "The test pair. The warped image keeps the intensities of the moving image and takes the shapes of the fixed one.", "name": "fig-onepage-pair"}}
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 3, figsize=(8, 3))
panels = {"moving": moving, "warped": warped, "fixed": fixed}
for axis, (title, picture) in zip(axes, panels.items(), strict=True):
    axis.imshow(picture[0, ..., 0].T, cmap="gray", origin="lower", vmin=0, vmax=1)
    axis.set_title(title)
    axis.axis("off")

# %% [markdown]
# ## Change the script for your data
#
# | You have or want | Change |
# |---|---|
# | other images | Write `images` and `labels` into an `.npz` file. [Prepare the data](01_data.ipynb) shows how scans become these arrays. |
# | 3D volumes | Nothing. The script reads the number of axes from the file, but training in 3D needs a GPU or much more time ([real brains](08_real.ipynb)). |
# | no label maps | Remove `labels` and everything that uses it, and report folding only. |
# | a longer training | Raise `epochs`. The authors trained for 150 000 steps with the learning rate `1e-4`. |
# | another image loss | With `vxm.losses.MSE().loss`, begin with λ = 0.01 ([Build VxmDense](02_model.ipynb)). |
# | fewer folds | Raise λ, the second loss weight ([Choose λ](06_choose.ipynb)), or let the network predict a velocity that is integrated ([diffeomorphic registration](11_diffeomorphic.ipynb)). |
#
# > **Important: Do not choose settings on the test subjects**
# >
# > Keep the last two subjects out of every decision. Before you compare several values of λ or
# > several numbers of steps, set aside further subjects for validation.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Register the pair in the other direction. Is the Dice the same?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
back = model.predict([fixed, moving], verbose=0)[1]
carried = warp_nearest([fixed_labels.astype("float32"), back]).numpy()
print(f"{dice(carried, moving_labels):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Not exactly. The network treats its two inputs differently, so the two directions are two
# different registrations.
#
# </details>
#
# **Exercise 2.** Show that the target of the displacement is never read. Evaluate the test pair
# with zeros as the target, and again with ones. `evaluate` returns the total loss, the NCC term
# and the smoothness term, in this order.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for target in (np.zeros_like(displacement), np.ones_like(displacement)):
    print(model.evaluate([moving, fixed], [fixed, target], verbose=0))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Both lines show the same values, because `Grad` uses only the predicted displacement.
#
# </details>
#
# ## Summary
#
# - The data are images in [0, 1] on one grid. Training uses pairs in the form (inputs, targets).
# - The model is `VxmDense`, compiled with NCC, `Grad` and the weights 1 and λ.
# - `fit()` trains it, and `predict()` registers a new pair.
# - Report Dice before and after registration, and the folded share of the brain.
#
# **Read on:** [Prepare the data](01_data.ipynb) explains how scans become the arrays of the data
# file. The [checklist](../book/checklist.md) lists everything that has to match in a reproduction.
