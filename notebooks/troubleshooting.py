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
# | **You will** | look up a symptom, see it reproduced, and read the remedy |
# | **You will learn** | answers to questions that users of voxelmorph have asked for years |
# | **You need** | nothing; go directly to your symptom |
# | **In → out** | a symptom, usually reproduced by a cell → its cause and remedy |
# | **Not here** | voxelmorph's PyTorch releases |
# | **Time** | 1 minute per entry |

# %% [markdown]
# The heading of each entry below is a symptom. Most entries end with links to threads in
# [voxelmorph's issue tracker](https://github.com/voxelmorph/voxelmorph/issues?q=is%3Aissue) where
# users reported this symptom. If you do not know where to begin, do these checks in order:
#
# 1. **The data.** Plot a pair of images and their label maps, because most mistakes in the data are
#    visible.
# 2. **The gradient.** Check that the gradient of the loss is not zero, because a network cannot
#    learn from a zero gradient.
# 3. **One pair.** Train on a single pair, because any correct setup can fit one pair.

# %% [markdown]
# ## Set the parameters
#
# The parameters select the data set from which the examples take two subjects.

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
# `error_of` makes a call and returns the resulting error as one line of text. Many entries below
# use it.

# %%
from vxmlib.book.errors import error_of

print(error_of(lambda: 1 / 0))

# %% [markdown]
# ## Installation
#
# ### pip installs PyTorch, or the import fails
#
# pip reports a version conflict, or `import voxelmorph` fails with a message about `getargspec`,
# Keras 3 or PyTorch. The next cell prints package versions that work together.

# %%
from vxmlib.backend import tf, versions, vxm

for name, version in versions().items():
    print(f"{name:12} {version}")

# %% [markdown]
# **Cause.** All releases of voxelmorph after `0.2` support only PyTorch. voxelmorph `0.2` needs
# neurite `0.2`, but voxelmorph's requirements also allow later releases, so pip installs a later
# one. In addition, neurite `0.2` calls `inspect.getargspec`, which was removed in Python 3.11.
# Finally, both packages need Keras 2.
#
# **Remedy.** Install the package versions listed in this book's `requirements.lock`. Import `tf`
# and `vxm` from `vxmlib.backend` before any other import of TensorFlow. This module restores
# `getargspec` when it is imported. It also sets the environment variable `TF_USE_LEGACY_KERAS`,
# which makes TensorFlow use Keras 2. This variable must be set before TensorFlow is imported.
#
# Threads [633](https://github.com/voxelmorph/voxelmorph/issues/633),
# [635](https://github.com/voxelmorph/voxelmorph/issues/635),
# [619](https://github.com/voxelmorph/voxelmorph/issues/619),
# [662](https://github.com/voxelmorph/voxelmorph/issues/662).

# %% [markdown]
# ### An official tutorial stops with an error
#
# The next cell makes two calls from official tutorials. The first call should read a NIfTI file,
# and the second should create a loss.

# %%
from vxmlib.sources import template

path = str(template.brain_path())
print(error_of(lambda: vxm.py.utils.load_volfile(path))[:70])
print(error_of(lambda: vxm.losses.JacobianDeterminant()))

# %% [markdown]
# **Cause.** `load_volfile` calls nibabel's `get_data`, which raises an error in current versions of
# nibabel. voxelmorph has no loss called `JacobianDeterminant`.
#
# **Remedy.** Read scans directly with nibabel. Compute the Jacobian determinant with
# `vxm.py.utils.jacobian_determinant` ([Jacobian](05_jacobian.ipynb)). Start from [the script on one
# page](one_page.ipynb), which runs with current packages.
#
# Threads [634](https://github.com/voxelmorph/voxelmorph/issues/634),
# [581](https://github.com/voxelmorph/voxelmorph/issues/581),
# [584](https://github.com/voxelmorph/voxelmorph/issues/584).

# %% [markdown]
# ## Data
#
# ### Shapes do not match in a Concatenate layer
#
# The next cell reproduces this error by building the network for an image of 100 × 100 pixels.

# %%
print(error_of(lambda: vxm.networks.VxmDense((100, 100)))[:78])

