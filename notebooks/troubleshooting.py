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
# # Find what is wrong
#
# | | |
# |---|---|
# | **You will** | look up a symptom, see it produced on purpose, and see the remedy work |
# | **You will learn** | answers to the questions that users of voxelmorph have asked for years |
# | **You need** | nothing; look up what you need |
# | **In → out** | a symptom → its cause and its remedy, each in a cell that ran |
# | **Not here** | voxelmorph's PyTorch releases |
# | **Time** | 1 minute per entry |

# %% [markdown]
# The heading of each entry below is a symptom. Most entries end with links to the threads of
# [voxelmorph's issue tracker](https://github.com/voxelmorph/voxelmorph/issues?q=is%3Aissue) in
# which users reported it. If you do not know where to begin, check in this order:
#
# 1. **The data.** Show a pair and its label maps, because most mistakes in the data are visible.
# 2. **The gradient.** Check that it is not zero, because no network can be trained without it.
# 3. **One pair.** Train on a single pair, because every correct setup can fit one.

# %% [markdown]
# ## Set the parameters
#
# The parameters name the data set from which the examples take two subjects.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
first, second = people.split["train"][:2]
moving, fixed = people.image(first), people.image(second)

# %% [markdown]
# `error_of` runs a call and returns the error that it raises as one line. Many entries below use
# it.

# %%
from vxmlib.book.errors import error_of

print(error_of(lambda: 1 / 0))

# %% [markdown]
# ## Installation
#
# ### pip installs PyTorch, or the import fails
#
# pip reports a conflict, or `import voxelmorph` stops with a message about `getargspec`, Keras 3 or
# PyTorch. The next cell prints the versions that work together.

# %%
from vxmlib.backend import tf, versions, vxm

for name, version in versions().items():
    print(f"{name:12} {version}")

# %% [markdown]
# **Cause.** The releases of voxelmorph after `0.2` are for PyTorch only. Version `0.2` needs
# neurite `0.2` but also accepts later releases, so pip installs a later one. In addition, neurite
# `0.2` calls `inspect.getargspec`, which Python 3.11 removed, and both packages need Keras 2.
#
# **Remedy.** Install this book's `requirements.lock`. Import `tf` and `vxm` from `vxmlib.backend`
# before any other import of TensorFlow. This module restores `getargspec` during the import. It
# also sets the environment variable `TF_USE_LEGACY_KERAS`, which makes TensorFlow use Keras 2 and
# must be set before TensorFlow is imported.
#
# Threads [633](https://github.com/voxelmorph/voxelmorph/issues/633),
# [635](https://github.com/voxelmorph/voxelmorph/issues/635),
# [619](https://github.com/voxelmorph/voxelmorph/issues/619),
# [662](https://github.com/voxelmorph/voxelmorph/issues/662).

# %% [markdown]
# ### An official tutorial stops with an error
#
# The next cell makes two calls from official tutorials. The first reads a NIfTI file, and the
# second creates a loss.

# %%
from vxmlib.sources import template

path = str(template.brain_path())
print(error_of(lambda: vxm.py.utils.load_volfile(path))[:70])
print(error_of(lambda: vxm.losses.JacobianDeterminant()))

# %% [markdown]
# **Cause.** `load_volfile` calls `get_data`, which fails in current versions of nibabel. A loss
# named `JacobianDeterminant` does not exist in voxelmorph.
#
# **Remedy.** Read scans with nibabel. Compute the determinant with
# `vxm.py.utils.jacobian_determinant` ([Jacobian](05_jacobian.ipynb)). Start from
# [the script on one page](one_page.ipynb), which runs on current packages.
#
# Threads [634](https://github.com/voxelmorph/voxelmorph/issues/634),
# [581](https://github.com/voxelmorph/voxelmorph/issues/581),
# [584](https://github.com/voxelmorph/voxelmorph/issues/584).

