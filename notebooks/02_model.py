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
# | **You will** | build the network, probe NCC and Grad with cases whose answer you can foresee, and compile |
# | **You will learn** | what NCC scores and what it misses; what a unit of smoothness costs; what λ really trades |
# | **You need** | [lesson 2](01_data.ipynb) |
# | **In → out** | a grid size and λ → a compiled model that `fit()` accepts |
# | **Not here** | training ([lesson 4](03_fit.ipynb)); a velocity field and its integration, which only shows up as `int_steps` |
# | **Time** | 30 minutes |

# %% [markdown]
# The parameters of this page, and their check:

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0

# %%
from vxmlib import backend
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
backend.set_seed(settings.seed)
settings

# %% [markdown]
# ## Build the network
#
# VoxelMorph's network is a {term}`U-Net`: four levels down, where images get smaller and
# features more, and four levels up again, each joined with the features of the same size from
# the way down. A last convolution turns the features into a {term}`displacement`: one number
# for each axis and voxel.

# %%
from vxmlib import models
from vxmlib.backend import tf, vxm

encoder, decoder = models.FEATURES["vxm2"]
network = vxm.networks.VxmDense(people.shape, [encoder, decoder], int_steps=0)
print(
    f"encoder {encoder}, decoder {decoder}: {network.count_params():,} parameters"
)

# %% [markdown]
# Two images go in, two things come out. Their order matters later, when each gets its loss.

# %%
for kind, tensors in (("in ", network.inputs), ("out", network.outputs)):
    for tensor in tensors:
        print(kind, tensor.shape)

# %% [markdown]
# First the warped moving image, with one channel; then the field, with one channel for each
# axis of space. The first axis is the batch.
#
# Four halvings must come out even: every size has to be divisible by 16. The layers would only
# complain deep inside, with a shape that nobody recognises. `models.build` says it first:

# %%
try:
    models.build((150, *people.shape[1:]))
except ValueError as error:
    print(error)

# %% [markdown]
# ## Ask the untrained network
#
# The last convolution starts with tiny weights, so that an untrained VoxelMorph does almost
# nothing. That is on purpose: training begins at the identity.

# %%
import numpy as np

first, second = people.split["test"][:2]
moving, fixed = people.image(first), people.image(second)
untrained = models.register(network, moving, fixed)
print(
    untrained.shape, f"largest component {np.abs(untrained).max():.4f} voxels"
)

# %% [markdown]
# Use `models.register` to get the displacement, here and always. `predict` returns the model's
# second *output*; with `int_steps=0` that is the displacement, but with voxelmorph's own
# default, `int_steps=7`, it is a velocity at half resolution, and every metric computed from it
# is silently wrong.

# %% [markdown]
# ## Probe NCC with cases you can foresee
#
# The image loss compares *local patterns*. In a window of 9 voxels a side around each voxel it
# takes the squared correlation of the two images,
#
# $$
# \mathrm{cc} = \frac{\operatorname{cov}(I, J)^2}{\operatorname{var}(I)\,\operatorname{var}(J)},
# $$
#
# and the loss is minus the mean over all voxels: between 0, nothing in common, and −1, the same
# pattern everywhere. Before trusting a loss, feed it pairs that you can judge yourself.

# %%
cases = {
    "itself": fixed,
    "brighter (0.5 x + 0.3)": 0.5 * fixed + 0.3,
    "inverted (1 − x)": 1 - fixed,
    "itself, 4 voxels off": np.roll(fixed, 4, axis=0),
    "another person": moving,
}

# %% [markdown]
# Each is compared with the fixed image three times: NCC over the whole grid, as the loss does;
# NCC over the brain's voxels only; and the mean squared error.

# %%
import pandas as pd

from vxmlib import metrics

brain = people.brain(second)
rows = {
    name: {
        "NCC loss": -metrics.local_ncc(image, fixed),
        "NCC loss, brain": -metrics.local_ncc(image, fixed, mask=brain),
        "MSE": np.mean((image - fixed) ** 2),
    }
    for name, image in cases.items()
}
table = pd.DataFrame(rows).T
table.round(3) + 0.0

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    off_all=table.loc["itself, 4 voxels off", "NCC loss"],
    off_brain=table.loc["itself, 4 voxels off", "NCC loss, brain"],
    inverted=abs(table.loc["inverted (1 − x)", "NCC loss, brain"]),
    brighter=table.loc["brighter (0.5 x + 0.3)", "NCC loss, brain"],
    brighter_mse=table.loc["brighter (0.5 x + 0.3)", "MSE"],
    other_all=table.loc["another person", "NCC loss"],
    outside=100 * (1 - brain.mean()),
)

