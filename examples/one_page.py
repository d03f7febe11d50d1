"""VoxelMorph on one page: train on pairs of brains, register a new pair, measure the result."""

import inspect
import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # voxelmorph 0.2 was written for Keras 2,
inspect.getargspec = lambda f: inspect.getfullargspec(f)[:4]  # and for Python before 3.11

import numpy as np
import tensorflow as tf
import voxelmorph as vxm

# Data: images (n, *shape, 1) in [0, 1] and integer label maps of the same people, aligned affinely.
brains = np.load("brains.npz")
images, labels = brains["images"][..., None], brains["labels"][..., None]
shape, train = images.shape[1:-1], images[:-2]


def batches(rng=np.random.default_rng(0)):
    zeros = np.zeros((1, *shape, len(shape)), "float32")
    while True:
        moving, fixed = rng.choice(len(train), size=2, replace=False)
        yield (train[[moving]], train[[fixed]]), (train[[fixed]], zeros)


image, field = (tf.TensorSpec((1, *shape, channels)) for channels in (1, len(shape)))
pairs = tf.data.Dataset.from_generator(
    batches, output_signature=((image, image), (image, field))
)

# Network and losses: similarity of the images plus λ times the roughness of the displacement.
model = vxm.networks.VxmDense(shape, int_steps=0)
losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
model.compile(tf.keras.optimizers.Adam(5e-4), loss=losses, loss_weights=[1, 1])

# Training.
model.fit(pairs, epochs=10, steps_per_epoch=40, verbose=2)

# Registration of two people who were not trained on; their labels follow the displacement.
warped, displacement = model.predict([images[[-2]], images[[-1]]])
nearest = vxm.layers.SpatialTransformer(interp_method="nearest")
carried = nearest([labels[[-2]].astype("float32"), displacement]).numpy()


def dice(a, b):
    common = [k for k in np.intersect1d(a, b) if k > 0]
    return np.mean([2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()) for k in common])


determinant = vxm.py.utils.jacobian_determinant(displacement[0])
print(f"Dice {dice(labels[-2], labels[-1]):.3f} before, {dice(carried[0], labels[-1]):.3f} after")
print(f"folded: {100 * (determinant <= 0).mean():.3f} % of all voxels")