# %% [markdown]
# **Cause.** The U-Net halves each side of the grid four times, so each side length must be a
# multiple of 16.
#
# **Remedy.** Crop or pad the images, as the next cell does. Save the printed offset, because you
# need it to correct the origin in the affine matrix.

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
# The function `checks.check_pair` raises an error if a pair is unsuitable for training. The next
# cell calls this function for a moving image with large intensities, and for one with tiny
# intensities.

# %%
from vxmlib import checks

scan = 1000 * moving
for wrong in (scan, 1e-4 * moving):
    print(error_of(lambda image=wrong: checks.check_pair(image, fixed)))

# %% [markdown]
# **Cause.** The network and the losses expect intensities from 0 to 1, with a background of 0. With
# large intensities, the NCC loss (local normalised cross-correlation) suffers from rounding errors.
# With tiny intensities, the NCC loss treats the image as constant, so the gradient is zero.
#
# **Remedy.** Normalise the intensities of each scan, as the next cell does.

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
# A common reason is that the heads are oriented differently from those in the training scans. To
# show this effect, the next cells register one pair twice: unchanged, and with the moving image
# rotated by `22.5` degrees. The displacement is optimised directly, so no trained network is
# needed.

# %%
from scipy import ndimage

from vxmlib import metrics, warp
from vxmlib.methods.instance import InstanceOptimiser

angle, brain = 22.5, people.brain(second)
start, optimise = warp.identity(people.shape), InstanceOptimiser(people.shape)
tilted = ndimage.rotate(moving, angle, reshape=False, order=1)

# %% [markdown]
# The next cell prints the mean NCC inside the brain after each registration. A value of 1 means a
# perfect match.


# %%
def aligned(image):
    u, _ = optimise(start, image, fixed, steps=40)
    return metrics.local_ncc(warp.warp_image(image, u), fixed, mask=brain)


print(f"upright: {aligned(moving):.2f}, tilted: {aligned(tilted):.2f}")

# %% [markdown]
# **Cause.** The optimiser changes the displacement in small steps that follow the local gradient,
# so it does not recover the rotation. A network trained on aligned scans has learned only the
# differences that remain after affine alignment, so it cannot correct the rotation either.
#
# **Remedy.** Align all scans affinely first, for example with the function `affine_to_template` of
# `vxmlib.sources.align`, which calls ANTs. Here, the angle is known, so the next cell rotates the
# image back and registers it again.

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
# The next cell prints the shapes of the arrays in two batches. In the first batch, both images come
# from subjects; in the second, the fixed image is an atlas (here, one subject's image).

# %%
from vxmlib import pairs

for atlas in (None, people.image(first)):
    data = pairs.pair_dataset(people, people.split["train"], batch_size=2, seed=0, atlas=atlas)
    inputs, targets = next(iter(data))
    print([tuple(x.shape) for x in (*inputs, *targets)])

# %% [markdown]
# **Answer.** A batch has the form `((moving, fixed), (fixed, zeros))`, and the shapes are the same
# with and without an atlas. The smoothness loss ignores the zeros, but Keras requires a target for
# every output. Neither kind of pair requires labels or known correspondences.
#
# Threads [341](https://github.com/voxelmorph/voxelmorph/issues/341),
# [456](https://github.com/voxelmorph/voxelmorph/issues/456),
# [582](https://github.com/voxelmorph/voxelmorph/issues/582). See also [Data](01_data.ipynb) and [Scan
# to atlas](09_atlas.ipynb).

# %% [markdown]
# ## Training
#
# ### The loss is NaN, negative or constant
#
# The next cell computes voxelmorph's NCC loss for one pair: first unchanged, and then after each of
# three changes to the intensities.

# %%
ncc = vxm.losses.NCC().loss
changes = {"from 0 to 1": (1, 0), "× 0.0001": (1e-4, 0), "+ 1000": (1, 1000), "× NaN": (np.nan, 0)}
for name, (scale, shift) in changes.items():
    pair = [tf.constant(scale * x + shift, tf.float32)[None, ..., None] for x in (fixed, moving)]
    print(f"{name:12}{float(tf.reduce_mean(ncc(*pair))):12.3g}")