# %% [markdown]
# ## Data
#
# ### Shapes do not match in a Concatenate layer
#
# The next cell builds the network for an image of 100 × 100 pixels.

# %%
print(error_of(lambda: vxm.networks.VxmDense((100, 100)))[:78])

# %% [markdown]
# **Cause.** The U-Net halves the grid four times, so each side must be a multiple of 16.
#
# **Remedy.** Crop or pad the images, as the next cell does. Keep the offset that it prints, because
# it shifts the origin in the affine matrix of the image.

# %%
import numpy as np

from vxmlib import preprocess

padded, offset = preprocess.crop_or_pad(np.ones((100, 100), "float32"))
print(padded.shape, "offset", offset)

# %% [markdown]
# Threads [382](https://github.com/voxelmorph/voxelmorph/issues/382),
# [487](https://github.com/voxelmorph/voxelmorph/issues/487). See also [Data](01_data.ipynb).

# %% [markdown]
# ### The loss is huge, or it does not change
#
# `checks.check_pair` checks whether the network can use a pair, and raises an error if it cannot.
# The next cell calls it with a scan of large intensities, then with one of tiny intensities.

# %%
from vxmlib import checks

scan = 1000 * moving
for wrong in (scan, 1e-4 * moving):
    print(error_of(lambda image=wrong: checks.check_pair(image, fixed)))

# %% [markdown]
# **Cause.** The network and the losses expect intensities from 0 to 1, with a background of 0. With
# large values, the NCC loss (local normalised cross-correlation) suffers from rounding errors. With
# tiny values, it treats the image as constant, so its gradient is zero.
#
# **Remedy.** Normalise each scan, as the next cell does.

# %%
ready = preprocess.normalise(scan)
print("intensities from", ready.min(), "to", ready.max())

# %% [markdown]
# Threads [28](https://github.com/voxelmorph/voxelmorph/issues/28),
# [62](https://github.com/voxelmorph/voxelmorph/issues/62),
# [96](https://github.com/voxelmorph/voxelmorph/issues/96).

# %% [markdown]
# ### Registration is poor on my own scans
#
# Often the heads have a different orientation from those in training. To show the effect, the next
# cells register one pair as it is, and again after rotating the moving image by `22.5` degrees. The
# displacement is optimised directly for each pair, so no trained network is needed.

# %%
from scipy import ndimage

from vxmlib import metrics, warp
from vxmlib.methods.instance import InstanceOptimiser

angle, brain = 22.5, people.brain(second)
start, optimise = warp.identity(people.shape), InstanceOptimiser(people.shape)
tilted = ndimage.rotate(moving, angle, reshape=False, order=1)

# %% [markdown]
# The next cell prints the NCC inside the brain after registration. A value of 1 is perfect.


# %%
def aligned(image):
    u, _ = optimise(start, image, fixed, steps=40)
    return metrics.local_ncc(warp.warp_image(image, u), fixed, mask=brain)


print(f"upright: {aligned(moving):.2f}, tilted: {aligned(tilted):.2f}")

# %% [markdown]
# **Cause.** The optimiser changes the displacement in small steps that follow the local gradient,
# so here it does not recover the rotation. A network that was trained on aligned scans has learned
# only the differences that remain after affine alignment, so it is not prepared for a rotation
# either.
#
# **Remedy.** Align all scans affinely first, for example with the function `affine_to_template`
# of `vxmlib.sources.align`, which calls ANTs. Here the angle is known, so the next cell rotates the
# image back.

# %%
upright = ndimage.rotate(tilted, -angle, reshape=False, order=1)
print(f"aligned first: {aligned(upright):.2f}")

# %% [markdown]
# Threads [147](https://github.com/voxelmorph/voxelmorph/issues/147),
# [471](https://github.com/voxelmorph/voxelmorph/issues/471),
# [191](https://github.com/voxelmorph/voxelmorph/issues/191).

