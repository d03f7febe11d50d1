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
# # Find what is wrong: symptoms, causes, remedies
#
# | | |
# |---|---|
# | **You will** | look up a symptom, see it made on purpose, and see the remedy work |
# | **You will learn** | what users of voxelmorph have asked for years, with answers that were run |
# | **You need** | [lesson 4](03_fit.ipynb), whose training one entry reads |
# | **In → out** | a symptom → its cause and its remedy, in a cell that was run |
# | **Not here** | voxelmorph's PyTorch releases |
# | **Time** | a minute an entry |

# %% [markdown]
# Each entry names the threads of voxelmorph's issue tracker in which it was asked. Every snippet
# ran when this page was built, and `tests/test_troubleshooting.py` makes each symptom and tests
# each remedy.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from functools import partial

import numpy as np
from scipy import ndimage

from vxmlib import checks, metrics, models, preprocess, warp
from vxmlib.book import claims
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters
from vxmlib.backend import tf, versions, vxm

settings = read_parameters(globals())
people = runs.load_cohort(settings)
moving, fixed = (people.image(k) for k in people.split["train"][:2])

# %% [markdown]
# ## Installing
#
# ### It does not install, or does not import
#
# **Symptom.** pip ends in a conflict, or `import voxelmorph` in an error about `getargspec`,
# Keras 3 or PyTorch. **See it:** which versions are installed?

# %%
for name, version in versions().items():
    print(f"{name:12s} {version}")

# %% [markdown]
# **Cause.** voxelmorph's releases after `0.2` are for PyTorch alone; `0.2` does not say that it needs
# neurite `0.2`; that calls `inspect.getargspec`, which Python 3.11 removed; and both need
# Keras 2, while TensorFlow brings Keras 3 unless `TF_USE_LEGACY_KERAS=1` is set *before* it is
# imported. **Remedy.** Install this book's `requirements.lock`, and import `tf` and `vxm` from
# `vxmlib.backend` before anything else imports TensorFlow: it sets what has to be set, and says
# which version is wrong. Threads
# [633](https://github.com/voxelmorph/voxelmorph/issues/633),
# [635](https://github.com/voxelmorph/voxelmorph/issues/635),
# [619](https://github.com/voxelmorph/voxelmorph/issues/619),
# [634](https://github.com/voxelmorph/voxelmorph/issues/634),
# [662](https://github.com/voxelmorph/voxelmorph/issues/662).
#
# ### A tutorial stops
#
# **Symptom.** A notebook that once ran stops at the installation, or later at a call. **See it:**
# two calls that tutorials make. The first reads a NIfTI file:

# %%
from vxmlib.sources import template

path = str(template.brain_path())
print(claims.error_of(lambda: vxm.py.utils.load_volfile(path))[:72])
print(claims.error_of(lambda: vxm.losses.JacobianDeterminant()))

# %% [markdown]
# **Cause.** `load_volfile` calls nibabel's `get_data`, which nibabel has removed; a loss named
# `JacobianDeterminant` never was in the package. The official tutorial is written for packages of
# years ago throughout. **Remedy.** Read with
# nibabel (`vxmlib.nifti.read_image` also checks what it reads); take the determinant from
# [lesson 6](05_jacobian.ipynb) and the training from [lesson 4](03_fit.ipynb). Threads
# [634](https://github.com/voxelmorph/voxelmorph/issues/634),
# [581](https://github.com/voxelmorph/voxelmorph/issues/581),
# [584](https://github.com/voxelmorph/voxelmorph/issues/584).
#
# ## Data
#
# ### An error about the shapes of a Concatenate layer
#
# **Symptom.** Building the network fails. **See it:**

# %%
print(claims.error_of(lambda: vxm.networks.VxmDense((100, 100)))[:78])

# %% [markdown]
# **Cause.** The U-Net halves the grid four times and joins the halves again, so each size has to
# be a multiple of 16. **Remedy.** Cut or pad, and keep the offset: the affine moves with it.

# %%
padded, offset = preprocess.crop_or_pad(np.ones((100, 100), "float32"))
print(padded.shape, "offset", offset)

