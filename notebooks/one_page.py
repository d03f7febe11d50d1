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
# | **You will learn** | how the whole workflow fits into one script, and which lesson explains each block |
# | **You need** | the book's environment (`environment.yml`); no scans and no GPU |
# | **In → out** | one file with images and label maps → a trained model, Dice and folding |
# | **Not here** | the reasons for each choice, which the following lessons explain |
# | **Time** | 10 minutes |
#
# VoxelMorph registers a *moving* image to a *fixed* image. For each voxel of the fixed image, a
# network predicts the position in the moving image from which the intensity is taken ([Balakrishnan
# et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). The vector from the voxel to this
# position is the [displacement](../book/glossary.md#displacement). Training does not need the
# correct displacement as a target, because the loss is computed from the two images and the
# predicted displacement.
#
# The script on this page has fewer than 50 lines of code and needs only NumPy, TensorFlow and
# voxelmorph. On brain slices of 40 simulated training subjects, 400 training steps take less than a
# minute on two idle CPU cores. Registration with the trained network raises the
# [Dice](../book/glossary.md#dice) overlap of a new pair by about a third.
# For the exact values of this build, see [Measure the result](#measure-the-result).

# %% [markdown]
# ## Set the parameters
#
# `cohort` selects the data set, and `profile` sets the number of subjects. `seed` initialises the
# random numbers, and `root` is the folder of your own scans, if you use any. The second cell below
# checks these values.

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
# The script reads one file with two arrays, `images` and `labels`. The intensities of an image
# range from 0 to 1. In a label map, 0 stands for the background, and each other number for a brain
# structure. All images and label maps are affinely aligned and share one grid, whose side lengths
# are divisible by 16.
#
# The helper `examples.brains` writes such a file with one coronal slice for each subject. The
# subjects of the default cohort are simulated: one template brain was deformed differently for each
# subject.

# %%
import numpy as np

from vxmlib.book import examples
from vxmlib.experiments import runs

path = examples.brains(settings, runs.output_folder() / "one_page")
for name, array in np.load(path).items():
    print(name, array.shape, array.dtype)

# %% [markdown]
# The first axis of each array is the subject axis, and the other axes are the grid axes. The last
# two subjects are reserved for the test, and all others are used for training.

# %% [markdown]
# ## Copy the script
#
# The complete script follows. It is also part of the project, as `examples/one_page.py`. Save the
# script in the folder of your data file, name the data file `brains.npz`, and run
# `python one_page.py`.
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
# The rest of this page runs the script block by block. The first block imports the packages.
# Version 0.2 of voxelmorph is the last release for TensorFlow. This release needs Keras 2, and its
# dependency neurite calls a function that was removed in Python 3.11. Therefore, one line selects
# Keras 2 and another line restores the function before TensorFlow and voxelmorph are imported. If
# the installation fails, see [Find what is wrong](troubleshooting.ipynb).

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
# Next, the script sets `path`, `epochs` and `seed`. On this page, `path` and `seed` were set above,
# so only `epochs` remains. The profile `smoke` only tests whether the page runs, so training with
# this profile lasts one epoch.

# %%
epochs = 1 if settings.profile == "smoke" else 10

# %% [markdown]
# ## Read the data
#
# Keras expects a channel axis at the end, so `[..., None]` adds this axis to both arrays. `shape`
# is the shape of one image without the channel axis. The images may be 2D or 3D, because the script
# does not depend on the number of axes. To make such arrays from scans, see [Prepare the
# data](01_data.ipynb).

# %% tags=["script"]
brains = np.load(path)
images, labels = brains["images"][..., None], brains["labels"][..., None]
train = images[:-2]
shape = images.shape[1:-1]

