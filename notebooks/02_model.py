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
# # Build VxmDense and understand what its losses reward
#
# | | |
# |---|---|
# | **You will** | build the network, and test its two losses (NCC for the images, Grad for the smoothness) on cases with a known answer |
# | **You will learn** | what NCC rewards and what it misses, what Grad penalises, and where the usual values of λ come from |
# | **You need** | [Prepare the data](01_data.ipynb) |
# | **In → out** | a grid size and λ → a compiled network with one loss for each of its two outputs |
# | **Not here** | training, which is the subject of [the next lesson](03_fit.ipynb) |
# | **Time** | 25 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters select the data set and set λ (`lam`), the weight of the smoothness loss. The
# second cell loads the subjects and sets the random seed. The initial weights are random, so
# `backend.set_seed`, which calls `tf.keras.utils.set_random_seed`, must be called before the
# network is built.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
lam = 1.0

# %%
from vxmlib import backend
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
backend.set_seed(settings.seed)

# %% [markdown]
# ## Build the network
#
# VoxelMorph's network is a [U-Net](../book/glossary.md#u-net). In the first half (the encoder), the
# grid becomes coarser and the number of features grows. In the second half (the decoder), the
# feature maps are upsampled and concatenated with the encoder's feature maps of the same size. A
# final convolution turns the features into the [displacement](../book/glossary.md#displacement).

# %%
from vxmlib.backend import tf, vxm

network = vxm.networks.VxmDense(people.shape, int_steps=0)
print(f"{network.count_params():,} parameters")

# %% [markdown]
# With `int_steps=0`, the network predicts the displacement directly, as in the journal paper
# ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). With voxelmorph's default,
# `int_steps=7`, the network predicts a velocity instead, which is then integrated to obtain the
# displacement ([diffeomorphic registration](11_diffeomorphic.ipynb)).
#
# The next cell lists the two inputs and two outputs of the network. The order of the outputs
# matters later, because losses are assigned by position.

# %%
for kind, tensors in (("in ", network.inputs), ("out", network.outputs)):
    for tensor in tensors:
        print(kind, tensor.shape)

# %% [markdown]
# The inputs are the moving and the fixed image. The first output is the warped moving image, with
# one channel. The second output is the displacement, with one channel for each spatial axis. The
# first axis is always the batch axis, whose length is not fixed yet (`None`).
#
# The network halves the grid four times, so each side must be divisible by 16. For any other side
# length, voxelmorph raises an error that only says that two arrays inside the network differ in
# shape. Our function `models.build`, which later lessons use, checks the shape first. Its error
# message, shown below, states the condition.

# %%
from vxmlib import models

try:
    models.build((150, *people.shape[1:]))
except ValueError as error:
    print(error)

# %% [markdown]
# > **Note: Version 0.2 differs from the code of 2018**
# >
# > In the papers, strided convolutions halve the grid from the first layer on. In version 0.2,
# > `VxmDense` first convolves at full size and then uses max pooling. This book calls the network
# > of the papers the "strided U-Net". [The authors' weights](07_weights.ipynb) require the strided
# > U-Net, and the lesson on [real brains in 3D](08_real.ipynb) compares both networks.

# %% [markdown]
# ## Apply the untrained network
#
# The last convolution starts with very small weights, so an untrained network predicts a
# displacement close to zero. Training therefore begins close to the
# [identity](../book/glossary.md#identity). The next cell loads two images of validation subjects,
# and adds a batch axis and a channel axis to each.

# %%
import numpy as np

first, second = people.split["validation"][:2]
moving, fixed = people.image(first), people.image(second)
batches = moving[None, ..., None], fixed[None, ..., None]

# %% [markdown]
# The method `register` of `VxmDense` returns the displacement as a NumPy array with a batch axis.

# %% tags=["remove-output"]
displacement = network.register(*batches)

# %% [markdown]
# Even the largest component of this displacement is far smaller than one voxel.

# %%
print(displacement.shape, f"largest component {np.abs(displacement).max():.4f} voxels")

# %% [markdown]
# Our function `models.register` takes images without batch and channel axes, checks them, and
# returns the same displacement without the batch axis. `models.register` compiles the computation
# once, whereas the method `register` does so at every call.

# %%
same = models.register(network, moving, fixed)
print(same.shape, np.allclose(same, displacement[0]))

# %% [markdown]
# > **Warning: Do not use the second output of `predict`**
# >
# > With `int_steps=0`, the second output is the displacement. With `int_steps=7`, however, it is a
# > velocity at half the resolution. Metrics computed from this velocity instead of the displacement
# > are wrong, but no error is raised. Use `register` instead.