# %% [markdown]
# [Lesson 2](01_data.ipynb). Threads
# [382](https://github.com/voxelmorph/voxelmorph/issues/382),
# [487](https://github.com/voxelmorph/voxelmorph/issues/487).
#
# ### Which intensities?
#
# **Symptom.** The loss is huge or does not move. **See it:** ask whether the network can take the
# pair:

# %%
scan = 1000 * moving
for wrong in (scan, 1e-4 * moving):
    print(claims.error_of(partial(checks.check_pair, wrong, fixed)))

# %% [markdown]
# **Cause.** Network and losses expect intensities that span $[0, 1]$, background 0, and one grid.
# **Remedy.** `preprocess.normalise`; `cohort="own"` does it for a folder of NIfTI files.

# %%
ready = preprocess.normalise(scan)
checks.check_pair(ready, fixed)
print("from", ready.min(), "to", ready.max())

# %% [markdown]
# [Lesson 2](01_data.ipynb). Threads
# [28](https://github.com/voxelmorph/voxelmorph/issues/28),
# [62](https://github.com/voxelmorph/voxelmorph/issues/62),
# [96](https://github.com/voxelmorph/voxelmorph/issues/96).
#
# ### Is affine alignment needed?
#
# **Symptom.** Results are poor on one's own scans, where heads lie otherwise than in training.
# **See it:** one pair registered as it is, and with the moving image tilted by a quarter of a right
# angle; how well do the images correlate in the brain, before and after?

# %%
from vxmlib.methods.instance import InstanceOptimiser

optimise = InstanceOptimiser(people.shape)
inside = people.brain(people.split["train"][1])
angle = 22.5  # degrees
tilted = ndimage.rotate(moving, angle, reshape=False, order=1)
for name, image in {"upright": moving, "tilted": tilted}.items():
    u, _ = optimise(warp.identity(people.shape), image, fixed, steps=40)
    found = [
        metrics.local_ncc(x, fixed, mask=inside)
        for x in (image, warp.warp_image(image, u))
    ]
    print(f"{name:8s} {found[0]:.2f} before, {found[1]:.2f} after")

# %% [markdown]
# **Cause.** A deformation is found by small steps from where the images are; what lies far off
# corresponds to something else on the way. A network is trained to find what an affine alignment
# leaves, and has never seen more. **Remedy.** Align affinely first, with a tool made for it:
# `align.affine_to_template` asks ANTs. Here the tilt is known, and taken back:

# %%
upright = ndimage.rotate(tilted, -angle, reshape=False, order=1)
u, _ = optimise(warp.identity(people.shape), upright, fixed, steps=40)
after = metrics.local_ncc(warp.warp_image(upright, u), fixed, mask=inside)
print(f"aligned  {after:.2f} after")

# %% [markdown]
# [Lesson 2](01_data.ipynb). Thread [147](https://github.com/voxelmorph/voxelmorph/issues/147).
#
# ### My own scans; pairs or an atlas?
#
# **Symptom.** It is not clear what a generator has to yield. **See it:** the first batch of both
# kinds.

# %%
from vxmlib import pairs

ids = people.split["train"]
for atlas in (None, people.image(ids[0])):
    data = pairs.pair_dataset(people, ids, batch_size=2, seed=0, atlas=atlas)
    (source, target), wanted = next(iter(data))
    same = bool(tf.reduce_all(target[0] == target[1]))
    print([tuple(x.shape) for x in (source, target, *wanted)], "one target:", same)

# %% [markdown]
# **Cause.** A batch is `((moving, fixed), (fixed, zeros))`: the last is what the smoothness
# compares the field with, and it ignores it. Scan to scan draws both images; scan to atlas keeps
# the fixed one. No correspondence between people is needed, and no label. **Remedy.** Put your
# files in a folder and set `cohort="own"` and `root`; [lesson 2](01_data.ipynb) says what the
# folder looks like, and [lesson 4](03_fit.ipynb) trains. Threads
# [341](https://github.com/voxelmorph/voxelmorph/issues/341),
# [456](https://github.com/voxelmorph/voxelmorph/issues/456),
# [582](https://github.com/voxelmorph/voxelmorph/issues/582).
#
# ## Training
#
# ### NCC is negative, NaN, or does not change
#
# **Symptom.** The loss is below 0, or far below −1, or stays where it is. **See it:** the loss of
# one pair, as it is and with its intensities changed in three ways.

