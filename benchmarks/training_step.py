"""Compare time, memory and operations of one training step of VoxelMorph networks on a CPU.

Each network trains on one pair of images. Each measurement runs in a new process, so that its peak
memory is its own. The networks take turns, so that a busy machine affects all of them alike. Each
process checks that its training steps lower the loss before it measures any time.

    python benchmarks/training_step.py [--shape 80 96 80] [--peers FOLDER] [--xla] [--json FILE]
    python benchmarks/training_step.py --parts [--shape 80 96 80]
    python benchmarks/training_step.py --grid
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from math import prod
from pathlib import Path

from step_contenders import KERAS, PEERS, XLA

HERE = Path(__file__).resolve().parent
SHAPES = [(80, 96, 80), (160, 192, 160)]  # 2 mm and 1 mm
GRID = [(48, 64, 48), (64, 80, 64), (80, 96, 80), (96, 128, 96), (128, 144, 128), (160, 192, 160)]
GRID_NETWORKS = ("VxmDense, vxmlib's NCC", "strided network")


def run_apart(script, shape, options, name=None):
    """Run a script in a new process without a GPU; return its result, or why it failed."""
    python = options.peers / "bin" / "python" if name in PEERS else sys.executable
    command = [python, "-W", "ignore", HERE / script, *([name] if name else [])]
    command += ["--repeats", str(options.repeats), "--shape", *map(str, shape)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    print(done.stderr, file=sys.stderr)
    return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}


def compare(names, shape, options):
    """Measure networks in turns; return one result for each."""
    turns = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names:
            note(f"{size(shape)}, round {turn + 1} of {options.rounds}: {name}")
            turns[name].append(run_apart("step_contenders.py", shape, options, name))
    return {name: join(results) for name, results in turns.items()}


def join(results):
    """Combine the results of several rounds.

    The best run counts, because other load on the machine can only make a run longer.
    """
    for result in results:
        if "failed" in result:
            return result
    seconds = [value for result in results for value in result["seconds"]]
    joined = results[0] | {
        "seconds": seconds,
        "best_seconds": min(seconds),
        "median_seconds": statistics.median(seconds),
        "peak_gb": max(result["peak_gb"] for result in results),
        "peak_gflops": max(result["peak_gflops"] for result in results),
    }
    joined["gflops"] = joined["gflop"] / joined["best_seconds"]
    joined["share_of_peak"] = joined["gflops"] / joined["peak_gflops"]
    return joined


def measure_steps(options):
    """Compare all networks on each shape."""
    names = [name for name in KERAS if options.xla or not name.endswith(XLA)]
    if options.peers:
        names += PEERS
    else:
        print("The networks in PyTorch are left out: no --peers FOLDER (benchmarks/peers.sh).")
    report = []
    for shape in options.shape or SHAPES:
        networks = compare(names, shape, options)
        first = networks[names[0]].get("best_seconds")
        for result in networks.values():
            if first and "failed" not in result:
                result["speedup"] = first / result["best_seconds"]
        report.append({"shape": shape, "networks": networks})
        show_steps(**report[-1])
    return report


def measure_parts(options):
    """Time the parts of a step on each shape."""
    report = []
    for shape in options.shape or SHAPES:
        note(f"{size(shape)}: the parts of a step")
        results = [run_apart("step_parts.py", shape, options) for _ in range(options.rounds)]
        report.append({"shape": shape} | join_parts(results))
        show_parts(**report[-1])
    return report


def join_parts(results):
    """Combine the times of several rounds, and add the share of each part in the whole step."""
    for result in results:
        if "failed" in result:
            return result
    rows, whole = {}, results[0]["whole"]
    for name in results[0]["seconds"]:
        if name == whole:  # the parts come before it
            parts = [*rows.values()]
            rows["all parts"] = {key: sum(part[key] for part in parts) for key in parts[0]}
        seconds = [value for result in results for value in result["seconds"][name]]
        rows[name] = {"best_seconds": min(seconds), "median_seconds": statistics.median(seconds)}
    for row in rows.values():
        row["share_of_step"] = row["best_seconds"] / rows[whole]["best_seconds"]
    return results[0] | {"rows": rows, "seconds": [result["seconds"] for result in results]}


def measure_grid(options):
    """Measure two networks on shapes of growing size."""
    report = []
    for shape in options.shape or GRID:
        networks = compare(GRID_NETWORKS, shape, options)
        million = prod(shape) / 1e6
        for result in networks.values():
            if "failed" not in result:
                memory = result["peak_gb"] - result["peak_gb_before"]
                result["seconds_per_million"] = result["best_seconds"] / million
                result["gb_per_million"] = memory / million
        report.append({"shape": shape, "networks": networks})
    show_grid(report)
    return report


def show_steps(shape, networks):
    """Print the table of the networks on one shape."""
    columns = ("best s", "median", "speed-up", "weights", "peak GB", "GFLOP", "GFLOP/s", "of peak")
    print(f"\none step on one pair, {size(shape)}")
    print(f"{'':30}" + "".join(f"{column:>9}" for column in columns))
    for name, result in networks.items():
        if "failed" in result:
            print(f"{name:30} failed: {result['failed']}")
            continue
        print(
            f"{name:30}{result['best_seconds']:9.3f}{result['median_seconds']:9.3f}"
            f"{result.get('speedup', float('nan')):9.2f}{result['weights']:9d}"
            f"{result['peak_gb']:9.2f}{result['gflop']:9.0f}{result['gflops']:9.0f}"
            f"{result['share_of_peak']:9.0%}"
        )


def show_parts(shape, rows=None, failed=None, **_):
    """Print the table of the parts of a step on one shape."""
    print(f"\nparts of a step of VxmDense with vxmlib's NCC, {size(shape)}")
    if failed:
        print(f"failed: {failed}")
        return
    print(f"{'':20}{'best s':>9}{'median':>9}{'of step':>9}")
    for name, row in rows.items():
        print(
            f"{name:20}{row['best_seconds']:9.4f}{row['median_seconds']:9.4f}"
            f"{row['share_of_step']:9.1%}"
        )


def show_grid(report):
    """Print one table for each network, with a row for each shape."""
    for name in GRID_NETWORKS:
        print(f"\none step of {name}, by the size of the grid")
        print(f"{'':16}{'million':>9}{'best s':>9}{'per mill.':>11}{'peak GB':>9}{'per mill.':>11}")
        for row in report:
            result, million = row["networks"][name], prod(row["shape"]) / 1e6
            if "failed" in result:
                print(f"{size(row['shape']):16} failed: {result['failed']}")
                continue
            print(
                f"{size(row['shape']):16}{million:9.2f}{result['best_seconds']:9.3f}"
                f"{result['seconds_per_million']:11.3f}{result['peak_gb']:9.2f}"
                f"{result['gb_per_million']:11.2f}"
            )


def size(shape):
    return " x ".join(map(str, shape))


def note(text):
    print(text, file=sys.stderr, flush=True)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shape", type=int, nargs=3, action="append", help="grid of the images; can be repeated"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--parts", action="store_true", help="time the parts of a step instead")
    what.add_argument("--grid", action="store_true", help="compare sizes of the grid instead")
    parser.add_argument("--peers", type=Path, help="environment made by benchmarks/peers.sh")
    parser.add_argument("--xla", action="store_true", help="also with XLA: slow, use small shapes")
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of processes for each network"
    )
    parser.add_argument("--repeats", type=int, default=3, help="number of steps in each process")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    if options.peers and not (options.peers / "bin" / "python").exists():
        parser.error(
            f"--peers: found no bin/python in {options.peers}, expected the environment that "
            f"`sh benchmarks/peers.sh {options.peers}` makes"
        )
    return options


def main():
    """Make the report that the options ask for."""
    options = read_options()
    if options.parts:
        kind, report = "parts", measure_parts(options)
    elif options.grid:
        kind, report = "grid", measure_grid(options)
    else:
        kind, report = "steps", measure_steps(options)
    text = json.dumps({kind: report}, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if '"failed"' in text else 0


if __name__ == "__main__":
    sys.exit(main())
