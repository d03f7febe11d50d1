"""Compare time and memory of vxmlib and of one-hot encoding for the evaluation of one pair.

All methods get the same two label maps of 30 structures and the same displacement. They compute the
nearest-neighbour warp, 30 Dice values and the map of Jacobian determinants. Each measurement runs
in a new process, so that its peak memory is its own. The methods take turns, so that a busy machine
affects all of them alike. The results are compared before any time is printed.

    python benchmarks/evaluation.py [--shape 160 192 224] [--rounds 3] [--repeats 3] [--json FILE]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

# The 30 structures of the VoxelMorph papers, in FreeSurfer's numbers.
STRUCTURES = [2, 3, 4, 7, 8, *range(10, 19), 24, 28, 31, 41, 42, 43, 46, 47, *range(49, 55), 60, 63]
COARSE = 8  # the pair is generated on a grid coarser by this factor and then enlarged
TARGETS = {"seconds": 1.5, "peak_gb": 2.0, "speedup": 8.0}


def make_pair(shape, seed=0):
    """Return two label maps with a brain-like share of background and a smooth displacement."""
    rng = np.random.default_rng(seed)

    def smooth(sigma):
        coarse = [-(-n // COARSE) for n in shape]
        noise = gaussian_filter(rng.normal(size=coarse), sigma)
        full = zoom(noise / noise.std(), COARSE, order=1, output=np.float32)
        return full[tuple(slice(n) for n in shape)]

    def labels():
        centred = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
        brain = sum(axis**2 for axis in centred) < 0.6
        order = smooth(1.0)
        edges = np.quantile(order[brain], np.linspace(0, 1, len(STRUCTURES) + 1)[1:-1])
        return np.where(brain, np.array(STRUCTURES, np.int16)[np.digitize(order, edges)], 0)

    displacement = np.stack([2.0 * smooth(2.0) for _ in shape], axis=-1)
    return labels().astype(np.int16), labels().astype(np.int16), displacement


def vxmlib_way():
    """Return vxmlib's evaluation: integer labels, one joint histogram, determinants in slabs."""
    from vxmlib import metrics, warp

    def evaluate(moving, fixed, displacement):
        overlap = metrics.dice(warp.warp_labels(moving, displacement), fixed, STRUCTURES)
        return list(overlap.values()), metrics.jacobian_determinant(displacement)

    return evaluate


def one_hot_first():
    """Return the common evaluation: one channel per label, all warped, and Dice by channel.

    The determinants are voxelmorph's. TensorFlow makes and sums the channels because it is faster
    than NumPy on two cores, and the comparison should be fair to this method.
    """
    from vxmlib.backend import tf, vxm

    layer = vxm.layers.SpatialTransformer(interp_method="nearest", fill_value=None)

    def evaluate(moving, fixed, displacement):
        warped = layer([one_hot(tf, moving)[None], displacement[None]])[0]
        overlap = channel_dice(tf, warped, one_hot(tf, fixed))
        return overlap, vxm.py.utils.jacobian_determinant(displacement)

    return evaluate


def one_hot_last():
    """Return a cheaper form of it: warp the integer map, then make one channel per label."""
    from vxmlib.backend import tf, vxm

    layer = vxm.layers.SpatialTransformer(interp_method="nearest", fill_value=None)

    def evaluate(moving, fixed, displacement):
        image = moving[None, ..., None].astype(np.float32)
        warped = layer([image, displacement[None]])[0, ..., 0].numpy().astype(np.int16)
        overlap = channel_dice(tf, one_hot(tf, warped), one_hot(tf, fixed))
        return overlap, vxm.py.utils.jacobian_determinant(displacement)

    return evaluate


def one_hot(tf, labels):
    """Encode the background and the 30 structures as float32 channels, as the layers need them."""
    number = np.zeros(max(STRUCTURES) + 1, np.int32)
    number[STRUCTURES] = np.arange(1, len(STRUCTURES) + 1)
    return tf.one_hot(number[labels], len(STRUCTURES) + 1)


def channel_dice(tf, a, b):
    """Return the Dice of each channel except the background."""
    axes = list(range(a.ndim - 1))
    top, bottom = 2 * tf.reduce_sum(a * b, axes), tf.reduce_sum(a + b, axes)
    return (top / bottom).numpy()[1:]


