"""Compare the times of vxmlib and voxelmorph for the local NCC and its gradient.

Both are compiled functions, get the same two images and take turns. Their results must agree before
any time is printed.

    python benchmarks/ncc.py [--shapes 160x160 96x112x96] [--rounds 5] [--json FILE]
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from scipy.ndimage import gaussian_filter

from vxmlib.backend import device_summary, tf, versions, vxm
from vxmlib.losses import LocalNCC

TARGET_3D = 5.0  # vxmlib should be at least this many times faster in 3D


def make_images(shape, seed=0):
    """Return a smooth texture in [0, 1], black on one side, and a shifted copy: (1, *shape, 1)."""
    texture = gaussian_filter(np.random.default_rng(seed).random(shape), 1)
    texture = ((texture - texture.min()) / np.ptp(texture)) ** 2
    texture[: shape[0] // 8] = 0
    fixed = texture.astype(np.float32)[None, ..., None]
    return fixed, np.roll(fixed, 1, axis=2)


def compiled(loss):
    @tf.function
    def loss_and_gradient(fixed, warped):
        with tf.GradientTape() as tape:
            tape.watch(warped)
            value = tf.reduce_mean(loss(fixed, warped))
        return value, tape.gradient(value, warped)

    return loss_and_gradient


def measure(shape, rounds):
    """Return the best wall and CPU seconds of both, and how far their gradients differ."""
    images = [tf.constant(image) for image in make_images(shape)]
    ways = {
        "voxelmorph": compiled(vxm.losses.NCC().loss),
        "vxmlib": compiled(LocalNCC().loss),
    }
    (value, gradient), (other_value, other_gradient) = (way(*images) for way in ways.values())
    apart = float(tf.norm(gradient - other_gradient) / tf.norm(gradient))
    if apart > 1e-4 or abs(float(value - other_value)) > 1e-5:
        sys.exit(
            f"the two losses differ on grid {shape}; relative difference of the gradients: "
            f"{apart:.1e}"
        )

    wall, cpu = {name: [] for name in ways}, {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            clocks = perf_counter(), process_time()
            way(*images)[1].numpy()
            wall[name].append(perf_counter() - clocks[0])
            cpu[name].append(process_time() - clocks[1])
    best = {name: {"seconds": min(wall[name]), "cpu_seconds": min(cpu[name])} for name in ways}
    theirs, ours = best["voxelmorph"], best["vxmlib"]
    return {
        "shape": list(shape),
        **best,
        "speedup": theirs["seconds"] / ours["seconds"],
        "cpu_speedup": theirs["cpu_seconds"] / ours["cpu_seconds"],
        "gradients_apart": apart,
    }


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["160x160", "80x96x80", "96x112x96"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    print(f"{device_summary()}; best of {arguments.rounds} rounds, loss + gradient, window 9")
    print(f"{'grid':>14} {'voxelmorph s':>13} {'vxmlib s':>9} {'ratio':>6} {'ratio, CPU s':>13}")
    results = []
    for text in arguments.shapes:
        result = measure(tuple(int(n) for n in text.split("x")), arguments.rounds)
        results.append(result)
        print(
            f"{text:>14} {result['voxelmorph']['seconds']:13.4f} "
            f"{result['vxmlib']['seconds']:9.4f} {result['speedup']:6.1f} "
            f"{result['cpu_speedup']:13.1f}",
            flush=True,
        )
    met = all(r["speedup"] >= TARGET_3D for r in results if len(r["shape"]) == 3)
    print(f"at least {TARGET_3D:g} times faster in 3D: {'yes' if met else 'NO'}")
    if arguments.json:
        report = {"device": device_summary(), "versions": versions(), "met": met}
        arguments.json.write_text(json.dumps(report | {"results": results}, indent=1))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