# %% [markdown]
# Four things to read off:
#
# - **Brightness does not matter to NCC**: {glue:text}`brighter:.3f` in the brain, while MSE is
#   {glue:text}`brighter_mse:.3f` for the very same anatomy. This is why NCC suits scans from
#   different machines.
# - **Inverted contrast is no match**: voxelmorph clips negative covariance, so the brain scores
#   {glue:text}`inverted:.2f`. Registering T1 to T2 needs another loss.
# - **Empty background scores a perfect 1.** {glue:text}`outside:.0f` % of this grid lies outside
#   the brain and is flat in both images. A brain 4 voxels off still scores
#   {glue:text}`off_all:.2f` on the whole grid; inside the brain it is only
#   {glue:text}`off_brain:.2f`.
# - So a loss of {glue:text}`other_all:.2f` for two *different* people sounds good and is not.
#   Report NCC inside the brain when you want to say how well images match.
#
# :::{admonition} Why intensities must be in [0, 1]
# :class: warning
# NCC is *mathematically* blind to scale and offset. In 32-bit arithmetic it is not.
# :::

# %%
ncc = vxm.losses.NCC().loss
batch = tf.constant(fixed[None, ..., None])
scaled = {
    "x": batch,
    "x + 1000": batch + 1000,
    "x / 10 000": batch / 10_000,
}
for name, image in scaled.items():
    loss = ncc(image, tf.roll(image, 4, axis=1))
    print(f"{name:11} loss of 'itself, 4 voxels off': {float(loss[0]):.3g}")

# %% [markdown]
# The same two patterns three times. With an offset, variances are differences of huge numbers
# and the "correlation" leaves its range; with tiny intensities, the small constant that guards
# the division (`eps`) outweighs the variances.

# %% [markdown]
# ## Use our faster NCC: equal, and tested to be
#
# voxelmorph sums each window by one large convolution. A box filter can be done one axis after
# the other, which in 3D is many times less work. `vxmlib.losses.LocalNCC` does that; the tests
# hold value and gradient equal to the original's.

# %%
from vxmlib import losses

a, b = tf.constant(fixed[None, ..., None]), tf.constant(moving[None, ..., None])
ours, theirs = losses.LocalNCC(window=9).loss(a, b), ncc(a, b)
for name, value in {"ours": ours, "voxelmorph's": theirs}.items():
    print(f"{name:13} {float(tf.reduce_mean(value)):.6f}")

# %% [markdown]
# ## Price roughness with Grad
#
# The second loss is the price of a displacement $u$: the mean of its squared differences
# between neighbours. voxelmorph takes the mean over voxels, *components and axes*, so in $n$
# dimensions it is $1/n^2$ of the $\lVert\nabla u\rVert^2$ per voxel in the paper. Whoever
# compares a λ across implementations must compare this factor first.
#
# A stretch by a tenth along one axis has one slope, $0.1$, in one of $n^2$ entries. So we expect
# $0.1^2/n^2$:

# %%
grad = vxm.losses.Grad("l2").loss
nd = people.ndim
grid = np.stack(
    np.meshgrid(*map(np.arange, people.shape), indexing="ij"), -1
).astype("float32")
stretch = np.zeros_like(grid)
stretch[..., 0] = 0.1 * grid[..., 0]
price = float(tf.reduce_mean(grad(None, tf.constant(stretch[None]))))
print(f"Grad {price:.6f}, expected {0.1**2 / nd**2:.6f}")

# %% [markdown]
# Now the prices that matter. What does Grad charge for moving the whole brain, for the stretch,
# for a smooth bulge, and for noise?

# %%
rng = np.random.default_rng(settings.seed)
centre = np.array(people.shape) / 2
bulge = np.exp(-((grid - centre) ** 2).sum(-1, keepdims=True) / (2 * 15**2))
fields = {
    "shift by 5 voxels": np.full_like(grid, 5.0),
    "stretch by a tenth": stretch,
    "bulge of 5 voxels": np.broadcast_to(5 * bulge, grid.shape),
    "noise, SD 1 voxel": rng.normal(size=grid.shape),
}

# %%
prices = {}
for name, field in fields.items():
    g = float(tf.reduce_mean(grad(None, tf.constant(field[None], "float32"))))
    folds = metrics.folding(np.asarray(field, "float32")).percent
    prices[name] = {
        "Grad": g,
        "λ=0.01": 0.01 * g,
        "λ=1": g,
        "folded voxels, %": round(folds, 1),
    }