# %% [markdown]
# ### I do not know what the generator must yield
#
# The next cell prints the shapes of two batches. The first has pairs of subjects, and the second
# has an atlas (here one subject) as the fixed image.

# %%
from vxmlib import pairs

for atlas in (None, people.image(first)):
    data = pairs.pair_dataset(people, people.split["train"], batch_size=2, seed=0, atlas=atlas)
    inputs, targets = next(iter(data))
    print([tuple(x.shape) for x in (*inputs, *targets)])

# %% [markdown]
# **Answer.** A batch is `((moving, fixed), (fixed, zeros))`, and its shapes are the same with and
# without an atlas. The smoothness loss ignores the zeros, but Keras requires a target for every
# output. Neither kind of pair needs labels or a known correspondence.
#
# Threads [341](https://github.com/voxelmorph/voxelmorph/issues/341),
# [456](https://github.com/voxelmorph/voxelmorph/issues/456),
# [582](https://github.com/voxelmorph/voxelmorph/issues/582). See also [Data](01_data.ipynb).

# %% [markdown]
# ## Training
#
# ### The loss is NaN, negative or constant
#
# The next cell computes voxelmorph's NCC loss for one pair, as it is and with changed intensities.

# %%
ncc = vxm.losses.NCC().loss
changes = {"from 0 to 1": (1, 0), "× 0.0001": (1e-4, 0), "+ 1000": (1, 1000), "× NaN": (np.nan, 0)}
for name, (scale, shift) in changes.items():
    pair = [tf.constant(scale * x + shift, tf.float32)[None, ..., None] for x in (fixed, moving)]
    print(f"{name:12}{float(tf.reduce_mean(ncc(*pair))):12.3g}")

# %% [markdown]
# **Cause.** The loss is *minus* the mean squared correlation in small windows. It should lie
# between −1 and 0, so a negative value is normal and lower is better. The other three lines show
# mistakes:
#
# - Tiny intensities count as constant. The loss then has its best value, but no gradient.
# - With a large offset, rounding errors dominate, and the loss leaves its range.
# - A NaN intensity makes the whole loss NaN.
#
# **Remedy.** Scale the intensities to the range from 0 to 1. Add the callback
# `tf.keras.callbacks.TerminateOnNaN()` to `fit()`. `training.fit` of this book also stops at a NaN,
# and it keeps the checkpoint of the previous epoch.
#
# Threads [13](https://github.com/voxelmorph/voxelmorph/issues/13),
# [302](https://github.com/voxelmorph/voxelmorph/issues/302),
# [527](https://github.com/voxelmorph/voxelmorph/issues/527).

# %% [markdown]
# ### The network learns nothing
#
# The loss stays flat from the first step. The next cell defines a function that computes the
# gradient of the image loss with respect to the displacement, and returns its norm.


# %%
def gradient(image, other):
    image, other = (tf.constant(x[None, ..., None], tf.float32) for x in (image, other))
    field = tf.Variable(tf.zeros((*image.shape[:-1], people.ndim)))
    with tf.GradientTape() as tape:
        loss = ncc(other, vxm.layers.SpatialTransformer()([image, field]))
    return float(tf.norm(tape.gradient(loss, field)))


# %% [markdown]
# The next cell prints this norm for a usual pair, for tiny intensities, and for an image paired
# with itself.

# %%
print(f"usual pair:       {gradient(moving, fixed):.2g}")
print(f"tiny intensities: {gradient(1e-4 * moving, 1e-4 * fixed):.2g}")
print(f"same image twice: {gradient(fixed, fixed):.2g}")

# %% [markdown]
# **Cause.** A network cannot learn without a gradient. Usually it is zero because the intensities
# have the wrong scale, or because the moving and the fixed image are the same.
#
# **Remedy.** Take one pair from a batch, without its batch and channel axes, and call
# `checks.check_pair` on it. This function refuses both cases. Then fit one single pair
# ([Instance optimisation](13_instance.ipynb)).
#
# Threads [408](https://github.com/voxelmorph/voxelmorph/issues/408),
# [200](https://github.com/voxelmorph/voxelmorph/issues/200).