WAYS = {"vxmlib": vxmlib_way, "one-hot first": one_hot_first, "one-hot last": one_hot_last}


def measure(way, shape, repeats, answers):
    """Run one method in this process: return times and peak memory, write its results to a file."""
    pair = make_pair(shape)
    evaluate = WAYS[way]()
    result = {"seconds": [], "cpu_seconds": [], "peak_gb_before": peak_gb()}
    for _ in range(repeats):
        start, cpu_start = perf_counter(), process_time()
        overlap, determinant = evaluate(*pair)
        result["seconds"].append(perf_counter() - start)
        result["cpu_seconds"].append(process_time() - cpu_start)
    np.savez(answers, overlap=overlap, determinant=determinant)
    return result | {"peak_gb": peak_gb()}


def peak_gb():
    """Return the peak memory of this process so far, in GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def run_apart(way, options, folder):
    """Measure one method in a new process."""
    answers = Path(folder) / f"{way}.npz"
    command = [sys.executable, __file__, "--way", way, "--answers", str(answers)]
    command += ["--repeats", str(options.repeats), "--shape", *map(str, options.shape)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout), dict(np.load(answers))


def compare(options):
    """Measure all methods in turns, and add the ratios of their times to that of vxmlib."""
    turns, answers = {way: [] for way in WAYS}, {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for way in WAYS:
                print(f"round {turn + 1} of {options.rounds}: {way}", file=sys.stderr, flush=True)
                result, answers[way] = run_apart(way, options, folder)
                turns[way].append(result)
    check_answers(answers)
    report = {way: join(results) for way, results in turns.items()}
    for name in ("seconds", "cpu_seconds"):
        for way in WAYS:
            ratio = report[way][f"best_{name}"] / report["vxmlib"][f"best_{name}"]
            report[way][f"times_vxmlib_{name}"] = ratio
    return {"shape": options.shape, "structures": len(STRUCTURES), "targets": TARGETS} | report


def check_answers(answers):
    """Check that all methods agree; otherwise their times must not be compared."""
    for way in WAYS:
        for name, tolerance in (("overlap", 1e-5), ("determinant", 1e-4)):
            ours, expected = answers["vxmlib"][name], answers[way][name]
            np.testing.assert_allclose(ours, expected, atol=tolerance, err_msg=f"{way} {name}")


def join(results):
    """Combine the results of several rounds.

    The best run counts, because other load on the machine can only make a run longer.
    """
    seconds = [value for result in results for value in result["seconds"]]
    cpu_seconds = [value for result in results for value in result["cpu_seconds"]]
    return {
        "best_seconds": min(seconds),
        "median_seconds": statistics.median(seconds),
        "best_cpu_seconds": min(cpu_seconds),
        "peak_gb": max(result["peak_gb"] for result in results),
        "peak_gb_before": max(result["peak_gb_before"] for result in results),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def show(report):
    """Print the table and whether the targets are met."""
    print(f"one pair, {' x '.join(map(str, report['shape']))}, {report['structures']} structures")
    print(
        f"{'':14} {'best s':>7} {'median':>7} {'ratio':>6} {'CPU s':>7} {'ratio':>6} {'peak GB':>8}"
    )
    for way in WAYS:
        result = report[way]
        print(
            f"{way:14} {result['best_seconds']:7.2f} {result['median_seconds']:7.2f} "
            f"{result['times_vxmlib_seconds']:6.1f} {result['best_cpu_seconds']:7.2f} "
            f"{result['times_vxmlib_cpu_seconds']:6.1f} {result['peak_gb']:8.2f}"
        )
    ours = report["vxmlib"]
    met = (
        ours["best_seconds"] <= TARGETS["seconds"]
        and ours["peak_gb"] <= TARGETS["peak_gb"]
        and report["one-hot first"]["times_vxmlib_seconds"] >= TARGETS["speedup"]
    )
    print(f"targets {TARGETS}: {'met' if met else 'NOT met'}")


def main():
    """Compare all methods, or measure the one that the parent process names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 192, 224])
    parser.add_argument("--rounds", type=int, default=3, help="number of processes for each method")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs in each process")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.shape, options.repeats, options.answers)))
        return
    report = compare(options)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