# %% [markdown]
# **Cause.** The loss is *minus* the mean of the squared correlation in small windows. It should be
# between −1 and 0, so a negative value is normal, and a lower value means a better match. Each of
# the last three printed lines shows the result of one mistake:
#
# - The loss treats images with tiny intensities as constant. It then has its best value, −1, but
#   its gradient is zero.
# - With a large offset, rounding errors dominate, and the loss is far outside this range.
# - A NaN intensity makes the whole loss NaN.
#
# **Remedy.** Scale the intensities to the range from 0 to 1. Pass the callback
# `tf.keras.callbacks.TerminateOnNaN()` to `fit()` to stop at a NaN loss. This book's
# `training.fit` also stops and keeps the checkpoint of the previous epoch.
#
# Threads [13](https://github.com/voxelmorph/voxelmorph/issues/13),
# [302](https://github.com/voxelmorph/voxelmorph/issues/302),
# [527](https://github.com/voxelmorph/voxelmorph/issues/527).

# %% [markdown]
# ### The network learns nothing
#
# The loss stays constant from the first step. A zero gradient is one possible reason, so the next
# cell defines a function that returns the norm of the gradient of the image loss with respect to
# the displacement.


# %%
def gradient(image, other):
    image, other = (tf.constant(x[None, ..., None], tf.float32) for x in (image, other))
    field = tf.Variable(tf.zeros((*image.shape[:-1], people.ndim)))
    with tf.GradientTape() as tape:
        loss = ncc(other, vxm.layers.SpatialTransformer()([image, field]))
    return float(tf.norm(tape.gradient(loss, field)))


# %% [markdown]
# The next cell prints this norm for a pair with the usual intensities, for the same pair with tiny
# intensities, and for an image paired with itself.

# %%
print(f"usual pair:       {gradient(moving, fixed):.2g}")
print(f"tiny intensities: {gradient(1e-4 * moving, 1e-4 * fixed):.2g}")
print(f"same image twice: {gradient(fixed, fixed):.2g}")

# %% [markdown]
# **Cause.** A network cannot learn without a gradient. The usual reasons for a zero gradient are
# intensities of the wrong scale and a moving image that is identical to the fixed image.
#
# **Remedy.** Take one pair from a batch, remove its batch and channel axes, and call
# `checks.check_pair` on this pair. The function raises an error in both cases. Then test whether a
# single pair can be fitted ([Instance optimisation](13_instance.ipynb)).
#
# Threads [408](https://github.com/voxelmorph/voxelmorph/issues/408),
# [200](https://github.com/voxelmorph/voxelmorph/issues/200).

# %% [markdown]
# ### The warped image is torn
#
# A warped image looks torn where the displacement folds. The next cell optimises the displacement
# of one pair at two values of λ, the weight of the smoothness loss, and prints the percentage of
# the brain that is folded.

# %%
for lam in (0.01, 1.0):
    field, _ = InstanceOptimiser(people.shape, lam=lam)(start, moving, fixed, steps=40)
    folded = metrics.folding(field, brain).percent_in_mask
    print(f"λ = {lam:<4g}: {folded:.2f} % of the brain is folded")

# %% [markdown]
# **Cause.** The value λ = 0.01 is meant for the MSE loss. The NCC loss changes much more during
# registration than the MSE loss, so with NCC, such a small λ hardly limits the deformation.
#
# **Remedy.** With NCC, start with λ = 1 and [choose λ](06_choose.ipynb) on validation subjects, or
# [integrate a velocity](11_diffeomorphic.ipynb).
#
# Threads [51](https://github.com/voxelmorph/voxelmorph/issues/51),
# [331](https://github.com/voxelmorph/voxelmorph/issues/331),
# [343](https://github.com/voxelmorph/voxelmorph/issues/343).

# %% [markdown]
# ### Memory runs out
#
# Training keeps the outputs of all layers in memory. Their sizes can be read from a Keras model
# before memory is allocated. The next cell adds up these sizes for the standard `VxmDense` and for
# the strided U-Net of the 2018 paper, with voxels of 1 mm and of 2 mm.

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
# **Cause.** The layers at full resolution need most of the memory, and the total grows with the
# batch size. Gradients and losses need additional memory, so users report a total of about twice
# the printed value.
#
# **Remedy.** Use a batch of one pair. If memory still runs out, use the strided network, or
# resample the images to 2 mm, which reduces the memory to one eighth. For more measurements, see
# [Cost](cost.ipynb).
#
# Threads [235](https://github.com/voxelmorph/voxelmorph/issues/235),
# [282](https://github.com/voxelmorph/voxelmorph/issues/282).

