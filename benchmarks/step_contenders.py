"""Measure the training step of one network in this process; training_step.py starts it.

The networks of voxelmorph 0.2 and vxmlib run in TensorFlow. Those of voxelmorph 0.3 and MONAI run
in PyTorch, in an environment that has no TensorFlow. This module therefore imports only NumPy and
SciPy, and each function imports its framework.

The last line of the output is the result as JSON.
"""

import argparse
import json
import sys
from functools import partial
from importlib import metadata
from math import isfinite, prod
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from evaluation import peak_gb
from scipy.ndimage import gaussian_filter

LEARNING_RATE = 1e-4  # the paper's; λ is 1, its value for NCC
WARM_UP = 3  # steps before those that are timed: the first ones trace the network
PRODUCT = 2048  # rows and columns of the matrices whose product gives the processor's peak


class Contender(NamedTuple):
    """What is measured of one network that trains on one pair."""

    step: Any  # takes a training step and returns the loss before it
    weights: Any  # returns the trainable weights as a list of arrays
    flops: Any  # returns the operations of the network's convolutions, forward
    product: Any  # multiplies two square matrices in the precision of the convolutions
    device: str
    versions: dict


def make_pair(shape, seed=0):
    """Return a smooth texture in [0, 1] that is shifted by one voxel, and the texture."""
    texture = gaussian_filter(np.random.default_rng(seed).random(shape, np.float32), 2)
    texture = (texture - texture.min()) / np.ptp(texture)
    return np.roll(texture, 1, axis=1), texture


def stock(shape):
    """Return VxmDense with the losses of voxelmorph 0.2, without any code of vxmlib."""
    from vxmlib.backend import tf, vxm

    model = vxm.networks.VxmDense(shape, int_steps=0)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(LEARNING_RATE),
        loss=[vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss],
        loss_weights=[1.0, 1.0],
    )
    return model


def ours(shape, network="vxm", features="vxm2", precision="float32"):
    """Return the network that vxmlib builds, whose loss is its own NCC."""
    from vxmlib import models
    from vxmlib.networks import network_class
    from vxmlib.networks.precision import layers_in

    with layers_in(precision):
        return models.build(
            shape,
            network=network_class(network),
            features=features,
            learning_rate=LEARNING_RATE,
        )


def keras_contender(build, moving, fixed, xla=False):
    """Prepare a compiled Keras model and one pair of images."""
    from vxmlib.backend import device_summary, set_seed, tf, versions

    set_seed(0)
    model = build(moving.shape)
    model.jit_compile = xla
    inputs = [tf.constant(image[None, ..., None]) for image in (moving, fixed)]
    targets = [inputs[1], tf.zeros((1, *fixed.shape, fixed.ndim))]
    precision = convolutions(model)[0].compute_dtype
    square = tf.cast(tf.random.uniform((PRODUCT, PRODUCT)), precision)
    return Contender(
        step=lambda: float(model.train_on_batch(inputs, targets, return_dict=True)["loss"]),
        weights=lambda: [weight.numpy() for weight in model.trainable_weights],
        flops=lambda: convolution_flops(model),
        product=lambda: tf.matmul(square, square),
        device=device_summary(),
        versions=versions(),
    )


def convolutions(model):
    """Return the convolutions of a Keras model."""
    from vxmlib.backend import tf

    kinds = (tf.keras.layers.Conv2D, tf.keras.layers.Conv3D)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def convolution_flops(model):
    """Count the operations of a Keras model's convolutions, two for each multiply-add."""
    return sum(
        2 * prod(layer.output_shape[1:-1]) * prod(layer.kernel.shape)
        for layer in convolutions(model)
    )


def peer_voxelmorph(moving, fixed):
    """Prepare the network and losses of voxelmorph 0.3, with the filters of VxmDense's encoder.

    Its default is five levels of 16 filters, which needs sizes that are divisible by 32.
    """
    import neurite
    import voxelmorph

    network = voxelmorph.nn.models.VxmPairwise(
        ndim=fixed.ndim,
        source_channels=1,
        target_channels=1,
        nb_features=(16, 32, 32, 32),
        integration_steps=0,
    )
    ncc = neurite.nn.modules.NCC()
    smoothness = neurite.nn.modules.SpatialGradient("l2")

    def loss(moving, fixed):
        displacement, warped = network(moving, fixed, return_warped_source=True)
        return smoothness(displacement) - ncc(fixed, warped).mean()

    return torch_contender(network, loss, moving, fixed, ("voxelmorph", "neurite"))