# %% [markdown]
# ## Draw pairs
#
# `fit()` takes batches of the form (inputs, targets). The inputs are the moving and the fixed
# image. The network has two outputs, the warped image and the displacement. The target for the
# warped image is the fixed image. The correct displacement is unknown, but Keras requires a target
# for every output, so the script provides an array of zeros.
#
# Keras also expects a batch axis as the first axis of every array. The double brackets in
# `train[[moving]]` select one image and keep a batch axis of length 1.

# %% tags=["script"]
def draw_pairs():
    rng = np.random.default_rng(seed)
    zeros = np.zeros((1, *shape, len(shape)), "float32")
    while True:
        moving, fixed = rng.choice(len(train), size=2, replace=False)
        yield (train[[moving]], train[[fixed]]), (train[[fixed]], zeros)

# %% [markdown]
# The next block turns the generator into a `tf.data.Dataset`. The signature specifies the shape of
# each array, which a generator alone does not. To learn why the shapes are needed, see [Prepare the
# data](01_data.ipynb#make-pairs-with-a-generator).

# %% tags=["script"]
image = tf.TensorSpec((1, *shape, 1))
field = tf.TensorSpec((1, *shape, len(shape)))
signature = (image, image), (image, field)
pairs = tf.data.Dataset.from_generator(draw_pairs, output_signature=signature)

# %% [markdown]
# ## Build the network and compile it
#
# `VxmDense` is voxelmorph's registration network. With `int_steps=0`, the network predicts the
# displacement directly, and it returns the warped moving image and this displacement. The first
# loss, local normalised cross-correlation ([NCC](../book/glossary.md#ncc)), compares the warped
# image with the fixed image. The second loss, `Grad`, measures how rough the displacement is.
#
# The weight of the first loss is 1. The weight of the second loss is called
# [λ](../book/glossary.md#lambda), and here λ is also 1. For the network and both losses, see [Build
# VxmDense](02_model.ipynb). For the choice of λ, see [Choose λ](06_choose.ipynb).

# %% tags=["script"]
tf.keras.utils.set_random_seed(seed)
model = vxm.networks.VxmDense(shape, int_steps=0)
losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
model.compile(tf.keras.optimizers.Adam(5e-4), loss=losses, loss_weights=[1, 1])

# %% [markdown]
# ## Train
#
# Each step draws one pair and updates the weights of the network once. The generator yields pairs
# indefinitely, so `steps_per_epoch` determines when an epoch ends. `verbose=2` prints one line for
# each epoch. In this line, `loss` is the total loss, `vxm_dense_transformer_loss` is the NCC term,
# and `vxm_dense_flow_loss` is the smoothness term before weighting. NCC measures similarity, but
# Keras minimises the loss, so the NCC term is the negative of NCC. For a detailed explanation of
# these lines, see [Compile and fit](03_fit.ipynb).

# %% tags=["script"]
history = model.fit(pairs, epochs=epochs, steps_per_epoch=40, verbose=2)

# %% [markdown]
# ## Register the test pair
#
# The trained network needs no further optimisation for a new pair, so one call to `predict` returns
# the warped image and the displacement.

# %% tags=["script"]
moving, fixed = images[[-2]], images[[-1]]
warped, displacement = model.predict([moving, fixed], verbose=0)

# %% [markdown]
# The label map of the moving subject is warped by the same displacement, but with nearest-neighbour
# interpolation. Label numbers only identify structures, so they must not be averaged
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
# The Dice overlap of a structure is twice its common volume in both label maps, divided by the sum
# of its volumes in the two maps. The function below averages Dice over the structures that both
# maps contain. For the treatment of the background and of absent structures, see [Measure the
# overlap with Dice](04_dice.ipynb).

# %% tags=["script"]
def dice(a, b):
    shared = [k for k in np.intersect1d(a, b) if k > 0]
    common = [np.sum((a == k) & (b == k)) for k in shared]
    total = [np.sum(a == k) + np.sum(b == k) for k in shared]
    return np.mean(2 * np.divide(common, total))