# %% [markdown]
# ### `multi_gpu_model` does not exist
#
# The README of voxelmorph still mentions this function. The next cell looks for it in Keras.

# %%
print(error_of(lambda: tf.keras.utils.multi_gpu_model))

# %% [markdown]
# **Cause.** TensorFlow has replaced this function with distribution strategies.
#
# **Remedy.** Build and compile the model in the scope of a `tf.distribute.MirroredStrategy`, and
# call `fit()` as before. Each batch must contain at least as many pairs as there are devices. For
# an example, see [Cost](cost.ipynb#several-devices).
#
# Threads [9](https://github.com/voxelmorph/voxelmorph/issues/9),
# [316](https://github.com/voxelmorph/voxelmorph/issues/316).

# %% [markdown]
# ### I do not know when to stop
#
# The mean Dice of the validation pairs was recorded in [Compile and fit](03_fit.ipynb). The next
# cell prints this Dice before training (without registration), after three quarters of the steps,
# and at the end.

# %%
from vxmlib import records

fitted = records.read(runs.output_folder() / "03_fit" / "record.json")["metrics"]
end, gain = fitted["validation_dice"], fitted["validation_dice_last_quarter"]
print(f"before training:      {fitted['validation_dice_identity']:.3f}")
print(f"after three quarters: {end - gain:.3f}")
print(f"after {fitted['steps']} steps:     {end:.3f}")

# %% [markdown]
# **Cause.** The training loss does not show when the result for new subjects stops improving. The
# number of epochs is no guide either: pairs are drawn at random, so an epoch is only the interval
# between two checkpoints.
#
# **Remedy.** Count optimiser steps, and monitor the Dice of some validation subjects. If this Dice
# still rises in the last quarter of the steps, train for more steps. The callback
# `tf.keras.callbacks.EarlyStopping(monitor="val_dice", mode="max", patience=5)` stops training when
# validation Dice has not risen for five epochs. It requires `training.RegistrationMonitor`, which
# provides `val_dice`. With few training subjects, use augmentation ([Ablations](ablations.ipynb)).
#
# Threads [134](https://github.com/voxelmorph/voxelmorph/issues/134),
# [166](https://github.com/voxelmorph/voxelmorph/issues/166),
# [44](https://github.com/voxelmorph/voxelmorph/issues/44).

# %% [markdown]
# ### I think that I need a training loop of my own
#
# A custom loop is rarely needed. For the few exceptions, see [Four
# situations](16_situations.ipynb). For what `fit()` already does, see [One step, three
# ways](15_steps.ipynb).

# %% [markdown]
# ## Results
#
# ### The displacement has half the size of the image
#
# The next cell compares the shape of the second output of `predict()` with that of the displacement
# from `models.register`. The model integrates a velocity, as `VxmDense` does by default.

# %% tags=["remove-stderr"]
model = models.build(people.shape, features="small", int_steps=7)
batch = [x[None, ..., None] for x in (moving, fixed)]
print("predict: ", model.predict(batch, verbose=0)[1].shape[1:])
print("register:", models.register(model, moving, fixed).shape)

# %% [markdown]
# **Cause.** With integration, the second output is the *velocity* at half resolution. The
# smoothness loss is computed from this velocity, but the image is warped by the displacement, which
# is the integrated velocity.
#
# **Remedy.** To get the displacement, use voxelmorph's `model.register` or this book's
# `models.register`. Using the velocity as a displacement gives wrong results but raises no error
# ([Diffeomorphic registration](11_diffeomorphic.ipynb)).
#
# Threads [71](https://github.com/voxelmorph/voxelmorph/issues/71),
# [122](https://github.com/voxelmorph/voxelmorph/issues/122),
# [479](https://github.com/voxelmorph/voxelmorph/issues/479).

# %% [markdown]
# ### Warped labels have new values
#
# The next cell warps a map with the labels 2 and 41 twice: as an image, and as a label map.

# %%
labels = np.where(moving > 0.5, 41, 2) * (moving > 0)
as_image = np.rint(warp.warp_image(labels.astype("float32"), field))
as_labels = warp.warp_labels(labels, field)
for name, warped in {"as an image": as_image, "as labels": as_labels}.items():
    print(f"{name}: {np.setdiff1d(warped, labels).size} new labels")