# %%
from vxmlib import losses

ncc = losses.image_loss("ncc")
for what, change in {
    "in [0, 1]": lambda x: x,
    "× 0.0001": lambda x: 1e-4 * x,
    "+ 1000": lambda x: x + 1000,
    "× NaN": lambda x: x * np.nan,
}.items():
    two = [
        tf.constant(change(x)[None, ..., None], tf.float32) for x in (fixed, moving)
    ]
    print(f"{what:12s}{float(tf.reduce_mean(ncc(*two))):12.4g}")

# %% [markdown]
# **Cause.** The loss is *minus* a squared correlation, so it lies between −1 and 0, and lower is
# better. Tiny intensities look constant, which scores perfect and has no gradient; a large offset
# leaves only rounding. **Remedy.** Intensities in $[0, 1]$ (above); [lesson 3](02_model.ipynb)
# says what NCC scores and misses. `training.fit` stops at the first NaN and keeps the epoch before.
# Threads
# [13](https://github.com/voxelmorph/voxelmorph/issues/13),
# [302](https://github.com/voxelmorph/voxelmorph/issues/302),
# [527](https://github.com/voxelmorph/voxelmorph/issues/527).
#
# ### It learns nothing
#
# **Symptom.** The loss stays flat from the first step. **See it:** how large is the gradient that
# the similarity sends into the displacement? Here for images in $[0, 1]$, for tiny ones, and for
# a generator that pairs each person with themselves:


# %%
def gradient(one, other):
    one, other = (tf.constant(x[None, ..., None], tf.float32) for x in (one, other))
    field = tf.Variable(tf.zeros((*one.shape[:-1], one.ndim - 2)))
    with tf.GradientTape() as tape:
        warped = vxm.layers.SpatialTransformer(indexing="ij")([one, field])
        loss = tf.reduce_mean(ncc(other, warped))
    return float(tf.norm(tape.gradient(loss, field)))


# %% [markdown]
# Its norm:

# %%
print(f"in [0, 1]     {gradient(moving, fixed):.2g}")
print(f"tiny          {gradient(1e-4 * moving, 1e-4 * fixed):.2g}")
print(f"the same one  {gradient(fixed, fixed):.2g}")

# %% [markdown]
# **Cause.** No gradient, no learning: look there before you look at the network. Often the images
# are of another scale, or moving and fixed are the same. **Remedy.** `checks.check_pair` on a
# batch, which refuses both:

# %%
for two in ((1e-4 * moving, 1e-4 * fixed), (fixed, fixed)):
    print(claims.error_of(partial(checks.check_pair, *two))[:62])

# %% [markdown]
# Then one pair alone, which any setup must be able to fit ([lesson 13](13_instance.ipynb)). Threads
# [408](https://github.com/voxelmorph/voxelmorph/issues/408),
# [200](https://github.com/voxelmorph/voxelmorph/issues/200).
#
# ### The warped image is torn
#
# **Symptom.** Warps are rough, structures tear or double. **See it:** one pair, optimised with
# two weights of the smoothness, and how much of the brain folds:

# %%
start, brain = warp.identity(people.shape), people.brain(people.split["train"][1])
for lam in (0.01, 1.0):
    optimise = InstanceOptimiser(people.shape, lam=lam)
    smooth_field, _ = optimise(start, moving, fixed, steps=40)
    folds = metrics.folding(smooth_field, brain)
    print(f"λ = {lam:<5} folds in {folds.percent_in_mask:.2f} % of the brain")