# %% [markdown]
# ### The warped image is torn
#
# An image looks torn where its displacement folds. The next cell optimises one pair with two values
# of λ, the weight of the smoothness loss, and prints the share of the brain that folds.

# %%
for lam in (0.01, 1.0):
    field, _ = InstanceOptimiser(people.shape, lam=lam)(start, moving, fixed, steps=40)
    folded = metrics.folding(field, brain).percent_in_mask
    print(f"λ = {lam:<4g}: {folded:.2f} % of the brain is folded")

# %% [markdown]
# **Cause.** The value λ = 0.01 is meant for the MSE loss. The NCC loss changes much more during
# registration than the MSE loss, so a λ of this size hardly limits the deformation.
#
# **Remedy.** With NCC, start at λ = 1 and [choose λ](06_choose.ipynb) on validation subjects, or
# [integrate a velocity](11_diffeomorphic.ipynb).
#
# Threads [51](https://github.com/voxelmorph/voxelmorph/issues/51),
# [331](https://github.com/voxelmorph/voxelmorph/issues/331),
# [343](https://github.com/voxelmorph/voxelmorph/issues/343).

# %% [markdown]
# ### Memory runs out
#
# Training keeps the outputs of all layers in memory. A Keras model knows their sizes before
# anything is allocated. The next cell adds up these sizes for the standard `VxmDense` and for the
# strided U-Net of the 2018 paper, with voxels of 1 mm and of 2 mm.

# %% tags=["remove-stderr"]
from vxmlib import models
from vxmlib.networks.strided import StridedVxmDense

networks = {"VxmDense": vxm.networks.VxmDense, "strided": StridedVxmDense}
for shape in ((160, 192, 224), (80, 96, 112)):
    for name, network in networks.items():
        model = models.build(shape, network=network, features="vxm1")
        print(shape, f"{name:8} {models.outputs_gb(model):.1f} GB")
    tf.keras.backend.clear_session()

# %% [markdown]
# **Cause.** The layers at full resolution need most of the memory, and the need grows with the
# batch size. Gradients and losses need additional memory. Users report a total of about twice the
# printed value.
#
# **Remedy.** Use a batch of one pair. If this is not enough, use voxels of 2 mm, which need an
# eighth of the memory, or the strided network. [Cost](cost.ipynb) has more measurements.
#
# Threads [235](https://github.com/voxelmorph/voxelmorph/issues/235),
# [282](https://github.com/voxelmorph/voxelmorph/issues/282).

# %% [markdown]
# ### `multi_gpu_model` does not exist
#
# The README of voxelmorph still names this function. The next cell looks it up in Keras.

# %%
print(error_of(lambda: tf.keras.utils.multi_gpu_model))

# %% [markdown]
# **Cause.** TensorFlow has replaced this function with distribution strategies.
#
# **Remedy.** Build and compile the model in the scope of a `tf.distribute.MirroredStrategy`, and
# call `fit()` as before. The batch must hold at least as many pairs as there are devices
# ([Cost](cost.ipynb#several-devices) runs it).
#
# Threads [9](https://github.com/voxelmorph/voxelmorph/issues/9),
# [316](https://github.com/voxelmorph/voxelmorph/issues/316).

# %% [markdown]
# ### I do not know when to stop
#
# [Compile and fit](03_fit.ipynb) stored the Dice of its validation pairs. The next cell prints it
# before training (Dice without registration), after three quarters of the steps, and at the end.

# %%
from vxmlib import records

fitted = records.read(runs.output_folder() / "03_fit" / "record.json")["metrics"]
end, gain = fitted["validation_dice"], fitted["validation_dice_last_quarter"]
print(f"before training:      {fitted['validation_dice_identity']:.3f}")
print(f"after three quarters: {end - gain:.3f}")
print(f"after {fitted['steps']} steps:     {end:.3f}")