# %% [markdown]
# **Cause.** Linear interpolation between the background (0) and the labels 2 and 41 can yield any
# value from 0 to 41.
#
# **Remedy.** Use nearest-neighbour interpolation for label maps, as `warp.warp_labels` does
# ([Dice](04_dice.ipynb#warp-a-label-map-with-nearest-neighbour-interpolation)).
#
# Threads [509](https://github.com/voxelmorph/voxelmorph/issues/509),
# [511](https://github.com/voxelmorph/voxelmorph/issues/511).

# %% [markdown]
# ### Two packages give different Dice
#
# The next cell computes the mean Dice of the same two label maps with voxelmorph's function and
# with ours. The first printed line is for the labels 2 and 41. The second line adds label 17, which
# neither map contains; the third adds the background instead.

# %%
other = np.where(fixed > 0.5, 41, 2) * (fixed > 0)
for numbers in ([2, 41], [2, 41, 17], [0, 2, 41]):
    theirs = np.mean(vxm.py.utils.dice(as_labels, other, labels=numbers))
    ours = metrics.mean_dice(as_labels, other, numbers)
    print(f"{numbers!s:12} voxelmorph {theirs:.3f}, ours {ours:.3f}")

# %% [markdown]
# **Cause.** For a label that neither map contains, voxelmorph uses a Dice of 0, some packages use
# 1, and this book leaves the label out. The background is large and overlaps well in every pair, so
# including it raises the mean.
#
# **Remedy.** Average Dice over the structures that both subjects have, without the background, and
# state this rule ([Definitions](definitions.ipynb)).
#
# Thread [160](https://github.com/voxelmorph/voxelmorph/issues/160).

# %% [markdown]
# ### The Jacobian determinant looks wrong
#
# Test `jacobian_determinant` on a displacement with a known determinant. The displacement in the
# next cell doubles the first coordinate of every point and therefore has a determinant of 2. Each
# of the last three lines of the cell contains a common mistake.

# %%
stretch = np.stack([np.indices((16, 16))[0], np.zeros((16, 16))], axis=-1)
determinant = vxm.py.utils.jacobian_determinant
print("correct call:       ", determinant(stretch)[8, 8])
print("every second vector:", determinant(stretch[::2, ::2])[4, 4])
print("relative units:     ", determinant(stretch / 16)[8, 8])
print("with a batch axis:  ", error_of(lambda: determinant(stretch[None]))[:60])

# %% [markdown]
# **Cause.** The function expects one displacement without a batch axis. The components of the
# displacement must lie along the last axis, in voxels of its own grid. Of the possible mistakes, only
# an additional batch axis raises an error. A displacement that was subsampled, or divided by the size of
# the image, gives a wrong determinant without an error.
#
# **Remedy.** Pass the displacement that `register` returns, and count the brain voxels with a
# determinant of 0 or less ([Jacobian](05_jacobian.ipynb)).
#
# Threads [50](https://github.com/voxelmorph/voxelmorph/issues/50),
# [110](https://github.com/voxelmorph/voxelmorph/issues/110),
# [205](https://github.com/voxelmorph/voxelmorph/issues/205).

# %% [markdown]
# ### Landmarks move the wrong way
#
# The next cell warps an image with a single bright pixel by a constant displacement of 3 pixels
# along the first axis.

# %%
dot = np.zeros((32, 32), "float32")
dot[20, 16] = 1
shift = np.full((32, 32, 2), [3, 0], "float32")
print("moving image:", np.argwhere(dot)[0])
print("warped image:", np.argwhere(warp.warp_image(dot, shift))[0])

# %% [markdown]
# **Cause.** The displacement is defined on the *fixed* grid. It states the position in the moving
# image from which each intensity is taken: `warped(x) = moving(x + u(x))`. The displacement
# therefore maps points of the fixed image to the moving image, but the content of the moving image
# moves in the opposite direction.
#
# **Remedy.** Map points of the moving image with the inverse displacement, and check the error of
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
# The next cell saves a model and tries to load the file in two ways.

# %% tags=["remove-stderr"]
from pathlib import Path
from tempfile import TemporaryDirectory