mse = float(np.mean((moving - fixed) ** 2))
change = 1 + float(
    tf.reduce_mean(ncc(fixed[None, ..., None], moving[None, ..., None]))
)
print(
    f"left to gain: {mse:.4f} of MSE, {change:.2f} of NCC: {change / mse:.0f} times as much"
)

# %% [markdown]
# **Cause.** The weight `0.01` belongs to MSE. With NCC there is far more to gain, as the last line
# says of this pair, so the same weight of the smoothness hardly counts. **Remedy.** λ near 1 with NCC, chosen on validation people
# ([lesson 7](06_lambda.ipynb), [lesson 10](06_choose.ipynb)); or integrate a velocity
# ([lesson 11](11_diffeomorphic.ipynb)). Threads
# [51](https://github.com/voxelmorph/voxelmorph/issues/51),
# [331](https://github.com/voxelmorph/voxelmorph/issues/331),
# [343](https://github.com/voxelmorph/voxelmorph/issues/343).
#
# ### Out of memory
#
# **Symptom.** The process is killed, or the GPU reports that memory ran out. **See it** before
# you run: a Keras model knows the size of all its layers' outputs, and training keeps most of
# them. No memory is needed to ask. Two networks, at the papers' size and with voxels twice as long:

# %% tags=["remove-stderr"]
from vxmlib.networks.strided import StridedVxmDense

for shape in ((160, 192, 224), (80, 96, 112)):
    for network in (vxm.networks.VxmDense, StridedVxmDense):
        model = models.build(shape, network=network, features="vxm1")
        print(shape, f"{network.__name__:16s} {models.outputs_gb(model):5.1f} GB")
    tf.keras.backend.clear_session()

# %% [markdown]
# **Cause.** The layers at full size hold most of it, times the batch size. Gradients and the
# loss come on top: users report about twice as much. **Remedy,** in this order: a batch of one; voxels of
# 2 mm, which take an eighth; a network that strides from its first layer on, as the papers' own
# do ([lesson 8](07_weights.ipynb)). Threads
# [235](https://github.com/voxelmorph/voxelmorph/issues/235),
# [282](https://github.com/voxelmorph/voxelmorph/issues/282).
#
# ### Several GPUs
#
# **Symptom.** `multi_gpu_model`, which the README still names, does not exist. **See it:** what
# TensorFlow computes on, and the call:

# %%
from vxmlib.backend import device_summary

print(device_summary())
print(claims.error_of(lambda: tf.keras.utils.multi_gpu_model))

# %% [markdown]
# **Cause.** TensorFlow has replaced it by strategies. **Remedy.** Build and compile inside the
# scope of a `tf.distribute.MirroredStrategy`, and call `fit()` as before; each device takes its
# share of the batch, which has to hold at least as many pairs as there are devices.
# [Lesson 18](cost.ipynb) trains so on two, and gets the losses of one. Threads
# [9](https://github.com/voxelmorph/voxelmorph/issues/9),
# [316](https://github.com/voxelmorph/voxelmorph/issues/316).
#
# ### How many people, and how long?
#
# **Symptom.** Nobody can say when to stop. **See it** in the record of [lesson 4](03_fit.ipynb):
# Dice of the validation people before, after three quarters of the steps, and at the end.

# %%
from vxmlib import records

told = records.read(runs.output_folder() / "03_fit" / "record.json")["metrics"]
end, last = (told["validation_dice" + part] for part in ("", "_last_quarter"))
print(f"before any step         {told['validation_dice_identity']:.3f}")
print(f"after three quarters    {end - last:.3f}")
print(f"after {told['steps']} steps        {end:.3f}")

# %% [markdown]
# **Cause.** The training loss says how well the training people fit, not when others stop to gain;
# and an epoch is only the interval between two checkpoints, since pairs are drawn with replacement.
# **Remedy.** Count optimiser steps. Stop when the *validation* people stop gaining:
# `tf.keras.callbacks.EarlyStopping(monitor="val_dice", mode="max", patience=5)` behind a
# `training.RegistrationMonitor`. With few people, change them at random (`vxmlib.augment`;
# [lesson 9](08_real.ipynb) measures what that gives). Threads
# [134](https://github.com/voxelmorph/voxelmorph/issues/134),
# [166](https://github.com/voxelmorph/voxelmorph/issues/166).
#
# ## Results
#
# ### The field has half the size of the image
#
# **Symptom.** The second output of `predict` cannot be applied to the image. **See it:**