# %% [markdown]
# **Cause.** The training loss does not show when the result for new subjects stops improving. An
# epoch is only the interval between two checkpoints, not a pass over all pairs, because pairs are
# drawn at random.
#
# **Remedy.** Count optimiser steps, and watch the Dice of some validation subjects. If it still
# rises in the last quarter, train for more steps.
# `tf.keras.callbacks.EarlyStopping(monitor="val_dice", mode="max", patience=5)` stops the training
# when Dice has not risen for five epochs. `training.RegistrationMonitor` provides `val_dice`. With
# few subjects, use augmentation ([Ablations](ablations.ipynb)).
#
# Threads [134](https://github.com/voxelmorph/voxelmorph/issues/134),
# [166](https://github.com/voxelmorph/voxelmorph/issues/166),
# [44](https://github.com/voxelmorph/voxelmorph/issues/44).

# %% [markdown]
# ### I think that I need a training loop of my own
#
# Almost nobody needs one. [Four situations](16_situations.ipynb) shows the few cases in which it
# helps, and [One step, three ways](15_steps.ipynb) shows what `fit()` already does.

# %% [markdown]
# ## Results
#
# ### The displacement has half the size of the image
#
# The next cell compares the shape of the second output of `predict()` with that of the result of
# `models.register`. The model integrates a velocity, which is the default of `VxmDense`.

# %% tags=["remove-stderr"]
model = models.build(people.shape, features="small", int_steps=7)
batch = [x[None, ..., None] for x in (moving, fixed)]
print("predict: ", model.predict(batch, verbose=0)[1].shape[1:])
print("register:", models.register(model, moving, fixed).shape)

# %% [markdown]
# **Cause.** With integration, the second output is the *velocity* at half resolution. The
# smoothness loss needs it, but the image is warped by the displacement that is its integral.
#
# **Remedy.** Use `model.register` of voxelmorph or `models.register` of this book.
# [Diffeomorphic registration](11_diffeomorphic.ipynb) shows the wrong results that you get, without
# an error, if you use the velocity as a displacement.
#
# Threads [71](https://github.com/voxelmorph/voxelmorph/issues/71),
# [122](https://github.com/voxelmorph/voxelmorph/issues/122),
# [479](https://github.com/voxelmorph/voxelmorph/issues/479).

# %% [markdown]
# ### Warped labels have new values
#
# The next cell warps a map of the labels 2 and 41, once as an image and once as labels.

# %%
labels = np.where(moving > 0.5, 41, 2) * (moving > 0)
as_image = np.rint(warp.warp_image(labels.astype("float32"), field))
as_labels = warp.warp_labels(labels, field)
for name, warped in {"as an image": as_image, "as labels": as_labels}.items():
    print(f"{name}: {np.setdiff1d(warped, labels).size} new labels")

# %% [markdown]
# **Cause.** Linear interpolation between the background (0) and the labels 2 and 41 can yield any
# number between them.
#
# **Remedy.** Use nearest-neighbour interpolation on the integers, as `warp.warp_labels` does
# ([Dice](04_dice.ipynb#warp-a-label-map-with-nearest-neighbour-interpolation)).
#
# Threads [509](https://github.com/voxelmorph/voxelmorph/issues/509),
# [511](https://github.com/voxelmorph/voxelmorph/issues/511).

# %% [markdown]
# ### Two packages give different Dice
#
# The next cell computes the mean Dice of the same two maps with voxelmorph's function and with this
# book's. The first line uses the two labels. The second adds a label that neither map holds, and
# the third adds the background.