# %% [markdown]
# ## Compute NCC
#
# The image loss is based on the local normalised cross-correlation ([NCC](../book/glossary.md#ncc))
# of two images $I$ and $J$. NCC compares *local patterns*: it uses a window $W(p)$, 9 voxels wide,
# around each voxel $p$. Over this window, it sums the products of the deviations from the window
# means $\bar I(p)$ and $\bar J(p)$:
#
# $$
# c_{IJ}(p) = \sum_{q \in W(p)} \bigl(I(q) - \bar I(p)\bigr)\bigl(J(q) - \bar J(p)\bigr)
# $$
#
# The sums $c_{II}$ and $c_{JJ}$ are defined in the same way. voxelmorph replaces values of
# $c_{IJ}$, $c_{II}$ and $c_{JJ}$ below $\varepsilon = 10^{-5}$ by $\varepsilon$. Then it computes
# the squared correlation:
#
# $$
# \mathrm{cc}(p) = \frac{\max(c_{IJ}, \varepsilon)^2}
# {\max(c_{II}, \varepsilon)\,\max(c_{JJ}, \varepsilon)}
# $$
#
# NCC is the mean of $\mathrm{cc}$ over all voxels, where $\mathrm{cc}$ is about 0 if the
# correlation is negative. The loss is minus NCC, so it ranges from 0 (no common pattern) to −1 (the
# same pattern everywhere).
#
# The next cell computes the loss for the two images. voxelmorph's NCC and Grad return one
# value per pair, with shape `(batch,)`, so `[0]` selects the value of our single pair.

# %%
ncc = vxm.losses.NCC().loss
moving_batch, fixed_batch = (tf.constant(batch) for batch in batches)
print(f"{float(ncc(fixed_batch, moving_batch)[0]):.3f}")

# %% [markdown]
# Clipping at $\varepsilon$ has two consequences:
#
# - A negative covariance $c_{IJ}$ becomes $\varepsilon$, so $\mathrm{cc}$ is about 0 for inverted
#   contrast.
# - In a window that is flat in *both* images, all three sums become $\varepsilon$, so
#   $\mathrm{cc}$ is 1 there.
#
# > **Note: The loss is local, but the network is not**
# >
# > Only NCC is limited to windows 9 voxels wide. The U-Net halves the grid four times, so it uses a
# > far larger neighbourhood to predict the displacement of one voxel.

# %% [markdown]
# ## Test NCC on cases with a known answer
#
# Before you trust a loss, compute it for image pairs for which you know the answer. The next cell
# makes five images to compare with the fixed image.

# %%
cases = {
    "itself": fixed,
    "brighter": 0.5 * fixed + 0.3,
    "inverted": 1 - fixed,
    "moved by 4 voxels": np.roll(fixed, 4, axis=0),
    "another subject": moving,
}

# %% [markdown]
# The table shows voxelmorph's NCC loss over the whole grid, the NCC loss over the fixed brain, and
# the mean squared error (MSE) over the whole grid. `metrics.local_ncc` computes the mean of
# $\mathrm{cc}$ inside a mask, and the minus sign turns this mean into a loss.

# %%
import pandas as pd

from vxmlib import metrics

brain = people.brain(second)
rows = {}
for name, image in cases.items():
    whole = float(ncc(fixed_batch, tf.constant(image[None, ..., None]))[0])
    inside = -metrics.local_ncc(image, fixed, mask=brain)
    rows[name] = {"NCC": whole, "NCC, brain": inside, "MSE": np.mean((image - fixed) ** 2)}
table = pd.DataFrame(rows).T
table.round(3) + 0.0

# %% tags=["remove-input"]
from IPython.display import Markdown

brighter, inverted = table.loc["brighter"], table.loc["inverted"]
Markdown(f"""
The table shows four properties of NCC.

- **Brightness has no effect inside the brain.** There, the NCC loss of the brighter image is
  {brighter["NCC, brain"]:.3f}, although its MSE is {brighter["MSE"]:.3f}. NCC is therefore suitable
  for scans from different scanners.
- **Inverted contrast does not count as a match.** The NCC of the inverted image in the brain is
  {abs(inverted["NCC, brain"]):.2f}, because negative covariance is clipped. Registering T1 to T2
  requires a different loss.
""")

# %% tags=["remove-input"]
moved, other = table.loc["moved by 4 voxels"], table.loc["another subject"]
Markdown(f"""
- **Empty background counts as a perfect match.** Of all voxels, {100 * (1 - brain.mean()):.0f} %
  are outside the brain, and many of their windows are empty in both images. The loss of the moved
  image is therefore {moved["NCC"]:.2f} over the whole grid, but only {moved["NCC, brain"]:.2f} in
  the brain.
- **The mean over the whole grid can mislead.** The loss of {other["NCC"]:.2f} for two *different*
  subjects suggests a good match, but most of this value can come from the background. Therefore,
  report NCC inside the brain.
""")