# %% tags=["remove-stderr"]
model = models.build(people.shape, features="small", int_steps=7)
batch = [x[None, ..., None] for x in (moving, fixed)]
print("predict: ", model.predict(batch, verbose=0)[1].shape[1:])
print("register:", models.register(model, moving, fixed).shape)

# %% [markdown]
# **Cause.** With integration that output is the *velocity*, at half the size: what the smoothness
# is computed from, not what warps. **Remedy.** `models.register`, or voxelmorph's own
# `model.register`; [lesson 11](11_diffeomorphic.ipynb) shows the wrong numbers that the other one
# gives. Threads
# [71](https://github.com/voxelmorph/voxelmorph/issues/71),
# [122](https://github.com/voxelmorph/voxelmorph/issues/122),
# [479](https://github.com/voxelmorph/voxelmorph/issues/479).
#
# ### Warped labels have values that nobody drew
#
# **Symptom.** After warping, the label map has fractions, or structures that this person does not
# have. **See it:** a map of two made-up labels, 2 and 41, warped as if it were an image, and as
# labels:

# %%
labels = np.where(moving > 0.5, 41, 2) * (moving > 0)
as_image = np.rint(warp.warp_image(labels.astype("float32"), smooth_field))
as_labels = warp.warp_labels(labels, smooth_field)
new = [np.setdiff1d(found, labels).size for found in (as_image, as_labels)]
print(f"new labels: {new[0]} as an image, {new[1]} as labels")

# %% [markdown]
# **Cause.** Between label 2 and label 41, linear interpolation finds all that lies between.
# **Remedy.** Nearest neighbour on the integers; one-hot maps are not needed
# ([lesson 5](04_dice.ipynb)). Threads
# [509](https://github.com/voxelmorph/voxelmorph/issues/509),
# [511](https://github.com/voxelmorph/voxelmorph/issues/511).
#
# ### Dice is another one elsewhere
#
# **Symptom.** Two packages give another Dice for the same two label maps. **See it:** the maps
# above, with a label that neither has, and with the background:

# %%
other = np.where(fixed > 0.5, 41, 2) * (fixed > 0)
for numbers in ([2, 41], [2, 41, 17], [0, 2, 41]):
    theirs = np.mean(vxm.py.utils.dice(as_labels, other, labels=numbers))
    ours = np.nanmean(list(metrics.dice(as_labels, other, numbers).values()))
    print(f"labels {numbers!s:12s} voxelmorph {theirs:.3f}, ours {ours:.3f}")

# %% [markdown]
# **Cause.** Where neither map has the label, voxelmorph's function counts a 0, others a 1, and we
# leave it out; background is large and overlaps by itself. **Remedy.** Measure the structures that both people have, without
# background, and state it ([lesson 15](definitions.ipynb)). Thread
# [160](https://github.com/voxelmorph/voxelmorph/issues/160).
#
# ### The Jacobian looks wrong
#
# **Symptom.** All determinants are near 1, there are no folds where one sees them, or the call
# fails. **See it** on a field whose determinant is known, a stretch to twice the length along
# one axis:

# %%
stretch = np.stack([np.indices((16, 16))[0], np.zeros((16, 16))], axis=-1)
print("one field:     ", vxm.py.utils.jacobian_determinant(stretch)[8, 8])
print(
    "with its batch:",
    claims.error_of(lambda: vxm.py.utils.jacobian_determinant(stretch[None])),
)
print("ours:          ", metrics.jacobian_determinant(stretch)[8, 8])

# %% [markdown]
# Two ways to spoil it:

# %%
print("every other:   ", metrics.jacobian_determinant(stretch[::2, ::2])[4, 4])
print("in units of 1: ", metrics.jacobian_determinant(stretch / 16)[8, 8])