# %%
other = np.where(fixed > 0.5, 41, 2) * (fixed > 0)
for numbers in ([2, 41], [2, 41, 17], [0, 2, 41]):
    theirs = np.mean(vxm.py.utils.dice(as_labels, other, labels=numbers))
    ours = metrics.mean_dice(as_labels, other, numbers)
    print(f"{numbers!s:12} voxelmorph {theirs:.3f}, ours {ours:.3f}")

# %% [markdown]
# **Cause.** voxelmorph gives a Dice of 0 to a label that neither map holds, some other packages
# give 1, and this book leaves it out. The background is large and overlaps in every pair, so it
# raises the mean.
#
# **Remedy.** Score the structures that both subjects have, without the background, and state the
# rule ([Definitions](definitions.ipynb)).
#
# Thread [160](https://github.com/voxelmorph/voxelmorph/issues/160).

# %% [markdown]
# ### The Jacobian determinant looks wrong
#
# Test the function on a displacement whose determinant is known. The one in the next cell doubles
# the first coordinate of every point, so the determinant is 2. The last three lines of the cell
# each make a common mistake.

# %%
stretch = np.stack([np.indices((16, 16))[0], np.zeros((16, 16))], axis=-1)
determinant = vxm.py.utils.jacobian_determinant
print("correct call:       ", determinant(stretch)[8, 8])
print("every second vector:", determinant(stretch[::2, ::2])[4, 4])
print("relative units:     ", determinant(stretch / 16)[8, 8])
print("with a batch axis:  ", error_of(lambda: determinant(stretch[None]))[:60])

# %% [markdown]
# **Cause.** The function expects one displacement without a batch axis, in voxels of its own grid.
# The last axis holds its components. Only the batch axis raises an error. A displacement that was
# subsampled, or divided by the size of the image, gives a wrong number without an error.
#
# **Remedy.** Pass the result of `register`, and count determinants of 0 or less inside the brain
# ([Jacobian](05_jacobian.ipynb)).
#
# Threads [50](https://github.com/voxelmorph/voxelmorph/issues/50),
# [110](https://github.com/voxelmorph/voxelmorph/issues/110),
# [205](https://github.com/voxelmorph/voxelmorph/issues/205).

# %% [markdown]
# ### Landmarks move the wrong way
#
# The next cell warps an image with a single bright pixel by a constant displacement of 3 voxels
# along the first axis.

# %%
dot = np.zeros((32, 32), "float32")
dot[20, 16] = 1
shift = np.full((32, 32, 2), [3, 0], "float32")
print("moving image:", np.argwhere(dot)[0])
print("warped image:", np.argwhere(warp.warp_image(dot, shift))[0])

# %% [markdown]
# **Cause.** The displacement belongs to the *fixed* grid. It says where to look in the moving
# image: `warped(x) = moving(x + u(x))`. It therefore carries points of the fixed image to the
# moving image, and the content of the moving image moves in the opposite direction.
#
# **Remedy.** Move points of the moving image with the inverse displacement, and check the error of
# the inverse, as the next cell does.

# %%
inverse = warp.inverse(shift)
print("moved point:", np.array([20, 16]) + inverse[20, 16])
print("error of the inverse:", np.abs(warp.inversion_error(shift, inverse)).max(), "voxels")

# %% [markdown]
# Threads [264](https://github.com/voxelmorph/voxelmorph/issues/264),
# [291](https://github.com/voxelmorph/voxelmorph/issues/291),
# [598](https://github.com/voxelmorph/voxelmorph/issues/598),
# [90](https://github.com/voxelmorph/voxelmorph/issues/90).

# %% [markdown]
# ### Weights do not load
#
# The next cell saves a model and tries to load it in two ways.

# %% tags=["remove-stderr"]
from pathlib import Path
from tempfile import TemporaryDirectory

with TemporaryDirectory() as folder:
    path = Path(folder) / "model.h5"
    model.save(path)
    print(error_of(lambda: tf.keras.models.load_model(path))[:40])
    print("VxmDense.load:", vxm.networks.VxmDense.load(path).output_shape[0])

