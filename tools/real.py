"""Train networks and compare methods on real subjects in 3D, as planned in ``config/real.yaml``.

    python -m tools.real train ncc          # continues where it was stopped
    python -m tools.real ablate             # the short training runs on slices
    python -m tools.real ablate probabilistic   # those of the probabilistic network
    python -m tools.real ablate labels      # those with labels
    python -m tools.real measure ncc        # on the test subjects; --part selects other pairs
    python -m tools.real measure greedy --part atlas  # each test subject to the atlas
    python -m tools.real watch ncc-instance # after each step, on validation subjects
    python -m tools.real repeat             # after each pass, on validation subjects
    python -m tools.real times              # times all methods in turn, in one process
    python -m tools.real all                # everything; `make full` runs this

A result is not computed again if it has a record that belongs to the current settings and weights.
Records and trained weights are written to ``results/malf``, and everything else to ``_build/real``.
"""

import argparse
from pathlib import Path

from vxmlib.experiments import benchmark
from vxmlib.experiments.plan import load_plan

CODE = Path(__file__).resolve().parent.parent
PARTS = ("validation", "test", "repeats", "few", "atlas")


def main() -> None:
    """Run the command that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "command", choices=["train", "ablate", "measure", "watch", "repeat", "times", "all"]
    )
    parser.add_argument("name", nargs="?", help="a run, method or part of config/real.yaml")
    parser.add_argument("--part", default="test", choices=PARTS)
    parser.add_argument("--build", type=Path, default=CODE / "_build" / "real")
    parser.add_argument("--results", type=Path, default=CODE / "results" / "malf")
    options = parser.parse_args()
    name, build, results = options.name, options.build, options.results
    try:
        plan = load_plan(CODE / "config" / "real.yaml")
        work = {
            "train": lambda: benchmark.train(plan, name, build, results),
            "ablate": lambda: benchmark.ablate(plan, build, results, name or "ablation"),
            "measure": lambda: benchmark.measure(plan, name, options.part, build, results),
            "watch": lambda: benchmark.watch(plan, name, results),
            "repeat": lambda: benchmark.repeat(plan, results),
            "times": lambda: benchmark.times(plan, results),
            "all": lambda: benchmark.make_all(plan, build, results),
        }
        work[options.command]()
    except benchmark.FAILURES as error:
        parser.exit(1, f"ERROR: {error}\n")


if __name__ == "__main__":
    main()