# %% [markdown]
# **Cause.** voxelmorph's function takes one field `(*vol, nd)` without a batch axis, in voxels of the
# grid it stands on. Every other vector, still in voxels of the full grid, stretches too much; in
# units of the image's size, as some libraries have them, everything is near 1 and nothing can fold.
# On the velocity it gives a number, too, but not that of the warp. **Remedy.** Give it
# what `register` returns, test it on a field that you can compute by hand, and count folds
# (determinant 0 or less) in the brain ([lesson 6](05_jacobian.ipynb)). Threads
# [50](https://github.com/voxelmorph/voxelmorph/issues/50),
# [110](https://github.com/voxelmorph/voxelmorph/issues/110),
# [205](https://github.com/voxelmorph/voxelmorph/issues/205).
#
# ### Landmarks move the wrong way
#
# **Symptom.** Landmarks of the moving image, displaced by the field, land farther off. **See it:**
# a moving image whose content lies 3 voxels further along the first axis than in the fixed one.

# %%
there = np.zeros((32, 32), "float32")
there[20, 16] = 1
shift = np.full((32, 32, 2), [3, 0], "float32")
print("in the moving image:", np.argwhere(there)[0])
print("in the warped one:  ", np.argwhere(warp.warp_image(there, shift))[0])

# %% [markdown]
# **Cause.** The displacement stands on the *fixed* grid and says where in the moving image to look:
# warped(x) = moving(x + u(x)). So it carries points of the fixed image to the moving one; content
# goes the other way. **Remedy.** For points of the moving image take the inverse, and look at its
# error:

# %%
inverse = warp.inverse(shift)
point = np.array([20, 16])
print(point, "+", inverse[20, 16], "=", point + inverse[20, 16])
print(
    "error of the inverse, voxels:",
    np.abs(warp.inversion_error(shift, inverse)).max(),
)

# %% [markdown]
# [Lesson 11](11_diffeomorphic.ipynb) has inverses that come with the network. Threads
# [90](https://github.com/voxelmorph/voxelmorph/issues/90),
# [264](https://github.com/voxelmorph/voxelmorph/issues/264).
#
# ### Weights do not load
#
# **Symptom.** `load_model` fails, or weights are said to be of another architecture. **See it:**

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

with TemporaryDirectory() as folder:
    path = Path(folder) / "model.h5"
    models.save(model, path)
    print(claims.error_of(lambda: tf.keras.models.load_model(path))[:72])
    print("VxmDense:", models.load(path).output_shape[0])

# %% [markdown]
# **Cause.** The file holds weights and the arguments of the network, not a graph that Keras knows.
# **Remedy.** Load by the class that wrote it. Loading a model file from a stranger with `load_model`
# can run code that the file holds, so use weights only from people you trust. The files of the 2018
# papers have another architecture than `VxmDense`; [lesson 8](07_weights.ipynb) rebuilds it. It
# gains on the authors' two scans about what the paper reports, at a lower level of Dice. Threads
# [172](https://github.com/voxelmorph/voxelmorph/issues/172),
# [359](https://github.com/voxelmorph/voxelmorph/issues/359),
# [655](https://github.com/voxelmorph/voxelmorph/issues/655).
#
# ## On your own
#
# **Exercise.** A colleague's validation Dice is *lower* after training than before. Which three
# entries of this page would you check first, and with which cell?
#
# :::{admonition} What we would do
# :class: dropdown
# The direction of the field first (landmarks): applied backwards it moves everything further away.
# Then whether labels lie on the images (an affine alignment applied to one and not to the other),
# and whether the same structures are counted before and after. All three give no error. A velocity
# taken for the displacement would still gain, only less ([lesson 11](11_diffeomorphic.ipynb)).
# :::
#
# ## What you take along
#
# - Ask the data first, then the gradient, then the network.
# - A test field with a known answer finds most mistakes of direction, size and axis in a minute.
# - An error message is the good case: the costly mistakes run through.
#
# **Read on:** [all threads](https://github.com/voxelmorph/voxelmorph/issues?q=is%3Aissue).
