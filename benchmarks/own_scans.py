"""Measure time, memory and Dice of `vxmlib register` for two simulated heads, at 2 mm and 1 mm.

Each registration runs in a process of its own, so its memory is measured alone. Lesson 10 shows the
record.

    python benchmarks/own_scans.py [--record results/own/limits.json]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vxmlib import records
from vxmlib.book import examples
from vxmlib.scans.settings import SPACINGS, STEPS
from vxmlib.sources import template


def measure(scans, spacing, steps, folder):
    """Register the two heads at one voxel size, and return the measures of the report."""
    command = [sys.executable, "-m", "vxmlib.scans.command", "register"]
    command += [scans["moving"], scans["fixed"], "--out", folder]
    for name in ("moving", "fixed"):
        command += [f"--{name}-labels", scans[f"{name}_labels"]]
    start = time.perf_counter()
    subprocess.run([*command, "--spacing", str(spacing), "--steps", str(steps)], check=True)
    seconds = time.perf_counter() - start
    measured = records.read(folder / "report.json")["metrics"]
    parts = measured["seconds"]
    return {
        "spacing": spacing,
        "grid": list(template.grid(spacing)[0]),
        "seconds": seconds,
        "seconds_align": sum(value for name, value in parts.items() if name.startswith("align")),
        "seconds_network": parts["load the network"] + parts["apply the network"],
        "seconds_optimise": parts.get("optimise", 0.0),
        "seconds_write": parts["write the results"],
        "memory_gb": measured["memory_gb"],
        "dice": float(np.mean(list(measured["dice"].values()))),
        "folding_percent_brain": measured["folding_percent_brain"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="file to write the record to")
    parser.add_argument("--coarse", type=int, default=1, help="factor by which voxels are larger")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--spacings", type=float, nargs="+", default=SPACINGS, choices=SPACINGS)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scans = examples.two_scans(Path(folder) / "scans", coarse=options.coarse)
        rows = [
            measure(scans, spacing, options.steps, Path(folder) / str(spacing))
            for spacing in options.spacings
        ]
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    if options.record:
        from vxmlib.backend import device_summary

        settings = {"steps": options.steps, "coarse": options.coarse}
        record = records.provenance(
            "own_scans",
            cohort="mni",
            profile="full",
            seed=0,
            parameters=settings,
            seconds=time.perf_counter() - start,
            device=device_summary(),
        )
        records.write(options.record, record | {"metrics": {"rows": rows}})


if __name__ == "__main__":
    main()