# %% [markdown]
# **Cause.** The file holds the weights and the arguments of the class `VxmDense`, which Keras does
# not know.
#
# **Remedy.** Load it with the class that wrote the file. Do not use the format `.keras`, although
# Keras recommends it, because the file cannot be loaded ([the claims](claims.ipynb) try it). The
# weights of the 2018 papers belong to another network, which [Run the authors'
# weights](07_weights.ipynb) rebuilds.
#
# > **Warning: Models from strangers**
# >
# > `load_model` can run code that a file holds. Load only files from people you trust.
#
# Threads [172](https://github.com/voxelmorph/voxelmorph/issues/172),
# [359](https://github.com/voxelmorph/voxelmorph/issues/359),
# [655](https://github.com/voxelmorph/voxelmorph/issues/655).

# %% [markdown]
# ## Questions with short answers
#
# | Question | Answer |
# |---|---|
# | How do I use the warp in ITK, ANTs or Slicer? ([438](https://github.com/voxelmorph/voxelmorph/issues/438), [577](https://github.com/voxelmorph/voxelmorph/issues/577)) | `vxmlib.nifti.write_displacement` writes it in their convention. |
# | How do I register T1 to T2? ([31](https://github.com/voxelmorph/voxelmorph/issues/31), [201](https://github.com/voxelmorph/voxelmorph/issues/201)) | Use `vxm.losses.MutualInformation`, because NCC expects similar contrast in both images. [Four situations](16_situations.ipynb) runs it. |
# | How do I train with labels? ([169](https://github.com/voxelmorph/voxelmorph/issues/169), [459](https://github.com/voxelmorph/voxelmorph/issues/459)) | voxelmorph version 0.2 has `VxmDenseSemiSupervisedSeg`. |
# | Why is my template blank or blurred? ([587](https://github.com/voxelmorph/voxelmorph/issues/587), [589](https://github.com/voxelmorph/voxelmorph/issues/589)) | Usually the scans were not aligned affinely. |
# | What do KL and its λ mean? ([150](https://github.com/voxelmorph/voxelmorph/issues/150), [336](https://github.com/voxelmorph/voxelmorph/issues/336)) | `vxm.losses.KL` is the loss of the probabilistic model (`use_probs=True`): it keeps the predicted distribution of velocities close to a smooth prior. Its `prior_lambda` says how smooth the prior is. |
# | Can I improve the result for a single pair? ([546](https://github.com/voxelmorph/voxelmorph/issues/546)) | Yes, by [instance optimisation](13_instance.ipynb). |
# | How do I draw the displacement? ([35](https://github.com/voxelmorph/voxelmorph/issues/35), [557](https://github.com/voxelmorph/voxelmorph/issues/557)) | Draw a warped grid or a map of the determinant ([Jacobian](05_jacobian.ipynb)). |
# | Is there a class for SynthMorph? ([431](https://github.com/voxelmorph/voxelmorph/issues/431), [288](https://github.com/voxelmorph/voxelmorph/issues/288)) | Not in version 0.2. Two models from `ne.models.labels_to_image` can make the images for a `VxmDense`. |

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** A colleague's validation Dice is *lower* after training than before. Which
# mistakes would you look for first?
#
# <details><summary>Answer</summary>
#
# First check the direction of the displacement, because a displacement that is applied backwards
# moves structures further apart. Then check whether the labels lie on the images, because an affine
# alignment may have been applied to the images alone. Finally, check whether the same structures
# are counted before and after. None of these mistakes raises an error.
#
# </details>
#
# ## Summary
#
# - Check the data first, then the gradient, then one pair, and only then the network.
# - A known displacement quickly reveals mistakes of direction, size and axis.
# - Many mistakes raise no error, so test each part on a case with a known result.
#
# **Read on:** [Check the claims](claims.ipynb) lists common advice with a verdict for each.