priced = pd.DataFrame(prices).T
priced.round(5)

# %% tags=["remove-cell"]
glue.glue(
    noise_cheap=priced.loc["noise, SD 1 voxel", "λ=0.01"],
    noise_dear=priced.loc["noise, SD 1 voxel", "λ=1"],
    noise_folds=priced.loc["noise, SD 1 voxel", "folded voxels, %"],
    ncc_room=1 + table.loc["another person", "NCC loss"],
)

# %% [markdown]
# Shifting is free, smooth bends are cheap, noise is dear: that is the intended order. Now look
# at the scale. All that NCC can gain on this pair is {glue:text}`ncc_room:.2f`, the distance
# from its value to −1. A field of pure noise folds {glue:text}`noise_folds:.0f` % of the
# voxels, and at λ = 1 it would cost {glue:text}`noise_dear:.2f`, more than NCC could ever pay
# back. At λ = 0.01 it costs {glue:text}`noise_cheap:.3f`: a bargain. **That is the whole secret
# of λ with NCC.** The value `0.01` that circulates belongs to MSE, whose differences are that
# much smaller.

# %% [markdown]
# ## Compile
#
# Spelled out once in full. The losses are given in the order of the outputs, and the weights in
# the order of the losses:

# %%
network.compile(
    optimizer=tf.keras.optimizers.Adam(learning_rate=1e-4),
    loss=[losses.LocalNCC().loss, vxm.losses.Grad("l2").loss],
    loss_weights=[1.0, settings.lam],
)

# %% [markdown]
# From here on the lessons call `models.build`, which does the same and checks its arguments
# first:

# %%
model = models.build(
    people.shape,
    image_loss=settings.image_loss,
    lam=settings.lam,
    int_steps=settings.int_steps,
    learning_rate=settings.learning_rate,
)
try:
    models.build(people.shape, lam=-0.5)
except ValueError as error:
    print(error)

# %% [markdown]
# ## On your own
#
# **Exercise 1.** A rotation bends nothing. Does Grad know that? Price a rotation by 10 degrees
# in the plane of the first and last axis.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
angle = np.deg2rad(10)
x, z = (grid - centre)[..., 0], (grid - centre)[..., -1]
rotation = np.zeros_like(grid)
rotation[..., 0] = (np.cos(angle) - 1) * x - np.sin(angle) * z
rotation[..., -1] = np.sin(angle) * x + (np.cos(angle) - 1) * z
print(f"{float(tf.reduce_mean(grad(None, tf.constant(rotation[None])))):.5f}")

# %% [markdown]
# It does not know: Grad charges for a rotation as for a bend. This is one reason to align scans
# affinely *before* VoxelMorph.
#
# **Exercise 2.** Show by NCC alone that the brain "itself, 1 voxel off" is scored lower than
# itself, and by how much in the brain.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
near = np.roll(fixed, 1, axis=0)
print(
    f"{-metrics.local_ncc(near, fixed, mask=brain):.3f} against −1 for itself"
)

# %% [markdown]
# **Exercise 3.** What would happen with the two losses in the wrong order? Compile so, and
# evaluate one pair.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
swapped = vxm.networks.VxmDense(people.shape, [encoder, decoder], int_steps=0)
swapped.compile(
    "adam", loss=[vxm.losses.Grad("l2").loss, losses.LocalNCC().loss]
)
zero = np.zeros((1, *people.shape, nd), "float32")
total, first_loss, second_loss = swapped.evaluate(
    [batch, b], [batch, zero], verbose=0
)
print(f"image under Grad {first_loss:.3f}, field under NCC {second_loss:.3f}")
print(f"total {total:.3f}")

# %% [markdown]
# Keras does not object, and the total looks splendid: an untrained field is flat, the zeros are
# flat, and NCC finds flat things identical. Nothing would ever be learned.

# %% [markdown]
# ## What you take along
#
# - The network maps (moving, fixed) to (warped, field); sizes divisible by 16.
# - NCC sees patterns, not brightness; flat background scores perfect, so look inside the brain.
# - Grad charges for every slope; λ sets the exchange rate, and it belongs to the image loss: about 1
#   with NCC and `0.01` with MSE are the authors' values {cite}`balakrishnan2019tmi`.
# - Losses and weights follow the order of the outputs.
#
# **Read on:** the journal paper {cite}`balakrishnan2019tmi`, section III, derives both losses.