# %% [markdown]
# Over the whole grid, the loss of the brighter image does not reach −1, mainly because its
# background is above 0. voxelmorph pads each image with zeros, so this background has an edge at
# the border.
#
# The loss of the inverted image is better over the whole grid than in the brain, because windows of
# flat background count as matches.

# %% [markdown]
# ## Keep intensities in [0, 1]
#
# In theory, NCC ignores intensity scale and offset. In practice, 32-bit arithmetic and the clipping
# at $\varepsilon$ limit this property. The next cell compares the fixed image with its moved copy
# three times: unchanged, with a large offset added to both, and with both multiplied by a small
# factor.

# %%
scaled = {"x": fixed_batch, "x + 1000": fixed_batch + 1000, "x / 10 000": fixed_batch / 10_000}
for name, image in scaled.items():
    loss = ncc(image, tf.roll(image, 4, axis=1))
    print(f"{name:11} {float(loss[0]):.3g}")

# %% [markdown]
# The first line repeats the loss of the moved image from the table. With the offset, each variance
# is a small difference between very large numbers. Rounding errors then dominate the variance, and
# the loss is outside its range from −1 to 0. With the small factor, all variances are below
# $\varepsilon$. Every window therefore counts as flat, and the loss is −1 although the images do
# not match.

# %% [markdown]
# ## Use a faster NCC with the same values
#
# voxelmorph computes the sums over all windows with one large convolution. `losses.LocalNCC`
# computes the same sums along one axis after another, which takes far fewer operations in 3D. The tests of
# the package check that both classes give equal values and gradients, and the next cell compares
# the values for our pair.

# %%
from vxmlib import losses

print(f"voxelmorph {float(ncc(fixed_batch, moving_batch)[0]):.6f}")
print(f"LocalNCC   {float(losses.LocalNCC(window=9).loss(fixed_batch, moving_batch)[0]):.6f}")

# %% [markdown]
# ## Penalise roughness with Grad
#
# The second loss penalises a rough displacement $u$. `Grad("l2")` squares the differences in $u$
# between neighbouring voxels and takes the *mean* over voxels, components and axes. In the paper,
# $\lVert\nabla u\rVert^2$ is instead the *sum* of the squares over components and axes. In $n$
# dimensions, there are $n$ components and $n$ axes, so voxelmorph's value is $1/n^2$ of the mean of
# $\lVert\nabla u\rVert^2$ over the voxels. Check this factor before you compare λ between two
# implementations.
#
# The next cell creates the loss and an array that contains the coordinates of each voxel.

# %%
grad = vxm.losses.Grad("l2").loss
grid = np.stack(np.meshgrid(*map(np.arange, people.shape), indexing="ij"), -1)

# %% [markdown]
# For a stretch by a tenth along one axis, one of the $n^2$ derivatives of the displacement is
# $0.1$, and the others are 0. Grad should therefore equal $0.1^2/n^2$, as the next cell confirms.

# %%
stretch = np.zeros(grid.shape, "float32")
stretch[..., 0] = 0.1 * grid[..., 0]
price = float(grad(None, tf.constant(stretch[None]))[0])
print(f"Grad {price:.6f}, expected {0.1**2 / people.ndim**2:.6f}")

# %% [markdown]
# The first argument of the loss is the target, which Grad ignores, so `None` is passed here. The
# next cells compute Grad for four very different displacements: a shift of the whole image, the
# stretch, a smooth bulge, and noise.

# %%
rng = np.random.default_rng(settings.seed)
centre = np.array(people.shape) / 2
bulge = np.exp(-((grid - centre) ** 2).sum(-1, keepdims=True) / (2 * 15**2))
fields = {
    "shift by 5 voxels": np.full(grid.shape, 5.0),
    "stretch by a tenth": stretch,
    "bulge of 5 voxels": np.broadcast_to(5 * bulge, grid.shape),
    "noise, SD 1 voxel": rng.normal(size=grid.shape),
}

# %% [markdown]
# The table shows the penalty, λ times Grad, for two values of λ. The last column gives the
# percentage of voxels at which the displacement folds.

# %%
prices = {}
for name, field in fields.items():
    field = field.astype("float32")
    price = float(grad(None, tf.constant(field[None]))[0])
    folded = round(metrics.folding(field).percent, 1)
    prices[name] = {"λ = 1": price, "λ = 0.01": 0.01 * price, "folded, %": folded}
priced = pd.DataFrame(prices).T
priced.round(5)

# %% tags=["remove-input"]
noise = priced.loc["noise, SD 1 voxel"]
room = 1 + table.loc["another subject", "NCC"]
Markdown(f"""
As intended, the penalty is 0 for a shift, small for smooth displacements and large for noise. Now
compare these penalties with the image loss. For our pair, the NCC loss can decrease by at most
{room:.2f}, which is the difference between its current value and −1.
""")

