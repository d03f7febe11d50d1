"""Time the parts of a training step in this process; training_step.py starts it.

The network is VxmDense with vxmlib's NCC. Each part is a compiled function that is timed alone. The
parts take turns with the whole step, so that a busy machine affects all of them alike.

The last line of the output is the result as JSON.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from step_contenders import LEARNING_RATE, WARM_UP, clock, keras_contender, make_pair, ours

from vxmlib import losses
from vxmlib.backend import tf, vxm
from vxmlib.experiments.plan import load_plan
from vxmlib.pairs import pair_dataset

PLAN = Path(__file__).resolve().parent.parent / "config" / "real.yaml"
WHOLE = "whole step"  # the rows above it in the table are its parts


def make_parts(moving, fixed):
    """Return the parts of a step, each a function without arguments."""
    model = ours(fixed.shape)
    network = tf.keras.Model(model.inputs, model.references.pos_flow)
    warp = vxm.layers.SpatialTransformer(interp_method="linear", indexing="ij")
    ncc, grad = losses.image_loss("ncc"), vxm.losses.Grad("l2").loss
    field = tf.constant(make_field(fixed.shape))
    zero_field = tf.zeros_like(field)
    moving, fixed = (tf.constant(image[None, ..., None]) for image in (moving, fixed))
    warped = warp([moving, field])
    return {
        "network": with_gradient(lambda: network([moving, fixed]), network.trainable_weights),
        "warp": with_gradient(lambda: warp([moving, field]), field),
        "NCC": with_gradient(lambda: ncc(fixed, warped), warped),
        "Grad": with_gradient(lambda: grad(zero_field, field), field),
        "Adam": adam_update(network.trainable_weights),
    }


def make_field(shape):
    """Return a smooth displacement of a few voxels, with a batch axis."""
    texture = [make_pair(shape, seed)[0] for seed in range(1, len(shape) + 1)]
    return 4 * np.stack(texture, axis=-1)[None] - 2


def with_gradient(function, sources):
    """Return the mean of a function and its gradient as a compiled function."""

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = tf.reduce_mean(function())
        return value, tape.gradient(value, sources)

    return compute


def adam_update(weights):
    """Return an update of the weights by Adam as a compiled function."""
    optimizer = tf.keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(weights)
    gradients = [tf.ones_like(weight) for weight in weights]
    return tf.function(lambda: optimizer.apply_gradients(zip(gradients, weights, strict=True)))


def batches(moving, fixed):
    """Return an iterator of batches of one pair, augmented as for the trainings in 3D.

    Nothing is prepared in advance, so the time of a batch is the time of preparing it.
    """
    images = {"moving": moving, "fixed": fixed}
    affine = np.eye(4)
    affine[:3, 3] = (1 - np.array(fixed.shape)) / 2  # x = 0 is the middle of the grid
    people = SimpleNamespace(image=images.get, shape=fixed.shape, affine=affine)
    augment = load_plan(PLAN)["trainings"]["base"].augment
    return iter(pair_dataset(people, [*images], batch_size=1, seed=0, augment=augment, prefetch=0))


def measure(shape, repeats):
    """Time the whole step, its parts and a batch in turns."""
    pair = make_pair(shape)
    whole, works = keras_contender(ours, *pair), make_parts(*pair)
    works |= {WHOLE: whole.step, "preparing a batch": batches(*pair).__next__}
    seconds = {name: [] for name in works}
    for turn in range(WARM_UP + repeats):
        for name, work in works.items():
            taken = clock(work)
            if turn >= WARM_UP:
                seconds[name].append(taken)
    return {
        "seconds": seconds,
        "whole": WHOLE,
        "device": whole.device,
        "versions": whole.versions,
    }


def main():
    """Time the parts for the shape that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps(measure(tuple(options.shape), options.repeats)))


if __name__ == "__main__":
    main()