with TemporaryDirectory() as folder:
    path = Path(folder) / "model.h5"
    model.save(path)
    print(error_of(lambda: tf.keras.models.load_model(path))[:40])
    print("VxmDense.load:", vxm.networks.VxmDense.load(path).output_shape[0])

# %% [markdown]
# **Cause.** The file contains the weights and the arguments of the class `VxmDense`, but Keras does
# not know this class.
#
# **Remedy.** Load the file with `VxmDense.load`. Keras recommends the `.keras` format, but do not
# use it here: a `VxmDense` model saved in this format cannot be loaded ([Check the
# claims](claims.ipynb)). The weights of the 2018 papers belong to a different network, which is
# rebuilt in [Run the authors' weights](07_weights.ipynb).
#
# > **Warning: Models from strangers**
# >
# > `load_model` can run code that is stored in a file. Load only files from people you trust.
#
# Threads [172](https://github.com/voxelmorph/voxelmorph/issues/172),
# [359](https://github.com/voxelmorph/voxelmorph/issues/359),
# [655](https://github.com/voxelmorph/voxelmorph/issues/655).

# %% [markdown]
# ## Questions with short answers
#
# | Question | Answer |
# |---|---|
# | How do I use the warp in ITK, ANTs or Slicer? ([438](https://github.com/voxelmorph/voxelmorph/issues/438), [577](https://github.com/voxelmorph/voxelmorph/issues/577)) | Write the displacement with `vxmlib.nifti.write_displacement`, which uses the convention of these programs. |
# | How do I register T1 to T2? ([31](https://github.com/voxelmorph/voxelmorph/issues/31), [201](https://github.com/voxelmorph/voxelmorph/issues/201)) | Use `vxm.losses.MutualInformation`, because NCC expects similar contrast in both images. For an example, see [Four situations](16_situations.ipynb). |
# | How do I train with labels? ([169](https://github.com/voxelmorph/voxelmorph/issues/169), [459](https://github.com/voxelmorph/voxelmorph/issues/459)) | Use the class `VxmDenseSemiSupervisedSeg` of voxelmorph version 0.2, as in [Train with labels](12_labels.ipynb). |
# | Why is my template blank or blurred? ([587](https://github.com/voxelmorph/voxelmorph/issues/587), [589](https://github.com/voxelmorph/voxelmorph/issues/589)) | The usual reason is that the scans were not affinely aligned first. |
# | What do KL and its λ mean? ([150](https://github.com/voxelmorph/voxelmorph/issues/150), [336](https://github.com/voxelmorph/voxelmorph/issues/336)) | `vxm.losses.KL` is the loss of the probabilistic model (`use_probs=True`). It keeps the predicted distribution of velocities close to a smooth prior, and its argument `prior_lambda` sets how smooth the prior is. |
# | Can I improve the result for a single pair? ([546](https://github.com/voxelmorph/voxelmorph/issues/546)) | Yes, with [instance optimisation](13_instance.ipynb). |
# | How do I draw the displacement? ([35](https://github.com/voxelmorph/voxelmorph/issues/35), [557](https://github.com/voxelmorph/voxelmorph/issues/557)) | Draw a warped grid or a map of the determinant ([Jacobian](05_jacobian.ipynb)). |
# | Is there a class for SynthMorph? ([431](https://github.com/voxelmorph/voxelmorph/issues/431), [288](https://github.com/voxelmorph/voxelmorph/issues/288)) | Not in version 0.2, but two models from `ne.models.labels_to_image` can generate the training images for a `VxmDense`. |

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** A colleague's validation Dice is *lower* with the trained network than without
# registration. Which mistakes would you look for first?
#
# <details><summary>Answer</summary>
#
# First check the direction of the displacement, because a displacement applied in the wrong
# direction moves structures further apart. Then check whether the label maps match the images,
# because an affine alignment may have been applied only to the images. Finally, check whether Dice
# is averaged over the same structures with and without registration. None of these mistakes raises
# an error.
#
# </details>
#
# ## Summary
#
# - Check the data first, then the gradient, then the training on one pair, and only then the
#   network.
# - A test with a known displacement quickly reveals a wrong direction, scale or axis order.
# - Many mistakes raise no error, so test each part on a case with a known result.
#
# **Read on:** For verdicts on common advice, see [Check the claims](claims.ipynb).