# %% [markdown]
# The Jacobian determinant is the factor by which volume changes locally. Where the determinant is
# zero or negative, the displacement folds the image. The script computes the percentage of brain
# voxels that are folded. The brain is the region where the fixed image is above 0 ([Read the
# Jacobian](05_jacobian.ipynb)).

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
The network was trained for {40 * epochs} steps on pairs drawn from {len(train)} training subjects.
For the test pair, Dice averaged over structures is {before:.3f} before registration and {after:.3f}
after registration. The displacement folds {100 * folded:.3f} % of the brain.
""")

# %% tags=["remove-input"]
Markdown(f"""
Running the blocks of the script, from the imports to these values, took {seconds:.0f} seconds on
this machine ({backend.device_summary()}).
""")

# %% [markdown]
# The result for one pair shows that the script works, but it is not enough for a general
# conclusion. The lessons therefore evaluate many pairs of test subjects and report the spread of
# the results.
#
# ## Look at the pair
#
# A figure reveals mistakes that a mean Dice hides, so always look at the moving, the warped and the
# fixed image.

# %% mystnb={"image": {"alt": "Three grey-scale brain slices side by side: the moving image, the warped image, and the fixed image. The ventricles and the cortical folds of the warped image have nearly the same shapes as those of the fixed image."}, "figure": {"caption": "The test pair. The warped image has the intensities of the moving image, and its structures have nearly the same shapes as in the fixed image.", "name": "fig-onepage-pair"}}
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
# | other images | Save `images` and `labels` in an `.npz` file, as described in [Prepare the data](01_data.ipynb). |
# | 3D volumes | No change is needed, because the script reads the number of axes from the file. However, training in 3D needs a GPU or much more time ([real brains](08_real.ipynb)). |
# | no label maps | Remove `labels` and every line that uses label maps, and report only folding. |
# | longer training | Increase `epochs`. The authors trained for 150 000 steps with a learning rate of `1e-4`. |
# | a different image loss | Use `vxm.losses.MSE().loss`, and start with λ = 0.01 ([Build VxmDense](02_model.ipynb)). |
# | less folding | Increase λ, the second loss weight ([Choose λ](06_choose.ipynb)), or let the network predict a velocity that is integrated ([diffeomorphic registration](11_diffeomorphic.ipynb)). |
#
# > **Important: Do not choose settings on the test subjects**
# >
# > Use the last two subjects only for the final measurement. Before you compare several values of λ
# > or several numbers of steps, set aside other subjects for validation.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Register the test pair in the opposite direction. Is the Dice the same as in the
# original direction?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
back = model.predict([fixed, moving], verbose=0)[1]
carried = warp_nearest([fixed_labels.astype("float32"), back]).numpy()
print(f"{dice(carried, moving_labels):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# No, not exactly. The network treats its two inputs differently, so it computes a different
# registration for each direction.
#
# </details>
#
# **Exercise 2.** Show that the target of the displacement does not affect the loss. Evaluate the
# model on the test pair with zeros as this target, and again with ones. `evaluate` returns the
# total loss, the NCC term and the smoothness term, in this order.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for target in (np.zeros_like(displacement), np.ones_like(displacement)):
    print(model.evaluate([moving, fixed], [fixed, target], verbose=0))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The two printed lines are identical, because `Grad` uses only the predicted displacement.
#
# </details>
#
# ## Summary
#
# - The data are images that share one grid, with intensities from 0 to 1. Training uses batches of
#   the form (inputs, targets).
# - The model is `VxmDense`, compiled with the losses NCC and `Grad` and their weights 1 and λ.
# - `fit()` trains the model, and `predict()` registers a new pair.
# - Report Dice before and after registration, and the percentage of the brain that is folded.
#
# **Read on:** To make the arrays of the data file from scans, see [Prepare the
# data](01_data.ipynb). For everything that must match in a reproduction, see the
# [checklist](../book/checklist.md).