def peer_monai(moving, fixed):
    """Prepare the network and losses of MONAI."""
    import monai

    network = monai.networks.nets.VoxelMorph(integration_steps=0, spatial_dims=fixed.ndim)
    ncc = monai.losses.LocalNormalizedCrossCorrelationLoss(fixed.ndim, kernel_size=9)
    smoothness = monai.losses.DiffusionLoss()

    def loss(moving, fixed):
        warped, displacement = network(moving, fixed)
        return ncc(warped, fixed) + smoothness(displacement)

    return torch_contender(network, loss, moving, fixed, ("monai",))


def torch_contender(network, loss, moving, fixed, packages):
    """Prepare a PyTorch network, the loss of a pair and one pair of images."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    pair = [torch.from_numpy(np.ascontiguousarray(image))[None, None] for image in (moving, fixed)]
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    square = torch.rand(PRODUCT, PRODUCT)

    def step():
        optimizer.zero_grad()
        value = loss(*pair)
        value.backward()
        optimizer.step()
        return value.item()

    def flops():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*pair)
        return counter.get_total_flops()

    return Contender(
        step=step,
        weights=lambda: [weight.detach().numpy().copy() for weight in network.parameters()],
        flops=flops,
        product=lambda: torch.matmul(square, square),
        device=f"CPU, {torch.get_num_threads()} threads",
        versions={name: metadata.version(name) for name in ("torch", *packages)},
    )


BFLOAT16 = {"precision": "mixed_bfloat16"}
STRIDED = {"network": "strided", "features": "vxm1"}  # as in config/real.yaml
NETWORKS = {
    "VxmDense, voxelmorph's NCC": stock,
    "VxmDense, vxmlib's NCC": ours,
    "VxmDense, bfloat16": partial(ours, **BFLOAT16),
    "strided network": partial(ours, **STRIDED),
    "strided network, bfloat16": partial(ours, **STRIDED, **BFLOAT16),
}
XLA = ", XLA"  # ends the name of a network that is compiled with XLA
KERAS = {name: partial(keras_contender, build) for name, build in NETWORKS.items()}
KERAS |= {name + XLA: partial(make, xla=True) for name, make in KERAS.items()}
PEERS = {"voxelmorph 0.3, PyTorch": peer_voxelmorph, "MONAI, PyTorch": peer_monai}


def measure(name, shape, repeats):
    """Train one network for some steps; return times, memory, operations and peak."""
    contender = (KERAS | PEERS)[name](*make_pair(shape))
    before, memory_before = contender.weights(), peak_gb()
    losses = [contender.step() for _ in range(WARM_UP)]
    check_learns(losses, before, contender.weights())
    seconds = [clock(contender.step) for _ in range(repeats)]
    memory = peak_gb()
    return {
        "losses": losses,
        "seconds": seconds,
        "peak_gb_before": memory_before,
        "peak_gb": memory,
        "weights": sum(weight.size for weight in before),
        "gflop": 3 * contender.flops() / 1e9,  # forward, and the gradients of inputs and weights
        "peak_gflops": 2 * PRODUCT**3 / 1e9 / best(contender.product),
        "device": contender.device,
        "versions": contender.versions,
    }


def check_learns(losses, before, after):
    """Check that the steps lower a finite loss and change every tensor of weights."""
    if not all(map(isfinite, losses)) or losses[-1] >= losses[0]:
        sys.exit(f"the loss of {len(losses)} steps on one pair does not fall: {losses}")
    if any((old == new).all() for old, new in zip(before, after, strict=True)):
        sys.exit("a training step leaves some weights as they were")


def clock(work):
    """Return the seconds that a function takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


def best(work, repeats=5):
    """Return the shortest time of a function after a first call."""
    return min([clock(work) for _ in range(repeats + 1)][1:])


def main():
    """Measure the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*KERAS, *PEERS])
    parser.add_argument("--shape", type=int, nargs=3, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps(measure(options.name, tuple(options.shape), options.repeats)))


if __name__ == "__main__":
    main()
