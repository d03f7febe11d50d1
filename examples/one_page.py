"""VoxelMorph on one page: train on pairs of brains, register a new pair, measure the result."""

import inspect
import os

# voxelmorph 0.2 was written for Keras 2, and for Python before 3.11.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]

import numpy as np
import tensorflow as tf
import voxelmorph as vxm

path = "brains.npz"
epochs = 10
seed = 0

# Read the images and label maps. The last two subjects are kept for the test.
brains = np.load(path)
images, labels = brains["images"][..., None], brains["labels"][..., None]
train = images[:-2]
shape = images.shape[1:-1]


# Draw pairs without end: inputs (moving, fixed) and targets (fixed, zeros).
def draw_pairs():
    rng = np.random.default_rng(seed)
    zeros = np.zeros((1, *shape, len(shape)), "float32")
    while True:
        moving, fixed = rng.choice(len(train), size=2, replace=False)
        yield (train[[moving]], train[[fixed]]), (train[[fixed]], zeros)


image = tf.TensorSpec((1, *shape, 1))
field = tf.TensorSpec((1, *shape, len(shape)))
signature = (image, image), (image, field)
pairs = tf.data.Dataset.from_generator(draw_pairs, output_signature=signature)

# Build the network and compile it: one loss for each output, and their weights 1 and λ.
tf.keras.utils.set_random_seed(seed)
model = vxm.networks.VxmDense(shape, int_steps=0)
losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
model.compile(tf.keras.optimizers.Adam(5e-4), loss=losses, loss_weights=[1, 1])

# Train.
history = model.fit(pairs, epochs=epochs, steps_per_epoch=40, verbose=2)

# Register the two test subjects, and warp the label map of the moving one.
moving, fixed = images[[-2]], images[[-1]]
warped, displacement = model.predict([moving, fixed], verbose=0)
moving_labels, fixed_labels = labels[[-2]], labels[[-1]]
warp_nearest = vxm.layers.SpatialTransformer(interp_method="nearest")
warped_labels = warp_nearest([moving_labels.astype("float32"), displacement]).numpy()


# Measure the overlap of the structures, and the folding of the displacement.
def dice(a, b):
    shared = [k for k in np.intersect1d(a, b) if k > 0]
    common = [np.sum((a == k) & (b == k)) for k in shared]
    total = [np.sum(a == k) + np.sum(b == k) for k in shared]
    return np.mean(2 * np.divide(common, total))


determinant = vxm.py.utils.jacobian_determinant(displacement[0])
folded = np.mean(determinant[fixed[0, ..., 0] > 0] <= 0)
print(f"Dice before: {dice(moving_labels, fixed_labels):.3f}")
print(f"Dice after:  {dice(warped_labels, fixed_labels):.3f}")
print(f"Folded:      {100 * folded:.3f} % of the brain")