# %% tags=["remove-input"]
Markdown(f"""
The noise folds {noise["folded, %"]:.0f} % of the voxels. At λ = 1, its penalty of
{noise["λ = 1"]:.2f} is larger than any possible decrease in the NCC loss. At λ = 0.01, its penalty
is only {noise["λ = 0.01"]:.3f}, so a small decrease in the NCC loss outweighs even this amount of
folding. The comparison suggests that λ = 0.01 is too small for NCC. We test this
by training in [Choose λ](06_choose.ipynb).
""")

# %% [markdown]
# ## Know where λ = 1 and λ = 0.01 come from
#
# Each value of λ is meant for one image loss, because λ weights roughness relative to that loss.
#
# | Image loss | λ in the authors' README and `train.py` | λ with the highest Dice in the paper |
# |---|---|---|
# | NCC | λ = 1 | λ = 1 to 1.5 ([Fig. 7](https://doi.org/10.1109/TMI.2019.2897538)) |
# | MSE | λ = 0.01 | λ = 0.02 ([Fig. 7](https://doi.org/10.1109/TMI.2019.2897538)) |
#
# We read the last column from the paper's figure. Recipes that combine NCC with λ = 0.01 mix the
# two rows of the table.
#
# > **Note: With integration, λ counts twice**
# >
# > If the network predicts a velocity at half the resolution, voxelmorph's training script
# > multiplies Grad by 2, and so does `models.build`.

# %% [markdown]
# ## Assign the losses to the outputs
#
# `compile` assigns the losses to the outputs by position, so NCC is applied to the warped image and
# Grad to the displacement. The loss weights follow the same order.

# %%
network.compile(
    optimizer=tf.keras.optimizers.Adam(learning_rate=1e-4),
    loss=[vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss],
    loss_weights=[1.0, settings.lam],
)

# %% [markdown]
# The total loss of one pair is then the NCC loss plus λ times Grad. The targets are the fixed image
# for NCC and zeros for Grad. The next cell evaluates our pair and compares the total loss with the
# sum of the two terms. Keras accepts inputs and targets as lists or tuples, but
# `Dataset.from_generator` requires tuples.

# %%
zeros = np.zeros_like(displacement)
total, similarity, roughness = network.evaluate([*batches], [batches[1], zeros], verbose=0)
print(f"{total:.4f} = {similarity:.4f} + {settings.lam:g} × {roughness:.4f}")

# %% [markdown]
# Grad is almost 0 here, because the untrained network predicts almost no displacement. The network
# is trained in [Compile and fit](03_fit.ipynb).

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** A rotation does not deform the brain. Is Grad therefore 0 for a rotation? Compute
# Grad for a rotation by 10 degrees in the plane of the first and the last axis.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
angle = np.deg2rad(10)
x, z = (grid - centre)[..., 0], (grid - centre)[..., -1]
rotation = np.zeros(grid.shape, "float32")
rotation[..., 0] = (np.cos(angle) - 1) * x - np.sin(angle) * z
rotation[..., -1] = np.sin(angle) * x + (np.cos(angle) - 1) * z
print(f"{float(grad(None, tf.constant(rotation[None]))[0]):.5f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. The displacement of a rotation changes from voxel to voxel, and Grad penalises every change.
# This is one reason to align scans affinely *before* using VoxelMorph.
#
# </details>
#
# **Exercise 2.** What happens if the two losses are given in the wrong order? Compile a second
# network with the losses swapped, and evaluate one pair.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
swapped = vxm.networks.VxmDense(people.shape, int_steps=0)
swapped.compile("adam", loss=[vxm.losses.Grad("l2").loss, vxm.losses.NCC().loss])
total, on_image, on_field = swapped.evaluate([*batches], [batches[1], zeros], verbose=0)
print(f"Grad of the image {on_image:.3f}, NCC of the displacement {on_field:.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Keras raises no error, and the total loss looks excellent. The untrained network predicts a
# displacement of almost zero, which is flat like its target, and NCC counts flat windows as a
# perfect match. However, neither loss compares the warped image with the fixed image, so training
# could not improve the registration.
#
# </details>

# %% [markdown]
# ## Summary
#
# - `VxmDense` maps (moving, fixed) to (warped, displacement) and requires sides divisible by 16.
# - Take the displacement from `register`.
# - NCC compares local patterns and ignores brightness. Negative covariance counts as no match, and
#   flat background as a perfect match.
# - Grad is a mean over voxels, components and axes. It penalises every change of the displacement.
# - λ depends on the image loss. Start with λ = 1 for NCC and with λ = 0.01 for MSE.
# - Losses and loss weights follow the order of the outputs.
#
# **Read on:** Section III of the journal paper
# ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)) defines both losses.
